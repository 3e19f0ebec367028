//! Checks the `constraints` of a definition on every workload.
//!
//! FlashInfer-Bench constraints are Python expressions. Those of axes are evaluated, and those of single elements of stored tensors, such as
//! `cu_seqlens[-1].item()`. A constraint in another form, or about values that are drawn, is not checked. Runs no Python.

use indexmap::IndexMap;
use serde_json::Value;

use super::definition::Definition;
use super::workload::{InputSource, Workload};
use crate::base::Failure;
use crate::base::expression::Expression;

/// A workload that breaks a constraint: its line in the file, and what is wrong.
pub(super) struct BrokenConstraint {
    pub(super) line: usize,
    pub(super) failure: Failure,
}

/// The constraints that workloads break. `text`: the definition's JSON.
pub(super) fn broken_constraints(
    text: &str,
    definition: &Definition,
    workloads: &[Workload],
) -> Vec<BrokenConstraint> {
    let root: Value = serde_json::from_str(text).unwrap_or_default();
    let constraints = root.get("constraints").and_then(Value::as_array);
    let mut broken = Vec::new();
    for constraint in constraints.into_iter().flatten().filter_map(Value::as_str) {
        for workload in workloads {
            let Some(values) = false_values(constraint, definition, workload) else {
                continue;
            };
            let message = format!(
                "workload `{}` breaks the constraint `{constraint}`: {values}",
                workload.id
            );
            let hint =
                "correct the workload, or the constraint under `constraints` of the definition";
            broken.push(BrokenConstraint {
                line: workload.line,
                failure: Failure::usage(message).hint(hint),
            });
        }
    }
    broken
}

/// What the names of a constraint stand for, if it does not hold. `None` if it holds or cannot be evaluated.
fn false_values(constraint: &str, definition: &Definition, workload: &Workload) -> Option<String> {
    let mut elements: IndexMap<String, (String, i64)> = IndexMap::new();
    let mut plain = String::new();
    let mut rest = constraint;
    while let Some(open) = rest.find('[') {
        let (before, after) = rest.split_at(open);
        let (index, after) = after[1..].split_once(']')?;
        let start = before
            .rfind(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'))
            .map_or(0, |place| place + 1);
        let (before, input) = before.split_at(start);
        let value = element(workload, input, index.trim().parse().ok()?)?;
        let name = format!("element_{}_of_a_tensor", elements.len());
        elements.insert(name.clone(), (format!("{input}[{index}]"), value));
        plain += before;
        plain += &name;
        rest = after.strip_prefix(".item()").unwrap_or(after);
    }
    plain += rest;
    let expression = Expression::parse(&plain).ok()?;
    let value_of = |name: &str| {
        let element = elements.get(name).map(|(_, value)| *value);
        let constant = || definition.axes.get(name)?.value;
        element
            .or_else(|| workload.binding.axes.get(name).copied())
            .or_else(constant)
    };
    let holds = expression.evaluate(&value_of).ok()? != 0;
    let mut values: Vec<String> = Vec::new();
    for (name, _) in expression.names() {
        let shown = elements.get(name).map_or(name, |(text, _)| text.as_str());
        let value = format!("{shown} is {}", value_of(name)?);
        if !values.contains(&value) {
            values.push(value);
        }
    }
    (!holds).then(|| values.join(", "))
}

/// An element of an input of integers whose values are in a file.
fn element(workload: &Workload, input: &str, index: i64) -> Option<i64> {
    match workload.inputs.get(input)? {
        InputSource::Stored(tensor) => tensor.integer(index),
        _ => None,
    }
}
