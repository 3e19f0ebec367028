//! Oracles in Python: they give the values of a kernel oracle, and what goes wrong in them is reported with its place.

use std::collections::BTreeMap;

use kforge::device::cpu::CpuDevice;
use kforge::device::{Cache, Device};
use kforge::eval::{self, ExampleRequest, OracleExample};
use kforge::kernel::DeviceLimits;
use kforge::task::{Task, TaskFiles, embedded_names};

use crate::harness::{Missing, TestResult, tests};
use crate::oracles::find_python;
use crate::program::{CommandResult, Workspace, fixture};

tests!(
    numpy_oracle_agrees_with_the_kernel_oracle,
    torch_references_agree_with_the_kernel_oracles,
    python_oracle_judges_kernels,
    python_oracle_judges_kernels_on_a_gpu,
    torch_oracle_computes_in_the_memory_of_a_gpu,
    python_oracle_admits_a_task_by_its_tolerance,
    faults_of_a_python_oracle_are_reported,
    numpy_reads_every_dtype,
    a_tuned_kernel_is_judged_by_an_oracle_in_python,
);

/// Everything that NumPy oracles are given: bfloat16 tensors, and scalars.
const RMSNORM: &str = r#"
import numpy as np

def run(x, weight, eps):
    assert x.dtype == weight.dtype == np.float64
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight
"#;

const SOFTMAX: &str = r#"
import numpy as np

def run(x):
    print("the output of a reference is no answer")
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
"#;

/// A Python interpreter with PyTorch.
pub(crate) fn find_torch() -> Result<String, Missing> {
    let python = find_python()?;
    let output = std::process::Command::new(&python)
        .args(["-c", "import torch"])
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(python),
        _ => Err(Missing::new("torch", "no Python with PyTorch")),
    }
}

/// The files of a shipped task with another oracle.
fn with_oracle(name: &str, oracle: &str, text: &str) -> Task {
    let mut files = TaskFiles::find(name).unwrap();
    let settings = &files.files["task.yaml"];
    assert!(settings.contains("oracle: oracle.cu\n"));
    let settings = settings.replace("oracle: oracle.cu\n", &format!("oracle: {oracle}\n"));
    files.files.insert("task.yaml".to_owned(), settings);
    files.files.insert(oracle.to_owned(), text.to_owned());
    files.load().unwrap()
}

fn example(task: &Task, workload: usize, seed: u64) -> OracleExample {
    let device = CpuDevice::new().expect("`cargo test` needs a C++ compiler");
    let options = eval::JudgeOptions {
        profile: task.settings.profiles["quick"].clone(),
        launch_seconds: 60.0,
        thorough: false,
        cache: Cache::Cold,
    };
    let limits = DeviceLimits {
        sm_count: i64::from(device.identity().cores.unwrap_or(1)),
        max_shared_bytes: 232_448,
    };
    let request = ExampleRequest {
        workload: &task.workloads[workload],
        seed,
    };
    eval::oracle_example(&device, task, options, limits, request).unwrap()
}

/// Compares both oracles of a task on its first workload. `bound`: of the difference, over the root mean square of the output.
#[track_caller]
fn compare(kernel: &Task, python: &Task, bound: f64) {
    for seed in [1, 2] {
        let [expected, found] = [kernel, python].map(|task| example(task, 0, seed));
        let bytes = |example: &OracleExample| -> BTreeMap<String, Vec<u8>> {
            let inputs = example.inputs.iter();
            inputs
                .map(|(buffer, bytes)| (buffer.name.clone(), bytes.clone()))
                .collect()
        };
        assert_eq!(bytes(&expected), bytes(&found), "the same inputs");
        for ((buffer, expected), (_, found)) in expected.outputs.iter().zip(&found.outputs) {
            assert_eq!(expected.len(), found.len());
            let squares: f64 = expected.iter().map(|value| value * value).sum();
            let rms = (squares / expected.len() as f64).sqrt();
            let differences = expected
                .iter()
                .zip(found)
                .map(|(one, other)| (one - other).abs());
            let largest = differences.fold(0.0, f64::max) / rms;
            let (task, output) = (&python.name, &buffer.name);
            assert!(largest <= bound, "{task}, {output}: {largest:e}");
        }
    }
}

fn numpy_oracle_agrees_with_the_kernel_oracle() -> TestResult {
    use_python(&find_python()?);
    let kernel = TaskFiles::find("rmsnorm").unwrap().load().unwrap();
    // Only the order of the sums differs.
    compare(
        &kernel,
        &with_oracle("rmsnorm", "oracle.py", RMSNORM),
        1e-12,
    );
    Ok(())
}

