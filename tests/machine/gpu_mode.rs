//! Problems of GPU MODE as tasks: their reference is the oracle, with the tolerance of their own check.

use std::process::Command;

use crate::harness::{TestResult, tests};
use crate::program::{CommandResult, Workspace, fixture};
use crate::python_oracle::find_torch;

tests!(
    a_problem_becomes_a_task_that_is_admitted,
    a_reference_may_move_a_module_to_the_gpu,
    a_reference_may_make_parameters_of_its_inputs,
    a_mask_and_a_wide_tolerance_are_kept,
    problems_that_are_no_tasks_are_refused,
    a_tensor_for_the_output_that_is_never_read_is_no_input,
);

/// Whether the oracle computes in double precision, and the baseline `eager` agrees with it.
const COMPARE: &str = r#"
import torch

def load(path):
    space = {"__name__": "loaded"}
    exec(compile(open(path).read(), path, "exec"), space)
    return space

run = load("tasks/rowscale/oracle.py")["run"]
eager = load("kernels/rowscale/baselines.py")["BASELINES"]["eager"][1]()
values = [torch.randn(5, 30), torch.rand(30)]
expected, found = run(*values), eager(*values)[0]
assert expected.dtype == torch.float64 and found.dtype == torch.float32
assert torch.allclose(expected.float(), found, rtol=1e-5, atol=1e-6)
assert torch.equal(run(*values), expected)
"#;

fn files() -> [(&'static str, String); 4] {
    [
        "utils.py",
        "rowscale/task.yml",
        "rowscale/task.py",
        "rowscale/reference.py",
    ]
    .map(|file| {
        let text = std::fs::read_to_string(fixture("gpu_mode").join(file)).unwrap();
        (file, text)
    })
}

fn a_problem_becomes_a_task_that_is_admitted() -> TestResult {
    let python = find_torch()?;
    let folder = Workspace::new();
    for (file, text) in files() {
        folder.write(&format!("problems/{file}"), &text);
    }
    let run = |arguments: &[&str]| {
        let mut command = folder.command(arguments);
        CommandResult::of(&command.env("KFORGE_PYTHON", &python).output().unwrap())
    };
    let result = run(&["tasks", "import", "gpu-mode", "problems/rowscale"]).exits_with(0);
    result.shows(&["tasks/rowscale: 2 workloads; gives output float32[rows, columns]\n"]);
    let settings = folder.read("tasks/rowscale/task.yaml");
    // The check's `atol` of 1e-5 over the root mean square of the output.
    for line in [
        "  output: {rtol: 0.0001, atol_rms: ",
        "  rows: [1,64]\n",
        "  input_0: {\"normal\":1.0}\n",
    ] {
        assert!(settings.contains(line), "{settings}");
    }
    // Prompts show the problem's own text, not the oracle, which has all files in quotes.
    let definition = folder.read("tasks/rowscale/definition.json");
    assert!(
        definition.contains("\"reference\": \"import torch\\nfrom task"),
        "{definition}"
    );
    let workloads = folder.read("tasks/rowscale/workloads.jsonl");
    assert!(
        workloads.contains("\"axes\":{\"rows\":30,\"columns\":200}"),
        "{workloads}"
    );
    let compare = Command::new(&python)
        .args(["-c", COMPARE])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&compare.stderr);
    assert!(compare.status.success(), "{log}");
    let check = run(&["tasks", "check", "rowscale", "--profile=quick"]);
    check.exits_with(0).shows(&["admitted"]);
    Ok(())
}

/// PyTorch cannot move a module whose tensors have no values, which is how kforge finds the shapes of large cases.
fn a_reference_may_move_a_module_to_the_gpu() -> TestResult {
    let python = find_torch()?;
    let folder = Workspace::new();
    for (file, text) in files() {
        let moved = text.replace(
            "    output[...] = x * scale * settings[\"weight\"]\n",
            "    norm = torch.nn.LayerNorm(x.shape[1]).to(x.device)\n    norm.weight = torch.nn.Parameter(settings[\"weight\"])\n    output[...] = x * scale * norm.weight\n",
        );
        assert!(file != "rowscale/reference.py" || moved.contains("LayerNorm"));
        folder.write(&format!("problems/{file}"), &moved);
    }
    let mut command = folder.command(&["tasks", "import", "gpu-mode", "problems/rowscale"]);
    let result = command.env("KFORGE_PYTHON", &python).output().unwrap();
    let result = CommandResult::of(&result).exits_with(0);
    result.shows(&["tasks/rowscale: 2 workloads; gives output float32[rows, columns]"]);
    Ok(())
}

/// A parameter is a new tensor, which a trace would take for a constant: `naive.cu` could not be written.
fn a_reference_may_make_parameters_of_its_inputs() -> TestResult {
    let python = find_torch()?;
    let folder = Workspace::new();
    for (file, text) in files() {
        let changed = text.replace(
            "* settings[\"weight\"]",
            "* torch.nn.Parameter(settings[\"weight\"])",
        );
        assert!(file != "rowscale/reference.py" || changed.contains("Parameter"));
        folder.write(&format!("problems/{file}"), &changed);
    }
    let mut command = folder.command(&["tasks", "import", "gpu-mode", "problems/rowscale"]);
    let result = command.env("KFORGE_PYTHON", &python).output().unwrap();
    CommandResult::of(&result).exits_with(0);
    let kernel = folder.read("kernels/rowscale/naive.cu");
    assert!(kernel.contains("one thread for each element"), "{kernel}");
    Ok(())
}

