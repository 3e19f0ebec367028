//! The `search` section of a run config: its keys, their defaults, and their valid ranges.
//!
//! Checks values; the rest of `search` uses them. A run records the resolved settings, and `resume` compares them: a changed default
//! changes only new runs, and a renamed key must still be read from old ones.

use std::fmt::Display;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::features::{FEATURES, FeatureSources};
use super::islands::IslandSettings;
use super::near_copies::{NearCopyAction, NearCopySettings};
use super::operator_weights::OperatorWeights;
use crate::base::Failure;
use crate::base::text::did_you_mean;

/// The largest window: every brief in it is kept in memory.
const MAX_WINDOW: u64 = 100_000;

/// The maximum of `context`, and of `history`. A longer prompt helps no model, and a brief names every step of its context.
const MAX_SHOWN_STEPS: u64 = 1000;

/// The most points that a new kernel gets before it is judged. More are the work of `autotune`.
const MAX_TUNE_FIRST: u64 = 64;

/// The most bin edges of one axis.
const MAX_EDGES: usize = 1000;

/// The settings of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SearchSettings {
    /// How parents are chosen.
    pub mode: SearchMode,
    /// `evolve`: which kernels become parents.
    pub strategy: Strategy,
    /// The maximum number of steps in flight. Steps that ask a model take at most half of it, so that kforge's own operators have the
    /// rest, if they are used. From 1 to 100,000. Default: 2 × (`eval.in_flight` + `llm.concurrency` if there are models); on a CPU without models `eval.in_flight`;
    /// 1 for `tune`.
    pub window: Option<u64>,
    /// The axes of the archive: a feature, and the edges of its bins in ascending order, at most 1,000. Bin 0 has the values below the
    /// first edge, and bin i those with `edge[i - 1] <= value < edge[i]`, counting edges from 0. More axes make more cells: more kinds
    /// of kernels are kept, and each gets fewer attempts. A given map replaces the default one.
    pub features: IndexMap<String, Vec<f64>>,
    /// How often each operator is used, relative to the others; 0 switches it off. Operators that are not given keep their default.
    pub operators: OperatorWeights,
    /// How strongly operators, models and strategy cards are preferred that earned more lately: 0 uses the weights as given, 1 multiplies
    /// each by what its choice earns for its cost, relative to the mean (`credit`).
    pub learning: f64,
    /// How many other points of its tunables a new kernel gets before it is judged, so that a good idea with a bad block size survives: a
    /// quick check and a few samples each. The fastest becomes the candidate. 0: none; at most 64. Default: 4 on a GPU, 0 on a CPU or with
    /// `eval.screen: cpu`.
    pub tune_first: Option<u64>,
    /// `map_elites`: the probability that the parent of a brief is drawn from all cells, by the weight 1 / (1 + its briefs so far)². The
    /// other briefs prefer the fastest elites.
    pub exploration: f64,
    /// Stop after this many steps in a row without a proven improvement: a kernel that won a duel against the best one, or whose
    /// interval lies above that of the best one. Default: never.
    pub patience: Option<u64>,
    /// Stop once the low end of an elite's 95 % interval reaches this speedup. Default: never.
    pub target_speedup: Option<f64>,
    /// Stop once one elite reaches all of these, by the name of the workload. Names of other tasks' workloads are passed over.
    pub targets: IndexMap<String, WorkloadTarget>,
    /// Stop once an elite reaches this share of the roofline on every timed workload, at the slow end of its interval. Default: never.
    pub target_roofline: Option<f64>,
    /// Start no further task once enough tasks of the run have a fast kernel. Default: never.
    pub target_tasks: Option<TasksTarget>,
    /// Stop once the chance that a later kernel is measurably faster than the best is estimated to be below this. Default: never.
    pub stop_when_unlikely: Option<f64>,
    /// How many of the fastest elites are confirmed at the end: measured again with new seeds in fresh processes.
    pub confirm: u32,
    /// The maximum number of kernels that a prompt shows besides the parents: fast elites, elites of other cells, recent kernels that
    /// passed, and recent failures.
    pub context: u64,
    /// The maximum number of earlier steps whose outcomes a prompt lists.
    pub history: u64,
    /// `evolve` with `map_elites`: parts of the search with parents of their own.
    pub islands: IslandSettings,
    /// What happens to kernels that are nearly the same as another.
    pub near_copies: NearCopySettings,
    /// `evolve`: how many times, at most, a model is asked to repair one kernel.
    pub repairs: u64,
    /// `tune`: the number of consecutive failures after which it restarts from the best kernel, or from a new one if none has passed.
    pub restart_after: u64,
}

