//! Single edits, their faults and the messages about them. Whole replies are in `tests/fixtures/replies`.

use super::*;

fn edit(old: &str, new: &str) -> Edit {
    Edit {
        old: old.to_owned(),
        new: new.to_owned(),
    }
}

/// The kernel after the edits, and what was corrected in them.
fn changed(source: &str, edits: &[Edit]) -> (String, Vec<RepairKind>) {
    match apply_edits(source, edits, edits.len()) {
        AppliedEdits::Changed { source, repairs } => {
            let kinds = repairs.iter().map(|repair| repair.kind).collect();
            (source, kinds)
        }
        other => panic!("{other:?}"),
    }
}

fn faults(source: &str, edits: &[Edit], limit: usize) -> Vec<EditFault> {
    match apply_edits(source, edits, limit) {
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
    let (source, repairs) = changed(KERNEL, &[edit("if (i < n) {", "if (n > i) {")]);
    assert_eq!(source, KERNEL.replace("if (i < n) {", "if (n > i) {"));
    assert_eq!(repairs, []);
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
        [EditFault::TooMany { given: 2, limit: 1 }]
    );
}

#[test]
fn indentation_is_repaired_at_a_unique_match() {
    let flat = edit(
        "const float value = x[i];\noutput[i] = value;",
        "const float value = x[i];\nif (value > 0) {\n    output[i] = value;\n}",
    );
    let (source, repairs) = changed(KERNEL, &[flat]);
    assert!(source.contains(
        "        const float value = x[i];\n        if (value > 0) {\n            output[i] = value;\n        }\n    }\n"
    ));
    assert_eq!(repairs, [RepairKind::Indentation]);
}

