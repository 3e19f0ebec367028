//! PyTorch functions as tasks: their own code is the oracle, and kforge writes a kernel for all sizes of their axes.

use std::process::Command;

use crate::harness::{TestResult, tests};
use crate::program::{CommandResult, Workspace, fixture};
use crate::python_oracle::find_torch;

tests!(
    a_function_becomes_a_task_that_is_admitted_and_searched,
    shapes_and_values_come_from_flags,
    the_oracle_and_the_baselines_agree,
    functions_that_are_no_tasks_are_refused,
    code_that_does_not_end_is_killed,
    code_that_prints_or_ends_python_is_understood,
);

struct Importer {
    python: String,
    folder: Workspace,
}

impl Importer {
    fn new() -> Result<Self, crate::harness::Missing> {
        let python = find_torch()?;
        let folder = Workspace::new();
        let functions = std::fs::read_to_string(fixture("torch/functions.py")).unwrap();
        folder.write("functions.py", &functions);
        Ok(Self { python, folder })
    }

    fn run(&self, arguments: &[&str]) -> CommandResult {
        let mut command = self.folder.command(arguments);
        CommandResult::of(&command.env("KFORGE_PYTHON", &self.python).output().unwrap())
    }

    fn import(&self, function: &str, more: &[&str]) -> CommandResult {
        let name = format!("functions.py:{function}");
        self.run(&[&["tasks", "import", "torch", &name], more].concat())
    }

    /// Tests the task's oracle, tolerances and own kernel, on its smallest workloads and their hidden shapes.
    fn check(&self, task: &str) {
        let result = self.run(&["tasks", "check", task, "--profile=quick"]);
        result.exits_with(0).shows(&["admitted"]);
    }
}

fn a_function_becomes_a_task_that_is_admitted_and_searched() -> TestResult {
    let importer = Importer::new()?;
    let axes = ["--axis=rows=8,30", "--axis=columns=64,100"];
    let result = importer.import("rmsnorm", &axes).exits_with(0);
    result.shows(&["tasks/rmsnorm: 2 workloads; gives output float16[rows, columns]\n"]);
    let settings = importer.folder.read("tasks/rmsnorm/task.yaml");
    for line in [
        "  output: {rtol: 0.002, atol_rms: 0.0005}\n",
        "  rows: [1,30]\n  columns: [1,100]\n",
    ] {
        assert!(settings.contains(line), "{settings}");
    }
    let kernel = importer.folder.read("kernels/rmsnorm/naive.cu");
    assert!(
        kernel.contains("args: x, result_0, rows, columns"),
        "{kernel}"
    );
    importer.check("rmsnorm");
    let search = importer.run(&[
        "evolve",
        "rmsnorm",
        "--backend=cpu",
        "--no-model",
        "--steps=3",
        "--set=eval.precision=0.9",
        "--set=eval.seconds=0.5",
        "--output=run",
    ]);
    let is_done = [0, 5].contains(&search.code);
    assert!(
        is_done && search.stdout.contains("3 of 3 steps"),
        "{search:?}"
    );
    // Nothing is overwritten.
    importer
        .import("rmsnorm", &axes)
        .assert_exit(2, &["already exists"]);
    Ok(())
}

