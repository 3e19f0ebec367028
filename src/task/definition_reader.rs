//! Reads `definition.json` and reports everything that is wrong with it.
//!
//! Unknown fields are accepted. A part that is wrong is reported and replaced by a plausible one, so that the other files can be
//! checked against the rest. `definition` has the types.

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::definition::{AxisKind, Definition, DefinitionAxis, Tensor};
use super::dtype::DType;
use super::problems::{Problems, TaskFile};
use crate::base::Failure;
use crate::base::expression::Expression;
use crate::base::text::{did_you_mean, quote_list};
use crate::base::value_reader::{join_keys, show_value};

impl Definition {
    /// Parses and validates `definition.json`; `origin` names the file in errors. An error lists everything that is wrong.
    pub fn parse(text: &str, origin: &str) -> Result<Self, Failure> {
        let mut problems = Problems::default();
        let definition = read_definition(&TaskFile::new(origin, text), &mut problems);
        match (problems.into_failure(origin), definition) {
            (None, Some(definition)) => Ok(definition),
            (Some(failure), _) => Err(failure),
            (None, None) => Err(Failure::usage(format!("{origin}: cannot be read"))),
        }
    }
}

/// Parses and validates a definition. `None` if nothing of it can be read.
pub(super) fn read_definition(file: &TaskFile<'_>, problems: &mut Problems) -> Option<Definition> {
    let root = match serde_json::from_str(file.text) {
        Ok(Value::Object(root)) => root,
        Ok(other) => {
            let found = show_value(&other);
            problems.push(file.problem("", format!("expected a JSON object, found {found}")));
            return None;
        }
        Err(error) => {
            problems.push(json_failure(file.origin, None, &error));
            return None;
        }
    };
    let mut reader = DefinitionReader { file, problems };
    let mut definition = Definition {
        name: reader.text(&root, "name", true).unwrap_or_default(),
        description: reader.text(&root, "description", false),
        op_type: reader
            .text(&root, "op_type", false)
            .unwrap_or_else(|| "custom".to_owned()),
        axes: reader.axes(&root),
        inputs: IndexMap::new(),
        outputs: IndexMap::new(),
        reference: reader.text(&root, "reference", false).unwrap_or_default(),
    };
    reader.resolve_expressions(&mut definition.axes);
    definition.inputs = reader.tensors(&root, "inputs", &definition.axes);
    definition.outputs = reader.tensors(&root, "outputs", &definition.axes);
    reader.check_outputs(&mut definition, &root);
    Some(definition)
}

/// The failure for text that is not JSON. `line`: the number of the only line, where a file has one document on each line.
pub(super) fn json_failure(
    origin: &str,
    line: Option<usize>,
    error: &serde_json::Error,
) -> Failure {
    let text = error.to_string();
    let message = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(plain, _)| plain);
    let line = line.unwrap_or_else(|| error.line());
    Failure::usage(format!("{origin}:{line}:{}: {message}", error.column()))
}

struct DefinitionReader<'r, 't> {
    file: &'r TaskFile<'t>,
    problems: &'r mut Problems,
}

impl DefinitionReader<'_, '_> {
    fn report(&mut self, key: &str, message: impl AsRef<str>) {
        self.problems.push(self.file.problem(key, message));
    }

    fn report_with_hint(&mut self, key: &str, message: impl AsRef<str>, hint: impl Into<String>) {
        self.problems
            .push(self.file.problem(key, message).hint(hint));
    }

    /// The text of a key. A missing key is a problem if it is required.
    fn text(&mut self, map: &Map<String, Value>, key: &str, is_required: bool) -> Option<String> {
        match map.get(key) {
            Some(Value::String(text)) => return Some(text.clone()),
            None | Some(Value::Null) if is_required => {
                self.report("", format!("`{key}` is missing"));
            }
            None | Some(Value::Null) => {}
            Some(other) => {
                let found = show_value(other);
                self.report(key, format!("expected text, found {found}"));
            }
        }
        None
    }

