//! Shared by the tests of transformations: a small kernel around a given body, and the lines that a transformation changes.

use super::subject::Subject;
use super::transformation::Transformation;
use crate::propose::child_check::ParentNames;
use crate::task::{Task, TaskFiles};

/// A body that adds a row of `x` and its first row.
pub(super) const SUM_OF_ROW_AND_FIRST: &str = "    int row = blockIdx.x;\n    if (row >= rows) return;\n#pragma unroll 2\n    for (int i = 0; i < columns; i++) {\n        output[row * columns + i] = x[row * columns + i] + x[i];\n    }\n";

/// The `softmax` task: input `x[rows][columns]` and `output` of the same shape, both float32.
pub(super) fn task() -> Task {
    TaskFiles::find("softmax")
        .and_then(|files| files.load())
        .expect("softmax is shipped")
}

/// A kernel of that task whose body starts in line 9.
pub(super) fn kernel(body: &str) -> String {
    format!(
        "/* kforge\nlaunch:\n  - kernel: softmax\n    grid: ceil_div(rows, 128)\n    block: 128\n    args: x, output, rows, columns\n*/\n\
         __global__ void softmax(const float* x, float* output, int rows, int columns) {{\n{body}}}\n"
    )
}

/// The labels and lines of all sites, one a line.
pub(super) fn site_labels(transformation: &dyn Transformation, body: &str) -> String {
    let (task, source) = (task(), kernel(body));
    let subject = Subject::new(&source, &task).expect("a kernel");
    let sites = transformation.sites(&subject);
    sites
        .iter()
        .map(|site| format!("{} (line {})\n", site.label, site.line))
        .collect()
}

/// The lines that differ after the rewrite whose label starts with `label`.
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
    let sites = transformation.sites(&subject);
    let site = sites
        .iter()
        .find(|site| format!("{} (line {})", site.label, site.line).starts_with(label))
        .unwrap_or_else(|| panic!("no site `{label}` in {sites:?}"));
    let child = site.edits.apply(source).expect("edits do not overlap");
    assert!(
        ParentNames::of(&subject.syntax, &task)
            .child(&site.edits, None, &task)
            .is_some(),
        "not a valid child:\n{child}"
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
    let marked = |mark: &str, lines: &[&str]| {
        lines
            .iter()
            .map(|line| format!("{mark} {line}\n"))
            .collect::<String>()
    };
    marked("-", &before[head..before.len() - tail]) + &marked("+", &after[head..after.len() - tail])
}