/// A definition's reference rounds its outputs to their dtype and computes in single precision.
fn torch_references_agree_with_the_kernel_oracles() -> TestResult {
    use_python(&find_torch()?);
    for name in embedded_names() {
        let kernel = TaskFiles::find(name).unwrap().load().unwrap();
        compare(&kernel, &with_oracle(name, "reference", ""), 0.02);
    }
    Ok(())
}

/// Sets the interpreter of oracles that run in this process. All tests here choose the same one.
fn use_python(python: &str) {
    static CHOSEN: std::sync::Once = std::sync::Once::new();
    // SAFETY: `harness::prepare_environment` has set the other variables before; the tests read variables through std alone.
    CHOSEN.call_once(|| unsafe { std::env::set_var("KFORGE_PYTHON", python) });
}

/// A folder with the task `softmax`, whose oracle is this text.
fn workspace(oracle: &str) -> Workspace {
    let folder = Workspace::with_small_task();
    let settings = folder.read("tasks/softmax/task.yaml");
    let settings = settings.replace("oracle: oracle.cu\n", "oracle: oracle.py\n");
    folder.write("tasks/softmax/task.yaml", &settings);
    folder.write("tasks/softmax/oracle.py", oracle);
    folder
}

/// Judges a kernel in a folder.
fn judge(folder: &Workspace, python: &str, kernel: &str) -> CommandResult {
    let arguments = [
        "eval",
        "softmax",
        kernel,
        "--backend=cpu",
        "--seconds=0.3",
        "--precision=0.9",
        "--launch-seconds=5",
    ];
    let mut command = folder.command(&arguments);
    command.env("KFORGE_PYTHON", python);
    CommandResult::of(&command.output().unwrap())
}

fn python_oracle_judges_kernels() -> TestResult {
    let python = find_python()?;
    let folder = workspace(SOFTMAX);
    let naive = std::fs::read_to_string(crate::program::root().join("kernels/softmax/naive.cu"));
    let naive = naive.unwrap();
    folder.write("right.cu", &naive);
    folder.write("wrong.cu", &naive.replace("/ sum;", "/ (1.001f * sum);"));
    let right = judge(&folder, &python, "right.cu");
    // A busy machine may not time it.
    let is_right = |text: &&str| right.stdout.contains(*text);
    assert!(
        ["passed", "inconclusive: correct"].iter().any(is_right),
        "{right:?}"
    );
    let wrong = judge(&folder, &python, "wrong.cu");
    assert!(wrong.stdout.contains("wrong_output"), "{wrong:?}");
    assert_eq!(wrong.code, 5);

    Ok(())
}

/// The admission test corrupts the outputs of the oracle, so a tight tolerance is admitted and a wide one is not.
fn python_oracle_admits_a_task_by_its_tolerance() -> TestResult {
    let python = find_python()?;
    let folder = Workspace::new();
    let TaskFiles {
        mut files, kernels, ..
    } = TaskFiles::find("softmax").unwrap();
    files.insert("oracle.py".to_owned(), SOFTMAX.to_owned());
    let settings = files["task.yaml"].replace("oracle: oracle.cu\n", "oracle: oracle.py\n");
    let tight = "output: {rtol: 2.0e-4, atol_rms: 1.0e-5}";
    assert!(settings.contains(tight));
    let wide = settings.replace(tight, "output: {rtol: 9.0e-2, atol_rms: 9.0e-2}");
    for (name, settings) in [("tight", settings), ("wide", wide)] {
        files.insert("task.yaml".to_owned(), settings);
        for (file, text) in files.iter().chain(&kernels) {
            folder.write(&format!("tasks/{name}/{file}"), text);
        }
    }
    let check = |name: &str| -> (Option<i32>, serde_json::Value) {
        let task = format!("tasks/{name}");
        let arguments = ["tasks", "check", &task, "--profile=quick", "--format=json"];
        let mut command = folder.command(&arguments);
        let output = command.env("KFORGE_PYTHON", &python).output().unwrap();
        let mut admissions: Vec<serde_json::Value> = crate::program::json(&output);
        (output.status.code(), admissions.remove(0))
    };

    let (code, admission) = check("tight");
    assert_eq!(code, Some(0), "{admission:#}");
    assert_eq!(admission["admitted"], true, "{admission:#}");
    assert_eq!(admission["precision"], "checked");
    assert!(admission["comparisons"].as_u64().unwrap() > 100);

    let (code, admission) = check("wide");
    assert_eq!(code, Some(4), "{admission:#}");
    assert_eq!(admission["admitted"], false, "{admission:#}");
    assert_eq!(
        admission["faults"].as_array().unwrap().len(),
        0,
        "{admission:#}"
    );
    let passed = admission["passed"].as_array().unwrap();
    let rounded =
        |missed: &serde_json::Value| missed["candidate"] == "the output rounded to bfloat16";
    assert!(passed.iter().any(rounded), "{admission:#}");
    Ok(())
}

