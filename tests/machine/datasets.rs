//! Tasks of FlashInfer-Bench datasets are judged by their Python reference, on the tensors of their files.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

use crate::harness::{Missing, TestResult, tests};
use crate::oracles::find_python;
use crate::program::{CommandResult, Workspace};

tests!(
    stored_tensors_reach_the_oracle_and_the_kernels,
    a_dataset_of_this_machine_loads,
);

const DEFINITION: &str = r#"{
  "name": "gather_d8", "op_type": "gather",
  "axes": {"rows": {"type": "var"}, "picks": {"type": "var"}, "columns": {"type": "const", "value": 8}},
  "inputs": {
    "table": {"shape": ["rows", "columns"], "dtype": "float16"},
    "index": {"shape": ["picks"], "dtype": "int32"},
    "scale": {"shape": null, "dtype": "float32"}
  },
  "outputs": {"output": {"shape": ["picks", "columns"], "dtype": "float32"}},
  "reference": "import numpy as np\n\ndef run(table, index, scale):\n    assert index[0] == 3 and table[3, 0] == 24.0\n    return table[index] * scale\n"
}"#;

const WORKLOAD: &str = r#"{"definition": "gather_d8", "workload": {"uuid": "w", "axes": {"rows": 5, "picks": 64}, "inputs": {"table": {"type": "safetensors", "path": "blob/a.safetensors", "tensor_key": "table"}, "index": {"type": "safetensors", "path": "blob/a.safetensors", "tensor_key": "index"}, "scale": {"type": "scalar", "value": 0.5}}}}
"#;

/// A kernel that is right, once `INDEX` is replaced.
const KERNEL: &str = "/* kforge
launch:
  - kernel: gather
    grid: picks
    block: 32
    args: table, index, scale, output
*/
#include <cuda_fp16.h>
__global__ void gather(const __half* table, const int* index, float scale, float* output) {
    const int row = INDEX;
    if (threadIdx.x < COLUMNS) {
        output[blockIdx.x * COLUMNS + threadIdx.x] = scale * __half2float(table[row * COLUMNS + threadIdx.x]);
    }
}
";

fn write_tensors(folder: &Path) {
    // 0, 1, 2, … in float16: integers up to 2048 are exact.
    let half = |value: u16| -> u16 {
        if value == 0 {
            return 0;
        }
        let exponent = 15 - value.leading_zeros() as u16;
        ((exponent + 15) << 10) | ((value << (10 - exponent)) & 0x3ff)
    };
    let table: Vec<u8> = (0..40)
        .flat_map(|value| half(value).to_le_bytes())
        .collect();
    let index: Vec<u8> = (0..64)
        .flat_map(|pick: i32| ((pick * 7 + 3) % 5).to_le_bytes())
        .collect();
    let tensors = BTreeMap::from([
        (
            "table",
            TensorView::new(Dtype::F16, vec![5, 8], &table).unwrap(),
        ),
        (
            "index",
            TensorView::new(Dtype::I32, vec![64], &index).unwrap(),
        ),
    ]);
    let path = folder.join("dataset/blob/a.safetensors");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, safetensors::serialize(tensors, None).unwrap()).unwrap();
}

fn stored_tensors_reach_the_oracle_and_the_kernels() -> TestResult {
    let python = find_python()?;
    let folder = Workspace::new();
    folder.write("dataset/definitions/gather/gather_d8.json", DEFINITION);
    folder.write("dataset/workloads/gather/gather_d8.jsonl", WORKLOAD);
    write_tensors(folder.path());
    let judge = |task: &str, kernel: &str| {
        let mut command = folder.command(&[
            "eval",
            task,
            kernel,
            "--baseline=right.cu",
            "--backend=cpu",
            "--dataset=dataset",
            "--seconds=0.2",
            "--precision=0.9",
        ]);
        command.env("KFORGE_LOCK_DIR", folder.path());
        CommandResult::of(&command.env("KFORGE_PYTHON", &python).output().unwrap())
    };
    folder.write("right.cu", &KERNEL.replace("INDEX", "index[blockIdx.x]"));
    // It computes the index of the file, so it passes too; for another formula it fails.
    folder.write(
        "formula.cu",
        &KERNEL.replace("INDEX", "(blockIdx.x * 7 + 3) % 5"),
    );
    folder.write(
        "wrong.cu",
        &KERNEL.replace("INDEX", "(blockIdx.x * 7 + 4) % 5"),
    );
    for kernel in ["right.cu", "formula.cu"] {
        let result = judge("gather_d8", kernel);
        assert!(
            result.stdout.contains("passed") || result.stdout.contains("inconclusive: correct"),
            "{result:?}"
        );
    }
    let wrong = judge("gather_d8", "wrong.cu");
    assert!(wrong.stdout.contains("wrong_output"), "{wrong:?}");
    // The imported task reads the same files.
    folder.run(&["tasks", "import", "dataset"]).exits_with(0);
    let imported = judge("tasks/gather_d8", "wrong.cu");
    assert!(imported.stdout.contains("wrong_output"), "{imported:?}");
    Ok(())
}

/// Every definition of the dataset that `FIB_DATASET_PATH` names becomes a task, with all of its workloads.
fn a_dataset_of_this_machine_loads() -> TestResult {
    let dataset = std::env::var("FIB_DATASET_PATH")
        .map_err(|_| Missing::new("dataset", "FIB_DATASET_PATH is not set"))?;
    let folder = Workspace::new();
    let result = folder.run(&["tasks", "import", &dataset]);
    assert!(result.code == 0, "{}", result.stderr);
    let list = folder.run(&["tasks", "list"]);
    assert!(!list.stdout.contains("broken"), "{}", list.stdout);
    Ok(())
}
