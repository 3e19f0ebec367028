//! Every end of a run names the command that continues it, and that command does. One test for each row of the table in
//! `docs/run-directory.md`.

use std::time::Instant;

use serde_json::{Value, json};

use crate::program::{CommandResult, Workspace, slowdown};

/// A quick search of the small task, with kforge's own operators.
const SEARCH: [&str; 11] = [
    "evolve",
    "softmax",
    "--backend=cpu",
    "--no-model",
    "--seed=3",
    "--output=out",
    "--set=eval.precision=0.9",
    "--set=eval.seconds=0.3",
    "--set=search.confirm=1",
    "--set=search.window=4",
    "--set=eval.in_flight=2",
];

/// A program as the model, whose replies contain no kernel.
const CHATTING_MODEL: &str = "--set=llm.models=[{provider: command, command: [sh, -c, 'cat > /dev/null; echo no'], max_output_tokens: 1000}]";

/// No step after the starting kernels uses kforge's own operators.
const ONLY_MODELS: &str = "--set=search.operators={mutate: 0, recombine: 0, autotune: 0}";

fn evolve(folder: &Workspace, more: &[&str]) -> CommandResult {
    folder.run(&[&SEARCH, more].concat())
}

/// A search that asks models.
fn evolve_with_models(folder: &Workspace, more: &[&str]) -> CommandResult {
    let search = SEARCH.iter().copied();
    let mut arguments: Vec<_> = search
        .filter(|argument| *argument != "--no-model")
        .collect();
    arguments.extend(more);
    folder.run(&arguments)
}

/// The command that the results name, as arguments.
fn named_command(result: &CommandResult) -> Vec<String> {
    let mut lines = result.stdout.lines();
    let line = lines.find_map(|line| line.strip_prefix("    kforge "));
    let line = line.unwrap_or_else(|| panic!("{}\n{}", result.stdout, result.stderr));
    line.split(' ').map(str::to_owned).collect()
}

/// The command that an error message or a note on standard error names.
fn command_in_text(text: &str) -> Vec<String> {
    let (_, command) = text.split_once("kforge resume ").expect(text);
    let command = command.split(['`', '\n']).next().unwrap();
    let arguments = command.split(' ').map(str::to_owned);
    std::iter::once("resume".to_owned())
        .chain(arguments)
        .collect()
}

fn run(folder: &Workspace, arguments: &[String]) -> CommandResult {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    folder.run(&arguments)
}

fn summary(folder: &Workspace) -> Value {
    serde_json::from_str(&folder.read("out/summary.json")).unwrap()
}

/// The number of steps that were planned.
fn asked(folder: &Workspace) -> usize {
    folder
        .read("out/softmax/events.jsonl")
        .matches("\"event\":\"asked\"")
        .count()
}

/// The number of steps that were planned and of requests that were sent. Requests belong to steps that an earlier process planned if
/// its budget for models was spent.
fn work(folder: &Workspace) -> usize {
    let journal = folder.read("out/softmax/events.jsonl");
    asked(folder) + journal.matches("\"event\":\"sent\"").count()
}

/// Runs the named command, which must plan more steps or send more requests, and returns its result.
#[track_caller]
fn continues(folder: &Workspace, result: &CommandResult, flags: &[&str]) -> CommandResult {
    let command = named_command(result);
    for flag in flags {
        assert!(command.iter().any(|part| part == flag), "{command:?}");
    }
    let name = format!("kforge {}", command.join(" "));
    assert_eq!(summary(folder)["continue"], json!(name));
    let before = work(folder);
    let next = run(folder, &command);
    assert!(
        matches!(next.code, 0 | 5 | 6),
        "{command:?}: {}\n{}",
        next.stdout,
        next.stderr
    );
    assert!(work(folder) > before, "{command:?}: {}", next.stderr);
    next
}

