//! Disks that are full, read-only, gone, or without file locks; clocks that step back.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kforge::base::Failure;
use kforge::driver::StartMode;
use kforge::event::Event;

use super::scripted::{ScriptedJudge, ScriptedJudges, judges, options, step_options};
use super::{STEP_ORDER, events, process, run, set_environment, state};

const STEPS: u64 = 60;

/// The end of a run in step order that was not disturbed.
fn undisturbed(root: &Path) -> String {
    let directory = root.join("undisturbed");
    run(step_options(&directory, STEPS), &judges(Duration::ZERO)).unwrap();
    state(&directory, "softmax", STEPS)
}

/// A file system of 300 kB, which becomes read-only and then larger. Between these changes the run is resumed.
#[cfg(target_os = "linux")]
#[test]
fn full_and_read_only_file_systems_leave_a_resumable_run() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    std::fs::create_dir(&directory).unwrap();
    let can_mount = Command::new("unshare")
        .args(["--mount", "mount", "-t", "tmpfs", "tmpfs"])
        .arg(&directory)
        .output();
    if !can_mount.is_ok_and(|output| output.status.success()) {
        eprintln!("left out: this process may not mount file systems");
        return;
    }
    // In a namespace of its own, so that nothing stays mounted. The errors are files next to the run directory.
    let script = r#"
        set -e
        mount -t tmpfs -o size=300k tmpfs "$KFORGE_TEST_DIRECTORY"
        run() { "$0" --ignored --exact driver::driver_process; }
        run; mv "$KFORGE_TEST_DIRECTORY.error" "$1/full"
        mount -o remount,ro "$KFORGE_TEST_DIRECTORY"
        run; mv "$KFORGE_TEST_DIRECTORY.error" "$1/read-only"
        mount -o remount,rw,size=100m "$KFORGE_TEST_DIRECTORY"
        run
        cp -r "$KFORGE_TEST_DIRECTORY" "$1/copy"
    "#;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(root.path());
    set_environment(&mut command, &directory, STEPS, Duration::ZERO);
    command.env(STEP_ORDER, "");
    assert!(command.status().unwrap().success());
    let read = |name: &str| std::fs::read_to_string(root.path().join(name)).unwrap();
    let full = read("full");
    let files = directory.join("softmax");
    assert!(full.contains(&files.display().to_string()), "{full}");
    assert!(full.contains("no space left on device"), "{full}");
    assert!(full.contains("hint: free some space"), "{full}");
    let read_only = read("read-only");
    assert!(read_only.contains("read-only file system"), "{read_only}");
    let copy = root.path().join("copy");
    assert_eq!(state(&copy, "softmax", STEPS), undisturbed(root.path()));
}

#[test]
fn moved_run_directory_is_an_error_and_resumes_when_moved_back() {
    let root = tempfile::tempdir().unwrap();
    let (directory, moved) = (root.path().join("run"), root.path().join("moved"));
    let moving = ScriptedJudges(Box::new({
        let (directory, moved) = (directory.clone(), moved.clone());
        move |_| {
            let (directory, moved) = (directory.clone(), moved.clone());
            Ok(ScriptedJudge {
                intercept: Some(Box::new(move |job| {
                    if job.step == 20 {
                        std::fs::rename(&directory, &moved)?;
                    }
                    Ok(None)
                })),
                ..ScriptedJudge::default()
            })
        }
    }));
    let error = run(step_options(&directory, STEPS), &moving).unwrap_err();
    let failure = error.downcast_ref::<Failure>().unwrap();
    assert!(
        failure.message.contains("was moved or deleted"),
        "{failure}"
    );
    assert!(!directory.exists(), "nothing was created in its place");
    std::fs::rename(&moved, &directory).unwrap();
    run(
        options(&directory, &["softmax"], STEPS),
        &judges(Duration::ZERO),
    )
    .unwrap();
    assert_eq!(
        state(&directory, "softmax", STEPS),
        undisturbed(root.path())
    );
}

#[test]
fn deleted_journal_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let journal = directory.join("softmax/events.jsonl");
    let deleting = ScriptedJudges(Box::new(move |_| {
        let journal = journal.clone();
        Ok(ScriptedJudge {
            intercept: Some(Box::new(move |job| {
                if job.step == 20 {
                    std::fs::remove_file(&journal)?;
                }
                Ok(None)
            })),
            ..ScriptedJudge::default()
        })
    }));
    let error = run(options(&directory, &["softmax"], STEPS), &deleting).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("events.jsonl` was moved or deleted"),
        "{text}"
    );
}

