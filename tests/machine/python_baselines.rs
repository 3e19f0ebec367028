//! Baselines in Python: they are timed as fairly as a kernel, what goes wrong in them is reported, and the table of a device is kept.

use serde_json::Value;

use crate::gpu::device;
use crate::harness::{Missing, TestResult, tests};
use crate::program::{CommandResult, Workspace};
use crate::python_oracle::find_torch;

tests!(
    baselines_of_a_task_are_measured_and_kept,
    a_function_and_a_kernel_of_equal_time_are_equally_fast,
    without_pytorch_the_remedy_is_named,
    best_kernel_of_a_run_is_timed_against_pytorch_in_pairs,
    targets_can_be_over_a_library_that_is_measured_first,
    gpu_a_kernel_is_as_fast_from_pytorch,
);

/// Attempts of what a busy machine may spoil.
const ATTEMPTS: usize = 4;

/// Runs `kforge baselines` with JSON output, again if the machine was too busy to time a kernel.
fn timed_baselines(folder: &Workspace, python: &str, arguments: &[&str]) -> CommandResult {
    let mut results = (0..ATTEMPTS).map(|_| baselines(folder, python, arguments));
    let mut last = results.next().unwrap();
    while last.code == 5
        && let Some(next) = results.next()
    {
        last = next;
    }
    assert_eq!(last.code, 0, "{last:?}");
    last
}

/// Runs `kforge baselines` with JSON output.
fn baselines(folder: &Workspace, python: &str, arguments: &[&str]) -> CommandResult {
    let mut all = vec!["baselines"];
    all.extend(arguments);
    all.push("--format=json");
    let mut command = folder.command(&all);
    command.env("KFORGE_PYTHON", python);
    CommandResult::of(&command.output().unwrap())
}

fn copy_fixture(folder: &Workspace, name: &str) {
    let path = crate::program::root().join("tests/fixtures/baselines");
    let text = std::fs::read_to_string(path.join(name)).unwrap();
    folder.write(name, &text);
}

fn table(result: &CommandResult) -> Value {
    serde_json::from_str(&result.stdout).unwrap_or_else(|error| panic!("{error}: {result:?}"))
}

#[track_caller]
fn entry<'t>(table: &'t Value, name: &str) -> &'t Value {
    let mut entries = table["entries"].as_array().unwrap().iter();
    let found = entries.find(|entry| entry["name"] == name);
    found.unwrap_or_else(|| panic!("no `{name}`: {table}"))
}

fn baselines_of_a_task_are_measured_and_kept() -> TestResult {
    let python = find_torch()?;
    let folder = Workspace::with_small_task();
    let naive = crate::program::root().join("kernels/softmax/naive.cu");
    folder.write("own.cu", &std::fs::read_to_string(naive).unwrap());
    let common = ["softmax", "own.cu", "--backend=cpu", "--seconds=2"];
    let with = |more: &[&'static str]| [&common[..], more].concat();
    let first = timed_baselines(&folder, &python, &with(&["--only=torch"]));
    let measured = table(&first);
    let torch = entry(&measured, "torch");
    assert_eq!(torch["launch"], "call");
    assert_eq!(torch["reason"], Value::Null);
    assert!(torch["versions"]["torch"].is_string(), "{torch}");
    let own = torch["speedup"]["geomean"].as_f64().unwrap();
    let naive = entry(&measured, "naive.cu")["kernel_speedup"]["geomean"].as_f64();
    let over_torch = torch["kernel_speedup"]["geomean"].as_f64().unwrap();
    assert!((naive.unwrap() / over_torch / own).ln().abs() < 1e-9);
    for workload in torch["workloads"].as_array().unwrap() {
        assert!(
            workload["baseline_us"].as_f64().unwrap() > 0.0,
            "{workload}"
        );
    }

    // The file has the same table. A baseline that is not measured again stays in it.
    let tables = std::fs::read_dir(folder.path().join("kernels/softmax/baselines")).unwrap();
    let tables: Vec<_> = tables.map(|file| file.unwrap().path()).collect();
    assert_eq!(tables.len(), 1, "{tables:?}");
    let kept = || std::fs::read_to_string(&tables[0]).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&kept()).unwrap(), measured);
    timed_baselines(&folder, &python, &with(&["--only=naive.cu"]));
    let again: Value = serde_json::from_str(&kept()).unwrap();
    assert_eq!(entry(&again, "torch")["workloads"], torch["workloads"]);
    assert_ne!(again["time"], Value::Null);

    let unknown = baselines(&folder, &python, &with(&["--only=torhc"]));
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(unknown.stderr.contains("`torch`"), "{unknown:?}");
    Ok(())
}

