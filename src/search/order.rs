//! The order in which the steps of a search are folded. Plain data.

use serde::{Deserialize, Serialize};

/// The order in which complete steps are folded. A run keeps the order that it was started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoldOrder {
    /// By number: every step waits for all steps before it. Runs of earlier versions have this order.
    Step,
    /// In the order in which the journal made them complete: no step waits for another.
    Journal,
}
