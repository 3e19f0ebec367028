//! The cost of all requests so far, read from the journal of a task. It is stored nowhere else.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;

use crate::event::{Cost, Event};
use crate::run::{Journal, ParseLine};

/// A line of the journal, parsed only if it is about the cost of a request.
enum CostLine {
    Request(Box<Event>),
    Other,
}

impl ParseLine for CostLine {
    fn parse(name: &str, line: &str) -> Option<serde_json::Result<Self>> {
        match name {
            "sent" | "replied" => {
                Some(Event::parse(name, line)?.map(|event| Self::Request(Box::new(event))))
            }
            _ => Some(Ok(Self::Other)),
        }
    }
}

/// The cost of each request in a journal: the cost of its reply, or its worst case if there is no reply. A journal that does not
/// exist has none, and an incomplete last line is skipped.
///
/// # Errors
/// If the journal cannot be read.
pub(in crate::driver) fn recorded_costs(journal: &Path) -> Result<Vec<Cost>> {
    let mut unanswered: HashMap<(u64, u32), Cost> = HashMap::new();
    let mut costs = Vec::new();
    if !journal.exists() {
        return Ok(costs);
    }
    Journal::read(journal, |_, line| {
        let CostLine::Request(event) = line else {
            return Ok(());
        };
        match *event {
            Event::Sent(sent) => {
                let request = (sent.step, sent.ask);
                // A request that is sent again may have been billed the first time.
                let earlier = unanswered.insert(request, sent.reserved);
                costs.extend(earlier.map(as_assumed));
            }
            Event::Replied(replied) => {
                unanswered.remove(&(replied.step, replied.ask));
                costs.push(replied.cost_in_tokens());
            }
            _ => {}
        }
        Ok(())
    })?;
    costs.extend(unanswered.into_values().map(as_assumed));
    Ok(costs)
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
        let sent = |seq: u64, step: u64, ask: u32, tokens: u64| {
            format!(
                "{{\"schema\":1,\"seq\":{seq},\"time\":\"\",\"step\":{step},\"event\":\"sent\",\"ask\":{ask},\"model\":\"m\",\
                 \"prompt\":\"{}\",\"prompts\":\"v\",\"reserved\":{{\"tokens\":{tokens},\"nano_usd\":7}}}}\n",
                "0".repeat(32)
            )
        };
        let replied = "{\"schema\":1,\"seq\":2,\"time\":\"\",\"step\":1,\"event\":\"replied\",\"ask\":1,\"model\":\"m\",\
                       \"outcome\":\"complete\",\"cost\":{\"tokens\":5,\"nano_usd\":2},\"tries\":1,\"seconds\":1.0}\n";
        // A killed process had sent the request of step 2; it is sent again.
        let text = [
            sent(1, 1, 1, 100),
            replied.to_owned(),
            sent(3, 2, 1, 30),
            sent(4, 2, 1, 30),
            "{\"torn".to_owned(),
        ];
        std::fs::write(&path, text.concat()).unwrap();
        let costs = recorded_costs(&path).unwrap();
        let tokens: u64 = costs.iter().map(|cost| cost.tokens).sum();
        assert_eq!(tokens, 5 + 30 + 30, "{costs:?}");
        assert_eq!(costs.iter().filter(|cost| cost.assumed).count(), 2);
        assert!(
            recorded_costs(&folder.path().join("none"))
                .unwrap()
                .is_empty()
        );
    }
}
