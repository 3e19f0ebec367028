//! kforge's own operators on headers in every form that people and models write.

use std::collections::BTreeSet;

use std::collections::BTreeMap;

use indexmap::IndexMap;

use super::*;
use crate::task::TaskFiles;

const BODY: &str = "
__global__ void softmax(const float* x, float* output, int rows, int columns) {
    int row = blockIdx.x * 128 + threadIdx.x;
    if (row >= rows) return;
    for (int i = 0; i < columns; i++) output[row * columns + i] = STEP * x[row * columns + i];
}
";

/// Headers with the same meaning.
const HEADERS: [&str; 6] = [
    "launch:
  - kernel: softmax
    grid: ceil_div(rows, 128)
    block: 128
    args: x, output, rows, columns
tunables:
  STEP: [2, 1]
",
    "launch:
  - kernel: softmax
    grid: [ceil_div(rows,
      128)]  # in blocks
    block: [128]
    args: [x, output, rows, columns,]
tunables:
  STEP: [2,
    1]
",
    "launch:
  - kernel: softmax
    grid:
      # in blocks
      - ceil_div(rows, 128)
    block:
    - 128  # threads

    args:
      - x
      - output
      - rows
      - columns
tunables:
  STEP:
  - 2
  - 1
",
    "launch:
  kernel: softmax
  args: x, output,
    rows, columns
  grid: {x: \"ceil_div(rows, 128)\"}
  block: {x: 128}
tunables:
  STEP: 2, 1  # both
",
    "launch:
\t- kernel: softmax
\t\tgrid: \"ceil_div(rows, 128)\"
\t\tblock: '128'
\t\targs: x, output, rows, columns
tunables:
\tSTEP: [2, 2, 1]
",
    " * launch:
 *   - kernel: softmax
 *     grid: dim3(ceil_div(rows, 128))
 *     block: (128,)
 *     args: x, output, rows, columns
 * tunables:
 *   STEP:
 *     - 2
 *     - 1
 ",
];

fn task() -> Task {
    TaskFiles::find("softmax")
        .and_then(|files| files.load())
        .unwrap()
}

/// The kernels, as a search stores them.
fn kernels(task: &Task) -> Vec<Candidate> {
    HEADERS
        .iter()
        .map(|header| {
            let source = format!("/* kforge\n{header}*/{BODY}");
            Candidate::from_source(source, String::new(), task)
        })
        .collect()
}

/// What the launch of a kernel is, and its tunables.
fn meaning(source: &str, task: &Task) -> String {
    let kernel = Kernel::parse(source, &task.definition).unwrap_or_else(|error| {
        panic!("{error}\n{source}");
    });
    let launch = &kernel.header.launches[0];
    let texts = |sizes: &[crate::kernel::LocatedExpression]| -> Vec<String> {
        let text = |size: &crate::kernel::LocatedExpression| size.expression.text().to_owned();
        sizes.iter().map(text).collect()
    };
    let code = source.split("*/").nth(1).unwrap();
    format!(
        "{:?} {:?} {:?} {:?}\n{code}",
        texts(&launch.grid),
        texts(&launch.block),
        kernel.point(),
        kernel.space(),
    )
}

#[test]
fn operators_change_headers_of_every_form_alike() {
    let task = task();
    let kernels = kernels(&task);
    let children = |source: &str| -> BTreeSet<String> {
        mutate::children(source, &task, 7)
            .map(|child| format!("{} {}", child.transformation, meaning(&child.source, &task)))
            .collect()
    };
    let expected = children(&kernels[0].source);
    assert!(expected.len() > 20, "{}", expected.len());
    for kernel in &kernels {
        assert_eq!(kernel.point["STEP"], 2, "{}", kernel.source);
        assert_eq!(children(&kernel.source), expected, "{}", kernel.source);
    }
}

#[test]
fn tuning_and_recombination_keep_headers_of_every_form_valid() {
    let task = task();
    let kernels = kernels(&task);
    let other = kernels[0]
        .source
        .replace("128", "256")
        .replace("[2, 1]", "[1, 2]")
        .replace("return;", "return ;");
    let changed = meaning(&other, &task);
    for kernel in &kernels {
        let parents = [&kernel.source, &other].map(|source| Parent {
            step: 1,
            source: source.as_str().into(),
        });
        let mut brief = Brief {
            model: None,
            step: 1,
            operator: Operator::Autotune,
            parents: vec![1],
            seed: 7,
            start: None,
            point: Some(IndexMap::from([("STEP".to_owned(), 1)])),
            island: None,
            attempt: 0,
            retired: BTreeMap::default(),
            weights: Vec::new(),
        };
        let BriefOutcome::Candidate(tuned) = propose(&brief, &parents[..1], &task) else {
            panic!("{}", kernel.source);
        };
        assert_eq!(tuned.point["STEP"], 1, "{}", tuned.source);
        assert_eq!(tuned.family, kernel.family, "{}", kernel.source);
        brief.operator = Operator::Recombine;
        brief.point = None;
        let mut launches = 0;
        for attempt in 0..16 {
            brief.attempt = attempt;
            let BriefOutcome::Candidate(child) = propose(&brief, &parents, &task) else {
                continue;
            };
            let child = meaning(&child.source, &task);
            launches += usize::from(
                child.lines().next().unwrap_or_default().contains("256")
                    || child.starts_with(changed.lines().next().unwrap_or_default()),
            );
        }
        assert!(
            launches > 0,
            "no child has the other launch: {}",
            kernel.source
        );
    }
}
