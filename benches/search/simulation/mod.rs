//! Simulated searches: the real `kforge::search::Search` against synthetic or recorded judges, on a simulated clock.
//!
//! Compiles nothing, measures nothing, and reads no clock. `benches/search/README.md` describes the landscapes and where each figure
//! comes from.

pub(crate) mod dice;
mod judging;
pub(crate) mod kernel_tuner;
pub(crate) mod landscape;
pub(crate) mod machine;
mod operators;
pub(crate) mod record;
pub(crate) mod recorded;
pub(crate) mod simulator;
pub(crate) mod space;
pub(crate) mod strategies;
pub(crate) mod strategy;
mod synthetic;
pub(crate) mod t4;
pub(crate) mod terrains;
pub(crate) mod verdicts;
