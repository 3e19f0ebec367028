//! SIGINT, SIGTERM and SIGHUP end kforge within two seconds, whatever it is doing, and a run continues afterwards.
//!
//! `KFORGE_TEST_SIGNALS=100` sends each signal at 100 random instants of a real run instead of one, and prints the times:
//!
//!     KFORGE_TEST_SIGNALS=100 cargo test --test suite random_instant -- --nocapture

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use kforge::base::RandomStream;
use kforge::base::random::fresh_seed;

use crate::program::{Workspace, slowdown};

const SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// How long kforge may take to end on a machine that does nothing else.
const LIMIT: Duration = Duration::from_secs(2);

/// `LIMIT`, or longer on a machine with more work than cores.
fn limit() -> Duration {
    LIMIT.mul_f64(slowdown())
}

/// A run that does not end by itself, with short measurements.
const LONG_RUN: [&str; 11] = [
    "evolve",
    "softmax",
    "--backend",
    "cpu",
    "--steps",
    "100000",
    "--set",
    "eval.precision=0.5",
    "--set",
    "eval.seconds=0.5",
    "--output=out",
];

/// A kforge process in a session of its own, so that everything that it leaves behind is found.
struct Session {
    child: Child,
    stderr: PathBuf,
}

/// How a process ended after a signal.
struct SignalledEnd {
    status: ExitStatus,
    after: Duration,
    stderr: String,
}

