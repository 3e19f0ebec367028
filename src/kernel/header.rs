//! The header of a kernel file: the YAML in its first comment, typed and checked against the definition (DESIGN section 4).
//!
//! The whole grammar is read here, also what a backend cannot do yet: refusing that by name is the backend's. Never evaluates.

use indexmap::IndexMap;
use serde::Deserialize;
use serde_yaml::Spanned;

use super::HeaderError;
use crate::base::expression::{Expression, split_list};
use crate::base::text::did_you_mean;
use crate::base::yaml;
use crate::task::{DType, Definition};

/// Names that every expression may use besides axes and tunables.
pub(super) const DEVICE_LIMIT_NAMES: [&str; 2] = ["sm_count", "max_shared_bytes"];

/// The most tunables: far more than any kernel has use for.
const MAX_TUNABLES: usize = 64;
/// The most values of one tunable: far beyond any list that a search could try.
const MAX_TUNABLE_VALUES: usize = 1000;

/// A checked header. Every line is the kernel file's own, counted from 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    pub launches: Vec<LaunchHeader>,
    /// Allowed values; the first is in force.
    pub tunables: IndexMap<String, Vec<i64>>,
    /// Where each tunable's list begins: line, and column counted from 1.
    pub(super) tunable_locations: IndexMap<String, (u32, u32)>,
    pub variants: Vec<Variant>,
    pub scratch: IndexMap<String, ScratchHeader>,
    pub tensor_maps: IndexMap<String, TensorMapHeader>,
    pub compile: CompileOptions,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LaunchHeader {
    pub line: u32,
    /// A C++ expression that names a `__global__` function.
    pub kernel: String,
    /// One to three.
    pub grid: Vec<LocatedExpression>,
    /// One to three.
    pub block: Vec<LocatedExpression>,
    /// Dynamic shared memory in bytes.
    pub shared: Option<LocatedExpression>,
    pub cluster: Vec<LocatedExpression>,
    pub cooperative: bool,
    pub overlap: bool,
    pub when: Option<LocatedExpression>,
    pub arguments: Vec<ArgumentHeader>,
}

