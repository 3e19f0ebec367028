//! What is wrong when a recorded question is not the one that this search would ask.

use std::fmt;

use crate::event::{Brief, Operator};

/// A step was asked otherwise than this search would ask it: kforge, the config or the starting kernels are no longer the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    /// What this search would ask.
    pub planned: Brief,
    /// What the journal says was asked.
    pub recorded: Brief,
}

impl std::error::Error for Divergence {}

impl fmt::Display for Divergence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "step {} was asked as {}, but would now be asked as {}",
            self.recorded.step,
            BriefSummary(&self.recorded),
            BriefSummary(&self.planned)
        )
    }
}

/// A brief in a few words.
struct BriefSummary<'a>(&'a Brief);

impl fmt::Display for BriefSummary<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Brief {
            operator,
            parents,
            start,
            point,
            attempt,
            seed,
            ..
        } = self.0;
        match operator {
            Operator::Start => write!(
                formatter,
                "`start` from `{}`",
                start.as_deref().unwrap_or("nothing")
            )?,
            _ => write!(formatter, "`{}`", operator.name())?,
        }
        if !parents.is_empty() {
            let parents = parents
                .iter()
                .map(u64::to_string)
                .collect::<Vec<_>>()
                .join(" and ");
            write!(formatter, " of step {parents}")?;
        }
        if let Some(point) = point {
            let values: Vec<_> = point
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            write!(formatter, " to `{}`", values.join(", "))?;
        }
        if *attempt > 0 {
            write!(formatter, ", attempt {attempt}")?;
        }
        write!(formatter, " (seed {seed})")
    }
}
