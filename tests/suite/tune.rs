//! `kforge tune`, warm starts and `kforge promote` from the outside. A shell script is the model, and the CPU judges.
//!
//! No test compares the times of two kernels that are nearly as fast: where one must be faster, it does many times less work.

use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::program::{CommandResult, Workspace, fixture, kforge, root};

/// A folder in which kforge runs, with a model whose replies the test has written.
struct TuneWorkspace(Workspace);

impl std::ops::Deref for TuneWorkspace {
    type Target = Workspace;

    fn deref(&self) -> &Workspace {
        &self.0
    }
}

impl TuneWorkspace {
    fn new() -> Self {
        let workspace = Workspace::with_small_task();
        std::fs::create_dir(workspace.path().join("model")).unwrap();
        let config = json!({
            "profile": "quick",
            "backend": "cpu",
            // No test depends on precise times, so timing stops as soon as it may. The budget is large so that a busy machine
            // does not make a verdict inconclusive.
            "eval": {"seconds": 20, "precision": 0.9, "in_flight": 1},
            "search": {"confirm": 1},
            "llm": {"models": [{"provider": "command", "command": ["sh", fixture("models/replies.sh"), "model"]}]},
        });
        workspace.write("run.yaml", &config.to_string());
        Self(workspace)
    }

    /// With a baseline that is many times slower than the slow kernel, and this many times slower again than the naive one.
    fn with_slow_baseline() -> Self {
        let workspace = Self::new();
        workspace.write("tasks/softmax/slowest.cu", &naive_with_passes(192));
        let task = workspace.read("tasks/softmax/task.yaml");
        let changed = task.replace("naive: {kernel: naive.cu}", "slowest: {kernel: slowest.cu}");
        assert_ne!(task, changed);
        workspace.write("tasks/softmax/task.yaml", &changed);
        // A promotion times three pairs of kernels, whose speeds are far apart.
        let config = workspace
            .read("run.yaml")
            .replace("\"seconds\":20", "\"seconds\":2");
        workspace.write("run.yaml", &config);
        workspace
    }

    /// `with_slow_baseline`, with the runs `slow` and `fast`, whose kernels are those. They are made once, and each test gets a copy.
    fn with_slow_and_fast_run() -> Self {
        static MADE: OnceLock<TuneWorkspace> = OnceLock::new();
        let made = MADE.get_or_init(|| {
            // SAFETY: the function only removes folders.
            unsafe { libc::atexit(remove_made) };
            let workspace = TuneWorkspace::with_slow_baseline();
            workspace.run_with_kernel("slow", &slow_kernel());
            workspace.run_with_kernel("fast", &shipped("naive.cu"));
            workspace
        });
        extern "C" fn remove_made() {
            if let Some(made) = MADE.get() {
                let _ = std::fs::remove_dir_all(made.path());
                let _ = std::fs::remove_dir_all(made.locks());
            }
        }
        let workspace = Self(Workspace::new());
        let everything = made.path().join(".");
        let copied = Command::new("cp")
            .arg("-r")
            .args([&everything, workspace.path()])
            .status();
        assert!(copied.unwrap().success());
        workspace
    }

    fn replies(&self, replies: &[String]) {
        for (number, reply) in (1..).zip(replies) {
            self.write(&format!("model/reply-{number}.md"), reply);
        }
    }

    /// Number of requests that the model has received.
    fn requests_seen(&self) -> usize {
        let seen = |number: &usize| {
            self.path()
                .join(format!("model/asked-{number}.md"))
                .exists()
        };
        (1..).take_while(seen).count()
    }

    fn run(&self, arguments: &str) -> CommandResult {
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        self.0.run(&arguments)
    }

    fn tune(&self, run: &str, arguments: &str) -> CommandResult {
        self.run(&format!(
            "tune softmax --config run.yaml --seed 7 --output {run} {arguments}"
        ))
    }

    /// A run with one step, whose best kernel is `source`.
    fn run_with_kernel(&self, name: &str, source: &str) {
        self.write(&format!("{name}.cu"), source);
        self.tune(name, &format!("--steps 1 --from {name}.cu"))
            .comes_to_its_end();
    }