#[test]
fn fault_message_names_lines_and_nearest_text() {
    let missing = edit("        const float value = x[i + 1];", "");
    let edits = [edit("i <", "j <"), edit("float", "int"), missing];
    insta::assert_snapshot!(describe_faults(&faults(KERNEL, &edits, 3)), @r#"
    None of your edits was made: the kernel is unchanged.

    Edit 2: `old_str` occurs 3 times, in lines 5 and 8. Add a neighboring line that only the intended place has.

    Edit 3: `old_str` does not occur in the kernel.
    The most similar part of the kernel (line numbers are not part of it):
    ```
     6 |     const int i = blockIdx.x * 256 + threadIdx.x;
     7 |     if (i < n) {
     8 |         const float value = x[i];
     9 |         output[i] = value;
    10 |     }
    ```
    This line of `old_str` is not in the kernel:
    ```
            const float value = x[i + 1];
    ```
    The kernel has line 8 in its place.

    Send all edits again. Copy each `old_str` exactly from the kernel, without line numbers, and keep it short: it must occur exactly once.
    "#);
}

#[test]
fn fault_message_describes_every_fault() {
    let overtaken = [
        edit("const float value = x[i];", "float value = 0;"),
        edit("const float value = x[i];", "int value = 0;"),
    ];
    let unknown = [edit("int j = 0;\nint k = 0;", "")];
    let empty = [edit("", "int j = 0;")];
    let reversed = [edit(
        "        output[i] = value;\n        const float value = x[i];\n",
        "        output[i] = value;\n",
    )];
    let messages = [
        describe_faults(&faults(KERNEL, &overtaken, 1)),
        describe_faults(&faults(KERNEL, &overtaken, 2)),
        describe_faults(&faults(KERNEL, &unknown, 1)),
        describe_faults(&faults(KERNEL, &empty, 1)),
        describe_faults(&faults(KERNEL, &reversed, 1)),
    ];
    insta::assert_snapshot!(messages.join("----\n"), @r#"
    None of your edits was made: the kernel is unchanged.

    There are 2 edits; at most 1 is allowed. Keep the most important.

    Send all edits again. Copy each `old_str` exactly from the kernel, without line numbers, and keep it short: it must occur exactly once.
    ----
    None of your edits was made: the kernel is unchanged.

    Edit 2: an earlier edit of this reply changes the text of `old_str`. Merge the two edits, or write `old_str` as the earlier edit leaves it.

    Send all edits again. Copy each `old_str` exactly from the kernel, without line numbers, and keep it short: it must occur exactly once.
    ----
    None of your edits was made: the kernel is unchanged.

    Edit 1: `old_str` does not occur in the kernel.
    Nothing in the kernel is similar to this line of `old_str`:
    ```
    int j = 0;
    ```

    Send all edits again. Copy each `old_str` exactly from the kernel, without line numbers, and keep it short: it must occur exactly once.
    ----
    None of your edits was made: the kernel is unchanged.

    Edit 1: `old_str` is empty. To insert text, put a neighboring line in `old_str` and repeat it in `new_str`.

    Send all edits again. Copy each `old_str` exactly from the kernel, without line numbers, and keep it short: it must occur exactly once.
    ----
    None of your edits was made: the kernel is unchanged.

    Edit 1: `old_str` does not occur in the kernel.
    `new_str` is already in the kernel, in line 9.
    The most similar part of the kernel (line numbers are not part of it):
    ```
     5 | __global__ void gelu(const float* x, float* output, int n) {
     6 |     const int i = blockIdx.x * 256 + threadIdx.x;
     7 |     if (i < n) {
     8 |         const float value = x[i];
     9 |         output[i] = value;
    10 |     }
    ```
    Every line of `old_str` is in the kernel, but not in this order. The first line out of order:
    ```
            output[i] = value;
    ```
    The kernel has line 7 in its place.

    Send all edits again. Copy each `old_str` exactly from the kernel, without line numbers, and keep it short: it must occur exactly once.
    "#);
}

#[test]
fn fault_json_keeps_its_keys() {
    let repair = EditRepair {
        edit: 1,
        kind: RepairKind::LineNumbers,
    };
    assert_eq!(
        serde_json::to_value(repair).unwrap(),
        serde_json::json!({"edit": 1, "mend": "line_numbers"})
    );
    let missed = faults(KERNEL, &[edit("const float value = x[j];", "")], 1);
    let json = serde_json::to_value(&missed[0]).unwrap();
    let keys: Vec<_> = json
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "absent", "edit", "fault", "instead", "nearest", "present", "wrote",
    ];
    assert_eq!(
        keys.into_iter().collect::<std::collections::BTreeSet<_>>(),
        expected.into_iter().collect()
    );
    assert_eq!(
        serde_json::from_value::<EditFault>(json).unwrap(),
        missed[0]
    );
}

#[test]
fn edits_keep_line_endings() {
    let windows = KERNEL.replace('\n', "\r\n");
    let lines = edit(
        "value = x[i];\n        output",
        "value = x[i];\n        value += 1;\n        output",
    );
    let (source, repairs) = changed(&windows, &[lines]);
    assert_eq!(repairs, [RepairKind::LineEndings]);
    assert!(source.contains("x[i];\r\n        value += 1;\r\n        output"));
    assert_eq!(source.matches('\n').count(), source.matches("\r\n").count());
}

#[test]
fn edits_keep_tabs() {
    let tabs = KERNEL.replace("    ", "\t");
    let spaces = edit(
        "    if (i < n) {\n        const float value = x[i];",
        "    if (i < n) {\n        if (i > 0) {\n            f();\n        }\n        const float value = x[i];",
    );
    let (source, repairs) = changed(&tabs, &[spaces]);
    assert_eq!(repairs, [RepairKind::Indentation]);
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
    let (edited, repairs) = changed(source, &[edit("    x();", "    y();")]);
    assert_eq!(edited, "{\n    y();\n    {\n        x();\n    }\n}\n");
    assert_eq!(repairs, [RepairKind::WholeLines]);
    assert_eq!(
        faults(source, &[edit("x();", "y();")], 1),
        [EditFault::Ambiguous {
            edit: 1,
            lines: vec![2, 4],
            more: false
        }]
    );
}

#[test]
fn cause_of_a_repair_is_read_as_the_bottleneck() {
    let reply = parse_reply(
        "```json\n{\"cause\": \"the last block reads past the row\", \"change\": \"a bound\"}\n```\n",
        true,
    );
    let trace = reply.trace.unwrap();
    assert_eq!(trace.bottleneck, "the last block reads past the row");
    assert_eq!(trace.change, "a bound");
}

/// A kernel, and the same without its last line.
const WHOLE: &str = "/* kforge\nlaunch:\n  - {kernel: f, grid: 1, block: 1, args: x}\n*/\n__global__ void f(float* x) {\n    *x = 1;\n}\n";

#[test]
fn last_fence_may_be_missing_if_the_kernel_is_whole() {
    let code = ReplyContent::Code(WHOLE.to_owned());
    for (text, expected) in [
        (format!("```cuda\n{WHOLE}"), &code),
        (format!("Here:\n\n~~~cpp\n{WHOLE}\n"), &code),
        (
            format!("```\n{WHOLE}\nThis version writes the value once.\n"),
            &code,
        ),
        (
            format!("```cuda\n{}", WHOLE.trim_end().trim_end_matches('}')),
            &ReplyContent::Truncated,
        ),
        (
            format!(
                "```cuda\n{}",
                WHOLE.replace("kernel: f", "kernel: later").as_str()
            ),
            &ReplyContent::Truncated,
        ),
        (
            format!("```cuda\n{WHOLE}```\n\n```cuda\n{}", &WHOLE[..80]),
            &ReplyContent::Truncated,
        ),
    ] {
        assert_eq!(parse_reply(&text, true).content, *expected, "{text}");
        assert_eq!(parse_finished_kernel(&text), None, "{text}");
    }
    let fenced = format!("```cuda\n{WHOLE}```\nThis");
    assert_eq!(parse_finished_kernel(&fenced).unwrap().content, code);
}

#[test]
fn kernel_is_read_from_the_arguments_of_any_tool() {
    let fenced = format!("Done:\n```cuda\n{WHOLE}```\n");
    for arguments in [
        serde_json::json!({"code": WHOLE, "note": WHOLE.replace('1', "2")}),
        serde_json::json!({"path": "kernel.cu", "file_text": WHOLE}),
        serde_json::json!({"command": ["apply", {"content": WHOLE}], "bottleneck": "memory"}),
        serde_json::json!({"answer": fenced}),
    ] {
        let text = format!("```json\n{arguments}\n```\n\n");
        let content = parse_reply(&text, true).content;
        assert_eq!(content, ReplyContent::Code(WHOLE.to_owned()), "{text}");
    }
    let two = serde_json::json!({"old": WHOLE, "new": WHOLE.replace('1', "2")});
    let content = parse_reply(&format!("```json\n{two}\n```\n"), true).content;
    assert!(!matches!(content, ReplyContent::Code(_)), "{content:?}");
}