/// An expression and its line.
#[derive(Clone, Debug, PartialEq)]
pub struct LocatedExpression {
    pub line: u32,
    pub expression: Expression,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ArgumentHeader {
    /// An input with a shape, an output, or scratch: by name.
    Tensor(String),
    /// An input without a shape, by value.
    Scalar(String),
    TensorMap(String),
    I32(LocatedExpression),
    U32(LocatedExpression),
    I64(LocatedExpression),
}

/// Other values for the tunables where a condition holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    pub when: LocatedExpression,
    pub values: IndexMap<String, i64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ScratchHeader {
    pub dtype: DType,
    pub shape: Vec<LocatedExpression>,
    pub zero: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TensorMapHeader {
    pub line: u32,
    pub of: String,
    pub dims: Vec<LocatedExpression>,
    pub strides: Vec<LocatedExpression>,
    pub tile: Vec<LocatedExpression>,
    pub swizzle: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompileOptions {
    pub fast_math: bool,
    pub max_registers: Option<u32>,
    /// For example `sm_90a`.
    pub arch: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderYaml {
    launch: Vec<Spanned<LaunchYaml>>,
    #[serde(default)]
    tunables: IndexMap<String, Spanned<Vec<i64>>>,
    #[serde(default)]
    variants: Vec<Spanned<IndexMap<String, Spanned<String>>>>,
    #[serde(default)]
    scratch: IndexMap<String, Spanned<ScratchYaml>>,
    #[serde(default)]
    tensor_maps: IndexMap<String, Spanned<TensorMapYaml>>,
    #[serde(default)]
    compile: CompileOptions,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LaunchYaml {
    kernel: Spanned<String>,
    grid: Spanned<String>,
    block: Spanned<String>,
    #[serde(default)]
    shared: Option<Spanned<String>>,
    #[serde(default)]
    cluster: Option<Spanned<String>>,
    #[serde(default)]
    cooperative: bool,
    #[serde(default)]
    overlap: bool,
    #[serde(default)]
    when: Option<Spanned<String>>,
    args: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScratchYaml {
    dtype: DType,
    shape: Spanned<String>,
    #[serde(default)]
    zero: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorMapYaml {
    of: Spanned<String>,
    dims: Spanned<String>,
    strides: Spanned<String>,
    #[serde(rename = "box")]
    tile: Spanned<String>,
    #[serde(default)]
    swizzle: u32,
}

/// The YAML of the header comment, and the number of lines before it.
pub(super) fn header_comment(text: &str) -> Result<(&str, u32), HeaderError> {
    let missing = |line, message: &str| {
        HeaderError {
        line,
        message: message.to_owned(),
        hint: Some("a kernel file begins with `/* kforge`, the launches in YAML, and `*/`: see `kernels/` for examples".to_owned()),
    }
    };
    let start = text.len() - text.trim_start().len();
    let Some(rest) = text[start..]
        .strip_prefix("/*")
        .filter(|rest| rest.trim_start_matches([' ', '\t']).starts_with("kforge"))
    else {
        return Err(missing(
            1,
            "no header: the first comment does not begin with `/* kforge`",
        ));
    };
    let Some(end) = rest.find("*/") else {
        return Err(missing(1, "the header comment has no end `*/`"));
    };
    let comment = &rest[..end];
    let Some((first, body)) = comment.split_once('\n') else {
        return Err(missing(1, "the header is empty"));
    };
    if first.trim() != "kforge" {
        return Err(missing(
            1,
            "the header's first line holds more than `kforge`",
        ));
    }
    let lines_before = text[..start].matches('\n').count() + 1;
    Ok((body, lines_before as u32))
}

impl Header {
    pub(super) fn parse(text: &str, definition: &Definition) -> Result<Self, HeaderError> {
        let (body, lines_before) = header_comment(text)?;
        let typed: HeaderYaml =
            yaml::read_with_line(body, "kernel", lines_before).map_err(|failure| {
                // The message begins `kernel:LINE:COLUMN:`; the line goes into its own field.
                let line = failure
                    .message
                    .split(':')
                    .nth(1)
                    .and_then(|line| line.parse().ok())
                    .unwrap_or(1);
                let message = failure
                    .message
                    .splitn(4, ':')
                    .nth(3)
                    .and_then(|message| message.lines().next())
                    .map_or(failure.message.as_str(), str::trim_start)
                    .to_owned();
                HeaderError {
                    line,
                    message,
                    hint: failure.hint,
                }
            })?;
        HeaderChecker {
            definition,
            typed: &typed,
            lines_before,
        }
        .check()
    }
}

struct HeaderChecker<'a> {
    definition: &'a Definition,
    typed: &'a HeaderYaml,
    lines_before: u32,
}

impl HeaderChecker<'_> {
    fn check(&self) -> Result<Header, HeaderError> {
        let typed = self.typed;
        let mut tunable_places = IndexMap::new();
        if let Some((_, values)) = typed.tunables.get_index(MAX_TUNABLES) {
            return Err(self.error_at(
                self.line_of(values),
                format!(
                    "`tunables`: expected at most {MAX_TUNABLES}, found {}",
                    typed.tunables.len()
                ),
            ));
        }
        for (name, values) in &typed.tunables {
            let line = self.line_of(values);
            self.check_tunable(name, &values.value, line)?;
            tunable_places.insert(name.clone(), (line, values.defined.column() as u32));
        }
        if typed.launch.is_empty() {
            return Err(self.error_at(
                self.lines_before + 1,
                "`launch` is empty: expected at least one launch",
            ));
        }
        let mut header = Header {
            launches: Vec::new(),
            tunables: typed
                .tunables
                .iter()
                .map(|(name, values)| (name.clone(), values.value.clone()))
                .collect(),
            tunable_locations: tunable_places,
            variants: Vec::new(),
            scratch: IndexMap::new(),
            tensor_maps: IndexMap::new(),
            compile: typed.compile.clone(),
        };
        for (name, scratch) in &typed.scratch {
            let line = self.line_of(scratch);
            if self.definition.inputs.contains_key(name)
                || self.definition.outputs.contains_key(name)
            {
                return Err(self.error_at(
                    line,
                    format!("scratch `{name}` has the name of a tensor of the task"),
                ));
            }
            let shape = self.parse_list(&scratch.value.shape)?;
            header.scratch.insert(
                name.clone(),
                ScratchHeader {
                    dtype: scratch.value.dtype,
                    shape,
                    zero: scratch.value.zero,
                },
            );
        }
        for (name, map) in &typed.tensor_maps {
            let line = self.line_of(map);
            let map = &map.value;
            self.check_tensor_name(&map.of.value, self.line_of(&map.of))?;
            header.tensor_maps.insert(
                name.clone(),
                TensorMapHeader {
                    line,
                    of: map.of.value.clone(),
                    dims: self.parse_list(&map.dims)?,
                    strides: self.parse_list(&map.strides)?,
                    tile: self.parse_list(&map.tile)?,
                    swizzle: map.swizzle,
                },
            );
        }
        for variant in &typed.variants {
            header.variants.push(self.parse_variant(variant)?);
        }
        for launch in &typed.launch {
            header
                .launches
                .push(self.parse_launch(&launch.value, self.line_of(launch))?);
        }
        Ok(header)
    }

    fn check_tunable(&self, name: &str, values: &[i64], line: u32) -> Result<(), HeaderError> {
        let well_formed = name.len() >= 3
            && name.starts_with(|first: char| first.is_ascii_uppercase())
            && name.chars().all(|letter| {
                letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_'
            })
            && name.chars().filter(char::is_ascii_uppercase).count() >= 3;
        if !well_formed {
            return Err(self.error_at(line, format!("tunable `{name}`: expected a name of at least three capital letters, such as `ROWS`")));
        }
        let mut constants = self.definition.constants();
        if constants.any(|(axis, _)| axis.to_uppercase() == name) {
            return Err(self.error_at(
                line,
                format!("tunable `{name}` has the name of a constant axis"),
            ));
        }
        if values.is_empty() {
            return Err(self.error_at(
                line,
                format!("tunable `{name}`: expected at least one value"),
            ));
        }
        if values.len() > MAX_TUNABLE_VALUES {
            return Err(self.error_at(
                line,
                format!(
                    "tunable `{name}`: expected at most {MAX_TUNABLE_VALUES} values, found {}",
                    values.len()
                ),
            ));
        }
        if (1..values.len()).any(|index| values[..index].contains(&values[index])) {
            return Err(self.error_at(line, format!("tunable `{name}`: a value is there twice")));
        }
        Ok(())
    }

    fn parse_variant(
        &self,
        variant: &Spanned<IndexMap<String, Spanned<String>>>,
    ) -> Result<Variant, HeaderError> {
        let line = self.line_of(variant);
        let Some(when) = variant.value.get("when") else {
            return Err(self.error_at(line, "a variant needs a condition: `when: batch_size <= 4`"));
        };
        let mut values = IndexMap::new();
        for (name, value) in variant.value.iter().filter(|(name, _)| *name != "when") {
            let line = self.line_of(value);
            if !self.typed.tunables.contains_key(name) {
                return Err(self
                    .error_at(
                        line,
                        format!("a variant sets `{name}`, which is no tunable"),
                    )
                    .hint(did_you_mean(
                        name,
                        self.typed.tunables.keys().map(String::as_str),
                    )));
            }
            let value = value.value.parse().map_err(|_| {
                self.error_at(
                    line,
                    format!("`{name}`: expected a whole number, found `{}`", value.value),
                )
            })?;
            values.insert(name.clone(), value);
        }
        Ok(Variant {
            when: self.parse_expression(&when.value, self.line_of(when), 0)?,
            values,
        })
    }

    fn parse_launch(&self, launch: &LaunchYaml, line: u32) -> Result<LaunchHeader, HeaderError> {
        let extent = |list: &Spanned<String>, name: &str| {
            let parts = self.parse_list(list)?;
            if parts.is_empty() || parts.len() > 3 {
                return Err(self.error_at(
                    self.line_of(list),
                    format!(
                        "`{name}`: expected one to three sizes, found {}",
                        parts.len()
                    ),
                ));
            }
            Ok(parts)
        };
        if launch.kernel.value.trim().is_empty() {
            return Err(self.error_at(
                self.line_of(&launch.kernel),
                "`kernel`: expected the name of a `__global__` function",
            ));
        }
        if launch
            .kernel
            .value
            .contains(['\n', ';', '{', '}', '#', '"', '\\'])
        {
            return Err(self.error_at(
                self.line_of(&launch.kernel),
                "`kernel`: expected a C++ expression that names a `__global__` function",
            ));
        }
        let single = |value: &Option<Spanned<String>>| {
            value
                .as_ref()
                .map(|value| self.parse_expression(&value.value, self.line_of(value), 0))
                .transpose()
        };
        let args_line = self.line_of(&launch.args);
        let arguments = split_list(&launch.args.value)
            .into_iter()
            .map(|(offset, argument)| self.parse_argument(argument, args_line, offset))
            .collect::<Result<_, _>>()?;
        Ok(LaunchHeader {
            line,
            kernel: launch.kernel.value.trim().to_owned(),
            grid: extent(&launch.grid, "grid")?,
            block: extent(&launch.block, "block")?,
            shared: single(&launch.shared)?,
            cluster: launch
                .cluster
                .as_ref()
                .map(|cluster| extent(cluster, "cluster"))
                .transpose()?
                .unwrap_or_default(),
            cooperative: launch.cooperative,
            overlap: launch.overlap,
            when: single(&launch.when)?,
            arguments,
        })
    }

    fn parse_argument(
        &self,
        argument: &str,
        line: u32,
        offset: usize,
    ) -> Result<ArgumentHeader, HeaderError> {
        for (prefix, make) in [
            (
                "i32(",
                ArgumentHeader::I32 as fn(LocatedExpression) -> ArgumentHeader,
            ),
            ("u32(", ArgumentHeader::U32),
            ("i64(", ArgumentHeader::I64),
        ] {
            if let Some(inner) = argument.strip_prefix(prefix) {
                let Some(inner) = inner.strip_suffix(')') else {
                    return Err(self.error_at(
                        line,
                        format!("argument `{argument}`: the parenthesis is not closed"),
                    ));
                };
                return Ok(make(self.parse_expression(
                    inner,
                    line,
                    offset + prefix.len(),
                )?));
            }
        }
        if let Some(tensor) = self
            .definition
            .inputs
            .get(argument)
            .filter(|tensor| tensor.shape.is_none())
        {
            debug_assert!(tensor.shape.is_none());
            return Ok(ArgumentHeader::Scalar(argument.to_owned()));
        }
        if self.typed.tensor_maps.contains_key(argument) {
            return Ok(ArgumentHeader::TensorMap(argument.to_owned()));
        }
        if self.definition.axes.contains_key(argument) {
            return Ok(ArgumentHeader::I32(
                self.parse_expression(argument, line, offset)?,
            ));
        }
        self.check_tensor_name(argument, line)?;
        Ok(ArgumentHeader::Tensor(argument.to_owned()))
    }

    /// Checks that a name is an input with a shape, an output, or scratch.
    fn check_tensor_name(&self, name: &str, line: u32) -> Result<(), HeaderError> {
        let is_tensor = self
            .definition
            .inputs
            .get(name)
            .is_some_and(|tensor| tensor.shape.is_some())
            || self.definition.outputs.contains_key(name)
            || self.typed.scratch.contains_key(name);
        if is_tensor {
            return Ok(());
        }
        let plain = !name.is_empty()
            && name
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
        if !plain {
            return Err(self
                .error_at(
                    line,
                    format!("argument `{name}` is neither a name nor `i32(…)`, `u32(…)`, `i64(…)`"),
                )
                .hint("expressions go inside `i32(…)`, `u32(…)` or `i64(…)`"));
        }
        let definition = self.definition;
        let known = definition
            .inputs
            .keys()
            .chain(definition.outputs.keys())
            .chain(definition.axes.keys())
            .chain(self.typed.scratch.keys());
        Err(self
            .error_at(line, format!("unknown name `{name}`"))
            .hint(did_you_mean(name, known.map(String::as_str))))
    }

    fn parse_list(&self, list: &Spanned<String>) -> Result<Vec<LocatedExpression>, HeaderError> {
        let line = self.line_of(list);
        split_list(&list.value)
            .into_iter()
            .map(|(offset, part)| self.parse_expression(part, line, offset))
            .collect()
    }

    /// Parses an expression and checks its names; `offset` is where it begins within its value.
    fn parse_expression(
        &self,
        text: &str,
        line: u32,
        offset: usize,
    ) -> Result<LocatedExpression, HeaderError> {
        let expression = Expression::parse(text).map_err(|error| {
            self.error_at(
                line,
                format!(
                    "expression `{text}`, character {}: {error}",
                    offset + error.offset + 1
                ),
            )
        })?;
        for (name, _) in expression.names() {
            let known = self.definition.axes.contains_key(name)
                || self.typed.tunables.contains_key(name)
                || DEVICE_LIMIT_NAMES.contains(&name);
            if !known {
                let names = self
                    .definition
                    .axes
                    .keys()
                    .chain(self.typed.tunables.keys())
                    .map(String::as_str)
                    .chain(DEVICE_LIMIT_NAMES);
                return Err(self
                    .error_at(line, format!("expression `{text}`: unknown name `{name}`"))
                    .hint(did_you_mean(name, names)));
            }
        }
        Ok(LocatedExpression { line, expression })
    }

    fn line_of<T>(&self, spanned: &Spanned<T>) -> u32 {
        self.lines_before + spanned.defined.line() as u32
    }

    fn error_at(&self, line: u32, message: impl Into<String>) -> HeaderError {
        HeaderError {
            line,
            message: message.into(),
            hint: None,
        }
    }
}
