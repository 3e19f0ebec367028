//! Sweeps from outside: names, one folder, one resume, a kill in the middle, the table at the end, `runs`, `report`, `compare`, errors.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::asking::model::{complete_reply, delayed, document, reply_to};
use crate::asking::program::openai_model;
use crate::asking::run_log::RequestLog;
use crate::llm::server::Server;
use crate::program::{CommandResult, Workspace};

/// A quick search of the small task.
const SEARCH: [&str; 11] = [
    "evolve",
    "softmax",
    "--backend=cpu",
    "--no-model",
    "--steps=2",
    "--output=s",
    "--set=eval.precision=0.9",
    "--set=eval.seconds=0.3",
    "--set=search.confirm=1",
    "--set=search.window=4",
    "--set=budget.confirm_share=0",
];

const STRATEGIES: &str = "--set=search.strategy=map_elites,random";

/// The runs of `STRATEGIES` with the seeds 3 and 4, in order.
const RUNS: [&str; 4] = [
    "search.strategy=map_elites,seed=3",
    "search.strategy=map_elites,seed=4",
    "search.strategy=random,seed=3",
    "search.strategy=random,seed=4",
];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&SEARCH[..], more].concat()
}

fn journal(folder: &Workspace, run: &str) -> String {
    folder.read(&format!("s/{run}/softmax/events.jsonl"))
}

#[test]
fn sweep_makes_named_runs_that_compare_as_arms() {
    let folder = Workspace::with_small_task();
    let ended = folder
        .run(&with(&[STRATEGIES, "--set=seed=3..4"]))
        .comes_to_its_end();
    for (number, run) in (1..).zip(RUNS) {
        assert_eq!(
            journal(&folder, run)
                .matches("\"event\":\"judged\"")
                .count(),
            2
        );
        let record = folder.read(&format!("s/{run}/run.yaml"));
        let (rest, seed) = run.split_once(",seed=").unwrap();
        assert!(record.contains(&format!("\nseed: {seed}\n")), "{record}");
        let strategy = rest.split('=').next_back().unwrap();
        assert!(
            record.contains(&format!("strategy: {strategy}\n")),
            "{record}"
        );
        let line = format!("run {number} of 4: {run}");
        assert!(ended.stderr.contains(&line), "{}", ended.stderr);
    }
    // The table has a row for each run, and the command that compares them is ready.
    let table = ended.stdout.rsplit("\nrun ").next().unwrap();
    for run in RUNS {
        assert!(table.contains(&format!("\n{run} ")), "{table}");
    }
    assert!(
        table.ends_with("\n  to compare:\n    kforge compare s\n"),
        "{table}"
    );

    let text = folder.run(&["compare", "s"]).exits_with(0).stdout;
    assert!(text.contains("search.strategy=map_elites: "), "{text}");
    assert!(
        text.contains("search.strategy=random: ") && text.contains("(2 runs)"),
        "{text}"
    );
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&folder.run(arguments).exits_with(0).stdout).unwrap()
    };
    // The same arms by selection, and by a list of runs whose names have commas.
    let by_name = |from: usize| format!("s/{},s/{}", RUNS[from], RUNS[from + 1]);
    let (one, other) = (by_name(0), by_name(2));
    let whole = json(&["compare", "s", "--format=json"]);
    for arms in [
        ["s/search.strategy=map_elites", "s/search.strategy=random"],
        [&one, &other],
    ] {
        let mut found = json(&["compare", arms[0], arms[1], "--format=json"]);
        assert_eq!(found[0]["arms"][0], arms[0]);
        found[0]["arms"] = whole[0]["arms"].clone();
        assert_eq!(found, whole);
    }
    assert_eq!(whole[0]["runs"], serde_json::json!([2, 2]));

    for listed in ["s", "."] {
        let lines = json(&["runs", listed, "--format=json"]);
        let lines = lines.as_array().unwrap();
        assert_eq!(lines.len(), 4);
        assert!(lines.iter().all(|line| line["state"] == "finished"));
    }
    folder
        .run(&["report", "s"])
        .exits_with(0)
        .shows(&["s/report.html"]);
    let page = folder.read("s/report.html");
    for run in RUNS {
        assert!(page.contains(run), "{run}");
    }
    assert!(page.contains("Do the settings differ?"), "{page}");
    assert!(
        page.contains("search.strategy=random: ") && page.contains("(2 runs)"),
        "{page}"
    );
    let link = "href=\"search.strategy%3Drandom%2Cseed%3D4&#x2f;report.html\"";
    assert!(page.contains(link), "{page}");

    // Nothing is left to do: no run is touched.
    let before = RUNS.map(|run| folder.read(&format!("s/{run}/events.jsonl")));
    folder.run(&["resume", "s"]).comes_to_its_end();
    assert_eq!(
        RUNS.map(|run| folder.read(&format!("s/{run}/events.jsonl"))),
        before
    );
    // More steps are made by every run.
    folder.run(&["resume", "s", "--steps=3"]).comes_to_its_end();
    for run in RUNS {
        assert_eq!(
            journal(&folder, run).matches("\"event\":\"asked\"").count(),
            3,
            "{run}"
        );
    }
}

