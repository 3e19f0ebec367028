//! Which transformations the kernels of a parent are made by, as a brief says: those that are left out, and how often the others are drawn.
//!
//! Both hold from an attempt on, so that a later brief never changes an earlier kernel. Draws nothing.

use std::collections::BTreeMap;

use crate::event::{Brief, TransformationWeights};

/// Which transformations are used.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Choice {
    /// Transformations that are left out, each from an attempt on.
    retired: BTreeMap<String, u64>,
    /// In ascending order of attempts.
    weights: Vec<TransformationWeights>,
}

impl Choice {
    pub(super) fn of_brief(brief: &Brief) -> Self {
        Self {
            retired: brief.retired.clone(),
            weights: brief.weights.clone(),
        }
    }

    /// Whether a transformation is left out after `made` kernels.
    pub(super) fn leaves_out(&self, name: &str, made: usize) -> bool {
        (self.retired.get(name)).is_some_and(|since| *since <= made as u64)
    }

    /// The factor of a transformation's weight after `made` kernels.
    pub(super) fn factor(&self, name: &str, made: usize) -> f64 {
        let holds = |weights: &&TransformationWeights| weights.attempt <= made as u64;
        let weights = self.weights.iter().rfind(holds);
        let factor = weights.and_then(|weights| weights.factors.get(name));
        // A damaged journal may have any number.
        let is_usable = |factor: &f64| factor.is_finite() && *factor >= 0.0;
        factor.copied().filter(is_usable).unwrap_or(1.0)
    }

    /// The number of kernels after `made` at which other weights hold; `None` if none do.
    pub(super) fn next_change(&self, made: usize) -> Option<usize> {
        let attempts = self.weights.iter().map(|weights| weights.attempt);
        let next = attempts.filter(|attempt| *attempt > made as u64).min()?;
        usize::try_from(next).ok()
    }

    /// Whether both make the same first `count` kernels.
    pub(super) fn agrees_with(&self, other: &Self, count: usize) -> bool {
        let count = count as u64;
        let retired = |choice: &Self| -> Vec<(String, u64)> {
            let retired = choice.retired.iter().filter(|(_, since)| **since < count);
            retired
                .map(|(name, since)| (name.clone(), *since))
                .collect()
        };
        let weights = |choice: &Self| -> Vec<TransformationWeights> {
            let weights = choice.weights.iter();
            let weights = weights.filter(|weights| weights.attempt < count);
            weights.cloned().collect()
        };
        retired(self) == retired(other) && weights(self) == weights(other)
    }
}
