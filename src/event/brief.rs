//! The brief of a step: everything that a proposal may depend on.
//!
//! Plain data. `search` decides briefs; `propose` and the driver's model backend turn them into kernels.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::base::exact;

/// How to make the candidate of one step: operator, parents, seed, model. The same brief always gives the same proposal or prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Brief {
    /// Written by the head of the journal line.
    #[serde(skip_serializing)]
    pub step: u64,
    pub operator: Operator,
    /// Steps whose kernels the proposal is made from. Empty for `start`.
    #[serde(default)]
    pub parents: Vec<u64>,
    /// Seed of every random choice of the proposer. `mutate`: gives the order of a parent's children, the same for all attempts.
    #[serde(with = "exact::seed")]
    pub seed: u64,
    /// The number of the island that the step belongs to, from 1 (`search.islands`). `None` for starting kernels, and without islands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub island: Option<u32>,
    /// `start`: file name of the starting kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// `autotune`: the values that the tunables get.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "exact::optional_integers"
    )]
    pub point: Option<IndexMap<String, i64>>,
    /// `mutate` and `recombine`: how often this operator was used on these parents before. It selects the next child, so no child is made
    /// twice.
    #[serde(default)]
    pub attempt: u64,
    /// `mutate`: transformations that are no longer tried, each with the first attempt that leaves it out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub retired: BTreeMap<String, u64>,
    /// `mutate`: how often each transformation is drawn, in ascending order of attempts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<TransformationWeights>,
    /// The model to ask and the material for its prompt. `None` for kforge's own operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelBrief>,
}

/// How often transformations are drawn from an attempt on, until the next entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TransformationWeights {
    /// The first attempt that these weights hold for.
    pub attempt: u64,
    /// Factors of the usual weights. A transformation that is not listed has the factor 1.
    pub factors: BTreeMap<String, f64>,
}

/// Everything that a prompt depends on besides operator and parents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelBrief {
    /// Name of the model in the config.
    pub name: String,
    /// Name of the strategy card to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub card: Option<String>,
    /// How many steps were folded when the brief was decided. The prompt may mention these: whether others have ended depends on timing.
    pub known: u64,
    /// Kernels to show besides the parents. The prompt takes as many as fit.
    #[serde(default)]
    pub context: ContextKernels,
}

/// Steps whose kernels a prompt may show, in order of decreasing value. No step is in two lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContextKernels {
    /// The fastest elites.
    pub elites: Vec<u64>,
    /// Elites of other cells: other ways to solve the task.
    pub different: Vec<u64>,
    /// The most recent candidates that passed.
    pub recent: Vec<u64>,
    /// The most recent candidates that did not pass.
    pub failures: Vec<u64>,
}

/// How a candidate is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    /// A starting kernel of the task, unchanged.
    Start,
    /// Other values of the declared tunables.
    Autotune,
    /// A transformation of the syntax tree.
    Mutate,
    /// Tunables and device functions of two parents.
    Recombine,
    /// A model writes a new kernel.
    Propose,
    /// A model edits a kernel with `str_replace`.
    Edit,
    /// A model combines two kernels.
    Crossover,
    /// A model repairs a kernel that did not pass.
    Repair,
}

impl Operator {
    /// The name that journals and messages use.
    pub fn name(self) -> &'static str {
        match self {
            Operator::Start => "start",
            Operator::Autotune => "autotune",
            Operator::Mutate => "mutate",
            Operator::Recombine => "recombine",
            Operator::Propose => "propose",
            Operator::Edit => "edit",
            Operator::Crossover => "crossover",
            Operator::Repair => "repair",
        }
    }

    /// Whether the operator sends requests to a model.
    pub fn asks_model(self) -> bool {
        matches!(
            self,
            Operator::Propose | Operator::Edit | Operator::Crossover | Operator::Repair
        )
    }
}