impl Session {
    fn start(mut command: Command, folder: &Path) -> Self {
        let stderr = folder.join("stderr.txt");
        command.stderr(std::fs::File::create(&stderr).unwrap());
        // SAFETY: setsid is safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                Ok(())
            })
        };
        let child = command.spawn().unwrap();
        Self { child, stderr }
    }

    fn start_quiet(folder: &Workspace, arguments: &[&str]) -> Self {
        let mut command = folder.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self::start(command, folder.path())
    }

    /// Waits until `is_ready`.
    fn wait_for(&mut self, what: &str, mut is_ready: impl FnMut(&Self) -> bool) {
        let started = Instant::now();
        while !is_ready(self) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended before {what}: {}", self.log());
            assert!(started.elapsed() < Duration::from_secs(300), "no {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal and waits until the process has ended and nothing of it is left.
    fn signal(mut self, signal: libc::c_int) -> SignalledEnd {
        let process = self.child.id();
        let mut family = descendants(process);
        let sent = Instant::now();
        // SAFETY: the child has not been waited for, so the number still belongs to it.
        unsafe { libc::kill(process as i32, signal) };
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                sent.elapsed() < Duration::from_secs(60),
                "it runs a minute after signal {signal}: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        };
        let after = sent.elapsed();
        // Children are killed by the system when their parent has ended.
        let ended = Instant::now();
        loop {
            family.retain(|live| {
                live_process(live.number).is_some_and(|now| now.started == live.started)
            });
            if family.is_empty() {
                break;
            }
            let waited = ended.elapsed();
            assert!(
                waited < Duration::from_secs(30),
                "processes are left: {family:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        SignalledEnd {
            status,
            after,
            stderr: self.log(),
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }
}

impl SignalledEnd {
    #[track_caller]
    fn assert_interrupted(&self) {
        assert_eq!(
            self.status.code(),
            Some(130),
            "{:?}: {}",
            self.status,
            self.stderr
        );
        assert!(self.after < limit(), "{:?}: {}", self.after, self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }

    /// Also checks that the last message says how to continue.
    #[track_caller]
    fn assert_resumable(&self) {
        self.assert_interrupted();
        let last = self.stderr.trim_end().lines().last().unwrap_or_default();
        assert_eq!(last.trim(), "kforge resume out", "{}", self.stderr);
    }
}

/// A process that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LiveProcess {
    number: u32,
    name: String,
    parent: u32,
    /// When it started, in ticks since the system's start: a number may be used again.
    started: String,
}

fn live_processes() -> Vec<LiveProcess> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(live_process).collect()
}

fn live_process(number: u32) -> Option<LiveProcess> {
    let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let is_alive = !["Z", "X"].contains(&fields[0]);
    is_alive.then(|| LiveProcess {
        number,
        name: name.to_owned(),
        parent: fields[1].parse().unwrap(),
        started: fields[19].to_owned(),
    })
}

/// The children of a process, their children, and so on. Workers and compilers lead sessions of their own.
fn descendants(process: u32) -> Vec<LiveProcess> {
    let mut found: Vec<LiveProcess> = Vec::new();
    let all = live_processes();
    loop {
        let is_new = |live: &&LiveProcess| {
            let parents = found.iter().map(|parent| parent.number);
            parents.chain([process]).any(|parent| parent == live.parent) && !found.contains(live)
        };
        let new: Vec<_> = all.iter().filter(is_new).cloned().collect();
        if new.is_empty() {
            return found;
        }
        found.extend(new);
    }
}

fn journal(folder: &Workspace) -> String {
    std::fs::read_to_string(folder.path().join("out/softmax/events.jsonl")).unwrap_or_default()
}

#[test]
fn signal_at_a_random_instant_ends_a_run_that_continues() {
    let count = std::env::var("KFORGE_TEST_SIGNALS").ok();
    let count: usize = count.map_or(1, |count| count.parse().unwrap());
    let seed = fresh_seed();
    std::thread::scope(|scope| {
        for signal in SIGNALS {
            scope.spawn(move || signal_at_random_instants(signal, count, seed));
        }
    });
}

fn signal_at_random_instants(signal: libc::c_int, count: usize, seed: u64) {
    let mut random = RandomStream::new(seed, "signals", signal as u64);
    let folder = Workspace::new();
    let mut times = Vec::new();
    for index in 0..count {
        let has_run = folder.path().join("out/run.yaml").exists();
        let before = journal(&folder);
        let mut session = if has_run {
            Session::start_quiet(&folder, &["resume", "out"])
        } else {
            Session::start_quiet(&folder, &LONG_RUN)
        };
        if index % 10 == 1 {
            // Not only while the workers start, on a slow machine too.
            session.wait_for("event", |_| journal(&folder).len() > before.len());
        }
        std::thread::sleep(Duration::from_secs_f64(3.0 * random.uniform()));
        let ended = session.child.try_wait().unwrap();
        assert!(ended.is_none(), "it ended by itself: {}", session.log());
        let ended = session.signal(signal);
        // A process that has only just started is ended by the signal itself.
        if ended.status.signal() == Some(signal) && ended.stderr.is_empty() {
            continue;
        }
        ended.assert_interrupted();
        assert!(
            journal(&folder).starts_with(&before),
            "the journal has lost something (seed {seed})"
        );
        times.push(ended.after);
    }
    times.sort();
    if let (Some(median), Some(max)) = (times.get(times.len() / 2), times.last()) {
        print_line(&format!(
            "signal {signal}: {} times, median {median:.0?}, max {max:.0?}, {} verdicts",
            times.len(),
            journal(&folder).matches("\"event\":\"judged\"").count()
        ));
    }
}

#[expect(clippy::print_stderr, reason = "the times are the result of the test")]
fn print_line(line: &str) {
    eprintln!("{line}");
}

#[test]
fn signal_ends_a_run_whose_proposals_wait_for_a_lock() {
    let folder = Workspace::new();
    let mut session = Session::start_quiet(&folder, &LONG_RUN);
    session.wait_for("verdict", |_| {
        journal(&folder).contains("\"event\":\"judged\"")
    });
    // SAFETY: geteuid has no preconditions and cannot fail.
    let user = unsafe { libc::geteuid() };
    let lock = folder.locks().join(format!("kforge-host-{user}.lock"));
    let lock = std::fs::File::open(lock).unwrap();
    lock.lock().unwrap();
    // Until everything that was running has come to the lock.
    let mut length = 0;
    let mut unchanged = Instant::now();
    session.wait_for("standstill", |_| {
        let now = journal(&folder).len();
        if now != length {
            (length, unchanged) = (now, Instant::now());
        }
        unchanged.elapsed() > Duration::from_millis(400)
    });
    session.signal(libc::SIGINT).assert_resumable();
}

#[test]
fn signal_ends_a_run_while_a_compiler_runs() {
    let folder = Workspace::new();
    let mut command = folder.command(&LONG_RUN);
    // With an empty cache the runtime is compiled first, which takes seconds.
    command
        .env("KFORGE_CACHE_DIR", folder.path().join("cache"))
        .stdout(Stdio::null());
    let mut session = Session::start(command, folder.path());
    session.wait_for("compiler", |session| {
        let processes = descendants(session.child.id());
        processes
            .iter()
            .any(|process| process.name.starts_with("cc1plus"))
    });
    session.signal(libc::SIGHUP).assert_resumable();
}

#[test]
fn signal_ends_a_run_that_waits_for_a_model() {
    // A server that takes a request and never answers.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let (sender, requested) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for connection in server.incoming() {
            let mut connection = connection.unwrap();
            let mut start = [0; 16];
            connection.read_exact(&mut start).unwrap();
            kept.push(connection);
            let _ = sender.send(());
        }
    });
    let folder = Workspace::new();
    let config = format!(
        "tasks: [softmax]\nsteps: 40\neval: {{precision: 0.5, seconds: 0.5}}\nllm:\n  models:\n    - {{name: local, provider: openai, \
         model: m, base_url: \"http://{address}/v1\", context_tokens: 100000, max_output_tokens: 1000}}\n"
    );
    folder.write("config.yaml", &config);
    let arguments = [
        "tune",
        "--config",
        "config.yaml",
        "--backend",
        "cpu",
        "--output=out",
    ];
    let mut session = Session::start_quiet(&folder, &arguments);
    session.wait_for("request", |_| requested.try_recv().is_ok());
    session.signal(libc::SIGTERM).assert_resumable();
}