#[test]
fn steps_and_time() {
    let folder = Workspace::with_small_task();
    let result = evolve(&folder, &["--steps=3", "--budget-seconds=600"]);
    result.assert_run_ended(&[]);
    let result = continues(&folder, &result, &["--steps", "6"]);
    assert_eq!(summary(&folder)["tasks"][0]["steps"], 6);

    // The same number of steps: nothing is left to do, which is no error.
    let command = ["resume", "out", "--steps=6"];
    let idle = folder.run(&command);
    idle.assert_run_ended(&["nothing was left to do: all steps were made"]);
    assert_eq!(
        command_in_text(&idle.stderr),
        named_command(&result),
        "the same command"
    );
    // More time does not help, and the command says so.
    let result = folder.run(&["resume", "out", "--budget-seconds=60"]);
    result.assert_exit(
        2,
        &["nothing was done", "all steps were made", "--steps 12"],
    );
    assert_eq!(asked(&folder), 6);

    // No time for another step: both limits are raised.
    let result = folder.run(&["resume", "out", "--steps=9", "--set=budget.seconds=0.5"]);
    assert_eq!(result.code, 2, "{}", result.stderr);
    assert!(result.stderr.contains("the time budget of 0 s is spent"));
    assert_eq!(asked(&folder), 6);
    let command = command_in_text(&result.stderr);
    assert!(
        command.contains(&"--budget-seconds".to_owned())
            && !command.contains(&"--steps".to_owned()),
        "{command:?}"
    );
}

#[test]
fn spent_time_is_named_by_every_resume_until_time_is_added() {
    let folder = Workspace::with_small_task();
    // A model that takes its time spends the budget: judging would load the machine for as long.
    let slow = CHATTING_MODEL.replace("echo no", "sleep 0.4; echo no");
    let result = evolve_with_models(
        &folder,
        &["--steps=5000", "--budget-seconds=8", &slow, ONLY_MODELS],
    );
    result.assert_run_ended(&[]);
    assert!(result.stdout.contains("the time budget of 8 s is spent"));
    let steps = asked(&folder);
    for more in ["--steps=6000", "--steps=7000", "--steps=7000"] {
        let result = folder.run(&["resume", "out", more]);
        result.assert_exit(
            2,
            &[
                "nothing was done: softmax: the time budget of 8 s is spent",
                "kforge resume out --budget-seconds",
            ],
        );
    }
    // Without a wish for more it is not an error.
    folder.run(&["resume", "out"]).assert_run_ended(&[
        "nothing was left to do",
        "kforge resume out --budget-seconds",
    ]);
    for text in ["0", "-5", "nan", "inf", "much"] {
        let result = folder.run(&["resume", "out", "--budget-seconds", text]);
        result.assert_exit(2, &["expected a number above 0"]);
    }
    assert_eq!(asked(&folder), steps);
    // Time is added, however little it is compared with the time that is spent.
    let result = folder.run(&["evolve", "--resume", "out", "--budget-seconds=8"]);
    result.assert_run_ended(&[]);
    let more = asked(&folder);
    assert!(more > steps);
    let result = continues(&folder, &result, &["--budget-seconds"]);
    // The time between processes is not part of it.
    assert!(result.stdout.contains("the time budget of"));
    assert!(asked(&folder) > more);
}

/// Whole runs on the CPU end within their time. `KFORGE_TEST_BUDGET_SECONDS`: the budget, 10 s by default. A busy machine, which does not
/// judge anything in it, gets more.
#[test]
fn time_budget_covers_search_and_confirmation() {
    let budget = std::env::var("KFORGE_TEST_BUDGET_SECONDS");
    let budget: f64 = budget.map_or(10.0, |seconds| seconds.parse().unwrap());
    let tasks = [budget, 4.0 * budget, 16.0 * budget].into_iter();
    let task = tasks
        .map(ended_within)
        .find(|task| task["judged"].as_u64().unwrap() > 0)
        .expect("a kernel is judged");
    let time = &task["time"];
    let spent = |key: &str| time[key].as_f64().unwrap();
    assert!(
        spent("device") > 0.0 && spent("starting_kernels") > 0.0,
        "{time:#}"
    );
    // A kernel is confirmed, or the first line says that the time was spent.
    let headline = task["headline"].as_str().unwrap();
    let says_why = [
        "confirmed (step",
        "the time was spent",
        "too noisy",
        "unclear",
        "slower",
    ];
    assert!(
        says_why.iter().any(|why| headline.contains(why)),
        "{headline}"
    );
}

