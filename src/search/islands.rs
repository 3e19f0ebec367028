//! Islands: parts of a search with elites of their own, from which they take parents, context and incumbents (`search.islands`).
//!
//! Follows the fold. Every step belongs to the island of its brief, and starting kernels belong to all islands. The archive of the search
//! does not depend on islands: it has the best of all of them, and alone decides what is reported. An island keeps the kernel with the
//! highest estimate of each cell and asks for no duel. Draws from streams of the seed only.

use serde::{Deserialize, Serialize};

use super::archive::{Archive, ChallengeOutcome, Elite};
use crate::base::RandomStream;

/// How many of the fastest elites of another island a restarted island gets.
const RESTART_ELITES: usize = 3;

/// Islands (`search::islands`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IslandSettings {
    /// How many; 1 is one search without islands. From 1 to 64.
    pub count: u64,
    /// The fastest kernel of each island goes to the next one whenever this many steps have brought a kernel that entered its island.
    pub migrate_every: u64,
    /// An island starts again with the fastest kernels of a faster one after this many of its steps without a measurably faster kernel.
    pub restart_after: u64,
}

impl Default for IslandSettings {
    fn default() -> Self {
        Self {
            count: 1,
            migrate_every: 40,
            restart_after: 150,
        }
    }
}

impl IslandSettings {
    /// Whether the search has islands.
    pub(crate) fn are_on(self) -> bool {
        self.count > 1
    }

    /// The first key with a value that is not valid: the key, what it may be, and the value.
    pub(super) fn invalid_value(self) -> Option<(&'static str, &'static str, u64)> {
        let Self {
            count,
            migrate_every,
            restart_after,
        } = self;
        let checked = [
            ("count", "1 to 64", count, 1..=64),
            ("migrate_every", "at least 1", migrate_every, 1..=u64::MAX),
            ("restart_after", "at least 1", restart_after, 1..=u64::MAX),
        ];
        let mut invalid =
            (checked.into_iter()).filter(|(_, _, value, valid)| !valid.contains(value));
        invalid
            .next()
            .map(|(key, expected, value, _)| (key, expected, value))
    }
}

/// One island.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Island {
    /// The fastest kernel in each cell: of its own steps, and migrants.
    pub(crate) archive: Archive,
    /// Its folded steps.
    pub(crate) steps: u64,
    /// How many of these in a row, up to the last, brought no measurably faster kernel.
    without_gain: u64,
    /// Kernels of other islands that entered by migration.
    pub(crate) migrants: u64,
    pub(crate) restarts: u64,
}

/// All islands. Empty if the search has none.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Islands {
    settings: IslandSettings,
    islands: Vec<Island>,
    /// Steps since the last migration whose kernel entered its island.
    accepted: u64,
}

/// Who made a kernel that enters an island.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A starting kernel, which belongs to every island.
    Start,
    /// A step of the island with this number.
    Step(u32),
}

impl Islands {
    /// `archive`: an archive with the axes of the search.
    pub(super) fn new(settings: IslandSettings, archive: &Archive) -> Self {
        let count = if settings.are_on() { settings.count } else { 0 };
        let island = Island {
            archive: archive.emptied(),
            steps: 0,
            without_gain: 0,
            migrants: 0,
            restarts: 0,
        };
        Self {
            settings,
            islands: (0..count).map(|_| island.clone()).collect(),
            accepted: 0,
        }
    }

    /// All islands in their order; none if the search has no islands.
    pub(super) fn all(&self) -> &[Island] {
        &self.islands
    }

    /// The numbers of the islands in the order in which a step is offered to them: each is the first for every n-th step. The next one
    /// takes the step if an island has nothing left to try. `None` alone: the search has no islands.
    pub(super) fn turns(&self, step: u64) -> Vec<Option<u32>> {
        let count = self.islands.len() as u64;
        if count == 0 {
            return vec![None];
        }
        let number = |turn: u64| u32::try_from(1 + (step + turn) % count).ok();
        (0..count).map(number).collect()
    }

    /// An island by its number, from 1.
    pub(super) fn get(&self, number: u32) -> Option<&Island> {
        self.islands.get(number.checked_sub(1)? as usize)
    }

    /// The elite that is the kernel of this step, on any island.
    pub(super) fn elite_of(&self, step: u64) -> Option<&Elite> {
        let elites = self.islands.iter().flat_map(|one| one.archive.elites());
        elites.into_iter().find(|elite| elite.step == step)
    }

