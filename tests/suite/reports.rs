//! `kforge report` on real runs: what the page says, that it loads nothing, that no text of others becomes markup, and damage.

use serde_json::Value;

use crate::program::{CommandResult, SOFTMAX_KERNEL, Workspace};

/// A quick search of the small task.
const SEARCH: [&str; 10] = [
    "evolve",
    "softmax",
    "--backend=cpu",
    "--seed=3",
    "--set=eval.precision=0.9",
    "--set=eval.seconds=0.3",
    "--set=search.confirm=1",
    "--set=search.window=4",
    "--set=eval.in_flight=2",
    "--set=budget.confirm_share=0.5",
];

fn search(folder: &Workspace, output: &str, more: &[&str]) -> CommandResult {
    let output = format!("--output={output}");
    let arguments = [&SEARCH[..], &[&output], more].concat();
    folder.run(&arguments)
}

/// Asserts that no element of a page loads or runs anything but the page's own script.
fn assert_loads_nothing(page: &str) {
    let markup = without_scripts(page);
    for part in markup.split('<').skip(1) {
        let tag = part.split('>').next().unwrap();
        let name = tag.split([' ', '\n']).next().unwrap();
        let loads = ["img", "iframe", "link", "object", "embed", "base"].contains(&name);
        assert!(
            !loads && !tag.contains("src=") && !tag.contains(" on"),
            "<{tag}>"
        );
    }
    for word in ["url(", "@import", "javascript:", "http://", "https://"] {
        assert!(!markup.contains(word), "`{word}` is in the page");
    }
    let scripts = page.matches("<script").count();
    assert_eq!((scripts, page.matches("</script").count()), (2, 2));
    assert!(page.contains("default-src 'none'"));
    assert!(!page.contains("nonce=\"\""));
}

fn without_scripts(page: &str) -> String {
    let mut rest = page;
    let mut text = String::new();
    while let Some((before, after)) = rest.split_once("<script") {
        text += before;
        rest = after.split_once("</script>").map_or("", |(_, after)| after);
    }
    text + rest
}

/// What the page's script reads.
fn page_data(page: &str) -> Value {
    let (_, rest) = page.split_once("id=\"data\"").unwrap();
    let (_, rest) = rest.split_once('>').unwrap();
    let (json, _) = rest.split_once("</script>").unwrap();
    serde_json::from_str(json).unwrap()
}

fn steps_of(page: &str) -> Vec<Value> {
    page_data(page)["tasks"][0]["steps"]
        .as_array()
        .unwrap()
        .clone()
}

#[test]
fn run_ends_with_a_report_that_says_what_was_found() {
    let folder = Workspace::with_small_task();
    let ended = search(&folder, "out", &["--no-model", "--steps=8"]).comes_to_its_end();
    assert!(
        ended.stderr.contains("report: out/report.html"),
        "{}",
        ended.stderr
    );
    let page = folder.read("out/report.html");
    assert_loads_nothing(&page);
    let summary: Value = serde_json::from_str(&folder.read("out/summary.json")).unwrap();
    let summary = &summary["tasks"][0];

    let found = folder.run(&["report", "out", "--to", "json"]).exits_with(0);
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    let task = &found["runs"][0]["tasks"][0];
    // The report reads the journal on its own, and must come to the same result as the run.
    assert_eq!(task["answer"]["speedup"], summary["best"]["speedup"]);
    let is_found = summary["best"].is_object();
    let best = if is_found {
        &summary["best"]
    } else {
        &summary["best_unconfirmed"]
    };
    assert_eq!(task["answer"]["step"], best["step"]);
    assert_eq!(
        task["answer"]["kind"],
        if is_found { "faster" } else { "unconfirmed" }
    );
    for key in ["cells", "judged", "passed"] {
        assert_eq!(task[key], summary[key], "{key}");
    }
    assert_eq!(found["runs"][0]["state"], "finished");
    assert_eq!(steps_of(&page).len(), 8);
    assert!(page.contains("kforge resume out"));

    let text = folder
        .run(&["report", "out", "--to", "markdown"])
        .exits_with(0)
        .stdout;
    assert!(text.lines().count() < 60, "{text}");
    assert!(text.starts_with("### softmax: "), "{text}");

    let listed = folder.run(&["runs", "."]).exits_with(0).stdout;
    let line = listed.lines().nth(1).unwrap();
    assert!(
        line.starts_with("./out ") && line.contains(" finished ") && line.contains(" 8 "),
        "{listed}"
    );

    // The same run gives the same page, at another place too.
    folder
        .run(&["report", "out", "--output", "again.html"])
        .exits_with(0);
    assert_eq!(folder.read("again.html"), page);
    let printed = folder.run(&["report", "out", "--output", "-"]);
    assert_eq!(printed.exits_with(0).stdout, page);
}