/// Axes that follow from others, indices, several outputs, numbers by value, and a function of a module.
fn shapes_and_values_come_from_flags() -> TestResult {
    let importer = Importer::new()?;
    let halves = [
        "--input=x:float32[rows,width]",
        "--axis=rows=30,41",
        "--axis=width=2 * half",
        "--axis=half=40,65",
        "--draw=x={normal: 0.7, mean: 0.1}",
    ];
    let result = importer.import("halves", &halves).exits_with(0);
    result.shows(&["gives product float32[rows, half], total float32[rows]\n"]);
    let settings = importer.folder.read("tasks/halves/task.yaml");
    assert!(
        settings.contains("product: {rtol: 0.0001, atol_rms: 1e-5}"),
        "{settings}"
    );
    assert!(
        settings.contains("x: {\"normal\":0.7,\"mean\":0.1}"),
        "{settings}"
    );
    importer.check("halves");

    let pick = [
        "--input=table:float32[pages,16]",
        "--input=index:int64[count]",
        "--axis=pages=50",
        "--axis=count=20,33",
        "--draw=index={uniform: [0, pages]}",
        "--output=sums:float32[16]",
        "--name=picked",
        "--rtol=0.0002",
    ];
    importer.import("pick", &pick).exits_with(0);
    let settings = importer.folder.read("tasks/picked/task.yaml");
    assert!(
        settings.contains("sums: {rtol: 0.0002, atol_rms: 1e-5}"),
        "{settings}"
    );

    let same = "[batch,length,16]";
    let inputs = ["q", "k", "v"].map(|name| format!("--input={name}:float32{same}"));
    let mut attention: Vec<&str> = inputs.iter().map(String::as_str).collect();
    attention.extend(["--axis=batch=1,2", "--axis=length=8,19"]);
    let result = importer.import("attention", &attention).exits_with(0);
    result.shows(&["`mask` keeps its default, None"]);
    let settings = importer.folder.read("tasks/attention/task.yaml");
    assert!(settings.contains("fixed: [causal]"), "{settings}");
    let kernel = importer.folder.read("kernels/attention/naive.cu");
    assert!(
        kernel.contains("grid: ceil_div((batch * length) * 16, BLOCK)"),
        "{kernel}"
    );

    let silu = importer.run(&[
        "tasks",
        "import",
        "torch",
        "torch.nn.functional:silu",
        "--input=input:bfloat16[rows,columns]",
        "--axis=rows=4,20",
        "--axis=columns=const:48",
    ]);
    silu.exits_with(0);
    Ok(())
}

/// Calls the oracle and the baseline `eager` of a task on the same inputs.
const COMPARE: &str = r#"
import sys
import torch

def load(path):
    space = {"__name__": "loaded"}
    exec(compile(open(path).read(), path, "exec"), space)
    return space

name = sys.argv[1]
run = load(f"tasks/{name}/oracle.py")["run"]
eager = load(f"kernels/{name}/baselines.py")["BASELINES"]["eager"][1]()
for seed in (1, 2):
    torch.manual_seed(seed)
    values = [torch.randn(6, 40), torch.randn(40, 40).bfloat16()] if name == "low_precision" else [torch.randn(6, 40).half(), torch.randn(40).half(), 0.01]
    expected, found = run(*values), eager(*values)[0]
    assert expected.dtype == (torch.bfloat16 if name == "low_precision" else torch.float64), expected.dtype
    assert torch.allclose(expected.double(), found.double(), rtol=1e-2, atol=1e-2), (expected, found)
"#;

fn the_oracle_and_the_baselines_agree() -> TestResult {
    let importer = Importer::new()?;
    let axes = ["--axis=rows=8,30", "--axis=columns=64,100"];
    importer.import("rmsnorm", &axes).exits_with(0);
    // What rounds in between is no better in double precision.
    let low = [
        "--input=x:float32[rows,columns]",
        "--input=weight:bfloat16[columns,columns]",
    ];
    let result = importer.import("low_precision", &[&low[..], &axes].concat());
    result.exits_with(0).shows(&[
        "does not run in double precision",
        "the tolerances are doubled",
    ]);
    for task in ["rmsnorm", "low_precision"] {
        let mut compare = Command::new(&importer.python);
        compare.args(["-c", COMPARE, task]);
        let output = compare
            .current_dir(importer.folder.path())
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log}");
    }
    Ok(())
}

