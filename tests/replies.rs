//! Replies as models write them, each with what must come of it: the kernel, the edits and what they make of a kernel, the trace.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use kforge::kernel::Kernel;
use kforge::propose::reply::{
    AppliedEdits, Edit, EditFault, ParsedReply, RepairKind, ReplyContent, apply_edits,
    describe_faults, parse_reply,
};
use kforge::task::{TaskFiles, embedded_names};
use serde::Deserialize;

/// The edits that a reply may have, as the default is.
const MAX_EDITS: usize = 2;

/// What must come of a reply. What is not given is not looked at, but for the trace.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ExpectedReply {
    /// Whether it ended by itself.
    complete: bool,
    /// `none`, `truncated` or `no_valid_edit`.
    body: Option<String>,
    /// Words of the reason for `none`.
    why: Option<String>,
    /// The kernel, word for word: a file.
    code: Option<String>,
    /// The task that the kernel is for: its header must fit.
    task: Option<String>,
    /// How many edits there are.
    edits: Option<usize>,
    /// The kernel that they are made in.
    against: Option<String>,
    /// `changed`, `missed` or `no_op`.
    becomes: Option<String>,
    /// How they were mended: all of it, in order.
    mends: Vec<RepairKind>,
    /// The kinds of faults, in order.
    faults: Vec<String>,
    /// Parts of what the model is told.
    says: Vec<String>,
    /// Parts of the kernel that comes of it.
    holds: Vec<String>,
    lacks: Vec<String>,
    trace: Option<ExpectedTrace>,
    /// Words of the trace's fault; with a trace and without this there must be none.
    fault: Option<String>,
    /// Words of the notes.
    notes: Option<String>,
}