/// Makes a run with this budget in seconds, which must end in time. Returns its task in `summary.json`.
fn ended_within(budget: f64) -> Value {
    let folder = Workspace::with_small_task();
    let started = Instant::now();
    folder.run(&["--version"]).assert_exit(0, &[]);
    // What a busy machine may take for a few short things.
    let slack = 1.0 + 20.0 * started.elapsed().as_secs_f64() + slowdown();
    let budget_flag = format!("--budget-seconds={budget}");
    let result = evolve(&folder, &["--steps=5000", &budget_flag]);
    result.assert_run_ended(&[]);
    for text in ["the time budget of", "time spent, over all workers"] {
        assert!(result.stdout.contains(text), "{}", result.stdout);
    }
    let mut summary = summary(&folder);
    let task = summary["tasks"][0].take();
    let seconds = |key: &str| task[key].as_f64().unwrap();
    assert!(seconds("seconds") <= 1.1 * budget + slack, "{task:#}");
    assert!(seconds("search_seconds") < seconds("seconds"));
    task
}

#[test]
fn patience_and_target() {
    let folder = Workspace::with_small_task();
    let result = evolve(
        &folder,
        &[
            "--steps=400",
            "--set=search.patience=2",
            "--set=search.target_speedup=0.2",
        ],
    );
    assert!(result.stdout.contains("the target speedup was reached"));
    let command = named_command(&result);
    assert!(
        command
            .iter()
            .any(|part| part.starts_with("search.target_speedup=")),
        "{command:?}"
    );
    let result = continues(&folder, &result, &[]);
    // The seed decides which of the two comes next.
    let result = if result.stdout.contains("no improvement") {
        result
    } else {
        folder.run(&["resume", "out", "--set=search.target_speedup=1e6"])
    };
    let command = named_command(&result);
    let has_patience = command
        .iter()
        .any(|part| part.starts_with("search.patience="));
    assert!(has_patience, "{command:?}\n{}", result.stdout);
    let mut result = folder.run(&["resume", "out", "--steps=500"]);
    for _ in 0..3 {
        // First a resume confirms again what a busy machine has left too noisy.
        if result.code != 2 {
            result = folder.run(&["resume", "out", "--steps=500"]);
        }
    }
    result.assert_exit(2, &["no improvement", "--set search.patience="]);
    let before = asked(&folder);
    let next = run(&folder, &command_in_text(&result.stderr));
    next.assert_run_ended(&[]);
    assert!(asked(&folder) > before, "{}", next.stdout);

    // A lower limit keeps what was found after it.
    let steps = summary(&folder)["tasks"][0]["steps"].as_u64().unwrap();
    let result = folder.run(&["resume", "out", "--set=search.patience=1"]);
    result.assert_run_ended(&[]);
    let kept = summary(&folder)["tasks"][0]["steps"].as_u64().unwrap();
    assert!(kept + 4 >= steps, "{kept} of {steps}");
}

#[test]
fn nothing_left_to_try() {
    let folder = Workspace::with_small_task();
    let weights = "--set=search.operators={mutate: 0, recombine: 0, autotune: 1}";
    // This kernel has no tunables.
    let text = folder.read("tasks/softmax/task.yaml");
    let text = text.replace(
        "start: [naive.cu, rows.cu, block_rows.cu]",
        "start: [naive.cu]",
    );
    folder.write("tasks/softmax/task.yaml", &text);
    let result = evolve(&folder, &["--steps=400", weights]);
    assert!(
        result.stdout.contains("nothing is left to try"),
        "{}",
        result.stdout
    );
    folder.run(&["resume", "out", "--steps=500"]).assert_exit(
        2,
        &["nothing is left to try", "--model mailbox --accept-changes"],
    );
    let mut command = named_command(&result);
    command.push("--no-wait".to_owned());
    let before = asked(&folder);
    run(&folder, &command).assert_exit(6, &["response.md"]);
    assert!(asked(&folder) > before);
}

