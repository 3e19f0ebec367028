//! Replies as models write them, and what kforge must make of each: the kernel, the edits and their result, the trace.
//!
//! `fixtures/replies/NAME.md` is a reply, `expected.yaml` lists the expectations, `kernels/` has the kernels that they name.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use kforge::kernel::Kernel;
use kforge::propose::reply::{
    AppliedEdits, Edit, EditFault, ParsedReply, RepairKind, ReplyContent, apply_edits,
    describe_faults, parse_finished_kernel, parse_reply,
};
use kforge::task::{TaskFiles, embedded_names};
use serde::Deserialize;

/// The most edits of a reply: the default of `llm.max_edits`.
const MAX_EDITS: usize = 2;

/// What kforge must make of a reply. An absent key is not checked, except that no trace is expected without `trace`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ExpectedReply {
    /// Whether the reply was not cut off.
    complete: bool,
    /// `unusable`, `truncated` or `no_valid_edit`.
    content: Option<String>,
    /// A part of the reason for `unusable`.
    reason: Option<String>,
    /// The file with the expected kernel, which must be equal.
    code: Option<String>,
    /// The task of the kernel: its header must fit.
    task: Option<String>,
    /// The number of edits.
    edits: Option<usize>,
    /// The file with the kernel to which the edits are applied.
    against: Option<String>,
    /// `changed`, `missed` or `no_op`.
    result: Option<String>,
    /// Everything that was corrected in the edits, in order.
    repairs: Vec<RepairKind>,
    /// The kinds of faults, in order.
    faults: Vec<String>,
    /// Parts of the message to the model.
    message: Vec<String>,
    /// Parts of the resulting kernel.
    contains: Vec<String>,
    /// Texts that the resulting kernel must not contain.
    lacks: Vec<String>,
    trace: Option<ExpectedTrace>,
    /// A part of the trace's fault. Without this, a trace must have no fault.
    trace_fault: Option<String>,
    /// A part of the notes.
    notes: Option<String>,
}

