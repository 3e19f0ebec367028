//! The cost of all requests so far, read from the journal of a task. It is stored nowhere else.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::event::{Cost, Event};
use crate::run::JournalLine;

/// The cost of each request in a journal: the cost of its reply, or its worst case if there is no reply.
///
/// A journal that cannot be read costs nothing, and an incomplete line is skipped: opening the journal reports both.
pub(in crate::driver) fn recorded_costs(journal: &Path) -> Vec<Cost> {
    let Ok(file) = std::fs::File::open(journal) else {
        return Vec::new();
    };
    let mut unanswered: HashMap<(u64, u32), Cost> = HashMap::new();
    let mut costs = Vec::new();
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let mut line = String::new();
    loop {
        line.clear();
        match reader.read_line(&mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        for name in ["sent", "replied"] {
            if !line.contains(&format!("\"event\":\"{name}\"")) {
                continue;
            }
            match Event::parse(name, &line) {
                Some(Ok(Event::Sent(sent))) => {
                    let request = (sent.step, sent.ask);
                    // A request that is sent again may have been billed the first time.
                    let earlier = unanswered.insert(request, sent.reserved);
                    costs.extend(earlier.map(as_assumed));
                }
                Some(Ok(Event::Replied(replied))) => {
                    unanswered.remove(&(replied.step, replied.ask));
                    costs.push(replied.cost);
                }
                _ => {}
            }
        }
    }
    costs.extend(unanswered.into_values().map(as_assumed));
    costs
}

fn as_assumed(cost: Cost) -> Cost {
    Cost {
        assumed: true,
        ..cost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_count_at_cost_and_unanswered_requests_at_worst_case() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let sent = |step: u64, ask: u32, tokens: u64| {
            format!(
                "{{\"schema\":1,\"seq\":1,\"time\":\"\",\"step\":{step},\"event\":\"sent\",\"ask\":{ask},\"model\":\"m\",\
                 \"prompt\":\"{}\",\"prompts\":\"v\",\"reserved\":{{\"tokens\":{tokens},\"nano_usd\":7}}}}\n",
                "0".repeat(32)
            )
        };
        let replied = "{\"schema\":1,\"seq\":2,\"time\":\"\",\"step\":1,\"event\":\"replied\",\"ask\":1,\"model\":\"m\",\
                       \"outcome\":\"complete\",\"cost\":{\"tokens\":5,\"nano_usd\":2},\"tries\":1,\"seconds\":1.0}\n";
        // A killed process had sent the request of step 2; it is sent again.
        let text = [
            sent(1, 1, 100),
            replied.to_owned(),
            sent(2, 1, 30),
            sent(2, 1, 30),
            "{\"torn".to_owned(),
        ];
        std::fs::write(&path, text.concat()).unwrap();
        let costs = recorded_costs(&path);
        let tokens: u64 = costs.iter().map(|cost| cost.tokens).sum();
        assert_eq!(tokens, 5 + 30 + 30, "{costs:?}");
        assert_eq!(costs.iter().filter(|cost| cost.assumed).count(), 2);
        assert!(recorded_costs(&folder.path().join("none")).is_empty());
    }
}