#[test]
fn budget_for_models() {
    let folder = Workspace::with_small_task();
    let limits = ["--steps=400", "--budget-tokens=60000"];
    let models = [CHATTING_MODEL, ONLY_MODELS];
    let result = evolve_with_models(&folder, &[limits, models].concat());
    result.assert_run_ended(&[]);
    assert!(
        result.stdout.contains("the budget for models is spent"),
        "{}",
        result.stdout
    );
    assert!(result.stderr.contains("about "), "{}", result.stderr);
    let spent = &summary(&folder)["spent"];
    assert_eq!(spent["estimated"], true, "{spent}");
    let tokens = spent["tokens"].as_u64().unwrap();
    assert!(tokens <= 60_000 && tokens > 30_000, "{spent}");
    for more in [&[][..], &["--steps=500"]] {
        let result = folder.run(&[&["resume", "out"], more].concat());
        let texts = ["the budget for models is spent", "--budget-tokens "];
        if more.is_empty() {
            result.assert_run_ended(&texts);
        } else {
            result.assert_exit(2, &texts);
        }
    }
    let result = continues(&folder, &result, &["--budget-tokens"]);
    let after = summary(&folder)["spent"]["tokens"].as_u64().unwrap();
    assert!(after > tokens, "{}", result.stdout);
    // `no_code` costs a reply each, so hardly anything is valid.
    let task = &summary(&folder)["tasks"][0];
    let replies = task["by_failure"]["no_code"].as_u64().unwrap();
    assert!(replies >= 2, "{task}");
    let validity = task["validity"].as_f64().unwrap();
    let judged = task["judged"].as_u64().unwrap() - task["inconclusive"].as_u64().unwrap();
    let counted = task["counted"].as_u64().unwrap();
    assert_eq!(counted, judged + replies, "{task}");
    let expected = task["passed"].as_u64().unwrap() as f64 / counted as f64;
    assert!((validity - expected).abs() < 1e-12, "{task}");
    let model = &task["models"]["command"];
    assert_eq!(model["validity"], 0.0, "{model}");
}

#[test]
fn mailbox_lists_the_files_that_it_waits_for() {
    let folder = Workspace::with_small_task();
    let result = evolve_with_models(&folder, &["--steps=7", "--model=mailbox", "--no-wait"]);
    result.assert_exit(6, &["\n    kforge resume out\n"]);
    let steps = folder.path().join("out/softmax/steps");
    let mut open = Vec::new();
    for entry in std::fs::read_dir(steps).unwrap().flatten() {
        let step = entry.file_name().into_string().unwrap();
        if entry.path().join("ask-1/prompt.md").exists() {
            open.push(format!("softmax/steps/{step}/ask-1/response.md"));
        }
    }
    open.sort();
    assert!(!open.is_empty());
    let listed: Vec<_> = result
        .stderr
        .lines()
        .filter_map(|line| line.strip_prefix("    out/"))
        .collect();
    assert_eq!(listed, open);
    let summary = summary(&folder);
    assert_eq!(summary["tasks"][0]["waiting_for"], json!(open));
    assert_eq!(summary["continue"], "kforge resume out");
    assert_eq!(summary["finished"], false);
    // A reply for each: the command continues.
    for path in open {
        folder.write(&format!("out/{path}"), "no kernel");
    }
    std::thread::sleep(std::time::Duration::from_millis(1200));
    let before = asked(&folder);
    let next = folder.run(&["resume", "out", "--no-wait"]);
    assert!(matches!(next.code, 0 | 6), "{}", next.stderr);
    assert!(asked(&folder) >= before);
    let replied = folder.read("out/softmax/events.jsonl");
    assert!(replied.contains("\"event\":\"replied\""));
}

