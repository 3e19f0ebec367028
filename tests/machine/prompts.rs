//! The example kernels of prompts pass, and `kforge prompt` prints what a model gets.

use crate::harness::{Missing, TestResult, exclusive_gpu, trial};
use std::path::{Path, PathBuf};
use std::process::Output;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::program::{self, root};

fn kforge(arguments: &[&str]) -> Output {
    program::kforge(arguments.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An example kernel, which is also the baseline of its task.
struct Example {
    name: String,
    task: PathBuf,
    kernel: PathBuf,
}

/// The names and kernel files of the examples.
fn example_kernels() -> Vec<(String, PathBuf)> {
    let mut kernels: Vec<_> = std::fs::read_dir(root().join("prompts/cuda"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path))
        .collect();
    kernels.sort();
    kernels
}

/// Puts the task of an example into `folder`.
fn example(folder: &Path, name: &str, kernel: &Path) -> Example {
    let from = root().join("tests/fixtures/examples/tasks").join(name);
    let task = folder.join("tasks").join(name);
    let kernels = folder.join("kernels").join(name);
    for made in [&task, &kernels] {
        std::fs::create_dir_all(made).unwrap();
    }
    for file in std::fs::read_dir(&from).unwrap_or_else(|_| panic!("{name} has no task")) {
        let file = file.unwrap();
        std::fs::copy(file.path(), task.join(file.file_name())).unwrap();
    }
    std::fs::copy(kernel, kernels.join("example.cu")).unwrap();
    Example {
        name: name.to_owned(),
        task,
        kernel: kernel.to_owned(),
    }
}

fn examples(folder: &Path) -> Vec<Example> {
    let kernels = example_kernels();
    assert!(kernels.len() >= 6);
    kernels
        .iter()
        .map(|(name, kernel)| example(folder, name, kernel))
        .collect()
}

fn require_gpu() -> TestResult {
    let toolkit = kforge::device::cuda::compiler::find_toolkit();
    toolkit.map_err(|error| Missing::new("nvrtc", format!("{error:#}")))?;
    match kforge::device::cuda::list_gpus() {
        Ok(gpus) if !gpus.is_empty() => Ok(()),
        _ => Err(Missing::new("gpu", "no GPU")),
    }
}

/// A test for every example and backend: the example passes.
pub(crate) fn example_tests() -> Vec<Trial> {
    let mut tests = Vec::new();
    for (name, kernel) in example_kernels() {
        for backend in ["cpu", "cuda"] {
            let (name, kernel) = (name.clone(), kernel.clone());
            let test = format!("prompts::example_passes::{name}::{backend}");
            tests.push(trial(test, move || example_passes(&name, &kernel, backend)));
        }
    }
    tests
}

fn example_passes(name: &str, kernel: &Path, backend: &str) -> TestResult {
    let source = std::fs::read_to_string(kernel).unwrap();
    if backend == "cpu" && source.contains("asm volatile") {
        let reason = "inline PTX, which the CPU backend cannot run";
        return Err(Missing::new("ptx", reason));
    }
    if backend == "cuda" {
        require_gpu()?;
    }
    let folder = tempfile::tempdir().unwrap();
    let Example { task, kernel, .. } = example(folder.path(), name, kernel);
    let (task, kernel) = (task.to_str().unwrap(), kernel.to_str().unwrap());
    let options = [
        "--backend",
        backend,
        "--profile",
        "quick",
        "--format",
        "json",
    ];
    // A busy machine can finish this timing: a wide interval will do.
    let coarse = ["--precision", "0.5", "--seconds", "3"];
    let _gpu = (backend == "cuda").then(exclusive_gpu);
    let output = kforge(&[&["eval", task, kernel], &options[..], &coarse].concat());
    let verdicts: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    let verdict = &verdicts[0];
    // So short a kernel may be inconclusive on a busy machine.
    let status = verdict["status"].as_str();
    let passes = matches!(status, Some("passed" | "inconclusive"));
    assert!(passes, "{verdict:#}");
    Ok(())
}

fn every_example_kernel_compiles_for_gpus() -> TestResult {
    let folder = tempfile::tempdir().unwrap();
    for Example { name, task, kernel } in examples(folder.path()) {
        let (task, kernel) = (task.to_str().unwrap(), kernel.to_str().unwrap());
        let compile = ["eval", task, kernel, "--compile-only", "--format", "json"];
        let output = kforge(&[&compile[..], &["--arch", "sm_90"]].concat());
        if output.status.code() == Some(3) {
            return Err(Missing::new("nvrtc", text(&output.stderr)));
        }
        let found: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{name}: {error}: {}", text(&output.stderr)));
        assert_eq!(found[0]["compiled"], true, "{name}: {found:#}");
        for variant in found[0]["variants"].as_array().unwrap() {
            assert_eq!(
                variant["resources"]["spill_bytes"], 0,
                "{name}: {variant:#}"
            );
        }
    }
    Ok(())
}

fn an_extension_of_an_architecture_gives_the_prompt_of_the_architecture() -> TestResult {
    let prompt = |arch: &str| {
        let output = kforge(&["prompt", "matmul", "--arch", arch]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let plain = prompt("sm_90");
    assert!(plain.contains("compile: {arch: sm_90a}"), "{plain}");
    assert_eq!(prompt("sm_90a"), plain);
    Ok(())
}

fn prompt_command_prints_prompt_and_section_table() -> TestResult {
    let output = kforge(&[
        "prompt",
        "gdn_decode",
        "--operator",
        "edit",
        "--arch",
        "sm_90",
        "--card",
        "wide_loads",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (prompt, table) = (text(&output.stdout), text(&output.stderr));
    for part in [
        "# The task: `gdn_decode`",
        "/* kforge",
        "# A direction to try: wide_loads",
        "at most 2 edits",
        "<NO_VALID_EDIT/>",
    ] {
        assert!(prompt.contains(part), "{part} is missing");
    }
    for line in [
        "step 1 is naive.cu (not judged)",
        "parents ",
        "instruction ",
        "estimated from ",
    ] {
        assert!(table.contains(line), "{table}");
    }
    let output = kforge(&[
        "prompt",
        "softmax",
        "--operator",
        "crossover",
        "--backend",
        "cpu",
        "--format",
        "json",
        "--tokens",
        "3000",
    ]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    assert!(
        found["left_out"]
            .as_array()
            .unwrap()
            .iter()
            .any(|line| line.as_str().unwrap().starts_with("examples:"))
    );
    let sections = found["sections"].as_array().unwrap();
    let sum: u64 = sections
        .iter()
        .map(|section| section["tokens"].as_u64().unwrap())
        .sum();
    assert!(found["tokens"].as_u64().unwrap() > sum && found["bytes"].as_u64().unwrap() > sum);
    let output = kforge(&["prompt", "softmax", "--backend", "metal", "--card", "list"]);
    assert!(
        text(&output.stdout).contains("fuse_passes")
            && !text(&output.stdout).contains("tensor_cores")
    );
    let output = kforge(&["prompt", "softmax", "--backend", "cpu", "--card", "list"]);
    assert!(
        text(&output.stdout).contains("fuse_passes")
            && !text(&output.stdout).contains("coalescing")
    );
    Ok(())
}

fn verdicts_file_becomes_feedback() -> TestResult {
    let folder = tempfile::tempdir().unwrap();
    let lines =
        std::fs::read_to_string(root().join("tests/fixtures/prompts/verdicts.jsonl")).unwrap();
    let race = lines
        .lines()
        .find(|line| line.contains("race_reused_buffer.cu"))
        .unwrap();
    let kernel = "tests/fixtures/kernels/race_reused_buffer.cu";
    let mut verdict: Value = serde_json::from_str(race).unwrap();
    verdict["kernel"] = kernel.into();
    let file = folder.path().join("verdicts.json");
    std::fs::write(&file, serde_json::to_string(&[verdict]).unwrap()).unwrap();
    let file = file.to_str().unwrap();
    let asked = [
        "--operator",
        "repair",
        "--backend",
        "cpu",
        "--kernel",
        kernel,
        "--verdicts",
        file,
    ];
    let output = kforge(&[&["prompt", "softmax"], &asked[..]].concat());
    let prompt = text(&output.stdout);
    assert!(
        prompt.contains("`race`: two threads access the same memory"),
        "{}",
        text(&output.stderr)
    );
    assert!(
        prompt
            .contains("- conflicts with a write by block (0, 0, 0), thread (63, 0, 0) in line 24")
    );
    let output = kforge(&[&["prompt", "gelu"], &asked[..]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("a verdict of task `softmax`, expected `gelu`"));
    Ok(())
}

fn wrong_arguments_are_usage_errors() -> TestResult {
    for (arguments, said) in [
        (
            &["prompt", "softmax", "--card", "wide_load"][..],
            "did you mean `wide_loads`?",
        ),
        (&["prompt", "sofmax"], "unknown task"),
        (
            &["prompt", "softmax", "--prompts", "no/such/folder"],
            "no/such/folder",
        ),
        (
            &[
                "prompt",
                "softmax",
                "--backend",
                "cpu",
                "--config",
                "no_such.yaml",
            ],
            "no_such.yaml",
        ),
        (
            &[
                "prompt",
                "softmax",
                "--backend",
                "cpu",
                "--kernel",
                "no_such.cu",
            ],
            "no_such.cu",
        ),
    ] {
        let output = kforge(arguments);
        assert!(
            text(&output.stderr).contains(said),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        assert!(output.stdout.is_empty());
    }
    Ok(())
}

crate::harness::tests!(
    every_example_kernel_compiles_for_gpus,
    prompt_command_prints_prompt_and_section_table,
    an_extension_of_an_architecture_gives_the_prompt_of_the_architecture,
    verdicts_file_becomes_feedback,
    wrong_arguments_are_usage_errors,
);
