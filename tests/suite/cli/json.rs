//! `--format json` of every command against the schema that `kforge schema` prints, `--format jsonl`, and `--quiet`.

use serde_json::Value;

use crate::program::{CommandResult, Workspace};

/// What is wrong with a document by the schema of this name.
fn errors(workspace: &Workspace, name: &str, document: &Value) -> Option<String> {
    let schema: Value = serde_json::from_str(&workspace.run(&["schema", name]).stdout).unwrap();
    let mut schemas = boon::Schemas::new();
    let mut compiler = boon::Compiler::new();
    compiler.add_resource("schema.json", schema).unwrap();
    let index = compiler.compile("schema.json", &mut schemas).unwrap();
    schemas
        .validate(document, index)
        .err()
        .map(|error| error.to_string())
}

/// Runs a command with both formats and compares each with the schema. Returns the document.
#[track_caller]
fn check(workspace: &Workspace, name: &str, arguments: &[&str]) -> Value {
    let result = workspace.run(&[arguments, &["--format", "json"]].concat());
    let document: Value = serde_json::from_str(&result.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", result.stderr));
    assert_eq!(errors(workspace, name, &document), None, "{arguments:?}");
    let result = workspace.run(&[arguments, &["--format", "jsonl"]].concat());
    let lines = result
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<Value> = lines.collect();
    let is_list = document.is_array();
    let count = document.as_array().map_or(1, Vec::len);
    assert_eq!(lines.len(), count, "{arguments:?}");
    let again = if is_list {
        Value::Array(lines)
    } else {
        lines[0].clone()
    };
    assert_eq!(
        errors(workspace, name, &again),
        None,
        "{arguments:?} as lines"
    );
    // A document that lacks everything is wrong.
    let empty: Value = if is_list {
        serde_json::json!([{}])
    } else {
        serde_json::json!({})
    };
    assert!(errors(workspace, name, &empty).is_some(), "{name}");
    document
}

#[test]
fn results_without_a_run_have_the_keys_of_their_schemas() {
    let workspace = Workspace::new();
    let found = check(&workspace, "doctor", &["doctor"]);
    for check in found.as_array().unwrap() {
        let used_for = check["used_for"].as_str().unwrap();
        assert!(used_for.len() > 10, "{check}");
        assert!(
            check["status"] == "ok" || check["remedy"].is_string() || check["name"] == "sandbox",
            "{check}"
        );
    }
    check(&workspace, "tasks", &["tasks", "list"]);
    let show = workspace
        .run(&["tasks", "show", "gelu", "--format", "json"])
        .stdout;
    let show = serde_json::json!([serde_json::from_str::<Value>(&show).unwrap()]);
    assert_eq!(errors(&workspace, "tasks", &show), None);
    check(
        &workspace,
        "prompt",
        &["prompt", "gelu", "--backend", "cpu"],
    );
    let small = Workspace::with_small_task();
    let kernels_only = ["--backend=cpu", "--only=naive.cu", "--seconds=0.1"];
    let baselines = [&["baselines", "softmax"], &kernels_only[..]].concat();
    check(&small, "baselines", &baselines);
    check(
        &workspace,
        "cards",
        &["prompt", "gelu", "--backend", "cpu", "--card", "list"],
    );
    check(&workspace, "written", &["man", "pages"]);
    for (name, arguments) in [
        ("one", &["tasks", "new"][..]),
        ("two", &["init", "--output", "y:float32[n]"]),
    ] {
        let arguments = [arguments, &[name, "--format", "json"]].concat();
        let document = serde_json::from_str(&workspace.run(&arguments).stdout).unwrap();
        assert_eq!(errors(&workspace, "init", &document), None, "{document}");
    }
}

#[test]
fn results_of_a_run_have_the_keys_of_their_schemas() {
    let workspace = Workspace::with_small_task();
    let run = |arguments: &[&str]| -> CommandResult { workspace.run(arguments) };
    let search = [
        "evolve",
        "softmax",
        "--backend",
        "cpu",
        "--no-model",
        "--steps",
        "2",
        "--output",
        "run",
        "--set",
        "eval.precision=0.5",
        "--set",
        "search.confirm=1",
        "--format",
        "json",
    ];
    let result = run(&search);
    let summary: Value = serde_json::from_str(&result.stdout).unwrap();
    assert_eq!(errors(&workspace, "evolve", &summary), None, "{summary:#}");
    check(&workspace, "runs", &["runs", "."]);
    check(&workspace, "compare", &["compare", "run", "run"]);
    check(&workspace, "written", &["report", "run"]);
    let report = serde_json::from_str(&run(&["report", "run", "--to", "json"]).stdout).unwrap();
    assert_eq!(errors(&workspace, "report", &report), None);
    let eval = [
        "eval",
        "softmax",
        "run/softmax/steps/000001/kernel.cu",
        "--backend",
        "cpu",
    ];
    check(&workspace, "eval", &eval);
    let broken = workspace.write("broken.cu", "no header");
    check(
        &workspace,
        "eval",
        &["eval", "softmax", &broken, "--backend", "cpu"],
    );
    let promote = run(&["promote", "run", "--format", "json"]);
    let promote = serde_json::from_str(&promote.stdout).unwrap();
    assert_eq!(errors(&workspace, "promote", &promote), None, "{promote:#}");
}

#[test]
fn a_quiet_command_prints_results_and_errors_only() {
    let workspace = Workspace::with_small_task();
    let search = [
        "evolve",
        "softmax",
        "--backend",
        "cpu",
        "--no-model",
        "--steps",
        "1",
        "--output",
        "run",
        "--set",
        "eval.precision=0.5",
        "--set",
        "search.confirm=1",
        "--quiet",
    ];
    let result = workspace.run(&search);
    assert_eq!(result.stderr, "", "{}", result.stdout);
    result.shows(&["1 of 1 step"]);
    let result = workspace.run(&["prompt", "gelu", "--backend", "cpu", "-q"]);
    assert_eq!((result.code, result.stderr.as_str()), (0, ""));
    workspace
        .run(&["tasks", "show", "absent", "-q"])
        .assert_exit(2, &["absent"]);
    workspace
        .run(&["doctor", "-q", "-v"])
        .assert_exit(2, &["--quiet"]);
}
