//! A kernel that has won its contest, timed in pairs with the strongest baselines. If targets are over one of them (`eval.baseline`), the
//! kernel must be faster than that one too.
//!
//! Decides only. Reads and writes no file; `cli::promote` does.

use std::sync::Arc;

use anyhow::{Result, bail};

use super::promote::{Contest, evaluate};
use super::settle::strongest_compared;
use crate::event::{DerivedBaselines, StrongestCompared, strongest_known};
use crate::verdict::Yardstick;
use crate::worker::{Contenders, Evaluator, JobKind, JobOutcome};

impl Contest {
    /// The contest after the kernel was timed against the contenders. Without contenders nothing is timed.
    ///
    /// # Errors
    /// Broken machinery only.
    pub(crate) async fn beside_strongest(
        mut self,
        evaluator: &dyn Evaluator,
        challenger: &str,
        contenders: Option<Arc<Contenders>>,
        yardstick: Option<&Yardstick>,
    ) -> Result<Self> {
        if !self.won {
            return Ok(self);
        }
        let compared = match contenders {
            Some(contenders) => Some(compare(evaluator, challenger, contenders).await?),
            None => None,
        };
        let derived = DerivedBaselines::of(&self.challenger);
        let known = strongest_known(derived, compared.as_ref());
        self.challenger.set_strongest(&known);
        if let Some(over) = yardstick
            && let Some(why) = not_faster(compared.as_ref(), over)
        {
            self.won = false;
            self.why = why;
        }
        Ok(self)
    }
}

async fn compare(
    evaluator: &dyn Evaluator,
    challenger: &str,
    contenders: Arc<Contenders>,
) -> Result<StrongestCompared> {
    let kind = JobKind::CompareStrongest(contenders);
    match evaluate(evaluator, &challenger.into(), kind).await? {
        JobOutcome::Strongest(outcome) => Ok(strongest_compared(0, *outcome, None)),
        _ => bail!("the judge timed no baselines"),
    }
}

/// Why a kernel is not shown to be faster than the yardstick; `None` if it is.
fn not_faster(compared: Option<&StrongestCompared>, over: &Yardstick) -> Option<String> {
    let label = over.label();
    let mut entries = compared.iter().flat_map(|compared| &compared.entries);
    let entry = entries.find(|entry| entry.name == over.name);
    let Some(speedup) = entry.and_then(|entry| entry.kernel_speedup) else {
        let reason = entry.and_then(|entry| entry.reason.clone());
        let reason = reason.or_else(|| compared?.reason.clone());
        let reason = reason.unwrap_or_else(|| "it does not work here".to_owned());
        return Some(format!("it could not be timed against {label}: {reason}"));
    };
    let [low, high] = speedup.ci95;
    let what = match () {
        () if speedup.is_faster() => return None,
        () if speedup.is_slower() => "slower",
        () => "not clearly faster",
    };
    Some(format!(
        "it is {what} than {label}: {:.3}x [{low:.3}, {high:.3}] in pairs",
        speedup.geomean
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Digest;
    use crate::verdict::{BaselineEntry, Speedup};

    fn entry(ci95: Option<[f64; 2]>) -> BaselineEntry {
        BaselineEntry {
            name: "torch".to_owned(),
            kind: "python".to_owned(),
            versions: Default::default(),
            launch: None,
            reason: ci95.is_none().then(|| "no package".to_owned()),
            kernel_speedup: ci95.map(|ci95| Speedup {
                geomean: (ci95[0] * ci95[1]).sqrt(),
                ci95,
            }),
            speedup: None,
            deviation: None,
            workloads: Vec::new(),
        }
    }

    #[test]
    fn only_a_kernel_that_is_faster_in_pairs_passes() {
        let over = Yardstick {
            name: "torch".to_owned(),
            entry: entry(Some([1.0, 1.0])),
            measured: "2026".to_owned(),
            figures: Digest::of("x"),
            speedup: Speedup {
                geomean: 2.0,
                ci95: [1.9, 2.1],
            },
            workloads: Default::default(),
        };
        let compared = |ci95| StrongestCompared {
            step: 0,
            entries: vec![entry(ci95)],
            reason: None,
            processes: 1,
            measured: "2026".to_owned(),
            seconds: None,
        };
        for (ci95, why) in [
            (Some([1.1, 1.2]), None),
            (
                Some([0.9, 1.2]),
                Some("not clearly faster than torch: 1.039x [0.900, 1.200]"),
            ),
            (Some([0.7, 0.8]), Some("slower than torch")),
            (None, Some("could not be timed against torch: no package")),
        ] {
            let found = not_faster(Some(&compared(ci95)), &over);
            match why {
                Some(why) => assert!(found.as_ref().unwrap().contains(why), "{found:?}"),
                None => assert_eq!(found, None),
            }
        }
        assert!(
            not_faster(None, &over)
                .unwrap()
                .contains("does not work here")
        );
    }
}