    /// Counts a folded step and offers its kernel, if it has one that passed and was timed in full. Then lets kernels migrate and
    /// restarts islands, if it is time.
    pub(super) fn fold(&mut self, origin: Origin, elite: Option<&Elite>, seed: u64, position: u64) {
        if self.islands.is_empty() {
            return;
        }
        match origin {
            Origin::Start => {
                for island in &mut self.islands {
                    elite.map(|elite| island.offer(elite));
                }
            }
            Origin::Step(number) => {
                let index = (number as usize).wrapping_sub(1);
                let Some(island) = self.islands.get_mut(index) else {
                    return;
                };
                let has_entered = island.fold_step(elite);
                self.accepted += u64::from(has_entered);
                if self.accepted >= self.settings.migrate_every {
                    self.accepted = 0;
                    self.migrate();
                }
                self.restart_if_stagnant(index, seed, position);
            }
        }
    }

    /// The fastest elite of each island goes to the next one.
    fn migrate(&mut self) {
        let fastest = |island: &Island| island.archive.elites().first().cloned();
        let fastest: Vec<_> = self.islands.iter().map(fastest).collect();
        let count = self.islands.len();
        for (index, elite) in fastest.into_iter().enumerate() {
            let island = &mut self.islands[(index + 1) % count];
            if elite.is_some_and(|elite| island.offer(&elite)) {
                island.migrants += 1;
            }
        }
    }

    /// Empties an island that has made no measurably faster kernel for long, and gives it the fastest elites of an island that is drawn
    /// among those with a faster kernel. The island with the fastest kernel is not restarted.
    fn restart_if_stagnant(&mut self, index: usize, seed: u64, position: u64) {
        if self.islands[index].without_gain < self.settings.restart_after {
            return;
        }
        let speed = |island: &Island| {
            let fastest = island.archive.elites().first();
            fastest.map_or(0.0, |elite| elite.speedup.geomean)
        };
        let own = speed(&self.islands[index]);
        let faster: Vec<usize> = (0..self.islands.len())
            .filter(|other| speed(&self.islands[*other]) > own)
            .collect();
        let mut stream = RandomStream::new(seed, "island restart", position);
        let Some(from) = faster.get(stream.below(faster.len().max(1))) else {
            return;
        };
        let elites = self.islands[*from].archive.elites().iter();
        let elites: Vec<Elite> = elites.take(RESTART_ELITES).cloned().collect();
        let island = &mut self.islands[index];
        island.archive = island.archive.emptied();
        island.without_gain = 0;
        island.restarts += 1;
        for elite in &elites {
            island.offer(elite);
        }
    }

    /// Replaces a kernel that was judged again, on every island that has it; `None`: it did not pass.
    pub(super) fn replace(&mut self, step: u64, elite: Option<&Elite>) {
        for island in &mut self.islands {
            let mut elites = island.archive.elites().iter();
            let Some(old) = elites.find(|elite| elite.step == step) else {
                continue;
            };
            let cell = old.cell.clone();
            island.archive.remove(&cell);
            elite.map(|elite| island.offer(elite));
        }
    }

    /// Leaves each island only the elites of the search's archive, which another device judges again. An island without one gets all
    /// of them.
    pub(super) fn forget_figures(&mut self, archive: &Archive) {
        for island in &mut self.islands {
            let is_kept = |elite: &&Elite| {
                let mut own = island.archive.elites().iter();
                own.any(|own| own.step == elite.step)
            };
            let kept: Vec<Elite> = archive.elites().iter().filter(is_kept).cloned().collect();
            island.without_gain = 0;
            island.archive = if kept.is_empty() {
                archive.clone()
            } else {
                let mut left = archive.emptied();
                kept.into_iter().for_each(|elite| left.insert(elite));
                left
            };
        }
    }
}

impl Island {
    /// Counts a step. Returns whether its kernel entered.
    fn fold_step(&mut self, elite: Option<&Elite>) -> bool {
        self.steps += 1;
        self.without_gain += 1;
        let Some(elite) = elite else {
            return false;
        };
        let fastest = self.archive.elites().first();
        let is_gain = fastest.is_none_or(|fastest| elite.speedup.ci95[0] > fastest.speedup.geomean);
        if is_gain {
            self.without_gain = 0;
        }
        self.offer(elite)
    }

