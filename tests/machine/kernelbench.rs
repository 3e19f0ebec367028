//! Problems of KernelBench as tasks: their own PyTorch code is the oracle.

use std::process::Command;

use serde_json::Value;

use crate::harness::{TestResult, tests};
use crate::program::{CommandResult, Workspace, fixture};
use crate::python_oracle::find_torch;

tests!(
    problems_become_tasks_and_judge_kernels,
    networks_become_tasks_and_baselines,
    a_problem_with_large_tensors_is_imported_in_little_memory,
    a_level_is_judged_and_continued,
    operations_of_all_kinds_get_a_kernel,
    an_exported_model_has_the_parameters_of_the_problem,
);

/// A right kernel for `5_Linear_norm_gate.py`: one block computes everything. `EPS` is that of the normalisation.
const NORM_GATE: &str = "/* kforge
launch:
  - kernel: layer
    grid: 1
    block: 32
    args: x, shift, scale, linear_weight, linear_bias, norm_weight, norm_bias, output
*/
__global__ void layer(const float* x, float shift, const float* scale, const float* weight, const float* bias,
                      const float* gain, const float* offset, float* output) {
    const int column = threadIdx.x;
    if (column >= 12) return;
    double sum = 0.0, squares = 0.0;
    for (int row = 0; row < 32; ++row) {
        double value = bias[column];
        for (int i = 0; i < 24; ++i) value += double(x[row * 24 + i]) * weight[column * 24 + i];
        output[row * 12 + column] = value;
        sum += value;
        squares += value * value;
    }
    const double mean = sum / 32, variance = squares / 32 - mean * mean;
    const double factor = 1.0 / sqrt(variance + EPS);
    for (int row = 0; row < 32; ++row) {
        const double value = (output[row * 12 + column] - mean) * factor * gain[column] + offset[column];
        output[row * 12 + column] = (value > 0 ? value : 0) * scale[0] + shift;
    }
}
";

/// Whether a kernel passed all checks. A busy machine may not time it.
fn is_right(result: &CommandResult) -> bool {
    let right = ["passed", "inconclusive: correct"];
    right.iter().any(|text| result.stdout.contains(text))
}

fn problems_become_tasks_and_judge_kernels() -> TestResult {
    let python = find_torch()?;
    let folder = Workspace::new();
    let run = |arguments: &[&str]| {
        let mut command = folder.command(arguments);
        CommandResult::of(&command.env("KFORGE_PYTHON", &python).output().unwrap())
    };
    let checkout = fixture("kernelbench").display().to_string();
    let import = ["tasks", "import", "kernelbench", &checkout, "--level"];
    // What cannot be a task is reported, and the other problem of the level is imported.
    let result = run(&[&import[..], &["1"]].concat());
    result.assert_exit(
        2,
        &[
            "`kb1_7_Keep_upper_part` is not imported",
            "`matrix` is upper triangular",
            "9_Random_mask.py: two calls give different outputs",
        ],
    );
    assert!(!folder.path().join("tasks/kb1_9_Random_mask").exists());
    result.shows(&["tasks/kb1_3_Scaled_row_sums: 1 workload; 2 inputs and 0 of the model"]);
    let settings = folder.read("tasks/kb1_3_Scaled_row_sums/task.yaml");
    for line in [
        "  output: {rtol: 0.0001, atol_rms: 0.0001}\n",
        "  values: {\"normal\":1.0}\n",
        "  gates: {\"uniform\":[0.0,1.0]}\n",
    ] {
        assert!(settings.contains(line), "{settings}");
    }
    let result = run(&[&import[..], &["2", "--problem", "5", "--format", "json"]].concat());
    let facts: Value = serde_json::from_str(&result.exits_with(0).stdout).unwrap();
    assert_eq!(facts[0]["task"], "kb2_5_Linear_norm_gate");
    folder.write("right.cu", &NORM_GATE.replace("EPS", "1e-5"));
    folder.write("wrong.cu", &NORM_GATE.replace("EPS", "0.01"));
    let judge = |kernel: &str| {
        run(&[
            "eval",
            "kb2_5_Linear_norm_gate",
            kernel,
            "--baseline=right.cu",
            "--backend=cpu",
            "--seconds=0.2",
            "--precision=0.9",
            "--launch-seconds=60",
        ])
    };
    let right = judge("right.cu");
    assert!(is_right(&right), "{right:?}");
    let wrong = judge("wrong.cu");
    assert!(wrong.stdout.contains("wrong_output"), "{wrong:?}");
    // Half precision has its own tolerance and dtypes.
    run(&[&import[..], &["2", "--precision", "bf16"]].concat()).exits_with(0);
    let definition = folder.read("tasks/kb2_5_Linear_norm_gate_bf16/definition.json");
    assert!(definition.contains("bfloat16") && definition.contains("float32"));
    let settings = folder.read("tasks/kb2_5_Linear_norm_gate_bf16/task.yaml");
    assert!(
        settings.contains("output: {rtol: 0.01, atol_rms: 0.01}"),
        "{settings}"
    );
    Ok(())
}