/// The kernel and the function both wait 20 ms, so a difference of their times is one of the two clocks.
fn a_function_and_a_kernel_of_equal_time_are_equally_fast() -> TestResult {
    let python = find_torch()?;
    let folder = Workspace::new();
    copy_fixture(&folder, "waits.cu");
    copy_fixture(&folder, "waits.py");
    let arguments = [
        "gelu",
        "waits.cu",
        "--python=waits.py",
        "--backend=cpu",
        "--print-only",
        "--seconds=2",
    ];
    // A busy machine delays one of them now and then; an unfair clock does so each time.
    let is_fair = |table: &Value| {
        let workloads = entry(table, "waits")["workloads"]
            .as_array()
            .unwrap()
            .clone();
        workloads.iter().all(|workload| {
            let [low, high] = [0, 1].map(|side| workload["ci95"][side].as_f64().unwrap());
            // Handing a launch over to another process takes less than a millisecond.
            low < 1.05 && high > 0.95
        })
    };
    let mut tables = (0..ATTEMPTS).map(|_| table(&timed_baselines(&folder, &python, &arguments)));
    let mut table = tables.next().unwrap();
    while !is_fair(&table) {
        table = tables.next().unwrap_or_else(|| panic!("unfair: {table}"));
    }
    // It is timed, and marked.
    let wrong = entry(&table, "wrong");
    let share = wrong["deviation"]["share"].as_f64().unwrap();
    let worst = wrong["deviation"]["worst"].as_f64().unwrap();
    assert!(share > 0.9 && worst > 1.0, "{wrong}");
    assert!(
        wrong["workloads"][0]["baseline_us"].as_f64().unwrap() < 19_000.0,
        "{wrong}"
    );
    assert!(entry(&table, "waits").get("deviation").is_none());
    for (name, reason) in [("rounded", "'float16'"), ("missing", "no_such_package")] {
        let entry = entry(&table, name);
        let found = entry["reason"].as_str().unwrap();
        assert!(found.contains(reason), "{entry}");
        assert_eq!(entry["speedup"], Value::Null, "{entry}");
    }
    assert!(!folder.path().join("kernels").exists(), "--print-only");
    Ok(())
}

fn without_pytorch_the_remedy_is_named() -> TestResult {
    let python = crate::oracles::find_python()?;
    let folder = Workspace::with_small_task();
    // As if PyTorch were not installed.
    folder.write(
        "hidden/torch.py",
        "raise ModuleNotFoundError('none', name='torch')\n",
    );
    let mut command = folder.command(&["baselines", "softmax", "--backend=cpu"]);
    command.env("KFORGE_PYTHON", &python);
    command.env("PYTHONPATH", folder.path().join("hidden"));
    let result = CommandResult::of(&command.output().unwrap());
    assert_eq!(result.code, 3, "{result:?}");
    assert!(result.stderr.contains("-m pip install torch"), "{result:?}");

    let none = baselines(&folder, "/no/python", &["softmax", "--backend=cpu"]);
    assert_eq!(none.code, 3, "{none:?}");
    // A kernel needs no Python.
    let arguments = [
        "softmax",
        "--backend=cpu",
        "--only=naive.cu",
        "--seconds=0.2",
    ];
    let kernels = baselines(&folder, "/no/python", &arguments);
    // 5: the machine was too busy to time it.
    assert!([0, 5].contains(&kernels.code), "{kernels:?}");
    entry(&table(&kernels), "naive.cu");
    Ok(())
}

/// A folder with a task whose baseline waits 40 ms and whose other kernel waits 4 ms. PyTorch needs much less.
fn slow_kernels() -> Workspace {
    let folder = Workspace::with_small_task();
    let settings = folder.read("tasks/softmax/task.yaml");
    let start = "start: [naive.cu, rows.cu, block_rows.cu]";
    assert!(settings.contains(start));
    let settings = settings.replace(start, "start: [naive.cu, rows.cu]");
    folder.write("tasks/softmax/task.yaml", &settings);
    let naive = crate::program::root().join("kernels/softmax/naive.cu");
    let naive = std::fs::read_to_string(naive).unwrap();
    for (name, milliseconds) in [("naive.cu", 40), ("rows.cu", 4)] {
        let wait = format!(
            "    const unsigned long long end = __globaltimer() + {milliseconds}000000;\n    while (threadIdx.x == 0 && __globaltimer() < end) {{\n    }}\n    int row ="
        );
        assert!(naive.contains("    int row ="));
        let text = naive.replacen("    int row =", &wait, 1);
        folder.write(&format!("kernels/softmax/{name}"), &text);
    }
    folder.write(
        "kernels/softmax/baselines.py",
        "import torch\n\n\ndef half(x):\n    return torch.softmax(x.bfloat16(), dim=-1).to(x.dtype)\n\n\n\
         BASELINES = {'torch': ('torch', lambda: lambda x: torch.softmax(x, dim=-1)), 'torch-half': ('torch', lambda: half)}\n",
    );
    folder
}

/// Runs `kforge` with Python and returns what it printed.
fn run_with(folder: &Workspace, python: &str, arguments: &[&str]) -> CommandResult {
    let mut command = folder.command(arguments);
    command.env("KFORGE_PYTHON", python);
    CommandResult::of(&command.output().unwrap())
}

const SEARCH: [&str; 8] = [
    "evolve",
    "softmax",
    "--backend=cpu",
    "--no-model",
    "--steps=2",
    "--seed=1",
    "--set=eval.precision=0.5",
    "--output=out",
];

