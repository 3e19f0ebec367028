//! SIGKILL at random times while requests are in flight: every reply is paid for once.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kforge::base::{Digest, RandomStream, random};

use crate::asking::model::{complete_reply, delayed, document, reply_to};
use crate::asking::program::{ProgramFixture, openai_model};
use crate::asking::run_log::{RequestLog, ends_request, summary};
use crate::asking::scenario::{Scenario, prompt_digest};
use crate::llm::server::{SeenRequest, Server};

const CONCURRENCY: u64 = 4;

/// A new seed, printed so that a failure can be repeated.
fn printed_seed() -> u64 {
    let seed = random::fresh_seed();
    println!("seed {seed}");
    seed
}

/// Replies to every request, after up to 200 ms: a run waits for most of its time, as one that asks a real model does, and is killed while
/// requests are in flight.
fn server(seed: u64) -> Server {
    Server::start(move |number, seen| {
        let share = RandomStream::new(seed, "delay", number as u64).uniform();
        let reply = complete_reply(seen, &reply_to(&document(seen), number));
        delayed(reply, Duration::from_secs_f64(0.2 * share))
    })
}

#[test]
fn thirty_kills_lose_no_reply_and_repeat_no_request() {
    const STEPS: u64 = 120;
    let root = tempfile::tempdir().unwrap();
    let seed = printed_seed();
    let (mut kills, mut rounds, mut in_flight) = (0, 0, 0);
    while kills < 30 {
        rounds += 1;
        let server = server(seed + rounds);
        let mut scenario = Scenario::new(&server.url, STEPS);
        scenario.max_judging_ms = 30;
        let directory = root.path().join(format!("run-{rounds}"));
        let next_process = || scenario.process(&directory);
        let plan = KillPlan {
            seed: seed + rounds,
            max_seconds: 0.9,
            max_kills: 30 - kills,
        };
        let account = kill_and_resume(&directory, &server, next_process, plan);
        kills += account.kills;
        in_flight += account.in_flight;
        assert_account(&directory, &server.seen(), &account, STEPS);
    }
    println!("{kills} kills in {rounds} runs, {in_flight} requests in flight");
    assert!(in_flight > 0, "no request was in flight at any kill");
}

#[test]
fn killed_program_resumes() {
    const STEPS: u64 = 14;
    let fixture = ProgramFixture::new();
    let seed = printed_seed();
    let server = server(seed);
    fixture.config(&openai_model(&server.url, ""));
    let directory = fixture.run_directory();
    let next_process = || {
        if directory.join("run.yaml").exists() {
            fixture.command(&["resume", "run"])
        } else {
            fixture.command(&["evolve", "--config", "run.yaml", "--steps", "14"])
        }
    };
    let plan = KillPlan {
        seed,
        max_seconds: 3.0,
        max_kills: 10,
    };
    let account = kill_and_resume(&directory, &server, next_process, plan);
    assert_account(&directory, &server.seen(), &account, STEPS);
    let (kills, in_flight) = (account.kills, account.in_flight);
    println!("{kills} kills of the program, {in_flight} requests in flight");
}

/// When a run is killed.
struct KillPlan {
    seed: u64,
    /// The longest time of a process before its kill.
    max_seconds: f64,
    max_kills: u64,
}

/// Starts a run, kills it after a random time, and resumes it, until it ends by itself.
fn kill_and_resume(
    directory: &Path,
    server: &Server,
    next_process: impl Fn() -> Command,
    plan: KillPlan,
) -> RequestAccount {
    let mut stream = RandomStream::new(plan.seed, "kill", 0);
    let mut account = RequestAccount::default();
    loop {
        let mut command = next_process();
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let seconds = 0.2 + plan.max_seconds * stream.uniform();
        let kill_at = Instant::now() + Duration::from_secs_f64(seconds);
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() >= kill_at && account.kills < plan.max_kills {
                break None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if let Some(status) = ended {
            assert!(matches!(status.code(), Some(0 | 5)), "{status}");
            account.end_process(directory, &server.seen(), 0);
            return account;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        account.kills += 1;
        // Let the server read what was sent before it is counted.
        std::thread::sleep(Duration::from_millis(60));
        account.end_process(directory, &server.seen(), CONCURRENCY);
    }
}

/// What the server saw and what the journal has, process by process.
#[derive(Default)]
struct RequestAccount {
    kills: u64,
    seen: usize,
    replied: usize,
    /// Requests that the server saw and that have no reply in the journal, over all processes.
    in_flight: u64,
}

impl RequestAccount {
    /// Accounts for one process: every request has a prompt in the journal, and every reply belongs to one of its requests.
    fn end_process(&mut self, directory: &Path, seen: &[SeenRequest], most_in_flight: u64) {
        // Killed before it created the run directory.
        if !directory.join("run.yaml").exists() {
            return;
        }
        let log = RequestLog::read(directory);
        let mut requests: HashMap<Digest, i64> = HashMap::new();
        for seen in &seen[self.seen..] {
            *requests.entry(prompt_digest(seen)).or_default() += 1;
        }
        let prompts: HashMap<(u64, u32), Digest> = log
            .sent
            .iter()
            .map(|sent| ((sent.step, sent.ask), sent.prompt))
            .collect();
        for prompt in requests.keys() {
            let known = prompts.values().any(|sent| sent == prompt);
            assert!(known, "a request left before its prompt was in the journal");
        }
        let requested = seen.len() - self.seen;
        let replied = log.replied.len() - self.replied;
        for replied in &log.replied[self.replied..] {
            let left = requests
                .entry(prompts[&(replied.step, replied.ask)])
                .or_default();
            *left -= 1;
            assert!(*left >= 0, "a reply to no request of this process");
        }
        let in_flight = (requested - replied) as u64;
        assert!(
            in_flight <= most_in_flight,
            "{requested} requests, {replied} replies"
        );
        self.in_flight += in_flight;
        (self.seen, self.replied) = (seen.len(), log.replied.len());
    }
}

/// The finished run: every request has a reply or was in flight at a kill, and the sums agree.
fn assert_account(directory: &Path, seen: &[SeenRequest], account: &RequestAccount, steps: u64) {
    let log = RequestLog::read(directory);
    assert_eq!(
        seen.len() as u64,
        log.replied.len() as u64 + account.in_flight
    );
    assert!(log.without_reply() >= account.in_flight);
    log.assert_files_match_journal(directory);
    let mut replies: BTreeMap<(u64, u32), u32> = BTreeMap::new();
    for replied in log.replied.iter().filter(|replied| ends_request(replied)) {
        *replies.entry((replied.step, replied.ask)).or_default() += 1;
    }
    assert!(replies.values().all(|count| *count == 1));
    // A step sends the same prompt every time.
    let mut prompts: HashMap<(u64, u32), Digest> = HashMap::new();
    for sent in &log.sent {
        let first = prompts.entry((sent.step, sent.ask)).or_insert(sent.prompt);
        assert_eq!(
            *first, sent.prompt,
            "step {} sent another prompt",
            sent.step
        );
    }
    let spent = log.spent();
    let totals = summary(directory);
    assert_eq!(totals["spent"]["tokens"], spent.tokens);
    assert_eq!(totals["spent"]["nano_usd"], spent.nano_usd.unwrap());
    assert_eq!(totals["tasks"][0]["steps"], steps);
}
