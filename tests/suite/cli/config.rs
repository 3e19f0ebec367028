//! Run configs, flags and the environment: what wins, and how mistakes are reported.

use crate::program::{CommandResult, Workspace};

#[test]
fn unknown_config_key_suggests_the_nearest_key() {
    let folder = Workspace::new();
    folder.write("run.yaml", "tasks: [softmax]\nstpes: 3\n");
    folder.run(&["evolve", "--config", "run.yaml"]).assert_exit(
        2,
        &["run.yaml:2:1: unknown key `stpes`", "did you mean `steps`?"],
    );
    let set = folder.run(&[
        "evolve",
        "--config",
        "gdn_decode.yaml",
        "--set",
        "search.explortion=0.5",
    ]);
    set.assert_exit(
        2,
        &[
            "unknown key `search.explortion`",
            "did you mean `exploration`?",
        ],
    );
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing was written"
    );
}

#[test]
fn wrong_type_shows_the_line_and_the_expected_type() {
    let folder = Workspace::new();
    folder.write("run.yaml", "tasks: [softmax]\nsteps: many\n");
    folder
        .run(&["evolve", "--config", "run.yaml"])
        .assert_exit(2, &["run.yaml:2:8: expected a whole number", "steps: many"]);
    folder.write("zero.yaml", "tasks: [softmax]\nsteps: 0\n");
    folder
        .run(&["evolve", "--config", "zero.yaml"])
        .assert_exit(2, &["`steps`: expected at least 1, found `0`"]);
    folder.write(
        "feature.yaml",
        "tasks: [softmax]\nsearch: {features: {block_thread: [1]}}\n",
    );
    folder
        .run(&["evolve", "--config", "feature.yaml"])
        .assert_exit(
            2,
            &[
                "unknown feature `block_thread`",
                "did you mean `block_threads`?",
            ],
        );
}

#[test]
fn out_of_range_value_shows_its_line_only_if_it_comes_from_the_file() {
    let folder = Workspace::new();
    folder.write("run.yaml", "tasks: [softmax]\neval:\n  in_flight: 0\n");
    let evolve = ["evolve", "--config", "run.yaml"];
    folder.run(&evolve).assert_exit(
        2,
        &[
            "run.yaml:3:14: `eval.in_flight`: expected 1 to 64",
            "  in_flight: 0\n",
        ],
    );
    let set = folder.run(&[&evolve[..], &["--set", "eval.in_flight=99"]].concat());
    set.assert_exit(2, &["error: `eval.in_flight`: expected 1 to 64"]);
    folder.write("run.yaml", "tasks: [softmax]\nsteps: 0\n");
    let typed = folder.run(&[&evolve[..], &["--steps", "2", "--dry-run"]].concat());
    assert_eq!(typed.code, 0, "{}", typed.stderr);
}

#[test]
fn unknown_model_provider_is_a_usage_error() {
    let folder = Workspace::new();
    folder.write(
        "models.yaml",
        "tasks: [softmax]\nllm: {models: [mailbox, antropic/claude]}\n",
    );
    folder
        .run(&["evolve", "--config", "models.yaml"])
        .assert_exit(
            2,
            &[
                "models.yaml:2:",
                "unknown provider in `antropic/claude`",
                "did you mean `anthropic`?",
            ],
        );
}

#[test]
fn flag_overrides_environment_and_environment_overrides_file() {
    let folder = Workspace::new();
    folder.write(
        "run.yaml",
        "tasks: [softmax]\nsteps: 5\noutput: from-file\n",
    );
    let directory = |environment: Option<&str>, arguments: &[&str]| {
        let all = [
            &[
                "evolve",
                "--config",
                "run.yaml",
                "--dry-run",
                "--format",
                "json",
            ],
            arguments,
        ]
        .concat();
        let mut command = folder.command(&all);
        if let Some(value) = environment {
            command.env("KFORGE_OUTPUT", value);
        }
        let result = CommandResult::of(&command.output().unwrap());
        assert_eq!(result.code, 0, "{}", result.stderr);
        let facts: serde_json::Value = serde_json::from_str(&result.stdout).unwrap();
        (
            facts["directory"].as_str().unwrap().to_owned(),
            facts["config"]["steps"].as_u64().unwrap(),
        )
    };
    assert_eq!(directory(None, &[]), ("from-file".to_owned(), 5));
    assert_eq!(directory(Some("from-env"), &[]).0, "from-env");
    assert_eq!(
        directory(Some("from-env"), &["--output", "from-flag"]).0,
        "from-flag"
    );
    assert_eq!(
        directory(
            Some("from-env"),
            &["--set", "output=from-set", "--steps", "7"]
        ),
        ("from-set".to_owned(), 7)
    );
    // These variables do not conflict with `--resume`.
    let mut resume = folder.command(&["evolve", "--resume", "nowhere"]);
    let result = CommandResult::of(
        &resume
            .env("KFORGE_OUTPUT", "x")
            .env("KFORGE_CONFIG", "y")
            .output()
            .unwrap(),
    );
    result.assert_exit(2, &["`nowhere` is not a run"]);
}

#[test]
fn start_chooses_among_the_starting_kernels() {
    let folder = Workspace::new();
    let dry_run = |start: &str| {
        let set = format!("start={start}");
        folder.run(&[
            "evolve",
            "softmax",
            "--backend=cpu",
            "--dry-run",
            "--set",
            &set,
        ])
    };
    let one = dry_run("[naive.cu]");
    one.assert_exit(0, &[]);
    let starts: Vec<&str> = one
        .stdout
        .lines()
        .filter(|line| line.contains("starts "))
        .collect();
    assert_eq!(starts, ["  starts     naive.cu"], "{}", one.stdout);
    dry_run("[rows.cu, naiv.cu]").assert_exit(
        2,
        &[
            "`start`: task `softmax` has no starting kernel `naiv.cu`",
            "did you mean `naive.cu`?",
        ],
    );
    dry_run("[]").assert_exit(2, &["`start: []` leaves no kernel to start from"]);
}
