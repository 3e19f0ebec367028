//! The parents of the strategies without cells (`search.strategy`): kernels that passed, fastest first and latest first.
//!
//! Follows the fold. Draws from the stream that the caller passes; there is no other source of chance.

use super::settings::Strategy;
use crate::base::RandomStream;

/// The number of parents of `mu_plus_lambda` and of `beam`: EvoEngineer's population.
const PARENTS: usize = 5;

/// How many briefs the parents of `beam` get before the fastest kernels take their place: eight children each.
const GENERATION: u64 = 8 * PARENTS as u64;

/// `elite_pool`: how many of the latest kernels are parents.
const RECENT: usize = 3;

/// `elite_pool`: a kernel whose log speedup is higher by this much is drawn e times as often.
const TEMPERATURE: f64 = 0.1;

/// How many of the fastest kernels are kept. The weight of a slower one would be next to nothing.
const MAX_FASTEST: usize = 64;

/// A kernel that passed and was judged completely.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Member {
    step: u64,
    speedup: f64,
}

/// The kernels that may be parents.
#[derive(Debug, Default)]
pub(super) struct Population {
    /// In the order of steps.
    passed: Vec<u64>,
    /// Fastest first; of equals the earlier step first.
    fastest: Vec<Member>,
    /// `beam`: the parents of the generation that started at this step.
    beam: Vec<u64>,
    generation: u64,
}

impl Population {
    /// Adds a kernel.
    pub(super) fn add(&mut self, step: u64, speedup: f64) {
        self.passed.push(step);
        self.insert(Member { step, speedup });
    }

    /// Forgets all kernels: they were measured on another device.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Replaces the figure of a kernel that was judged again; `None`: it did not pass.
    pub(super) fn replace(&mut self, step: u64, speedup: Option<f64>) {
        self.fastest.retain(|member| member.step != step);
        match speedup {
            Some(speedup) => {
                if !self.passed.contains(&step) {
                    self.passed.push(step);
                }
                self.insert(Member { step, speedup });
            }
            None => {
                self.passed.retain(|passed| *passed != step);
                self.beam.retain(|parent| *parent != step);
            }
        }
    }

    /// Notes that the brief of a step was decided. Every generation of `beam` starts with the fastest kernels of that moment.
    pub(super) fn note_brief(&mut self, step: u64) {
        if self.beam.len() < PARENTS || step >= self.generation + GENERATION {
            self.generation = step;
            let fastest = self.fastest.iter().take(PARENTS);
            self.beam = fastest.map(|member| member.step).collect();
        }
    }

    /// All kernels that this strategy may use now. Empty before anything has passed.
    pub(super) fn parents(&self, strategy: Strategy) -> Vec<u64> {
        let fastest = |count| self.fastest.iter().take(count).map(|member| member.step);
        match strategy {
            Strategy::MapElites => Vec::new(),
            Strategy::Random => self.passed.clone(),
            Strategy::ElitePool => {
                let mut parents: Vec<u64> = fastest(MAX_FASTEST).collect();
                parents.extend(self.recent());
                parents.sort_unstable();
                parents.dedup();
                parents
            }
            Strategy::MuPlusLambda => fastest(PARENTS).collect(),
            Strategy::Beam if self.beam.is_empty() => fastest(PARENTS).collect(),
            Strategy::Beam => self.beam.clone(),
        }
    }

    /// Draws one of `parents`. `turn`: the number of the step and of earlier draws for it, for the strategies in which each parent has its
    /// turn.
    pub(super) fn draw(
        &self,
        strategy: Strategy,
        parents: &[u64],
        turn: u64,
        stream: &mut RandomStream,
    ) -> Option<u64> {
        match strategy {
            Strategy::MapElites | Strategy::Random => {
                parents.get(stream.below(parents.len())).copied()
            }
            Strategy::MuPlusLambda | Strategy::Beam => {
                let index = usize::try_from(turn).unwrap_or(0) % parents.len().max(1);
                parents.get(index).copied()
            }
            Strategy::ElitePool => {
                let recent: Vec<u64> = self.recent().collect();
                if stream.uniform() < 0.5 {
                    return recent.get(stream.below(recent.len())).copied();
                }
                let best = self.fastest.first()?.speedup.ln();
                let weight = |member: &Member| ((member.speedup.ln() - best) / TEMPERATURE).exp();
                let weights: Vec<f64> = self.fastest.iter().map(weight).collect();
                let drawn = self.fastest.get(stream.weighted_index(&weights)?);
                drawn.map(|member| member.step)
            }
        }
    }

    fn recent(&self) -> impl Iterator<Item = u64> {
        let first = self.passed.len().saturating_sub(RECENT);
        self.passed[first..].iter().copied()
    }

    fn insert(&mut self, member: Member) {
        let is_before = |other: &Member| {
            (other.speedup.total_cmp(&member.speedup).reverse())
                .then(other.step.cmp(&member.step))
                .is_lt()
        };
        let position = self.fastest.partition_point(is_before);
        self.fastest.insert(position, member);
        self.fastest.truncate(MAX_FASTEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten kernels; the later, the slower, but for the last one.
    fn population() -> Population {
        let mut population = Population::default();
        for step in 1..10 {
            population.add(step, 10.0 - step as f64);
        }
        population.add(10, 100.0);
        population
    }

    #[test]
    fn mu_plus_lambda_gives_each_of_the_fastest_its_turn() {
        let population = population();
        let parents = population.parents(Strategy::MuPlusLambda);
        assert_eq!(parents, [10, 1, 2, 3, 4]);
        let mut stream = RandomStream::new(1, "test", 0);
        let mut drawn: Vec<u64> = (20..25)
            .filter_map(|turn| population.draw(Strategy::MuPlusLambda, &parents, turn, &mut stream))
            .collect();
        drawn.sort_unstable();
        assert_eq!(drawn, [1, 2, 3, 4, 10]);
    }

    #[test]
    fn beam_keeps_its_parents_for_a_generation() {
        let mut population = population();
        population.note_brief(20);
        population.add(21, 200.0);
        population.note_brief(22);
        assert_eq!(population.parents(Strategy::Beam), [10, 1, 2, 3, 4]);
        population.note_brief(20 + GENERATION);
        assert_eq!(population.parents(Strategy::Beam), [21, 10, 1, 2, 3]);
    }

    #[test]
    fn elite_pool_draws_the_latest_and_the_fastest() {
        let population = population();
        let parents = population.parents(Strategy::ElitePool);
        let mut counts = [0; 11];
        for turn in 0..2000 {
            let mut stream = RandomStream::new(turn, "test", 0);
            let drawn = population.draw(Strategy::ElitePool, &parents, 0, &mut stream);
            counts[drawn.unwrap() as usize] += 1;
        }
        // The last one is the fastest by far, and one of the three latest.
        assert!(
            counts[10] > 1200 && counts[8] > 250 && counts[9] > 250,
            "{counts:?}"
        );
        assert_eq!(counts[5], 0);
    }

    #[test]
    fn a_kernel_that_no_longer_passes_is_no_parent() {
        let mut population = population();
        population.note_brief(20);
        population.replace(10, None);
        population.replace(9, Some(50.0));
        for strategy in [
            Strategy::Random,
            Strategy::ElitePool,
            Strategy::MuPlusLambda,
            Strategy::Beam,
        ] {
            assert!(!population.parents(strategy).contains(&10), "{strategy:?}");
        }
        assert_eq!(population.parents(Strategy::MuPlusLambda)[0], 9);
    }
}
