//! `kforge watch` on real runs: one that grows, that ends, that is killed, interrupted, silent or damaged; and the live view on a terminal.

use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::{CommandResult, Workspace};

/// A quick search of the small task.
const SEARCH: [&str; 12] = [
    "evolve",
    "softmax",
    "--backend=cpu",
    "--no-model",
    "--seed=3",
    "--set=eval.precision=0.9",
    "--set=eval.seconds=0.3",
    "--set=search.confirm=1",
    "--set=search.window=4",
    "--set=eval.in_flight=2",
    "--set=budget.confirm_share=0.5",
    "--output=out",
];

const LIMIT: Duration = Duration::from_secs(300);

fn spawn(mut command: Command) -> Child {
    let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    piped.spawn().unwrap()
}

fn result(child: Child) -> CommandResult {
    CommandResult::of(&child.wait_with_output().unwrap())
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < LIMIT, "no {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A long search that has judged something.
fn started_search(folder: &Workspace) -> Child {
    let mut command = folder.command(&SEARCH);
    command.arg("--steps=100000");
    let child = spawn(command);
    let journal = folder.path().join("out/softmax/events.jsonl");
    wait_until("verdict", || {
        std::fs::read_to_string(&journal).is_ok_and(|text| text.contains(r#""event":"judged""#))
    });
    child
}

fn send(child: &Child, signal: libc::c_int) {
    // SAFETY: the child has not been waited for, so the number still belongs to it.
    unsafe { libc::kill(child.id() as i32, signal) };
}

/// A finished search of a few steps.
pub(crate) fn finished_search() -> Workspace {
    let folder = Workspace::with_small_task();
    let mut command = folder.command(&SEARCH);
    command.arg("--steps=5");
    result(spawn(command)).comes_to_its_end();
    folder
}

#[test]
fn watch_starts_before_the_run_and_ends_with_it() {
    let folder = Workspace::with_small_task();
    let mut watching = spawn(folder.command(&["watch", "out"]));
    // The rest of the lines is read at the end.
    let mut first = [0; "waiting for a run in out\n".len()];
    let stdout = watching.stdout.as_mut().unwrap();
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"waiting for a run in out\n");
    let mut command = folder.command(&SEARCH);
    command.arg("--steps=5");
    let ended = result(spawn(command)).comes_to_its_end();
    let watched = result(watching).exits_with(ended.code);
    let lines: Vec<_> = watched.stdout.lines().collect();
    assert_eq!(
        lines.last(),
        Some(&"the run has ended; `kforge report out` shows what it found")
    );
    let last = lines[lines.len() - 2];
    assert!(last.starts_with("softmax: step 5/5, done, "), "{last}");
    assert!(last.contains("x [") && last.contains("% valid"), "{last}");
    assert_eq!(watched.stderr, "");
    // The run reports the same cells and the same best.
    let summary: serde_json::Value =
        serde_json::from_str(&folder.read("out/summary.json")).unwrap();
    let summary = &summary["tasks"][0];
    let cells = format!(", {} of ", summary["cells"]);
    assert!(last.contains(&cells), "{last}");
    let best = if summary["best"].is_object() {
        &summary["best"]
    } else {
        &summary["best_unconfirmed"]
    };
    assert!(last.contains(&format!("(step {})", best["step"])), "{last}");
    let again = folder.run(&["watch", "out", "--once"]);
    assert!(again.stdout.contains(last), "{}", again.stdout);
}

#[test]
fn killed_run_is_reported_as_gone() {
    let folder = Workspace::with_small_task();
    let mut child = started_search(&folder);
    let now = folder.run(&["watch", "out", "--once"]).exits_with(0);
    assert!(now.stdout.ends_with("the run goes on\n"), "{}", now.stdout);
    let watching = spawn(folder.command(&["watch", "out"]));
    send(&child, libc::SIGKILL);
    child.wait().unwrap();
    let watched = result(watching).exits_with(7);
    let end = "the run has not ended, and its process is gone; `kforge resume out` continues it\n";
    assert!(watched.stdout.ends_with(end), "{}", watched.stdout);
}

#[test]
fn interrupted_run_is_reported_with_the_command_that_continues_it() {
    let folder = Workspace::with_small_task();
    let mut child = started_search(&folder);
    send(&child, libc::SIGINT);
    child.wait().unwrap();
    let watched = folder.run(&["watch", "out"]).exits_with(7);
    let end = "the run was interrupted; `kforge resume out` continues it\n";
    assert!(watched.stdout.ends_with(end), "{}", watched.stdout);
}

#[test]
fn silent_run_on_another_machine_is_reported_with_what_it_waits_for() {
    let folder = finished_search();
    // The files of a run that goes on elsewhere: it has sent a request long ago, and its last line is not complete yet.
    let run = folder.read("out/events.jsonl");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let own_host = format!(r#""host":"{}""#, host.trim());
    let is_started = |line: &&str| !line.contains(r#""event":"task_ended""#);
    let run: String = run
        .lines()
        .filter(is_started)
        .map(|line| line.replace(&own_host, r#""host":"elsewhere""#) + "\n")
        .collect();
    folder.write("out/events.jsonl", &run);
    let task = folder.read("out/softmax/events.jsonl");
    let is_searched = |line: &&str| {
        !line.contains(r#""event":"stopped""#) && !line.contains(r#""event":"confirmed""#)
    };
    let lines: Vec<_> = task.lines().take_while(is_searched).collect();
    let seq = lines.len() + 1;
    let prompt = "0".repeat(32);
    let sent = format!(
        r#"{{"schema":1,"seq":{seq},"time":"2020-01-01T00:00:00.000Z","step":6,"event":"sent","ask":1,"model":"anthropic","prompt":"{prompt}","prompts":"p","reserved":{{"tokens":9}}}}"#
    );
    let task = format!("{}\n{sent}\n{{\"schema\":1,\"se", lines.join("\n"));
    folder.write("out/softmax/events.jsonl", &task);

    let shown = folder.run(&["watch", "out", "--once"]).exits_with(0).stdout;
    for text in [
        "softmax: step 5/5, ",
        "; no event for ",
        " h ",
        "; waiting for anthropic for ",
        "(1 request)",
        "its process is on `elsewhere`, so whether it is alive cannot be seen here",
    ] {
        assert!(shown.contains(text), "`{text}` is missing:\n{shown}");
    }
    assert!(!shown.contains("damaged"), "{shown}");
    // A line that is damaged is named, and what comes before it is shown.
    folder.write("out/softmax/events.jsonl", &format!("{task}\n{{}}\n"));
    let shown = folder.run(&["watch", "out", "--once"]).exits_with(0).stdout;
    let damaged = format!("damaged: out/softmax/events.jsonl:{}: ", seq + 1);
    assert!(shown.contains(&damaged), "{shown}");
    assert!(shown.contains("softmax: step 5/5, "), "{shown}");
}

#[test]
fn wrong_paths_are_refused() {
    let folder = finished_search();
    let refused = folder.run(&["watch", "."]).exits_with(2);
    refused.shows(&["`.` is a folder of runs, not a run", "kforge watch ./out"]);
    let refused = folder.run(&["watch", "out/run.yaml"]).exits_with(2);
    refused.shows(&["`out/run.yaml` is a file"]);
    let missing = folder.run(&["watch", "nothing", "--once"]).exits_with(7);
    assert_eq!(missing.stdout, "no run in nothing yet\n");
}

/// A process on a terminal of its own.
pub(crate) struct OnTerminal {
    pub(crate) child: Child,
    pub(crate) terminal: std::fs::File,
}

impl OnTerminal {
    pub(crate) fn start(mut command: Command, columns: u16) -> Self {
        let size = libc::winsize {
            ws_row: 24,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let (mut own, mut other) = (-1, -1);
        // SAFETY: the pointers lead to two numbers and a struct that live during the call; no name or settings are asked for.
        let opened = unsafe {
            libc::openpty(
                &raw mut own,
                &raw mut other,
                std::ptr::null_mut(),
                std::ptr::null(),
                &raw const size,
            )
        };
        assert_eq!(opened, 0);
        // SAFETY: both descriptors were just opened and belong to nothing else.
        let (own, other) = unsafe { (OwnedFd::from_raw_fd(own), OwnedFd::from_raw_fd(other)) };
        // SAFETY: calls with numbers only.
        unsafe { libc::fcntl(own.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
        command.env("TERM", "xterm").env_remove("NO_COLOR");
        command.stdin(other.try_clone().unwrap());
        command.stdout(other.try_clone().unwrap()).stderr(other);
        // SAFETY: both calls are safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            })
        };
        let child = command.spawn().unwrap();
        // The command has the other end of the terminal, and must not keep it open here.
        drop(command);
        Self {
            child,
            terminal: own.into(),
        }
    }

    /// Reads until `is_enough`, or until the process has closed the terminal.
    fn read_until(&mut self, mut is_enough: impl FnMut(&str) -> bool) -> String {
        let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if is_enough(&text) {
                return text;
            }
            match self.terminal.read(&mut part) {
                Ok(count) if count > 0 => bytes.extend_from_slice(&part[..count]),
                _ => return text,
            }
        }
    }
}

/// Asserts that every line of the live view fits the terminal, and that nothing was changed that must be restored.
fn assert_calm(text: &str, columns: usize) {
    for code in ["\x1b[?25l", "\x1b[?1049h", "\x1b[?1h", "\x1b[2J"] {
        assert!(!text.contains(code), "{code:?} was written");
    }
    let mut drawn = 0;
    for line in text.split('\n') {
        // The lines of the view end with this code.
        if let Some(line) = line.trim_end_matches('\r').strip_suffix("\x1b[K") {
            let plain = console::strip_ansi_codes(line);
            let width = console::measure_text_width(&plain);
            assert!(width < columns, "{width} columns: {plain}");
            drawn += 1;
        }
    }
    assert!(drawn > 3, "no live view in:\n{text}");
}

#[test]
fn live_view_fits_the_terminal_and_ctrl_c_leaves_it_in_order() {
    for columns in [80, 40] {
        let folder = Workspace::with_small_task();
        let mut command = folder.command(&SEARCH);
        command.arg("--steps=100000");
        let mut run = OnTerminal::start(command, columns);
        // An improvement; its line may be wrapped behind these words.
        let mut text = run.read_until(|text| text.contains("x, the"));
        // A watcher shows the same figures.
        let mut watching = OnTerminal::start(folder.command(&["watch", "out"]), columns);
        let watched = watching.read_until(|text| text.contains("search"));
        send(&run.child, libc::SIGINT);
        text += &run.read_until(|_| false);
        assert_eq!(run.child.wait().unwrap().code(), Some(130));
        assert_calm(&text, usize::from(columns));
        assert!(text.ends_with('\n'), "{text:?}");
        assert!(text.contains("kforge resume"), "{text}");
        assert!(text.contains("\x1b[1m"), "no colours");
        let watched = watched + &watching.read_until(|_| false);
        assert_eq!(watching.child.wait().unwrap().code(), Some(7), "{watched}");
        assert_calm(&watched, usize::from(columns));
        assert!(watched.ends_with('\n'), "{watched:?}");
    }
}
