//! `kforge init`: from flags to a search, and what it refuses.

use crate::program::Workspace;

const GATE: [&str; 14] = [
    "init",
    "gate",
    "--input",
    "x:float32[rows,64]",
    "--input",
    "g:float32[rows,64]",
    "--scalar",
    "scale:float32=2",
    "--output",
    "y:float32[rows,64]",
    "--axis",
    "rows=16,40",
    "--format",
    "human",
];

/// Fills in the computation of a stub: the line that writes zeros, and the mark of a draft.
fn fill_in(workspace: &Workspace, file: &str, zero: &str, computation: &str) {
    let path = format!("tasks/gate/{file}");
    let text = workspace.read(&path);
    assert!(text.contains(zero), "{file} has no `{zero}`:\n{text}");
    let text = text.replace(zero, computation);
    let lines = text.lines().filter(|line| !line.contains("kforge: draft"));
    workspace.write(&path, &(lines.collect::<Vec<_>>().join("\n") + "\n"));
}

#[test]
fn a_task_from_flags_is_admitted_and_searched_once_it_is_filled_in() {
    let workspace = Workspace::new();
    workspace.run(&GATE).exits_with(0).shows(&[
        "tasks/gate/oracle.cu",
        "config/gate.yaml",
        "kforge tasks check gate",
        "delete the line",
    ]);
    workspace
        .run(&["tasks", "show", "gate"])
        .exits_with(0)
        .shows(&["size_64"]);
    workspace
        .run(&["tasks", "check", "gate", "--profile", "quick"])
        .exits_with(4)
        .shows(&["is still a draft"]);
    let check = |command: &mut std::process::Command| {
        crate::program::CommandResult::of(&command.output().unwrap())
    };
    // The stubs compile as they are: both compute zeros.
    let (oracle, naive) = ("y[element] = (double)0.0f;", "y[element] = (float)0.0f;");
    fill_in(&workspace, "oracle.cu", oracle, oracle);
    fill_in(&workspace, "naive.cu", naive, naive);
    let stub = [
        "eval",
        "gate",
        "tasks/gate/naive.cu",
        "--backend",
        "cpu",
        "--seconds",
        "0.2",
        "--format",
        "json",
    ];
    let result = check(&mut workspace.command(&stub));
    assert!(matches!(result.code, 0 | 5), "{}", result.stderr);
    let verdicts: serde_json::Value = serde_json::from_str(&result.stdout).unwrap();
    let status = verdicts[0]["status"].as_str().unwrap();
    assert!(matches!(status, "passed" | "inconclusive"), "{verdicts:#}");
    fill_in(
        &workspace,
        "oracle.cu",
        "y[element] = (double)0.0f;",
        "y[element] = (double)x[element] / (1.0 + exp(-(double)g[element])) * (double)scale;",
    );
    fill_in(
        &workspace,
        "naive.cu",
        "y[element] = (float)0.0f;",
        "y[element] = x[element] / (1.0f + expf(-g[element])) * scale;",
    );
    check(&mut workspace.command(&["tasks", "check", "gate", "--profile", "quick"]))
        .exits_with(0)
        .shows(&["gate: admitted"]);
    let search = [
        "evolve",
        "--config",
        "gate.yaml",
        "--backend",
        "cpu",
        "--no-model",
        "--steps",
        "5",
        "--output",
        "run",
        "--set",
        "eval.precision=0.5",
        "--set",
        "eval.seconds=0.3",
        "--set=search.confirm=1",
    ];
    let result = check(&mut workspace.command(&search));
    assert!(matches!(result.code, 0 | 5), "{}", result.stderr);
    result.shows(&["5 of 5 steps"]);
}

#[test]
fn nothing_is_overwritten_and_mistakes_write_nothing() {
    let workspace = Workspace::new();
    for (arguments, words) in [
        (&["gate"][..], &["no terminal to ask on", "--input"][..]),
        (
            &["a/b", "--output", "y:float32[n]"],
            &["cannot be the name of a task"],
        ),
        (
            &["gate", "--input", "x:float32[n]"],
            &["the task has no output"],
        ),
        (
            &["gate", "--output", "y"],
            &["`y` does not describe a tensor", "x:float16[rows,columns]"],
        ),
        (&["gate", "--output", "y:half[n]"], &["half", "float16"]),
        (
            &["gate", "--output", "y:float32[n]", "--axis", "m=4"],
            &["no shape has the axis `m`", "`n`"],
        ),
        (
            &[
                "gate",
                "--output",
                "y:float32[n,m]",
                "--axis",
                "n=1,2",
                "--axis",
                "m=1,2,3",
            ],
            &["`n` has 2 timed sizes, and `m` has 3"],
        ),
        (
            &["gate", "--input", "x:float32[n]", "--input", "x:float32[n]"],
            &["`x` is given twice"],
        ),
    ] {
        let arguments = [&["init"], arguments].concat();
        workspace.run(&arguments).assert_exit(2, words);
        assert_eq!(std::fs::read_dir(workspace.path()).unwrap().count(), 0);
    }
    workspace.run(&GATE).assert_exit(0, &[]);
    workspace
        .run(&GATE)
        .assert_exit(2, &["`tasks/gate` already exists"]);
    std::fs::remove_dir_all(workspace.path().join("tasks")).unwrap();
    workspace.write("config/gate.yaml", "mine");
    workspace
        .run(&GATE)
        .assert_exit(2, &["`config/gate.yaml` already exists"]);
    assert_eq!(workspace.read("config/gate.yaml"), "mine");
    assert!(!workspace.path().join("tasks").exists());
}

#[test]
fn an_expression_and_a_constant_axis_are_taken() {
    let workspace = Workspace::new();
    let arguments = [
        "init",
        "half",
        "--input",
        "x:bfloat16[n,d]",
        "--output",
        "y:bfloat16[n,h]",
        "--axis",
        "d=const:64",
        "--axis",
        "h=d // 2",
        "--format",
        "json",
    ];
    let result = workspace.run(&arguments);
    result.assert_exit(0, &[]);
    let facts: serde_json::Value = serde_json::from_str(&result.stdout).unwrap();
    assert_eq!(facts["task"], "half");
    for file in facts["files"].as_array().unwrap() {
        assert!(
            workspace.path().join(file.as_str().unwrap()).is_file(),
            "{file}"
        );
    }
    workspace
        .run(&["tasks", "show", "half"])
        .assert_exit(0, &[]);
    workspace
        .run(&["evolve", "--config", "half.yaml", "--dry-run"])
        .exits_with(0)
        .shows(&["half"]);
}
