//! Hints for compile errors of a task's own kernels (its oracle, baselines and starting kernels), in the words of the task: dtypes of an
//! oracle's outputs, names of axes.
//!
//! Pure: from text to text. Adds hints, and never changes the compiler's message.

use crate::kernel::{ArgumentHeader, Kernel};
use crate::task::{AxisKind, Definition};

/// The hints for a kernel that did not compile; `None` if there is none. `messages`: the compiler's.
pub(super) fn explain(
    messages: &str,
    kernel: &Kernel,
    definition: &Definition,
    is_oracle: bool,
) -> Option<String> {
    let mut lines = messages.lines();
    let mismatched = lines.find_map(|line| mismatched_output(line, kernel, definition));
    let mut hints = Vec::new();
    if is_oracle && let Some(output) = mismatched {
        let dtype = definition.outputs.get(output).map(|output| output.dtype);
        hints.extend(dtype.map(|dtype| {
            format!(
                "the outputs of an oracle are `double*` whatever their dtype: declare `double* {output}`, not a pointer to {dtype}"
            )
        }));
    }
    for name in messages.lines().filter_map(undeclared_name) {
        let mut axes = definition.axes.iter();
        let found = axes.find(|(axis, _)| axis.to_lowercase() == name.to_lowercase());
        if let Some(hint) = found.map(|(axis, found)| axis_hint(axis, found.kind))
            && !hints.contains(&hint)
        {
            hints.push(hint);
        }
    }
    (!hints.is_empty()).then(|| hints.join("\nhint: "))
}

/// The hint that says how a kernel's code gets the size of an axis.
fn axis_hint(axis: &str, kind: AxisKind) -> String {
    match kind {
        AxisKind::Const => format!(
            "constant axes are upper case in the code: `{}`",
            axis.to_uppercase()
        ),
        _ => format!(
            "`{axis}` is a variable axis: add `{axis}` to `args` in the header, and `int {axis}` to the parameters of the kernel"
        ),
    }
}

/// The output that a message about an argument's type is about. The message names the argument by its number or its name.
fn mismatched_output<'k>(
    reason: &str,
    kernel: &'k Kernel,
    definition: &Definition,
) -> Option<&'k str> {
    let (_, after) = reason.split_once("argument ")?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    let arguments = kernel.header.launches.iter().flat_map(|launch| {
        let position = digits.parse::<usize>().ok();
        let by_number =
            position.and_then(|position| launch.arguments.get(position.checked_sub(1)?));
        let by_name = (launch.arguments.iter()).find(|argument| match argument {
            ArgumentHeader::Tensor(name) => after.starts_with(&format!("`{name}`")),
            _ => false,
        });
        by_number.or(by_name)
    });
    let mut tensors = arguments.filter_map(|argument| match argument {
        ArgumentHeader::Tensor(name) => Some(name.as_str()),
        _ => None,
    });
    tensors.find(|name| definition.outputs.contains_key(*name))
}

/// The name in messages such as "'x' was not declared in this scope".
fn undeclared_name(reason: &str) -> Option<&str> {
    const PHRASES: [&str; 3] = ["was not declared", "undeclared identifier", "is undefined"];
    if !PHRASES.iter().any(|phrase| reason.contains(phrase)) {
        return None;
    }
    let is_quote = |letter: char| matches!(letter, '\'' | '"' | '`' | '‘' | '’');
    let mut parts = reason.split(is_quote);
    parts.nth(1).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFINITION: &str = r#"{"name": "t", "axes": {"rows": {"type": "var"}, "hidden_size": {"type": "const", "value": 8}},
        "inputs": {"x": {"shape": ["rows", "hidden_size"], "dtype": "float16"}},
        "outputs": {"output": {"shape": ["rows", "hidden_size"], "dtype": "float16"}}}"#;

    #[test]
    fn compiler_messages_are_explained_in_terms_of_the_task() {
        let definition = Definition::parse(DEFINITION, "definition.json").unwrap();
        let header = "/* kforge\nlaunch:\n  - kernel: k\n    grid: rows\n    block: 1\n    args: x, output, rows\n*/\n";
        let kernel = Kernel::parse(header, &definition).unwrap();
        for (reason, is_oracle, expected) in [
            (
                "line 4: argument 2: the header passes a pointer to a different type than the kernel takes",
                true,
                Some("`double* output`, not a pointer to float16"),
            ),
            (
                "line 4: argument `output`: the header passes `double*`, the kernel takes `__half*`",
                true,
                Some("`double* output`"),
            ),
            ("line 4: argument 2: another type", false, None),
            ("line 4: argument 1: another type", true, None),
            (
                "line 9: 'hidden_size' was not declared in this scope",
                true,
                Some("upper case in the code: `HIDDEN_SIZE`"),
            ),
            (
                "line 9: use of undeclared identifier 'ROWS'",
                false,
                Some("`rows` is a variable axis: add `rows` to `args`"),
            ),
            ("line 9: 'foo' was not declared in this scope", false, None),
        ] {
            let found = explain(reason, &kernel, &definition, is_oracle);
            match expected {
                Some(words) => assert!(
                    found.as_ref().is_some_and(|found| found.contains(words)),
                    "{reason}: {found:?}"
                ),
                None => assert_eq!(found, None, "{reason}"),
            }
        }
    }
}