#[test]
fn signal_ends_a_run_that_waits_for_a_mailbox() {
    let folder = Workspace::new();
    let arguments = [
        "tune",
        "softmax",
        "--model",
        "mailbox",
        "--backend",
        "cpu",
        "--set",
        "eval.precision=0.5",
        "--set",
        "eval.seconds=0.5",
        "--output=out",
    ];
    let mut session = Session::start_quiet(&folder, &arguments);
    session.wait_for("prompt", |_| {
        journal(&folder).contains("\"event\":\"sent\"")
    });
    session.signal(libc::SIGHUP).assert_resumable();
}

#[test]
fn second_signal_ends_at_once_and_an_ignored_one_is_ignored() {
    let folder = Workspace::new();
    let mut command = folder.command(&LONG_RUN);
    command.stdout(Stdio::null());
    // SAFETY: signal is safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        })
    };
    let mut session = Session::start(command, folder.path());
    session.wait_for("start", |_| {
        journal(&folder).contains("\"event\":\"asked\"")
    });
    // SAFETY: the child has not been waited for, so the number still belongs to it.
    unsafe { libc::kill(session.child.id() as i32, libc::SIGHUP) };
    std::thread::sleep(Duration::from_millis(300));
    let ended = session.child.try_wait().unwrap();
    assert!(ended.is_none(), "`nohup` has no effect: {}", session.log());
    // SAFETY: as above.
    unsafe { libc::kill(session.child.id() as i32, libc::SIGINT) };
    session.signal(libc::SIGINT).assert_interrupted();
}

#[test]
fn signal_ends_a_run_whose_output_nothing_reads() {
    let folder = Workspace::with_small_task();
    let mut command = folder.command(&LONG_RUN);
    command.args(["--format", "jsonl"]).stdout(Stdio::piped());
    let mut session = Session::start(command, folder.path());
    let mut stdout = BufReader::new(session.child.stdout.take().unwrap());
    // SAFETY: a call with numbers only.
    unsafe {
        libc::fcntl(
            std::os::fd::AsRawFd::as_raw_fd(stdout.get_ref()),
            libc::F_SETPIPE_SZ,
            4096,
        )
    };
    stdout.read_line(&mut String::new()).unwrap();
    // More than the pipe takes.
    session.wait_for("verdict", |_| journal(&folder).len() > 16_000);
    session.signal(libc::SIGTERM).assert_resumable();
    drop(stdout);
}

