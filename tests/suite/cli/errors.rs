//! Missing files, programs and disk space: exit code and hint of each.

use std::path::Path;
use std::process::Command;

use crate::program::{CommandResult, SOFTMAX_KERNEL, Workspace};

#[test]
fn missing_files_and_unknown_tasks_are_usage_errors() {
    let folder = Workspace::new();
    folder
        .run(&["evolve", "--config", "gdn_decod.yaml"])
        .assert_exit(
            2,
            &[
                "no such run config: `gdn_decod.yaml`",
                "did you mean `gdn_decode.yaml`?",
            ],
        );
    folder
        .run(&["tasks", "show", "sofmax"])
        .assert_exit(2, &["unknown task `sofmax`", "did you mean `softmax`?"]);
    folder
        .run(&["eval", "softmax", "absent.cu"])
        .assert_exit(2, &["cannot read `absent.cu`: no such file", "hint:"]);
    folder
        .run(&["resume", "nowhere"])
        .assert_exit(2, &["`nowhere` is not a run"]);
    folder
        .run(&["evolve", "--config", "gdn_decode.yaml", "--set", "tasks=[]"])
        .assert_exit(2, &["no task is named"]);
    folder.run(&["evolve"]).assert_exit(2, &["--config"]);
}

#[test]
fn wrong_kernel_header_is_a_usage_error_that_is_reported_once() {
    let folder = Workspace::new();
    folder.write("bare.cu", "__global__ void softmax() {}\n");
    folder.write(
        "name.cu",
        &SOFTMAX_KERNEL.replace("grid: rows", "grid: rwos"),
    );
    let arguments = ["eval", "softmax", "bare.cu", "name.cu", "--backend", "cpu"];
    let result = folder.run(&arguments);
    result.assert_exit(2, &[]);
    // The reason is on standard output only.
    let lines: Vec<_> = result.stdout.lines().collect();
    for (line, texts) in lines.iter().zip([
        [
            "bare.cu: rejected: header, line 1: no header",
            "starts with `/* kforge`",
        ],
        [
            "name.cu: rejected: header, line 4: expression `rwos`: unknown name `rwos`",
            "did you mean `rows`?",
        ],
    ]) {
        for text in texts {
            assert!(line.contains(text), "{line}");
        }
    }
    assert_eq!(lines.len(), 2, "{}", result.stdout);
    assert!(!result.stderr.contains("header"), "{}", result.stderr);
}

#[test]
fn missing_compiler_is_an_environment_failure_with_a_hint() {
    let folder = Workspace::new();
    let kernel = folder.write("kernel.cu", SOFTMAX_KERNEL);
    for arguments in [
        ["eval", "softmax", kernel.as_str()].as_slice(),
        &["evolve", "--config", "gdn_decode.yaml"],
        &["doctor"],
    ] {
        let result = CommandResult::of(
            &folder
                .command(arguments)
                .env("PATH", "/nonexistent")
                .env_remove("CXX")
                .output()
                .unwrap(),
        );
        let (text, code) = (format!("{}{}", result.stdout, result.stderr), result.code);
        assert!(
            text.contains("no C++ compiler was found") && text.contains("apt install g++"),
            "{arguments:?}: {text}"
        );
        assert_eq!(code, 3, "{arguments:?}");
    }
    assert!(
        !folder.path().join("outputs").exists(),
        "no directory was begun"
    );
}

#[test]
fn full_disk_is_an_environment_failure() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let folder = Workspace::new();
    // A file size limit of 8 KiB acts like a full disk.
    let script = format!(
        "trap '' XFSZ; ulimit -f 8; exec {} evolve --config gdn_decode.yaml --no-model --steps 2 --output out",
        env!("CARGO_BIN_EXE_kforge")
    );
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .env("KFORGE_CACHE_DIR", folder.path().join("cache"))
        .output()
        .unwrap();
    let result = CommandResult::of(&output);
    assert_eq!(result.code, 3, "{}", result.stderr);
    assert!(
        result.stderr.contains("hint:") && !result.stderr.contains("panicked"),
        "{}",
        result.stderr
    );
}

#[test]
fn unwritable_stdout_fails_and_closed_pipe_succeeds() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let folder = Workspace::new();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let result = CommandResult::of(
        &folder
            .command(&["tasks", "list"])
            .stdout(full)
            .output()
            .unwrap(),
    );
    result.assert_exit(3, &["failed to print the results", "hint:"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let result = CommandResult::of(
        &folder
            .command(&["tasks", "list"])
            .stdout(writer)
            .output()
            .unwrap(),
    );
    assert_eq!((result.code, result.stderr.as_str()), (0, ""));
}

#[test]
fn hint_lists_each_task_once() {
    let folder = Workspace::new();
    // A task of the working folder with the name of a built-in one.
    folder.write("tasks/softmax/task.yaml", "");
    let result = folder.run(&["tasks", "show", "nothing_like_a_task"]);
    result.assert_exit(2, &["unknown task `nothing_like_a_task`", "`softmax`"]);
    assert_eq!(result.stderr.matches("`softmax`").count(), 1);
}