/// The process of `driver_process`, in which no file can be locked.
#[cfg(target_os = "linux")]
fn process_without_locks(directory: &Path, steps: u64, delay: Duration) -> Command {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let filter = SeccompFilter::new(
        [(libc::SYS_flock, vec![])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOLCK as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    )
    .unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    let mut command = process(directory, steps, delay);
    command.env(STEP_ORDER, "");
    // SAFETY: a system call on a program that was made before.
    unsafe {
        command.pre_exec(move || {
            seccompiler::apply_filter(&program).map_err(|_| std::io::Error::last_os_error())
        });
    }
    command
}

#[cfg(target_os = "linux")]
#[test]
fn file_system_without_locks_still_excludes_a_second_process() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("run");
    let mut first = process_without_locks(&directory, STEPS, Duration::from_secs(600))
        .spawn()
        .unwrap();
    let log = directory.with_extension("log");
    while !log.exists() {
        assert!(first.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    // Another process without locks, and one that has them.
    let mut second = process_without_locks(&directory, STEPS, Duration::ZERO);
    assert!(second.status().unwrap().success());
    let refusal = std::fs::read_to_string(directory.with_extension("error")).unwrap();
    let with_locks = run(
        options(&directory, &["softmax"], STEPS),
        &judges(Duration::ZERO),
    );
    let holder = format!("is in use by process {} on `", first.id());
    for error in [refusal, format!("{:?}", with_locks.unwrap_err())] {
        assert!(error.contains(&holder), "{error}");
        assert!(error.contains("lock.owner"), "{error}");
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(
        directory.join("lock.owner").exists(),
        "nothing removes it at a kill"
    );
    let mut next = process_without_locks(&directory, STEPS, Duration::ZERO);
    std::fs::remove_file(directory.with_extension("error")).unwrap();
    assert!(next.status().unwrap().success());
    assert!(!directory.with_extension("error").exists());
    assert!(!directory.join("lock.owner").exists());
    assert_eq!(
        state(&directory, "softmax", STEPS),
        undisturbed(root.path())
    );
}

/// Rewrites the times of a journal: each line is a second before the one above it.
fn step_clock_back(journal: &Path, seconds: &mut u64) {
    let text = std::fs::read_to_string(journal).unwrap();
    let mut changed = String::new();
    for line in text.lines() {
        let (head, rest) = line.split_once("\"time\":\"").unwrap();
        *seconds -= 1;
        let (hours, minutes) = (*seconds / 3600, *seconds / 60 % 60);
        let time = format!(
            "2024-01-01T{hours:02}:{minutes:02}:{:02}.000Z",
            *seconds % 60
        );
        changed += &format!("{head}\"time\":\"{time}{}\n", &rest[24..]);
    }
    std::fs::write(journal, changed).unwrap();
}

/// Accepts a change in the middle of a run. Returns how often each step was confirmed and judged.
fn run_with_accepted_change(directory: &Path, between: impl Fn()) -> Vec<(u64, &'static str)> {
    let judges = judges(Duration::ZERO);
    run(step_options(directory, 30), &judges).unwrap();
    between();
    let mut changed = options(directory, &["softmax"], 30);
    changed.record.kforge = "0.0.1".to_owned();
    changed.start = StartMode::Resume {
        accept_changes: true,
    };
    run(changed, &judges).unwrap();
    between();
    let mut again = options(directory, &["softmax"], 40);
    again.record.kforge = "0.0.1".to_owned();
    run(again, &judges).unwrap();
    let events = events(directory, "softmax").into_iter();
    events
        .filter_map(|event| match event {
            Event::Judged(judged) => Some((judged.step, "judged")),
            Event::Confirmed(confirmed) => Some((confirmed.step, "confirmed")),
            _ => None,
        })
        .collect()
}

#[test]
fn clock_that_steps_back_does_not_change_a_resumed_run() {
    let root = tempfile::tempdir().unwrap();
    let count = |mut found: Vec<(u64, &'static str)>| {
        found.sort();
        found
    };
    let steady = count(run_with_accepted_change(&root.path().join("steady"), || {}));
    let directory = root.path().join("back");
    // The run's journal has the later times, so that by its time everything in the task's journal was before the change.
    let back = run_with_accepted_change(&directory, || {
        let mut seconds = 80_000;
        step_clock_back(&directory.join("events.jsonl"), &mut seconds);
        step_clock_back(&directory.join("softmax/events.jsonl"), &mut seconds);
    });
    assert_eq!(count(back), steady);
}
