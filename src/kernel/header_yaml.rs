//! The YAML of a kernel header as it is written, and where it is in the file.
//!
//! Knows the keys and their kinds only; `header_reader` checks the values. Reads every form of a list: `a, b` on one line, a YAML
//! list, and `{x: a, y: b}`.

use indexmap::IndexMap;
use serde::Deserialize;
use serde_yaml::Spanned;

use super::error::HeaderError;
use super::header::CompileOptions;
use super::header_comment::{HeaderComment, find_header};
use super::yaml_values::{ListYaml, OneOrMany, ScalarYaml, read_truth};
use crate::base::Failure;
use crate::base::yaml::read_header;
use crate::task::DType;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderYaml {
    pub(super) launch: Spanned<OneOrMany<LaunchYaml>>,
    #[serde(default)]
    pub(super) tunables: Option<IndexMap<String, Spanned<ListYaml>>>,
    #[serde(default)]
    pub(super) constraints: Option<Spanned<ListYaml>>,
    #[serde(default)]
    pub(super) variants: Option<Spanned<OneOrMany<VariantYaml>>>,
    #[serde(default)]
    pub(super) scratch: Option<IndexMap<String, Spanned<ScratchYaml>>>,
    #[serde(default)]
    pub(super) tensor_maps: Option<IndexMap<String, Spanned<TensorMapYaml>>>,
    #[serde(default)]
    pub(super) compile: Option<CompileOptions>,
}

/// `when`, and values of tunables.
pub(super) type VariantYaml = IndexMap<String, Spanned<ScalarYaml>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LaunchYaml {
    pub(super) kernel: Spanned<String>,
    pub(super) grid: Spanned<ListYaml>,
    pub(super) block: Spanned<ListYaml>,
    #[serde(default)]
    pub(super) shared: Option<Spanned<ScalarYaml>>,
    #[serde(default)]
    pub(super) cluster: Option<Spanned<ListYaml>>,
    #[serde(default, deserialize_with = "read_truth")]
    pub(super) cooperative: bool,
    #[serde(default, deserialize_with = "read_truth")]
    pub(super) overlap: bool,
    #[serde(default)]
    pub(super) when: Option<Spanned<ScalarYaml>>,
    pub(super) args: Spanned<ListYaml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScratchYaml {
    pub(super) dtype: DType,
    pub(super) shape: Spanned<ListYaml>,
    #[serde(default, deserialize_with = "read_truth")]
    pub(super) zero: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TensorMapYaml {
    pub(super) of: Spanned<String>,
    pub(super) dims: Spanned<ListYaml>,
    pub(super) strides: Spanned<ListYaml>,
    #[serde(rename = "box")]
    pub(super) tile: Spanned<ListYaml>,
    #[serde(default)]
    pub(super) swizzle: u32,
}

/// Reads the header of a kernel file. The number is that of the lines before the YAML.
pub(super) fn read_header_yaml(text: &str) -> Result<(HeaderYaml, u32), HeaderError> {
    let HeaderComment {
        body, lines_before, ..
    } = find_header(text)?;
    let body = &text[body];
    let yaml = read_header(body, lines_before)
        .map_err(|failure| yaml_error(&failure, body, lines_before))?;
    Ok((yaml, lines_before))
}

/// The message of the YAML reader is `kernel:LINE:COLUMN: MESSAGE` and an excerpt; only the line and the message are kept.
fn yaml_error(failure: &Failure, body: &str, lines_before: u32) -> HeaderError {
    let mut parts = failure.message.splitn(4, ':').skip(1);
    let line: Option<u32> = parts.next().and_then(|line| line.parse().ok());
    let message = parts
        .nth(1)
        .and_then(|message| message.lines().next())
        .map_or(failure.message.as_str(), str::trim_start);
    let line = line.unwrap_or(1);
    // Other messages name the key already.
    let key = (!message.contains('`') || message.starts_with("expected"))
        .then(|| key_of_line(body, line.saturating_sub(lines_before)))
        .flatten();
    let Some(key) = key else {
        return HeaderError {
            hint: failure.hint.clone(),
            ..HeaderError::new(line, message)
        };
    };
    let error = HeaderError::new(line, format!("`{key}`: {message}"));
    match written_form(key) {
        Some(form) => error.hint(format!("write it as `{form}`")),
        None => HeaderError {
            hint: failure.hint.clone(),
            ..error
        },
    }
}

/// The last key before the end of a line, counted from 1.
fn key_of_line(body: &str, line: u32) -> Option<&str> {
    let lines: Vec<_> = body.lines().take(line as usize).collect();
    lines.iter().rev().find_map(|text| {
        let text = text.trim_start().trim_start_matches("- ");
        let (key, _) = text.split_once(':')?;
        let is_key = !key.is_empty()
            && key
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
        is_key.then_some(key)
    })
}

/// How a key is written, for a hint.
fn written_form(key: &str) -> Option<&'static str> {
    Some(match key {
        "launch" => "launch:` and below it `  - kernel: NAME",
        "grid" => "grid: ceil_div(rows, 4), 2",
        "block" => "block: 256, 1, 1",
        "cluster" => "cluster: 2, 1, 1",
        "args" => "args: x, output, i32(rows * columns), 1e-5",
        "shared" => "shared: 4 * ROWS",
        "tunables" => "ROWS: [4, 2, 8]",
        "constraints" => "constraints: ROWS % BATCH == 0, 32 * WARPS <= 1024",
        "variants" => "- {when: rows <= 4, ROWS: 1}",
        "scratch" => "partial: {dtype: float32, shape: \"rows, 16\"}",
        _ => return None,
    })
}