/// In PyTorch, on a GPU. It fails if PyTorch had to copy its input to the GPU.
const TORCH_SOFTMAX: &str = r#"
import torch

def run(x):
    assert x.is_cuda and torch.cuda.memory_allocated() < x.nbytes, "the input was copied"
    return torch.softmax(x.double(), dim=-1)
"#;

/// A GPU judges several copies of the inputs at once, while the oracle's are in host memory.
fn python_oracle_judges_kernels_on_a_gpu() -> TestResult {
    let _device = crate::gpu::device()?;
    judges_softmax_on_a_gpu(&find_python()?, SOFTMAX)
}

/// The oracle's inputs and outputs never leave the GPU.
fn torch_oracle_computes_in_the_memory_of_a_gpu() -> TestResult {
    let _device = crate::gpu::device()?;
    judges_softmax_on_a_gpu(&find_torch()?, TORCH_SOFTMAX)
}

fn judges_softmax_on_a_gpu(python: &str, oracle: &str) -> TestResult {
    let folder = workspace(oracle);
    let naive = std::fs::read_to_string(crate::program::root().join("kernels/softmax/naive.cu"));
    let naive = naive.unwrap();
    folder.write("right.cu", &naive);
    folder.write("wrong.cu", &naive.replace("/ sum;", "/ (1.001f * sum);"));
    for (kernel, status) in [("right.cu", "passed"), ("wrong.cu", "wrong_output")] {
        let arguments = ["eval", "softmax", kernel, "--backend=cuda", "--seconds=0.3"];
        let mut command = folder.command(&arguments);
        let judged = command.env("KFORGE_PYTHON", python).output().unwrap();
        let judged = CommandResult::of(&judged);
        assert!(judged.stdout.contains(status), "{judged:?}");
    }
    Ok(())
}

fn faults_of_a_python_oracle_are_reported() -> TestResult {
    let python = find_python()?;
    let cases = [
        (
            "import numpy\ndef run(x):\n    return x[:, :-1]\n",
            4,
            "expected the shape [64, 257], found [64, 256]",
        ),
        (
            "import numpy\ndef run(x):\n    return x, x\n",
            4,
            "`run` returns 2 values, the definition has 1 output",
        ),
        (
            "import numpy\ndef run(x):\n    return None\n",
            4,
            "`run` returns None for the output `output`",
        ),
        (
            "import numpy\n\ndef run(x):\n    return x.nonsense\n",
            4,
            "oracle.py, line 4",
        ),
        (
            "import numpy\ndef run(x, y):\n    return x\n",
            4,
            "missing 1 required positional argument",
        ),
        (
            "def compute(x):\n    return x\n",
            4,
            "the source has no function `run`",
        ),
        ("def run(x:\n", 4, "oracle.py, line 1"),
        (
            "import sys\ndef run(x):\n    sys.exit(0)\n",
            4,
            "SystemExit",
        ),
        (
            "import os\ndef run(x):\n    os._exit(0)\n",
            4,
            "ended without an answer",
        ),
        (
            "def run(x):\n    while True: pass\n",
            4,
            "does not answer within 5 s",
        ),
        (
            "def run(x):\n    return x * float('nan')\n",
            4,
            "is not finite",
        ),
        (
            "import numpy\ndef run(x):\n    return x + numpy.random.rand(*x.shape)\n",
            4,
            "two calls of `run` with the same inputs give different values",
        ),
        (
            "import no_such_module\n",
            3,
            "-m pip install no_such_module",
        ),
    ];
    let kernel = crate::program::root().join("kernels/softmax/naive.cu");
    let kernel = kernel.to_str().unwrap();
    for (oracle, code, text) in cases {
        let result = judge(&workspace(oracle), &python, kernel);
        assert_eq!(result.code, code, "{oracle}: {result:?}");
        assert!(result.stderr.contains(text), "{oracle}: {result:?}");
    }
    let result = judge(&workspace(SOFTMAX), "/no/python", kernel);
    assert_eq!(result.code, 3, "{result:?}");
    assert!(
        result.stderr.contains("`KFORGE_PYTHON` is `/no/python`"),
        "{result:?}"
    );
    Ok(())
}