#[test]
fn model_that_cannot_be_asked_names_the_command() {
    let folder = Workspace::with_small_task();
    let absent = "--set=llm.models=[{provider: command, command: [./absent]}]";
    let result = evolve_with_models(&folder, &["--steps=7", absent, ONLY_MODELS]);
    result.assert_exit(3, &["./absent", "`kforge resume out`"]);
    folder.write("absent", "#!/bin/sh\ncat > /dev/null\necho no kernel\n");
    let program = folder.path().join("absent");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(program, mode).unwrap();
    let result = run(&folder, &command_in_text(&result.stderr));
    result.assert_run_ended(&[]);
    assert!(result.stdout.contains("all steps were made"));
}

#[test]
fn failed_oracle_names_the_command() {
    let folder = Workspace::with_small_task();
    let oracle = folder.read("tasks/softmax/oracle.cu");
    folder.write(
        "tasks/softmax/oracle.cu",
        &oracle.replace("exp(", "no_such_function("),
    );
    let result = evolve(&folder, &["--steps=3"]);
    result.assert_exit(4, &["`kforge resume out --accept-changes`"]);
    folder.write("tasks/softmax/oracle.cu", &oracle);
    let result = run(&folder, &command_in_text(&result.stderr));
    result.assert_run_ended(&[]);
}

#[test]
fn last_line_without_a_terminal_says_done_once() {
    let folder = Workspace::with_small_task();
    let result = evolve(&folder, &["--steps=3"]);
    assert_eq!(
        result.stderr.matches(", done").count(),
        1,
        "{}",
        result.stderr
    );
    let mut lines = result.stderr.lines().rev();
    assert_eq!(lines.next(), Some("report: out/report.html"));
    let last = lines.next().unwrap();
    assert!(last.contains(", done"), "{}", result.stderr);
    let result = folder.run(&["resume", "out", "--steps=4"]);
    assert_eq!(
        result.stderr.matches(", done").count(),
        1,
        "{}",
        result.stderr
    );
}

#[test]
fn seeds_survive_readers_that_keep_numbers_as_doubles() {
    let folder = Workspace::with_small_task();
    let kernel = folder.write("kernel.cu", crate::program::SOFTMAX_KERNEL);
    let quick = [
        "--backend=cpu",
        "--precision=0.9",
        "--seconds=0.3",
        "--format=json",
    ];
    let judge = |more: &[&str]| {
        let arguments = [&["eval", "softmax", kernel.as_str()], &quick[..], more].concat();
        let result = folder.run(&arguments);
        assert_eq!(result.code, 0, "{}", result.stderr);
        let verdicts: Value = serde_json::from_str(&result.stdout).unwrap();
        verdicts[0].clone()
    };
    // Above 2^53, and odd.
    let seed = "17023039536686873013";
    let verdict = judge(&["--seed", seed]);
    let seeds = verdict["seeds"].as_array().unwrap();
    assert_eq!(seeds[0], seed, "{verdict}");
    assert!(seeds.iter().all(Value::is_string), "{verdict}");
    // As `jq` prints it without `-r`.
    let again = judge(&["--seed", &seeds[0].to_string()]);
    assert_eq!(again["seeds"], verdict["seeds"]);

    let with_seed = SEARCH.map(|argument| match argument {
        "--seed=3" => "--seed=18446744073709551615",
        other => other,
    });
    folder.run(&[&with_seed[..], &["--steps=3"]].concat());
    for file in [
        "out/softmax/events.jsonl",
        "out/softmax/best.json",
        "out/softmax/steps/000001/verdict.json",
        "out/summary.json",
        "out/run.yaml",
    ] {
        let text = folder.read(file);
        for (at, digits) in long_numbers(&text) {
            let before = text[..at].chars().next_back();
            let is_quoted = matches!(before, Some('"' | '\''));
            assert!(is_quoted, "{file}: {digits} is a number");
        }
    }
    assert!(folder.read("out/run.yaml").contains("18446744073709551615"));
    let dry = folder.run(&[
        "evolve",
        "softmax",
        "--backend=cpu",
        "--no-model",
        "--seed=18446744073709551615",
        "--dry-run",
        "--format=json",
    ]);
    let dry: Value = serde_json::from_str(&dry.stdout).unwrap();
    assert_eq!(dry["config"]["seed"], "18446744073709551615");
    // The recorded seed is the same number.
    folder.run(&["resume", "out"]).assert_run_ended(&[]);
}

