//! FlashInfer-Bench datasets, used in place and imported: what loads, and what is wrong with each part that does not.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::program::{CommandResult, Workspace, root};

/// Sums of segments: offsets and values from a file, a scalar, an optional input, and a tuple of outputs.
const SEGMENTS: &str = r#"{
  "name": "segment_sum_d4",
  "op_type": "segment",
  "tags": ["status:verified"],
  "axes": {
    "rows": {"type": "var"},
    "segments": {"type": "var"},
    "len_offsets": {"type": "var"},
    "columns": {"type": "const", "value": 4}
  },
  "constraints": [
    "len_offsets == segments + 1",
    "rows == offsets[-1].item()",
    "values.is_contiguous()"
  ],
  "inputs": {
    "values": {"shape": ["rows", "columns"], "dtype": "float32"},
    "bias": {"shape": ["columns"], "dtype": "float32", "optional": true},
    "offsets": {"shape": ["len_offsets"], "dtype": "int64"},
    "scale": {"shape": null, "dtype": "float32"}
  },
  "outputs": {
    "sums": {"shape": ["segments", "columns"], "dtype": "float32"},
    "counts": {"shape": ["segments"], "dtype": "int32"}
  },
  "reference": "import numpy as np\n\ndef run(values, bias, offsets, scale):\n    ends = list(zip(offsets[:-1], offsets[1:]))\n    sums = np.stack([values[a:b].sum(axis=0) for a, b in ends]) * scale + bias\n    return sums, np.array([b - a for a, b in ends])\n"
}
"#;

const SEGMENTS_FILE: &str = "dataset/definitions/segment/segment_sum_d4.json";
const WORKLOADS_FILE: &str = "dataset/workloads/segment/segment_sum_d4.jsonl";

fn workload() -> Value {
    json!({
        "definition": "segment_sum_d4",
        "workload": {
            "uuid": "w1",
            "axes": {"rows": 6, "segments": 2, "len_offsets": 3},
            "inputs": {
                "values": {"type": "safetensors", "path": "./blob/w1.safetensors", "tensor_key": "values"},
                "bias": {"type": "random"},
                "offsets": {"type": "safetensors", "path": "./blob/w1.safetensors", "tensor_key": "offsets"},
                "scale": {"type": "scalar", "value": 0.5},
            },
        },
        "solution": null,
        "evaluation": null,
    })
}