#[test]
fn sweep_continues_after_kills_and_repeats_nothing() {
    let folder = Workspace::with_small_task();
    let mut arguments = with(&["--set=seed=3..4"]);
    let mut kills = 0;
    let deadline = Instant::now() + Duration::from_secs(120);
    // The process is killed each time after another change of the folder: before the first run, in a run, between runs.
    loop {
        assert!(Instant::now() < deadline);
        let mut child = folder.command(&arguments).spawn().unwrap();
        let wanted = kills;
        let is_reached = || count_events(&folder) > wanted;
        while child.try_wait().unwrap().is_none() && !is_reached() {
            std::thread::sleep(Duration::from_millis(2));
        }
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if folder.path().join("s/sweep.yaml").is_file() {
            arguments = vec!["resume", "s"];
        }
        kills = count_events(&folder).max(kills) + 4;
    }
    assert!(kills > 4, "{kills}");
    let ended = folder.run(&["resume", "s"]).comes_to_its_end();
    for seed in 3..=4 {
        let run = format!("seed={seed}");
        let journal = journal(&folder, &run);
        let count = |event: &str| journal.matches(&format!("\"event\":\"{event}\"")).count();
        assert_eq!(
            (count("asked"), count("judged")),
            (2, 2),
            "{run}: {journal}"
        );
        assert!(
            ended.stdout.contains(&format!("\n{run} ")),
            "{}",
            ended.stdout
        );
    }
}