/// What a kernel must reach on one workload, at the slow end of its 95 % interval. At least one of the two; if both, both count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkloadTarget {
    /// The least speedup over the baseline.
    pub speedup: Option<f64>,
    /// The longest median time.
    pub microseconds: Option<f64>,
}

/// fast_p of the tasks of a run: the share of them whose best kernel has a confirmed speedup above `speedup`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TasksTarget {
    /// p.
    pub speedup: f64,
    /// The share of all tasks of the run, above 0 and up to 1.
    pub share: f64,
}

/// Which kernels become parents in `evolve`. All else is the same for all: operators, what they have learned, duels, what is reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The elites of all cells of the archive.
    #[default]
    MapElites,
    /// Half of the parents are the three latest kernels, half are drawn by a softmax over the log speedup.
    ElitePool,
    /// The five fastest kernels, each in its turn.
    MuPlusLambda,
    /// The five fastest kernels at the start of a generation of 40 briefs, each in its turn.
    Beam,
    /// Any kernel that passed. The control for the others.
    Random,
}

/// How parents are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchMode {
    /// Parents are elites of all cells, and all operators are used.
    #[default]
    Evolve,
    /// One kernel is edited by a model step after step: repaired until it passes, then made faster.
    Tune,
}

impl Default for SearchSettings {
    fn default() -> Self {
        let edges: [(&str, &[f64]); 5] = [
            ("block_threads", &[64.0, 128.0, 256.0, 512.0]),
            ("vector_bytes", &[8.0, 16.0]),
            ("barriers", &[1.0, 4.0]),
            ("shared_bytes", &[1.0]),
            ("coalescing", &[0.3, 0.8]),
        ];
        Self {
            window: None,
            features: edges
                .map(|(name, edges)| (name.to_owned(), edges.to_vec()))
                .into(),
            operators: OperatorWeights::default(),
            learning: 0.5,
            tune_first: None,
            exploration: 0.3,
            patience: None,
            target_speedup: None,
            targets: IndexMap::new(),
            target_roofline: None,
            target_tasks: None,
            stop_when_unlikely: None,
            confirm: 3,
            context: 24,
            history: 40,
            islands: IslandSettings::default(),
            near_copies: NearCopySettings::default(),
            repairs: 2,
            restart_after: 3,
            mode: SearchMode::Evolve,
            strategy: Strategy::MapElites,
        }
    }
}

