//! What is known of the baseline, the anchor and the oracle from one candidate to the next, so that it is not measured again for each.
//!
//! Only keeps it; `timing_session` finds it out.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::opening::{Opponent, TimedPair};
use super::run_spacing::RunTimes;
use super::sample_plan::{CopyBytes, SamplePlan};
use crate::base::Digest;

/// In a search the oracle takes about this long for one comparison, unless a single copy of the data takes longer. More pairs are compared then,
/// each in fewer copies: a slow oracle would take most of a short timing.
const ORACLE_TIME: Duration = Duration::from_micros(1500);

/// What is known about an opponent on a case. It holds for all candidates, because the opponent decides the plan.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct KnownOpponent {
    /// Of a run.
    pub(super) time: Duration,
    pub(super) bytes: CopyBytes,
    /// The plan for a candidate that is as fast as the opponent.
    pub(super) plan: SamplePlan,
    /// Its times in samples of that plan; `None` until they were taken.
    pub(super) run_times: Option<RunTimes>,
}

/// An opponent that many candidates have, on a case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct OpponentKey {
    /// Hash of the anchor's source; `None`: the baseline.
    anchor: Option<Digest>,
    /// Id of the case.
    case: String,
}

/// What one process has found out about the opponents and the oracle, for other processes that judge on the same device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct OpponentTimes {
    opponents: Vec<(OpponentKey, KnownOpponent)>,
    /// By the case's id, how long the oracle takes for one copy of the data.
    oracle: Vec<(String, Duration)>,
}

impl OpponentTimes {
    pub(crate) fn is_empty(&self) -> bool {
        self.opponents.is_empty() && self.oracle.is_empty()
    }
}

/// The opponents that this process knows: the baseline, and the anchor.
#[derive(Debug, Default)]
pub(super) struct KnownOpponents {
    /// Hash of the anchor's source.
    anchor: Option<Digest>,
    known: RefCell<HashMap<OpponentKey, KnownOpponent>>,
    /// By the case's id, how long the oracle takes for one copy of the data.
    oracle: RefCell<HashMap<String, Duration>>,
}

impl KnownOpponents {
    /// `None` for an opponent of one contest only.
    fn key(&self, contest: TimedPair<'_>) -> Option<OpponentKey> {
        let anchor = match contest.opponent {
            Opponent::Baseline => None,
            Opponent::Anchor(..) => Some(self.anchor?),
            Opponent::Kernel(_) | Opponent::Python(_) => return None,
        };
        let case = contest.case.id.clone();
        Some(OpponentKey { anchor, case })
    }

    pub(super) fn get(&self, contest: TimedPair<'_>) -> Option<KnownOpponent> {
        self.known.borrow().get(&self.key(contest)?).copied()
    }

    /// Remembers an opponent, if it has other contests.
    pub(super) fn insert(&self, contest: TimedPair<'_>, known: KnownOpponent) {
        if let Some(key) = self.key(contest) {
            self.known.borrow_mut().insert(key, known);
        }
    }

    /// Remembers an opponent's times in samples of this many runs, if they are those of its plan.
    pub(super) fn insert_run_times(&self, contest: TimedPair<'_>, runs: usize, times: RunTimes) {
        if let Some(known) = self.get(contest).filter(|known| known.plan.runs == runs) {
            let run_times = Some(times);
            self.insert(contest, KnownOpponent { run_times, ..known });
        }
    }

    /// Copies of a case's data that the oracle computes in `ORACLE_TIME`, at least one. No limit if its time is not known.
    pub(super) fn most_oracle_copies(&self, case: &str) -> usize {
        let known = self.oracle.borrow().get(case).copied();
        known.map_or(usize::MAX, |time| {
            let copies = ORACLE_TIME.as_secs_f64() / time.as_secs_f64();
            (copies as usize).max(1)
        })
    }

    /// Remembers how long the oracle takes for one copy of a case's data. The shortest time counts: a comparison has a fixed cost, which is
    /// divided by its copies.
    pub(super) fn insert_oracle_time(&self, case: &str, time: Duration) {
        let mut oracle = self.oracle.borrow_mut();
        let known = oracle.entry(case.to_owned()).or_insert(time);
        *known = time.min(*known);
    }

    /// From now on the kernel with this source is the anchor. Forgets another one.
    pub(super) fn set_anchor(&mut self, source: Digest) {
        self.anchor = Some(source);
        let known = self.known.get_mut();
        known.retain(|key, _| key.anchor.is_none_or(|anchor| anchor == source));
    }

    /// Adds what another process has found out. What this process has found out itself stays.
    pub(super) fn add(&self, times: &OpponentTimes) {
        let mut known = self.known.borrow_mut();
        for (key, opponent) in &times.opponents {
            known.entry(key.clone()).or_insert(*opponent);
        }
        for (case, time) in &times.oracle {
            self.insert_oracle_time(case, *time);
        }
    }

