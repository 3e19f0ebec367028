//! The strategies that the suite compares: kforge's own search, and controls that are as simple as they can be.

mod elite_pool;
mod history;
mod map_elites;
mod mu_plus_lambda;
mod random;

pub(crate) use elite_pool::ElitePool;
pub(crate) use history::Setup;
pub(crate) use map_elites::MapElites;
pub(crate) use mu_plus_lambda::MuPlusLambda;
pub(crate) use random::RandomSearch;
