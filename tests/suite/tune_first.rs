//! `search.tune_first` from the outside: a good idea with a bad block size survives, also if the run is killed while its points are tried. A
//! shell script is the model, and the CPU judges.

use std::time::{Duration, Instant};

use kforge::base::random;
use serde_json::{Value, json};

use crate::program::{Workspace, fixture, slowdown, worker_processes};

/// The points of the model's kernel: its own first. A block of 2048 threads cannot be launched, and each pass takes the time of all others.
const BLOCKS: [i64; 2] = [2048, 64];
const PASSES: [i64; 2] = [64, 1];

/// A model's kernel that is bad at its own point. No other test has compiled it.
fn reply(blocks: [i64; 2]) -> String {
    let [block, other] = blocks;
    let [passes, fewer] = PASSES;
    let unique = random::fresh_seed();
    format!(
        "```json
{{\"bottleneck\": \"expf\", \"hypothesis\": \"less of it\", \"change\": \"fewer passes\", \"expected_percent\": -10, \"risk\": \"low\"}}
```

```cuda
/* kforge
tunables:
  BLOCK: [{block}, {other}]
  PASSES: [{passes}, {fewer}]
launch:
  - kernel: softmax
    grid: ceil_div(rows, BLOCK)
    block: BLOCK
    args: x, output, rows, columns
*/
// {unique}
__global__ void softmax(const float* x, float* output, int rows, int columns) {{
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    float largest = x[row * columns];
    for (int i = 1; i < columns; i++) largest = fmaxf(largest, x[row * columns + i]);
    float sum = 0.0f;
    for (int pass = 0; pass < PASSES; pass++) {{
        sum = 0.0f * sum;
        for (int i = 0; i < columns; i++) sum += expf(x[row * columns + i] - largest);
    }}
    for (int i = 0; i < columns; i++) output[row * columns + i] = expf(x[row * columns + i] - largest) / sum;
}}
```
"
    )
}

/// A folder with a model that replies with that kernel once.
fn workspace(blocks: [i64; 2]) -> Workspace {
    let workspace = Workspace::with_small_task();
    let config = json!({
        "profile": "quick",
        "backend": "cpu",
        "eval": {"seconds": 20, "precision": 0.9, "in_flight": 1},
        "search": {"confirm": 1},
        "llm": {"models": [{"provider": "command", "command": ["sh", fixture("models/replies.sh"), "model"]}]},
    });
    workspace.write("run.yaml", &config.to_string());
    workspace.write("model/reply-1.md", &reply(blocks));
    workspace
}

/// The arguments of a run with two steps.
fn arguments(tune_first: u64, output: &str) -> Vec<String> {
    let arguments = format!(
        "tune softmax --config run.yaml --seed 7 --steps 2 --set search.tune_first={tune_first} --output {output}"
    );
    arguments.split(' ').map(str::to_owned).collect()
}

fn run(workspace: &Workspace, arguments: &[String]) {
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    workspace.run(&arguments).comes_to_its_end();
}

/// The events of a run that have this name.
fn events(workspace: &Workspace, output: &str, name: &str) -> Vec<Value> {
    let path = workspace.path().join(output).join("softmax/events.jsonl");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let events = complete
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["event"] == name).collect()
}

#[test]
fn a_kernel_whose_own_point_cannot_be_launched_is_judged_at_its_fastest_point() {
    let workspace = workspace(BLOCKS);
    run(&workspace, &arguments(3, "run"));
    let proposed = &events(&workspace, "run", "proposed")[0];
    assert_eq!(proposed["point"], json!({"BLOCK": 64, "PASSES": 1}));
    let tried = proposed["tried"]["points"].as_array().unwrap();
    // A point that the rules for launches do not allow is tried only if it is the kernel's own.
    assert_eq!(tried.len(), 3, "{proposed}");
    assert_eq!(tried[0]["point"], json!({"BLOCK": 2048, "PASSES": 64}));
    for one in tried {
        let is_launched = one["point"]["BLOCK"] == 64;
        assert_eq!(one["status"] == "passed", is_launched, "{one}");
        assert_eq!(one["microseconds"].is_number(), is_launched, "{one}");
    }
    let judged = &events(&workspace, "run", "judged")[0]["verdict"];
    assert_eq!(judged["status"], "passed", "{judged}");
    assert_eq!(judged["tunables"], proposed["point"]);
    let source = workspace.read("run/softmax/steps/000001/kernel.cu");
    assert!(source.contains("PASSES: [1, 64]"), "{source}");
    // What it took is counted, and the model learns which point was judged.
    let summary: Value = serde_json::from_str(&workspace.read("run/summary.json")).unwrap();
    let seconds = &proposed["tried"]["seconds"];
    assert_eq!(summary["tasks"][0]["time"]["trials"], seconds["wall"]);
    assert!(seconds["device"].as_f64().unwrap() > 0.0, "{seconds}");
    let prompt = workspace.read("model/asked-2.md");
    let told = "judged with BLOCK=64 PASSES=1, the fastest of 3 tried points; its own, BLOCK=2048 PASSES=64, has the status";
    assert!(prompt.contains(told), "{prompt}");

    // A run that replays this one has its candidates, and tries nothing again.
    let replay = json!([{"provider": "replay", "from": workspace.path().join("run")}]);
    let mut replayed = arguments(3, "replayed");
    replayed.extend(["--set".to_owned(), format!("llm.models={replay}")]);
    run(&workspace, &replayed);
    let again = &events(&workspace, "replayed", "proposed")[0];
    assert_eq!(again["kernel"], proposed["kernel"]);
    assert_eq!(again["tried"]["points"], proposed["tried"]["points"]);
    assert_eq!(again["tried"]["seconds"]["device"], 0.0);
}

#[test]
fn without_the_setting_the_same_kernel_fails() {
    let workspace = workspace(BLOCKS);
    run(&workspace, &arguments(0, "run"));
    let proposed = &events(&workspace, "run", "proposed")[0];
    assert_eq!(proposed["point"], json!({"BLOCK": 2048, "PASSES": 64}));
    assert_eq!(proposed["tried"], Value::Null);
    let judged = &events(&workspace, "run", "judged")[0]["verdict"];
    assert_ne!(judged["status"], "passed", "{judged}");
}

#[test]
fn a_run_that_is_killed_while_points_are_tried_tries_the_same_points_again() {
    let workspace = workspace([32, 64]);
    let arguments = arguments(3, "run");
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let mut command = workspace.command(&arguments);
    let mut running = command.spawn().unwrap();
    // The second worker is that of the trials. It starts, and compiles four programs, which takes seconds.
    let deadline = Instant::now() + Duration::from_secs_f64(60.0 * slowdown());
    while worker_processes(running.id()).len() < 2 {
        assert!(Instant::now() < deadline, "no points are tried");
        assert!(running.try_wait().unwrap().is_none(), "the run has ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(700));
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(events(&workspace, "run", "replied").len(), 1);
    assert!(events(&workspace, "run", "proposed").is_empty());

    workspace.run(&["resume", "run"]).comes_to_its_end();
    let proposed = events(&workspace, "run", "proposed");
    let tried = proposed[0]["tried"]["points"].as_array().unwrap();
    assert_eq!(tried.len(), 4, "{proposed:?}");
    assert_eq!(tried[0]["point"], json!({"BLOCK": 32, "PASSES": 64}));
    // On a busy machine it may be another one than on a quiet machine.
    let fastest = tried.iter().min_by(|one, other| {
        let [one, other] = [one, other].map(|tried| tried["microseconds"].as_f64().unwrap());
        one.total_cmp(&other)
    });
    assert_eq!(proposed[0]["point"], fastest.unwrap()["point"]);
    // The model was asked once for each step, so nothing was paid for twice.
    assert!(!workspace.path().join("model/asked-3.md").exists());
}
