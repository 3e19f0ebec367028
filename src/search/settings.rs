//! The `search` section of a run config: what a person may set, and what is taken where nothing was said.
//!
//! Only checks; deciding with these numbers is the rest of `search`.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::base::text::did_you_mean;
use crate::base::{Failure, FailureKind};
use crate::event::Operator;

/// What an axis of the archive can be made from. Each is a number that the judge finds out about a kernel.
pub const FEATURES: [&str; 14] = [
    "block_threads",
    "vector_bytes",
    "shared_bytes",
    "launches",
    "barriers",
    "speedup",
    "runtime_variance",
    "load_sectors",
    "store_sectors",
    "coalescing",
    "strided_share",
    "bank_conflicts",
    "bytes_ratio",
    "arithmetic_per_byte",
];

/// How kernels are searched for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SearchSettings {
    /// How parents are chosen.
    pub mode: SearchMode,
    /// A step's question is made from the results of all steps up to this many before it: the most steps that can be under way at
    /// once. Default: twice what runs at once.
    pub window: Option<u64>,
    /// The archive's axes: a feature, and the edges of its bins in ascending order. A value falls into the bin that begins at the
    /// last edge not above it. More axes make more cells, and so more kinds of kernels that are kept, and fewer attempts at each.
    pub features: IndexMap<String, Vec<f64>>,
    /// How often each operator is asked for, relative to the others; 0 switches it off.
    pub operators: OperatorWeights,
    /// How far operators that added to the archive lately are preferred, from 0 (the weights as they stand) to 1.
    pub learning: f64,
    /// The share of questions whose parent is drawn evenly from all cells, rather than preferring the fastest elites.
    pub exploration: f64,
    /// Stop when this many steps in a row brought no kernel that is faster beyond doubt than the last that was. Default: never.
    pub patience: Option<u64>,
    /// Stop once the low end of an elite's 95 % interval reaches this speedup. Default: never.
    pub target_speedup: Option<f64>,
    /// How many of the fastest elites are measured again at the end, with new seeds in fresh processes.
    pub confirm: u32,
    /// The most kernels that a model is shown beside the parents: elites, different ones, recent ones, failures.
    pub context: u64,
    /// The most earlier steps that a model is told the outcome of.
    pub history: u64,
    /// `evolve`: how often a kernel that did not pass is given back to a model.
    pub repairs: u64,
    /// `tune`: failures in a row after which the best kernel is taken up again, or another is asked for where none has passed.
    pub back_after: u64,
}

/// How parents are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchMode {
    /// Among all kinds of kernels in the archive, by all operators.
    #[default]
    Evolve,
    /// One kernel, edited by a model step after step: mended until it passes, then made faster.
    Tune,
}

/// Relative weights of the operators.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OperatorWeights {
    /// Moves in the space of the declared tunables.
    pub autotune: f64,
    /// Transformations of the syntax tree.
    pub mutate: f64,
    /// Tunables and device functions of two parents.
    pub recombine: f64,
    /// A model writes a kernel anew. This and what follows only where models are asked.
    pub propose: f64,
    /// A model edits one.
    pub edit: f64,
    /// A model makes one of two.
    pub crossover: f64,
    /// A model mends one that did not pass.
    pub repair: f64,
}

impl Default for SearchSettings {
    fn default() -> Self {
        let edges: [(&str, &[f64]); 5] = [
            ("block_threads", &[64.0, 128.0, 256.0, 512.0]),
            ("vector_bytes", &[8.0, 16.0]),
            ("barriers", &[1.0, 4.0]),
            ("coalescing", &[0.3, 0.8]),
            ("speedup", &[0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0]),
        ];
        Self {
            window: None,
            features: edges
                .map(|(name, edges)| (name.to_owned(), edges.to_vec()))
                .into(),
            operators: OperatorWeights::default(),
            learning: 0.5,
            exploration: 0.3,
            patience: None,
            target_speedup: None,
            confirm: 3,
            context: 24,
            history: 40,
            repairs: 2,
            back_after: 3,
            mode: SearchMode::Evolve,
        }
    }
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

impl SearchSettings {
    /// Whether the values mean something. Names the key from the config's top: `search.…`.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        for (name, edges) in &self.features {
            if !FEATURES.contains(&name.as_str()) {
                return Err(Failure::usage(format!(
                    "unknown feature `{name}` in `search.features`"
                ))
                .hint(did_you_mean(name, FEATURES)));
            }
            let ascending = edges.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || !edges.iter().all(|edge| edge.is_finite()) {
                return Err(invalid_value(
                    &format!("features.{name}"),
                    &format!("{edges:?}"),
                    "bin edges are finite numbers, each above the one before",
                ));
            }
            if edges.len() > 1000 {
                return Err(invalid_value(
                    &format!("features.{name}"),
                    &format!("{} edges", edges.len()),
                    "an axis has at most 1000 edges",
                ));
            }
        }
        let weights = [
            ("autotune", self.operators.autotune),
            ("mutate", self.operators.mutate),
            ("recombine", self.operators.recombine),
            ("propose", self.operators.propose),
            ("edit", self.operators.edit),
            ("crossover", self.operators.crossover),
            ("repair", self.operators.repair),
        ];
        for (name, weight) in weights {
            if !(0.0..=1e9).contains(&weight) {
                return Err(invalid_value(
                    &format!("operators.{name}"),
                    &weight.to_string(),
                    "a weight is a number from 0 up",
                ));
            }
        }
        if weights.iter().all(|(_, weight)| *weight == 0.0) {
            return Err(Failure::usage(
                "every weight in `search.operators` is 0, so nothing could be asked for",
            )
            .hint("give `autotune`, `mutate`, `edit` or another a weight, or leave the key out"));
        }
        for (name, share) in [
            ("exploration", self.exploration),
            ("learning", self.learning),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(invalid_value(
                    name,
                    &share.to_string(),
                    "a share lies between 0 and 1",
                ));
            }
        }
        if let Some(target) = self
            .target_speedup
            .filter(|target| !(*target > 0.0 && target.is_finite()))
        {
            return Err(invalid_value(
                "target_speedup",
                &target.to_string(),
                "a speedup is above 0",
            ));
        }
        for (name, count) in [
            ("window", self.window),
            ("patience", self.patience),
            ("confirm", Some(u64::from(self.confirm))),
            ("back_after", Some(self.back_after)),
        ] {
            if count == Some(0) {
                return Err(invalid_value(name, "0", "at least 1 is needed"));
            }
        }
        for (name, count) in [("context", self.context), ("history", self.history)] {
            if count > MAX_SHOWN_STEPS {
                let count = count.to_string();
                return Err(invalid_value(
                    name,
                    &count,
                    &format!("at most {MAX_SHOWN_STEPS}"),
                ));
            }
        }
        if let Some(window) = self.window.filter(|window| *window > MAX_WINDOW) {
            return Err(invalid_value(
                "window",
                &window.to_string(),
                &format!("at most {MAX_WINDOW} steps can be under way"),
            ));
        }
        Ok(())
    }
}

