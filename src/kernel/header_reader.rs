//! Reads the header of a kernel file and checks it against the definition (DESIGN section 4).
//!
//! Reads the whole grammar, including what a backend cannot run; refusing that is the backend's job. Evaluates no expression.

use indexmap::IndexMap;
use serde_yaml::Spanned;

use super::error::HeaderError;
use super::header::{
    ArgumentHeader, Header, LaunchHeader, LocatedExpression, ScratchHeader, TensorMapHeader,
    Variant,
};
use super::header_yaml::{HeaderYaml, LaunchYaml, ScratchYaml, TensorMapYaml, read_header_yaml};
use crate::base::expression::{Expression, split_list};
use crate::base::text::did_you_mean;
use crate::task::Definition;

/// The names of device limits, which every expression may use besides axes and tunables.
const DEVICE_LIMIT_NAMES: [&str; 2] = ["sm_count", "max_shared_bytes"];

/// The most tunables: far more than a kernel needs.
const MAX_TUNABLES: usize = 64;
/// The most values of one tunable: far more than a search can try.
const MAX_TUNABLE_VALUES: usize = 1000;

impl Header {
    /// Reads and checks the header of a kernel file.
    pub(super) fn parse(text: &str, definition: &Definition) -> Result<Self, HeaderError> {
        let (yaml, lines_before) = read_header_yaml(text)?;
        HeaderChecker {
            definition,
            yaml: &yaml,
            lines_before,
        }
        .check()
    }
}

/// Checks a header against its definition. Methods return the checked parts.
struct HeaderChecker<'a> {
    definition: &'a Definition,
    yaml: &'a HeaderYaml,
    lines_before: u32,
}