/// Writes the tensors of the workload.
fn write_tensors(folder: &Path, offsets: &[i64]) {
    let values: Vec<u8> = (0..24u8)
        .flat_map(|value| f32::from(value).to_le_bytes())
        .collect();
    let offsets: Vec<u8> = offsets
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let shape = vec![offsets.len() / 8];
    let tensors = BTreeMap::from([
        (
            "values",
            TensorView::new(Dtype::F32, vec![6, 4], &values).unwrap(),
        ),
        (
            "offsets",
            TensorView::new(Dtype::I64, shape, &offsets).unwrap(),
        ),
    ]);
    let path = folder.join("dataset/blob/w1.safetensors");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let bytes = safetensors::serialize(tensors, None).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// A dataset with two definitions: one with stored tensors, and one without workloads.
fn dataset() -> Workspace {
    let folder = Workspace::new();
    folder.write(SEGMENTS_FILE, SEGMENTS);
    folder.write(WORKLOADS_FILE, &format!("{}\n", workload()));
    write_tensors(folder.path(), &[0, 2, 6]);
    folder.write(
        "dataset/definitions/gemm/gemm.json",
        super::definitions::GEMM,
    );
    folder
}

fn show(folder: &Workspace, task: &str) -> CommandResult {
    folder.run(&[
        "tasks",
        "show",
        task,
        "--dataset",
        "dataset",
        "--format",
        "json",
    ])
}

#[test]
fn definitions_are_tasks_in_place() {
    let folder = dataset();
    let shown = show(&folder, "segment_sum_d4").exits_with(0);
    let facts: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(facts["workloads"].as_array().unwrap().len(), 1, "{facts}");
    let list = folder.run(&["tasks", "list", "--dataset", "dataset"]);
    list.exits_with(0)
        .shows(&["segment_sum_d4", "gemm_n64_k96", "softmax"]);
    // The variable that FlashInfer-Bench uses, and the path of a definition.
    let mut command = folder.command(&["tasks", "show", "gemm_n64_k96"]);
    command.env("FIB_DATASET_PATH", folder.path().join("dataset"));
    CommandResult::of(&command.output().unwrap()).exits_with(0);
    folder.run(&["tasks", "show", SEGMENTS_FILE]).exits_with(0);
    // Without a dataset the name is unknown; a folder that is none is an error.
    folder
        .run(&["tasks", "show", "segment_sum_d4"])
        .exits_with(2);
    folder
        .run(&["tasks", "list", "--dataset", "blob"])
        .assert_exit(2, &["no such folder: `blob`", "FIB_DATASET_PATH"]);
    folder
        .run(&["tasks", "list", "--dataset", "dataset/workloads"])
        .assert_exit(2, &["it has no folder `definitions`"]);
}

#[test]
fn an_import_writes_task_folders_and_stops_only_for_the_broken_task() {
    let folder = dataset();
    folder.write(
        "dataset/definitions/broken.json",
        "{\"name\": \"broken\",\n \"axes\": 3}",
    );
    let result = folder.run(&["tasks", "import", "dataset"]);
    result.assert_exit(
        2,
        &[
            "`broken` is not imported",
            "dataset/definitions/broken.json:2: axes: expected an object",
        ],
    );
    result.shows(&[
        "tasks/segment_sum_d4: 1 workload; naive.cu is to be written",
        "tasks/gemm_n64_k96: 3 workloads; the dataset has no workloads for it",
    ]);
    // The folders are complete: the dataset is only needed for its tensors.
    folder
        .run(&["tasks", "show", "segment_sum_d4"])
        .exits_with(0);
    assert_eq!(
        folder.read("tasks/segment_sum_d4/definition.json"),
        SEGMENTS
    );
    let settings = folder.read("tasks/segment_sum_d4/task.yaml");
    assert!(settings.contains("oracle: reference\n"), "{settings}");
    assert!(
        settings.contains("sums: {rtol: 0.0002, atol_rms: 2e-5}"),
        "{settings}"
    );
    let lines = folder.read("tasks/segment_sum_d4/workloads.jsonl");
    let root = folder.path().canonicalize().unwrap().display().to_string();
    assert!(
        lines.contains(&format!("{root}/dataset/./blob/w1.safetensors")),
        "{lines}"
    );
    // Nothing is overwritten, and `--only` chooses.
    folder
        .run(&["tasks", "import", "dataset", "--only", "segment_sum_d4"])
        .assert_exit(2, &["`tasks/segment_sum_d4` already exists"]);
    folder
        .run(&["tasks", "import", "dataset", "--only", "segment_sum"])
        .assert_exit(
            2,
            &[
                "no definition `segment_sum`",
                "did you mean `segment_sum_d4`?",
            ],
        );
    std::fs::remove_dir_all(folder.path().join("tasks")).unwrap();
    let result = folder.run(&[
        "tasks",
        "import",
        "dataset",
        "--only",
        "gemm_n64_k96",
        "--format",
        "json",
    ]);
    let facts: Value = serde_json::from_str(&result.exits_with(0).stdout).unwrap();
    assert_eq!(facts[0]["task"], "gemm_n64_k96");
    assert_eq!(facts[0]["workloads"], 3);
    assert_eq!(facts[0]["error"], Value::Null);
}

/// A problem as SOL-ExecBench has it: an axis as an expression, fields without a value, and workloads with tolerances and times.
const PROBLEM: &str = r#"{
  "name": "011_scaled_rows",
  "op_type": null,
  "hf_id": "a/model",
  "custom_inputs_entrypoint": null,
  "axes": {
    "batch": {"type": "var", "description": null},
    "length": {"type": "var", "description": null},
    "rows": {"type": "expr", "expression": "batch * length", "description": null}
  },
  "inputs": {
    "x": {"shape": ["batch", "length"], "dtype": "float32", "description": null},
    "factor": {"shape": null, "dtype": "float32", "description": null}
  },
  "outputs": {"y": {"shape": ["rows"], "dtype": "float32", "description": null}},
  "reference": "import numpy\n\ndef run(x, factor):\n    return x.reshape(-1) * factor\n",
  "tags": [],
  "description": "Scaled.",
  "constraints": []
}
"#;