#[test]
fn signal_ends_every_command() {
    let commands: [&[&str]; 4] = [
        &["tasks", "check", "softmax"],
        &["doctor"],
        &[
            "eval",
            "softmax",
            "kernel.cu",
            "--backend",
            "cpu",
            "--seconds",
            "60",
            "--precision",
            "0.0001",
        ],
        &["evolve", "softmax", "--backend", "cpu", "--dry-run"],
    ];
    let folder = Workspace::new();
    folder.write("kernel.cu", crate::program::SOFTMAX_KERNEL);
    for arguments in commands {
        let session = Session::start_quiet(&folder, arguments);
        std::thread::sleep(Duration::from_millis(150));
        let ended = session.signal(libc::SIGTERM);
        assert!(ended.after < limit(), "{arguments:?}: {:?}", ended.after);
        // A short command may have ended before.
        let code = ended.status.code();
        assert!(
            code == Some(130) || code == Some(0) || ended.status.signal() == Some(libc::SIGTERM),
            "{arguments:?}: {:?}: {}",
            ended.status,
            ended.stderr
        );
    }
}

/// The processor time that a process has used, in ticks of the system.
fn processor_ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in parentheses may contain spaces. User and system time are the fields 14 and 15.
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields = after_name.split(' ').skip(11).take(2);
    fields.filter_map(|field| field.parse::<u64>().ok()).sum()
}

#[test]
fn signal_ends_an_admission() {
    let folder = Workspace::new();
    let seed = fresh_seed();
    let mut random = RandomStream::new(seed, "admission", 0);
    for signal in SIGNALS {
        let mut session = Session::start_quiet(&folder, &["tasks", "check", "gelu"]);
        // It draws inputs and compares outputs, which takes minutes.
        session.wait_for("work", |session| processor_ticks(session.child.id()) > 50);
        std::thread::sleep(Duration::from_secs_f64(random.uniform()));
        let ended = session.signal(signal);
        ended.assert_interrupted();
        let last = ended.stderr.trim_end().lines().last().unwrap_or_default();
        assert_eq!(last, "interrupted", "{} (seed {seed})", ended.stderr);
    }
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "only the log is there"
    );
}

#[test]
fn signal_ends_a_promotion_that_has_changed_nothing() {
    let folder = Workspace::with_small_task();
    let run = [
        "evolve",
        "softmax",
        "--backend=cpu",
        "--no-model",
        "--steps=3",
        "--set=eval.precision=0.9",
        "--set=eval.seconds=0.3",
        "--set=search.confirm=1",
        "--output=out",
    ];
    folder.run(&run).assert_run_ended(&[]);
    let best = folder.path().join("kernels/softmax/best.cu");
    let seed = fresh_seed();
    let mut random = RandomStream::new(seed, "promotion", 0);
    for signal in SIGNALS {
        let promote = [
            "promote",
            "out",
            "--set=eval.precision=0.0001",
            "--set=eval.seconds=600",
        ];
        let mut session = Session::start_quiet(&folder, &promote);
        session.wait_for("worker", |session| {
            !crate::program::worker_processes(session.child.id()).is_empty()
        });
        std::thread::sleep(Duration::from_secs_f64(2.0 * random.uniform()));
        let ended = session.signal(signal);
        ended.assert_interrupted();
        assert!(!best.exists(), "promoted (seed {seed}): {}", ended.stderr);
    }
    // The run is unharmed, and can be promoted.
    let promote = [
        "promote",
        "out",
        "--set=eval.precision=0.9",
        "--set=eval.seconds=0.3",
    ];
    let result = folder.run(&promote);
    assert!(
        matches!(result.code, 0 | 5),
        "{}\n{}",
        result.stdout,
        result.stderr
    );
    assert_eq!(result.code == 0, best.exists());
}
