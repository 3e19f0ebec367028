//! Reads the header of a kernel file and checks it against the definition (`docs/kernel-files.md`).
//!
//! Reads the whole grammar, including what a backend cannot run; refusing that is the backend's job. Evaluates no expression.

use std::ops::Range;

use indexmap::IndexMap;
use serde_yaml::Spanned;

use super::error::HeaderError;
use super::header::{
    Header, LaunchHeader, LocatedExpression, ScratchHeader, TensorMapHeader, Variant,
};
use super::header_lists::{ListItem, list_items};
use super::header_yaml::{
    HeaderYaml, LaunchYaml, ScratchYaml, TensorMapYaml, VariantYaml, read_header_yaml,
};
use super::tunables::{TunableList, parse_tunable_value, read_tunable};
use super::yaml_values::{ListYaml, ScalarYaml};
use crate::base::expression::Expression;
use crate::base::text::did_you_mean;
use crate::task::Definition;

/// The names of device limits, which every expression may use besides axes and tunables.
pub(super) const DEVICE_LIMIT_NAMES: [&str; 2] = ["sm_count", "max_shared_bytes"];

/// The most tunables: far more than a kernel needs.
const MAX_TUNABLES: usize = 64;
/// The most constraints.
const MAX_CONSTRAINTS: usize = 64;

impl Header {
    /// Reads and checks the header of a kernel file.
    pub(super) fn parse(text: &str, definition: &Definition) -> Result<Self, HeaderError> {
        let (yaml, lines_before) = read_header_yaml(text)?;
        let mut checker = HeaderChecker {
            definition,
            yaml: &yaml,
            lines_before,
            tunables: IndexMap::new(),
            notes: Vec::new(),
        };
        checker.read_tunables()?;
        checker.check()
    }
}

/// Checks a header against its definition. Methods return the checked parts.
pub(super) struct HeaderChecker<'a> {
    pub(super) definition: &'a Definition,
    pub(super) yaml: &'a HeaderYaml,
    lines_before: u32,
    pub(super) tunables: IndexMap<String, TunableList>,
    notes: Vec<String>,
}

