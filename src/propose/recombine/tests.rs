//! Children of two small `softmax` kernels.

use super::*;
use crate::task::TaskFiles;

/// A kernel with the list of its tunable `ROWS`, and the bodies of a device function and of the kernel.
fn kernel(tunable: &str, helper: &str, body: &str) -> String {
    format!(
        "/* kforge\nlaunch:\n  - kernel: softmax\n    grid: rows\n    block: ROWS\n    args: x, output, rows, columns\ntunables:\n  ROWS: {tunable}\n*/\n\
         __device__ float twice(float a) {{ {helper} }}\n\
         __global__ void softmax(const float* x, float* output, int rows, int columns) {{\n{body}}}\n"
    )
}

fn all_children(first: &str, second: &str) -> Vec<Proposal> {
    let task = TaskFiles::find("softmax")
        .and_then(|files| files.load())
        .expect("softmax is shipped");
    (0..)
        .map_while(|attempt| recombine(first, second, &task, attempt).ok())
        .collect()
}

#[test]
fn each_difference_makes_a_child() {
    let first = kernel(
        "[1, 2]",
        "return a + a;",
        "    int i = blockIdx.x;\n    float sum = x[i];\n    output[i] = twice(sum);\n",
    );
    let second = kernel(
        "[2, 1]",
        "return 2.0f * a;",
        "    int i = blockIdx.x;\n    float sum = x[i] + 1.0f;\n#pragma unroll 2\n    for (;;) break;\n    output[i] = twice(sum);\n",
    );
    let children = all_children(&first, &second);
    let details: Vec<_> = children
        .iter()
        .map(|child| format!("{}\n", child.detail))
        .collect();
    insta::assert_snapshot!(details.concat(), @r#"
    second parent with the statements of line 12; assumes that equal names mean the same
    first parent with the statements of line 12; assumes that equal names mean the same
    second parent with ROWS=1
    second parent with function twice
    first parent with function twice
    first parent with ROWS=2
    "#);
    let with_loop = children
        .iter()
        .find(|child| child.detail.starts_with("first parent with the statements"));
    insta::assert_snapshot!(with_loop.map_or("", |child| &child.source), @r#"
    /* kforge
    launch:
      - kernel: softmax
        grid: rows
        block: ROWS
        args: x, output, rows, columns
    tunables:
      ROWS: [1, 2]
    */
    __device__ float twice(float a) { return a + a; }
    __global__ void softmax(const float* x, float* output, int rows, int columns) {
        int i = blockIdx.x;
        float sum = x[i] + 1.0f;
    #pragma unroll 2
        for (;;) break;
        output[i] = twice(sum);
    }
    "#);
}

#[test]
fn children_with_undeclared_names_are_dropped() {
    let first = kernel(
        "[1]",
        "return a;",
        "    int i = 0;\n    float sum = x[i];\n    int rest = 0;\n    output[i] = sum;\n",
    );
    let second = kernel(
        "[1]",
        "return a;",
        "    int i = 0;\n    float other = x[i];\n    int rest = 0;\n    output[i] = other;\n",
    );
    // Taking over one of the two statements would use a name that is not declared.
    assert!(all_children(&first, &second).is_empty());
}

#[test]
fn tunables_of_the_other_parent_are_not_declared() {
    let body = |size: &str| {
        format!(
            "    int i = blockIdx.x * {size};\n    float sum = 0.0f;\n    output[i] = twice(sum);\n"
        )
    };
    let first = kernel("[1]", "return a;", &body("32"));
    let second =
        kernel("[1]", "return a;", &body("SIZE")).replace("  ROWS:", "  SIZE: [32]\n  ROWS:");
    for child in all_children(&first, &second) {
        let has_tunable = child.source.contains("SIZE: [32]");
        assert!(
            has_tunable || !child.source.contains("SIZE"),
            "{}",
            child.source
        );
    }
}

#[test]
fn names_of_the_other_parent_keep_their_kind() {
    let body = |declared: &str, used: &str| {
        format!("    {declared}\n    int i = blockIdx.x;\n    {used}\n")
    };
    let first = kernel(
        "[1]",
        "return a;",
        &body("float sum = x[0];", "output[i] = sum;"),
    );
    let second = kernel(
        "[1]",
        "return a;",
        &body("float sum[2] = {x[0], x[1]};", "output[i] = sum[1];"),
    );
    // A child with one of the two differences would use an array as a number, or a number as an array.
    assert!(
        all_children(&first, &second)
            .iter()
            .all(|child| { child.source.contains("sum[2]") == child.source.contains("sum[1]") })
    );
}

#[test]
fn equal_parents_and_broken_sources_have_no_children() {
    let parent = kernel("[1]", "return a;", "    output[0] = x[0];\n");
    assert!(all_children(&parent, &parent).is_empty());
    assert!(all_children("garbage", &parent).is_empty());
}
