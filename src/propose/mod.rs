//! Makes candidates: kforge's own operators without a model, the prompts for models, and the parsing of their replies.
//!
//! This file runs kforge's own operators on a brief and its parents' sources. It is pure: the same brief and parents always
//! give the same result, whatever the text. Never compiles, measures or judges.

use crate::event::{Brief, Operator};
use crate::kernel::{Kernel, with_point};
use crate::task::Task;

mod candidate;
mod child_check;
mod code_layout;
mod header_text;
mod identity;
pub mod mutate;
mod names;
pub mod prompt;
mod proposal;
mod recombine;
pub mod reply;
mod source_edits;

pub use candidate::{BriefOutcome, Candidate, Parent};
pub use mutate::MutationCache;
pub(crate) use proposal::Proposal;

/// Makes the candidate of a brief with one of kforge's own operators. `NoOp` with the reason if the operator finds nothing to
/// change, or needs a model.
pub fn propose(brief: &Brief, parents: &[Parent], task: &Task) -> BriefOutcome {
    propose_with(&MutationCache::default(), brief, parents, task)
}

/// Like [`propose`], but continues from what the cache knows. The result is the same.
pub fn propose_with(
    cache: &MutationCache,
    brief: &Brief,
    parents: &[Parent],
    task: &Task,
) -> BriefOutcome {
    let proposal = match (brief.operator, parents) {
        (_, []) => Err("the brief names no parent".to_owned()),
        (Operator::Start, [parent, ..]) => Ok(Proposal {
            source: parent.source.to_string(),
            detail: brief.start.clone().unwrap_or_default(),
        }),
        (Operator::Autotune, [parent, ..]) => autotune(brief, &parent.source, task),
        (Operator::Mutate, [parent, ..]) => mutate::mutate(brief, &parent.source, task, cache),
        (Operator::Recombine, [first, second, ..]) => {
            recombine::recombine(&first.source, &second.source, task, brief.attempt)
        }
        (Operator::Recombine, [_]) => Err("`recombine` needs two parents".to_owned()),
        (Operator::Propose | Operator::Edit | Operator::Crossover | Operator::Repair, _) => {
            Err(format!("`{}` needs a model", brief.operator.name()))
        }
    };
    match proposal {
        Ok(Proposal { source, detail }) => {
            BriefOutcome::Candidate(Candidate::from_source(source, detail, task))
        }
        Err(reason) => BriefOutcome::NoOp(reason),
    }
}

/// Sets the tunable values of the brief in the parent's header.
fn autotune(brief: &Brief, source: &str, task: &Task) -> Result<Proposal, String> {
    let point = brief
        .point
        .as_ref()
        .ok_or("the brief gives no tunable values")?;
    let kernel = Kernel::parse(source, &task.definition)
        .map_err(|error| format!("the parent's header: {error}"))?;
    let current = kernel.point();
    let changed: Vec<_> = point
        .iter()
        .filter(|(name, value)| current.get(*name) != Some(value))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if changed.is_empty() {
        return Err("the parent already has these tunable values".to_owned());
    }
    let source = with_point(&kernel, point)
        .ok_or("the parent's tunables do not list these values, or two tunables share a list")?;
    Ok(Proposal {
        source,
        detail: changed.join(", "),
    })
}

#[cfg(test)]
mod header_form_tests;
#[cfg(test)]
mod tests;