impl HeaderChecker<'_> {
    fn check(self) -> Result<Header, HeaderError> {
        let yaml = self.yaml;
        let launches = yaml.launch.value.entries(yaml.launch.defined.line() as u32);
        if launches.is_empty() {
            return Err(HeaderError::new(
                self.line_of(&yaml.launch),
                "`launch` is empty: expected at least one launch",
            ));
        }
        let mut header = Header {
            launches: Vec::new(),
            tunables: IndexMap::new(),
            tunable_locations: IndexMap::new(),
            constraints: self.parse_constraints()?,
            variants: Vec::new(),
            scratch: IndexMap::new(),
            tensor_maps: IndexMap::new(),
            compile: yaml.compile.clone().unwrap_or_default(),
            notes: Vec::new(),
        };
        for (name, scratch) in yaml.scratch.iter().flatten() {
            header
                .scratch
                .insert(name.clone(), self.parse_scratch(name, scratch)?);
        }
        for (name, map) in yaml.tensor_maps.iter().flatten() {
            header
                .tensor_maps
                .insert(name.clone(), self.parse_tensor_map(map)?);
        }
        if let Some(variants) = &yaml.variants {
            for (variant, line) in variants.value.entries(variants.defined.line() as u32) {
                let line = self.lines_before + line;
                header.variants.push(self.parse_variant(variant, line)?);
            }
        }
        for (launch, line) in launches {
            let line = self.lines_before + line;
            header.launches.push(self.parse_launch(launch, line)?);
        }
        for (name, list) in self.tunables {
            let location = (list.line, list.column);
            header.tunable_locations.insert(name.clone(), location);
            header.tunables.insert(name, list.values);
        }
        header.notes = self.notes;
        Ok(header)
    }

    /// Reads names and values of the tunables.
    fn read_tunables(&mut self) -> Result<(), HeaderError> {
        let Some(tunables) = &self.yaml.tunables else {
            return Ok(());
        };
        if let Some((_, values)) = tunables.get_index(MAX_TUNABLES) {
            let message = format!(
                "`tunables`: expected at most {MAX_TUNABLES}, found {}",
                tunables.len()
            );
            return Err(HeaderError::new(self.line_of(values), message));
        }
        for (name, values) in tunables {
            let items = self.items(values, name)?;
            let line = self.line_of(values);
            let mut constants = self.definition.constants();
            let is_constant = constants.any(|(axis, _)| axis.to_uppercase() == *name);
            let (values, note) = (if is_constant {
                Err("a constant axis has this name".to_owned())
            } else {
                read_tunable(name, &items)
            })
            .map_err(|message| HeaderError::new(line, format!("tunable `{name}`: {message}")))?;
            self.notes
                .extend(note.map(|note| format!("line {line}: tunable `{name}` {note}")));
            let column = tunables[name].defined.column() as u32;
            let list = TunableList {
                values,
                line,
                column,
            };
            self.tunables.insert(name.clone(), list);
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
            shape: self.parse_list(&scratch.value.shape, "shape")?,
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
            dims: self.parse_list(&map.dims, "dims")?,
            strides: self.parse_list(&map.strides, "strides")?,
            tile: self.parse_list(&map.tile, "box")?,
            swizzle: map.swizzle,
        })
    }

    fn parse_constraints(&self) -> Result<Vec<LocatedExpression>, HeaderError> {
        let Some(list) = &self.yaml.constraints else {
            return Ok(Vec::new());
        };
        let constraints = self.parse_list(list, "constraints")?;
        if constraints.len() > MAX_CONSTRAINTS {
            let message = format!(
                "`constraints`: expected at most {MAX_CONSTRAINTS}, found {}",
                constraints.len()
            );
            return Err(HeaderError::new(self.line_of(list), message));
        }
        Ok(constraints)
    }

    fn parse_variant(&self, variant: &VariantYaml, line: u32) -> Result<Variant, HeaderError> {
        let Some((condition, names)) = condition_of(variant) else {
            return Err(HeaderError::new(
                line,
                "a variant needs a condition, such as `when: batch_size <= 4`",
            ));
        };
        let mut values = IndexMap::new();
        let others = variant.iter().enumerate();
        for (_, (name, value)) in others.filter(|(index, _)| !names.contains(index)) {
            let line = self.line_of(value);
            let tunables = &self.tunables;
            if !tunables.contains_key(name) {
                let message = format!("a variant sets `{name}`, which is not a tunable");
                return Err(HeaderError::new(line, message)
                    .hint(did_you_mean(name, tunables.keys().map(String::as_str))));
            }
            let text = value.value.0.as_str();
            let number = parse_tunable_value(text).ok_or_else(|| {
                let message = format!("`{name}`: expected a whole number, found `{text}`");
                HeaderError::new(line, message)
            })?;
            values.insert(name.clone(), number);
        }
        let when_line = variant.get("when").map_or(line, |when| self.line_of(when));
        Ok(Variant {
            when: self.parse_expression(&condition, when_line, 0)?,
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
        let optional = |value: &Option<Spanned<ScalarYaml>>| {
            value
                .as_ref()
                .map(|value| self.parse_scalar(value))
                .transpose()
        };
        let items = self.items(&launch.args, "args")?;
        let arguments = items
            .iter()
            .map(|item| self.parse_argument(item))
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
            argument_texts: items.into_iter().map(|item| item.text).collect(),
        })
    }

    /// A list of one to three sizes.
    fn parse_extent(
        &self,
        list: &Spanned<ListYaml>,
        key: &str,
    ) -> Result<Vec<LocatedExpression>, HeaderError> {
        let sizes = self.parse_list(list, key)?;
        if sizes.is_empty() || sizes.len() > 3 {
            let message = format!(
                "`{key}`: expected one to three sizes, found {}",
                sizes.len()
            );
            return Err(HeaderError::new(self.line_of(list), message));
        }
        Ok(sizes)
    }

    /// Checks that a name is that of an input with a shape, of an output, or of scratch.
    pub(super) fn check_tensor_name(&self, name: &str, line: u32) -> Result<(), HeaderError> {
        if self.is_tensor(name) {
            return Ok(());
        }
        let definition = self.definition;
        let known = definition
            .inputs
            .keys()
            .chain(definition.outputs.keys())
            .chain(definition.axes.keys())
            .chain(self.yaml.scratch.iter().flatten().map(|(name, _)| name));
        Err(HeaderError::new(line, format!("unknown name `{name}`"))
            .hint(did_you_mean(name, known.map(String::as_str))))
    }

    pub(super) fn is_tensor(&self, name: &str) -> bool {
        let definition = self.definition;
        let input = definition.inputs.get(name);
        let scratch = &self.yaml.scratch;
        input.is_some_and(|input| input.shape.is_some())
            || definition.outputs.contains_key(name)
            || (scratch.as_ref()).is_some_and(|scratch| scratch.contains_key(name))
    }

    /// The items of a list, with lines of the file.
    fn items(&self, list: &Spanned<ListYaml>, key: &str) -> Result<Vec<ListItem>, HeaderError> {
        let mut items = list_items(list, key).map_err(|error| HeaderError {
            line: error.line + self.lines_before,
            ..error
        })?;
        for item in &mut items {
            item.line += self.lines_before;
        }
        Ok(items)
    }

    fn parse_list(
        &self,
        list: &Spanned<ListYaml>,
        key: &str,
    ) -> Result<Vec<LocatedExpression>, HeaderError> {
        let items = self.items(list, key)?;
        items
            .iter()
            .map(|item| self.parse_expression(&item.text, item.line, item.offset))
            .collect()
    }

    fn parse_scalar(&self, value: &Spanned<ScalarYaml>) -> Result<LocatedExpression, HeaderError> {
        self.parse_expression(&value.value.0, self.line_of(value), 0)
    }

    /// Parses an expression and checks its names. `offset` is where it starts in its YAML value, in bytes.
    pub(super) fn parse_expression(
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
        let tunables = self.tunables.keys();
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

/// The condition of a variant and the places of its names in the map.
///
/// In `{when: max(a, b) > 2, ROWS: 1}` without quotes, YAML reads `b) > 2` as a name without a value.
fn condition_of(variant: &VariantYaml) -> Option<(String, Range<usize>)> {
    let start = variant.get_index_of("when")?;
    let (_, value) = variant.get_index(start)?;
    let mut condition = value.value.0.clone();
    let mut end = start + 1;
    let is_open = |text: &str| text.matches('(').count() > text.matches(')').count();
    while is_open(&condition)
        && let Some((name, value)) = variant.get_index(end)
        && value.value.0 == "null"
    {
        condition = format!("{condition}, {name}");
        end += 1;
    }
    Some((condition, start..end))
}
