//! The shipped task of the same definition as one from elsewhere: its kernels, distributions and tolerances serve that one too.
//!
//! Two definitions agree if they have the same name, and the same inputs and outputs in the same order, with the same names, dtypes, axes
//! and constant sizes. Whether they compute the same is for the oracle to say: the kernels are judged by the other one's reference.

use super::definition::{Definition, Tensor};
use super::files::{TaskFiles, embedded_names};

/// The files of the shipped task whose definition agrees with this one.
pub(super) fn shipped_twin(definition: &Definition) -> Option<TaskFiles> {
    embedded_names().into_iter().find_map(|name| {
        let files = TaskFiles::embedded(name)?.ok()?;
        let task = files.load().ok()?;
        agree(&task.definition, definition).then_some(files)
    })
}

/// Whether kernels for one definition can be launched for the other.
fn agree(one: &Definition, other: &Definition) -> bool {
    let axis = |definition: &Definition, name: &String| {
        let axis = definition.axes.get(name)?;
        Some((name.clone(), axis.kind, axis.value))
    };
    let tensor = |definition: &Definition, (name, tensor): (&String, &Tensor)| {
        let axes = tensor.shape.as_ref();
        let axes = axes.map(|axes| axes.iter().map(|name| axis(definition, name)).collect());
        let axes: Option<Vec<_>> = axes;
        (name.clone(), tensor.dtype, axes)
    };
    let tensors = |definition: &Definition| -> Vec<_> {
        let inputs = definition.inputs.iter();
        let all = inputs.chain(&definition.outputs);
        all.map(|one| tensor(definition, one)).collect()
    };
    one.name == other.name
        && one.inputs.len() == other.inputs.len()
        && tensors(one) == tensors(other)
}

/// The text of `task.yaml` without some of its keys, each with its value and the comments before it.
pub(super) fn without_keys(text: &str, keys: &[&str]) -> String {
    let mut kept = String::new();
    let mut comments = String::new();
    let mut is_kept = true;
    for line in text.lines() {
        if line.starts_with('#') {
            comments += line;
            comments.push('\n');
            continue;
        }
        if !line.starts_with(' ') && !line.is_empty() {
            let key = line.split(':').next().unwrap_or_default();
            is_kept = !keys.contains(&key);
        }
        if is_kept {
            kept += &comments;
            kept += line;
            kept.push('\n');
        }
        comments.clear();
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_agrees_with_itself_and_with_no_other() {
        let definition = |name: &str| {
            let files = TaskFiles::embedded(name).unwrap().unwrap();
            files.load().unwrap().definition
        };
        for name in embedded_names() {
            let own = definition(name);
            assert_eq!(shipped_twin(&own).unwrap().name, name);
            for change in 0..5 {
                let mut other = own.clone();
                match change {
                    0 => {
                        let output = other.outputs.keys().next().unwrap().clone();
                        let tensor = other.outputs.shift_remove(&output).unwrap();
                        other.outputs.insert("another".to_owned(), tensor);
                    }
                    1 => other.inputs[0].dtype = crate::task::DType::Int16,
                    2 => other.name += "_2",
                    3 => other.inputs[0].shape.as_mut().unwrap().reverse(),
                    _ => {
                        let first = other.inputs[0].shape.as_ref().unwrap()[0].clone();
                        other.axes[&first].value = Some(12_345);
                    }
                }
                assert!(shipped_twin(&other).is_none(), "{name}, {change}");
            }
        }
    }

    #[test]
    fn keys_are_removed_with_their_values_and_comments() {
        let text =
            "# About all.\na: 1\n# About b.\nb:\n  # Inside.\n  c: 2\n# About d.\nd: {e: 3}\n";
        assert_eq!(
            without_keys(text, &["b"]),
            "# About all.\na: 1\n# About d.\nd: {e: 3}\n"
        );
        assert_eq!(
            without_keys(text, &["a", "d"]),
            "# About b.\nb:\n  # Inside.\n  c: 2\n"
        );
    }
}
