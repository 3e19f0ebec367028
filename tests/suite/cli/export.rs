//! `kforge export`: every shipped kernel in every form, where an export comes from, and what is refused.

use crate::program::{Workspace, json, kforge, root};
use serde_json::Value;

const FORMS: [&str; 9] = [
    "c",
    "standalone",
    "torch",
    "flashinfer",
    "kernelbench",
    "hf-kernels",
    "cupy",
    "cuda-core",
    "rust",
];

/// The shipped kernels: path and task.
fn shipped() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(root().join("kernels")).unwrap().flatten() {
        let name = task.file_name().into_string().unwrap();
        for kernel in std::fs::read_dir(task.path()).unwrap().flatten() {
            let file = kernel.file_name().into_string().unwrap();
            if file.ends_with(".cu") {
                found.push((format!("kernels/{name}/{file}"), name.clone()));
            }
        }
    }
    assert!(found.len() > 20);
    found
}

#[test]
fn every_shipped_kernel_is_exported_in_every_form_that_can_express_it() {
    let workspace = Workspace::new();
    let folder = workspace.path();
    std::thread::scope(|scope| {
        for form in FORMS {
            scope.spawn(move || {
                for (path, task) in shipped() {
                    let output = folder.join(path.replace('/', "-")).join(form);
                    check_export(&path, &task, form, &output);
                }
            });
        }
    });
}

/// What some forms cannot express, with a part of the error.
const REFUSALS: [(&str, &str, &str); 11] = [
    (
        "kernels/attention_fp16/best.cu",
        "flashinfer",
        "options of the compiler",
    ),
    (
        "kernels/attention_fp16/best.cu",
        "torch",
        "axis `group_size` is in no input's shape",
    ),
    (
        "kernels/attention_fp16/best.cu",
        "kernelbench",
        "axis `group_size` is in no input's shape",
    ),
    (
        "kernels/attention_fp16/best.cu",
        "hf-kernels",
        "axis `group_size` is in no input's shape",
    ),
    (
        "kernels/attention_fp16/best.cu",
        "cupy",
        "no kernel with a tensor map",
    ),
    (
        "kernels/attention_fp16/best.cu",
        "cuda-core",
        "no kernel with a tensor map",
    ),
    (
        "kernels/gdn_prefill/best.cu",
        "cupy",
        "no kernel with `overlap`",
    ),
    (
        "kernels/matmul/best.cu",
        "flashinfer",
        "options of the compiler",
    ),
    (
        "kernels/matmul/best.cu",
        "cupy",
        "no kernel with a `cluster`",
    ),
    (
        "kernels/matmul/best.cu",
        "cuda-core",
        "no kernel with a tensor map",
    ),
    (
        "kernels/rmsnorm_wide/best.cu",
        "cupy",
        "no kernel with a `cluster`",
    ),
];

/// Exports a kernel. Every file must say where the kernel comes from.
fn check_export(path: &str, task: &str, form: &str, output: &std::path::Path) {
    let ended = kforge(["export", path, "--to", form, "--output"])
        .arg(output)
        .args(["--format", "json"])
        .output()
        .unwrap();
    // KernelBench has one output and one type.
    if form == "kernelbench" && task.starts_with("gdn") {
        assert_eq!(ended.status.code(), Some(2), "{path}");
        let error = String::from_utf8_lossy(&ended.stderr);
        assert!(
            error.contains("KernelBench compares a single one"),
            "{error}"
        );
        return;
    }
    let mut refusals = REFUSALS.iter();
    if let Some((.., why)) = refusals.find(|(kernel, into, _)| (*kernel, *into) == (path, form)) {
        assert_eq!(ended.status.code(), Some(2), "{path} {form}");
        let error = String::from_utf8_lossy(&ended.stderr);
        assert!(error.contains(why), "{path} {form}: {error}");
        return;
    }
    assert_eq!(ended.status.code(), Some(0), "{path} {form}");
    let facts: Value = json(&ended);
    let source = facts["provenance"]["source"].as_str().unwrap();
    for file in facts["files"].as_array().unwrap() {
        let text = std::fs::read_to_string(output.join(file.as_str().unwrap())).unwrap();
        assert!(text.contains(source), "{path} {form}: {file} has no origin");
    }
}

