//! The best kernel that a run has found, read from its journals.
//!
//! Another process may be working on the run, so nothing is changed and an incomplete last line is skipped.

use std::collections::{HashMap, HashSet};

use anyhow::Result;

use super::directory::RunDirectory;
use super::journal::Journal;
use super::sessions::TaskSessions;
use crate::base::Digest;
use crate::base::files::read_recorded;
use crate::event::{Event, JudgedSummary, ReplayedEvent, RunEvent};
use crate::verdict::{Status, VerdictSummary};

/// The best kernel of a run.
#[derive(Clone, Debug)]
pub(crate) struct BestOfRun {
    pub step: u64,
    pub source: String,
}

/// The best kernel of a task: the fastest that is confirmed to be faster than the baseline. If there is none, the fastest of the others
/// that passed, were not refuted since and lost no duel, each by its last figure. `None` if there is no such kernel.
/// The baseline itself is chosen only if nothing else has passed.
///
/// # Errors
/// If the journal cannot be read, or the kernel's file differs from the hash in the journal.
pub(crate) fn best_kernel(
    directory: &RunDirectory,
    task: &str,
    baseline: Digest,
) -> Result<Option<BestOfRun>> {
    let folder = directory.task_for_reading(task)?;
    if !folder.journal().is_file() {
        return Ok(None);
    }
    let mut sessions = TaskSessions::default();
    Journal::read(&directory.journal(), |head, event: RunEvent| {
        sessions.apply(task, head.time, &event);
        Ok(())
    })?;
    let mut history = KernelHistory::default();
    Journal::read(&folder.journal(), |head, event: ReplayedEvent| {
        match event {
            // Confirmations from before an accepted change no longer count.
            ReplayedEvent::Other(event)
                if matches!(*event, Event::Confirmed(_))
                    && !sessions.is_after_change(head.seq, head.time) => {}
            ReplayedEvent::Other(event) => history.apply(*event),
            ReplayedEvent::Judged(judged) => history.apply_judged(&judged),
        }
        Ok(())
    })?;
    let Some(step) = history.best(baseline) else {
        return Ok(None);
    };
    let Some(kernel) = history.kernels.get(&step) else {
        return Ok(None);
    };
    let folder_step = history.source_steps.get(kernel).copied().unwrap_or(step);
    let source = read_recorded(&folder.source(folder_step), *kernel, "kernel")?;
    Ok(Some(BestOfRun { step, source }))
}

/// The kernels of a task and their verdicts, as the journal describes them.
#[derive(Default)]
struct KernelHistory {
    /// By step.
    kernels: HashMap<u64, Digest>,
    /// The step whose folder has the source.
    source_steps: HashMap<Digest, u64>,
    /// The speedup of each step whose last verdict is `passed`.
    passed: HashMap<u64, f64>,
    /// The last confirmation of each step.
    confirmed: HashMap<u64, VerdictSummary>,
    /// Challengers that were not faster than the incumbent.
    lost_duels: HashSet<u64>,
}

impl KernelHistory {
    fn apply(&mut self, event: Event) {
        match event {
            Event::Proposed(proposed) => {
                self.kernels.insert(proposed.step, proposed.kernel);
                self.source_steps
                    .entry(proposed.kernel)
                    .or_insert(proposed.step);
            }
            Event::Failed(failed) => {
                let kernel = failed.kernel;
                self.kernels
                    .extend(kernel.map(|kernel| (failed.step, kernel)));
            }
            Event::Confirmed(confirmed) if confirmed.verdict.status != Status::HarnessError => {
                let verdict = VerdictSummary::from(&confirmed.verdict);
                self.confirmed.insert(confirmed.step, verdict);
            }
            Event::Dueled(dueled) if dueled.duel.is_none_or(|duel| duel.ci95[0] <= 1.0) => {
                self.lost_duels.insert(dueled.step);
            }
            _ => {}
        }
    }

    fn apply_judged(&mut self, judged: &JudgedSummary) {
        let verdict = &judged.verdict;
        match verdict.passed_speedup() {
            Some(_) if verdict.is_dismissed() => {}
            Some(speedup) => {
                self.passed.insert(judged.step, speedup.geomean);
            }
            None if verdict.status == Status::HarnessError => {}
            None => {
                self.passed.remove(&judged.step);
            }
        }
    }