#[test]
fn sweep_over_a_setting_of_a_model_pays_for_no_request_twice() {
    let folder = Workspace::with_small_task();
    let server = Server::start(|number, seen| {
        let reply = complete_reply(seen, &reply_to(&document(seen), number));
        delayed(reply, Duration::from_millis(100))
    });
    let model = openai_model(&server.url, "");
    folder.write(
        "models.yaml",
        &format!(
            "tasks: [softmax]\nsteps: 5\nseed: 5\nbackend: cpu\nprofile: quick\noutput: s\n\
             eval: {{seconds: 0.3, precision: 0.9}}\n\
             search: {{operators: {{mutate: 0, autotune: 0, recombine: 0}}}}\nbudget: {{confirm_share: 0}}\nllm:\n{model}\n"
        ),
    );
    let runs = ["llm.temperature=0.2", "llm.temperature=0.8"];
    let temperatures = [0.2, 0.8];
    let requests = || {
        let seen = server.seen();
        let of = |temperature: f64| {
            let bodies = seen.iter().map(|seen| seen.json()["temperature"].clone());
            bodies.filter(|found| *found == temperature).count()
        };
        temperatures.map(of)
    };
    // Killed in the second run, after a reply.
    let start = [
        "evolve",
        "--config=models.yaml",
        "--set=llm.temperature=0.2,0.8",
    ];
    let mut command = folder.command(&start);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let second = folder
        .path()
        .join("s")
        .join(runs[1])
        .join("softmax/events.jsonl");
    let deadline = Instant::now() + Duration::from_secs(300);
    let is_replied = || {
        let text = std::fs::read_to_string(&second);
        text.is_ok_and(|text| text.contains("\"event\":\"replied\""))
    };
    while !is_replied() {
        assert!(child.try_wait().unwrap().is_none() && Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let [first_before, second_before] = requests();
    let ended = folder.run(&["resume", "s"]).comes_to_its_end();

    let [first, second] = requests();
    assert_eq!(first, first_before, "the first run had ended");
    let logs = runs.map(|run| RequestLog::read(&folder.path().join("s").join(run)));
    for (run, log) in runs.iter().zip(&logs) {
        let asked = journal(&folder, run).matches("\"event\":\"asked\"").count();
        assert_eq!(asked, 5, "{run}");
        // Each reply is to a request of its own step.
        let mut replies: Vec<_> = log.replied.iter().map(|one| (one.step, one.ask)).collect();
        replies.dedup();
        assert!(
            replies.len() == log.replied.len() && !replies.is_empty(),
            "{replies:?}"
        );
        assert!(
            ended.stdout.contains(&format!("\n{run} ")),
            "{}",
            ended.stdout
        );
    }
    assert_eq!(first, logs[0].replied.len());
    // What was in flight when the process was killed is sent again.
    let lost = second - logs[1].replied.len();
    assert!(
        lost <= second_before && lost <= 4,
        "{second} requests, {lost} lost"
    );

    assert!(
        ended
            .stdout
            .ends_with("\n  to compare:\n    kforge compare s\n")
    );
    let compared = folder.run(&["compare", "s"]).exits_with(0).stdout;
    assert!(runs.iter().all(|run| compared.contains(run)), "{compared}");
    let listed = folder.run(&["runs", "s", "--format=json"]).exits_with(0);
    let listed: Vec<Value> = serde_json::from_str(&listed.stdout).unwrap();
    assert!(
        listed.iter().all(|run| run["state"] == "finished"),
        "{listed:?}"
    );
}

/// Complete lines of all journals of the tasks.
fn count_events(folder: &Workspace) -> usize {
    let runs = std::fs::read_dir(folder.path().join("s"))
        .into_iter()
        .flatten();
    let journals = runs.flatten().filter_map(|run| {
        let journal = run.path().join("softmax/events.jsonl");
        std::fs::read_to_string(journal).ok()
    });
    journals.map(|text| text.lines().count()).sum()
}

#[test]
fn mistakes_are_found_before_anything_starts() {
    let folder = Workspace::with_small_task();
    for (more, expected) in [
        (
            &["--set=search.strategy=random,beem"][..],
            "`--set search.strategy=beem`: unknown value `beem`",
        ),
        (&["--set=serch.strategy=random,beam"], "unknown key `serch`"),
        (
            &["--set=eval.in_flight=1,900"],
            "in the run `eval.in_flight=900`: `eval.in_flight`: expected 1 to 64, found `900`",
        ),
        (
            &["--set=tasks=[softmax],[sofmax]"],
            "in the run `tasks=sofmax`: ",
        ),
        (
            &["--set=seed=0..99", STRATEGIES, "--set=search.patience=1..9"],
            "the sweep would have 1800 runs",
        ),
        (&["--set=seed=0..1000000000000"], "more than 500 values"),
        (
            &["--set=seed=1,2", "--set=seed=3"],
            "`seed` has several values and is set twice",
        ),
    ] {
        folder.run(&with(more)).exits_with(2).shows(&[expected]);
        assert!(!folder.path().join("s").exists(), "{more:?}");
    }
    let dry = folder.run(&with(&[STRATEGIES, "--set=seed=3..4", "--dry-run"]));
    let dry = dry.exits_with(0);
    assert!(
        dry.stdout.starts_with("sweep of 4 runs into s\n"),
        "{}",
        dry.stdout
    );
    assert!(
        RUNS.iter().all(|run| dry.stdout.contains(run)),
        "{}",
        dry.stdout
    );
    assert!(!folder.path().join("s").exists());
    folder.run(&["resume", "s", "--set=seed=1,2"]).exits_with(2);
}

#[test]
fn scripts_get_one_document() {
    let folder = Workspace::with_small_task();
    let ended = folder
        .run(&with(&["--set=steps=1,2", "--format=json"]))
        .comes_to_its_end();
    let found: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(found["sweep"], "s");
    assert_eq!(found["compare"], "kforge compare s");
    let runs = found["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[1]["values"]["steps"], "2");
    assert_eq!(runs[1]["tasks"][0]["steps"], 2);
    // Both have the same seed, which was drawn once.
    let seed = |run: &str| {
        let record = folder.read(&format!("s/{run}/run.yaml"));
        let seed = record.lines().find(|line| line.starts_with("seed: "));
        seed.unwrap().to_owned()
    };
    assert_eq!(seed("steps=1"), seed("steps=2"));
    let again: CommandResult = folder.run(&with(&["--set=steps=1,2"]));
    again.exits_with(2).shows(&["`s` already holds a sweep"]);
}