#[test]
fn problems_of_sol_execbench_are_tasks() {
    let folder = Workspace::new();
    let line = |kind: Value| {
        json!({
            "uuid": "u1",
            "axes": {"batch": 2, "length": 8},
            "inputs": {"x": kind, "factor": {"type": "scalar", "value": 0.5}},
            "tolerance": {"max_atol": 0.005, "max_rtol": 0.02, "required_matched_ratio": 0.99},
            "latency": {"b200": {"baseline": 0.3, "sol": 0.1}},
        })
    };
    let problem = "sol/L1/011_scaled_rows";
    folder.write(&format!("{problem}/definition.json"), PROBLEM);
    let workloads = format!("{problem}/workload.jsonl");
    folder.write(
        &workloads,
        &format!("{}\n", line(json!({"type": "random"}))),
    );
    folder.write("sol/L1/012_broken/definition.json", "[]");
    let listed = folder.run(&["tasks", "list", "--dataset", "sol"]);
    listed
        .exits_with(0)
        .shows(&["011_scaled_rows", "012_broken"]);
    let result = folder.run(&["tasks", "import", "sol"]);
    result.assert_exit(2, &["`012_broken` is not imported"]);
    result.shows(&["tasks/011_scaled_rows: 1 workload; naive.cu is to be written"]);
    folder
        .run(&["tasks", "show", "011_scaled_rows"])
        .exits_with(0)
        .shows(&["rows"]);
    // Values that a function makes are refused, with the place.
    folder.write(
        &workloads,
        &format!("{}\n", line(json!({"type": "custom"}))),
    );
    let path = format!("{problem}/definition.json");
    folder.run(&["tasks", "show", &path]).assert_exit(
        2,
        &[
            "workload.jsonl:1: workload.inputs.x",
            "a function of the reference makes the values",
        ],
    );
}

/// Changes the workload line of a dataset.
fn with_workload(change: impl Fn(&mut Value)) -> Workspace {
    let folder = dataset();
    let mut line = workload();
    change(&mut line["workload"]);
    folder.write(WORKLOADS_FILE, &format!("{line}\n"));
    folder
}

