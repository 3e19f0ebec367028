//! The configuration space of a T1 file as tunables and constraints of a kernel file.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::python_list::{plain, whole_numbers};
use crate::base::Failure;
use crate::base::expression::Expression;

/// Configurations that are tried to find one that meets all conditions.
const MAX_TRIED: u64 = 1 << 22;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ConfigurationSpace {
    tuning_parameters: Vec<Parameter>,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Parameter {
    name: String,
    #[serde(rename = "Type")]
    kind: String,
    /// The text of a Python list; some files have a list.
    values: Value,
    #[serde(default)]
    default: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Condition {
    expression: String,
}

/// A tunable of a kernel file.
#[derive(Clone)]
pub(super) struct Tunable {
    /// In the T1 file and the kernel.
    pub(super) own_name: String,
    /// In the header of the kernel file.
    pub(super) name: String,
    /// The first is used.
    pub(super) values: Vec<i64>,
}

/// Tunables, and conditions over the names of the kernel file.
#[derive(Clone)]
pub(super) struct Space {
    pub(super) tunables: Vec<Tunable>,
    pub(super) conditions: Vec<Expression>,
}

impl Space {
    pub(super) fn read(space: &ConfigurationSpace, origin: &str) -> Result<Self, Failure> {
        let mut tunables = Vec::new();
        for (index, parameter) in space.tuning_parameters.iter().enumerate() {
            let tunable = tunable(parameter).map_err(|message| {
                let key = format!("ConfigurationSpace.TuningParameters[{index}]");
                Failure::usage(format!("{origin}: {key}: `{}` {message}", parameter.name))
                    .hint("tunables are whole numbers: `[16, 32]`, `list(range(1, 9))`, `[32 * i for i in range(1, 5)]`, `[2**i for i in range(5)]`, and such lists joined by `+`")
            })?;
            tunables.push(tunable);
        }
        let mut space_read = Self {
            tunables,
            conditions: Vec::new(),
        };
        for (index, condition) in space.conditions.iter().enumerate() {
            let expression = space_read.expression(&condition.expression);
            let expression = expression.map_err(|message| {
                let key = format!("ConfigurationSpace.Conditions[{index}]");
                Failure::usage(format!("{origin}: {key}: `{}`: {message}", condition.expression))
                    .hint("a condition has `+ - * // %`, comparisons, `and or not`, `min`, `max`, and names of tunables")
            })?;
            space_read.conditions.push(expression);
        }
        space_read.begin_with_valid(origin)?;
        Ok(space_read)
    }

    /// Whether a tunable has this name in the T1 file.
    pub(super) fn has(&self, own_name: &str) -> bool {
        self.tunable(own_name).is_some()
    }

    pub(super) fn tunable(&self, own_name: &str) -> Option<&Tunable> {
        (self.tunables.iter()).find(|tunable| tunable.own_name == own_name)
    }

    /// An expression over the names of the kernel file, from one over those of the T1 file.
    pub(super) fn expression(&self, text: &str) -> Result<Expression, String> {
        if text.replace("//", "").contains('/') {
            return Err("`/` gives fractions in Python: write `//`".to_owned());
        }
        let expression = Expression::parse(text).map_err(|error| error.message)?;
        let mut renamed = text.to_owned();
        // From the end, so that the places of the others stay.
        let mut names = expression.names();
        names.sort_by_key(|(_, offset)| std::cmp::Reverse(*offset));
        for (name, offset) in names {
            let tunable = self.tunable(name);
            let tunable = tunable.ok_or_else(|| format!("there is no tunable `{name}`"))?;
            renamed.replace_range(offset..offset + name.len(), &tunable.name);
        }
        Expression::parse(&renamed).map_err(|error| error.message)
    }

    /// Puts these values first.
    pub(super) fn put_first(
        &mut self,
        values: Option<&Map<String, Value>>,
        origin: &str,
    ) -> Result<(), Failure> {
        let Some(values) = values else {
            return Ok(());
        };
        for tunable in &mut self.tunables {
            let value = values
                .get(&tunable.own_name)
                .or_else(|| values.get(&tunable.name));
            let value = value.and_then(Value::as_i64);
            let place = value.and_then(|value| tunable.values.iter().position(|one| *one == value));
            let place = place.ok_or_else(|| {
                Failure::usage(format!(
                    "the results have no value of `{}` that is in {origin}",
                    tunable.own_name
                ))
                .hint("the results are of another configuration space")
            })?;
            tunable.values[..=place].rotate_right(1);
        }
        if !self.is_valid(&self.places(0)) {
            return Err(Failure::usage(format!(
                "the fastest configuration of the results breaks a condition of {origin}"
            ))
            .hint("the results are of another configuration space"));
        }
        Ok(())
    }

    /// Puts a configuration first that meets all conditions: a kernel whose own values break one is refused.
    fn begin_with_valid(&mut self, origin: &str) -> Result<(), Failure> {
        let tried = (0..self.size().min(MAX_TRIED)).map(|index| self.places(index));
        let places = tried.into_iter().find(|places| self.is_valid(places));
        let places = places.ok_or_else(|| {
            Failure::usage(format!(
                "{origin}: no configuration was found that meets all conditions"
            ))
            .hint("check `ConfigurationSpace.Conditions`")
        })?;
        for (tunable, place) in self.tunables.iter_mut().zip(places) {
            tunable.values[..=place].rotate_right(1);
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        let sizes = self.tunables.iter().map(|one| one.values.len() as u64);
        sizes.fold(1, u64::saturating_mul)
    }

    /// The places of the values of a configuration.
    fn places(&self, mut index: u64) -> Vec<usize> {
        let place = |tunable: &Tunable| {
            let count = tunable.values.len() as u64;
            let place = index % count;
            index /= count;
            place as usize
        };
        self.tunables.iter().map(place).collect()
    }

    fn is_valid(&self, places: &[usize]) -> bool {
        let value = |name: &str| {
            let index = self.tunables.iter().position(|one| one.name == name)?;
            Some(self.tunables[index].values[places[index]])
        };
        let holds =
            |condition: &Expression| condition.evaluate(&value).is_ok_and(|truth| truth != 0);
        self.conditions.iter().all(holds)
    }
}

fn tunable(parameter: &Parameter) -> Result<Tunable, String> {
    if !["int", "uint", "bool"].contains(&parameter.kind.as_str()) {
        return Err(format!("is of type `{}`", parameter.kind));
    }
    let text = plain(&parameter.values);
    let mut values = whole_numbers(&text)
        .filter(|values| !values.is_empty())
        .ok_or_else(|| format!("has values that kforge cannot read: `{text}`"))?;
    let default = parameter.default.as_ref().and_then(Value::as_i64);
    // Kernel Tuner allows a default that is not a value.
    if let Some(place) = values.iter().position(|value| Some(*value) == default) {
        values[..=place].rotate_right(1);
    }
    Ok(Tunable {
        own_name: parameter.name.clone(),
        name: tunable_name(&parameter.name),
        values,
    })
}

/// In capitals, of which a tunable has at least three.
fn tunable_name(own_name: &str) -> String {
    let name = own_name.to_uppercase();
    let capitals = name.chars().filter(char::is_ascii_uppercase).count();
    let starts_well = name.starts_with(|letter: char| letter.is_ascii_uppercase());
    if capitals >= 3 && starts_well {
        name
    } else {
        format!("TUNE_{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(conditions: &[&str]) -> Result<Space, Failure> {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|text| serde_json::json!({"Expression": text, "Parameters": []}))
            .collect();
        let text = serde_json::json!({
            "TuningParameters": [
                {"Name": "block_size_x", "Type": "int", "Values": "[16, 32, 64]", "Default": 32},
                {"Name": "bx", "Type": "int", "Values": "list(range(1, 4))"},
            ],
            "Conditions": conditions,
        });
        Space::read(&serde_json::from_value(text).unwrap(), "t1.json")
    }

    #[test]
    fn names_become_capitals_and_the_default_comes_first() {
        let space = space(&[]).unwrap();
        assert_eq!(space.tunables[0].name, "BLOCK_SIZE_X");
        assert_eq!(space.tunables[0].values, [32, 16, 64]);
        assert_eq!(space.tunables[1].name, "TUNE_BX");
        assert_eq!(space.tunables[1].values, [1, 2, 3]);
    }

    #[test]
    fn conditions_use_the_new_names_and_hold_for_the_first_values() {
        let space = space(&[
            "block_size_x * bx >= 90",
            "block_size_x % bx == 0 or bx > 2",
        ])
        .unwrap();
        assert_eq!(space.conditions[0].text(), "BLOCK_SIZE_X * TUNE_BX >= 90");
        let first: Vec<_> = space.tunables.iter().map(|one| one.values[0]).collect();
        assert!(first[0] * first[1] >= 90, "{first:?}");
    }

    #[test]
    fn conditions_that_cannot_be_read_or_met_are_named() {
        for (condition, message) in [
            ("block_size_x / 2 > 1", "`/` gives fractions"),
            ("block_size_z > 1", "no tunable `block_size_z`"),
            ("bx in [1, 2]", "Conditions[0]"),
            ("bx > 5", "no configuration was found"),
        ] {
            let failure = space(&[condition]).err().unwrap().to_string();
            assert!(failure.contains(message), "{failure}");
        }
    }

    #[test]
    fn the_fastest_configuration_comes_first() {
        let mut space = space(&[]).unwrap();
        let values = serde_json::json!({"block_size_x": 64, "TUNE_BX": 3});
        space.put_first(values.as_object(), "t1.json").unwrap();
        assert_eq!(space.tunables[0].values, [64, 32, 16]);
        assert_eq!(space.tunables[1].values, [3, 1, 2]);
        let other = serde_json::json!({"block_size_x": 65, "bx": 3});
        assert!(space.put_first(other.as_object(), "t1.json").is_err());
    }
}