/// Integers of more than 16 digits, with their places. Digits of a hash or of a fraction do not count.
fn long_numbers(text: &str) -> Vec<(usize, &str)> {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || "._-+".contains(letter);
    let mut numbers = Vec::new();
    let mut start = None;
    for (at, letter) in text.char_indices().chain([(text.len(), ' ')]) {
        match (start, is_word(letter)) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                let word = &text[from..at];
                if word.len() > 16 && word.bytes().all(|byte| byte.is_ascii_digit()) {
                    numbers.push((from, word));
                }
                start = None;
            }
            _ => {}
        }
    }
    numbers
}

#[test]
fn journal_with_seeds_as_numbers_still_resumes() {
    let folder = Workspace::with_small_task();
    evolve(&folder, &["--steps=3"]);
    let journal = folder.read("out/softmax/events.jsonl");
    // As older versions wrote it.
    let mut old = String::new();
    let mut rest = journal.as_str();
    let mut changed = 0;
    while let Some((at, digits)) = long_numbers(rest).first().copied() {
        old += &rest[..at - 1];
        old += digits;
        rest = &rest[at + digits.len() + 1..];
        changed += 1;
    }
    old += rest;
    assert!(changed > 6, "{changed}");
    assert!(long_numbers(&old).len() >= changed);
    folder.write("out/softmax/events.jsonl", &old);
    let result = folder.run(&["resume", "out", "--steps=5"]);
    result.assert_run_ended(&[]);
    assert_eq!(asked(&folder), 5);
    assert_eq!(
        folder
            .read("out/softmax/events.jsonl")
            .lines()
            .take(3)
            .collect::<Vec<_>>(),
        old.lines().take(3).collect::<Vec<_>>()
    );
}

#[test]
fn failed_start_of_a_worker_is_in_the_journal() {
    let folder = Workspace::with_small_task();
    let program = folder.path().join("kforge-copy");
    if std::fs::hard_link(crate::program::program(), &program).is_err() {
        std::fs::copy(crate::program::program(), &program).unwrap();
    }
    let mut command = std::process::Command::new(&program);
    crate::program::clear_environment(&mut command);
    command
        .current_dir(folder.path())
        .env("KFORGE_LOCK_DIR", folder.locks())
        .args(SEARCH)
        .arg("--steps=100000")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let journal = folder.path().join("out/softmax/events.jsonl");
    let started = std::time::Instant::now();
    while !std::fs::read_to_string(&journal).is_ok_and(|text| text.contains("\"judged\"")) {
        assert!(child.try_wait().unwrap().is_none());
        assert!(started.elapsed().as_secs() < 600, "no verdict");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // The next worker cannot be started from a program that is gone.
    std::fs::remove_file(&program).unwrap();
    while child.try_wait().unwrap().is_none() {
        assert!(started.elapsed().as_secs() < 600, "the run continues");
        for worker in crate::program::worker_processes(child.id()) {
            // SAFETY: plain system call; the worst case is a process that has just ended.
            unsafe { libc::kill(worker as i32, libc::SIGKILL) };
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let result = CommandResult::of(&child.wait_with_output().unwrap());
    result.assert_exit(3, &["failed to start a worker", "kforge resume out"]);
    let journal = folder.read("out/events.jsonl");
    let line = journal
        .lines()
        .find(|line| line.contains("\"event\":\"worker_failed\""));
    let line: Value = serde_json::from_str(line.expect(&journal)).unwrap();
    assert_eq!(line["task"], "softmax");
    assert_eq!(line["device"], "the CPU");
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("failed to start a worker"), "{error}");
    // The journal with the new event can be read.
    folder
        .run(&["resume", "out", "--steps=3"])
        .assert_run_ended(&[]);
}