/// A mask is 1 everywhere in the largest case, and the outputs of the smallest case are 100 times as large as those of drawn inputs.
fn a_mask_and_a_wide_tolerance_are_kept() -> TestResult {
    let python = find_torch()?;
    let folder = Workspace::new();
    for (file, text) in files() {
        let changed = text
            .replace(
                "    output = torch.empty_like(x)\n",
                "    mask = torch.ones(rows, device=\"cuda\")\n    if rows == 9:\n        mask[:5] = 0\n    if rows == 4:\n        x[0] *= 100\n        weight *= 100\n    output = torch.empty_like(x)\n",
            )
            .replace("\"eps\": 1e-5}", "\"eps\": 1e-5, \"mask\": mask}")
            .replace("* settings[\"weight\"]", "* settings[\"weight\"] * settings[\"mask\"][:, None]")
            .replace("rtol=1e-4", "rtol=1e-2")
            .replace("atol=1e-5", "atol=1e-2");
        folder.write(&format!("problems/{file}"), &changed);
    }
    let mut command = folder.command(&["tasks", "import", "gpu-mode", "problems/rowscale"]);
    let result = command.env("KFORGE_PYTHON", &python).output().unwrap();
    CommandResult::of(&result).exits_with(0);
    let settings = folder.read("tasks/rowscale/task.yaml");
    for line in [
        "  mask: {\"value\":1.0,\"zeros\":0.6}\n",
        "precision: unchecked\n",
    ] {
        assert!(settings.contains(line), "{settings}");
    }
    let (_, after) = settings.split_once("{rtol: 0.01, atol_rms: ").unwrap();
    let relative: f64 = after.split('}').next().unwrap().parse().unwrap();
    // 0.01 of an RMS near 100.
    assert!((5e-5..2e-4).contains(&relative), "{relative}");
    Ok(())
}

fn problems_that_are_no_tasks_are_refused() -> TestResult {
    let python = find_torch()?;
    for (from, to, message) in [
        (
            "output[...] = x",
            "output += x",
            "adds to what is in its output",
        ),
        (
            "    output[...]",
            "    x.mul_(2)\n    output[...]",
            "changes its input `input_0`, which it does not return",
        ),
        (
            "def generate_input",
            "def generate_data",
            "`reference.py` has no `generate_input`",
        ),
        (
            "weight.contiguous()",
            "weight.to(torch.float8_e4m3fnuz)",
            "`generate_input` gives a tensor of float8_e4m3fnuz",
        ),
        (
            "= x * scale",
            "= x / 0 * scale",
            "has values that are not finite: kforge draws other inputs",
        ),
    ] {
        let folder = Workspace::new();
        for (file, text) in files() {
            assert!(file != "rowscale/reference.py" || text.contains(from));
            folder.write(&format!("problems/{file}"), &text.replace(from, to));
        }
        let mut command = folder.command(&["tasks", "import", "gpu-mode", "problems/rowscale"]);
        let result = command.env("KFORGE_PYTHON", &python).output().unwrap();
        CommandResult::of(&result).assert_exit(2, &["task.yml: ", message]);
    }
    Ok(())
}

const TAPS_TASK: &str = "files: [{name: reference.py, source: reference.py}]
benchmarks: [{size: 40, taps: 3, seed: 1}, {size: 100, taps: 5, seed: 2}]
tests: [{size: 17, taps: 4, seed: 3}]
";

const TAPS: &str = "import torch

def generate_input(size, taps, seed):
    generator = torch.Generator(device=\"cuda\")
    generator.manual_seed(seed)
    values = [torch.randn(length, device=\"cuda\", generator=generator) for length in (size, taps)]
    return (*values, torch.full((size - taps + 1,), float(\"nan\"), device=\"cuda\"))

def ref_kernel(data):
    x, weight, _ = data
    return torch.nn.functional.conv1d(x[None, None], weight[None, None])[0, 0]

def check_implementation(data, output):
    return torch.allclose(output, ref_kernel(data), rtol=1e-4, atol=1e-4), \"\"
";

const TAPS_KERNEL: &str = "/* kforge
launch: {kernel: convolve, grid: \"ceil_div(output_size_0, 64)\", block: 64, args: \"input_0, input_1, output, taps, output_size_0\"}
*/
__global__ void convolve(const float* x, const float* weight, float* output, int taps, int count) {
    const int at = blockIdx.x * 64 + threadIdx.x;
    if (at >= count) return;
    float sum = 0.0f;
    for (int tap = 0; tap < taps; ++tap) sum += x[at + tap] * weight[tap];
    output[at] = sum;
}
";

/// It is not set before the call, so it may hold anything, and its size is that of a convolution without padding.
fn a_tensor_for_the_output_that_is_never_read_is_no_input() -> TestResult {
    let python = find_torch()?;
    let folder = Workspace::new();
    folder.write("taps/task.yml", TAPS_TASK);
    folder.write("taps/reference.py", TAPS);
    folder.write("right.cu", TAPS_KERNEL);
    let run = |arguments: &[&str]| {
        let mut command = folder.command(arguments);
        CommandResult::of(&command.env("KFORGE_PYTHON", &python).output().unwrap())
    };
    let result = run(&["tasks", "import", "gpu-mode", "taps"]).exits_with(0);
    result.shows(&["tasks/taps: 2 workloads; gives output float32[output_size_0]"]);
    let definition = folder.read("tasks/taps/definition.json");
    assert!(definition.contains("size - taps + 1"), "{definition}");
    assert!(!definition.contains("input_2"), "{definition}");
    let eval = ["eval", "taps", "right.cu", "--baseline=right.cu"];
    let result = run(&[
        &eval[..],
        &["--backend=cpu", "--seconds=0.2", "--precision=0.9"],
    ]
    .concat());
    // A busy machine may not time it.
    let right = ["passed", "inconclusive: correct"];
    assert!(
        right.iter().any(|text| result.stdout.contains(text)),
        "{result:?}"
    );
    Ok(())
}