    /// What is known, for other processes.
    pub(super) fn times(&self) -> OpponentTimes {
        let (known, oracle) = (self.known.borrow(), self.oracle.borrow());
        let opponents = known.iter().map(|(key, known)| (key.clone(), *known));
        let oracle = oracle.iter().map(|(case, time)| (case.clone(), *time));
        OpponentTimes {
            opponents: opponents.collect(),
            oracle: oracle.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::anchor::AnchorRatio;
    use super::super::case::Case;
    use super::super::compiled_kernel::CompiledKernel;
    use super::*;
    use crate::kernel::Kernel;
    use crate::search::AnchorWorkload;
    use crate::task::TaskFiles;
    use crate::verdict::TimeSummary;

    fn anchor_ratio() -> AnchorRatio {
        let workload = AnchorWorkload {
            id: "w".to_owned(),
            speedup: 4.0,
            ci95: [3.9, 4.1],
            baseline_us: TimeSummary {
                median: 9.0,
                mean: 9.0,
                std: 0.1,
                min: 9.0,
                max: 9.0,
                n: 16,
            },
        };
        AnchorRatio::of(&workload).unwrap()
    }

    fn known(runs: usize) -> KnownOpponent {
        KnownOpponent {
            time: Duration::from_micros(3),
            bytes: CopyBytes {
                opponent: 100,
                data: 90,
            },
            plan: SamplePlan {
                runs,
                is_spacing_known: false,
                ..SamplePlan::SINGLE
            },
            run_times: None,
        }
    }

    #[test]
    fn baseline_and_anchor_are_remembered_and_another_anchor_is_not_taken_for_it() {
        let task = TaskFiles::find("softmax").unwrap().load().unwrap();
        let kernel = Kernel::parse(task.baseline().1, &task.definition).unwrap();
        let kernel = CompiledKernel::not_compiled(kernel);
        let workloads = task.selected_workloads(&task.settings.profiles["quick"]);
        let case = Case::of_workload(workloads[0]);
        let against = |opponent| TimedPair {
            candidate: &kernel,
            opponent,
            case: &case,
        };
        let baseline = against(Opponent::Baseline);
        let anchor = against(Opponent::Anchor(&kernel, anchor_ratio()));
        let duel = against(Opponent::Kernel(&kernel));

        let mut opponents = KnownOpponents::default();
        // Without a known source there is nothing to remember an anchor by.
        opponents.insert(anchor, known(5));
        assert_eq!(opponents.get(anchor), None);
        opponents.set_anchor(Digest::of("one"));
        opponents.insert(baseline, known(2));
        opponents.insert(anchor, known(5));
        opponents.insert(duel, known(7));
        assert_eq!(opponents.get(baseline), Some(known(2)));
        assert_eq!(opponents.get(anchor), Some(known(5)));
        assert_eq!(opponents.get(duel), None);

        // Times of other samples than those of the plan.
        let times = RunTimes {
            together: Duration::from_micros(3),
            apart: Duration::from_micros(5),
            launches: 1,
        };
        opponents.insert_run_times(anchor, 4, times);
        assert_eq!(opponents.get(anchor).unwrap().run_times, None);
        opponents.insert_run_times(anchor, 5, times);
        assert_eq!(opponents.get(anchor).unwrap().run_times, Some(times));

        // The shortest time of the oracle counts.
        for milliseconds in [30, 2, 9] {
            opponents.insert_oracle_time("w", Duration::from_millis(milliseconds));
        }

        // As another process gets them.
        let text = serde_json::to_string(&opponents.times()).unwrap();
        let mut other = KnownOpponents::default();
        other.insert(baseline, known(3));
        other.add(&serde_json::from_str(&text).unwrap());
        assert_eq!(other.get(baseline), Some(known(3)));
        assert_eq!(other.get(anchor), None);
        assert_eq!(other.oracle.borrow()["w"], Duration::from_millis(2));
        other.set_anchor(Digest::of("one"));
        assert_eq!(other.get(anchor).unwrap().run_times, Some(times));
        other.set_anchor(Digest::of("two"));
        assert_eq!(other.get(anchor), None);
        other.set_anchor(Digest::of("one"));
        assert_eq!(other.get(anchor), None);
    }

    #[test]
    fn a_slow_oracle_computes_fewer_copies() {
        let most = |microseconds: u64| {
            let opponents = KnownOpponents::default();
            opponents.insert_oracle_time("w", Duration::from_micros(microseconds));
            assert_eq!(opponents.most_oracle_copies("another"), usize::MAX);
            opponents.most_oracle_copies("w")
        };
        assert_eq!(most(20), 75);
        assert_eq!(most(700), 2);
        assert_eq!(most(9000), 1);
        assert_eq!(most(0), usize::MAX);
    }
}
