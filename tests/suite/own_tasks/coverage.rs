//! Do the cases of a user's task expose kernels that are wrong on few shapes or for other values of a scalar?

use super::workspace_with_draft;
use crate::program::Workspace;

/// The task `mine` without its regimes.
fn workspace_without_regimes() -> Workspace {
    let workspace = workspace_with_draft();
    let path = "tasks/mine/task.yaml";
    let text = workspace.read(path);
    let (before, rest) = text.split_once("regimes:\n").unwrap();
    let (_, after) = rest.split_once("# Candidates are also").unwrap();
    workspace.write(path, &format!("{before}# Candidates are also{after}"));
    workspace
}

/// The status of the task's kernel after a replacement.
#[track_caller]
fn judge(workspace: &Workspace, from: &str, to: &str) -> String {
    let source = workspace.read("tasks/mine/naive.cu");
    assert!(source.contains(from), "{source}");
    let kernel = workspace.write("kernel.cu", &source.replace(from, to));
    let output = workspace
        .command(&[
            "eval",
            "mine",
            &kernel,
            "--profile",
            "quick",
            "--format",
            "json",
        ])
        .args(["--precision", "0.5", "--seconds", "2"])
        .output()
        .unwrap();
    let verdicts: Vec<serde_json::Value> = crate::program::json(&output);
    verdicts[0]["status"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_literal_in_place_of_a_scalar_is_wrong_without_regimes() {
    let workspace = workspace_without_regimes();
    assert_eq!(judge(&workspace, "+ eps)", "+ 0.001f)"), "wrong_output");
    // On the larger timed shape only, which no hidden shape has.
    let only_there = "+ (rows == 100 ? 0.001f : eps))";
    assert_eq!(judge(&workspace, "+ eps)", only_there), "wrong_output");
    // The same branch with the right value. A busy machine may not be able to time it.
    let status = judge(&workspace, "+ eps)", "+ (rows == 100 ? eps : eps))");
    assert!(
        ["passed", "inconclusive"].contains(&status.as_str()),
        "{status}"
    );
    // A task may say that the value never changes.
    workspace.change("task.yaml", "hidden:\n", "fixed: [eps]\nhidden:\n");
    let status = judge(&workspace, "+ eps)", "+ 0.001f)");
    assert!(
        ["passed", "inconclusive"].contains(&status.as_str()),
        "{status}"
    );
}

#[test]
fn a_task_whose_judgements_miss_wrong_kernels_is_refused() {
    let workspace = workspace_without_regimes();
    workspace.change("task.yaml", "hidden:\n  rows: [1, 200]\n", "");
    workspace.change("task.yaml", "eps: {value: 0.001}", "eps: {value: 1.0e-12}");
    let workloads = workspace.read("tasks/mine/workloads.jsonl");
    let workloads = workloads.replace("\"value\": 0.001", "\"value\": 1.0e-12");
    workspace.write("tasks/mine/workloads.jsonl", &workloads);
    let result = workspace.check();
    assert_eq!(result.code, 4, "{}{}", result.stdout, result.stderr);
    assert!(!result.stdout.contains("`eps`"), "{}", result.stdout);
    result.shows(&[
        "20 of 20 confirmations pass a kernel that is wrong where `rows` is above ",
        ", except on timed shapes",
        "hint: give every variable axis a range under `hidden`",
    ]);

    // A regime that changes an input too little to be seen, and an integer that nothing changes.
    let workspace = workspace_with_draft();
    workspace.change(
        "task.yaml",
        "other_eps: {eps: {value: 0.5}}",
        "other_eps: {eps: {value: 0.001001}}",
    );
    workspace.change(
        "definition.json",
        "    \"eps\":",
        "    \"mode\": {\"shape\": null, \"dtype\": \"int32\"},\n    \"eps\":",
    );
    workspace.change(
        "task.yaml",
        "  eps: {value: 0.001}",
        "  eps: {value: 0.001}\n  mode: {value: 2}",
    );
    workspace.change(
        "task.yaml",
        "  other_weight: {weight: {normal: 1.0, mean: -1.0}}\n",
        "",
    );
    let result = workspace.check();
    assert_eq!(result.code, 4, "{}{}", result.stdout, result.stderr);
    result.shows(&[
        "`mode` is always 2, so a kernel may contain the value",
        "no regime changes `weight`, so a kernel may rely on its usual values",
        "a kernel with the usual value of `eps` in place of the input passes under every regime",
    ]);
}