impl Default for ExpectedReply {
    fn default() -> Self {
        Self {
            complete: true,
            body: None,
            why: None,
            code: None,
            task: None,
            edits: None,
            against: None,
            becomes: None,
            mends: Vec::new(),
            faults: Vec::new(),
            says: Vec::new(),
            holds: Vec::new(),
            lacks: Vec::new(),
            trace: None,
            fault: None,
            notes: None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedTrace {
    /// Words of it.
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

/// All that is not as it must be.
#[derive(Default)]
struct Failures(Vec<String>);

impl Failures {
    fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }
}

fn check_reply(expected: &ExpectedReply, read: &ParsedReply) -> Failures {
    let mut wrong = Failures::default();
    check_trace(expected, read, &mut wrong);
    if let Some(words) = &expected.notes {
        let notes = read.notes.join("; ");
        wrong.check(notes.contains(words), || format!("notes: {notes}"));
    }
    let source = match &read.content {
        ReplyContent::Code(code) => {
            wrong.check(expected.body.is_none() && expected.edits.is_none(), || {
                format!("code came of it:\n{code}")
            });
            if let Some(name) = &expected.code {
                let wanted = kernel(name);
                wrong.check(*code == wanted, || format!("another kernel:\n{code}"));
            }
            Some(code.clone())
        }
        ReplyContent::Edits(edits) => {
            wrong.check(expected.edits == Some(edits.len()), || {
                format!("{edits:#?}")
            });
            let against = expected.against.as_deref().map(kernel).unwrap_or_default();
            check_applied(
                expected,
                apply_edits(&against, edits, MAX_EDITS),
                &mut wrong,
            )
        }
        other => {
            let (name, reason) = match other {
                ReplyContent::NoValidEdit => ("no_valid_edit", ""),
                ReplyContent::Truncated => ("truncated", ""),
                ReplyContent::Unusable(reason) => ("none", reason.as_str()),
                ReplyContent::Code(_) | ReplyContent::Edits(_) => unreachable!("matched above"),
            };
            let why = expected.why.as_deref().unwrap_or_default();
            let is_as_said = expected.body.as_deref() == Some(name) && reason.contains(why);
            wrong.check(is_as_said, || format!("{other:?}"));
            None
        }
    };
    if let Some(source) = source {
        check_source(expected, &source, &mut wrong);
    }
    wrong
}

fn check_trace(expected: &ExpectedReply, read: &ParsedReply, wrong: &mut Failures) {
    let fault = read.trace_fault.as_deref();
    match (&expected.fault, fault) {
        (Some(words), fault) => {
            wrong.check(fault.is_some_and(|fault| fault.contains(words)), || {
                format!("the trace's fault: {fault:?}")
            });
        }
        (None, fault) => wrong.check(fault.is_none() || read.trace.is_none(), || {
            format!("the trace has a fault: {fault:?}")
        }),
    }
    match (&expected.trace, &read.trace) {
        (None, None) => {}
        (Some(wanted), Some(trace)) => {
            let near = match (wanted.expected_percent, trace.expected_percent) {
                (Some(wanted), Some(found)) => (wanted - found).abs() < 0.01,
                (wanted, found) => wanted.is_none() && found.is_none(),
            };
            let is_as_said = trace.bottleneck.contains(&wanted.bottleneck) && near;
            wrong.check(is_as_said && !trace.verbatim.is_empty(), || {
                format!("{trace:?}")
            });
        }
        (wanted, found) => wrong.0.push(format!("wanted {wanted:?}, found {found:?}")),
    }
}

fn check_applied(
    expected: &ExpectedReply,
    applied: AppliedEdits,
    wrong: &mut Failures,
) -> Option<String> {
    let becomes = expected.becomes.as_deref();
    match applied {
        AppliedEdits::Changed {
            source,
            repairs: repaired,
        } => {
            let mends: Vec<_> = repaired.iter().map(|repair| repair.mend).collect();
            wrong.check(becomes == Some("changed"), || format!("changed:\n{source}"));
            wrong.check(mends == expected.mends, || format!("mended: {mends:?}"));
            Some(source)
        }
        AppliedEdits::NoOp => {
            wrong.check(becomes == Some("no_op"), || "nothing changed".to_owned());
            None
        }
        AppliedEdits::Missed { faults } => {
            let kind = |fault: &EditFault| {
                let json = serde_json::to_value(fault).unwrap();
                json["fault"].as_str().unwrap().to_owned()
            };
            let kinds: Vec<_> = faults.iter().map(kind).collect();
            let said = describe_faults(&faults);
            let is_as_said = becomes == Some("missed")
                && kinds == expected.faults
                && expected.says.iter().all(|part| said.contains(part));
            wrong.check(is_as_said, || format!("{kinds:?}:\n{said}"));
            None
        }
    }
}

fn check_source(expected: &ExpectedReply, source: &str, wrong: &mut Failures) {
    for part in &expected.holds {
        wrong.check(source.contains(part), || {
            format!("lacks `{part}`:\n{source}")
        });
    }
    for part in &expected.lacks {
        wrong.check(!source.contains(part), || {
            format!("holds `{part}`:\n{source}")
        });
    }
    let task = expected.task.as_deref().expect("the task of a kernel");
    assert!(embedded_names().contains(&task), "{task}");
    let task = TaskFiles::find(task).unwrap().load().unwrap();
    if let Err(error) = Kernel::parse(source, &task.definition) {
        wrong.0.push(format!("its header: {error}"));
    }
}

#[test]
fn recorded_replies_parse_as_expected() {
    let table = std::fs::read_to_string(folder().join("expected.yaml")).unwrap();
    let table: IndexMap<String, ExpectedReply> = serde_yaml::from_str(&table).unwrap();
    let mut wrong = Vec::new();
    for (name, expected) in &table {
        let text = std::fs::read_to_string(folder().join(format!("{name}.md"))).unwrap();
        let found = parse_reply(&text, expected.complete);
        for what in check_reply(expected, &found).0 {
            wrong.push(format!("== {name}: {what}"));
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
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A reply that is cut anywhere is never taken for a whole one, and nothing of it panics.
#[test]
fn cut_replies_never_give_code() {
    let text = std::fs::read_to_string(folder().join("asked_for.md")).unwrap();
    let whole = text.trim_end().len();
    for end in (0..whole).filter(|end| text.is_char_boundary(*end)) {
        assert_eq!(
            parse_reply(&text[..end], false).content,
            ReplyContent::Truncated
        );
        // Even where it is said to be whole: the fence is open.
        let body = parse_reply(&text[..end], true).content;
        assert!(
            !matches!(body, ReplyContent::Code(_)),
            "{end} bytes: {body:?}"
        );
    }
}

/// Texts of half a megabyte that are made to take long: one sign or mark over and over.
fn hostile_replies() -> Vec<(String, String)> {
    let repeated = [
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
    let of = |text: &str| text.repeat((1 << 19) / text.len());
    repeated
        .iter()
        .map(|text| (format!("{text:?}"), of(text)))
        .chain([("<edit>, then `<`".to_owned(), format!("<edit>{}", of("<")))])
        .collect()
}

/// Seconds that a test build may take for what an optimised one does in some tens of milliseconds.
const MAX_SECONDS: f64 = 3.0;

#[test]
fn hostile_replies_are_read_in_linear_time() {
    let kernel = kernel("softmax_block.cu").repeat(130);
    assert!(kernel.len() > 200_000);
    let mut slow = Vec::new();
    let mut timed = |what: &str, task: &mut dyn FnMut()| {
        let start = std::time::Instant::now();
        task();
        let seconds = start.elapsed().as_secs_f64();
        if seconds > MAX_SECONDS {
            slow.push(format!("{what}: {seconds:.2} s"));
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
        let part: String = text.chars().take(100_000).collect();
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
