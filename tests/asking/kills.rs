//! SIGKILL at random instants while questions are under way: every reply is paid for once.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kforge::base::{Digest, RandomStream, random};

use crate::model::{complete_reply, delayed, document, reply_to};
use crate::program::{ProgramFixture, openai_model};
use crate::run_log::{RequestLog, ends_request, summary};
use crate::scenario::{Scenario, prompt_digest};
use crate::server::{SeenRequest, Server};

const CONCURRENCY: u64 = 4;

/// Answers each request anew, after up to 60 ms.
fn server() -> Server {
    Server::start(|number, seen| {
        let share = random::fresh_seed() % 60;
        let reply = complete_reply(seen, &reply_to(&document(seen), number));
        delayed(reply, Duration::from_millis(share))
    })
}

#[test]
fn thirty_kills_lose_no_reply_and_repeat_no_request() {
    const STEPS: u64 = 120;
    let root = tempfile::tempdir().unwrap();
    let (mut kills, mut rounds, mut in_flight) = (0, 0, 0);
    while kills < 30 {
        rounds += 1;
        let server = server();
        let mut scene = Scenario::new(&server.url, STEPS);
        scene.judging = 8;
        let directory = root.path().join(format!("run-{rounds}"));
        let begin = || scene.process(&directory);
        let account = kill_and_resume(&directory, &server, begin, 0.9, 30 - kills);
        kills += account.kills;
        in_flight += account.in_flight;
        assert_account(&directory, &server.seen(), &account, STEPS);
    }
    println!("{kills} kills in {rounds} runs, {in_flight} requests in flight at them");
    assert!(in_flight > 0, "the kills came at idle times only");
}

#[test]
fn killed_program_resumes() {
    const STEPS: u64 = 14;
    let Some(shell) = ProgramFixture::new() else {
        return;
    };
    let server = server();
    shell.config(&openai_model(&server.url, ""));
    let directory = shell.run_directory();
    let begin = || match directory.join("run.yaml").exists() {
        false => shell.command(&["evolve", "--config", "run.yaml", "--steps", "14"]),
        true => shell.command(&["resume", "run"]),
    };
    let account = kill_and_resume(&directory, &server, begin, 3.0, 10);
    assert_account(&directory, &server.seen(), &account, STEPS);
    let (kills, in_flight) = (account.kills, account.in_flight);
    println!("{kills} kills of the program, {in_flight} requests in flight at them");
}

/// Begins, is killed after a while of up to so many seconds, and is begun again, until it ends by itself.
fn kill_and_resume(
    directory: &Path,
    server: &Server,
    begin: impl Fn() -> Command,
    seconds: f64,
    most: u64,
) -> RequestAccount {
    let mut stream = RandomStream::new(random::fresh_seed(), "kill", 0);
    let mut account = RequestAccount::default();
    loop {
        let mut command = begin();
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let instant = Instant::now() + Duration::from_secs_f64(0.2 + seconds * stream.uniform());
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() >= instant && account.kills < most {
                break None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if let Some(status) = ended {
            assert!(status.success(), "{status}");
            account.end_process(directory, &server.seen(), 0);
            return account;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        account.kills += 1;
        // What had left is read by the server before it is counted.
        std::thread::sleep(Duration::from_millis(60));
        account.end_process(directory, &server.seen(), CONCURRENCY);
    }
}

/// What the server saw and what the journal says, process by process.
#[derive(Default)]
struct RequestAccount {
    kills: u64,
    seen: usize,
    replied: usize,
    /// Requests that the server saw and whose reply the journal does not have, over all processes.
    in_flight: u64,
}

impl RequestAccount {
    /// A process is over: of each question that it sent at most one request came, and every reply that it noted is of one.
    fn end_process(&mut self, directory: &Path, seen: &[SeenRequest], most_in_flight: u64) {
        // Killed before it had laid anything out.
        if !directory.join("run.yaml").exists() {
            return;
        }
        let asked = RequestLog::read(directory);
        let mut requests: HashMap<Digest, i64> = HashMap::new();
        for seen in &seen[self.seen..] {
            *requests.entry(prompt_digest(seen)).or_default() += 1;
        }
        let prompts: HashMap<(u64, u32), Digest> = asked
            .sent
            .iter()
            .map(|sent| ((sent.step, sent.ask), sent.prompt))
            .collect();
        for prompt in requests.keys() {
            let known = prompts.values().any(|sent| sent == prompt);
            assert!(known, "a request left before its prompt was in the journal");
        }
        let requested = seen.len() - self.seen;
        let replied = asked.replied.len() - self.replied;
        for replied in &asked.replied[self.replied..] {
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
        (self.seen, self.replied) = (seen.len(), asked.replied.len());
    }
}

/// The run is whole: every request is a reply or was in flight at a kill, and the sums agree.
fn assert_account(directory: &Path, seen: &[SeenRequest], account: &RequestAccount, steps: u64) {
    let asked = RequestLog::read(directory);
    assert_eq!(
        seen.len() as u64,
        asked.replied.len() as u64 + account.in_flight
    );
    assert!(asked.without_reply() >= account.in_flight);
    asked.assert_files_match_journal(directory);
    let mut replies: BTreeMap<(u64, u32), u32> = BTreeMap::new();
    for replied in asked.replied.iter().filter(|replied| ends_request(replied)) {
        *replies.entry((replied.step, replied.ask)).or_default() += 1;
    }
    assert!(replies.values().all(|count| *count == 1));
    // The same step asks the same question, whenever it is asked.
    let mut prompts: HashMap<(u64, u32), Digest> = HashMap::new();
    for sent in &asked.sent {
        let first = prompts.entry((sent.step, sent.ask)).or_insert(sent.prompt);
        assert_eq!(
            *first, sent.prompt,
            "step {} was asked otherwise",
            sent.step
        );
    }
    let spent = asked.spent();
    let told = summary(directory);
    assert_eq!(told["spent"]["tokens"], spent.tokens);
    assert_eq!(told["spent"]["nano_usd"], spent.nano_usd.unwrap());
    assert_eq!(told["tasks"][0]["steps"], steps);
}