    /// The entries of a key that holds an object. Reports a missing key.
    fn entries<'m>(&mut self, map: &'m Map<String, Value>, key: &str) -> Vec<(&'m str, &'m Value)> {
        match map.get(key) {
            Some(Value::Object(entries)) => {
                let entries = entries.iter();
                entries
                    .map(|(name, value)| (name.as_str(), value))
                    .collect()
            }
            None | Some(Value::Null) => {
                self.report("", format!("`{key}` is missing"));
                Vec::new()
            }
            Some(other) => {
                let found = show_value(other);
                let message =
                    format!("expected an object of names and their descriptions, found {found}");
                self.report(key, message);
                Vec::new()
            }
        }
    }

    fn check_name(&mut self, key: &str, name: &str) {
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && name.chars().all(is_letter);
        if !is_name {
            let message = format!("`{name}` is not a name of letters, digits and `_`");
            self.report_with_hint(key, message, "kernels use it as the name of a variable");
        }
    }

    fn axes(&mut self, root: &Map<String, Value>) -> IndexMap<String, DefinitionAxis> {
        let entries = self.entries(root, "axes");
        let mut axes = IndexMap::new();
        for (name, value) in entries {
            let key = join_keys("axes", name);
            self.check_name(&key, name);
            axes.insert(name.to_owned(), self.axis(&key, value));
        }
        axes
    }

    fn axis(&mut self, key: &str, value: &Value) -> DefinitionAxis {
        let mut axis = DefinitionAxis {
            kind: AxisKind::Var,
            value: None,
            size: None,
            description: None,
        };
        let Value::Object(map) = value else {
            let found = show_value(value);
            let message = format!("expected an object, found {found}");
            self.report_with_hint(key, message, AXIS_FORMS);
            return axis;
        };
        axis.description = map
            .get("description")
            .and_then(Value::as_str)
            .map(str::to_owned);
        match map.get("type").and_then(Value::as_str) {
            Some("const") => {
                axis.kind = AxisKind::Const;
                axis.value = Some(self.constant_size(key, map.get("value")));
            }
            Some("var") => {}
            Some("expr") => {
                axis.kind = AxisKind::Expr;
                axis.size = self.axis_expression(key, map);
            }
            Some(other) => {
                let message = format!("unknown type `{other}` of an axis");
                self.report_with_hint(&join_keys(key, "type"), message, AXIS_FORMS);
            }
            None => self.report_with_hint(key, "`type` is missing", AXIS_FORMS),
        }
        axis
    }

    /// The size of a constant axis; 1 if it is wrong.
    fn constant_size(&mut self, key: &str, value: Option<&Value>) -> i64 {
        let Some(value) = value else {
            self.report(key, "a `const` axis needs a `value`");
            return 1;
        };
        match value.as_i64() {
            Some(size) if size >= 1 => size,
            _ => {
                let found = show_value(value).trim_matches('`').to_owned();
                let message = format!("expected at least 1, found {found}");
                self.report(&join_keys(key, "value"), message);
                1
            }
        }
    }

    fn axis_expression(&mut self, key: &str, map: &Map<String, Value>) -> Option<Expression> {
        let given = ["expression", "expr", "value"]
            .into_iter()
            .find_map(|name| Some((name, map.get(name)?)));
        let Some((name, value)) = given else {
            let hint = "for example `\"expression\": \"hidden_size // 2\"`";
            self.report_with_hint(key, "an `expr` axis needs an `expression`", hint);
            return None;
        };
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match Expression::parse(&text) {
            Ok(expression) => Some(expression),
            Err(error) => {
                let column = error.offset + 1;
                let message = format!("`{text}`, character {column}: {error}");
                self.report(&join_keys(key, name), message);
                None
            }
        }
    }

    /// Checks the names in the expressions of axes. An axis that depends on constant axes only becomes constant.
    fn resolve_expressions(&mut self, axes: &mut IndexMap<String, DefinitionAxis>) {
        let is_expression = |axis: &DefinitionAxis| axis.kind == AxisKind::Expr;
        let names: Vec<String> = (axes.iter())
            .filter(|(_, axis)| is_expression(axis))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &names {
            let Some(size) = axes[name].size.clone() else {
                // Reported already. A size that depends on nothing gives no further problems.
                axes[name].kind = AxisKind::Const;
                axes[name].value = Some(1);
                continue;
            };
            for (other, _) in size.names() {
                if !axes.contains_key(other) {
                    let key = format!("axes.{name}");
                    let message = format!("`{}`: unknown axis `{other}`", size.text());
                    let hint = did_you_mean(other, axes.keys().map(String::as_str));
                    self.report_with_hint(&key, message, hint);
                    axes[name].kind = AxisKind::Const;
                    axes[name].value = Some(1);
                }
            }
        }
        for _ in &names {
            for name in &names {
                self.make_constant(name, axes);
            }
        }
        let circular: Vec<&String> = (names.iter())
            .filter(|name| is_expression(&axes[*name]) && depends_on_itself(name, axes))
            .collect();
        if let Some(first) = circular.first() {
            let message = format!("the axes {} depend on each other", quote_list(&circular));
            self.report(&format!("axes.{first}"), message);
        }
    }

    /// Makes an `expr` axis constant if all axes that it names are.
    fn make_constant(&mut self, name: &str, axes: &mut IndexMap<String, DefinitionAxis>) {
        let axis = &axes[name];
        let (AxisKind::Expr, Some(size)) = (axis.kind, axis.size.clone()) else {
            return;
        };
        let value_of = |other: &str| {
            let axis = axes.get(other)?;
            axis.value.filter(|_| axis.kind == AxisKind::Const)
        };
        if !(size.names().iter()).all(|(other, _)| value_of(other).is_some()) {
            return;
        }
        let value = match size.evaluate(&value_of) {
            Ok(value) if value >= 1 => value,
            Ok(value) => {
                let message = format!("`{}` is {value}, expected at least 1", size.text());
                self.report(&format!("axes.{name}"), message);
                1
            }
            Err(error) => {
                let message = format!("`{}`: {error}", size.text());
                self.report(&format!("axes.{name}"), message);
                1
            }
        };
        let axis = &mut axes[name];
        axis.kind = AxisKind::Const;
        axis.value = Some(value);
    }

    fn tensors(
        &mut self,
        root: &Map<String, Value>,
        side: &str,
        axes: &IndexMap<String, DefinitionAxis>,
    ) -> IndexMap<String, Tensor> {
        let entries = self.entries(root, side);
        let mut tensors = IndexMap::new();
        for (name, value) in entries {
            let key = join_keys(side, name);
            self.check_name(&key, name);
            if let Some(tensor) = self.tensor(&key, value, axes) {
                tensors.insert(name.to_owned(), tensor);
            }
        }
        tensors
    }

    fn tensor(
        &mut self,
        key: &str,
        value: &Value,
        axes: &IndexMap<String, DefinitionAxis>,
    ) -> Option<Tensor> {
        let Value::Object(map) = value else {
            let message = format!("expected an object, found {}", show_value(value));
            let hint = "for example `{\"shape\": [\"rows\", \"columns\"], \"dtype\": \"float32\"}`";
            self.report_with_hint(key, message, hint);
            return None;
        };
        let description = map.get("description").and_then(Value::as_str);
        Some(Tensor {
            shape: self.shape(key, map, axes),
            dtype: self.dtype(key, map),
            optional: map.get("optional") == Some(&Value::Bool(true)),
            description: description.map(str::to_owned),
        })
    }

    /// The axes of a tensor; `None` for a scalar. An empty list and `null` are both a scalar.
    fn shape(
        &mut self,
        key: &str,
        map: &Map<String, Value>,
        axes: &IndexMap<String, DefinitionAxis>,
    ) -> Option<Vec<String>> {
        let shape_key = join_keys(key, "shape");
        let items = match map.get("shape") {
            Some(Value::Array(items)) => items,
            Some(Value::Null) => return None,
            None => {
                let hint = "a list of axes, such as `[\"rows\"]`, or `null` for a scalar";
                self.report_with_hint(key, "`shape` is missing", hint);
                return None;
            }
            Some(other) => {
                let message = format!("expected a list of axes, found {}", show_value(other));
                let hint = "for example `[\"rows\", \"columns\"]`, or `null` for a scalar";
                self.report_with_hint(&shape_key, message, hint);
                return None;
            }
        };
        let mut shape = Vec::new();
        for item in items {
            match item.as_str() {
                Some(axis) if axes.contains_key(axis) => shape.push(axis.to_owned()),
                Some(axis) => {
                    let message = format!("unknown axis `{axis}`");
                    let hint = did_you_mean(axis, axes.keys().map(String::as_str));
                    self.report_with_hint(&shape_key, message, hint);
                }
                None => {
                    let found = show_value(item);
                    let message = format!("expected the name of an axis, found {found}");
                    let hint =
                        "declare the size under `axes`: `{\"type\": \"const\", \"value\": 1024}`";
                    self.report_with_hint(&shape_key, message, hint);
                }
            }
        }
        // A shape whose axes are all wrong is not a scalar.
        (!items.is_empty()).then_some(shape)
    }

    /// The dtype; `float32` if it is wrong.
    fn dtype(&mut self, key: &str, map: &Map<String, Value>) -> DType {
        let Some(value) = map.get("dtype") else {
            self.report(key, "`dtype` is missing");
            return DType::Float32;
        };
        let name = value.as_str().unwrap_or_default();
        if let Ok(dtype) = serde_json::from_value(Value::from(name)) {
            return dtype;
        }
        let message = format!("unknown dtype {}", show_value(value));
        self.report_with_hint(&join_keys(key, "dtype"), message, DType::hint_for(name));
        DType::Float32
    }

    /// Outputs must exist and differ from the inputs. An output without axes has one element.
    fn check_outputs(&mut self, definition: &mut Definition, root: &Map<String, Value>) {
        let is_empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
        if root.get("outputs").is_some_and(is_empty) {
            self.report("outputs", "expected at least one");
        }
        for (name, tensor) in &mut definition.outputs {
            if definition.inputs.contains_key(name) {
                self.report(&format!("outputs.{name}"), "an input has the same name");
            }
            tensor.shape.get_or_insert_default();
        }
    }
}

const AXIS_FORMS: &str = "an axis is `{\"type\": \"var\"}`, `{\"type\": \"const\", \"value\": 1024}` or `{\"type\": \"expr\", \"expression\": \"rows // 2\"}`";

/// Whether an `expr` axis depends on itself, over others.
fn depends_on_itself(name: &str, axes: &IndexMap<String, DefinitionAxis>) -> bool {
    let mut reached: Vec<&str> = vec![name];
    let mut at = 0;
    while let Some(next) = reached.get(at) {
        let size = axes.get(*next).and_then(|axis| axis.size.as_ref());
        for (other, _) in size.map(Expression::names).unwrap_or_default() {
            if other == name {
                return true;
            }
            if !reached.contains(&other) {
                reached.push(other);
            }
        }
        at += 1;
    }
    false
}