    /// Puts a kernel into its cell if the estimate is higher than that of the elite there. Returns whether it entered.
    fn offer(&mut self, elite: &Elite) -> bool {
        let outcome = self.archive.challenge(&elite.cell, &elite.speedup);
        let enters = !matches!(outcome, ChallengeOutcome::NotFaster(_));
        if enters {
            self.archive.insert(elite.clone());
        }
        enters
    }
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;

    use super::*;
    use crate::verdict::Speedup;

    const FEATURE: &str = "block_threads";

    fn archive() -> Archive {
        Archive::new(&IndexMap::from([(FEATURE.to_owned(), vec![64.0, 128.0])]))
    }

    fn elite(step: u64, threads: f64, geomean: f64) -> Elite {
        let speedup = Speedup {
            geomean,
            ci95: [geomean * 0.99, geomean * 1.01],
        };
        let features = IndexMap::from([(FEATURE.to_owned(), threads)]);
        Elite {
            step,
            cell: archive().cell_of(&features, &speedup),
            speedup,
        }
    }

    fn islands(migrate_every: u64, restart_after: u64) -> Islands {
        let settings = IslandSettings {
            count: 3,
            migrate_every,
            restart_after,
        };
        let mut islands = Islands::new(settings, &archive());
        islands.fold(Origin::Start, Some(&elite(1, 32.0, 1.0)), 7, 1);
        islands
    }

    fn steps(islands: &Islands, number: u32) -> Vec<u64> {
        let elites = islands.get(number).unwrap().archive.elites();
        elites.iter().map(|elite| elite.step).collect()
    }

    #[test]
    fn the_fastest_kernel_goes_to_the_next_island() {
        let mut islands = islands(2, 1000);
        islands.fold(Origin::Step(1), Some(&elite(2, 32.0, 2.0)), 7, 2);
        assert_eq!(steps(&islands, 1), [2]);
        assert_eq!(steps(&islands, 2), [1]);
        // Too slow to enter: it does not count.
        islands.fold(Origin::Step(2), Some(&elite(3, 32.0, 0.5)), 7, 3);
        assert_eq!(steps(&islands, 2), [1]);
        islands.fold(Origin::Step(3), Some(&elite(4, 200.0, 1.5)), 7, 4);
        assert_eq!(steps(&islands, 1), [2, 4]);
        assert_eq!(steps(&islands, 2), [2]);
        // What migrates is what was there before: kernel 2 does not reach the third island at once.
        assert_eq!(steps(&islands, 3), [4, 1]);
        assert_eq!(islands.all().iter().map(|one| one.migrants).sum::<u64>(), 2);
    }

    #[test]
    fn an_island_without_gains_starts_again_with_the_kernels_of_a_faster_one() {
        let mut islands = islands(1000, 3);
        for (step, threads, geomean) in [(2, 32.0, 2.0), (3, 64.0, 3.0), (4, 200.0, 4.0)] {
            islands.fold(
                Origin::Step(1),
                Some(&elite(step, threads, geomean)),
                7,
                step,
            );
        }
        // Faster, but not measurably.
        islands.fold(Origin::Step(2), Some(&elite(5, 32.0, 1.001)), 7, 5);
        islands.fold(Origin::Step(2), Some(&elite(6, 64.0, 0.9)), 7, 6);
        assert_eq!(steps(&islands, 2), [5, 6]);
        islands.fold(Origin::Step(2), None, 7, 7);
        assert_eq!(steps(&islands, 2), [4, 3, 2]);
        assert_eq!(islands.get(2).unwrap().restarts, 1);
        // The island with the fastest kernel keeps what it has.
        for position in 8..20 {
            islands.fold(Origin::Step(1), None, 7, position);
        }
        assert_eq!(steps(&islands, 1), [4, 3, 2]);
        assert_eq!(islands.get(1).unwrap().restarts, 0);
    }

    #[test]
    fn each_island_has_its_turn() {
        let islands = islands(10, 10);
        let first = |step| islands.turns(step)[0].unwrap();
        let mut numbers: Vec<u32> = (5..8).map(first).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2, 3]);
        assert_eq!(islands.turns(5).len(), 3);
        let off = Islands::new(IslandSettings::default(), &archive());
        assert_eq!(off.turns(5), [None]);
    }
}
