//! A task whose inputs are all stored in a file, so that no seed changes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};

/// Elements of each input.
const ELEMENTS: usize = 4096;

/// Writes the task into a folder: twice one vector and another, `x[i] = i` and `y[i] = i / 2`. Returns the task's folder.
pub(crate) fn write_stored_task(root: &Path, folder: &Path) -> PathBuf {
    let fixtures = root.join("tests/fixtures/gpu");
    for (from, files) in [
        (
            "tasks/scale",
            &["definition.json", "oracle.cu", "task.yaml"][..],
        ),
        ("kernels/scale", &["naive.cu"][..]),
    ] {
        std::fs::create_dir_all(folder.join(from)).unwrap();
        for file in files {
            let place = Path::new(from).join(file);
            std::fs::copy(fixtures.join(&place), folder.join(&place)).unwrap();
        }
    }
    let task = folder.join("tasks/scale");
    let bytes = |factor: f32| -> Vec<u8> {
        let values = (0..ELEMENTS).map(|index| factor * index as f32);
        values.flat_map(f32::to_le_bytes).collect()
    };
    let (x, y) = (bytes(1.0), bytes(0.5));
    let tensor = |bytes| TensorView::new(Dtype::F32, vec![ELEMENTS], bytes).unwrap();
    let tensors = BTreeMap::from([("x", tensor(&x)), ("y", tensor(&y))]);
    let bytes = safetensors::serialize(tensors, None).unwrap();
    std::fs::write(task.join("inputs.safetensors"), bytes).unwrap();
    let stored = |key: &str| serde_json::json!({"type": "safetensors", "path": "./inputs.safetensors", "tensor_key": key});
    let workload = serde_json::json!({
        "definition": "gpu_scale",
        "workload": {"uuid": "n4096", "axes": {"n": ELEMENTS}, "inputs": {"x": stored("x"), "y": stored("y")}},
        "solution": null,
        "evaluation": null,
    });
    std::fs::write(task.join("workloads.jsonl"), format!("{workload}\n")).unwrap();
    task
}
