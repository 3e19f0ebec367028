//! A divergence: a resumed search decides another brief for a step than the journal has. The run stops with this error.

use std::fmt;

use crate::event::{Brief, Operator};

/// The recorded brief of a step differs from the planned one, because kforge, the config or the starting kernels have changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Divergence {
    /// The brief that this search decides. `None` if it would not decide one yet.
    pub planned: Option<Brief>,
    /// The brief in the journal.
    pub recorded: Brief,
}

impl std::error::Error for Divergence {}

impl fmt::Display for Divergence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { planned, recorded } = self;
        write!(
            formatter,
            "step {} was asked as {}, but would now ",
            recorded.step,
            BriefSummary(recorded)
        )?;
        match planned {
            Some(planned) => write!(formatter, "be asked as {}", BriefSummary(planned)),
            None => formatter.write_str("not be asked yet"),
        }
    }
}

/// A brief in one line: `` `mutate` of step 3, attempt 2 (seed 7) ``.
struct BriefSummary<'a>(&'a Brief);

impl fmt::Display for BriefSummary<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Brief {
            operator,
            parents,
            start,
            point,
            attempt,
            retired,
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
        if !retired.is_empty() {
            let names: Vec<_> = retired.keys().map(|name| format!("`{name}`")).collect();
            write!(formatter, ", without {}", names.join(", "))?;
        }
        write!(formatter, " (seed {seed})")
    }
}
