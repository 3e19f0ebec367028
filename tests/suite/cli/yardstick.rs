//! Tables of baselines that a run finds for its device: in prompts, as what targets are over, and on a resume.

use serde_json::{Value, json};

use crate::program::{CommandResult, Workspace};

/// No Python: nothing can be measured, so only the table says something.
fn run(folder: &Workspace, arguments: &[&str]) -> CommandResult {
    let mut command = folder.command(arguments);
    command.env("KFORGE_PYTHON", "/no/python");
    CommandResult::of(&command.output().unwrap())
}

/// A table of this device that says that `library` needs `share` of the time of the task's baseline.
fn write_table(folder: &Workspace, device: &Value, share: f64) {
    let source = std::fs::read(crate::program::root().join("kernels/softmax/naive.cu")).unwrap();
    let digest = kforge::base::Digest::of(source).to_string();
    let entry = |name: &str, kind: &str, versions: Value, speedup: f64| {
        json!({
            "name": name, "kind": kind, "versions": versions, "launch": null, "reason": null,
            "kernel_speedup": {"geomean": speedup, "ci95": [speedup * 0.99, speedup * 1.01]},
            "speedup": null,
            "workloads": [{
                "id": "r64c257", "axes": {"rows": 64, "columns": 257}, "baseline_us": 100.0 * speedup,
                "kernel_us": 100.0, "kernel_speedup": speedup, "ci95": [speedup * 0.99, speedup * 1.01],
            }],
        })
    };
    let own = json!({"name": "naive.cu", "kind": "kernel", "versions": {"source": digest}});
    let table = json!({
        "schema": 1, "kforge": "0.1.0", "time": "2026-11-30T08:00:00Z", "task": "softmax", "backend": "cpu",
        "device": device, "cache": "warm", "profile": "quick", "baseline": own,
        "kernel": {"name": "naive.cu", "source": digest},
        "entries": [
            entry("naive.cu", "kernel", json!({"source": digest}), 1.0),
            entry("library", "python", json!({"library": "1.2"}), share),
        ],
    });
    folder.write(
        "kernels/softmax/baselines/a-device.json",
        &table.to_string(),
    );
}

/// The device that judges.
fn device(folder: &Workspace) -> Value {
    let arguments = ["doctor", "--backend=cpu", "--format=json"];
    let _ = arguments;
    let judged = run(
        folder,
        &[
            "eval",
            "softmax",
            "naive.cu",
            "--backend=cpu",
            "--seconds=0.1",
            "--precision=0.9",
            "--format=json",
        ],
    );
    let verdicts: Value = serde_json::from_str(&judged.stdout).unwrap();
    verdicts[0]["device"].clone()
}

const SEARCH: [&str; 7] = [
    "evolve",
    "softmax",
    "--backend=cpu",
    "--no-model",
    "--seed=1",
    "--set=eval.precision=0.9",
    "--output=out",
];

#[test]
fn table_of_the_device_is_told_to_models_and_sets_targets() {
    let folder = Workspace::with_small_task();
    let naive = std::fs::read_to_string(crate::program::root().join("kernels/softmax/naive.cu"));
    folder.write("naive.cu", &naive.unwrap());
    let prompt = |folder: &Workspace| {
        let arguments = ["prompt", "softmax", "--backend=cpu"];
        run(folder, &arguments).exits_with(0).stdout
    };
    let device = device(&folder);
    let before = prompt(&folder);
    assert!(!before.contains("to beat"), "{before}");
    write_table(&folder, &device, 0.5);
    let after = prompt(&folder);
    assert!(after.contains("; to beat: 50.0 us\n"), "{after}");
    assert!(
        after.contains("To beat: `library 1.2`, whose median times are above."),
        "{after}"
    );
    // One line and a few words for each workload.
    assert!(after.len() - before.len() < 120);

    let over = [&SEARCH[..], &["--steps=2", "--set=eval.baseline=strongest"]].concat();
    let searched = run(&folder, &over);
    assert!([0, 5].contains(&searched.code), "{searched:?}");
    let says = "targets of softmax are over library 1.2 (2.00x over naive.cu";
    assert!(searched.stderr.contains(says), "{searched:?}");
    let record = folder.read("out/run.yaml");
    assert!(
        record.contains("yardstick:") && record.contains("library 1.2"),
        "{record}"
    );

    // Another table is another condition.
    write_table(&folder, &device, 0.4);
    let resumed = run(&folder, &["resume", "out", "--steps=3"]).exits_with(2);
    assert!(
        resumed.stderr.contains("`tasks.softmax.yardstick.figures`"),
        "{resumed:?}"
    );
    assert!(resumed.stderr.contains("--accept-changes"), "{resumed:?}");
    write_table(&folder, &device, 0.5);
    let resumed = run(&folder, &["resume", "out", "--steps=3"]);
    assert!([0, 5].contains(&resumed.code), "{resumed:?}");
}

#[test]
fn baselines_that_are_not_there_are_refused_before_a_run_begins() {
    let folder = Workspace::with_small_task();
    let with = |name: &str| {
        let key = format!("--set=eval.baseline={name}");
        run(&folder, &[&SEARCH[..], &[key.as_str()]].concat())
    };
    let none = with("strongest").exits_with(3);
    for part in ["`eval.baseline: strongest`", "KFORGE_PYTHON"] {
        assert!(none.stderr.contains(part), "{none:?}");
    }
    let empty = with("''").exits_with(2);
    assert!(
        empty.stderr.contains("`eval.baseline`: expected"),
        "{empty:?}"
    );
    assert!(!folder.path().join("out").exists());
}