#[test]
fn run_of_failures_alone_is_explained() {
    let folder = Workspace::with_small_task();
    let wrong = SOFTMAX_KERNEL.replace("sum = 0.0f", "sum = 1.0f");
    folder.write("wrong.cu", &wrong);
    let ended = search(
        &folder,
        "out",
        &["--no-model", "--from=wrong.cu", "--steps=1"],
    );
    ended.exits_with(5);
    let page = folder.read("out/report.html");
    assert!(page.contains("Nothing passed"), "{page}");
    assert!(page.contains("no candidate passed"));
    assert!(page.contains("<b>wrong_output</b>"));
    let steps = steps_of(&page);
    assert_eq!(steps[0]["outcome"], "wrong_output");
    // What a person needs to see the fault: reason, evidence, source.
    assert!(steps[0]["reason"].as_str().unwrap().len() > 10, "{steps:?}");
    assert!(
        !steps[0]["evidence"].as_array().unwrap().is_empty(),
        "{steps:?}"
    );
    assert!(steps[0]["kernel"].is_number(), "{steps:?}");
}

#[test]
fn nothing_from_a_kernel_a_model_or_a_path_becomes_markup() {
    let folder = Workspace::with_small_task();
    let attack = "</script><img src=x onerror=alert(1)>\"'&";
    let kernel = format!("{SOFTMAX_KERNEL}// {attack}\n// </textarea></pre>\n");
    folder.write(
        "reply.txt",
        &format!("{attack} </pre>\n```cuda\n{kernel}```\n"),
    );
    folder.write("from.cu", &kernel);
    let models = "--set=llm.models=[\
        {name: first, provider: command, command: [sh, -c, 'cat > /dev/null; cat reply.txt'], max_output_tokens: 1000},\
        {name: '<img src=y>', provider: command, command: [sh, -c, 'cat > /dev/null; echo \"</script><img src=z>\"'], max_output_tokens: 1000},\
        {name: third, provider: command, command: [sh, -c, 'cat > /dev/null; cat reply.txt'], max_output_tokens: 1000}]";
    let weights = "--set=search.operators={propose: 9, edit: 0, crossover: 0, repair: 0, autotune: 0, mutate: 0, recombine: 0}";
    let more = ["--from=from.cu", "--steps=16", models, weights];
    let output = "out<img src=w>";
    search(&folder, output, &more).comes_to_its_end();
    let page = folder.read(&format!("{output}/report.html"));
    assert_loads_nothing(&page);
    // It is shown as text: the page's data has it unchanged.
    let data = page_data(&page);
    let texts = data["tasks"][0]["texts"].to_string();
    assert!(
        texts.contains("</script><img src=x onerror=alert(1)>"),
        "{texts}"
    );
    for model in ["first", "&lt;img src&#x3d;y&gt;", "third"] {
        let is_named = page.contains(model) || page.contains(&model.replace("&#x3d;", "="));
        assert!(is_named, "{model}");
    }
    let steps = steps_of(&page);
    let asked = steps
        .iter()
        .filter(|step| step["exchange"].is_array())
        .count();
    assert!(asked > 0, "{steps:?}");

    let text = folder
        .run(&["report", output, "--to", "markdown"])
        .exits_with(0)
        .stdout;
    // Within a block of code it is text.
    let outside = text.split("```").step_by(2).collect::<String>();
    assert!(
        !outside.contains("<img") && text.contains("<img src=w>"),
        "{text}"
    );
}