/// Calls the oracle and the baseline `eager` of a task on the same inputs, and the baseline again on others.
const COMPARE: &str = r#"
import json, sys
import torch
torch.set_grad_enabled(False)

def load(path):
    space = {"__name__": "loaded"}
    exec(compile(open(path).read(), path, "exec"), space)
    return space

for name in sys.argv[1:]:
    definition = json.load(open(f"tasks/{name}/definition.json"))
    run = load(f"tasks/{name}/oracle.py")["run"]
    eager = load(f"kernels/{name}/baselines.py")["BASELINES"]["eager"][1]()
    shapes = [[definition["axes"][axis]["value"] for axis in one["shape"]] for one in definition["inputs"].values()]
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        values = [torch.rand(shape) for shape in shapes]
        expected, found = run(*values), eager(*values)
        assert torch.allclose(expected, found[0], rtol=1e-5, atol=1e-6), (expected, found)
        results.append(expected)
    assert not torch.allclose(*results)
"#;

/// Small networks with nested modules, normalisations over the batch, convolutions, and a mask in a buffer.
/// 13 GB of inputs and outputs, and arithmetic for an hour.
const LARGE: &str = "import torch
import torch.nn as nn

class Model(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features))

    def forward(self, x, y):
        return torch.matmul(x, y.T) * self.scale[0] + torch.relu(x.sum(dim=1, keepdim=True))

rows, columns = 65536, 1024 * 24
features = 8