#[test]
fn each_fault_names_file_line_and_key_and_what_to_do() {
    let input = |name: &'static str, key: &'static str, value: &'static str| {
        with_workload(move |line| line["inputs"][name][key] = value.into())
    };
    let definition = |from: &str, to: &str| {
        let folder = dataset();
        assert!(SEGMENTS.contains(from));
        folder.write(SEGMENTS_FILE, &SEGMENTS.replace(from, to));
        folder
    };
    let offsets = |offsets: &[i64]| {
        let folder = dataset();
        write_tensors(folder.path(), offsets);
        folder
    };
    let line = format!("{WORKLOADS_FILE}:1: workload");
    let (values, bias) = (
        format!("{line}.inputs.values"),
        format!("{line}.inputs.bias"),
    );
    let cases: Vec<(Workspace, Vec<&str>)> = vec![
        (
            definition("\"dtype\": \"int64\"", "\"dtype\": \"int64\", \"dtpe\": 1"),
            vec![
                "segment_sum_d4.json:19: inputs.offsets.dtpe: unknown field `dtpe`",
                "did you mean `dtype`?",
            ],
        ),
        (
            definition("\"tags\"", "\"custom_inputs\""),
            vec![
                "segment_sum_d4.json:4: custom_inputs: unknown field `custom_inputs`",
                "delete it if it does not",
            ],
        ),
        (
            input("bias", "seed", "1"),
            vec![&bias, ".seed: unknown field `seed`"],
        ),
        (
            with_workload(|line| line["axes"]["rows"] = 7.into()),
            vec![
                &values,
                "expected the shape [7, 4], found [6, 4]",
                "must agree",
            ],
        ),
        (
            definition("\"dtype\": \"int64\"", "\"dtype\": \"int32\""),
            vec!["inputs.offsets: expected int32, found int64"],
        ),
        (
            input("values", "path", "blob/other.safetensors"),
            vec![
                &values,
                "no such file: `",
                "blob/other.safetensors`",
                "git lfs pull",
            ],
        ),
        (
            input("values", "tensor_key", "value"),
            vec![&values, "has no tensor `value`", "did you mean `values`?"],
        ),
        (
            input("scale", "type", "safetensors"),
            vec![".inputs.scale: a tensor of a file needs a `path`"],
        ),
        (
            offsets(&[0, 2, 5]),
            vec![
                WORKLOADS_FILE,
                ":1: workload `w1` breaks the constraint `rows == offsets[-1].item()`: rows is 6, offsets[-1] is 5",
            ],
        ),
        (
            definition("segments + 1", "segments + 2"),
            vec![
                "breaks the constraint `len_offsets == segments + 2`: len_offsets is 3, segments is 2",
                "correct the workload",
            ],
        ),
    ];
    for (folder, texts) in &cases {
        show(folder, "segment_sum_d4").assert_exit(2, texts);
        // The other tasks of the dataset are not affected.
        show(folder, "gemm_n64_k96").exits_with(0);
    }
    let folder = dataset();
    folder.write(
        "dataset/blob/w1.safetensors",
        "version https://git-lfs.github.com/spec/v1\n",
    );
    show(&folder, "segment_sum_d4").assert_exit(2, &["is no safetensors file", "git lfs pull"]);
}

/// A definition with the names, axes and types of a shipped task has its kernels. Only the computation is in other words.
#[test]
fn shipped_kernels_serve_definitions_that_agree() {
    let folder = Workspace::new();
    for name in ["gdn_decode", "gdn_prefill"] {
        let text =
            std::fs::read_to_string(root().join(format!("tasks/{name}/definition.json"))).unwrap();
        let mut definition: Value = serde_json::from_str(&text).unwrap();
        definition["reference"] = "def run(*inputs):\n    raise NotImplementedError\n".into();
        definition["description"] = Value::Null;
        let full = definition["name"].as_str().unwrap().to_owned();
        let file = format!("dataset/definitions/gdn/{full}.json");
        folder.write(&file, &serde_json::to_string_pretty(&definition).unwrap());
        let result = folder.run(&["tasks", "import", "dataset", "--only", &full]);
        result
            .exits_with(0)
            .shows(&[&format!("kernels, inputs and tolerances of `{name}`")]);
        let shown = folder.run(&["tasks", "show", &full, "--format", "json"]);
        let facts: Value = serde_json::from_str(&shown.exits_with(0).stdout).unwrap();
        let shipped = folder.run(&["tasks", "show", name, "--format", "json"]);
        let mut shipped: Value = serde_json::from_str(&shipped.stdout).unwrap();
        // The workloads give it, and one place is enough.
        shipped["inputs"]["scale"]["values"] = Value::Null;
        for key in ["axes", "inputs", "regimes"] {
            assert_eq!(facts[key], shipped[key], "{name}: {key}");
        }
        assert!(
            folder
                .read(&format!("tasks/{full}/naive.cu"))
                .contains("__global__")
        );
        // Another size is another definition.
        definition["axes"]["head_size"]["value"] = 64.into();
        folder.write(&file, &definition.to_string());
        std::fs::remove_dir_all(folder.path().join("tasks").join(&full)).unwrap();
        let result = folder.run(&["tasks", "import", "dataset", "--only", &full]);
        result.exits_with(0).shows(&["naive.cu is to be written"]);
    }
}