#[test]
fn damaged_or_unfinished_journal_is_shown_up_to_the_damage() {
    let folder = Workspace::with_small_task();
    search(&folder, "out", &["--no-model", "--steps=5"]).comes_to_its_end();
    let journal = folder.read("out/softmax/events.jsonl");
    let lines: Vec<_> = journal.lines().collect();

    // The last line was not written completely, as after a kill.
    let torn = &journal[..journal.len() - 20];
    folder.write("out/softmax/events.jsonl", torn);
    let result = folder.run(&["report", "out"]).exits_with(0);
    assert!(!result.stderr.contains("damaged"), "{}", result.stderr);
    assert_eq!(
        folder.read("out/softmax/events.jsonl"),
        torn,
        "a report changes no journal"
    );

    // A line in the middle is damaged.
    let broken = lines.len() / 2;
    let mut damaged = lines.clone();
    damaged[broken] = "{\"schema\":1,\"seq\":\"?\"}";
    folder.write("out/softmax/events.jsonl", &(damaged.join("\n") + "\n"));
    let result = folder.run(&["report", "out"]).exits_with(0);
    let place = format!("softmax/events.jsonl:{}", broken + 1);
    assert!(result.stderr.contains(&place), "{}", result.stderr);
    let page = folder.read("out/report.html");
    assert!(
        page.contains("Incomplete: ") && page.contains(&format!(":{}", broken + 1)),
        "{place}"
    );

    // The process was killed before the task ended.
    let run = folder.read("out/events.jsonl");
    let open: Vec<_> = run
        .lines()
        .filter(|line| !line.contains("task_ended"))
        .collect();
    folder.write("out/events.jsonl", &(open.join("\n") + "\n"));
    folder.write(
        "out/softmax/events.jsonl",
        &(lines[..broken].join("\n") + "\n"),
    );
    folder.run(&["report", "out"]).exits_with(0);
    assert!(folder.read("out/report.html").contains("not finished"));

    folder
        .run(&["report", "tasks"])
        .assert_exit(2, &["is not a run directory"]);
}

#[test]
fn several_runs_give_an_index_that_warns_of_what_cannot_be_compared() {
    let folder = Workspace::with_small_task();
    search(&folder, "one", &["--no-model", "--steps=3"]).comes_to_its_end();
    let task = folder.read("tasks/softmax/task.yaml");
    folder.write("tasks/softmax/task.yaml", &format!("{task}# changed\n"));
    search(&folder, "two", &["--no-model", "--steps=3"]).comes_to_its_end();
    folder
        .run(&["report", "one", "two"])
        .exits_with(0)
        .shows(&["runs.html"]);
    let page = folder.read("runs.html");
    assert_loads_nothing(&page);
    for text in [
        "one/report.html",
        "two/report.html",
        "The files of the task differ between the runs.",
    ] {
        assert!(
            page.contains(text) || page.contains(&text.replace('/', "&#x2f;")),
            "{text}"
        );
    }
}

/// A journal of many steps, made from the lines of a real one.
fn repeat_steps(journal: &str, steps: u64) -> String {
    let mut text = String::new();
    let events: Vec<Value> = journal
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let is_step = |event: &&Value| {
        ["asked", "proposed", "judged", "failed"].contains(&event["event"].as_str().unwrap())
    };
    let of_steps: Vec<_> = events.iter().filter(is_step).collect();
    let last = of_steps
        .iter()
        .filter_map(|event| event["step"].as_u64())
        .max()
        .unwrap();
    let mut seq = 0;
    for round in 0..steps.div_ceil(last) {
        for event in &of_steps {
            let mut event = (*event).clone();
            let step = event["step"].as_u64().unwrap() + round * last;
            if step > steps {
                continue;
            }
            seq += 1;
            event["seq"] = seq.into();
            event["step"] = step.into();
            text += &event.to_string();
            text.push('\n');
        }
    }
    text
}

