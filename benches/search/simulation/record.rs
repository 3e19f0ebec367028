//! What a simulated search leaves: its bests over time, and what the machine did.

/// A kernel that became the best, with its true speedup.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Best {
    pub(crate) seconds: f64,
    /// Steps and judgements that had ended.
    pub(crate) steps: u64,
    pub(crate) judged: u64,
    pub(crate) speedup: f64,
}

/// One search.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RunRecord {
    /// Steps that have ended.
    pub(crate) steps: u64,
    /// Judgements that have ended, those of duplicates by code included.
    pub(crate) judged: u64,
    pub(crate) dismissed: u64,
    /// Candidates that violated a constraint: no judgements.
    pub(crate) rejected: u64,
    /// Steps with the source of an earlier one.
    pub(crate) duplicates: u64,
    /// Steps whose operator or model made nothing.
    pub(crate) without_candidate: u64,
    pub(crate) duels: u64,
    /// How often a kernel replaced another because it was measured to be faster, and how often it was slower in truth.
    pub(crate) replacements: u64,
    pub(crate) false_replacements: u64,
    pub(crate) seconds: f64,
    /// How long the device worked, and how long on duels.
    pub(crate) device_seconds: f64,
    pub(crate) duel_seconds: f64,
    /// In order. The last is the result of the search.
    pub(crate) bests: Vec<Best>,
    pub(crate) best_step: Option<u64>,
    pub(crate) optimum: f64,
}

impl RunRecord {
    /// The share of the optimum that the best kernel had when `is_over` was not true yet; 0 before there was one.
    fn share_until(&self, is_over: impl Fn(&Best) -> bool) -> f64 {
        let bests = self.bests.iter().take_while(|best| !is_over(best));
        bests.last().map_or(0.0, |best| best.speedup / self.optimum)
    }

    /// After this many steps.
    pub(crate) fn share_at_step(&self, steps: u64) -> f64 {
        self.share_until(|best| best.steps > steps)
    }

    /// After this many judgements.
    pub(crate) fn share_at_judgement(&self, judged: u64) -> f64 {
        self.share_until(|best| best.judged > judged)
    }

    pub(crate) fn share_at_second(&self, seconds: f64) -> f64 {
        self.share_until(|best| best.seconds > seconds)
    }

    pub(crate) fn final_share(&self) -> f64 {
        self.share_until(|_| false)
    }

    /// The judgements until the best kernel had this share of the optimum for the first time.
    pub(crate) fn judgements_to(&self, share: f64) -> Option<u64> {
        let reached = |best: &&Best| best.speedup >= share * self.optimum;
        Some(self.bests.iter().find(reached)?.judged)
    }

    /// The share of the time in which the device worked.
    pub(crate) fn busy(&self) -> f64 {
        self.device_seconds / self.seconds.max(1e-9)
    }

    /// The share of the device's work that duels took.
    pub(crate) fn duel_share(&self) -> f64 {
        self.duel_seconds / self.device_seconds.max(1e-9)
    }
}
