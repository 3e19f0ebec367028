//! The relative weights of the operators, as a run config has them.
//!
//! Draws no operator: the planner does.

use serde::{Deserialize, Serialize};

use crate::event::Operator;

/// Relative weights of the operators.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OperatorWeights {
    /// Other values of the declared tunables.
    pub autotune: f64,
    /// Transformations of the syntax tree.
    pub mutate: f64,
    /// Tunables and device functions of two parents combined.
    pub recombine: f64,
    /// A model writes a new kernel.
    pub propose: f64,
    /// A model edits a kernel.
    pub edit: f64,
    /// A model combines two kernels.
    pub crossover: f64,
    /// A model repairs a kernel that did not pass.
    pub repair: f64,
}

impl Default for OperatorWeights {
    fn default() -> Self {
        Self {
            autotune: 1.0,
            mutate: 1.0,
            recombine: 0.3,
            propose: 1.0,
            edit: 2.0,
            crossover: 0.5,
            repair: 1.0,
        }
    }
}

impl OperatorWeights {
    /// Whether an operator that asks no model has a weight.
    pub(super) fn uses_own_operators(&self) -> bool {
        self.autotune + self.mutate + self.recombine > 0.0
    }

    pub(super) fn weight_of(&self, operator: Operator) -> f64 {
        match operator {
            Operator::Start => 0.0,
            Operator::Propose => self.propose,
            Operator::Edit => self.edit,
            Operator::Crossover => self.crossover,
            Operator::Repair => self.repair,
            Operator::Autotune => self.autotune,
            Operator::Mutate => self.mutate,
            Operator::Recombine => self.recombine,
        }
    }
}
