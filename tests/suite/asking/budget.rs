//! A budget in dollars or tokens is never exceeded, whatever is in flight.

use kforge::event::StopReason;
use serde_json::{Value, json};

use crate::asking::model::{complete_reply, delayed, document, reply_to, usage};
use crate::asking::program::{ProgramFixture, openai_model};
use crate::asking::run_log::{RequestLog, summary};
use crate::asking::scenario::{Scenario, model};
use crate::llm::server::Server;

/// Replies after a moment, so that as many requests as possible are in flight.
fn server() -> Server {
    Server::start(|number, seen| {
        let reply = complete_reply(seen, &reply_to(&document(seen), number));
        delayed(reply, std::time::Duration::from_millis(30))
    })
}

/// What the server would bill, in nanodollars, at 1 and 5 dollars per million tokens.
fn billed_nano_usd(server: &Server) -> u64 {
    let seen = server.seen();
    let requests = seen.iter().enumerate().map(|(number, seen)| {
        let (input, output) = usage(seen, &reply_to(&document(seen), number));
        input * 1000 + output * 5000
    });
    requests.sum()
}

#[test]
fn run_never_exceeds_its_dollar_budget_with_eight_in_flight() {
    let root = tempfile::tempdir().unwrap();
    let server = server();
    let price = json!({"price": {"input": 1, "output": 5}});
    let models = json!([model(&server.url, price)]);
    let mut scenario = Scenario::with_models(models, 2000).with_llm(json!({"concurrency": 8}));
    scenario.usd = Some(1.0);
    let end = scenario.finish(root.path());
    assert_eq!(end.stop_reason(), Some(StopReason::Budget));
    let log = RequestLog::read(root.path());
    let spent = log.spent().nano_usd.unwrap();
    assert_eq!(spent, billed_nano_usd(&server), "exact to the nanodollar");
    assert!(spent <= 1_000_000_000, "{spent}");
    // The rest is less than two worst cases: the run did not stop too early.
    let worst = log
        .sent
        .iter()
        .filter_map(|sent| sent.reserved.nano_usd)
        .max()
        .unwrap();
    assert!(
        spent + 2 * worst > 1_000_000_000,
        "{spent} nanodollars spent, the worst case of a request is {worst}"
    );
    assert_eq!(summary(root.path())["tasks"][0]["stopped"], "budget");
    assert_eq!(log.max_in_flight, 8);
    let requests = server.seen().len();
    println!("{requests} requests for ${:.4}", spent as f64 / 1e9);

    // With the same budget nothing more is sent. With more, the run continues.
    assert_eq!(
        scenario.finish(root.path()).stop_reason(),
        Some(StopReason::Budget)
    );
    assert_eq!(server.seen().len(), requests);
    scenario.usd = Some(1.5);
    assert_eq!(
        scenario.finish(root.path()).stop_reason(),
        Some(StopReason::Budget)
    );
    let log = RequestLog::read(root.path());
    let spent = log.spent().nano_usd.unwrap();
    assert!(spent > 1_200_000_000 && spent <= 1_500_000_000, "{spent}");
    assert_eq!(spent, billed_nano_usd(&server));
    assert_eq!(log.without_reply(), 0);
    log.assert_files_match_journal(root.path());
}

#[test]
fn run_never_exceeds_its_token_budget() {
    let root = tempfile::tempdir().unwrap();
    let server = server();
    // A token budget needs no price.
    let mut scenario =
        Scenario::with_models(json!([model(&server.url, json!({"price": null}))]), 2000);
    scenario.tokens = Some(500_000);
    assert_eq!(
        scenario.finish(root.path()).stop_reason(),
        Some(StopReason::Budget)
    );
    let spent = RequestLog::read(root.path()).spent();
    assert!(
        spent.tokens > 400_000 && spent.tokens <= 500_000,
        "{spent:?}"
    );
    let counted: u64 = server
        .seen()
        .iter()
        .enumerate()
        .map(|(number, seen)| {
            let (input, output) = usage(seen, &reply_to(&document(seen), number));
            input + output
        })
        .sum();
    assert_eq!((spent.tokens, spent.nano_usd), (counted, None));
    scenario.tokens = Some(600_000);
    assert_eq!(
        scenario.finish(root.path()).stop_reason(),
        Some(StopReason::Budget)
    );
    let spent = RequestLog::read(root.path()).spent();
    assert!(
        spent.tokens > 500_000 && spent.tokens <= 600_000,
        "{spent:?}"
    );
}