#[test]
fn report_of_a_thousand_steps_stays_small() {
    let folder = Workspace::with_small_task();
    search(&folder, "out", &["--no-model", "--steps=12"]).comes_to_its_end();
    let journal = folder.read("out/softmax/events.jsonl");
    folder.write("out/softmax/events.jsonl", &repeat_steps(&journal, 1000));
    let kernels: Vec<_> = (1..=12)
        .map(|step| folder.path().join(format!("out/softmax/steps/{step:06}")))
        .collect();
    for step in 13..=1000 {
        let from = &kernels[(step - 1) % 12];
        let to = folder.path().join(format!("out/softmax/steps/{step:06}"));
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    folder.run(&["report", "out"]).exits_with(0);
    let page = folder.read("out/report.html");
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
    assert_eq!(steps_of(&page).len(), 1000);

    // Steps that say much: fewer of them fit.
    for step in 1..=1000 {
        let name = format!("out/softmax/steps/{step:06}/verdict.json");
        let Ok(text) = std::fs::read_to_string(folder.path().join(&name)) else {
            continue;
        };
        let mut verdict: Value = serde_json::from_str(&text).unwrap();
        let Some(workloads) = verdict["workloads"].as_array_mut() else {
            continue;
        };
        let Some(one) = workloads.first().cloned() else {
            continue;
        };
        for number in 0..40 {
            let mut more = one.clone();
            more["id"] = format!("workload-with-a-long-name-{number}").into();
            workloads.push(more);
        }
        folder.write(&name, &verdict.to_string());
    }
    folder.run(&["report", "out"]).exits_with(0);
    let page = folder.read("out/report.html");
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
    let listed = steps_of(&page).len();
    assert!((100..1000).contains(&listed), "{listed}");
}

#[test]
fn comparison_of_runs_says_whether_they_differ() {
    let folder = Workspace::with_small_task();
    let more = ["--no-model", "--steps=3", "--set=search.confirm=3"];
    search(&folder, "one", &more).comes_to_its_end();
    let compare = |arguments: &[&str]| {
        let result = folder.run(&[&["compare", "--format=json"], arguments].concat());
        let text = result.exits_with(0).stdout;
        serde_json::from_str::<Vec<Value>>(&text).unwrap().remove(0)
    };
    let text = folder.run(&["compare", "one", "one"]).exits_with(0).stdout;
    assert!(
        text.starts_with("softmax: no difference can be shown"),
        "{text}"
    );
    let same = compare(&["one", "one"]);
    assert_eq!(
        (&same["ratio"], &same["is_shown"]),
        (&1.0.into(), &false.into())
    );

    // The same run with other confirmed figures: a difference beyond all noise.
    for (name, speedup) in [
        ("slow", 2.0),
        ("fast", 20.0),
        ("slow2", 2.02),
        ("fast2", 20.2),
    ] {
        copy_folder(&folder.path().join("one"), &folder.path().join(name));
        let journal = format!("{name}/softmax/events.jsonl");
        folder.write(
            &journal,
            &with_confirmed_speedup(&folder.read(&journal), speedup),
        );
    }
    let found = compare(&["slow", "fast"]);
    assert_eq!(
        (&found["method"], &found["is_shown"]),
        (&"workloads".into(), &true.into()),
        "{found}"
    );
    assert!(
        (found["ratio"].as_f64().unwrap() - 10.0).abs() < 1e-9,
        "{found}"
    );
    let text = folder
        .run(&["compare", "slow", "fast"])
        .exits_with(0)
        .stdout;
    assert!(
        text.starts_with("softmax: fast is faster than slow\n"),
        "{text}"
    );
    // Runs of one arm with the same seed cannot be paired.
    let arms = compare(&["slow,slow2", "fast,fast2"]);
    assert_eq!(
        (&arms["method"], &arms["is_shown"], &arms["runs"]),
        (&"runs".into(), &true.into(), &serde_json::json!([2, 2])),
        "{arms}"
    );
    // Equal results say nothing of the scatter.
    let equal = folder
        .run(&["compare", "slow,slow", "fast,fast"])
        .exits_with(0)
        .stdout;
    assert!(
        equal.starts_with("softmax: no difference can be shown"),
        "{equal}"
    );
    folder.run(&["compare", "one"]).assert_exit(2, &[]);
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The journal with another result of each confirmation: this speedup, with an interval of 1 % on each side.
fn with_confirmed_speedup(journal: &str, speedup: f64) -> String {
    let interval = serde_json::json!([speedup * 0.99, speedup * 1.01]);
    let lines = journal.lines().map(|line| {
        let mut event: Value = serde_json::from_str(line).unwrap();
        if event["event"] == "confirmed" {
            let verdict = &mut event["verdict"];
            verdict["status"] = "passed".into();
            verdict["reason"] = Value::Null;
            verdict["speedup"] = serde_json::json!({"geomean": speedup, "ci95": interval});
            for workload in verdict["workloads"].as_array_mut().unwrap() {
                if workload["hidden"] == false {
                    workload["status"] = "passed".into();
                    workload["speedup"] = speedup.into();
                    workload["ci95"] = interval.clone();
                }
            }
        }
        format!("{event}\n")
    });
    lines.collect()
}

#[test]
fn compare_measures_the_best_kernels_and_correlates_quantities() {
    let folder = Workspace::with_small_task();
    for (output, seed) in [("one", "--set=seed=3"), ("other", "--set=seed=4")] {
        // Nothing is confirmed by the runs: `--measure` does it.
        let more = [
            "--no-model",
            "--steps=6",
            seed,
            "--set=budget.confirm_share=0",
        ];
        search(&folder, output, &more).comes_to_its_end();
    }
    let json = |arguments: &[&str]| -> Value {
        let arguments = [&["compare", "--format=json"], arguments].concat();
        serde_json::from_str(&folder.run(&arguments).exits_with(0).stdout).unwrap()
    };
    let journals =
        || ["one", "other"].map(|run| folder.read(&format!("{run}/softmax/events.jsonl")));
    let before = journals();
    let found = json(&["one", "other", "--measure", "--set=eval.seconds=0.4"]);
    assert_eq!(journals(), before);
    let measured = &found[0]["measured"];
    let kernels = measured["kernels"].as_array().unwrap();
    assert_eq!(kernels.len(), 2, "{measured}");
    assert_eq!(
        (&kernels[0]["run"], &kernels[1]["run"]),
        (&"one".into(), &"other".into())
    );
    // On a busy machine a kernel may be too noisy; otherwise there is a ratio with an interval around it.
    if let Some(ratio) = measured["ratio"].as_f64() {
        assert!(
            kernels.iter().all(|kernel| kernel["status"] == "passed"),
            "{measured}"
        );
        let interval = [0, 1].map(|end| measured["ci95"][end].as_f64().unwrap());
        assert!(interval[0] <= ratio && ratio <= interval[1], "{measured}");
    }
    // Without the flag nothing is measured.
    assert!(json(&["one", "other"])[0].get("measured").is_none());

    let found = json(&[
        "one",
        "other",
        "--correlate=step,at_seconds",
        "--correlate=features.block_threads,speedup",
    ]);
    assert_eq!(found.as_array().unwrap().len(), 4);
    assert_eq!(found[0]["arm"], "one");
    // A later step ends later: six steps are enough to show it.
    assert!(found[0]["candidates"].as_u64().unwrap() >= 6, "{found}");
    assert!(found[0]["rho"].as_f64().unwrap() > 0.5, "{found}");
    assert!(
        found[0]["corrected"].as_f64() >= found[0]["p"].as_f64(),
        "{found}"
    );
    for (arguments, expected) in [
        (&["one", "--correlate=step"][..], "expected two quantities"),
        (&["one", "--correlate=step,sped"], "did you mean `step`?"),
        (
            &["one", "--correlate=step,nothing.here"],
            "paths of numbers in a verdict",
        ),
        (&["one"], "there is only one arm"),
    ] {
        let arguments = [&["compare"], arguments].concat();
        folder.run(&arguments).exits_with(2).shows(&[expected]);
    }
}