    /// Step of the best kernel.
    fn best(&self, baseline: Digest) -> Option<u64> {
        let is_refuted = |step: &u64| {
            let verdict = self.confirmed.get(step);
            verdict.is_some_and(|verdict| {
                !matches!(verdict.status, Status::Passed | Status::Inconclusive)
            })
        };
        let is_baseline = |step: &u64| self.kernels.get(step) == Some(&baseline);
        let confirmed = |step: &u64| {
            let verdict = self.confirmed.get(step)?;
            verdict.passed_speedup().filter(|_| !verdict.is_dismissed())
        };
        let faster = (self.confirmed.keys())
            .filter(|step| !is_baseline(step))
            .filter_map(|step| Some((*step, confirmed(step)?)))
            .filter(|(_, speedup)| speedup.is_faster())
            .map(|(step, speedup)| (step, speedup.geomean));
        let unrefuted = || {
            let passed = self.passed.iter();
            passed
                .filter(|(step, _)| !is_refuted(step) && !self.lost_duels.contains(step))
                .map(|(step, searched)| {
                    let figure = confirmed(step).map_or(*searched, |speedup| speedup.geomean);
                    (*step, figure)
                })
        };
        fastest(faster)
            .or_else(|| fastest(unrefuted().filter(|(step, _)| !is_baseline(step))))
            .or_else(|| fastest(unrefuted()))
    }
}

