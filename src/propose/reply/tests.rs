//! Replies, edits and messages, tried one by one: what whole replies come to is in `tests/fixtures/replies`.

use super::*;

fn edit(old: &str, new: &str) -> Edit {
    Edit {
        old: old.to_owned(),
        new: new.to_owned(),
    }
}

/// The kernel that edits make, and how they were mended.
fn changed(source: &str, edits: &[Edit]) -> (String, Vec<RepairKind>) {
    match apply_edits(source, edits, edits.len()) {
        AppliedEdits::Changed {
            source,
            repairs: repaired,
        } => {
            let mends = repaired.iter().map(|repair| repair.mend).collect();
            (source, mends)
        }
        other => panic!("{other:?}"),
    }
}

fn faults(source: &str, edits: &[Edit], most: usize) -> Vec<EditFault> {
    match apply_edits(source, edits, most) {
        AppliedEdits::Missed { faults } => faults,
        other => panic!("{other:?}"),
    }
}

const KERNEL: &str = "/* kforge
launch:
  - kernel: gelu
*/
__global__ void gelu(const float* x, float* output, int n) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i < n) {
        const float value = x[i];
        output[i] = value;
    }
}
";

#[test]
fn unique_text_is_replaced_verbatim() {
    let (source, mends) = changed(KERNEL, &[edit("if (i < n) {", "if (n > i) {")]);
    assert_eq!(source, KERNEL.replace("if (i < n) {", "if (n > i) {"));
    assert_eq!(mends, []);
}

#[test]
fn edits_apply_in_order_or_not_at_all() {
    let first = edit("value = x[i]", "value = 2.0f * x[i]");
    let second = edit("2.0f * x[i];", "3.0f * x[i];");
    let (source, _) = changed(KERNEL, &[first.clone(), second.clone()]);
    assert!(source.contains("value = 3.0f * x[i];"));
    let missing = edit("nowhere(at, all);", "");
    assert_eq!(faults(KERNEL, &[first.clone(), missing], 2).len(), 1);
    assert_eq!(
        faults(KERNEL, &[first, second], 1),
        [EditFault::TooMany { given: 2, most: 1 }]
    );
}

#[test]
fn indentation_is_repaired_at_a_unique_match() {
    let flat = edit(
        "const float value = x[i];\noutput[i] = value;",
        "const float value = x[i];\nif (value > 0) {\n    output[i] = value;\n}",
    );
    let (source, mends) = changed(KERNEL, &[flat]);
    assert!(source.contains(
        "        const float value = x[i];\n        if (value > 0) {\n            output[i] = value;\n        }\n    }\n"
    ));
    assert_eq!(mends, [RepairKind::Indentation]);
}

#[test]
fn fault_message_names_lines_and_nearest_text() {
    let missing = edit("        const float value = x[i + 1];", "");
    let said = describe_faults(&faults(
        KERNEL,
        &[edit("i <", "j <"), edit("float", "int"), missing],
        3,
    ));
    assert!(
        said.contains("occurs at 3 places, in lines 5 and 8"),
        "{said}"
    );
    assert!(
        said.contains("\n 8 |         const float value = x[i];\n"),
        "{said}"
    );
    assert!(said.contains("In its place stands line 8."), "{said}");
}

#[test]
fn edits_keep_line_endings_and_tabs() {
    let windows = KERNEL.replace('\n', "\r\n");
    let lines = edit(
        "value = x[i];\n        output",
        "value = x[i];\n        value += 1;\n        output",
    );
    let (source, mends) = changed(&windows, &[lines]);
    assert_eq!(mends, [RepairKind::LineEndings]);
    assert!(source.contains("x[i];\r\n        value += 1;\r\n        output"));
    assert_eq!(source.matches('\n').count(), source.matches("\r\n").count());

    let tabs = KERNEL.replace("    ", "\t");
    let spaces = edit(
        "    if (i < n) {\n        const float value = x[i];",
        "    if (i < n) {\n        if (i > 0) {\n            f();\n        }\n        const float value = x[i];",
    );
    let (source, mends) = changed(&tabs, &[spaces]);
    assert_eq!(mends, [RepairKind::Indentation]);
    assert!(
        source.contains("\tif (i < n) {\n\t\tif (i > 0) {\n\t\t\tf();\n\t\t}\n\t\tconst"),
        "{source}"
    );
}

#[test]
fn deleted_lines_leave_no_blank_line() {
    let (source, _) = changed(KERNEL, &[edit("const float value=x[i];", "")]);
    assert_eq!(
        source,
        KERNEL.replace("        const float value = x[i];\n", "")
    );
}

#[test]
fn written_indentation_selects_the_matching_lines() {
    let source = "{\n    x();\n    {\n        x();\n    }\n}\n";
    let (mended, mends) = changed(source, &[edit("    x();", "    y();")]);
    assert_eq!(
        (mended.as_str(), mends.as_slice()),
        (
            "{\n    y();\n    {\n        x();\n    }\n}\n",
            &[RepairKind::WholeLines][..]
        )
    );
    let found = faults(source, &[edit("x();", "y();")], 1);
    assert_eq!(
        found,
        [EditFault::Ambiguous {
            edit: 1,
            lines: vec![2, 4],
            more: false
        }]
    );
}
