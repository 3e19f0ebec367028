//! Recorded spaces: Kernel Tuner's simulation mode reads what kforge writes, and the kernels of `benches/spaces` compile for a GPU.

use std::process::Command;

use crate::harness::{Missing, TestResult};
use crate::program::{Workspace, kforge, root};

/// Searches a space in simulation mode and checks the T4 file against its schema.
const SCRIPT: &str = r#"
import json, sys
import jsonschema
from kernel_tuner import util
from kernel_tuner.file_utils import get_t4_results, output_file_schema
from kernel_tuner.interface import tune_cache, tune_kernel

cache, t4 = sys.argv[1:]
data = json.load(open(cache))
results, environment = tune_cache(cache, strategy="brute_force", quiet=True)
valid = [entry for entry in data["cache"].values() if not isinstance(entry["time"], str)]
assert len(results) == len(valid), (len(results), len(valid))
best = min(entry["time"] for entry in valid)
assert environment["best_config"]["time"] == best, environment
# All points, those without a time too.
results, _ = tune_kernel(data["kernel_name"], "", data["problem_size"], [], data["tune_params"], cache=cache, simulation_mode=True,
                         strategy="brute_force", quiet=True)
assert len(results) == len(data["cache"])
errors = {str(result["__error__"]) for result in results if "__error__" in result}
assert errors <= {"InvalidConfig", "CompilationFailedConfig", "RuntimeFailedConfig"}, errors
_, schema = output_file_schema("results")
jsonschema.validate(json.load(open(t4)), schema)
jsonschema.validate(get_t4_results(results, data["tune_params"]), schema)
# An open file, as a killed command leaves it.
text = open(cache).read()
open(cache, "w").write(text[:text.rindex("\n}\n}")] + ",\n")
assert util.read_cache(cache, open_cache=False)["cache"].keys() == data["cache"].keys()
"#;

/// A Python interpreter that has Kernel Tuner: that of `KFORGE_TEST_KERNEL_TUNER`, or `python3`.
fn find_kernel_tuner() -> Result<String, Missing> {
    let named = std::env::var("KFORGE_TEST_KERNEL_TUNER").ok();
    let names = named.into_iter().chain(["python3".to_owned()]);
    let found = names.into_iter().find(|name| {
        let output = Command::new(name)
            .args(["-c", "import kernel_tuner, jsonschema"])
            .output();
        output.is_ok_and(|output| output.status.success())
    });
    found.ok_or_else(|| Missing::new("kernel_tuner", "no Python with Kernel Tuner"))
}

fn simulate(python: &str, cache: &str, t4: &str) {
    let output = Command::new(python)
        .args(["-c", SCRIPT, cache, t4])
        .output()
        .unwrap();
    let texts = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(
        output.status.success(),
        "{cache}:\n{}{}",
        texts[0],
        texts[1]
    );
}

fn kernel_tuner_reads_a_space() -> TestResult {
    let python = find_kernel_tuner()?;
    let folder = Workspace::with_small_task();
    let kernel = std::fs::read_to_string(root().join("kernels/softmax/block_rows.cu")).unwrap();
    let kernel = kernel
        .replace("[128, 32, 64, 256]", "[32, 512]")
        .replace("[1, 2, 4]", "[1, 4]");
    let kernel = folder.write("block_rows.cu", &kernel);
    folder
        .run(&[
            "eval",
            "softmax",
            &kernel,
            "--backend",
            "cpu",
            "--grid",
            "--output",
            "space.json",
        ])
        .exits_with(0)
        .shows(&["4 points: 3 measured", "launch_error: 1"]);
    let path = |name: &str| folder.path().join(name).display().to_string();
    simulate(&python, &path("space.json"), &path("space.t4.json"));
    Ok(())
}

/// The first point of each kernel. All points: `kforge eval --grid` on a GPU.
fn kernels_of_spaces_compile() -> TestResult {
    if let Err(failure) = kforge::device::cuda::compiler::find_toolkit() {
        return Err(Missing::new("nvrtc", failure));
    }
    for task in ["gdn_decode", "matmul", "softmax"] {
        let kernel = format!("benches/spaces/{task}.cu");
        let output = kforge(["eval", task, &kernel, "--compile-only", "--arch", "sm_90"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
    }
    Ok(())
}

crate::harness::tests!(kernel_tuner_reads_a_space, kernels_of_spaces_compile);
