//! Readers of standard output and standard error that are slow, closed, full or missing neither stall nor break a run.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::{CommandResult, Workspace};

/// A run of three steps.
const SHORT_RUN: [&str; 12] = [
    "evolve",
    "softmax",
    "--backend",
    "cpu",
    "--steps",
    "3",
    "--set",
    "eval.precision=0.5",
    "--set",
    "eval.seconds=0.5",
    "--set=search.confirm=1",
    "--output=out",
];

/// A pipe that has no room and whose reader reads nothing.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // SAFETY: calls with numbers only.
    let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) };
    assert_eq!(size, 4096);
    writer.write_all(&[b'x'; 4096]).unwrap();
    (reader, writer)
}

/// A finished run, and its events.
fn finished_run() -> (Workspace, String) {
    let folder = Workspace::with_small_task();
    let result = folder.run(&SHORT_RUN);
    result.assert_run_ended(&[]);
    assert!(result.stdout.contains("softmax"), "{}", result.stdout);
    (folder, result.stdout)
}

/// The steps of the run and whether it has ended, by its summary.
fn summary(folder: &Workspace) -> (u64, bool) {
    let text = std::fs::read(folder.path().join("out/summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_slice(&text).unwrap();
    (
        summary["tasks"][0]["steps"].as_u64().unwrap(),
        summary["finished"].as_bool().unwrap(),
    )
}

#[test]
fn run_completes_while_nothing_reads_its_output() {
    let folder = Workspace::with_small_task();
    let (_stdout_reader, stdout) = full_pipe();
    let (mut stderr_reader, stderr) = full_pipe();
    let mut child = folder
        .command(&SHORT_RUN)
        .args(["--format", "jsonl"])
        // More than a pipe takes.
        .env("KFORGE_LOG", "kforge=debug,warn")
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .unwrap();
    let started = Instant::now();
    let summary_file = folder.path().join("out/summary.json");
    let is_finished = || {
        let text = std::fs::read_to_string(&summary_file);
        text.is_ok_and(|text| text.contains("\"finished\": true"))
    };
    while !is_finished() {
        assert!(started.elapsed() < Duration::from_secs(300), "it stands");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(summary(&folder), (3, true));
    // From now on standard error is read.
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        stderr_reader.read_to_string(&mut text).unwrap();
        text
    });
    let finished = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    // It does not wait for a reader. The rest is for a machine that does something else.
    assert!(finished.elapsed() < Duration::from_secs(60));
    let text = reading.join().unwrap();
    for expected in ["nothing read standard output for 5 s", "are in `out`"] {
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn reader_that_closes_early_gets_what_it_read_and_the_run_completes() {
    let folder = Workspace::with_small_task();
    let mut child = folder
        .command(&SHORT_RUN)
        .args(["--format", "jsonl"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let stdout = child.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut first).unwrap();
    assert!(first.contains("\"event\":\"asked\""), "{first}");
    let result = CommandResult::of(&child.wait_with_output().unwrap());
    result.assert_run_ended(&[]);
    assert!(!result.stderr.contains("error"), "{}", result.stderr);
    assert_eq!(summary(&folder), (3, true));
}

#[test]
fn results_on_a_closed_a_full_and_an_unread_stdout() {
    let (folder, _) = finished_run();
    let resume = || folder.command(&["resume", "out"]);
    let run = |command: &mut Command| CommandResult::of(&command.output().unwrap());

    let mut closed = Command::new("sh");
    let binary = env!("CARGO_BIN_EXE_kforge");
    closed
        .args(["-c", &format!("'{binary}' resume out >&-")])
        .current_dir(folder.path());
    let result = run(&mut closed);
    result.assert_run_ended(&[]);

    let full = std::fs::File::options().write(true).open("/dev/full");
    let result = CommandResult::of(
        &resume()
            .stdout(full.unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap(),
    );
    result.assert_exit(
        3,
        &["failed to print the results: No space left", "in `out`"],
    );

    // `kforge resume out | head -0`
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let result = run(resume().stdout(writer).stderr(Stdio::piped()));
    result.assert_run_ended(&[]);

    // A slow reader gets everything.
    let expected = folder.run(&["resume", "out"]).stdout;
    let (mut reader, writer) = full_pipe();
    let mut command = resume();
    let mut child = command
        .stdout(writer)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The command's copy of the pipe would keep it open.
    drop(command);
    std::thread::sleep(Duration::from_millis(1500));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    // To the last line. A resume measures a noisy kernel again, so that figures may differ.
    assert_eq!(text.lines().last(), expected.lines().last(), "{text}");
    assert!(text.lines().count() > 10, "{text}");
    assert!(matches!(child.wait().unwrap().code(), Some(0 | 5)));
}

#[test]
fn errors_end_a_command_whose_stderr_nothing_reads() {
    let folder = Workspace::new();
    let (_reader, writer) = full_pipe();
    let mut child = folder
        .command(&["resume", "nothing"])
        .stdout(Stdio::null())
        .stderr(writer)
        .spawn()
        .unwrap();
    let started = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(2));
    assert!(started.elapsed() < Duration::from_secs(60));
}
