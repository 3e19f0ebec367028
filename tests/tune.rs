//! `kforge tune`, warm starts and `kforge promote` from the outside: a small script is the model, this machine's processor judges.

#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// kforge in a folder of its own, with a model that says what the test has written down.
struct Workspace {
    folder: tempfile::TempDir,
}

struct Output {
    code: i32,
    out: String,
    err: String,
}

impl Output {
    #[track_caller]
    fn exits_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    #[track_caller]
    fn shows(self, words: &[&str]) -> Self {
        let all = format!("{}{}", self.out, self.err);
        for word in words {
            assert!(all.contains(word), "`{word}` is missing:\n{all}");
        }
        self
    }
}

impl Workspace {
    /// `None` where there is no compiler.
    fn new() -> Option<Self> {
        if kforge::device::cpu::find_compiler().is_err() {
            println!("skipped: no C++ compiler");
            return None;
        }
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(bench.path().join("model")).unwrap();
        let config = json!({
            "profile": "quick",
            "backend": "cpu",
            // Differences here are clear: little timing will do.
            "eval": {"seconds": 0.2, "precision": 0.05, "in_flight": 1},
            "search": {"confirm": 1},
            "llm": {"models": [{"provider": "command", "command": ["sh", fixture("models/replies.sh"), "model"]}]},
        });
        bench.write("run.yaml", &config.to_string());
        Some(bench)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        let path = self.path().join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn replies(&self, replies: &[String]) {
        for (number, reply) in (1..).zip(replies) {
            self.write(&format!("model/reply-{number}.md"), reply);
        }
    }

    /// How many questions the model has seen.
    fn requests_seen(&self) -> usize {
        let seen = |number: &usize| {
            self.path()
                .join(format!("model/asked-{number}.md"))
                .exists()
        };
        (1..).take_while(seen).count()
    }

    fn run(&self, arguments: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kforge"));
        command
            .args(arguments.split_whitespace())
            .current_dir(self.path())
            .env("NO_COLOR", "1");
        for name in [
            "KFORGE_CONFIG",
            "KFORGE_OUTPUT",
            "KFORGE_BACKEND",
            "KFORGE_LOG",
            // No test asks a model that somebody pays for.
            "ANTHROPIC_API_KEY",
            "OPENAI_API_KEY",
            "GEMINI_API_KEY",
            "OPENROUTER_API_KEY",
        ] {
            command.env_remove(name);
        }
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Output {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    fn tune(&self, run: &str, arguments: &str) -> Output {
        self.run(&format!(
            "tune softmax --config run.yaml --seed 7 --output {run} {arguments}"
        ))
    }

    /// Timed for longer than a search would: the two arms must be told apart on a busy machine too.
    fn promote(&self, arguments: &str) -> Output {
        self.run(&format!(
            "promote --set eval.seconds=1 --set eval.precision=0.1 {arguments}"
        ))
    }

    /// The task's journal, one event of this name after the other.
    fn events(&self, run: &str, name: &str) -> Vec<Value> {
        let lines = self.read(&format!("{run}/softmax/events.jsonl"));
        let events = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.filter(|event| event["event"] == name).collect()
    }

    /// Each step's operator and parents, as they were asked.
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

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("kernels/softmax")
        .join(name);
    std::fs::read_to_string(path).unwrap()
}

const TRACE: &str = "```json\n{\"bottleneck\": \"expf\", \"hypothesis\": \"less of it\", \"change\": \"CHANGE\", \"expected_percent\": -10, \"risk\": \"low\"}\n```\n";

fn kernel(change: &str, text: &str) -> String {
    format!("{}\n```cuda\n{text}```\n", TRACE.replace("CHANGE", change))
}

fn edit(change: &str, old: &str, new: &str) -> String {
    format!(
        "{}\n<edit>\n<old_str>\n{old}\n</old_str>\n<new_str>\n{new}\n</new_str>\n</edit>\n",
        TRACE.replace("CHANGE", change)
    )
}

#[test]
fn tuner_proposes_repairs_edits_and_resumes() {
    let Some(bench) = Workspace::new() else {
        return;
    };
    let naive = shipped("naive.cu");
    let broken = naive.replace("float sum = 0.0f;", "float sum = 0.0f");
    let divided = "expf(x[row * columns + i] - largest) / sum;";
    bench.replies(&[
        kernel("written down", &broken),
        edit("the semicolon", "    float sum = 0.0f", "    float sum = 0.0f;"),
        edit(
            "one division",
            "    for (int i = 0; i < columns; i++) {\n        output",
            "    const float factor = 1.0f / sum;\n    for (int i = 0; i < columns; i++) {\n        output",
        ),
        // The fourth step: an edit that has no place, and a second try that changes nothing.
        edit("of nothing", "    this line is nowhere", "    nor is this"),
        "<NO_VALID_EDIT/>\n".to_owned(),
        edit("the factor is used", divided, "expf(x[row * columns + i] - largest) * factor;"),
    ]);
    let first = bench
        .tune("run", "--steps 3")
        .exits_with(0)
        .shows(&["softmax", "confirmed"]);
    assert_eq!(bench.steps("run"), ["propose", "repair 1", "edit 2"]);
    assert_eq!(bench.requests_seen(), 3);
    let statuses: Vec<_> = bench.events("run", "judged");
    let statuses: Vec<_> = statuses
        .iter()
        .map(|event| event["verdict"]["status"].as_str())
        .collect();
    assert_eq!(
        statuses,
        [Some("compile_error"), Some("passed"), Some("passed")]
    );
    let record = bench.read("run/run.yaml");
    assert!(
        record.contains("mode: tune") && record.contains("window: 1"),
        "{record}"
    );

    let more = bench.run("resume run --steps 5").exits_with(0);
    // What is edited is the best of the two that passed, whichever that is on this machine.
    let steps = bench.steps("run");
    assert_eq!(steps.len(), 5);
    assert!(
        steps[3].starts_with("edit ") && steps[3] == steps[4],
        "{steps:?}"
    );
    assert_eq!(bench.requests_seen(), 6, "nothing is asked twice");
    let failed = bench.events("run", "failed");
    assert_eq!(failed.len(), 1);
    assert_eq!(
        (&failed[0]["step"], &failed[0]["reason"]),
        (&json!(4), &json!("no_op"))
    );
    let header = |said: &Output| {
        said.out
            .lines()
            .next()
            .map(|line| line.split(':').next().unwrap().to_owned())
    };
    assert_eq!(header(&first), header(&more));
    assert!(more.out.contains("best kernel"), "{}", more.out);
    // The history tells the model what came of the earlier steps.
    let last = bench.read("model/asked-6.md");
    assert!(last.contains("the semicolon"), "the history is missing");
    bench
        .run("resume run --steps 5")
        .exits_with(0)
        .shows(&["nothing was left to do"]);
    assert_eq!(bench.requests_seen(), 6);
}

#[test]
fn warm_start_is_copied_into_the_run() {
    let Some(bench) = Workspace::new() else {
        return;
    };
    bench.write("mine.cu", &shipped("naive.cu"));
    bench.replies(&[edit(
        "a comment",
        "    float sum = 0.0f;",
        "    float sum = 0.0f;  // of all",
    )]);
    // The kernel is the only one that is tried, and it is edited at once.
    bench
        .tune("one", "--steps 1 --from mine.cu")
        .exits_with(0)
        .shows(&["begins from mine.cu", "from mine.cu"]);
    assert_eq!(
        (bench.steps("one"), bench.requests_seen()),
        (vec!["start".to_owned()], 0)
    );
    assert_eq!(bench.events("one", "asked")[0]["start"], "from mine.cu");
    assert_eq!(bench.read("one/softmax/from/1.cu"), shipped("naive.cu"));

    // It may change, and go.
    bench.write("mine.cu", "something else");
    std::fs::remove_file(bench.path().join("mine.cu")).unwrap();
    bench.run("resume one --steps 2").exits_with(0);
    assert_eq!(
        (bench.steps("one"), bench.requests_seen()),
        (vec!["start".to_owned(), "edit 1".to_owned()], 1)
    );

    // The run's copy may not.
    let copy = bench.read("one/softmax/from/1.cu");
    bench.write("one/softmax/from/1.cu", &shipped("rows.cu"));
    bench
        .run("resume one --steps 3")
        .exits_with(2)
        .shows(&["tasks.softmax.from", "--accept-changes"]);
    std::fs::remove_file(bench.path().join("one/softmax/from/1.cu")).unwrap();
    bench
        .run("resume one --steps 3")
        .exits_with(2)
        .shows(&["from/1.cu` is gone"]);
    bench.write("one/softmax/from/1.cu", &copy);
    bench
        .run("resume one --steps 3 --set from=[best]")
        .exits_with(2)
        .shows(&["`from`: where a search begins from cannot be changed"]);

    // From the run, whose best is one of the two; `evolve` tries it before the task's own.
    let best = bench.read("one/softmax/best.cu");
    bench
        .run("evolve softmax --config run.yaml --no-model --steps 2 --seed 7 --output two --from one")
        .exits_with(0)
        .shows(&["from one"]);
    let asked = bench.events("two", "asked");
    assert_eq!(
        (&asked[0]["start"], &asked[1]["start"]),
        (&json!("from one"), &json!("naive.cu"))
    );
    assert_eq!(bench.read("two/softmax/steps/000001/kernel.cu"), best);
    assert_eq!(bench.read("two/softmax/from/1.cu"), best);
    bench
        .run("tune softmax gelu --config run.yaml --output three --from one")
        .exits_with(2)
        .shows(&["no kernel of `gelu` has passed in `one`", "hint:"]);
}

#[test]
fn no_wait_mailbox_run_resumes_when_the_reply_arrives() {
    let Some(bench) = Workspace::new() else {
        return;
    };
    let asked = "run/softmax/steps/000001/ask-1";
    bench
        .tune("run", "--model mailbox --no-wait --steps 1")
        .exits_with(6)
        .shows(&["waiting for replies", "kforge resume run"]);
    assert!(
        bench
            .read(&format!("{asked}/prompt.md"))
            .contains("softmax")
    );
    bench.run("resume run").exits_with(6);
    bench.write(
        &format!("{asked}/response.md"),
        &kernel("written by hand", &shipped("rows.cu")),
    );
    bench
        .run("resume run")
        .exits_with(0)
        .shows(&["written by hand"]);
    assert_eq!(bench.steps("run"), ["propose"]);
    assert_eq!(bench.events("run", "sent").len(), 1, "asked once");
}

#[test]
fn invalid_warm_starts_are_refused() {
    let Some(bench) = Workspace::new() else {
        return;
    };
    bench.write("prose.cu", "no kernel at all\n");
    bench.write("naive.cu", &shipped("naive.cu"));
    bench.write("other/run.yaml", "not: [a, run");
    std::fs::create_dir(bench.path().join("empty")).unwrap();
    for (from, words) in [
        (
            "nothing.cu",
            &["no such kernel or run: `nothing.cu`", "hint:"][..],
        ),
        ("empty", &["`empty` is not a run"]),
        ("other", &["other/run.yaml:1"]),
        (
            "best",
            &[
                "task `softmax` has no best known kernel",
                "kernels/softmax/best.cu",
                "kforge promote",
            ],
        ),
        ("prose.cu", &["prose.cu:1: "]),
    ] {
        bench
            .tune("out", &format!("--steps 1 --from {from}"))
            .exits_with(2)
            .shows(words);
    }
    bench
        .run("tune softmax gelu --config run.yaml --from naive.cu --output out")
        .exits_with(2)
        .shows(&["one kernel, and the config has 2 tasks"]);
    bench
        .run("tune softmax --no-model --output out")
        .exits_with(2)
        .shows(&["`tune` needs a model"]);
    bench.run("tune").exits_with(2).shows(&["--config"]);
    assert!(!bench.path().join("out").exists(), "nothing was written");
    // Two times the same kernel is one beginning; of two kernels each has its name.
    bench.write("again/naive.cu", &shipped("rows.cu"));
    let said = bench
        .tune(
            "out",
            "--dry-run --format json --from naive.cu --from naive.cu --from again/naive.cu",
        )
        .exits_with(0);
    let facts: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        facts["tasks"][0]["starts"],
        json!(["from naive.cu", "from naive.cu (2)"])
    );
    let said = bench.tune("out", "--dry-run").exits_with(0);
    said.shows(&["none: a model writes the first kernel"]);
}

#[test]
fn promote_replaces_the_best_kernel_only_if_faster() {
    let Some(bench) = Workspace::new() else {
        return;
    };
    for name in ["naive", "rows"] {
        bench.write(&format!("{name}.cu"), &shipped(&format!("{name}.cu")));
        bench
            .tune(name, &format!("--steps 1 --from {name}.cu"))
            .exits_with(0);
    }
    let best = || bench.read("kernels/softmax/best.cu");
    let beside =
        || -> Value { serde_json::from_str(&bench.read("kernels/softmax/best.json")).unwrap() };

    // Nothing is there: what is confirmed is the best.
    bench.promote("naive").exits_with(0).shows(&[
        "softmax: promoted",
        "nothing was there",
        "step 1 of naive",
    ]);
    assert_eq!(best(), shipped("naive.cu"));
    let verdict = beside();
    assert_eq!(
        (&verdict["status"], &verdict["confirmed"]),
        (&json!("passed"), &json!(true))
    );
    assert_eq!(
        (&verdict["backend"], &verdict["promoted"]["run"]),
        (&json!("cpu"), &json!("naive"))
    );
    assert!(verdict["device"]["name"].is_string() && verdict["promoted"]["over"].is_null());
    bench
        .promote("naive")
        .exits_with(5)
        .shows(&["not promoted", "it is the best that is known already"]);

    // Faster: it takes the place. Slower: it does not.
    let said = bench
        .promote("rows --task softmax --format json")
        .exits_with(0);
    let told: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(told[0]["promoted"], true);
    assert!(told[0]["duel"]["ci95"][0].as_f64().unwrap() > 1.0, "{told}");
    assert_eq!(best(), shipped("rows.cu"));
    let before = bench.read("kernels/softmax/best.json");
    bench.promote("naive").exits_with(5).shows(&[
        "softmax: not promoted: it is slower than what is there",
        "is there",
    ]);
    assert_eq!(
        (best(), bench.read("kernels/softmax/best.json")),
        (shipped("rows.cu"), before)
    );
    bench
        .promote("naive --task sofmax")
        .exits_with(2)
        .shows(&["has no task `sofmax`", "`softmax`"]);

    // Of another device: told, and replaced only by force.
    let mut elsewhere = beside();
    elsewhere["backend"] = json!("cuda");
    elsewhere["device"]["name"] = json!("Some GPU");
    bench.write("kernels/softmax/best.json", &elsewhere.to_string());
    bench
        .promote("naive")
        .exits_with(5)
        .shows(&["was measured on cuda, Some GPU", "--force"]);
    assert_eq!(best(), shipped("rows.cu"));
    bench
        .promote("naive --force")
        .exits_with(0)
        .shows(&["replaced by `--force`"]);
    assert_eq!(best(), shipped("naive.cu"));
    assert_eq!(beside()["backend"], "cpu");

    // A verdict of another kernel is none: the kernel itself is judged.
    bench.write("kernels/softmax/best.json", &elsewhere.to_string());
    bench
        .promote("rows")
        .exits_with(0)
        .shows(&["faster than what was there"]);

    // The best is no starting kernel of the task, and the task did not change: the first run goes on. But a search can begin there.
    bench.run("resume naive --steps 2").exits_with(0);
    bench
        .tune("warm", "--steps 2 --from best")
        .exits_with(0)
        .shows(&["begins from kernels/softmax/best.cu"]);
    assert_eq!(bench.steps("warm"), ["start", "edit 1"]);
    assert_eq!(bench.events("warm", "asked")[0]["start"], "from best");
    assert_eq!(bench.read("warm/softmax/from/1.cu"), shipped("rows.cu"));
    std::fs::remove_dir_all(bench.path().join("kernels")).unwrap();
    bench.run("resume warm --steps 3").exits_with(0);
}

#[test]
fn every_shipped_config_is_described_and_resolves() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let bench = tempfile::tempdir().unwrap();
    // For those that begin from the best.
    let best = bench.path().join("kernels/gdn_decode");
    std::fs::create_dir_all(&best).unwrap();
    let kernel = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/gdn_decode/naive.cu");
    std::fs::copy(kernel, best.join("best.cu")).unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let first = text.lines().next().unwrap_or_default();
        assert!(
            first.starts_with("# ") && first.ends_with('.'),
            "{name}: {first}"
        );
        let output = Command::new(env!("CARGO_BIN_EXE_kforge"))
            .args(["evolve", "--backend", "cpu", "--dry-run", "--config", &name])
            .env("ANTHROPIC_API_KEY", "for a test")
            .env_remove("KFORGE_OUTPUT")
            .current_dir(bench.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {said}");
        seen += 1;
    }
    assert!(seen >= 18, "{seen} configs");
}
