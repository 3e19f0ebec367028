//! A cap in dollars or in tokens is never passed, whatever is under way.

use kforge::event::StopReason;
use serde_json::{Value, json};

use crate::journal::{Asked, summary};
use crate::model::{answer, complete, document, late, usage};
use crate::scene::{Scene, model};
use crate::server::Server;
use crate::shell::{Shell, models};

/// Answers after a moment, so that as many are under way as may be.
fn server() -> Server {
    Server::start(|number, seen| {
        let reply = complete(seen, &answer(&document(seen), number));
        late(reply, std::time::Duration::from_millis(30))
    })
}

/// What the server itself would put on the bill, in billionths of a dollar: 1 and 5 dollars for a million tokens.
fn bill(server: &Server) -> u64 {
    let seen = server.seen();
    let requests = seen.iter().enumerate().map(|(number, seen)| {
        let (input, output) = usage(seen, &answer(&document(seen), number));
        input * 1000 + output * 5000
    });
    requests.sum()
}

#[test]
fn a_run_with_one_dollar_stops_at_or_below_it_with_eight_under_way() {
    let root = tempfile::tempdir().unwrap();
    let server = server();
    let price = json!({"price": {"input": 1, "output": 5}});
    let models = json!([model(&server.url, price)]);
    let mut scene = Scene::of(models, 2000).with(json!({"concurrency": 8}));
    scene.usd = Some(1.0);
    let end = scene.finish(root.path());
    assert_eq!(end.why(), Some(StopReason::Budget));
    let asked = Asked::of(root.path());
    let spent = asked.spent().nano_usd.unwrap();
    assert_eq!(spent, bill(&server), "to the billionth");
    assert!(spent <= 1_000_000_000, "{spent}");
    // One more question at its worst would have passed it, and that is all that is left over.
    let worst = asked
        .sent
        .iter()
        .filter_map(|sent| sent.reserved.nano_usd)
        .max()
        .unwrap();
    assert!(
        spent + 2 * worst > 1_000_000_000,
        "{spent} of a dollar, a question is {worst} at most"
    );
    assert_eq!(summary(root.path())["tasks"][0]["stopped"], "budget");
    assert_eq!(asked.most_at_once, 8);
    let requests = server.seen().len();
    println!("{requests} requests for ${:.4}", spent as f64 / 1e9);

    // The same money again: nothing more is sent. More of it goes on.
    assert_eq!(scene.finish(root.path()).why(), Some(StopReason::Budget));
    assert_eq!(server.seen().len(), requests);
    scene.usd = Some(1.5);
    assert_eq!(scene.finish(root.path()).why(), Some(StopReason::Budget));
    let asked = Asked::of(root.path());
    let spent = asked.spent().nano_usd.unwrap();
    assert!(spent > 1_200_000_000 && spent <= 1_500_000_000, "{spent}");
    assert_eq!(spent, bill(&server));
    assert_eq!(asked.unanswered(), 0);
    asked.replies_are_kept(root.path());
}

#[test]
fn tokens_are_capped_alike() {
    let root = tempfile::tempdir().unwrap();
    let server = server();
    // Without a price: tokens can be counted all the same.
    let mut scene = Scene::of(json!([model(&server.url, json!({"price": null}))]), 2000);
    scene.tokens = Some(500_000);
    assert_eq!(scene.finish(root.path()).why(), Some(StopReason::Budget));
    let spent = Asked::of(root.path()).spent();
    assert!(
        spent.tokens > 400_000 && spent.tokens <= 500_000,
        "{spent:?}"
    );
    let counted: u64 = server
        .seen()
        .iter()
        .enumerate()
        .map(|(number, seen)| {
            let (input, output) = usage(seen, &answer(&document(seen), number));
            input + output
        })
        .sum();
    assert_eq!((spent.tokens, spent.nano_usd), (counted, None));
    scene.tokens = Some(600_000);
    assert_eq!(scene.finish(root.path()).why(), Some(StopReason::Budget));
    let spent = Asked::of(root.path()).spent();
    assert!(
        spent.tokens > 500_000 && spent.tokens <= 600_000,
        "{spent:?}"
    );
}

