//! `kforge tasks check`: shipped tasks are admitted, and loose tasks are refused with the reason.

use serde_json::Value;

use crate::program::{json, kforge, root};

fn check(arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
    // Nothing is timed, so there is no need to wait for tests that time kernels.
    let locks = tempfile::tempdir().unwrap();
    let output = kforge(["tasks", "check", "--format", "json", "--profile", "quick"])
        .args(arguments)
        .env("KFORGE_LOCK_DIR", locks.path())
        .output()
        .unwrap();
    (output.status.code(), json(&output))
}

/// Checks a shipped task without regimes, after replacements in its `task.yaml`. Also returns the folder, which keeps the task.
fn check_changed_task(
    task: &str,
    replacements: &[(&str, &str)],
) -> (Option<i32>, Value, tempfile::TempDir) {
    let shipped = root().join("tasks").join(task);
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("tasks").join(task);
    std::fs::create_dir_all(&own).unwrap();
    for entry in std::fs::read_dir(shipped).unwrap().flatten() {
        std::fs::copy(entry.path(), own.join(entry.file_name())).unwrap();
    }
    let path = own.join("task.yaml");
    let mut text = std::fs::read_to_string(&path).unwrap();
    let regimes = text.find("regimes:\n").unwrap();
    let after = text.find("hidden:\n").unwrap();
    text.replace_range(regimes..after, "regimes: {}\n");
    for (from, to) in replacements {
        assert!(text.contains(from), "{task} has no `{from}`");
        text = text.replacen(from, to, 1);
    }
    std::fs::write(&path, text).unwrap();
    let (code, mut admissions) = check(&[own.to_str().unwrap()]);
    (code, admissions.remove(0), folder)
}

/// Replacements that leave one workload and no hidden shapes.
const ONE_SOFTMAX: (&str, &str) = (
    "workloads: [r64c257, r128c1000], hidden_shapes: 1",
    "workloads: [r64c257], hidden_shapes: 0",
);
const ONE_RMSNORM: (&str, &str) = (
    "workloads: [t129, t512], hidden_shapes: 1",
    "workloads: [t129], hidden_shapes: 0",
);

fn missed_corruptions(admission: &Value) -> Vec<&str> {
    let passed = admission["passed"].as_array().unwrap().iter();
    passed
        .map(|missed| missed["candidate"].as_str().unwrap())
        .collect()
}

#[test]
fn shipped_tasks_are_admitted() {
    let shipped = kforge::task::embedded_names();
    let (code, admissions) = check(&shipped);
    for admission in &admissions {
        // The reason first: the rest of an admission is long.
        let (passed, faults) = (&admission["passed"], &admission["faults"]);
        let (task, seed) = (&admission["task"], &admission["seed"]);
        assert_eq!(
            admission["admitted"], true,
            "{task}, seed {seed}: faults {faults:#}, missed {passed:#}"
        );
        assert_eq!(admission["precision"], "checked");
        assert!(admission["comparisons"].as_u64().unwrap() > 100);
    }
    assert_eq!((code, admissions.len()), (Some(0), shipped.len()));
}

#[test]
fn loose_tasks_are_refused_with_the_reason() {
    let loose = "{rtol: 9.0e-2, atol_rms: 9.0e-2}";
    let softmax = "output: {rtol: 2.0e-4, atol_rms: 1.0e-5}";
    let rmsnorm = "output: {rtol: 1.0e-2, atol_rms: 1.0e-3}";
    let wide = format!("output: {loose}");
    for (task, replacements, reason) in [
        (
            "softmax",
            vec![(softmax, wide.as_str())],
            "the output rounded to bfloat16",
        ),
        (
            "softmax",
            vec![
                (softmax, "output: {rtol: 2.0e-2, atol_rms: 1.0e-3}"),
                ("[90.0, 98.0]", "[0.0, 1.0]"),
            ],
            "inputs rounded to float16",
        ),
        (
            "softmax",
            vec![("{uniform: [90.0, 98.0]}", "{value: 1.0}")],
            "the outputs of other inputs",
        ),
        (
            "softmax",
            vec![("{uniform: [90.0, 98.0]}", "{value: 1.0}")],
            "the mean",
        ),
        (
            "rmsnorm",
            vec![("{uniform: [0.5, 1.5]}", "{value: 0.0}")],
            "zeros",
        ),
        (
            "rmsnorm",
            vec![("{uniform: [0.5, 1.5]}", "{value: 0.0}")],
            "half the work, then zeros",
        ),
        (
            "rmsnorm",
            vec![
                ("x: {normal: 0.1}", "x: {value: 0.1}"),
                ("{uniform: [0.5, 1.5]}", "{value: 1.0}"),
            ],
            "half the work, then outputs of other inputs",
        ),
        (
            "rmsnorm",
            vec![
                (rmsnorm, wide.as_str()),
                ("{uniform: [0.5, 1.5]}", "{value: 1.0}"),
                ("x: {normal: 0.1}", "x: {normal: 1.0}"),
            ],
            "a copy of `x`",
        ),
    ] {
        let one = if task == "softmax" {
            ONE_SOFTMAX
        } else {
            ONE_RMSNORM
        };
        let (code, admission, _folder) =
            check_changed_task(task, &[&replacements[..], &[one]].concat());
        assert_eq!(code, Some(4), "{reason}: {admission:#}");
        assert_eq!(admission["admitted"], false);
        assert!(
            missed_corruptions(&admission).contains(&reason),
            "{reason}: {admission:#}"
        );
    }
    for (replacement, reason) in [
        (
            (softmax, "output: {rtol: 1.0e-12, atol_rms: 0.0}"),
            "`naive.cu` fails: ",
        ),
        (
            (softmax, "output: {rtol: 0.3, atol_rms: 0.0}"),
            "lets anything pass",
        ),
    ] {
        let (code, admission, _folder) = check_changed_task("softmax", &[replacement, ONE_SOFTMAX]);
        let faults = admission["faults"].as_array().unwrap().iter();
        let mut faults = faults.map(|fault| fault["reason"].as_str().unwrap());
        assert!(faults.any(|fault| fault.contains(reason)), "{admission:#}");
        assert_eq!(code, Some(4));
    }
}

