//! The best kernel that a run has found, read from its journals. Somebody may be at work there: nothing is changed.

use std::collections::{HashMap, HashSet};

use anyhow::Result;

use super::{Journal, RunDirectory};
use crate::base::{Digest, files};
use crate::event::{Event, RunEvent};
use crate::verdict::{Status, Verdict};

/// A kernel of a run, and what was last said of it.
#[derive(Clone, Debug)]
pub(crate) struct BestOfRun {
    pub step: u64,
    pub source: String,
    /// Of its confirmation, where it was confirmed.
    pub verdict: Verdict,
}

/// The fastest of a task's confirmed kernels; where none is confirmed, the fastest of those that passed, were not refuted since, and
/// did not lose against another. `None` where there is no such kernel.
///
/// # Errors
/// Where the journal cannot be read, or the kernel's file is not what the journal names.
pub(crate) fn best_kernel(directory: &RunDirectory, task: &str) -> Result<Option<BestOfRun>> {
    let folder = directory.task_for_reading(task)?;
    if !folder.journal().is_file() {
        return Ok(None);
    }
    let mut accepted = String::new();
    Journal::read(&directory.journal(), |head, event: RunEvent| {
        if matches!(event, RunEvent::Accepted(_)) {
            head.time.clone_into(&mut accepted);
        }
        Ok(())
    })?;
    let mut found = KernelHistory::default();
    Journal::read(&folder.journal(), |head, event: Event| {
        // What was confirmed before a change says nothing of now.
        let is_stale = matches!(event, Event::Confirmed(_)) && head.time < accepted.as_str();
        if !is_stale {
            found.apply(event);
        }
        Ok(())
    })?;
    let Some((step, verdict)) = found.best() else {
        return Ok(None);
    };
    let Some(kernel) = found.kernels.get(&step) else {
        return Ok(None);
    };
    let path = folder.source(found.holders.get(kernel).copied().unwrap_or(step));
    let source = files::read_recorded(&path, *kernel, "kernel")?;
    Ok(Some(BestOfRun {
        step,
        source,
        verdict,
    }))
}

#[derive(Default)]
struct KernelHistory {
    kernels: HashMap<u64, Digest>,
    /// The step whose folder has the text.
    holders: HashMap<Digest, u64>,
    /// Of a step, what was said of it last.
    judged: HashMap<u64, Verdict>,
    confirmed: HashMap<u64, Verdict>,
    /// Lost against the one that they would have replaced.
    lost_duels: HashSet<u64>,
}

impl KernelHistory {
    fn apply(&mut self, event: Event) {
        match event {
            Event::Proposed(proposed) => {
                self.kernels.insert(proposed.step, proposed.kernel);
                self.holders.entry(proposed.kernel).or_insert(proposed.step);
            }
            Event::Failed(failed) => {
                let kernel = failed.kernel;
                self.kernels
                    .extend(kernel.map(|kernel| (failed.step, kernel)));
            }
            Event::Judged(judged) if judged.verdict.status != Status::HarnessError => {
                self.judged.insert(judged.step, judged.verdict);
            }
            Event::Confirmed(confirmed) if confirmed.verdict.status != Status::HarnessError => {
                self.confirmed.insert(confirmed.step, confirmed.verdict);
            }
            Event::Dueled(dueled) if dueled.duel.is_none_or(|duel| duel.ci95[0] <= 1.0) => {
                self.lost_duels.insert(dueled.step);
            }
            _ => {}
        }
    }

    fn best(&self) -> Option<(u64, Verdict)> {
        let refuted = |step: &u64| {
            let verdict = self.confirmed.get(step);
            verdict.is_some_and(|verdict| {
                !matches!(verdict.status, Status::Passed | Status::Inconclusive)
            })
        };
        let passed = (self.judged.iter())
            .filter(|(step, _)| !refuted(step) && !self.lost_duels.contains(step));
        let best = fastest(self.confirmed.iter()).or_else(|| fastest(passed))?;
        Some((*best.0, best.1.clone()))
    }
}

