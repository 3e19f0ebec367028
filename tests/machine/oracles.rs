//! Compares each task's oracle with an independent computation in NumPy, on the judge's own random inputs.

use crate::harness::{Missing, TestResult};
use std::path::Path;
use std::process::Command;

use kforge::device::cpu::CpuDevice;
use kforge::device::{Cache, Device};
use kforge::eval::{self, ExampleRequest, OracleExample};
use kforge::kernel::DeviceLimits;
use kforge::task::{TaskFiles, embedded_names};
use serde_json::json;

/// A Python interpreter that has NumPy; prints a line if there is none.
pub(crate) fn find_python() -> Result<String, Missing> {
    let names = std::env::var("KFORGE_TEST_PYTHON")
        .ok()
        .into_iter()
        .chain(["python3".to_owned()]);
    let found = names.into_iter().find(|name| {
        Command::new(name)
            .args(["-c", "import numpy"])
            .output()
            .is_ok_and(|output| output.status.success())
    });
    found.ok_or_else(|| Missing::new("numpy", "no Python with NumPy"))
}

fn oracles_agree_with_numpy() -> TestResult {
    let python = find_python()?;
    let device = CpuDevice::new().expect("`cargo test` needs a C++ compiler");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles/check.py");
    for name in embedded_names() {
        let task = TaskFiles::find(name)
            .and_then(|files| files.load())
            .unwrap();
        // One process checks all cases of a task: to import NumPy takes longer than most of them.
        let root = tempfile::tempdir().unwrap();
        let mut folders = Vec::new();
        for workload in task.workloads.iter().take(3) {
            for seed in [1, 2] {
                let folder = root.path().join(format!("{}-seed-{seed}", workload.id));
                std::fs::create_dir(&folder).unwrap();
                let options = eval::JudgeOptions {
                    profile: task.settings.profiles["quick"].clone(),
                    launch_seconds: 20.0,
                    thorough: false,
                    cache: Cache::Cold,
                };
                let limits = DeviceLimits {
                    sm_count: i64::from(device.identity().cores.unwrap_or(1)),
                    max_shared_bytes: 232_448,
                };
                let request = ExampleRequest { workload, seed };
                let example =
                    eval::oracle_example(&device, &task, options, limits, request).unwrap();
                write_case(&example, &workload.binding.axes, &folder);
                folders.push(folder);
            }
        }
        let output = Command::new(&python)
            .arg(&script)
            .arg(name)
            .args(&folders)
            .output()
            .unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{name}:\n{out}{err}");
        assert!(out.lines().count() >= folders.len(), "{name}:\n{out}");
    }
    Ok(())
}

/// Writes what `check.py` reads: `case.json`, and one file of little-endian numbers per tensor.
fn write_case(example: &OracleExample, axes: &indexmap::IndexMap<String, i64>, folder: &Path) {
    let mut inputs = serde_json::Map::new();
    let mut outputs = serde_json::Map::new();
    for (buffer, bytes) in &example.inputs {
        let file = format!("{}.bin", buffer.name);
        std::fs::write(folder.join(&file), bytes).unwrap();
        inputs.insert(
            buffer.name.clone(),
            json!({"file": file, "dtype": buffer.dtype, "shape": buffer.shape}),
        );
    }
    for (buffer, values) in &example.outputs {
        let file = format!("{}.bin", buffer.name);
        std::fs::write(
            folder.join(&file),
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect::<Vec<_>>(),
        )
        .unwrap();
        outputs.insert(
            buffer.name.clone(),
            json!({"file": file, "dtype": "float64", "shape": buffer.shape}),
        );
    }
    let case =
        json!({"axes": axes, "scalars": example.scalars, "inputs": inputs, "outputs": outputs});
    std::fs::write(folder.join("case.json"), case.to_string()).unwrap();
}

crate::harness::tests!(oracles_agree_with_numpy,);
