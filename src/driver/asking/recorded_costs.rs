//! What asking has cost so far, read from the journals of a run's tasks. Nothing else keeps it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::event::{Cost, Event};
use crate::run::JournalLine;

/// What the questions of a journal have cost, one amount each: those replied to by their replies, the rest at the most that they can
/// have cost. Lines that are no whole line are nobody's: opening the journal tells of them.
pub(in crate::driver) fn recorded_costs(journal: &Path) -> Vec<Cost> {
    let Ok(file) = std::fs::File::open(journal) else {
        return Vec::new();
    };
    let mut open: HashMap<(u64, u32), Cost> = HashMap::new();
    let mut spent = Vec::new();
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
                    let before = open.insert((sent.step, sent.ask), sent.reserved);
                    spent.extend(before.map(as_assumed));
                }
                Some(Ok(Event::Replied(replied))) => {
                    open.remove(&(replied.step, replied.ask));
                    spent.push(replied.cost);
                }
                _ => {}
            }
        }
    }
    spent.extend(open.into_values().map(as_assumed));
    spent
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
        // A question that a killed process had sent is sent again: the first may have been billed.
        let text = [
            sent(1, 1, 100),
            replied.to_owned(),
            sent(2, 1, 30),
            sent(2, 1, 30),
            "{\"torn".to_owned(),
        ];
        std::fs::write(&path, text.concat()).unwrap();
        let spent = recorded_costs(&path);
        let sum: u64 = spent.iter().map(|cost| cost.tokens).sum();
        assert_eq!(sum, 5 + 30 + 30, "{spent:?}");
        assert_eq!(spent.iter().filter(|cost| cost.assumed).count(), 2);
        assert!(recorded_costs(&folder.path().join("none")).is_empty());
    }
}
