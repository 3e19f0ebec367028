//! The mistakes that a new user makes in each of the five files: each has a message that names the file, the line and the key.

use super::workspace_with_draft;
use crate::program::Workspace;

/// A file, a text in it and its replacement, and what the message says.
type MistakeCase<'m> = (&'m str, &'m str, &'m str, &'m [&'m str]);

#[track_caller]
fn assert_shown(cases: &[MistakeCase<'_>]) {
    for (file, from, to, words) in cases {
        let workspace = workspace_with_draft();
        workspace.change(file, from, to);
        let result = workspace.show();
        assert_eq!(result.code, 2, "{to}: {}{}", result.stdout, result.stderr);
        for word in *words {
            assert!(
                result.stderr.contains(word),
                "{to}: `{word}` is missing:\n{}",
                result.stderr
            );
        }
    }
}

#[test]
fn mistakes_in_a_definition_name_the_axis() {
    assert_shown(&[
        (
            "definition.json",
            "\"type\": \"const\", \"value\": 512",
            "\"type\": \"const\"",
            &["definition.json:7: axes.columns: a `const` axis needs a `value`"],
        ),
        (
            "definition.json",
            "\"type\": \"const\", \"value\": 512",
            "\"type\": \"constant\", \"value\": 512",
            &[
                "definition.json:7: axes.columns.type: unknown type `constant`",
                "hint: an axis is `{\"type\": \"var\"}`",
            ],
        ),
        (
            "definition.json",
            "{\"type\": \"const\", \"value\": 512, \"description\": \"Elements of a row.\"}",
            "512",
            &["axes.columns: expected an object, found `512`"],
        ),
        (
            "definition.json",
            "\"type\": \"const\", \"value\": 512",
            "\"type\": \"expr\", \"expression\": \"row * 2\"",
            &[
                "axes.columns: `row * 2`: unknown axis `row`",
                "did you mean `rows`?",
            ],
        ),
        (
            "definition.json",
            "\"type\": \"const\", \"value\": 512",
            "\"type\": \"expr\", \"expression\": \"rows & 2\"",
            &["axes.columns.expression: `rows & 2`, character 6: "],
        ),
        (
            "definition.json",
            "\"type\": \"const\", \"value\": 512",
            "\"type\": \"expr\", \"expression\": \"columns + rows\"",
            &["axes.columns: the axes `columns` depend on each other"],
        ),
    ]);
}

#[test]
fn mistakes_in_a_definition_name_the_tensor() {
    assert_shown(&[
        (
            "definition.json",
            "\"weight\": {\"shape\": [\"columns\"]",
            "\"weight\": {\"shape\": [\"colums\"]",
            &[
                "definition.json:11: inputs.weight.shape: unknown axis `colums`",
                "did you mean `columns`?",
            ],
        ),
        (
            "definition.json",
            "\"weight\": {\"shape\": [\"columns\"]",
            "\"weight\": {\"shape\": [512]",
            &[
                "inputs.weight.shape: expected the name of an axis, found `512`",
                "declare the size under `axes`",
            ],
        ),
        (
            "definition.json",
            "\"weight\": {\"shape\": [\"columns\"], \"dtype\": \"float16\"}",
            "\"weight\": {\"shape\": [\"columns\"], \"dtype\": \"fp16\"}",
            &[
                "inputs.weight.dtype: unknown dtype `fp16`",
                "did you mean `float16`?",
            ],
        ),
        (
            "definition.json",
            "\"weight\": {\"shape\": [\"columns\"], \"dtype\": \"float16\"}",
            "\"weight\": {\"shape\": [\"columns\"], \"dtype\": \"float4_e2m1\"}",
            &[
                "inputs.weight.dtype: unknown dtype `float4_e2m1`",
                "the dtypes are `float64`",
            ],
        ),
        (
            "definition.json",
            "\"weight\": {\"shape\": [\"columns\"], \"dtype\": \"float16\"}",
            "\"weight\": {\"shape\": [\"columns\"]}",
            &["definition.json:11: inputs.weight: `dtype` is missing"],
        ),
        (
            "definition.json",
            "\"op_type\": \"normalization\",",
            "\"op_type\": \"normalization\"",
            &["definition.json:5:3: expected `,` or `}`"],
        ),
        (
            "definition.json",
            "\"output\": {",
            "\"x\": {",
            &["outputs.x: an input has the same name"],
        ),
    ]);
}

#[test]
fn mistakes_in_workloads_name_the_line_and_the_input() {
    assert_shown(&[
        (
            "workloads.jsonl",
            "\"definition\": \"mine\", \"workload\": {\"uuid\": \"r16\"",
            "\"definition\": \"other\", \"workload\": {\"uuid\": \"r16\"",
            &["workloads.jsonl:1: definition: expected `mine`, found `other`"],
        ),
        (
            "workloads.jsonl",
            "\"axes\": {\"rows\": 100}",
            "\"axes\": {}",
            &["workloads.jsonl:2: workload.axes: axis `rows` has no value"],
        ),
        (
            "workloads.jsonl",
            "\"axes\": {\"rows\": 100}",
            "\"axes\": {\"rows\": \"100\"}",
            &[
                "workloads.jsonl:2: workload.axes: axis `rows`: expected a whole number, found `100`",
            ],
        ),
        (
            "workloads.jsonl",
            "\"axes\": {\"rows\": 100}",
            "\"axes\": {\"rows\": 100, \"columns\": 256}",
            &[
                "workloads.jsonl:2: workload.axes: axis `columns` is constant: expected 512, found 256",
            ],
        ),
        (
            "workloads.jsonl",
            "\"eps\": {\"type\": \"scalar\", \"value\": 0.001}",
            "\"eps\": {\"type\": \"random\"}",
            &[
                "workloads.jsonl:1: workload.inputs.eps: expected a `scalar`: the definition gives this input no shape",
            ],
        ),
        (
            "workloads.jsonl",
            "\"x\": {\"type\": \"random\"}",
            "\"x\": {\"type\": \"scalar\", \"value\": 1}",
            &["workload.inputs.x: expected a tensor of shape [rows, columns], found a `scalar`"],
        ),
        (
            "workloads.jsonl",
            "\"x\": {\"type\": \"random\"}",
            "\"x\": {\"type\": \"safetensors\", \"path\": \"a\", \"tensor_key\": \"x\"}",
            &["workload.inputs.x: no such file: `"],
        ),
        (
            "workloads.jsonl",
            "\"uuid\": \"r100\"",
            "\"uuid\": \"r16\"",
            &["workloads.jsonl:2: workload.uuid: duplicate uuid `r16`"],
        ),
        (
            "workloads.jsonl",
            "{\"definition\": \"mine\", \"workload\": {\"uuid\": \"r16\"",
            "\n{\"definition\": \"mine\", \"workloads\": {\"uuid\": \"r16\"",
            &["workloads.jsonl:2: `workload` is missing"],
        ),
    ]);
    let workspace = workspace_with_draft();
    workspace.write(
        "tasks/mine/workloads.jsonl",
        "[\n  {\"definition\": \"mine\"}\n]\n",
    );
    let result = workspace.show();
    result.assert_exit(
        2,
        &[
            "workloads.jsonl:1:",
            "write each workload on a line of its own",
        ],
    );
}

#[test]
fn mistakes_in_tolerances_and_kernels_name_the_line_and_the_key() {
    assert_shown(&[
        (
            "task.yaml",
            "atol_rms: 5.0e-4",
            "atol: 5.0e-4",
            &[
                "tolerance.output.atol: unknown key `atol`",
                "hint: the absolute bound is `atol_rms`, a share of the root mean square",
            ],
        ),
        (
            "task.yaml",
            "output: {rtol: 2.0e-3, atol_rms: 5.0e-4}",
            "out: {rtol: 2.0e-3, atol_rms: 5.0e-4}",
            &["tolerance.out: no such output", "`output`"],
        ),
        (
            "task.yaml",
            "output: {rtol: 2.0e-3, atol_rms: 5.0e-4}",
            "output: 1.0e-2",
            &["tolerance.output: expected `rtol` and `atol_rms`, found `0.01`"],
        ),
        (
            "task.yaml",
            "output: {rtol: 2.0e-3, atol_rms: 5.0e-4}",
            "output: {rtol: 2.0e-3}",
            &["tolerance.output: `atol_rms` is missing"],
        ),
        (
            "task.yaml",
            "baselines: {naive: naive.cu}",
            "baselines: [naive.cu]",
            &[
                "task.yaml:5: baselines: expected names with kernel files",
                "hint: for example `baselines: {naive: naive.cu}`",
            ],
        ),
        (
            "task.yaml",
            "baselines: {naive: naive.cu}",
            "baselines: {naive: {file: naive.cu}}",
            &[
                "baselines.naive.file: unknown key `file`",
                "baselines.naive: `kernel` is missing",
            ],
        ),
        (
            "task.yaml",
            "start: [naive.cu]",
            "start: [naive]",
            &[
                "task.yaml:6: start: expected the name of a file, found `naive`",
                "did you mean `naive.cu`?",
            ],
        ),
        (
            "task.yaml",
            "start: [naive.cu]",
            "start: [fast.cu]",
            &[
                "task.yaml:6: start: no such file: `fast.cu`",
                "hint: kernels are looked for in `tasks/mine` and `kernels/mine`",
            ],
        ),
        (
            "task.yaml",
            "definition: definition.json",
            "definition: definiton.json",
            &[
                "task.yaml:2: definition: no such file: `tasks/mine/definiton.json`",
                "did you mean `definition.json`?",
            ],
        ),
    ]);
}

#[test]
fn mistakes_in_inputs_and_other_keys_name_the_key() {
    assert_shown(&[
        (
            "task.yaml",
            "  x: {normal: 0.5}\n",
            "  x: {normal: 0.5, uniform: [0, 1]}\n",
            &["inputs.x: expected exactly one of `normal: DEVIATION`"],
        ),
        (
            "task.yaml",
            "  weight: {uniform: [0.5, 1.5]}",
            "  weight: {uniform: [1.5, 0.5]}",
            &["inputs.weight: `uniform`: expected [LOW, HIGH] with LOW < HIGH, found [1.5, 0.5]"],
        ),
        (
            "task.yaml",
            "  weight: {uniform: [0.5, 1.5]}",
            "  weight: {uniform: [0, rwos]}",
            &[
                "inputs.weight: `uniform`: unknown axis `rwos`",
                "did you mean `rows`?",
            ],
        ),
        (
            "task.yaml",
            "  eps: {value: 0.001}",
            "  eps: {normal: 1.0}",
            &["inputs.eps: a scalar accepts only `value: NUMBER`"],
        ),
        (
            "task.yaml",
            "  rows: [1, 200]",
            "  rows: [1, 200]\n  columns: [1, 5]",
            &["hidden.columns: no such variable axis"],
        ),
        (
            "task.yaml",
            "hidden:",
            "hiden:",
            &["unknown key `hiden`", "did you mean `hidden`?"],
        ),
        (
            "task.yaml",
            "bytes: \"rows",
            "bytes: \"ROWS",
            &["bytes: unknown axis `ROWS`", "did you mean `rows`?"],
        ),
    ]);
}

#[test]
fn a_scalar_has_one_value_and_a_fixed_input_does_not_change() {
    assert_shown(&[
        (
            "task.yaml",
            "eps: {value: 0.001}",
            "eps: {value: 1.0e-5}",
            &[
                "task.yaml:17: inputs.eps: `0.00001` here, but `0.001` in workload `r16` (workloads.jsonl:1)",
                "hint: give `eps` one value",
            ],
        ),
        (
            "workloads.jsonl",
            "\"uuid\": \"r100\", \"axes\": {\"rows\": 100}, \"inputs\": {\"x\": {\"type\": \"random\"}, \"weight\": {\"type\": \"random\"}, \"eps\": {\"type\": \"scalar\", \"value\": 0.001}}",
            "\"uuid\": \"r100\", \"axes\": {\"rows\": 100}, \"inputs\": {\"eps\": {\"type\": \"scalar\", \"value\": 0.5}}",
            &["inputs.eps: `0.001` here, but `0.5` in workload `r100` (workloads.jsonl:2)"],
        ),
        (
            "task.yaml",
            "# Least memory",
            "fixed: [eps]\n# Least memory",
            &["fixed: `eps` is fixed, but the regime `other_eps` changes it"],
        ),
        (
            "task.yaml",
            "# Least memory",
            "fixed: [weights, x]\n# Least memory",
            &[
                "fixed: no such input: `weights`",
                "did you mean `weight`?",
                "fixed: `x` is random: only an input with one value can be fixed",
            ],
        ),
    ]);
}

#[test]
fn mistakes_in_different_files_are_reported_at_once() {
    let workspace = workspace_with_draft();
    workspace.change(
        "definition.json",
        "\"weight\": {\"shape\": [\"columns\"], \"dtype\": \"float16\"}",
        "\"weight\": {\"shape\": [\"colums\"], \"dtype\": \"half\"}",
    );
    workspace.change("workloads.jsonl", "\"rows\": 100", "\"row\": 100");
    workspace.change("task.yaml", "atol_rms: 5.0e-4", "atol: 5.0e-4");
    workspace.change("task.yaml", "start: [naive.cu]", "start: [fast.cu]");
    workspace.change("task.yaml", "  x: {normal: 0.5}\n", "  z: {normal: 0.5}\n");
    std::fs::remove_file(workspace.path().join("tasks/mine/oracle.cu")).unwrap();
    workspace.show().assert_exit(
        2,
        &[
            "7 problems in task `mine`",
            "inputs.weight.shape: unknown axis `colums`",
            "inputs.weight.dtype: unknown dtype `half`",
            "workloads.jsonl:2: workload.axes: unknown axis `row`",
            "tolerance.output.atol: unknown key `atol`",
            "start: no such file: `fast.cu`",
            "inputs.z: no such input",
            "oracle: no such file: `tasks/mine/oracle.cu`",
        ],
    );
}

#[test]
fn all_missing_keys_are_listed_with_examples() {
    let workspace = Workspace::new();
    workspace.write(
        "tasks/mine/task.yaml",
        "schema: 1\ndefinition: definition.json\n",
    );
    workspace.write("tasks/mine/definition.json", r#"{"name": "m", "axes": {"n": {"type": "var"}, "b": {"type": "expr", "expression": "n // 0"}}, "inputs": {}}"#);
    workspace.show().assert_exit(
        2,
        &[
            "`workloads` is missing",
            "`oracle` is missing",
            "`baselines` is missing",
            "`start` is missing",
            "`tolerance` is missing",
            "definition.json: `outputs` is missing",
            "for example `baselines: {naive: naive.cu}`",
            "hint: `kforge tasks new DEFINITION.json` writes all files of a task",
        ],
    );
    for text in [
        "",
        "- a\n",
        "schema: [",
        "schema: 1\nschema: 2\n",
        "\u{0}",
        "tolerance: 3\nprofiles: {quick: 3}\nregimes: {a: 1}\n",
    ] {
        workspace.write("tasks/mine/task.yaml", text);
        let result = workspace.show();
        assert_eq!(result.code, 2, "{text:?}: {}", result.stderr);
        assert!(
            !result.stderr.contains("panicked"),
            "{text:?}: {}",
            result.stderr
        );
    }
}

#[test]
fn mistakes_in_kernels_are_explained_in_terms_of_the_task() {
    let workspace = workspace_with_draft();
    workspace.change("oracle.cu", "double* output", "__half* output");
    workspace.change("naive.cu", "i < COLUMNS", "i < columns");
    let result = workspace.check();
    assert_eq!(result.code, 4, "{}{}", result.stdout, result.stderr);
    result.shows(&[
        "the outputs of an oracle are `double*` whatever their dtype: declare `double* output`",
        "constant axes are upper case in the code: `COLUMNS`",
    ]);
    let workspace = workspace_with_draft();
    workspace.change(
        "oracle.cu",
        "args: x, weight, eps, output, rows",
        "args: x, weight, epsilon, output, rows",
    );
    workspace.change(
        "naive.cu",
        "grid: ceil_div(rows, BLOCK)",
        "grid: ceil_div(ROWS, BLOCK)",
    );
    let result = workspace.check();
    assert_eq!(result.code, 4, "{}{}", result.stdout, result.stderr);
    result.shows(&[
        "`oracle.cu`, header, line 6: unknown name `epsilon`",
        "`naive.cu`, header, line 4: expression `ceil_div(ROWS, BLOCK)`: unknown name `ROWS`",
    ]);
}

#[test]
fn a_broken_task_does_not_hide_the_others() {
    let workspace = workspace_with_draft();
    workspace.write("tasks/broken/task.yaml", "schema: 1\n");
    workspace.write("tasks/wrong/task.yaml", "a: [");
    let result = workspace.run(&["tasks", "list"]).exits_with(0);
    result.shows(&[
        "mine ",
        "softmax ",
        "broken         broken: 6 problems",
        "see `kforge tasks show broken`",
        "wrong          broken: ",
    ]);
    let result = workspace
        .run(&["tasks", "list", "--format", "json"])
        .exits_with(0);
    let tasks: Vec<serde_json::Value> = serde_json::from_str(&result.stdout).unwrap();
    let of = |name: &str| tasks.iter().find(|task| task["task"] == name).unwrap();
    assert!(
        of("broken")["error"]
            .as_str()
            .unwrap()
            .contains("`oracle` is missing")
    );
    assert_eq!(of("mine")["definition"], "mine");
}