    /// Promotes. On a busy machine a result may be unclear, and changes nothing: the command is repeated then.
    fn promote(&self, arguments: &str) -> CommandResult {
        let promote = || self.run(&format!("promote {arguments}"));
        let mut result = promote();
        for _ in 0..4 {
            let hint = "a quieter machine or more time narrows it";
            let is_unclear = result.stdout.contains(hint) || result.stderr.contains(hint);
            if !is_unclear {
                break;
            }
            result = promote();
        }
        result
    }

    /// The best known kernel of `softmax`.
    fn best(&self) -> String {
        self.read("kernels/softmax/best.cu")
    }

    /// The verdict of the best known kernel.
    fn best_verdict(&self) -> Value {
        serde_json::from_str(&self.read("kernels/softmax/best.json")).unwrap()
    }

    /// Makes the best known kernel's verdict that of a GPU.
    fn move_best_to_gpu(&self) {
        let mut verdict = self.best_verdict();
        verdict["backend"] = json!("cuda");
        verdict["device"]["name"] = json!("Some GPU");
        self.write("kernels/softmax/best.json", &verdict.to_string());
    }

    /// The events of the task's journal that have this name.
    fn events(&self, run: &str, name: &str) -> Vec<Value> {
        let lines = self.read(&format!("{run}/softmax/events.jsonl"));
        let events = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.filter(|event| event["event"] == name).collect()
    }

    /// Operator and parents of each brief.
    fn steps(&self, run: &str) -> Vec<String> {
        let brief = |event: &Value| {
            let operator = event["operator"].as_str().unwrap().to_owned();
            let parents = event["parents"].as_array().unwrap();
            let parents: Vec<_> = parents.iter().map(Value::to_string).collect();
            format!("{operator} {}", parents.join(","))
                .trim_end()
                .to_owned()
        };
        self.events(run, "asked").iter().map(brief).collect()
    }
}

fn shipped(name: &str) -> String {
    let path = root().join("kernels/softmax").join(name);
    std::fs::read_to_string(path).unwrap()
}

const TRACE: &str = "```json\n{\"bottleneck\": \"expf\", \"hypothesis\": \"less of it\", \"change\": \"CHANGE\", \"expected_percent\": -10, \"risk\": \"low\"}\n```\n";

/// A reply with a kernel.
fn kernel(change: &str, text: &str) -> String {
    format!("{}\n```cuda\n{text}```\n", TRACE.replace("CHANGE", change))
}

/// The naive kernel with 47 more passes over the exponentials of each row: slower by more than the noise of a busy machine.
fn slow_kernel() -> String {
    naive_with_passes(48)
}

/// The naive kernel with this number of passes over the exponentials of each row.
fn naive_with_passes(passes: u32) -> String {
    let naive = shipped("naive.cu");
    let loop_start = "    for (int i = 0; i < columns; i++) {\n        sum +=";
    // The compiler must keep the passes: 0.0f * sum is not 0 for every sum.
    let passes = format!(
        "    for (int pass = 0; pass < {passes}; pass++) {{\n    sum = 0.0f * sum;\n{loop_start}"
    );
    let loop_end = " - largest);\n    }\n\n    for";
    let slow = naive.replacen(loop_start, &passes, 1).replacen(
        loop_end,
        " - largest);\n    }\n    }\n\n    for",
        1,
    );
    assert_eq!(slow.matches('}').count(), naive.matches('}').count() + 1);
    slow
}

/// A reply with edits.
fn edit(change: &str, old: &str, new: &str) -> String {
    format!(
        "{}\n<edit>\n<old_str>\n{old}\n</old_str>\n<new_str>\n{new}\n</new_str>\n</edit>\n",
        TRACE.replace("CHANGE", change)
    )
}