impl SearchSettings {
    /// Checks the values. Errors name the key by its full path: `search.…`.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        for (name, edges) in &self.features {
            check_feature(name, edges)?;
        }
        self.check_operators()?;
        self.check_islands()?;
        self.check_near_copies()?;
        if self.mode == SearchMode::Tune && self.strategy != Strategy::MapElites {
            return Err(Failure::usage(
                "`search.strategy` has no effect in mode `tune`, which edits one kernel",
            )
            .hint("remove it, or use `kforge evolve`"));
        }
        for (name, share) in [
            ("exploration", self.exploration),
            ("learning", self.learning),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(invalid_value(name, "a number from 0 to 1", share));
            }
        }
        self.check_stop_rules()?;
        for (name, count) in [
            ("window", self.window),
            ("patience", self.patience),
            ("confirm", Some(u64::from(self.confirm))),
            ("restart_after", Some(self.restart_after)),
        ] {
            if count == Some(0) {
                return Err(invalid_value(name, "at least 1", 0));
            }
        }
        for (name, count, max) in [
            ("context", self.context, MAX_SHOWN_STEPS),
            ("history", self.history, MAX_SHOWN_STEPS),
            ("window", self.window.unwrap_or(1), MAX_WINDOW),
            ("tune_first", self.tune_first.unwrap_or(0), MAX_TUNE_FIRST),
        ] {
            if count > max {
                return Err(invalid_value(name, &format!("at most {max}"), count));
            }
        }
        Ok(())
    }

    /// Removes the axes that no kernel would have a value on, and returns their names with the reasons. All kernels would have the bin
    /// `unknown` there.
    pub(crate) fn drop_axes(&mut self, sources: FeatureSources) -> Vec<(String, &'static str)> {
        let names = self.features.keys();
        let dropped: Vec<_> = names
            .filter_map(|name| Some((name.clone(), sources.lacks(name)?)))
            .collect();
        self.features
            .retain(|name, _| sources.lacks(name).is_none());
        dropped
    }

    fn check_stop_rules(&self) -> Result<(), Failure> {
        let mut amounts = vec![("target_speedup".to_owned(), self.target_speedup)];
        for (name, target) in &self.targets {
            if *target == WorkloadTarget::default() {
                let expected = "`speedup`, `microseconds` or both";
                return Err(invalid_value(&format!("targets.{name}"), expected, "{}"));
            }
            amounts.push((format!("targets.{name}.speedup"), target.speedup));
            amounts.push((format!("targets.{name}.microseconds"), target.microseconds));
        }
        let tasks = self.target_tasks;
        let of_tasks = tasks.map(|target| target.speedup);
        amounts.push(("target_tasks.speedup".to_owned(), of_tasks));
        for (key, amount) in amounts {
            if let Some(amount) = amount.filter(|amount| !(*amount > 0.0 && amount.is_finite())) {
                return Err(invalid_value(&key, "a number above 0", amount));
            }
        }
        for (key, share) in [
            ("target_roofline", self.target_roofline),
            ("target_tasks.share", tasks.map(|target| target.share)),
        ] {
            if let Some(share) = share.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
                return Err(invalid_value(key, "a number above 0 and up to 1", share));
            }
        }
        if let Some(chance) = self
            .stop_when_unlikely
            .filter(|one| !(*one > 0.0 && *one < 1.0))
        {
            let expected = "a number between 0 and 1";
            return Err(invalid_value("stop_when_unlikely", expected, chance));
        }
        Ok(())
    }

    fn check_islands(&self) -> Result<(), Failure> {
        if let Some((key, expected, found)) = self.islands.invalid_value() {
            return Err(invalid_value(&format!("islands.{key}"), expected, found));
        }
        let has_cells = self.mode == SearchMode::Evolve && self.strategy == Strategy::MapElites;
        if self.islands.are_on() && !has_cells {
            return Err(Failure::usage(
                "`search.islands` needs `kforge evolve` with the strategy `map_elites`",
            )
            .hint("remove `search.islands.count`, or set it to 1"));
        }
        Ok(())
    }

    fn check_near_copies(&self) -> Result<(), Failure> {
        let NearCopySettings { action, similarity } = self.near_copies;
        if !(similarity > 0.0 && similarity <= 1.0) {
            let expected = "a number above 0 and up to 1";
            return Err(invalid_value(
                "near_copies.similarity",
                expected,
                similarity,
            ));
        }
        let has_cells = self.mode == SearchMode::Evolve && self.strategy == Strategy::MapElites;
        if action == NearCopyAction::DownWeight && (!has_cells || self.islands.are_on()) {
            return Err(Failure::usage(
                "`search.near_copies.action: down_weight` needs `kforge evolve` with the strategy `map_elites` and without islands",
            )
            .hint("remove it, or set it to `refuse`"));
        }
        Ok(())
    }

    fn check_operators(&self) -> Result<(), Failure> {
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
                let key = format!("operators.{name}");
                return Err(invalid_value(&key, "a number from 0 to 1e9", weight));
            }
        }
        if weights.iter().all(|(_, weight)| *weight == 0.0) {
            return Err(Failure::usage(
                "`search.operators`: every weight is 0, so no kernel can be made",
            )
            .hint("give at least one operator a positive weight, for example `mutate: 1`"));
        }
        Ok(())
    }
}

fn check_feature(name: &str, edges: &[f64]) -> Result<(), Failure> {
    if !FEATURES.contains(&name) {
        let message = format!("unknown feature `{name}` in `search.features`");
        return Err(Failure::usage(message).hint(did_you_mean(name, FEATURES)));
    }
    let key = format!("features.{name}");
    let is_ascending = edges.windows(2).all(|pair| pair[0] < pair[1]);
    if !is_ascending || !edges.iter().all(|edge| edge.is_finite()) {
        let found = format!("{edges:?}");
        return Err(invalid_value(
            &key,
            "finite bin edges in ascending order",
            found,
        ));
    }
    if edges.len() > MAX_EDGES {
        let expected = format!("at most {MAX_EDGES} edges");
        return Err(invalid_value(&key, &expected, edges.len()));
    }
    Ok(())
}