/// The widest window: every question in it is held in memory.
const MAX_WINDOW: u64 = 100_000;

/// The most steps that a prompt may speak of: their numbers are part of every question.
const MAX_SHOWN_STEPS: u64 = 1000;

fn invalid_value(key: &str, value: &str, hint: &str) -> Failure {
    Failure {
        kind: FailureKind::Usage,
        message: format!("`search.{key}` cannot be `{value}`"),
        hint: Some(hint.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_error(yaml: &str) -> String {
        serde_yaml::from_str::<SearchSettings>(yaml)
            .unwrap()
            .check()
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn defaults_pass_their_own_check() {
        assert_eq!(
            serde_yaml::from_str::<SearchSettings>("{}").unwrap(),
            SearchSettings::default()
        );
        SearchSettings::default().check().unwrap();
        let all = FEATURES.map(|name| format!("{name}: [1, 2.5]")).join(", ");
        let settings: SearchSettings =
            serde_yaml::from_str(&format!("features: {{{all}}}\noperators: {{mutate: 0}}"))
                .unwrap();
        settings.check().unwrap();
        assert_eq!(settings.features.len(), 14);
        assert_eq!(
            settings.operators,
            OperatorWeights {
                mutate: 0.0,
                ..OperatorWeights::default()
            }
        );
    }

    #[test]
    fn invalid_values_are_refused_with_their_key() {
        assert!(serde_yaml::from_str::<SearchSettings>("islands: 4").is_err());
        for (yaml, message) in [
            (
                "features: {barrier: [1]}",
                "unknown feature `barrier` in `search.features`\n\nhint: did you mean `barriers`?",
            ),
            (
                "features: {barriers: [4, 1]}",
                "`search.features.barriers` cannot be `[4.0, 1.0]`\n\nhint: bin edges are finite numbers, each above the one before",
            ),
            (
                "features: {barriers: [.nan]}",
                "`search.features.barriers` cannot be `[NaN]`\n\nhint: bin edges are finite numbers, each above the one before",
            ),
            (
                "operators: {mutate: -1}",
                "`search.operators.mutate` cannot be `-1`\n\nhint: a weight is a number from 0 up",
            ),
            (
                "operators: {mutate: .inf}",
                "`search.operators.mutate` cannot be `inf`\n\nhint: a weight is a number from 0 up",
            ),
            (
                "operators: {autotune: 0, mutate: 0, recombine: 0, propose: 0, edit: 0, crossover: 0, repair: 0}",
                "every weight in `search.operators` is 0, so nothing could be asked for\n\nhint: give `autotune`, `mutate`, `edit` or another a weight, or leave the key out",
            ),
            (
                "exploration: 1.5",
                "`search.exploration` cannot be `1.5`\n\nhint: a share lies between 0 and 1",
            ),
            (
                "learning: .nan",
                "`search.learning` cannot be `NaN`\n\nhint: a share lies between 0 and 1",
            ),
            (
                "target_speedup: 0",
                "`search.target_speedup` cannot be `0`\n\nhint: a speedup is above 0",
            ),
            (
                "confirm: 0",
                "`search.confirm` cannot be `0`\n\nhint: at least 1 is needed",
            ),
            (
                "window: 0",
                "`search.window` cannot be `0`\n\nhint: at least 1 is needed",
            ),
            (
                "window: 1000000",
                "`search.window` cannot be `1000000`\n\nhint: at most 100000 steps can be under way",
            ),
        ] {
            assert_eq!(check_error(yaml), message);
        }
    }
}