fn functions_that_are_no_tasks_are_refused() -> TestResult {
    let importer = Importer::new()?;
    let shape = [
        "--input=x:float32[rows,columns]",
        "--axis=rows=8,60",
        "--axis=columns=64",
    ];
    for (function, messages) in [
        ("changes_its_input", &["changes its input `x`"][..]),
        ("counts", &["gives other outputs at each call"]),
        ("gives_a_number", &["returns a float: kforge knows tensors"]),
        ("wants_a_square", &["functions.py: line ", "RuntimeError"]),
        (
            "nothing",
            &["there is no function `nothing`; there are: rmsnorm, swiglu"],
        ),
        ("swiglu", &["nothing gives the shape of `gate`"]),
    ] {
        importer.import(function, &shape).assert_exit(2, messages);
        assert!(!importer.folder.path().join("tasks").exists());
    }
    for (flags, messages) in [
        (&shape[..1], &["no sizes for `rows`, `columns`"][..]),
        (
            &["--input=y:float32[rows]"],
            &["has no parameter `y`; it has x"],
        ),
        (
            &["--input=x:int32[rows]"],
            &["`x` has whole numbers: say which"],
        ),
    ] {
        importer
            .import("depends_on_rows", flags)
            .assert_exit(2, messages);
    }
    let declared = [&shape[..], &["--output=y:float32[columns,rows]"]].concat();
    importer
        .import("depends_on_rows", &declared)
        .assert_exit(2, &["the output `y` has the shape [8, 64]"]);
    // A kernel for one side of a condition would be wrong on the other.
    let result = importer.import("depends_on_rows", &shape).exits_with(0);
    result.shows(&[
        "naive.cu is to be written",
        "does something else unless `rows > 50`",
    ]);
    let check = importer.run(&["tasks", "check", "depends_on_rows"]);
    check.exits_with(4).shows(&["`naive.cu` is still a draft"]);
    Ok(())
}

/// Python code that never ends is killed after its limit, and the next problem of a level is still imported.
fn code_that_does_not_end_is_killed() -> TestResult {
    let importer = Importer::new()?;
    let endless =
        "import time\nwhile True:\n    open('beats', 'a').write('x')\n    time.sleep(0.02)\n";
    let task = "files: [{name: reference.py, source: reference.py}]\nbenchmarks: [{size: 4}]\n";
    for (file, text) in [
        ("endless.py", endless),
        ("problem/reference.py", endless),
        ("problem/task.yml", task),
        ("set/KernelBench/level1/1_Endless.py", endless),
    ] {
        importer.folder.write(file, text);
    }
    for (arguments, place) in [
        (&["torch", "endless.py:none"][..], "endless.py: "),
        (&["gpu-mode", "problem"], "problem/task.yml: "),
        (&["kernelbench", "set", "--level=1"], "1_Endless.py: "),
    ] {
        let common = ["tasks", "import"];
        let result = importer.run(&[&common[..], arguments, &["--python-seconds=1"]].concat());
        let message = format!("{place}Python has not ended after 1 s and was killed");
        result.assert_exit(2, &[&message, "--python-seconds"]);
    }
    let beats = || std::fs::metadata(importer.folder.path().join("beats")).map(|file| file.len());
    let before = beats().ok();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(beats().ok(), before, "Python goes on");
    Ok(())
}

/// What code prints from C or in another process is no answer. Code that ends Python is named.
fn code_that_prints_or_ends_python_is_understood() -> TestResult {
    let importer = Importer::new()?;
    let text = "import os, subprocess
import torch

def prints(x: \"float8_e4m3fn[n]\"):
    print(\"{}\")
    os.write(1, b\"{}\\n\")
    subprocess.run([\"echo\", \"{}\"])
    return (x.float() * 2).to(torch.float16)

def ends(x: \"float32[n]\"):
    os._exit(0)
";
    importer.folder.write("odd.py", text);
    let import =
        |function: &str| importer.run(&["tasks", "import", "torch", function, "--axis=n=6,40"]);
    let result = import("odd.py:prints").exits_with(0);
    result.shows(&["tasks/prints: 2 workloads; gives output float16[n]"]);
    let result = import("odd.py:ends");
    result.assert_exit(
        2,
        &[
            "Python ended without an answer\n",
            "it ends Python, crashes",
        ],
    );
    Ok(())
}