fn best_kernel_of_a_run_is_timed_against_pytorch_in_pairs() -> TestResult {
    let python = find_torch()?;
    // A busy machine may not time the kernels.
    let mut runs = (0..ATTEMPTS).map(|_| {
        let folder = slow_kernels();
        let result = run_with(&folder, &python, &SEARCH);
        (folder, result)
    });
    let is_timed = |run: &(_, CommandResult)| !run.1.stdout.contains("too noisy to time");
    let (folder, result) = runs.find(is_timed).expect("a machine that times kernels");
    assert_eq!(result.code, 0, "{result:?}");
    let first = result
        .stdout
        .lines()
        .find(|line| line.starts_with("softmax: "));
    let text = result
        .stdout
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert!(first.unwrap().starts_with("softmax: best "), "{result:?}");
    assert!(text.contains("but slower than `torch "), "{text}");
    assert!(
        text.contains("over it, in pairs, but `torch-half "),
        "{text}"
    );
    assert!(text.contains(" outside the tolerance ("), "{text}");
    assert!(
        text.contains("over it, in pairs, confirmed (step 2)"),
        "{text}"
    );
    let parse = |name: &str| serde_json::from_str::<Value>(&folder.read(name)).unwrap();
    let best = parse("out/softmax/best.json");
    assert_eq!(best["strongest"]["origin"], "pairs", "{best}");
    assert_eq!(best["strongest"]["name"], "torch", "{best}");
    assert_eq!(best["faster_outside"]["name"], "torch-half", "{best}");
    let ratio = best["strongest"]["speedup"]["geomean"].as_f64().unwrap();
    // The kernel waits 4 ms.
    assert!(ratio < 0.5, "{best}");
    let journal = folder.read("out/softmax/events.jsonl");
    let mut lines = journal.lines();
    let line = lines
        .find(|line| line.contains("\"strongest_compared\""))
        .unwrap();
    let event: Value = serde_json::from_str(line).unwrap();
    let timed = &event["entries"][0]["workloads"][0];
    assert!(timed["kernel_us"].as_f64().unwrap() > 3900.0, "{event}");
    assert!(timed["baseline_us"].as_f64().unwrap() < 3900.0, "{event}");
    for arguments in [
        &["runs", "."][..],
        &["report", "out", "--to=markdown"],
        &["report", "out", "--to=json"],
        &["compare", "out", "out"],
    ] {
        let shown = folder.run(arguments);
        assert!(shown.stdout.contains("torch"), "{arguments:?}: {shown:?}");
    }
    Ok(())
}

fn targets_can_be_over_a_library_that_is_measured_first() -> TestResult {
    let python = find_torch()?;
    let folder = slow_kernels();
    let over = [
        "--set=eval.baseline=strongest",
        "--set=search.target_speedup=0.9",
    ];
    let arguments = [&SEARCH[..], &over].concat();
    let result = run_with(&folder, &python, &arguments);
    assert!([0, 5].contains(&result.code), "{result:?}");
    assert!(
        result
            .stderr
            .contains("eval.baseline: targets of softmax are over torch"),
        "{result:?}"
    );
    // Ten times as fast as the task's baseline, and far from the library: the target was not reached.
    let summary: Value = serde_json::from_str(&folder.read("out/summary.json")).unwrap();
    assert_eq!(summary["tasks"][0]["stopped"], "steps", "{summary}");
    assert!(folder.read("out/run.yaml").contains("yardstick:"));
    let tables = std::fs::read_dir(folder.path().join("kernels/softmax/baselines"));
    assert_eq!(tables.unwrap().count(), 1);
    // A kernel that is slower than the library is not promoted.
    let promoted = run_with(&folder, &python, &["promote", "out"]);
    assert_eq!(promoted.code, 5, "{promoted:?}");
    assert!(
        promoted.stdout.contains("it is slower than torch"),
        "{promoted:?}"
    );
    Ok(())
}

/// The kernel that kforge launches, launched by PyTorch in a CUDA graph: the intervals contain 1.
fn gpu_a_kernel_is_as_fast_from_pytorch() -> TestResult {
    let _device = device()?;
    let python = find_torch()?;
    let has_gpu = std::process::Command::new(&python)
        .args(["-c", "import torch; torch.zeros(1, device='cuda')"])
        .output();
    if !has_gpu.is_ok_and(|output| output.status.success()) {
        return Err(Missing::new("torch-cuda", "no PyTorch that uses the GPU"));
    }
    let folder = Workspace::new();
    copy_fixture(&folder, "same.cu");
    copy_fixture(&folder, "same.py");
    let arguments = ["gelu", "same.cu", "--python=same.py", "--backend=cuda"];
    let result = baselines(&folder, &python, &arguments);
    assert_eq!(result.code, 0, "{result:?}");
    let table = table(&result);
    let same = entry(&table, "same");
    assert_eq!(same["launch"], "graph", "{same}");
    for workload in same["workloads"].as_array().unwrap() {
        let [low, high] = [0, 1].map(|side| workload["ci95"][side].as_f64().unwrap());
        // The resolution of the GPU's clock, and of its placement of memory.
        assert!(low < 1.01 && high > 0.99, "{workload}");
    }
    Ok(())
}