def get_inputs():
    return [torch.randn(rows, columns), torch.rand(rows // 2, columns)]

def get_init_inputs():
    return [features]
";

/// Its shapes are found without values, and what depends on values with smaller sizes.
fn a_problem_with_large_tensors_is_imported_in_little_memory() -> TestResult {
    let python = find_torch()?;
    let folder = Workspace::new();
    folder.write("1_Large.py", LARGE);
    let mut command = folder.command(&["tasks", "import", "kernelbench", "1_Large.py"]);
    let result = CommandResult::of(&command.env("KFORGE_PYTHON", &python).output().unwrap());
    result.assert_exit(0, &[]);
    result.shows(&["tasks/kb_1_Large: 1 workload; 2 inputs and 1 of the model"]);
    let definition = folder.read("tasks/kb_1_Large/definition.json");
    let definition: Value = serde_json::from_str(&definition).unwrap();
    let shape = |kind: &str, name: &str| definition[kind][name]["shape"].to_string();
    assert_eq!(shape("inputs", "x"), r#"["size_65536","size_24576"]"#);
    assert_eq!(shape("inputs", "y"), r#"["size_32768","size_24576"]"#);
    assert_eq!(shape("inputs", "scale"), r#"["size_8"]"#);
    assert_eq!(shape("outputs", "output"), r#"["size_65536","size_32768"]"#);
    let settings = folder.read("tasks/kb_1_Large/task.yaml");
    for line in [
        "  x: {\"normal\":1.0}\n",
        "  y: {\"uniform\":[0.0,1.0]}\n",
        "large_rows",
    ] {
        assert!(settings.contains(line), "{settings}");
    }
    let kernel = folder.read("kernels/kb_1_Large/naive.cu");
    assert!(
        kernel.contains("24576") && kernel.contains("32768"),
        "{kernel}"
    );
    Ok(())
}

fn networks_become_tasks_and_baselines() -> TestResult {
    let python = find_torch()?;
    let folder = Workspace::new();
    let checkout = fixture("kernelbench").display().to_string();
    let mut import = folder.command(&["tasks", "import", "kernelbench", &checkout, "--level=3"]);
    import.env("KFORGE_PYTHON", &python);
    let result = CommandResult::of(&import.output().unwrap());
    let network = "kb3_2_Small_residual_network";
    let attention = "kb3_4_Causal_attention_block";
    result.exits_with(0).shows(&[
        &format!("tasks/{network}: 1 workload; 1 input and 24 of the model\n"),
        // The mask is part of the problem.
        &format!("tasks/{attention}: 1 workload; 1 input and 12 of the model\n"),
    ]);
    let definition = folder.read(&format!("tasks/{network}/definition.json"));
    assert!(!definition.contains("running_mean"), "{definition}");
    let mut compare = Command::new(&python);
    compare.args(["-c", COMPARE, network, attention]);
    let output = compare.current_dir(folder.path()).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    for task in [network, attention] {
        // The kernel that kforge writes, against itself.
        let mut eval = folder.command(&["eval", task, &format!("kernels/{task}/naive.cu")]);
        eval.args(["--backend=cpu", "--seconds=0.2", "--precision=0.9"]);
        eval.env("KFORGE_PYTHON", &python);
        let result = CommandResult::of(&eval.output().unwrap());
        assert!(is_right(&result), "{result:?}");
    }
    // Nothing is overwritten.
    let again = CommandResult::of(&import.output().unwrap());
    again.assert_exit(2, &["already exists"]);
    Ok(())
}

/// The results of a level have the form that KernelBench's analysis reads, and what was judged is not judged again.
fn a_level_is_judged_and_continued() -> TestResult {
    let python = find_torch()?;
    let folder = Workspace::new();
    let checkout = fixture("kernelbench").display().to_string();
    let bench = |more: &[&str]| {
        let arguments = [
            "bench",
            "kernelbench",
            &checkout,
            "--level=1",
            "--output=out",
        ];
        let mut command = folder.command(&[&arguments[..], more].concat());
        command.env("KFORGE_PYTHON", &python);
        command.args(["--backend=cpu", "--seconds=0.3"]);
        CommandResult::of(&command.output().unwrap())
    };
    let read = |name: &str| -> Value { serde_json::from_str(&folder.read(name)).unwrap() };
    let result = bench(&[]).exits_with(0);
    result.shows(&[
        "kb1_3_Scaled_row_sums: correct",
        "kb1_7_Keep_upper_part: not judged",
        "level 1: 3 problems, 1 kernels compile, 1 are correct",
    ]);
    let results = read("out/eval_results.json");
    let sample = &results["3"][0];
    assert_eq!(sample["sample_id"], 0);
    assert_eq!(sample["compiled"], true);
    assert_eq!(sample["correctness"], true);
    let refused = &results["9"][0];
    assert_eq!(refused["correctness"], false);
    let reason = refused["metadata"]["error"].as_str().unwrap();
    assert!(reason.contains("different outputs"), "{reason}");
    let shares = read("out/fast_p.json");
    assert_eq!(shares["problems"], 3);
    assert_eq!(shares["fast_p"]["0.0"], 1.0 / 3.0);
    // A busy machine may not time it.
    if sample["runtime"].as_f64().unwrap() > 0.0 {
        let times = read("out/baseline_time_torch.json");
        let mean = &times["level1"]["3_Scaled_row_sums.py"]["mean"];
        assert!(mean.as_f64().unwrap() > 0.0, "{times}");
    }

    let kept = folder.read("out/samples/level_1_problem_3_sample_0.json");
    bench(&[]).exits_with(0);
    let again = folder.read("out/samples/level_1_problem_3_sample_0.json");
    assert_eq!(kept, again);

    // Kernels of a folder; a wrong one is judged too, and counts as wrong.
    let naive = folder.read("kernels/kb1_3_Scaled_row_sums/naive.cu");
    let wrong = naive.replace("0.75f", "0.8f");
    assert_ne!(naive, wrong);
    folder.write("mine/level_1_problem_3_sample_0_kernel.cu", &wrong);
    let result = bench(&["--kernels=mine", "--problem=3", "--format=json"]);
    let shares: Value = serde_json::from_str(&result.exits_with(0).stdout).unwrap();
    assert_eq!(shares["correct"], 0);
    assert_eq!(shares["compiled"], 1);
    Ok(())
}

/// Softmax, cumulative sum, cross entropy, convolutions, pooling and norms: kforge writes a kernel for each.
fn operations_of_all_kinds_get_a_kernel() -> TestResult {
    let python = find_torch()?;
    let folder = Workspace::new();
    let mut write = Command::new(&python);
    write.arg(fixture("kernelbench/write_set.py"));
    write.args(["set", "small"]).current_dir(folder.path());
    assert!(write.status().unwrap().success());
    let mut import = folder.command(&["tasks", "import", "kernelbench", "set", "--level=1"]);
    for problem in ["7", "14", "17", "20", "21", "23", "27"] {
        import.args(["--problem", problem]);
    }
    import.env("KFORGE_PYTHON", &python);
    let result = CommandResult::of(&import.output().unwrap()).exits_with(0);
    assert_eq!(result.stdout.lines().count(), 7, "{result:?}");
    assert!(!result.stdout.contains("to be written"), "{result:?}");
    // Two of them are judged by the problem's own code.
    for task in ["kb1_17_Cross_entropy", "kb1_21_Transposed_convolution"] {
        let mut eval = folder.command(&["eval", task, &format!("kernels/{task}/naive.cu")]);
        eval.args(["--backend=cpu", "--seconds=0.2", "--precision=0.9"]);
        let result = CommandResult::of(&eval.env("KFORGE_PYTHON", &python).output().unwrap());
        assert!(is_right(&result), "{result:?}");
    }
    Ok(())
}

/// Problems with parameters and buffers of all kinds: name, text, and what `eval()` of an exported model does.
const STATEFUL: [(&str, &str, &str); 4] = [
    // A number as output, and a number and a transposed matrix as parameters. The text has words that KernelBench's static checker refuses.
    (
        "1_Loss",
        "\"\"\"Three quotes: ''' and a pass.\"\"\"
import torch
import torch.nn as nn

class Model(nn.Module):
    def __init__(self, size):
        super(Model, self).__init__()
        self.scale = nn.Parameter(torch.rand(()))
        self.weight = nn.Parameter(torch.randn(size, 5).t())
    def forward(self, x, y):
        return nn.functional.mse_loss(x @ self.weight * self.scale, y)

def get_inputs():
    return [torch.randn(6, 5), torch.rand(6, 7)]

def get_init_inputs():
    return [7]
",
        "the same after eval()",
    ),
    // Its normalisation is in evaluation, so its means are inputs, and dropout does nothing.
    (
        "2_Evaluated",
        "import torch
import torch.nn as nn

class Model(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.norm = nn.BatchNorm1d(size)
        self.norm.running_mean.normal_()
        self.drop = nn.Dropout(0.5)
        self.eval()
    def forward(self, x):
        return self.drop(self.norm(x))

def get_inputs():
    return [torch.randn(6, 7)]

def get_init_inputs():
    return [7]
",
        "the same after eval()",
    ),
    // Modules that are made in another order than they are registered, tied weights, a buffer of a nested module, a constant of the file.
    (
        "3_Nested",
        "import torch
import torch.nn as nn

N = 8

class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer(\"table\", torch.randn(N, N))
    def forward(self, x):
        return x @ self.table

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        last = nn.Linear(N, N, bias=False)
        self.parts = nn.ModuleList([Part() for _ in range(2)])
        self.first = nn.Sequential(nn.Linear(N, N), nn.ReLU())
        self.last, self.tied = last, nn.Linear(N, N, bias=False)
        self.tied.weight = self.last.weight
        self.norm = nn.GroupNorm(2, N)
    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return self.norm(self.tied(self.last(self.first(x))))

def get_inputs():
    return [torch.randn(6, N)]

def get_init_inputs():
    return []

if __name__ == \"__main__\":
    print(Model()(*get_inputs()))
",
        "the same after eval()",
    ),
    (
        "4_Convolution",
        "import torch
import torch.nn as nn

class Model(nn.Module):
    def __init__(self, channels, out, kernel):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=1)
        self.norm = nn.BatchNorm2d(out)
    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))

def get_inputs():
    return [torch.rand(2, 3, 8, 8)]

def get_init_inputs():
    return [3, 4, 3]
",
        "eval() is refused",
    ),
];

/// KernelBench makes both models under one seed, so an exported one must draw its parameters as the problem does.
fn an_exported_model_has_the_parameters_of_the_problem() -> TestResult {
    let python = find_torch()?;
    let folder = Workspace::new();
    let network = fixture("kernelbench/KernelBench/level3/2_Small_residual_network.py");
    let network = std::fs::read_to_string(network).unwrap();
    let mut problems = STATEFUL.to_vec();
    problems.push(("5_Network", &network, "eval() is refused"));
    for (name, text, _) in &problems {
        folder.write(&format!("set/KernelBench/level1/{name}.py"), text);
    }
    let mut import = folder.command(&["tasks", "import", "kernelbench", "set", "--level=1"]);
    let output = import.env("KFORGE_PYTHON", &python).output().unwrap();
    CommandResult::of(&output).exits_with(0);
    let mut judge = Command::new(&python);
    judge.arg(fixture("kernelbench/judge_model_new.py"));
    let mut expected = String::new();
    for (name, _, evaluation) in &problems {
        let task = format!("kb1_{name}");
        let kernel = format!("kernels/{task}/naive.cu");
        let output = format!("exports/{name}");
        let export = ["export", &kernel, "--task", &task, "--to", "kernelbench"];
        folder
            .run(&[&export[..], &["--output", &output]].concat())
            .exits_with(0);
        judge.arg(name);
        expected += &format!("{name}: {evaluation}\n");
    }
    let output = judge.current_dir(folder.path()).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    // What an earlier version imported has no constructor.
    let oracle = folder.path().join("tasks/kb1_4_Convolution/oracle.py");
    let text = std::fs::read_to_string(&oracle).unwrap();
    let older: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("_CONSTRUCTOR"))
        .collect();
    std::fs::write(&oracle, older.join("\n")).unwrap();
    let kernel = "kernels/kb1_4_Convolution/naive.cu";
    let task = [
        "--task=kb1_4_Convolution",
        "--to=kernelbench",
        "--output=again",
    ];
    folder
        .run(&[&["export", kernel][..], &task].concat())
        .assert_exit(
            2,
            &[
                "oracle.py: no `_CONSTRUCTOR` behind the problem",
                "import the problem again",
            ],
        );
    Ok(())
}
