//! What the tests of transformations share: a small kernel around a body, and the lines that a transformation changes.

use super::{Subject, Transformation};
use crate::task::{Task, TaskFiles};

/// The `softmax` task: `x[rows][columns]` in, `output` the same, both float32.
pub(super) fn task() -> Task {
    TaskFiles::find("softmax")
        .and_then(|files| files.load())
        .expect("softmax is shipped")
}

/// A kernel of that task whose body starts in line 9, with a tunable BLOCK.
pub(super) fn kernel(body: &str) -> String {
    format!(
        "/* kforge\nlaunch:\n  - kernel: softmax\n    grid: ceil_div(rows, 128)\n    block: 128\n    args: x, output, rows, columns\n*/\n\
         __global__ void softmax(const float* x, float* output, int rows, int columns) {{\n{body}}}\n"
    )
}

/// What a transformation offers.
pub(super) fn site_labels(transformation: &dyn Transformation, body: &str) -> String {
    let (task, source) = (task(), kernel(body));
    let subject = Subject::new(&source, &task).expect("a kernel");
    let places = transformation.sites(&subject);
    places
        .iter()
        .map(|place| format!("{} (line {})\n", place.label, place.line))
        .collect()
}

/// The lines that differ after the transformation at the place whose label begins so.
pub(super) fn changes(transformation: &dyn Transformation, body: &str, label: &str) -> String {
    changes_in_source(transformation, &kernel(body), label)
}

pub(super) fn changes_in_source(
    transformation: &dyn Transformation,
    source: &str,
    label: &str,
) -> String {
    let task = task();
    let subject = Subject::new(source, &task).expect("a kernel");
    let places = transformation.sites(&subject);
    let place = places
        .iter()
        .find(|place| format!("{} (line {})", place.label, place.line).starts_with(label))
        .unwrap_or_else(|| panic!("no place `{label}` in {places:?}"));
    let child = place.edits.apply(source).expect("edits that fit");
    assert!(
        super::kernel_identity(&child, &task).is_some(),
        "no kernel:\n{child}"
    );
    let (before, after): (Vec<_>, Vec<_>) = (source.lines().collect(), child.lines().collect());
    let head = before
        .iter()
        .zip(&after)
        .take_while(|(left, right)| left == right)
        .count();
    let tail = before[head..]
        .iter()
        .rev()
        .zip(after[head..].iter().rev())
        .take_while(|(left, right)| left == right)
        .count();
    let part = |mark: &str, lines: &[&str]| {
        lines
            .iter()
            .map(|line| format!("{mark} {line}\n"))
            .collect::<String>()
    };
    part("-", &before[head..before.len() - tail]) + &part("+", &after[head..after.len() - tail])
}
