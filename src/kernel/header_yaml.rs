//! The YAML of a kernel header as it is written, and where it is in the file.
//!
//! Knows the keys and their kinds only; `header_reader` checks the values.

use indexmap::IndexMap;
use serde::Deserialize;
use serde_yaml::Spanned;

use super::error::HeaderError;
use super::header::CompileOptions;
use crate::base::Failure;
use crate::base::yaml::read_with_line;
use crate::task::DType;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeaderYaml {
    pub(super) launch: Vec<Spanned<LaunchYaml>>,
    #[serde(default)]
    pub(super) tunables: IndexMap<String, Spanned<Vec<i64>>>,
    #[serde(default)]
    pub(super) variants: Vec<Spanned<IndexMap<String, Spanned<String>>>>,
    #[serde(default)]
    pub(super) scratch: IndexMap<String, Spanned<ScratchYaml>>,
    #[serde(default)]
    pub(super) tensor_maps: IndexMap<String, Spanned<TensorMapYaml>>,
    #[serde(default)]
    pub(super) compile: CompileOptions,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LaunchYaml {
    pub(super) kernel: Spanned<String>,
    pub(super) grid: Spanned<String>,
    pub(super) block: Spanned<String>,
    #[serde(default)]
    pub(super) shared: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) cluster: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) cooperative: bool,
    #[serde(default)]
    pub(super) overlap: bool,
    #[serde(default)]
    pub(super) when: Option<Spanned<String>>,
    pub(super) args: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScratchYaml {
    pub(super) dtype: DType,
    pub(super) shape: Spanned<String>,
    #[serde(default)]
    pub(super) zero: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TensorMapYaml {
    pub(super) of: Spanned<String>,
    pub(super) dims: Spanned<String>,
    pub(super) strides: Spanned<String>,
    #[serde(rename = "box")]
    pub(super) tile: Spanned<String>,
    #[serde(default)]
    pub(super) swizzle: u32,
}

/// Reads the header of a kernel file. The number is that of the lines before the YAML.
pub(super) fn read_header_yaml(text: &str) -> Result<(HeaderYaml, u32), HeaderError> {
    let (body, lines_before) = header_comment(text)?;
    let yaml =
        read_with_line(body, "kernel", lines_before).map_err(|failure| yaml_error(&failure))?;
    Ok((yaml, lines_before))
}

/// The YAML of the header comment, and the number of lines before it.
fn header_comment(text: &str) -> Result<(&str, u32), HeaderError> {
    let missing = |message: &str| {
        HeaderError::new(1, message).hint(
            "a kernel file starts with `/* kforge`, the launches in YAML, and `*/`: see `kernels/` for examples",
        )
    };
    let start = text.len() - text.trim_start().len();
    let Some(rest) = text[start..]
        .strip_prefix("/*")
        .filter(|rest| rest.trim_start_matches([' ', '\t']).starts_with("kforge"))
    else {
        return Err(missing(
            "no header: the first comment does not start with `/* kforge`",
        ));
    };
    let Some(end) = rest.find("*/") else {
        return Err(missing("the header comment is not closed by `*/`"));
    };
    let comment = &rest[..end];
    let Some((first, body)) = comment.split_once('\n') else {
        return Err(missing("the header is empty"));
    };
    if first.trim() != "kforge" {
        return Err(missing(
            "the first line of the header has more than `kforge`",
        ));
    }
    let lines_before = text[..start].matches('\n').count() + 1;
    Ok((body, lines_before as u32))
}

/// The message of the YAML reader is `kernel:LINE:COLUMN: MESSAGE` and an excerpt; only the line and the message are kept.
fn yaml_error(failure: &Failure) -> HeaderError {
    let mut parts = failure.message.splitn(4, ':').skip(1);
    let line = parts.next().and_then(|line| line.parse().ok());
    let message = parts
        .nth(1)
        .and_then(|message| message.lines().next())
        .map_or(failure.message.as_str(), str::trim_start);
    HeaderError {
        hint: failure.hint.clone(),
        ..HeaderError::new(line.unwrap_or(1), message)
    }
}