#[test]
fn budget_flag_stops_the_run_and_resume_continues_with_more() {
    let fixture = ProgramFixture::new();
    let server = server();
    fixture.config(&openai_model(&server.url, ""));
    // Enough for one request but not for two.
    let result = fixture.evolve(&["--budget-usd", "0.2", "--steps", "10"]);
    result.assert_run_ended(&[]);
    let totals = summary(&fixture.run_directory());
    assert_eq!(totals["tasks"][0]["stopped"], "budget", "{}", result.stderr);
    let (requests, spent) = (server.seen().len(), dollars(&totals));
    assert!(
        requests > 0 && spent > 0.0 && spent <= 0.2,
        "{requests} {spent}"
    );
    // The budget that the run names lets it continue.
    let mut lines = result.stdout.lines();
    let command = lines.find_map(|line| line.strip_prefix("    kforge "));
    let command: Vec<&str> = command.expect(&result.stdout).split(' ').collect();
    assert_eq!(&command[..3], ["resume", "run", "--budget-usd"]);
    let named: f64 = command[3].parse().unwrap();
    assert!(named > 0.2 && named < 1.0, "{command:?}");
    fixture.run(&command).assert_run_ended(&[]);
    let next = dollars(&summary(&fixture.run_directory()));
    assert!(server.seen().len() > requests && next > spent && next <= named);
    let result = fixture.resume(&["--budget-usd", "5", "--steps", "12"]);
    result.assert_run_ended(&[]);
    let totals = summary(&fixture.run_directory());
    assert_eq!(totals["tasks"][0]["stopped"], "steps");
    assert!(server.seen().len() > requests && dollars(&totals) > spent);
    let log = RequestLog::read(&fixture.run_directory());
    assert_eq!(server.seen().len(), log.replied.len());
    assert_eq!(totals["spent"]["nano_usd"], log.spent().nano_usd.unwrap());
}

fn dollars(summary: &Value) -> f64 {
    summary["spent"]["nano_usd"].as_f64().unwrap() / 1e9
}

#[test]
fn unenforceable_budget_is_refused_before_sending() {
    let fixture = ProgramFixture::new();
    let server = server();
    let without_price =
        openai_model(&server.url, "").replace(", price: {input: 3, output: 15}", "");
    fixture.config(&without_price);
    let result = fixture.evolve(&["--budget-usd", "1"]);
    result.assert_exit(2, &["`local` has no price", "budget.tokens"]);
    for (provider, more) in [("command", ", command: [cat]"), ("mailbox", "")] {
        fixture.config(&format!("  models: [{{provider: {provider}{more}}}]"));
        let result = fixture.evolve(&["--budget-usd", "1"]);
        result.assert_exit(2, &[&format!("the cost of `{provider}` is not known")]);
    }
    assert!(server.seen().is_empty() && !fixture.run_directory().exists());
}

#[test]
fn tokens_of_a_command_provider_are_estimated_from_bytes() {
    let root = tempfile::tempdir().unwrap();
    let script = "cat > /dev/null; echo '<NO_VALID_EDIT/>'";
    let models = json!([{"provider": "command", "command": ["sh", "-c", script], "max_output_tokens": 1000}]);
    let mut scenario = Scenario::with_models(models, 2000);
    scenario.tokens = Some(120_000);
    assert_eq!(
        scenario.finish(root.path()).stop_reason(),
        Some(StopReason::Budget)
    );
    let log = RequestLog::read(root.path());
    let spent = log.spent();
    let tokens: u64 = log.replied.iter().map(|replied| replied.cost.tokens).sum();
    assert_eq!(spent.tokens, tokens);
    assert!(tokens <= 120_000 && tokens > 60_000, "{tokens}");
    let folder = |step: u64, ask: u32| {
        let step = format!("softmax/steps/{step:06}/ask-{ask}");
        root.path().join(step)
    };
    for replied in &log.replied {
        let folder = folder(replied.step, replied.ask);
        let bytes = ["prompt.md", "response.md"]
            .map(|name| std::fs::metadata(folder.join(name)).unwrap().len())
            .iter()
            .sum::<u64>();
        let ratio = bytes as f64 / replied.cost.tokens as f64;
        assert!((3.4..3.6).contains(&ratio), "{bytes} bytes: {replied:?}");
        assert!(replied.cost.estimated && replied.usage.is_none());
    }
    let summary = std::fs::read_to_string(root.path().join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(
        summary["spent"],
        json!({"tokens": tokens, "estimated": true})
    );
}

#[test]
fn search_waits_for_sent_requests_after_reaching_its_target() {
    for round in 0..5 {
        let root = tempfile::tempdir().unwrap();
        let server = server();
        let mut scenario = Scenario::new(&server.url, 2000);
        scenario.max_judging_ms = 10;
        scenario.target = Some(2.0 + 0.25 * f64::from(round));
        assert_eq!(
            scenario.finish(root.path()).stop_reason(),
            Some(StopReason::Target)
        );
        let log = RequestLog::read(root.path());
        assert_eq!(
            log.without_reply(),
            0,
            "the run waits for every request that was sent"
        );
        assert_eq!(server.seen().len(), log.replied.len());
    }
}
