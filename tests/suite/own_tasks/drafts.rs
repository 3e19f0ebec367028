//! `kforge tasks new`: the draft is admitted as it is, and nothing is overwritten.

use super::workspace_with_draft;
use crate::program::Workspace;

#[test]
fn a_new_task_is_complete_and_admitted() {
    let workspace = workspace_with_draft();
    for file in [
        "definition.json",
        "workloads.jsonl",
        "task.yaml",
        "oracle.cu",
        "naive.cu",
    ] {
        assert!(
            !workspace
                .read(&format!("tasks/mine/{file}"))
                .contains("NAME"),
            "{file}"
        );
    }
    let result = workspace.check();
    assert_eq!(result.code, 0, "{}{}", result.stdout, result.stderr);
    result.shows(&["mine: admitted; 2 workloads, 8 regimes"]);
}

#[test]
fn nothing_is_overwritten_and_wrong_names_are_refused() {
    let workspace = workspace_with_draft();
    workspace.write(
        "wrong.json",
        "{\"name\": \"w\", \"axes\": {\"n\": {\"type\": \"variable\"}}}",
    );
    workspace.write("named.json", "{\"name\": \"a b\", \"axes\": {\"n\": {\"type\": \"var\"}}, \"inputs\": {}, \"outputs\": {\"y\": {\"shape\": [\"n\"], \"dtype\": \"float32\"}}}");
    for (arguments, words) in [
        (&["mine"][..], &["`tasks/mine` already exists"][..]),
        (
            &["a/b"],
            &["`a/b` is neither the name of a task nor the path of a definition"],
        ),
        (&[".."], &["`..` cannot be the name of a task"]),
        (&["x y"], &["`x y` cannot be the name of a task"]),
        (
            &["absent.json"],
            &["failed to read the definition `absent.json`"],
        ),
        (
            &["wrong.json"],
            &[
                "axes.n.type: unknown type `variable`",
                "`outputs` is missing",
                "`inputs` is missing",
            ],
        ),
        (
            &["named.json"],
            &[
                "`a b` cannot be the name of a task",
                "`--name` names a task",
            ],
        ),
        (
            &["other", "--name", "b"],
            &["`--name` is for a task from a definition"],
        ),
    ] {
        let arguments = [&["tasks", "new"], arguments].concat();
        workspace.run(&arguments).assert_exit(2, words);
    }
    workspace
        .run(&["tasks", "new", "named.json", "--name", "named"])
        .assert_exit(0, &[]);
    workspace
        .run(&["tasks", "show", "named"])
        .assert_exit(0, &[]);
}

#[test]
fn draft_from_a_definition_is_refused_as_a_reference() {
    let workspace = Workspace::new();
    workspace.write("gemm.json", super::definitions::GEMM);
    workspace
        .run(&["tasks", "new", "gemm.json", "--name", "mine"])
        .assert_exit(0, &[]);
    let result = workspace.check();
    assert_eq!(result.code, 4, "{}", result.stderr);
    result.shows(&[
        "`oracle.cu` is still a draft, which writes zeros",
        "`naive.cu` is still a draft",
    ]);
    let kernel = workspace
        .path()
        .join("tasks/mine/naive.cu")
        .display()
        .to_string();
    let result = workspace.run(&["eval", "mine", &kernel]);
    assert_eq!(result.code, 4, "{}{}", result.stdout, result.stderr);
    result.shows(&["task `mine`: still a draft, which writes zeros: `oracle.cu` and `naive.cu`"]);
}
