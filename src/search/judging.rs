//! What the judgement of a candidate gets from the search: what to beat, and which code not to repeat. Also which kernels get no judgement.
//!
//! Both depend on which verdicts have arrived, so they do not belong to the state. The journal has the result of the judgement.

use super::Search;
use super::archive::Archive;
use super::incumbents::Incumbents;
use super::known_code::KnownCode;
use super::near_copies::{NearCopyAction, NearCopySettings};
use super::pending::CandidateResult;
use super::settings::Strategy;
use crate::base::Digest;
use crate::event::Proposed;

impl Search {
    /// What a candidate must beat now: the elites that no confirmation has refuted, and the starting kernels that have passed before their
    /// turn in the fold. `None` if nothing has passed.
    ///
    /// Starting kernels are always folded. So a starting kernel that dismisses another becomes an elite, or loses to an elite.
    pub fn incumbents(&self) -> Option<Incumbents> {
        self.incumbents_among(&self.archive)
    }

    /// What the candidate of a step must beat now. On an island these are the elites of the island: a kernel that another island has
    /// beaten long ago may still be the best parent here.
    pub fn incumbents_of(&self, step: u64) -> Option<Incumbents> {
        let planned = self.in_flight.get(step);
        let island = planned.and_then(|planned| self.islands.get(planned.brief.island?));
        self.incumbents_among(island.map_or(&self.archive, |island| &island.archive))
    }

    fn incumbents_among(&self, archive: &Archive) -> Option<Incumbents> {
        let elites = self.unrefuted(archive);
        let elites = elites.map(|elite| (&elite.cell, elite.speedup));
        let early = self.pending.iter().filter_map(|(step, pending)| {
            self.starting_kernel(*step)?;
            match pending.judged.as_ref()? {
                CandidateResult::Passed { speedup, cell, .. } => Some((cell, *speedup)),
                CandidateResult::Dismissed { .. } | CandidateResult::NotPassed(_) => None,
            }
        });
        let mut incumbents = Incumbents::new(&self.archive, elites.chain(early));
        if self.settings.strategy != Strategy::MapElites {
            // A kernel may be a parent although it is slower than another of its kind.
            incumbents.forget_kinds();
        }
        (!incumbents.is_empty()).then_some(incumbents)
    }

    /// The code that a candidate must not repeat: that of its parents that passed and of all elites. Empty for a starting kernel, which is judged
    /// in any case.
    pub fn code_to_avoid(&self, step: u64) -> Vec<KnownCode> {
        if self.starting_kernel(step).is_some() {
            return Vec::new();
        }
        let pending = self.pending.get(&step);
        let proposed = pending.and_then(|pending| pending.proposed.as_ref());
        let parents = proposed.map_or(&[][..], |proposed| &proposed.parents);
        let elites = self.archive.elites().iter().map(|elite| elite.step);
        let mut steps: Vec<u64> = parents.iter().copied().chain(elites).collect();
        steps.sort_unstable();
        steps.dedup();
        let known = |step: u64| {
            let code = self.code_of(step)?;
            Some(KnownCode { code, step })
        };
        steps.into_iter().filter_map(known).collect()
    }

    /// Whether a proposal needs its shingles.
    pub fn compares_shingles(&self) -> bool {
        self.settings.near_copies.are_on()
    }

    /// The parent or elite that the kernel of a model is a near-copy of: the most similar one. `None` if it is to be judged. A kernel of
    /// the same family is none: it has another point.
    pub fn near_copy_of(&self, proposed: &Proposed) -> Option<u64> {
        let NearCopySettings { action, similarity } = self.settings.near_copies;
        if action != NearCopyAction::Refuse || !proposed.operator.asks_model() {
            return None;
        }
        let own = proposed.shingles.as_ref()?;
        let family = self.families.number_of(&proposed.family);
        let elites = self.archive.elites().iter().map(|elite| elite.step);
        let others = proposed.parents.iter().copied().chain(elites);
        let similar = others.filter_map(|step| {
            let is_family = family.is_some() && family == self.ledger.family(step);
            let alike = self.near_copies.similarity(step, own)?;
            (alike >= similarity && !is_family).then_some((alike, step))
        });
        let most_similar = similar.max_by(|one, other| {
            // Of equals the earlier step.
            one.0.total_cmp(&other.0).then(other.1.cmp(&one.1))
        });
        most_similar.map(|(_, step)| step)
    }

    /// Whether two steps are known to have the same compiled code.
    pub(super) fn have_same_code(&self, one: u64, other: u64) -> bool {
        let code = self.code_of(one);
        code.is_some() && code == self.code_of(other)
    }

    /// The code of a step. A step that took over the verdict of a later step has that step's.
    fn code_of(&self, step: u64) -> Option<Digest> {
        let own = self.code_log.get(step);
        own.or_else(|| self.code_log.get(self.source_step(step)))
    }
}
