//! How candidates are made without a model: a proposal from a brief and its parents' sources.
//!
//! Pure: the same brief and parents give the same answer, whatever the text. Never compiles, measures, or judges.

use crate::event::{Brief, Operator};
use crate::kernel::{Kernel, with_point};
use crate::task::Task;

mod candidate;
mod header_text;
pub mod mutate;
pub mod prompt;
mod recombine;
pub mod reply;
mod source_edits;

pub use candidate::{BriefOutcome, Candidate, Parent};

/// A new kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The whole kernel file.
    pub source: String,
    /// What was done, for people and for credit: `split_accumulator sum x4 (line 31)`.
    pub detail: String,
}

/// Makes the candidate of a brief with one of kforge's own operators.
pub fn propose(brief: &Brief, parents: &[Parent], task: &Task) -> BriefOutcome {
    let proposal = match (brief.operator, parents) {
        (_, []) => Err("there is no parent to start from".to_owned()),
        (Operator::Start, [parent, ..]) => Ok(Proposal {
            source: parent.source.to_string(),
            detail: brief.start.clone().unwrap_or_default(),
        }),
        (Operator::Autotune, [parent, ..]) => autotune(brief, &parent.source, task),
        (Operator::Mutate, [parent, ..]) => mutate::mutate(&parent.source, task, brief.attempt),
        (Operator::Recombine, [first, second, ..]) => {
            recombine::recombine(&first.source, &second.source, task, brief.attempt)
        }
        (Operator::Recombine, [_]) => Err("two parents are needed".to_owned()),
        (Operator::Propose | Operator::Edit | Operator::Crossover | Operator::Repair, _) => {
            Err("only a model can answer".to_owned())
        }
    };
    match proposal {
        Ok(Proposal { source, detail }) => {
            BriefOutcome::Candidate(Candidate::from_source(source, detail, task))
        }
        Err(reason) => BriefOutcome::NoOp(reason),
    }
}

/// Puts the brief's values in force.
fn autotune(brief: &Brief, source: &str, task: &Task) -> Result<Proposal, String> {
    let point = brief.point.as_ref().ok_or("no values are given")?;
    let kernel = Kernel::parse(source, &task.definition)
        .map_err(|error| format!("the parent's header: {error}"))?;
    let now = kernel.point();
    let changed: Vec<_> = point
        .iter()
        .filter(|(name, value)| now.get(*name) != Some(value))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if changed.is_empty() {
        return Err("these values are in force already".to_owned());
    }
    let source = with_point(&kernel, point)
        .ok_or("the parent has no such values, or its lists are not written on one line")?;
    Ok(Proposal {
        source,
        detail: changed.join(", "),
    })
}

#[cfg(test)]
mod tests;