/// The fastest that passed; of equals the one with the smallest step.
fn fastest<'a>(
    verdicts: impl Iterator<Item = (&'a u64, &'a Verdict)>,
) -> Option<(&'a u64, &'a Verdict)> {
    let speed = |verdict: &Verdict| {
        let speedup = verdict.speedup.filter(|_| verdict.passed());
        speedup.map(|speedup| speedup.geomean)
    };
    let measured = verdicts.filter_map(|(step, verdict)| Some((speed(verdict)?, step, verdict)));
    measured
        .max_by(|one, other| one.0.total_cmp(&other.0).then(other.1.cmp(one.1)))
        .map(|(_, step, verdict)| (step, verdict))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Confirmed, Dueled, Edits, Judged, Operator, Proposed};
    use crate::verdict::{Duel, Speedup};

    fn verdict(status: Status, speedup: f64) -> Verdict {
        Verdict {
            status,
            speedup: (status == Status::Passed).then_some(Speedup {
                geomean: speedup,
                ci95: [speedup * 0.9, speedup * 1.1],
            }),
            ..Verdict::harness_error("softmax", "", "cpu", String::new())
        }
    }

    fn proposed(step: u64) -> Event {
        let kernel = Digest::of(format!("kernel {step}"));
        Event::Proposed(Proposed {
            step,
            kernel,
            operator: Operator::Propose,
            parents: vec![],
            detail: String::new(),
            family: kernel,
            point: Default::default(),
            space: Default::default(),
            expected: None,
            edits: Edits::default(),
        })
    }

    fn judged(step: u64, status: Status, speedup: f64) -> Event {
        Event::Judged(Judged {
            step,
            verdict: verdict(status, speedup),
        })
    }

    fn confirmed(step: u64, status: Status, speedup: f64) -> Event {
        Event::Confirmed(Confirmed {
            step,
            verdict: verdict(status, speedup),
        })
    }

    #[test]
    fn best_kernel_prefers_confirmed_and_skips_refuted_and_beaten() {
        let root = tempfile::tempdir().unwrap();
        let directory = RunDirectory::new(root.path());
        let best = || {
            let best = best_kernel(&directory, "softmax").unwrap();
            best.map(|best| {
                (
                    best.step,
                    best.source,
                    best.verdict.speedup.unwrap().geomean,
                )
            })
        };
        let of = |step: u64, speedup: f64| Some((step, format!("kernel {step}"), speedup));
        assert_eq!(best(), None, "no folder of that name");
        let task = directory.create_task("softmax").unwrap();
        let mut run = Journal::open(&directory.journal(), |_, _: RunEvent| Ok(())).unwrap();
        let mut journal = Journal::open(&task.journal(), |_, _: Event| Ok(())).unwrap();
        let mut tell = |events: &[Event]| {
            events
                .iter()
                .for_each(|event| journal.append(event).unwrap());
            journal.sync().unwrap();
        };
        for step in 1..=4 {
            files::create_folder(&task.step(step)).unwrap();
            files::replace(&task.source(step), format!("kernel {step}").as_bytes()).unwrap();
            tell(&[proposed(step)]);
        }
        tell(&[judged(1, Status::WrongOutput, 0.0)]);
        assert_eq!(best(), None);
        tell(&[
            judged(2, Status::Passed, 1.5),
            judged(3, Status::Passed, 2.0),
            judged(4, Status::Passed, 2.1),
        ]);
        assert_eq!(best(), of(4, 2.1));
        let duel = Some(Duel {
            ratio: 0.99,
            ci95: [0.98, 1.01],
        });
        tell(&[Event::Dueled(Dueled {
            step: 4,
            against: 3,
            duel,
        })]);
        assert_eq!(best(), of(3, 2.0));
        tell(&[confirmed(3, Status::Race, 0.0)]);
        assert_eq!(best(), of(2, 1.5));
        tell(&[confirmed(2, Status::Passed, 1.4)]);
        assert_eq!(best(), of(2, 1.4));
        // A line that is only just being written is nobody's, and stays.
        let whole = std::fs::read(task.journal()).unwrap();
        std::fs::write(task.journal(), [&whole[..], b"{\"schema\":1"].concat()).unwrap();
        assert_eq!(best(), of(2, 1.4));
        assert_eq!(
            std::fs::read(task.journal()).unwrap().len(),
            whole.len() + 11
        );
        std::fs::write(task.journal(), &whole).unwrap();
        // After an accepted change what was confirmed is not.
        std::thread::sleep(std::time::Duration::from_millis(5));
        run.append(&RunEvent::Accepted(crate::event::Accepted {
            changes: vec![],
        }))
        .unwrap();
        run.sync().unwrap();
        assert_eq!(best(), of(3, 2.0));
        files::replace(&task.source(3), b"another").unwrap();
        let error = best_kernel(&directory, "softmax").unwrap_err().to_string();
        assert!(
            error.contains("is not the kernel that the journal names"),
            "{error}"
        );
    }
}