impl HeaderChecker<'_> {
    fn check(&self) -> Result<Header, HeaderError> {
        let yaml = self.yaml;
        let tunable_locations = self.check_tunables()?;
        if yaml.launch.is_empty() {
            return Err(HeaderError::new(
                self.lines_before + 1,
                "`launch` is empty: expected at least one launch",
            ));
        }
        let mut header = Header {
            launches: Vec::new(),
            tunables: yaml
                .tunables
                .iter()
                .map(|(name, values)| (name.clone(), values.value.clone()))
                .collect(),
            tunable_locations,
            variants: Vec::new(),
            scratch: IndexMap::new(),
            tensor_maps: IndexMap::new(),
            compile: yaml.compile.clone(),
        };
        for (name, scratch) in &yaml.scratch {
            header
                .scratch
                .insert(name.clone(), self.parse_scratch(name, scratch)?);
        }
        for (name, map) in &yaml.tensor_maps {
            header
                .tensor_maps
                .insert(name.clone(), self.parse_tensor_map(map)?);
        }
        for variant in &yaml.variants {
            header.variants.push(self.parse_variant(variant)?);
        }
        for launch in &yaml.launch {
            let line = self.line_of(launch);
            header
                .launches
                .push(self.parse_launch(&launch.value, line)?);
        }
        Ok(header)
    }

    /// Checks names and values, and returns where each list starts.
    fn check_tunables(&self) -> Result<IndexMap<String, (u32, u32)>, HeaderError> {
        let tunables = &self.yaml.tunables;
        if let Some((_, values)) = tunables.get_index(MAX_TUNABLES) {
            let message = format!(
                "`tunables`: expected at most {MAX_TUNABLES}, found {}",
                tunables.len()
            );
            return Err(HeaderError::new(self.line_of(values), message));
        }
        let mut locations = IndexMap::new();
        for (name, values) in tunables {
            let line = self.line_of(values);
            self.check_tunable(name, &values.value).map_err(|message| {
                HeaderError::new(line, format!("tunable `{name}`: {message}"))
            })?;
            locations.insert(name.clone(), (line, values.defined.column() as u32));
        }
        Ok(locations)
    }

    fn check_tunable(&self, name: &str, values: &[i64]) -> Result<(), String> {
        let is_name_letter =
            |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
        let is_well_formed = name.starts_with(|first: char| first.is_ascii_uppercase())
            && name.chars().all(is_name_letter)
            && name.chars().filter(char::is_ascii_uppercase).count() >= 3;
        if !is_well_formed {
            return Err(
                "expected a name with at least three capital letters, such as `ROWS`".to_owned(),
            );
        }
        let mut constants = self.definition.constants();
        if constants.any(|(axis, _)| axis.to_uppercase() == name) {
            return Err("a constant axis has this name".to_owned());
        }
        if values.is_empty() {
            return Err("expected at least one value".to_owned());
        }
        if values.len() > MAX_TUNABLE_VALUES {
            return Err(format!(
                "expected at most {MAX_TUNABLE_VALUES} values, found {}",
                values.len()
            ));
        }
        let is_repeated = |index: &usize| values[..*index].contains(&values[*index]);
        if let Some(index) = (1..values.len()).find(is_repeated) {
            return Err(format!("duplicate value `{}`", values[index]));
        }
        Ok(())
    }

    fn parse_scratch(
        &self,
        name: &str,
        scratch: &Spanned<ScratchYaml>,
    ) -> Result<ScratchHeader, HeaderError> {
        let definition = self.definition;
        if definition.inputs.contains_key(name) || definition.outputs.contains_key(name) {
            return Err(HeaderError::new(
                self.line_of(scratch),
                format!("scratch `{name}`: a tensor of the task has this name"),
            ));
        }
        Ok(ScratchHeader {
            dtype: scratch.value.dtype,
            shape: self.parse_list(&scratch.value.shape)?,
            zero: scratch.value.zero,
        })
    }

    fn parse_tensor_map(
        &self,
        map: &Spanned<TensorMapYaml>,
    ) -> Result<TensorMapHeader, HeaderError> {
        let line = self.line_of(map);
        let map = &map.value;
        self.check_tensor_name(&map.of.value, self.line_of(&map.of))?;
        Ok(TensorMapHeader {
            line,
            of: map.of.value.clone(),
            dims: self.parse_list(&map.dims)?,
            strides: self.parse_list(&map.strides)?,
            tile: self.parse_list(&map.tile)?,
            swizzle: map.swizzle,
        })
    }

    fn parse_variant(
        &self,
        variant: &Spanned<IndexMap<String, Spanned<String>>>,
    ) -> Result<Variant, HeaderError> {
        let line = self.line_of(variant);
        let Some(when) = variant.value.get("when") else {
            return Err(HeaderError::new(
                line,
                "a variant needs a condition, such as `when: batch_size <= 4`",
            ));
        };
        let mut values = IndexMap::new();
        for (name, value) in variant.value.iter().filter(|(name, _)| *name != "when") {
            let line = self.line_of(value);
            let tunables = &self.yaml.tunables;
            if !tunables.contains_key(name) {
                let message = format!("a variant sets `{name}`, which is not a tunable");
                return Err(HeaderError::new(line, message)
                    .hint(did_you_mean(name, tunables.keys().map(String::as_str))));
            }
            let number = value.value.parse().map_err(|_| {
                let message = format!("`{name}`: expected a whole number, found `{}`", value.value);
                HeaderError::new(line, message)
            })?;
            values.insert(name.clone(), number);
        }
        Ok(Variant {
            when: self.parse_expression(&when.value, self.line_of(when), 0)?,
            values,
        })
    }

    fn parse_launch(&self, launch: &LaunchYaml, line: u32) -> Result<LaunchHeader, HeaderError> {
        let kernel = &launch.kernel.value;
        if kernel.trim().is_empty() {
            return Err(HeaderError::new(
                self.line_of(&launch.kernel),
                "`kernel`: expected the name of a `__global__` function",
            ));
        }
        if kernel.contains(['\n', ';', '{', '}', '#', '"', '\\']) {
            return Err(HeaderError::new(
                self.line_of(&launch.kernel),
                "`kernel`: expected a C++ expression that names a `__global__` function",
            ));
        }
        let optional = |value: &Option<Spanned<String>>| {
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
        let cluster = match &launch.cluster {
            Some(cluster) => self.parse_extent(cluster, "cluster")?,
            None => Vec::new(),
        };
        Ok(LaunchHeader {
            line,
            kernel: kernel.trim().to_owned(),
            grid: self.parse_extent(&launch.grid, "grid")?,
            block: self.parse_extent(&launch.block, "block")?,
            shared: optional(&launch.shared)?,
            cluster,
            cooperative: launch.cooperative,
            overlap: launch.overlap,
            when: optional(&launch.when)?,
            arguments,
        })
    }

    /// A list of one to three sizes.
    fn parse_extent(
        &self,
        list: &Spanned<String>,
        key: &str,
    ) -> Result<Vec<LocatedExpression>, HeaderError> {
        let sizes = self.parse_list(list)?;
        if sizes.is_empty() || sizes.len() > 3 {
            let message = format!(
                "`{key}`: expected one to three sizes, found {}",
                sizes.len()
            );
            return Err(HeaderError::new(self.line_of(list), message));
        }
        Ok(sizes)
    }

    /// `offset` is where the argument starts in the value of `args`, in bytes.
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
                    let message = format!("argument `{argument}`: the parenthesis is not closed");
                    return Err(HeaderError::new(line, message));
                };
                let expression = self.parse_expression(inner, line, offset + prefix.len())?;
                return Ok(make(expression));
            }
        }
        let input = self.definition.inputs.get(argument);
        if input.is_some_and(|input| input.shape.is_none()) {
            return Ok(ArgumentHeader::Scalar(argument.to_owned()));
        }
        if self.yaml.tensor_maps.contains_key(argument) {
            return Ok(ArgumentHeader::TensorMap(argument.to_owned()));
        }
        if self.definition.axes.contains_key(argument) {
            let axis = self.parse_expression(argument, line, offset)?;
            return Ok(ArgumentHeader::I32(axis));
        }
        self.check_tensor_name(argument, line)?;
        Ok(ArgumentHeader::Tensor(argument.to_owned()))
    }

    /// Checks that a name is that of an input with a shape, of an output, or of scratch.
    fn check_tensor_name(&self, name: &str, line: u32) -> Result<(), HeaderError> {
        let definition = self.definition;
        let input = definition.inputs.get(name);
        let is_tensor = input.is_some_and(|input| input.shape.is_some())
            || definition.outputs.contains_key(name)
            || self.yaml.scratch.contains_key(name);
        if is_tensor {
            return Ok(());
        }
        let is_name_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        if name.is_empty() || !name.chars().all(is_name_letter) {
            let message =
                format!("argument `{name}` is neither a name nor `i32(…)`, `u32(…)`, `i64(…)`");
            return Err(HeaderError::new(line, message)
                .hint("write an expression as `i32(…)`, `u32(…)` or `i64(…)`"));
        }
        let known = definition
            .inputs
            .keys()
            .chain(definition.outputs.keys())
            .chain(definition.axes.keys())
            .chain(self.yaml.scratch.keys());
        Err(HeaderError::new(line, format!("unknown name `{name}`"))
            .hint(did_you_mean(name, known.map(String::as_str))))
    }

    fn parse_list(&self, list: &Spanned<String>) -> Result<Vec<LocatedExpression>, HeaderError> {
        let line = self.line_of(list);
        split_list(&list.value)
            .into_iter()
            .map(|(offset, part)| self.parse_expression(part, line, offset))
            .collect()
    }

    /// Parses an expression and checks its names. `offset` is where it starts in its YAML value, in bytes.
    fn parse_expression(
        &self,
        text: &str,
        line: u32,
        offset: usize,
    ) -> Result<LocatedExpression, HeaderError> {
        let expression = Expression::parse(text).map_err(|error| {
            let character = offset + error.offset + 1;
            let message = format!("expression `{text}`, character {character}: {error}");
            HeaderError::new(line, message)
        })?;
        let axes = self.definition.axes.keys();
        let tunables = self.yaml.tunables.keys();
        let known = axes
            .chain(tunables)
            .map(String::as_str)
            .chain(DEVICE_LIMIT_NAMES);
        for (name, _) in expression.names() {
            if !known.clone().any(|known| known == name) {
                let message = format!("expression `{text}`: unknown name `{name}`");
                return Err(HeaderError::new(line, message).hint(did_you_mean(name, known)));
            }
        }
        Ok(LocatedExpression { line, expression })
    }

    fn line_of<T>(&self, spanned: &Spanned<T>) -> u32 {
        self.lines_before + spanned.defined.line() as u32
    }
}