#[test]
fn unchecked_precision_is_reported_in_admission_and_verdicts() {
    let replacements = [
        (
            "output: {rtol: 1.0e-2, atol_rms: 1.0e-3}",
            "output: {rtol: 9.0e-2, atol_rms: 3.0e-2}",
        ),
        ONE_RMSNORM,
    ];
    let (code, admission, _folder) = check_changed_task("rmsnorm", &replacements);
    // With the timed inputs, and with other values of `eps`, which every task gets.
    let mut missed = missed_corruptions(&admission);
    missed.dedup();
    assert_eq!(missed, ["the output rounded to float8_e4m3fn"]);
    assert_eq!(code, Some(4));
    // With hidden shapes and the default regimes, without which a task is refused.
    let replacements = [
        replacements[0],
        ("regimes: {}\n", ""),
        ("workloads: [t129, t512]", "workloads: [t129]"),
        ("precision: checked", "precision: unchecked"),
    ];
    let (code, admission, folder) = check_changed_task("rmsnorm", &replacements);
    assert_eq!(
        (code, &admission["precision"]),
        (Some(0), &Value::from("unchecked"))
    );
    let task = folder.path().join("tasks/rmsnorm");
    let kernels = root().join("kernels/rmsnorm");
    for (task, precision) in [
        (task.as_os_str(), Value::from("unchecked")),
        ("rmsnorm".as_ref(), Value::Null),
    ] {
        let locks = tempfile::tempdir().unwrap();
        let output = kforge([
            "eval",
            "--format",
            "json",
            "--precision",
            "0.5",
            "--seconds",
            "3",
        ])
        .env("KFORGE_LOCK_DIR", locks.path())
        .arg(task)
        .arg(kernels.join("naive.cu"))
        .output()
        .unwrap();
        let verdicts: Vec<Value> = json(&output);
        assert_eq!(
            verdicts[0].get("precision").unwrap_or(&Value::Null),
            &precision
        );
    }
}

#[test]
fn invalid_regimes_are_rejected_with_a_reason() {
    for (from, to, error) in [
        (
            "  ties: {x:",
            "  ties: {y:",
            "regimes.ties.y: no such input\n\nhint: did you mean `x`?",
        ),
        ("levels: 64", "level: 64", "unknown key `level`"),
        (
            "levels: 64",
            "levels: 0",
            "`levels`: expected at least 1, found 0",
        ),
        (
            "zeros: 0.1",
            "zeros: 1.0",
            "`zeros`: expected a share of at least 0 and below 1, found 1",
        ),
        (
            "large_rows: 20.0",
            "large_rows: -1.0",
            "`large_rows`: expected a factor above 0, found -1",
        ),
        (
            "regimes: all",
            "regimes: some",
            "hint: there are `once` and `all`",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let shipped = root().join("tasks/softmax");
        let own = folder.path().join("softmax");
        std::fs::create_dir(&own).unwrap();
        for entry in std::fs::read_dir(shipped).unwrap().flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            std::fs::write(own.join(entry.file_name()), text.replacen(from, to, 1)).unwrap();
        }
        let output = kforge(["tasks", "show"]).arg(own).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            message.contains(error) && output.status.code() == Some(2),
            "{to}: {message}"
        );
    }
}
