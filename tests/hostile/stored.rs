//! The generator's tasks with all inputs stored in files, so that every launch has the same ones.
//!
//! Writes files; judges nothing.

use std::collections::BTreeMap;
use std::path::Path;

use kforge::base::RandomStream;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::runner::task_folder;
use crate::sketch::{COMPUTATIONS, Computation};

/// Writes a task for each computation below `folder`.
pub(crate) fn write_tasks(folder: &Path) {
    for computation in COMPUTATIONS {
        write_task(computation, &folder.join(computation.name()));
    }
}

fn write_task(computation: Computation, folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for entry in std::fs::read_dir(task_folder(computation)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let definition: Value = serde_json::from_str(&read("definition.json")).unwrap();
    let mut tensors = BTreeMap::new();
    let mut lines = String::new();
    for line in read("workloads.jsonl").lines() {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let workload = &mut line["workload"];
        let (id, axes) = (workload["uuid"].clone(), workload["axes"].clone());
        let size_of = |axis: &Value| {
            let name = axis.as_str().expect("the name of an axis");
            let fixed = &definition["axes"][name]["value"];
            let size = axes[name].as_u64().or(fixed.as_u64());
            size.expect("the size of an axis") as usize
        };
        for input in computation.inputs() {
            let shape = definition["inputs"][*input]["shape"].as_array();
            let shape: Vec<_> = shape.expect("a shape").iter().map(size_of).collect();
            let key = format!("{}.{input}", id.as_str().expect("an id"));
            workload["inputs"][*input] =
                json!({"type": "safetensors", "path": "./inputs.safetensors", "tensor_key": key});
            let values = values(computation, input, shape.iter().product());
            tensors.insert(key, (shape, values));
        }
        lines += &format!("{line}\n");
    }
    let views = tensors.iter().map(|(key, (shape, bytes))| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (key.as_str(), view)
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(folder.join("inputs.safetensors"), bytes).unwrap();
    std::fs::write(folder.join("workloads.jsonl"), lines).unwrap();
}

/// Numbers like those that the task draws.
fn values(computation: Computation, input: &str, count: usize) -> Vec<u8> {
    let [low, high] = match (computation, input) {
        (Computation::Softmax, _) => [90.0, 98.0],
        (Computation::Rmsnorm, "weight") => [0.5, 1.5],
        (Computation::Rmsnorm, _) => [-0.17, 0.17],
        (Computation::Gelu | Computation::Matmul, _) => [-2.0, 2.0],
    };
    let mut stream = RandomStream::new(count as u64, input, 0);
    (0..count)
        .flat_map(|_| ((low + (high - low) * stream.uniform()) as f32).to_le_bytes())
        .collect()
}
