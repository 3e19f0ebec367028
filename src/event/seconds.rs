//! What an evaluation took. Plain data.

use serde::{Deserialize, Serialize};

/// What an evaluation took, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvaluationSeconds {
    /// Wall time, the start of its processes included.
    pub wall: f64,
    /// Device time of all its processes, as `seconds.device` of a verdict.
    pub device: f64,
}