#[test]
fn tuner_proposes_repairs_and_edits() {
    let workspace = TuneWorkspace::new();
    workspace.replies(&tuning_replies());
    workspace
        .tune("run", "--steps 3")
        .comes_to_its_end()
        .shows(&["softmax", "confirmed"]);
    assert_eq!(workspace.steps("run"), ["propose", "repair 1", "edit 2"]);
    assert_eq!(workspace.requests_seen(), 3);
    let judged = workspace.events("run", "judged");
    let statuses: Vec<_> = judged
        .iter()
        .map(|event| event["verdict"]["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses, ["compile_error", "passed", "passed"]);
    let record = workspace.read("run/run.yaml");
    assert!(
        record.contains("mode: tune") && record.contains("window: 1"),
        "{record}"
    );
}

#[test]
fn tuner_resumes_with_more_steps() {
    let workspace = TuneWorkspace::new();
    workspace.replies(&tuning_replies());
    let first = workspace.tune("run", "--steps 3").comes_to_its_end();
    let more = workspace.run("resume run --steps 5").comes_to_its_end();
    // Both steps edit the best of the two kernels that passed. Which one that is depends on the machine.
    let steps = workspace.steps("run");
    assert_eq!(steps.len(), 5);
    assert!(
        steps[3].starts_with("edit ") && steps[3] == steps[4],
        "{steps:?}"
    );
    assert_eq!(workspace.requests_seen(), 6, "no request is sent twice");
    let failed = workspace.events("run", "failed");
    assert_eq!(failed.len(), 1);
    assert_eq!(
        (&failed[0]["step"], &failed[0]["reason"]),
        (&json!(4), &json!("no_op"))
    );
    let header = |output: &CommandResult| {
        let line = output.stdout.lines().next();
        line.map(|line| line.split(':').next().unwrap().to_owned())
    };
    assert_eq!(header(&first), header(&more));
    assert!(more.stdout.contains("/best.cu"), "{}", more.stdout);
    // The prompt mentions the earlier steps.
    let last = workspace.read("model/asked-6.md");
    assert!(last.contains("the semicolon"), "the history is missing");
    workspace
        .run("resume run --steps 5")
        .comes_to_its_end()
        .shows(&["nothing was left to do"]);
    assert_eq!(workspace.requests_seen(), 6);
}

/// A kernel that does not compile, its repair, and edits.
fn tuning_replies() -> [String; 6] {
    let broken = shipped("naive.cu").replace("float sum = 0.0f;", "float sum = 0.0f");
    // Every edit changes the compiled code, and fits the naive kernel and the one with the first edit.
    [
        kernel("written down", &broken),
        edit(
            "the semicolon",
            "    float sum = 0.0f",
            "    float sum = 0.0f;",
        ),
        edit(
            "one division",
            " - largest) / sum;",
            " - largest) * (1.0f / sum);",
        ),
        // Step 4: an edit that matches no place, and a second reply that changes nothing.
        edit("of nothing", "    this line is nowhere", "    nor is this"),
        "<NO_VALID_EDIT/>\n".to_owned(),
        edit(
            "the first element twice",
            "for (int i = 1; i < columns; i++) {",
            "for (int i = 0; i < columns; i++) {",
        ),
    ]
}

#[test]
fn candidate_with_the_code_of_its_parent_gets_no_verdict() {
    let workspace = TuneWorkspace::new();
    let naive = shipped("naive.cu");
    workspace.write("mine.cu", &naive);
    let renamed = naive.replace("largest", "greatest");
    let renamed = renamed.replace(
        "    float sum",
        "    // The sum of all\n    // exponentials.\n    float sum",
    );
    let divided = "    for (int i = 0; i < columns; i++) {\n        output";
    workspace.replies(&[
        edit(
            "a comment",
            "    float sum = 0.0f;",
            "    float sum = 0.0f;  // of all",
        ),
        kernel("another name", &renamed),
        edit(
            "one division",
            divided,
            &format!("    const float factor = 1.0f / sum;\n{divided}"),
        ),
        edit(
            "the factor is used",
            " - largest) / sum;",
            " - largest) * (1.0f / sum);",
        ),
    ]);
    workspace
        .tune("run", "--steps 5 --from mine.cu")
        .comes_to_its_end();
    let judged = workspace.events("run", "judged");
    let steps: Vec<_> = judged.iter().map(|event| &event["step"]).collect();
    assert_eq!(steps, [&json!(1), &json!(5)]);
    assert!(judged[0]["verdict"]["code"].is_string());
    assert_ne!(judged[0]["verdict"]["code"], judged[1]["verdict"]["code"]);
    let failed = workspace.events("run", "failed");
    let of: Vec<_> = failed
        .iter()
        .map(|event| (&event["step"], &event["reason"], &event["of"]))
        .collect();
    let duplicate = json!("duplicate");
    let duplicates = [json!(2), json!(3), json!(4)];
    let expected: Vec<_> = (duplicates.iter())
        .map(|step| (step, &duplicate, &judged[0]["step"]))
        .collect();
    assert_eq!(of, expected);
    // The comment is found before compilation. The other name, and a constant that nothing uses, only by the compiler.
    assert!(failed[0]["code"].is_null());
    for event in &failed[1..] {
        assert_eq!(event["code"], judged[0]["verdict"]["code"]);
        assert_eq!(event["detail"], "compiles to the same code as step 1");
    }
    for step in 2..=4 {
        let verdict = format!("run/softmax/steps/{step:06}/verdict.json");
        assert!(!workspace.path().join(verdict).exists());
    }
    let last = workspace.read("model/asked-4.md");
    assert!(
        last.contains("compiles to the same code as step 1"),
        "{last}"
    );
    // A resume reads the same.
    workspace
        .run("resume run --steps 5")
        .comes_to_its_end()
        .shows(&["nothing was left to do"]);
}

/// A run that starts from the naive kernel, which the test deletes.
fn run_with_warm_start(workspace: &TuneWorkspace) {
    workspace.write("mine.cu", &shipped("naive.cu"));
    workspace.replies(&[edit(
        "a comment",
        "    float sum = 0.0f;",
        "    float sum = 0.0f;  // of all",
    )]);
    workspace
        .tune("one", "--steps 1 --from mine.cu")
        .comes_to_its_end()
        .shows(&["starts from mine.cu", "from mine.cu"]);
    std::fs::remove_file(workspace.path().join("mine.cu")).unwrap();
}

#[test]
fn warm_start_is_copied_into_the_run() {
    let workspace = TuneWorkspace::new();
    run_with_warm_start(&workspace);
    // The warm start replaces the task's starting kernels, and no model is asked for the first step.
    assert_eq!(workspace.steps("one"), ["start"]);
    assert_eq!(workspace.requests_seen(), 0);
    assert_eq!(workspace.events("one", "asked")[0]["start"], "from mine.cu");
    assert_eq!(workspace.read("one/softmax/from/1.cu"), shipped("naive.cu"));

    // The original file is no longer needed.
    workspace.run("resume one --steps 2").comes_to_its_end();
    assert_eq!(workspace.steps("one"), ["start", "edit 1"]);
    assert_eq!(workspace.requests_seen(), 1);
}

#[test]
fn changed_copy_of_a_warm_start_is_refused() {
    let workspace = TuneWorkspace::new();
    run_with_warm_start(&workspace);
    let copy = workspace.read("one/softmax/from/1.cu");
    workspace.write("one/softmax/from/1.cu", &shipped("rows.cu"));
    workspace
        .run("resume one --steps 2")
        .exits_with(2)
        .shows(&["tasks.softmax.from", "--accept-changes"]);
    std::fs::remove_file(workspace.path().join("one/softmax/from/1.cu")).unwrap();
    workspace
        .run("resume one --steps 2")
        .exits_with(2)
        .shows(&["from/1.cu` is missing"]);
    workspace.write("one/softmax/from/1.cu", &copy);
    workspace
        .run("resume one --steps 2 --set from=[best]")
        .exits_with(2)
        .shows(&["`from`: the warm starts of a run cannot be changed"]);
}

#[test]
fn search_starts_from_the_best_kernel_of_another_run() {
    let workspace = TuneWorkspace::new();
    run_with_warm_start(&workspace);
    let best = workspace.read("one/softmax/steps/000001/kernel.cu");
    // `evolve` tries the warm start before the task's own kernels.
    workspace
        .run("evolve softmax --config run.yaml --no-model --steps 2 --seed 7 --output two --from one")
        .comes_to_its_end()
        .shows(&["from one"]);
    let asked = workspace.events("two", "asked");
    assert_eq!(
        (&asked[0]["start"], &asked[1]["start"]),
        (&json!("from one"), &json!("naive.cu"))
    );
    assert_eq!(workspace.read("two/softmax/steps/000001/kernel.cu"), best);
    assert_eq!(workspace.read("two/softmax/from/1.cu"), best);
    workspace
        .run("tune softmax gelu --config run.yaml --output three --from one")
        .exits_with(2)
        .shows(&["no kernel of `gelu` has passed in `one`", "hint:"]);
}

#[test]
fn unconfirmed_best_file_is_a_valid_kernel_and_starts_a_search_without_its_note() {
    let workspace = TuneWorkspace::new();
    run_with_warm_start(&workspace);
    let kernel = workspace.read("one/softmax/steps/000001/kernel.cu");
    let best = workspace.read("one/softmax/best.cu");
    let second = best.lines().nth(1).unwrap();
    assert!(
        second.starts_with("# UNCONFIRMED: ") && second.ends_with("(kforge, step 1)"),
        "{second}"
    );
    assert!(second.len() <= 80, "{second}");
    assert_eq!(best.replacen(&format!("{second}\n"), "", 1), kernel);
    let verdict: Value = serde_json::from_str(&workspace.read("one/softmax/best.json")).unwrap();
    let note = verdict["unconfirmed"].as_str().unwrap();
    assert!(second.contains(note), "{note}");
    let judged = workspace
        .run("eval softmax one/softmax/best.cu --backend cpu --seconds 20 --precision 0.9 --format json")
        .exits_with(0);
    let judged: Value = serde_json::from_str(&judged.stdout).unwrap();
    assert_eq!(judged[0]["status"], "passed");
    // The same kernel twice is one warm start.
    let output = workspace
        .tune(
            "two",
            "--dry-run --format json --from one --from one/softmax/best.cu",
        )
        .exits_with(0);
    let facts: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(facts["tasks"][0]["starts"], json!(["from one"]));
    workspace
        .tune("three", "--steps 1 --from one/softmax/best.cu")
        .comes_to_its_end();
    assert_eq!(workspace.read("three/softmax/from/1.cu"), kernel);
}

#[test]
fn no_wait_mailbox_run_resumes_when_the_reply_arrives() {
    let workspace = TuneWorkspace::new();
    let request = "run/softmax/steps/000001/ask-1";
    workspace
        .tune("run", "--model mailbox --no-wait --steps 1")
        .exits_with(6)
        .shows(&["waiting for replies", "kforge resume run"]);
    let prompt = workspace.read(&format!("{request}/prompt.md"));
    assert!(prompt.contains("softmax"), "{prompt}");
    workspace.run("resume run").exits_with(6);
    workspace.write(
        &format!("{request}/response.md"),
        &kernel("written by hand", &shipped("rows.cu")),
    );
    workspace
        .run("resume run")
        .comes_to_its_end()
        .shows(&["written by hand"]);
    assert_eq!(workspace.steps("run"), ["propose"]);
    assert_eq!(workspace.events("run", "sent").len(), 1, "sent once");
}

#[test]
fn invalid_warm_starts_are_refused() {
    let workspace = TuneWorkspace::new();
    workspace.write("prose.cu", "no kernel at all\n");
    workspace.write("naive.cu", &shipped("naive.cu"));
    workspace.write("other/run.yaml", "not: [a, run");
    std::fs::create_dir(workspace.path().join("empty")).unwrap();
    let no_best = [
        "no best known kernel",
        "kernels/softmax/best.cu",
        "kforge promote",
    ];
    let cases: [(&str, &[&str]); 5] = [
        (
            "nothing.cu",
            &["no such kernel or run: `nothing.cu`", "hint:"],
        ),
        ("empty", &["`empty` is not a run"]),
        ("other", &["other/run.yaml:1"]),
        ("best", &no_best),
        ("prose.cu", &["prose.cu:1: "]),
    ];
    for (from, texts) in cases {
        workspace
            .tune("out", &format!("--steps 1 --from {from}"))
            .exits_with(2)
            .shows(texts);
    }
    workspace
        .run("tune softmax gelu --config run.yaml --from naive.cu --output out")
        .exits_with(2)
        .shows(&["one kernel, and the config has 2 tasks"]);
    workspace
        .run("tune softmax --set llm.models=[] --output out")
        .exits_with(2)
        .shows(&["`tune` needs a model"]);
    workspace.run("tune").exits_with(2).shows(&["--config"]);
    assert!(
        !workspace.path().join("out").exists(),
        "nothing was written"
    );
}

#[test]
fn warm_starts_are_deduplicated_and_named() {
    let workspace = TuneWorkspace::new();
    workspace.write("naive.cu", &shipped("naive.cu"));
    workspace.write("again/naive.cu", &shipped("rows.cu"));
    let from = "--from naive.cu --from naive.cu --from again/naive.cu";
    let output = workspace
        .tune("out", &format!("--dry-run --format json {from}"))
        .exits_with(0);
    let facts: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        facts["tasks"][0]["starts"],
        json!(["from naive.cu", "from naive.cu (2)"])
    );
    workspace
        .tune("out", "--dry-run")
        .exits_with(0)
        .shows(&["a model writes the first kernel"]);
}

#[test]
fn promote_needs_a_kernel_that_is_confirmed_faster_than_the_baseline() {
    let workspace = TuneWorkspace::new();
    // The baseline is the naive kernel. Where a machine is so busy that it is not clear which one is faster, the run is made again.
    let slow = (1..=5).map(|number| format!("slow-{number}")).find(|slow| {
        workspace.run_with_kernel(slow, &slow_kernel());
        let summary = workspace.read(&format!("{slow}/summary.json"));
        let summary: Value = serde_json::from_str(&summary).unwrap();
        let task = &summary["tasks"][0];
        assert_eq!(task["best"], Value::Null, "{task}");
        task["best_unconfirmed"]["why"] == "slower"
    });
    let slow = slow.expect("it is slower in one of five runs");
    workspace
        .run(&format!("resume {slow}"))
        .exits_with(5)
        .shows(&[
            "softmax: no kernel confirmed faster than the baseline",
            ": slower)",
        ]);
    workspace
        .promote(&slow)
        .exits_with(5)
        .shows(&["softmax: not promoted: it is slower than the baseline: 0."]);
    workspace.run_with_kernel("naive", &shipped("naive.cu"));
    workspace
        .promote("naive")
        .exits_with(5)
        .shows(&["it is the baseline itself"]);
    assert!(!workspace.path().join("kernels").exists());
}

#[test]
fn promote_replaces_the_best_kernel_only_if_faster() {
    let workspace = TuneWorkspace::with_slow_and_fast_run();

    // Without a best kernel, one that is confirmed faster than the baseline is promoted.
    workspace.promote("slow").exits_with(0).shows(&[
        "softmax: promoted: it is confirmed faster than the baseline",
        "there is no current best",
        "step 1 of slow",
    ]);
    assert_eq!(workspace.best(), slow_kernel());
    let verdict = workspace.best_verdict();
    assert_eq!(
        (&verdict["status"], &verdict["confirmed"]),
        (&json!("passed"), &json!(true))
    );
    assert_eq!(
        (&verdict["backend"], &verdict["promoted"]["run"]),
        (&json!("cpu"), &json!("slow"))
    );
    assert!(verdict["device"]["name"].is_string() && verdict["promoted"]["over"].is_null());
    workspace
        .promote("slow")
        .exits_with(5)
        .shows(&["not promoted", "already"]);

    // A faster kernel replaces it.
    let output = workspace.promote("fast --task softmax --format json");
    let results: Value = serde_json::from_str(&output.exits_with(0).stdout).unwrap();
    assert_eq!(results[0]["promoted"], true);
    let low = results[0]["duel"]["ci95"][0].as_f64().unwrap();
    assert!(low > 1.0, "{results}");
    assert_eq!(workspace.best(), shipped("naive.cu"));

    // A slower one does not.
    let before = workspace.read("kernels/softmax/best.json");
    workspace
        .promote("slow")
        .exits_with(5)
        .shows(&["softmax: not promoted: it is slower than the current best"]);
    assert_eq!(workspace.best(), shipped("naive.cu"));
    assert_eq!(workspace.read("kernels/softmax/best.json"), before);
    workspace
        .promote("slow --task sofmax")
        .exits_with(2)
        .shows(&["has no task `sofmax`", "`softmax`"]);
}

#[test]
fn best_kernel_of_another_device_is_replaced_only_by_force() {
    let workspace = TuneWorkspace::with_slow_and_fast_run();
    workspace.promote("fast").exits_with(0);
    workspace.move_best_to_gpu();
    workspace
        .promote("slow")
        .exits_with(5)
        .shows(&["was measured on cuda, Some GPU", "--force"]);
    assert_eq!(workspace.best(), shipped("naive.cu"));
    workspace
        .promote("slow --force")
        .exits_with(0)
        .shows(&["was measured on cuda, Some GPU"]);
    assert_eq!(workspace.best(), slow_kernel());
    assert_eq!(workspace.best_verdict()["backend"], "cpu");
}

#[test]
fn stored_kernel_that_no_longer_passes_is_replaced_only_by_a_faster_one_than_the_baseline() {
    let workspace = TuneWorkspace::with_slow_baseline();
    workspace.run_with_kernel("fast", &shipped("naive.cu"));
    let wrong = shipped("naive.cu").replace(" / sum;", " / (2.0f * sum);");
    assert_ne!(wrong, shipped("naive.cu"));
    workspace.write("kernels/softmax/best.cu", &wrong);
    // The baseline has changed since the run: against the new one the kernel is slower.
    let slow = workspace.read("tasks/softmax/task.yaml");
    let changed = slow.replace(
        "slowest: {kernel: slowest.cu}",
        "naive: {kernel: fastest.cu}",
    );
    workspace.write("tasks/softmax/task.yaml", &changed);
    workspace.write("tasks/softmax/fastest.cu", &shipped("naive.cu"));
    let slower = slow_kernel();
    workspace.run_with_kernel("slow", &slower);
    workspace
        .promote("slow")
        .exits_with(5)
        .shows(&["slower than the baseline"]);
    assert_eq!(workspace.best(), wrong);
    workspace.write("tasks/softmax/task.yaml", &slow);
    workspace.promote("slow").exits_with(0).shows(&[
        "no longer passes: wrong_output",
        "the task has changed since the run",
    ]);
    assert_eq!(workspace.best(), slower);
}

#[test]
fn verdict_of_another_kernel_is_ignored() {
    let workspace = TuneWorkspace::with_slow_and_fast_run();
    workspace.promote("fast").exits_with(0);
    // `best.json` claims that a GPU measured the kernel, but it belongs to another kernel: the kernel itself is judged.
    workspace.move_best_to_gpu();
    workspace.write("kernels/softmax/best.cu", &slow_kernel());
    workspace
        .promote("fast")
        .exits_with(0)
        .shows(&["faster than the current best"]);
}

#[test]
fn best_kernel_starts_a_search_only_on_request() {
    let workspace = TuneWorkspace::with_slow_baseline();
    workspace.run_with_kernel("naive", &shipped("naive.cu"));
    workspace.promote("naive").exits_with(0);
    // The best kernel does not change the task, so the old run can be resumed.
    workspace.run("resume naive --steps 2").comes_to_its_end();
    workspace
        .tune("warm", "--steps 2 --from best")
        .comes_to_its_end()
        .shows(&["starts from kernels/softmax/best.cu"]);
    assert_eq!(workspace.steps("warm"), ["start", "edit 1"]);
    assert_eq!(workspace.events("warm", "asked")[0]["start"], "from best");
    assert_eq!(
        workspace.read("warm/softmax/from/1.cu"),
        shipped("naive.cu")
    );
    std::fs::remove_dir_all(workspace.path().join("kernels")).unwrap();
    workspace.run("resume warm --steps 3").comes_to_its_end();
}

#[test]
fn every_shipped_config_is_described_and_resolves() {
    let root = root();
    let folder = tempfile::tempdir().unwrap();
    // For configs that start from the best known kernel.
    let best = folder.path().join("kernels/gdn_decode");
    std::fs::create_dir_all(&best).unwrap();
    let kernel = root.join("kernels/gdn_decode/naive.cu");
    std::fs::copy(kernel, best.join("best.cu")).unwrap();
    let mut configs = 0;
    for entry in std::fs::read_dir(root.join("config")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let first = text.lines().next().unwrap_or_default();
        assert!(
            first.starts_with("# ") && first.ends_with('.'),
            "{name}: {first}"
        );
        let output = kforge(["evolve", "--backend", "cpu", "--dry-run", "--config", &name])
            .env("ANTHROPIC_API_KEY", "for a test")
            .current_dir(folder.path())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {errors}");
        configs += 1;
    }
    assert!(configs >= 18, "{configs} configs");
}