fn invalid_value(key: &str, expected: &str, found: impl Display) -> Failure {
    Failure::usage(format!(
        "`search.{key}`: expected {expected}, found `{found}`"
    ))
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
        assert_eq!(settings.features.len(), 24);
        assert_eq!(
            settings.operators,
            OperatorWeights {
                mutate: 0.0,
                ..OperatorWeights::default()
            }
        );
    }

    #[test]
    fn axes_that_a_device_cannot_supply_are_dropped_by_name() {
        let left_after = |is_gpu, inspects| {
            let mut settings: SearchSettings = serde_json::from_value(serde_json::json!({
                "features": {"block_threads": [64], "coalescing": [0.5], "registers": [64]},
            }))
            .unwrap();
            let dropped = settings.drop_axes(FeatureSources { is_gpu, inspects });
            assert_eq!(dropped.len() + settings.features.len(), 3);
            settings.features.keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(left_after(true, false), ["block_threads", "registers"]);
        assert_eq!(left_after(false, true), ["block_threads", "coalescing"]);
        assert_eq!(left_after(true, true).len(), 3);
    }

    #[test]
    fn invalid_values_are_refused_with_their_key() {
        assert!(serde_yaml::from_str::<SearchSettings>("island: 4").is_err());
        for (yaml, message) in [
            (
                "features: {barrier: [1]}",
                "unknown feature `barrier` in `search.features`\n\nhint: did you mean `barriers`?",
            ),
            (
                "features: {barriers: [4, 1]}",
                "`search.features.barriers`: expected finite bin edges in ascending order, found `[4.0, 1.0]`",
            ),
            (
                "features: {barriers: [.nan]}",
                "`search.features.barriers`: expected finite bin edges in ascending order, found `[NaN]`",
            ),
            (
                "operators: {mutate: -1}",
                "`search.operators.mutate`: expected a number from 0 to 1e9, found `-1`",
            ),
            (
                "operators: {mutate: .inf}",
                "`search.operators.mutate`: expected a number from 0 to 1e9, found `inf`",
            ),
            (
                "operators: {autotune: 0, mutate: 0, recombine: 0, propose: 0, edit: 0, crossover: 0, repair: 0}",
                "`search.operators`: every weight is 0, so no kernel can be made\n\nhint: give at least one operator a positive weight, for example `mutate: 1`",
            ),
            (
                "exploration: 1.5",
                "`search.exploration`: expected a number from 0 to 1, found `1.5`",
            ),
            (
                "learning: .nan",
                "`search.learning`: expected a number from 0 to 1, found `NaN`",
            ),
            (
                "target_speedup: 0",
                "`search.target_speedup`: expected a number above 0, found `0`",
            ),
            (
                "mode: tune\nstrategy: beam",
                "`search.strategy` has no effect in mode `tune`, which edits one kernel\n\nhint: remove it, or use `kforge evolve`",
            ),
            (
                "islands: {count: 65}",
                "`search.islands.count`: expected 1 to 64, found `65`",
            ),
            (
                "islands: {count: 2, migrate_every: 0}",
                "`search.islands.migrate_every`: expected at least 1, found `0`",
            ),
            (
                "islands: {count: 2}\nstrategy: beam",
                "`search.islands` needs `kforge evolve` with the strategy `map_elites`\n\nhint: remove `search.islands.count`, or set it to 1",
            ),
            (
                "near_copies: {similarity: 1.5}",
                "`search.near_copies.similarity`: expected a number above 0 and up to 1, found `1.5`",
            ),
            (
                "near_copies: {action: down_weight}\nislands: {count: 2}",
                "`search.near_copies.action: down_weight` needs `kforge evolve` with the strategy `map_elites` and without islands\n\nhint: remove it, or set it to `refuse`",
            ),
            (
                "confirm: 0",
                "`search.confirm`: expected at least 1, found `0`",
            ),
            (
                "window: 0",
                "`search.window`: expected at least 1, found `0`",
            ),
            (
                "window: 1000000",
                "`search.window`: expected at most 100000, found `1000000`",
            ),
            (
                "context: 1001",
                "`search.context`: expected at most 1000, found `1001`",
            ),
        ] {
            assert_eq!(check_error(yaml), message);
        }
    }
}