/// `-arch=sm_90a` of some compilers also makes code for `compute_90`, in which such kernels do not compile.
#[test]
fn only_the_named_architecture_is_compiled_if_it_has_a_letter() {
    let workspace = Workspace::new();
    for (kernel, option) in [
        ("matmul/best", "-gencode=arch=compute_90a,code=sm_90a\n"),
        ("gelu/best", "-arch=sm_90\n"),
    ] {
        let output = workspace.path().join(kernel);
        let ended = kforge([
            "export",
            &format!("kernels/{kernel}.cu"),
            "--to",
            "c",
            "--output",
        ])
        .arg(&output)
        .output()
        .unwrap();
        assert!(ended.status.success(), "{kernel}");
        let name = kernel.split('/').next().unwrap();
        let text = std::fs::read_to_string(output.join(format!("{name}.cu"))).unwrap();
        assert!(text.contains(option), "{kernel}: {}", &text[..400]);
    }
}

#[test]
fn a_solution_has_the_fields_of_flashinfer_bench() {
    let workspace = Workspace::new();
    let best = std::fs::read(root().join("kernels/gdn_decode/best.json")).unwrap();
    let best: Value = serde_json::from_slice(&best).unwrap();
    let figure = |pointer: &str| best.pointer(pointer).unwrap().as_f64().unwrap();
    let [geomean, low, high] =
        ["/speedup/geomean", "/speedup/ci95/0", "/speedup/ci95/1"].map(figure);
    let speed = format!("speed: {geomean:.3}x [{low:.3}, {high:.3}]");
    for (binding, entry) in [
        ("tvm-ffi", "binding.cu::run"),
        ("torch", "binding.cpp::run"),
    ] {
        let output = workspace.path().join(binding);
        let ended = kforge(["export", "kernels/gdn_decode/best.cu", "--to", "flashinfer"])
            .args(["--binding", binding, "--output"])
            .arg(&output)
            .output()
            .unwrap();
        assert!(ended.status.success());
        let text = std::fs::read_to_string(output.join(format!("gdn_decode_{binding}.json")));
        let solution: Value = serde_json::from_str(&text.unwrap()).unwrap();
        assert_eq!(solution["definition"], "gdn_decode_qk4_v8_d128_k_last");
        assert_eq!(solution["spec"]["entry_point"], entry);
        assert_eq!(solution["spec"]["binding"], binding);
        assert_eq!(solution["spec"]["target_hardware"][0], "NVIDIA H200");
        let description = solution["description"].as_str().unwrap();
        assert!(description.contains(&speed), "{description}");
    }
}

#[test]
fn an_export_replaces_no_file_and_needs_a_known_task() {
    let workspace = Workspace::new();
    let output = workspace.path().join("out");
    let export = |source: &str, more: &[&str]| {
        let mut command = kforge(["export", source, "--to", "c"]);
        let ended = command.args(more).arg("--output").arg(&output).output();
        let ended = ended.unwrap();
        let error = String::from_utf8_lossy(&ended.stderr).into_owned();
        (ended.status.code(), error)
    };
    let kernel = workspace.path().join("mine.cu");
    std::fs::copy(root().join("kernels/softmax/rows.cu"), &kernel).unwrap();
    let kernel = kernel.to_str().unwrap();
    let (code, error) = export(kernel, &[]);
    assert_eq!(code, Some(2));
    assert!(error.contains("name it with `--task`"), "{error}");
    let (code, error) = export(kernel, &["--task", "softmax", "--name", "2x"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("for example `kernel_2x`"), "{error}");
    let (code, error) = export(kernel, &["--task", "softmax", "--binding", "torch"]);
    assert_eq!(code, Some(2));
    assert!(
        error.contains("`--binding` is for `--to flashinfer`"),
        "{error}"
    );
    assert_eq!(export(kernel, &["--task", "softmax"]).0, Some(0));
    let (code, error) = export(kernel, &["--task", "softmax"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("softmax.h` exists"), "{error}");
}
