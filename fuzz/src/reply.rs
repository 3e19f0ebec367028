//! Checks replies of models: parsing one, and applying its edits to a kernel.

use kforge::propose::reply::{
    AppliedEdits, Edit, ReplyContent, apply_edits, describe_faults, parse_reply,
};

/// Separates a reply from the kernel that its edits are applied to.
const KERNEL_SEPARATOR: &str = "\n=== kernel ===\n";

/// The kernel for inputs without a separator.
const KERNEL: &str = include_str!("../../kernels/softmax/rows.cu");

pub fn reply(input: &[u8]) {
    let text = super::lossy_text(input);
    let (reply, kernel) = text.split_once(KERNEL_SEPARATOR).unwrap_or((&text, KERNEL));
    let found = parse_reply(reply, true);
    assert_eq!(found, parse_reply(reply, true), "a second result differs");
    let cut = parse_reply(reply, false);
    assert_eq!(
        cut.content,
        ReplyContent::Truncated,
        "a truncated reply was taken as complete"
    );
    assert_eq!(cut.trace, found.trace);
    assert!(found.trace.is_some() || found.trace_fault.is_some());
    if let Some(trace) = &found.trace {
        let percent = trace.expected_percent.unwrap_or(0.0);
        assert!(percent.is_finite() && percent >= -100.0, "{percent}");
    }
    match &found.content {
        ReplyContent::Code(code) => {
            assert!(code.trim_start().starts_with("/*"), "no header:\n{code}");
            assert!(code.ends_with('\n') && !code.contains("\r\n"));
        }
        ReplyContent::Edits(edits) => {
            assert!(!edits.is_empty());
            check_edits(kernel, edits);
        }
        ReplyContent::Unusable(reason) => assert!(!reason.is_empty() && reason.len() < 1024),
        ReplyContent::NoValidEdit | ReplyContent::Truncated => {}
    }
    // Any two halves of the text are also an edit.
    let middle = text.len() / 2;
    let middle = (middle..=text.len()).find(|at| text.is_char_boundary(*at));
    let (old, new) = text.split_at(middle.unwrap_or(0));
    let edit = |old: &str, new: &str| Edit {
        old: old.to_owned(),
        new: new.to_owned(),
    };
    check_edits(kernel, &[edit(old, new), edit(new, old)]);
}

fn check_edits(kernel: &str, edits: &[Edit]) {
    let applied = apply_edits(kernel, edits, edits.len());
    assert_eq!(
        applied,
        apply_edits(kernel, edits, edits.len()),
        "a second result differs"
    );
    match &applied {
        AppliedEdits::Changed {
            source,
            repairs: repaired,
        } => {
            assert_ne!(source, kernel, "the edit changed nothing");
            let known = 1..=edits.len();
            assert!(repaired.iter().all(|repair| known.contains(&repair.edit)));
            if repaired.is_empty() && edits.len() == 1 && !edits[0].old.is_empty() {
                assert_eq!(
                    kernel.matches(&edits[0].old).count(),
                    1,
                    "an ambiguous edit was applied"
                );
                assert_eq!(*source, kernel.replacen(&edits[0].old, &edits[0].new, 1));
            }
        }
        AppliedEdits::NoOp => {}
        AppliedEdits::Missed { faults } => {
            assert!(!faults.is_empty());
            for line in fault_lines(faults) {
                super::assert_line(line, kernel, &describe_faults(faults));
            }
            assert!(describe_faults(faults).len() < 64 * 1024);
        }
    }
    if let [first, ..] = edits {
        let refused = apply_edits(kernel, edits, edits.len() - 1);
        assert!(matches!(refused, AppliedEdits::Missed { .. }), "{first:?}");
    }
}

/// All line numbers that the faults name.
fn fault_lines(faults: &[kforge::propose::reply::EditFault]) -> Vec<u32> {
    use kforge::propose::reply::EditFault;
    let mut named = Vec::new();
    for fault in faults {
        match fault {
            EditFault::Ambiguous { lines, .. } => named.extend(lines),
            EditFault::Missed {
                nearest,
                instead,
                present,
                ..
            } => {
                named.extend(nearest.iter().chain(instead).map(|near| near.line));
                named.extend(present);
            }
            EditFault::TooMany { .. } | EditFault::Empty { .. } | EditFault::Overtaken { .. } => {}
        }
    }
    named.into_iter().map(|line| line as u32).collect()
}
