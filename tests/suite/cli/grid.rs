//! `kforge eval --grid`: every point is in the file, a killed command loses nothing, another kernel's file is refused.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{CommandResult, Workspace, worker_processes};

/// Six points of BLOCK and SCALE: two are right, one is wrong, one does not compile, two have blocks that no device can launch.
const KERNEL: &str = "/* kforge
launch:
  - kernel: softmax
    grid: ceil_div(rows, BLOCK)
    block: BLOCK
    args: x, output, rows, columns
tunables:
  BLOCK: [32, 64, 2048]
  SCALE: [1, 2]
*/
static_assert(BLOCK * SCALE != 128, \"this point does not compile\");

__global__ void softmax(const float* x, float* output, int rows, int columns) {
    const int r = blockIdx.x * BLOCK + threadIdx.x;
    if (r >= rows) return;
    const float* row = x + r * columns;
    float top = row[0], sum = 0.0f;
    for (int i = 0; i < columns; ++i) top = fmaxf(top, row[i]);
    for (int i = 0; i < columns; ++i) sum += expf(row[i] - top);
    for (int i = 0; i < columns; ++i) output[r * columns + i] = SCALE * expf(row[i] - top) / sum;
}
";

fn grid(folder: &Workspace, kernel: &str, more: &[&str]) -> CommandResult {
    folder.run(&[&["eval", "softmax", kernel, "--grid", "--output"][..], more].concat())
}

fn read(folder: &Workspace, name: &str) -> Value {
    serde_json::from_str(&folder.read(name)).unwrap()
}

/// `time` and `status` of a point, by its key.
fn outcome(space: &Value, key: &str) -> (String, String) {
    let entry = &space["cache"][key];
    let time = match &entry["time"] {
        Value::String(name) => name.clone(),
        time => time.as_f64().map_or("none", |_| "measured").to_owned(),
    };
    let status = entry["status"].as_str().unwrap_or_default();
    (time, status.to_owned())
}

#[test]
fn points_that_break_a_constraint_are_not_compiled() {
    let folder = Workspace::with_small_task();
    let text = KERNEL
        .replace(
            "*/\nstatic",
            "constraints: BLOCK * SCALE != 128\n*/\nstatic",
        )
        .replace("[32, 64, 2048]", "[32, 64]");
    let kernel = folder.write("scaled.cu", &text);
    grid(&folder, &kernel, &["space.json"])
        .exits_with(0)
        .shows(&["4 points: 2 measured", "rejected: 1"]);
    let space = read(&folder, "space.json");
    let broken = ("InvalidConfig".to_owned(), "rejected".to_owned());
    assert_eq!(outcome(&space, "64,2"), broken);
    assert_eq!(space["cache"]["64,2"]["compile_time"], 0);

    // The values of a kernel itself.
    let text = text
        .replace("[32, 64]", "[64, 32]")
        .replace("[1, 2]", "[2, 1]");
    let kernel = folder.write("broken.cu", &text);
    folder
        .run(&["eval", "softmax", &kernel])
        .exits_with(5)
        .shows(&[
            "rejected",
            "constraint `BLOCK * SCALE != 128` does not hold: BLOCK is 64, SCALE is 2",
        ]);
}

#[test]
fn every_point_is_recorded_and_nothing_is_measured_twice() {
    let folder = Workspace::with_small_task();
    let kernel = folder.write("scaled.cu", KERNEL);
    let result = grid(&folder, &kernel, &["space.json"]).exits_with(0);
    let result = result.shows(&[
        "softmax: 6 points",
        "6 points: 2 measured",
        "best: ",
        "wrong_output: 1; ",
    ]);
    assert!(result.stderr.contains(" of 6 points"), "{}", result.stderr);

    let space = read(&folder, "space.json");
    let found = |key: &str| {
        let (time, status) = outcome(&space, key);
        format!("{time} {status}")
    };
    assert_eq!(
        space["tune_params_keys"],
        serde_json::json!(["BLOCK", "SCALE"])
    );
    assert_eq!(found("32,1"), "measured ");
    assert_eq!(found("64,1"), "measured ");
    assert_eq!(found("32,2"), "RuntimeFailedConfig wrong_output");
    assert_eq!(found("64,2"), "CompilationFailedConfig compile_error");
    assert_eq!(found("2048,1"), "InvalidConfig launch_error");
    assert_eq!(found("2048,2"), "InvalidConfig launch_error");
    let entry = &space["cache"]["64,1"];
    let times: Vec<f64> = serde_json::from_value(entry["times"].clone()).unwrap();
    let mut sorted = times.clone();
    sorted.sort_by(f64::total_cmp);
    assert_eq!((times.len(), entry["time"].as_f64()), (7, Some(sorted[3])));
    let ends = entry["workload r64c257"].as_array().unwrap();
    assert_eq!(ends[1].as_f64(), Some(sorted[0]), "{entry}");
    assert!(entry["speedup"].as_f64().unwrap() > 0.0);
    assert!(entry["compile_time"].as_f64().unwrap() > 0.0, "{entry}");

    let t4 = read(&folder, "space.t4.json");
    let results = t4["results"].as_array().unwrap();
    let count = |invalidity: &str| {
        let with = results.iter().filter(|one| one["invalidity"] == invalidity);
        with.count()
    };
    let counts = ["correct", "correctness", "compile", "constraints"].map(count);
    assert_eq!(counts, [2, 1, 1, 2]);

    let before = folder.read("space.json");
    grid(&folder, &kernel, &["space.json"]).exits_with(0);
    assert_eq!(folder.read("space.json"), before);
    refuses_other_measurements(&folder, &kernel);
    assert_eq!(
        folder.read("space.json"),
        before,
        "a refusal changes nothing"
    );
}

/// The file is of one kernel, task and way to measure.
fn refuses_other_measurements(folder: &Workspace, kernel: &str) {
    let other = folder.write("other.cu", &KERNEL.replace("expf", "__expf"));
    grid(folder, &other, &["space.json"])
        .exits_with(2)
        .shows(&["`space.json` was recorded with another kernel: `scaled "]);
    for (arguments, what) in [
        (
            &["space.json", "--samples", "9"][..],
            "number of samples: `7`, not `9`",
        ),
        (&["space.json", "--seed", "12"], "another seed: "),
        (
            &["space.json", "--workloads", "r4c32"],
            "list of workloads: `r64c257`, not `r4c32`",
        ),
        (&["space.json", "--baseline", kernel], "another baseline: "),
    ] {
        grid(folder, kernel, arguments).exits_with(2).shows(&[what]);
    }
    folder.write("notes.json", "{}\n");
    grid(folder, kernel, &["notes.json"])
        .exits_with(2)
        .shows(&["`notes.json` is no recorded space"]);
    assert_eq!(folder.read("notes.json"), "{}\n");
}

#[test]
fn a_killed_command_continues_where_it_stopped() {
    let folder = Workspace::with_small_task();
    let kernel = KERNEL
        .replace("[32, 64, 2048]", "[8, 16, 32, 48]")
        .replace("[1, 2]", "[1]");
    let kernel = folder.write("blocks.cu", &kernel);
    let arguments = [
        "eval",
        "softmax",
        &kernel,
        "--grid",
        "--output",
        "space.json",
        "--seed",
        "5",
    ];
    let mut child = folder.command(&arguments).spawn().unwrap();
    let started = Instant::now();
    let entries = || {
        let text = std::fs::read_to_string(folder.path().join("space.json")).unwrap_or_default();
        let lines = text.lines().skip(1).map(str::to_owned);
        lines.collect::<Vec<_>>()
    };
    while entries().len() < 2 {
        assert!(
            started.elapsed() < Duration::from_secs(600),
            "no point was recorded"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = entries();
    assert!(before.iter().all(|line| line.ends_with(",")), "{before:?}");
    assert!(worker_processes(child.id()).is_empty());

    // A loss of power may tear the last line.
    let text = folder.read("space.json");
    folder.write("space.json", &text[..text.len() - 30]);
    // The seed is the file's.
    folder.run(&arguments[..6]).exits_with(0);
    let after = entries();
    for line in &before[..before.len() - 1] {
        assert!(after.contains(line), "{line}");
    }
    let space = read(&folder, "space.json");
    assert_eq!(space["cache"].as_object().unwrap().len(), 4);
    assert_eq!(space["kforge"]["seed"], "5");
}

#[test]
fn points_are_a_sample_of_the_seed_and_a_grid_needs_a_file() {
    let folder = Workspace::with_small_task();
    // No point reaches a device.
    let kernel = KERNEL.replace("[32, 64, 2048]", "[2048, 4096, 8192]");
    let kernel = folder.write("large.cu", &kernel);
    let keys = |name: &str, more: &[&str]| -> Vec<String> {
        let result = grid(
            &folder,
            &kernel,
            &[&[name, "--seed", "3"][..], more].concat(),
        );
        assert_eq!(result.code, 5, "{}", result.stderr);
        let space = read(&folder, name);
        space["cache"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    };
    let two = keys("a.json", &["--limit", "2"]);
    let all = keys("b.json", &[]);
    assert_eq!((two.len(), all.len()), (2, 6));
    assert_eq!(two, all[..2]);
    assert_eq!(
        keys("a.json", &[]),
        all,
        "a larger sample continues the smaller one"
    );

    let eval = ["eval", "softmax", &kernel, "--grid"];
    folder.run(&eval).assert_exit(2, &["--output"]);
    let more = |more: &[&str]| folder.run(&[&eval[..], &["--output"], more].concat());
    more(&["space.txt"]).assert_exit(2, &["ends in `.json`"]);
    more(&["c.json", "--workloads", "r64c25"]).assert_exit(2, &["no workload `r64c25`", "r64c257"]);
    more(&["c.json", &kernel]).assert_exit(2, &["`--grid` takes one kernel"]);
    let variants = KERNEL.replace("*/", "variants:\n  - {when: rows < 9, SCALE: 1}\n*/");
    let variants = folder.write("variants.cu", &variants);
    let result = grid(&folder, &variants, &["c.json"]);
    result.assert_exit(2, &["has `variants`"]);
}