impl Default for ExpectedReply {
    fn default() -> Self {
        Self {
            complete: true,
            content: None,
            reason: None,
            code: None,
            task: None,
            edits: None,
            against: None,
            result: None,
            repairs: Vec::new(),
            faults: Vec::new(),
            message: Vec::new(),
            contains: Vec::new(),
            lacks: Vec::new(),
            trace: None,
            trace_fault: None,
            notes: None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedTrace {
    /// A part of it.
    bottleneck: String,
    #[serde(default)]
    expected_percent: Option<f64>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/replies")
}

fn kernel(name: &str) -> String {
    std::fs::read_to_string(folder().join("kernels").join(name)).unwrap()
}

/// Everything that differs from the expectation.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn check(&mut self, holds: bool, describe: impl FnOnce() -> String) {
        if !holds {
            self.0.push(describe());
        }
    }
}

fn check_reply(expected: &ExpectedReply, reply: &ParsedReply) -> Failures {
    let mut failures = Failures::default();
    check_trace(expected, reply, &mut failures);
    if let Some(part) = &expected.notes {
        let notes = reply.notes.join("; ");
        failures.check(notes.contains(part), || format!("notes: {notes}"));
    }
    let source = match &reply.content {
        ReplyContent::Code(code) => {
            failures.check(
                expected.content.is_none() && expected.edits.is_none(),
                || format!("unexpected code:\n{code}"),
            );
            if let Some(name) = &expected.code {
                let wanted = kernel(name);
                failures.check(*code == wanted, || format!("another kernel:\n{code}"));
            }
            Some(code.clone())
        }
        ReplyContent::Edits(edits) => {
            failures.check(expected.edits == Some(edits.len()), || {
                format!("{edits:#?}")
            });
            let against = expected.against.as_deref().map(kernel).unwrap_or_default();
            check_applied(
                expected,
                apply_edits(&against, edits, MAX_EDITS),
                &mut failures,
            )
        }
        other => {
            let (name, reason) = match other {
                ReplyContent::NoValidEdit => ("no_valid_edit", ""),
                ReplyContent::Truncated => ("truncated", ""),
                ReplyContent::Unusable(reason) => ("unusable", reason.as_str()),
                ReplyContent::Code(_) | ReplyContent::Edits(_) => unreachable!("matched above"),
            };
            let part = expected.reason.as_deref().unwrap_or_default();
            let is_expected = expected.content.as_deref() == Some(name) && reason.contains(part);
            failures.check(is_expected, || format!("{other:?}"));
            None
        }
    };
    if let Some(source) = source {
        check_source(expected, &source, &mut failures);
    }
    failures
}

fn check_trace(expected: &ExpectedReply, reply: &ParsedReply, failures: &mut Failures) {
    let fault = reply.trace_fault.as_deref();
    match &expected.trace_fault {
        Some(part) => failures.check(fault.is_some_and(|fault| fault.contains(part)), || {
            format!("the trace's fault: {fault:?}")
        }),
        None => failures.check(fault.is_none() || reply.trace.is_none(), || {
            format!("unexpected fault of the trace: {fault:?}")
        }),
    }
    match (&expected.trace, &reply.trace) {
        (None, None) => {}
        (Some(wanted), Some(trace)) => {
            let is_close = match (wanted.expected_percent, trace.expected_percent) {
                (Some(wanted), Some(found)) => (wanted - found).abs() < 0.01,
                (wanted, found) => wanted.is_none() && found.is_none(),
            };
            let is_expected = trace.bottleneck.contains(&wanted.bottleneck) && is_close;
            failures.check(is_expected && !trace.verbatim.is_empty(), || {
                format!("{trace:?}")
            });
        }
        (wanted, found) => failures
            .0
            .push(format!("expected {wanted:?}, found {found:?}")),
    }
}

/// Checks the result of the edits. Returns the changed kernel.
fn check_applied(
    expected: &ExpectedReply,
    applied: AppliedEdits,
    failures: &mut Failures,
) -> Option<String> {
    let result = expected.result.as_deref();
    match applied {
        AppliedEdits::Changed { source, repairs } => {
            let kinds: Vec<_> = repairs.iter().map(|repair| repair.kind).collect();
            failures.check(result == Some("changed"), || format!("changed:\n{source}"));
            failures.check(kinds == expected.repairs, || format!("repairs: {kinds:?}"));
            Some(source)
        }
        AppliedEdits::NoOp => {
            failures.check(result == Some("no_op"), || "nothing changed".to_owned());
            None
        }
        AppliedEdits::Missed { faults } => {
            let kind = |fault: &EditFault| {
                let json = serde_json::to_value(fault).unwrap();
                json["fault"].as_str().unwrap().to_owned()
            };
            let kinds: Vec<_> = faults.iter().map(kind).collect();
            let message = describe_faults(&faults);
            let is_expected = result == Some("missed")
                && kinds == expected.faults
                && expected.message.iter().all(|part| message.contains(part));
            failures.check(is_expected, || format!("{kinds:?}:\n{message}"));
            None
        }
    }
}

fn check_source(expected: &ExpectedReply, source: &str, failures: &mut Failures) {
    for part in &expected.contains {
        failures.check(source.contains(part), || {
            format!("lacks `{part}`:\n{source}")
        });
    }
    for part in &expected.lacks {
        failures.check(!source.contains(part), || {
            format!("contains `{part}`:\n{source}")
        });
    }
    let task = expected.task.as_deref().expect("the task of a kernel");
    assert!(embedded_names().contains(&task), "{task}");
    let task = TaskFiles::find(task).unwrap().load().unwrap();
    if let Err(error) = Kernel::parse(source, &task.definition) {
        failures.0.push(format!("its header: {error}"));
    }
}

#[test]
fn recorded_replies_parse_as_expected() {
    let table = std::fs::read_to_string(folder().join("expected.yaml")).unwrap();
    let table: IndexMap<String, ExpectedReply> = serde_yaml::from_str(&table).unwrap();
    let mut failures = Vec::new();
    for (name, expected) in &table {
        let text = std::fs::read_to_string(folder().join(format!("{name}.md"))).unwrap();
        let reply = parse_reply(&text, expected.complete);
        for failure in check_reply(expected, &reply).0 {
            failures.push(format!("== {name}: {failure}"));
        }
    }
    let replies = std::fs::read_dir(folder()).unwrap().flatten();
    let replies = replies.filter(|file| file.path().extension().is_some_and(|kind| kind == "md"));
    assert_eq!(
        replies.count(),
        table.len(),
        "a reply without an expectation"
    );
    assert!(table.len() >= 60);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn cut_replies_never_give_code() {
    let text = std::fs::read_to_string(folder().join("asked_for.md")).unwrap();
    let whole = text.trim_end().len();
    let kernel = parse_reply(&text, true).content;
    for end in (0..whole).filter(|end| text.is_char_boundary(*end)) {
        assert_eq!(
            parse_reply(&text[..end], false).content,
            ReplyContent::Truncated
        );
        // Also if the provider reports a complete reply, unless only the closing fence is missing.
        let content = parse_reply(&text[..end], true).content;
        let is_whole = content == kernel && text[end..].len() <= "}\n```\n".len();
        assert!(
            is_whole || !matches!(content, ReplyContent::Code(_)),
            "{end} bytes: {content:?}"
        );
        assert_eq!(parse_finished_kernel(&text[..end]), None, "{end} bytes");
    }
}

/// Parts that a hostile reply repeats.
const REPEATED: [&str; 50] = [
    "```\n",
    "```cuda\n",
    "~~~\n",
    "```c\n/*\n",
    "```\n/*\n```\n",
    "```\nR\"x(\n",
    "/* kforge\n",
    "/* kforge\n*/\n",
    "{",
    "{\"a\":",
    "{\"bottleneck\":\"",
    "{\"bottleneck\": 1,",
    "{a:[",
    "{'a': \"",
    "<edit>",
    "<old_str>",
    "<old_str>\n",
    "<old_str>a</old_str>",
    "<old_str>a</old_str><new_str>b</new_str>\n",
    "<old_str x",
    "<search>",
    "<trace>",
    "<trace></trace>",
    "<think>",
    "</think>",
    "<<<<<<<\n",
    "<<<<<<<\na\n=======\nb\n>>>>>>>\n",
    "@@\n-a\n+b\n",
    "&lt;",
    "`",
    "\"",
    "\n",
    " ",
    "a",
    "a ",
    "\r\n",
    "\u{feff}",
    "“",
    "}```\n",
    "```json\n{\n",
    "`<old_str>`",
    "</",
    "//",
    "{//",
    "{/*",
    "{\"a\":1,\n",
    "<|channel|>final<|message|>",
    "<NO_VALID_EDIT/>",
    "1 | a\n",
    "{\"bottleneck\":1,\"risk\":2}\n",
];

/// Texts of half a megabyte that take long in quadratic time: the name of each, and the text.
fn hostile_replies() -> Vec<(String, String)> {
    let repeat = |text: &str| text.repeat((1 << 17) / text.len());
    REPEATED
        .iter()
        .map(|text| (format!("{text:?}"), repeat(text)))
        .chain([(
            "<edit>, then `<`".to_owned(),
            format!("<edit>{}", repeat("<")),
        )])
        .collect()
}

/// Processor time that a test build may take for what an optimized one does in some milliseconds. Quadratic time takes many seconds.
const MAX_SECONDS: f64 = 1.0;

/// Processor time of this thread, in seconds: unlike wall time, it does not depend on the load of the machine.
fn thread_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes the structure that it is given, which outlives it.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(status, 0);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

#[test]
fn hostile_replies_are_read_in_linear_time() {
    let kernel = kernel("softmax_block.cu").repeat(33);
    assert!(kernel.len() > 50_000);
    let mut slow = Vec::new();
    let mut timed = |name: &str, work: &mut dyn FnMut()| {
        let start = thread_seconds();
        work();
        let seconds = thread_seconds() - start;
        if seconds > MAX_SECONDS {
            slow.push(format!("{name}: {seconds:.2} s"));
        }
    };
    for (name, text) in hostile_replies() {
        timed(&name, &mut || {
            parse_reply(&text, true);
        });
        let edit = |old: &str| Edit {
            old: old.to_owned(),
            new: "x".to_owned(),
        };
        let part: String = text.chars().take(25_000).collect();
        timed(&format!("edit of {name}"), &mut || {
            let edits = [edit(&text), edit(&part)];
            if let AppliedEdits::Missed { faults } = apply_edits(&kernel, &edits, 2) {
                assert!(describe_faults(&faults).len() < 64 * 1024);
            }
        });
        timed(&format!("edit in {name}"), &mut || {
            apply_edits(
                &part.repeat(2),
                &[edit(&part), edit(&kernel), edit("a b")],
                3,
            );
        });
    }
    assert!(slow.is_empty(), "{}", slow.join("\n"));
}