/// The fastest of some steps with their speedups. If two have the same speedup, the kernel of the smaller step.
fn fastest(speedups: impl Iterator<Item = (u64, f64)>) -> Option<u64> {
    speedups
        .max_by(|one, other| one.1.total_cmp(&other.1).then(other.0.cmp(&one.0)))
        .map(|(step, _)| step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::files;
    use crate::event::{Accepted, Confirmed, Dueled, EditCounts, Judged, Operator, Proposed};
    use crate::run::TaskDirectory;
    use crate::verdict::{Duel, Speedup, Verdict};

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

    /// A kernel that the run has not tried.
    fn baseline() -> Digest {
        Digest::of("the baseline")
    }

    fn proposed(step: u64) -> Event {
        let kernel = Digest::of(format!("kernel {step}"));
        Event::Proposed(Proposed {
            form: None,
            step,
            kernel,
            operator: Operator::Propose,
            parents: vec![],
            detail: String::new(),
            family: kernel,
            point: Default::default(),
            space: Default::default(),
            constraints: Vec::new(),
            expected: None,
            edits: EditCounts::default(),
            shingles: None,
            tried: None,
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
            seconds: None,
        })
    }

    /// A run with one task and the journal of each.
    struct TestRun {
        _root: tempfile::TempDir,
        directory: RunDirectory,
        task: TaskDirectory,
        run_journal: Journal,
        task_journal: Journal,
    }

    impl TestRun {
        /// Kernels 1 to 4 are proposed; 2, 3 and 4 passed.
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let directory = RunDirectory::new(root.path());
            assert!(
                best_kernel(&directory, "softmax", baseline())
                    .unwrap()
                    .is_none(),
                "no folder"
            );
            let task = directory.create_task("softmax").unwrap();
            let run_journal = Journal::open(&directory.journal(), |_, _: RunEvent| Ok(())).unwrap();
            let task_journal = Journal::open(&task.journal(), |_, _: Event| Ok(())).unwrap();
            let mut run = Self {
                _root: root,
                directory,
                task,
                run_journal,
                task_journal,
            };
            for step in 1..=4 {
                files::create_folder(&run.task.step(step)).unwrap();
                let text = format!("kernel {step}");
                files::replace(&run.task.source(step), text.as_bytes()).unwrap();
                run.record(&[proposed(step)]);
            }
            run.record(&[judged(1, Status::WrongOutput, 0.0)]);
            assert_eq!(run.best(), None, "nothing passed yet");
            run.record(&[
                judged(2, Status::Passed, 1.5),
                judged(3, Status::Passed, 2.0),
                judged(4, Status::Passed, 2.1),
            ]);
            run
        }

        fn record(&mut self, events: &[Event]) {
            for event in events {
                self.task_journal.append(event).unwrap();
            }
            self.task_journal.sync().unwrap();
        }

        /// Step of the best kernel.
        fn best(&self) -> Option<u64> {
            let best = best_kernel(&self.directory, "softmax", baseline()).unwrap()?;
            assert_eq!(best.source, format!("kernel {}", best.step));
            Some(best.step)
        }
    }

    #[test]
    fn best_kernel_prefers_confirmed_and_skips_refuted_and_beaten() {
        let mut run = TestRun::new();
        assert_eq!(run.best(), Some(4));
        let duel = Some(Duel {
            ratio: 0.99,
            ci95: [0.98, 1.01],
        });
        run.record(&[Event::Dueled(Dueled {
            step: 4,
            against: 3,
            duel,
            seconds: None,
        })]);
        assert_eq!(run.best(), Some(3));
        run.record(&[confirmed(3, Status::Race, 0.0)]);
        assert_eq!(run.best(), Some(2));
        run.record(&[confirmed(2, Status::Passed, 1.4)]);
        assert_eq!(run.best(), Some(2));
    }

    #[test]
    fn a_confirmed_kernel_is_the_best_only_if_it_is_faster_than_the_baseline() {
        let mut run = TestRun::new();
        // The interval of the second contains 1.
        run.record(&[
            confirmed(4, Status::Passed, 0.083),
            confirmed(3, Status::Passed, 1.05),
        ]);
        assert_eq!(run.best(), Some(2), "1.5x in the search");
        run.record(&[confirmed(2, Status::Inconclusive, 0.0)]);
        assert_eq!(run.best(), Some(2), "too noisy refutes nothing");
        run.record(&[confirmed(2, Status::Passed, 0.9)]);
        assert_eq!(run.best(), Some(3), "the fastest of all figures");
        run.record(&[confirmed(4, Status::Passed, 1.2)]);
        assert_eq!(run.best(), Some(4), "the only faster kernel");
    }

    #[test]
    fn the_baseline_is_chosen_only_if_nothing_else_has_passed() {
        let mut run = TestRun::new();
        let best = |run: &TestRun| {
            let baseline = Digest::of("kernel 4");
            best_kernel(&run.directory, "softmax", baseline)
                .unwrap()
                .map(|best| best.step)
        };
        run.record(&[confirmed(4, Status::Passed, 1.3)]);
        assert_eq!(best(&run), Some(3));
        run.record(&[
            confirmed(3, Status::Race, 0.0),
            confirmed(2, Status::Race, 0.0),
        ]);
        assert_eq!(best(&run), Some(4));
    }

    #[test]
    fn torn_last_line_is_ignored_and_kept() {
        let run = TestRun::new();
        let whole = std::fs::read(run.task.journal()).unwrap();
        std::fs::write(run.task.journal(), [&whole[..], b"{\"schema\":1"].concat()).unwrap();
        assert_eq!(run.best(), Some(4));
        assert_eq!(
            std::fs::read(run.task.journal()).unwrap().len(),
            whole.len() + 11
        );
    }

    #[test]
    fn confirmations_before_an_accepted_change_do_not_count() {
        let mut run = TestRun::new();
        run.record(&[
            confirmed(4, Status::Race, 0.0),
            confirmed(2, Status::Passed, 1.4),
        ]);
        assert_eq!(run.best(), Some(2));
        std::thread::sleep(std::time::Duration::from_millis(5));
        let accepted = RunEvent::Accepted(Accepted { changes: vec![] });
        run.run_journal.append(&accepted).unwrap();
        run.run_journal.sync().unwrap();
        assert_eq!(run.best(), Some(4));
    }

    #[test]
    fn edited_kernel_file_is_an_error() {
        let run = TestRun::new();
        files::replace(&run.task.source(4), b"another").unwrap();
        let error = best_kernel(&run.directory, "softmax", baseline())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("is not the kernel that the journal names"),
            "{error}"
        );
    }
}
