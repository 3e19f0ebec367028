//! Replies as models write them, each with what must come of it: the kernel, the edits and what they make of a kernel, the trace.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use kforge::kernel::Kernel;
use kforge::propose::reply::{Applied, Body, Edit, Fault, Mend, Read, apply, message, read};
use kforge::task::{TaskFiles, embedded_names};
use serde::Deserialize;

/// The edits that a reply may have, as the default is.
const MOST_EDITS: usize = 2;

/// What must come of a reply. What is not given is not looked at, but for the trace.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Expected {
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
    mends: Vec<Mend>,
    /// The kinds of faults, in order.
    faults: Vec<String>,
    /// Parts of what the model is told.
    says: Vec<String>,
    /// Parts of the kernel that comes of it.
    holds: Vec<String>,
    lacks: Vec<String>,
    trace: Option<Trace>,
    /// Words of the trace's fault; with a trace and without this there must be none.
    fault: Option<String>,
    /// Words of the notes.
    notes: Option<String>,
}

impl Default for Expected {
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
struct Trace {
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
struct Wrong(Vec<String>);

impl Wrong {
    fn unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }
}

fn check(expected: &Expected, read: &Read) -> Wrong {
    let mut wrong = Wrong::default();
    check_trace(expected, read, &mut wrong);
    if let Some(words) = &expected.notes {
        let notes = read.notes.join("; ");
        wrong.unless(notes.contains(words), || format!("notes: {notes}"));
    }
    let source = match &read.body {
        Body::Code(code) => {
            wrong.unless(expected.body.is_none() && expected.edits.is_none(), || {
                format!("code came of it:\n{code}")
            });
            if let Some(name) = &expected.code {
                let wanted = kernel(name);
                wrong.unless(*code == wanted, || format!("another kernel:\n{code}"));
            }
            Some(code.clone())
        }
        Body::Edits(edits) => {
            wrong.unless(expected.edits == Some(edits.len()), || {
                format!("{edits:#?}")
            });
            let against = expected.against.as_deref().map(kernel).unwrap_or_default();
            check_applied(expected, apply(&against, edits, MOST_EDITS), &mut wrong)
        }
        other => {
            let (name, reason) = match other {
                Body::NoValidEdit => ("no_valid_edit", ""),
                Body::Truncated => ("truncated", ""),
                Body::None(reason) => ("none", reason.as_str()),
                Body::Code(_) | Body::Edits(_) => unreachable!("matched above"),
            };
            let why = expected.why.as_deref().unwrap_or_default();
            let is_as_said = expected.body.as_deref() == Some(name) && reason.contains(why);
            wrong.unless(is_as_said, || format!("{other:?}"));
            None
        }
    };
    if let Some(source) = source {
        check_source(expected, &source, &mut wrong);
    }
    wrong
}

fn check_trace(expected: &Expected, read: &Read, wrong: &mut Wrong) {
    let fault = read.trace_fault.as_deref();
    match (&expected.fault, fault) {
        (Some(words), fault) => {
            wrong.unless(fault.is_some_and(|fault| fault.contains(words)), || {
                format!("the trace's fault: {fault:?}")
            });
        }
        (None, fault) => wrong.unless(fault.is_none() || read.trace.is_none(), || {
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
            wrong.unless(is_as_said && !trace.verbatim.is_empty(), || {
                format!("{trace:?}")
            });
        }
        (wanted, found) => wrong.0.push(format!("wanted {wanted:?}, found {found:?}")),
    }
}

fn check_applied(expected: &Expected, applied: Applied, wrong: &mut Wrong) -> Option<String> {
    let becomes = expected.becomes.as_deref();
    match applied {
        Applied::Changed { source, repaired } => {
            let mends: Vec<_> = repaired.iter().map(|repair| repair.mend).collect();
            wrong.unless(becomes == Some("changed"), || format!("changed:\n{source}"));
            wrong.unless(mends == expected.mends, || format!("mended: {mends:?}"));
            Some(source)
        }
        Applied::NoOp => {
            wrong.unless(becomes == Some("no_op"), || "nothing changed".to_owned());
            None
        }
        Applied::Missed { faults } => {
            let kind = |fault: &Fault| {
                let json = serde_json::to_value(fault).unwrap();
                json["fault"].as_str().unwrap().to_owned()
            };
            let kinds: Vec<_> = faults.iter().map(kind).collect();
            let said = message(&faults);
            let is_as_said = becomes == Some("missed")
                && kinds == expected.faults
                && expected.says.iter().all(|part| said.contains(part));
            wrong.unless(is_as_said, || format!("{kinds:?}:\n{said}"));
            None
        }
    }
}

fn check_source(expected: &Expected, source: &str, wrong: &mut Wrong) {
    for part in &expected.holds {
        wrong.unless(source.contains(part), || {
            format!("lacks `{part}`:\n{source}")
        });
    }
    for part in &expected.lacks {
        wrong.unless(!source.contains(part), || {
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
fn every_reply_comes_to_what_it_must() {
    let table = std::fs::read_to_string(folder().join("expected.yaml")).unwrap();
    let table: IndexMap<String, Expected> = serde_yaml::from_str(&table).unwrap();
    let mut wrong = Vec::new();
    for (name, expected) in &table {
        let text = std::fs::read_to_string(folder().join(format!("{name}.md"))).unwrap();
        let found = read(&text, expected.complete);
        for what in check(expected, &found).0 {
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
fn no_part_of_a_reply_is_compiled() {
    let text = std::fs::read_to_string(folder().join("asked_for.md")).unwrap();
    let whole = text.trim_end().len();
    for end in (0..whole).filter(|end| text.is_char_boundary(*end)) {
        assert_eq!(read(&text[..end], false).body, Body::Truncated);
        // Even where it is said to be whole: the fence is open.
        let body = read(&text[..end], true).body;
        assert!(!matches!(body, Body::Code(_)), "{end} bytes: {body:?}");
    }
}

/// Texts of half a megabyte that are made to take long: one sign or mark over and over.
fn hostile() -> Vec<(String, String)> {
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
const PATIENCE: f64 = 3.0;

#[test]
fn hostile_replies_take_no_time_with_their_square() {
    let kernel = kernel("softmax_block.cu").repeat(130);
    assert!(kernel.len() > 200_000);
    let mut slow = Vec::new();
    let mut timed = |what: &str, task: &mut dyn FnMut()| {
        let start = std::time::Instant::now();
        task();
        let seconds = start.elapsed().as_secs_f64();
        if seconds > PATIENCE {
            slow.push(format!("{what}: {seconds:.2} s"));
        }
    };
    for (name, text) in hostile() {
        timed(&name, &mut || {
            read(&text, true);
        });
        let edit = |old: &str| Edit {
            old: old.to_owned(),
            new: "x".to_owned(),
        };
        let part: String = text.chars().take(100_000).collect();
        timed(&format!("edit of {name}"), &mut || {
            let edits = [edit(&text), edit(&part)];
            if let Applied::Missed { faults } = apply(&kernel, &edits, 2) {
                assert!(message(&faults).len() < 64 * 1024);
            }
        });
        timed(&format!("edit in {name}"), &mut || {
            apply(
                &part.repeat(2),
                &[edit(&part), edit(&kernel), edit("a b")],
                3,
            );
        });
    }
    assert!(slow.is_empty(), "{}", slow.join("\n"));
}
