//! Whether the numbers of an event are possible. A damaged number could otherwise allocate gigabytes or overflow a sum.
//!
//! Compares with what any journal can contain. Whether the numbers fit the search is not checked here; the fold does that.

use super::brief::ContextKernels;
use super::task::{EditCounts, Event, ReplayedEvent};

/// More edits than a reply can have.
const MAX_EDITS: u32 = 1_000_000;

/// A number that no island can have is larger than this.
const MAX_ISLAND: u64 = 1000;

impl Event {
    /// Checks the numbers of an event on a line of a journal. The first line has the number 1.
    ///
    /// # Errors
    /// A text that names the first key with an impossible value. Steps are numbered from 1, and each has a line of its own before
    /// others name it, so no step is larger than the number of a line that names it.
    pub(crate) fn check_numbers(&self, line: u64) -> Result<(), String> {
        if let Some(step) = self.step() {
            check("step", step, 1, line)?;
        }
        match self {
            Event::Asked(brief) => {
                check_all("parents", &brief.parents, 1, brief.step - 1)?;
                check("attempt", brief.attempt, 0, line)?;
                if let Some(island) = brief.island {
                    check("island", island.into(), 1, MAX_ISLAND)?;
                }
                for since in brief.retired.values() {
                    check("retired", *since, 0, line)?;
                }
                for weights in &brief.weights {
                    check("weights", weights.attempt, 0, line)?;
                }
                let Some(model) = &brief.model else {
                    return Ok(());
                };
                check("known", model.known, 0, brief.step - 1)?;
                let ContextKernels {
                    elites,
                    different,
                    recent,
                    failures,
                } = &model.context;
                for steps in [elites, different, recent, failures] {
                    check_all("context", steps, 1, brief.step - 1)?;
                }
                Ok(())
            }
            // Amounts of tokens and money come from providers and have no limit; their sums saturate.
            Event::Sent(sent) => check("ask", sent.ask.into(), 1, line),
            Event::Replied(replied) => check("ask", replied.ask.into(), 1, line),
            Event::Proposed(proposed) => {
                check_all("parents", &proposed.parents, 1, proposed.step - 1)?;
                check_edits(&proposed.edits)
            }
            Event::Failed(failed) => {
                if let Some(of) = failed.of {
                    check("of", of, 1, line)?;
                }
                check_edits(&failed.edits)
            }
            Event::Dueled(dueled) => check("against", dueled.against, 1, line),
            Event::Compared(compared) => check("against", compared.against, 1, line),
            Event::Stopped(stopped) => check("at", stopped.at, 0, line),
            Event::Judged(_) | Event::Confirmed(_) | Event::StrongestCompared(_) => Ok(()),
        }
    }
}

impl ReplayedEvent {
    /// Checks the numbers of an event as `Event::check_numbers` does.
    pub(crate) fn check_numbers(&self, line: u64) -> Result<(), String> {
        match self {
            ReplayedEvent::Judged(judged) => check("step", judged.step, 1, line),
            ReplayedEvent::Other(event) => event.check_numbers(line),
        }
    }
}

fn check(key: &str, value: u64, min: u64, max: u64) -> Result<(), String> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    if min > max {
        return Err(format!("`{key}` is {value}, but no value is possible here"));
    }
    Err(format!(
        "`{key}` is {value}, which must be from {min} to {max} here"
    ))
}

fn check_all(key: &str, values: &[u64], min: u64, max: u64) -> Result<(), String> {
    let mut values = values.iter();
    values.try_for_each(|value| check(key, *value, min, max))
}

fn check_edits(edits: &EditCounts) -> Result<(), String> {
    let counts = [edits.asked, edits.missed, edits.repaired].map(u64::from);
    check_all("edits", &counts, 0, MAX_EDITS.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Dueled, StopReason, Stopped};

    #[test]
    fn impossible_steps_are_refused_by_key() {
        let dueled = |step, against| {
            Event::Dueled(Dueled {
                step,
                against,
                duel: None,
                seconds: None,
            })
        };
        assert_eq!(dueled(3, 4).check_numbers(4), Ok(()));
        assert_eq!(
            dueled(u64::MAX, 1).check_numbers(4).unwrap_err(),
            "`step` is 18446744073709551615, which must be from 1 to 4 here"
        );
        assert!(dueled(0, 1).check_numbers(4).is_err());
        assert!(
            dueled(3, 9)
                .check_numbers(4)
                .unwrap_err()
                .contains("`against`")
        );
        let stopped = Event::Stopped(Stopped {
            why: StopReason::Steps,
            at: 8,
            limit: None,
        });
        assert!(stopped.check_numbers(7).is_err());
    }
}