#[test]
fn the_flag_stops_the_program_and_resume_with_more_goes_on() {
    let Some(shell) = Shell::new() else { return };
    let server = server();
    shell.config(&models(&server.url, ""));
    // Enough for one question, and not for another.
    let said = shell.evolve(&["--budget-usd", "0.2", "--steps", "10"]);
    said.ends(0, &[]);
    let told = summary(&shell.run_directory());
    assert_eq!(told["tasks"][0]["stopped"], "budget", "{}", said.err);
    let (requests, spent) = (server.seen().len(), dollars(&told));
    assert!(
        requests > 0 && spent > 0.0 && spent <= 0.2,
        "{requests} {spent}"
    );
    let said = shell.resume(&["--budget-usd", "5"]);
    said.ends(0, &[]);
    let told = summary(&shell.run_directory());
    assert_eq!(told["tasks"][0]["stopped"], "steps");
    assert!(server.seen().len() > requests && dollars(&told) > spent);
    let asked = Asked::of(&shell.run_directory());
    assert_eq!(server.seen().len(), asked.replied.len());
    assert_eq!(told["spent"]["nano_usd"], asked.spent().nano_usd.unwrap());
}

fn dollars(summary: &Value) -> f64 {
    summary["spent"]["nano_usd"].as_f64().unwrap() / 1e9
}

#[test]
fn what_cannot_be_kept_is_refused_before_anything_is_sent() {
    let Some(shell) = Shell::new() else { return };
    let server = server();
    let without_price = models(&server.url, "").replace(", price: {input: 3, output: 15}", "");
    shell.config(&without_price);
    let said = shell.evolve(&["--budget-usd", "1"]);
    said.ends(2, &["`local` has no price", "budget.tokens"]);
    for (provider, more) in [("command", ", command: [cat]"), ("mailbox", "")] {
        shell.config(&format!("  models: [{{provider: {provider}{more}}}]"));
        let said = shell.evolve(&["--budget-usd", "1"]);
        said.ends(2, &[&format!("what `{provider}` costs is not known")]);
    }
    assert!(server.seen().is_empty() && !shell.run_directory().exists());
}

#[test]
fn a_programs_bytes_count_under_a_cap_in_tokens() {
    let root = tempfile::tempdir().unwrap();
    let script = "cat > /dev/null; echo '<NO_VALID_EDIT/>'";
    let models = json!([{"provider": "command", "command": ["sh", "-c", script], "max_output_tokens": 1000}]);
    let mut scene = Scene::of(models, 2000);
    scene.tokens = Some(400_000);
    assert_eq!(scene.finish(root.path()).why(), Some(StopReason::Budget));
    let asked = Asked::of(root.path());
    let spent = asked.spent();
    let bytes: u64 = asked
        .replied
        .iter()
        .map(|replied| replied.cost.tokens)
        .sum();
    assert_eq!(spent.tokens, bytes);
    assert!(bytes <= 400_000 && bytes > 200_000, "{bytes}");
}

#[test]
fn a_search_that_reaches_its_target_takes_in_what_is_under_way() {
    for round in 0..5 {
        let root = tempfile::tempdir().unwrap();
        let server = server();
        let mut scene = Scene::new(&server.url, 2000);
        scene.judging = 10;
        scene.target = Some(2.0 + 0.25 * f64::from(round));
        assert_eq!(scene.finish(root.path()).why(), Some(StopReason::Target));
        let asked = Asked::of(root.path());
        assert_eq!(
            asked.unanswered(),
            0,
            "what was sent is paid for, and was waited for"
        );
        assert_eq!(server.seen().len(), asked.replied.len());
    }
}