/// One input of each dtype, which the oracle returns as it is.
fn numpy_reads_every_dtype() -> TestResult {
    use_python(&find_python()?);
    let dtypes = [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "int64",
        "int32",
        "int16",
        "int8",
        "bool",
    ];
    for dtype in dtypes {
        let files = files_of_copy(dtype);
        let task = files
            .load()
            .unwrap_or_else(|error| panic!("{dtype}: {error}"));
        let example = example(&task, 0, 7);
        let [(input, bytes)] = example.inputs.as_slice() else {
            panic!("one input");
        };
        let mut memory = vec![0u64; bytes.len().div_ceil(8)];
        // SAFETY: the memory has at least as many bytes; any bytes are a valid integer.
        let memory = unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.as_mut_ptr().cast(), bytes.len());
            std::slice::from_raw_parts(memory.as_ptr().cast(), bytes.len())
        };
        let expected = kforge::device::numerics::values(input.dtype, memory);
        assert_eq!(example.outputs[0].1, expected, "{dtype}");
    }
    Ok(())
}

/// The type of a dtype in CUDA C++.
fn c_type(dtype: &str) -> &'static str {
    match dtype {
        "float64" => "double*",
        "float32" => "float*",
        "float16" => "__half*",
        "bfloat16" => "__nv_bfloat16*",
        "float8_e4m3fn" => "__nv_fp8_e4m3*",
        "float8_e5m2" => "__nv_fp8_e5m2*",
        "int64" => "long long*",
        "int32" => "int*",
        "int16" => "short*",
        "int8" => "signed char*",
        _ => "bool*",
    }
}

/// A task that copies an input of a dtype.
fn files_of_copy(dtype: &str) -> TaskFiles {
    let mut files = TaskFiles::find("softmax").unwrap();
    let definition = serde_json::json!({
        "name": "copy", "op_type": "copy",
        "axes": {"rows": {"type": "var"}, "columns": {"type": "var"}},
        "inputs": {"x": {"shape": ["rows", "columns"], "dtype": dtype}},
        "outputs": {"output": {"shape": ["rows", "columns"], "dtype": dtype}},
        "reference": "def run(x):\n    return x\n",
    });
    let distribution = match dtype {
        "bool" => "{uniform: [0, 1]}",
        "int8" => "{uniform: [-128, 127]}",
        "int64" | "int32" | "int16" => "{uniform: [-30000, 30000]}",
        _ => "{normal: 30.0}",
    };
    let settings = format!(
        "definition: definition.json\nworkloads: workloads.jsonl\noracle: reference\nbaselines: {{naive: naive.cu}}\nstart: [naive.cu]\n\
         tolerance: {{output: {{rtol: 1.0e-3, atol_rms: 1.0e-3}}}}\ninputs: {{x: {distribution}}}\n"
    );
    let workload = r#"{"uuid": "w", "axes": {"rows": 40, "columns": 50}, "inputs": {"x": {"type": "random"}}}"#;
    let kernel = "/* kforge\nlaunch:\n  - kernel: copy\n    grid: 1\n    block: 1\n    args: x, output\n*/\n#include <cuda_fp8.h>\n__global__ void copy(const T* x, T* output) {}\n".replace("T*", c_type(dtype));
    files.files = BTreeMap::from([
        ("task.yaml".to_owned(), settings),
        ("definition.json".to_owned(), definition.to_string()),
        ("workloads.jsonl".to_owned(), workload.to_owned()),
    ]);
    files.kernels = BTreeMap::from([("naive.cu".to_owned(), kernel)]);
    files
}

/// A kernel of Kernel Tuner, which is its own oracle otherwise.
fn a_tuned_kernel_is_judged_by_an_oracle_in_python() -> TestResult {
    let python = find_python()?;
    let folder = Workspace::new();
    for file in ["matmul.json", "matmul.cu", "matmul.py"] {
        let text = std::fs::read_to_string(fixture("kernel_tuner").join(file)).unwrap();
        folder.write(file, &text);
    }
    let import = ["tasks", "import", "kernel-tuner", "matmul.json"];
    let result = folder.run(&[&import[..], &["--oracle=matmul.py"]].concat());
    result
        .exits_with(0)
        .shows(&["tasks/matmul: 1 workload; 3 tunables, 2 constraints\n"]);
    let mut check = folder.command(&["tasks", "check", "matmul", "--profile=quick"]);
    let check = check.env("KFORGE_PYTHON", &python).output().unwrap();
    CommandResult::of(&check).exits_with(0).shows(&["admitted"]);
    Ok(())
}
