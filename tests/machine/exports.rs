//! Exported kernels through nvcc: what `kforge export` writes compiles. Needs no GPU; without nvcc the tests are ignored.

use crate::harness::{Missing, TestResult};
use crate::program::{kforge, root};
use std::path::PathBuf;
use std::process::Command;

/// nvcc: that of `CUDA_HOME`, else that of `PATH`.
fn nvcc() -> Result<PathBuf, Missing> {
    let of_home = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc"));
    let program = of_home
        .filter(|path| path.is_file())
        .unwrap_or("nvcc".into());
    match Command::new(&program).arg("--version").output() {
        Ok(output) if output.status.success() => Ok(program),
        Ok(output) => Err(Missing::new("nvcc", output.status)),
        Err(error) => Err(Missing::new("nvcc", error)),
    }
}

/// Exports a kernel as a program and compiles it, up to an object file.
fn compile(kernel: &str, task: &str, options: &[&str]) -> TestResult {
    let nvcc = nvcc()?;
    let folder = tempfile::tempdir().unwrap();
    let export = |form: &str| {
        let ended = kforge([
            "export", kernel, "--task", task, "--to", form, "--name", "kernel",
        ])
        .arg("--output")
        .arg(folder.path().join(form))
        .output()
        .unwrap();
        let error = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{kernel}: {error}");
    };
    export("c");
    export("standalone");
    let header = Command::new("cc")
        .args([
            "-std=c99",
            "-Wall",
            "-Wextra",
            "-pedantic",
            "-Werror",
            "-fsyntax-only",
        ])
        .arg(folder.path().join("c/kernel.h"))
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&header.stderr);
    assert!(header.status.success(), "{kernel}: {log}");
    let compiled = Command::new(nvcc)
        .args([
            "-std=c++17",
            "-O1",
            "--expt-relaxed-constexpr",
            "-diag-suppress=177,47",
            "-c",
        ])
        .args(options)
        .arg("-o")
        .arg(folder.path().join("kernel.o"))
        .arg(folder.path().join("standalone/kernel.cu"))
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{kernel}: {log}");
    Ok(())
}

fn variants_compile_apart() -> TestResult {
    compile(
        "kernels/gdn_decode/streaming.cu",
        "gdn_decode",
        &["-arch=sm_90"],
    )
}

fn macros_of_pragmas_are_expanded() -> TestResult {
    compile("kernels/softmax/rows.cu", "softmax", &["-arch=sm_90"])
}

fn scratch_and_several_launches_compile() -> TestResult {
    compile(
        "kernels/gdn_prefill/chunks.cu",
        "gdn_prefill",
        &["-arch=sm_90"],
    )
}

fn dynamic_shared_memory_compiles() -> TestResult {
    compile(
        "kernels/attention_bf16/flash.cu",
        "attention_bf16",
        &["-arch=sm_90"],
    )
}

fn tensor_maps_compile() -> TestResult {
    let task = root().join("tests/fixtures/gpu/tasks/matmul_f32");
    let task = task.to_str().unwrap();
    compile(
        "tests/fixtures/gpu/honest_tensor_map_stages.cu",
        task,
        &["-arch=sm_90a"],
    )
}

crate::harness::tests![
    variants_compile_apart,
    macros_of_pragmas_are_expanded,
    scratch_and_several_launches_compile,
    dynamic_shared_memory_compiles,
    tensor_maps_compile,
];
