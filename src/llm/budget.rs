//! What may still be spent: reserve the worst case before sending, settle when the reply is there.
//!
//! Plain arithmetic in whole numbers, without a lock: the driver owns it.

use crate::event::Cost;

/// The most that a run may spend on models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub nano_usd: Option<u64>,
    pub tokens: Option<u64>,
}

impl Limits {
    /// From dollars and tokens as they stand in a config.
    pub fn new(usd: Option<f64>, tokens: Option<u64>) -> Self {
        Self {
            nano_usd: usd.map(|usd| (usd * 1e9).round() as u64),
            tokens,
        }
    }
}

/// A run's account.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    limits: Limits,
    spent: Amount,
    reserved: Amount,
    /// Whether all that was spent had a price.
    priced: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    tokens: u64,
    nano_usd: u64,
}

impl Amount {
    fn of(cost: &Cost) -> Self {
        Self {
            tokens: cost.tokens,
            nano_usd: cost.nano_usd.unwrap_or(0),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            nano_usd: self.nano_usd.saturating_add(other.nano_usd),
        }
    }

    fn less(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_sub(other.tokens),
            nano_usd: self.nano_usd.saturating_sub(other.nano_usd),
        }
    }
}

/// What is left, reserved amounts taken off; `None` where nothing limits it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    pub nano_usd: Option<u64>,
    pub tokens: Option<u64>,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            priced: true,
            ..Self::default()
        }
    }

    /// Sets the worst case aside. False, and nothing is set aside, where it does not fit; a cost without a price fits under no
    /// limit in dollars.
    #[must_use]
    pub(crate) fn reserve(&mut self, worst: &Cost) -> bool {
        let fits = self.would_fit(worst);
        if fits {
            self.reserved = self.reserved.plus(Amount::of(worst));
        }
        fits
    }

    /// Sets aside what was set aside before, by an earlier process: the question is out already, whether it fits or not.
    pub(crate) fn hold(&mut self, worst: &Cost) {
        self.reserved = self.reserved.plus(Amount::of(worst));
    }

    /// Whether a worst case could be set aside now.
    pub(crate) fn would_fit(&self, worst: &Cost) -> bool {
        let left = self.left();
        let dollars = left
            .nano_usd
            .is_none_or(|left| worst.nano_usd.is_some_and(|cost| cost <= left));
        dollars && left.tokens.is_none_or(|left| worst.tokens <= left)
    }

    /// What was set aside is free again, and what it came to is spent.
    pub(crate) fn settle(&mut self, reserved: &Cost, spent: &Cost) {
        self.reserved = self.reserved.less(Amount::of(reserved));
        self.count(spent);
    }

    /// Counts what was spent before: by an earlier session of the same run.
    pub(crate) fn count(&mut self, spent: &Cost) {
        self.priced &= spent.nano_usd.is_some() || spent.tokens == 0;
        self.spent = self.spent.plus(Amount::of(spent));
    }

    /// Takes back what was counted for a question that waits for its reply after all.
    pub(crate) fn take_back(&mut self, counted: &Cost) {
        self.spent = self.spent.less(Amount::of(counted));
    }

    /// What was spent; without dollars where a part of it has no price.
    pub(crate) fn spent(&self) -> Cost {
        Cost {
            tokens: self.spent.tokens,
            nano_usd: self.priced.then_some(self.spent.nano_usd),
            assumed: false,
        }
    }

    /// What is left to be set aside.
    pub(crate) fn left(&self) -> Left {
        let taken = self.spent.plus(self.reserved);
        Left {
            nano_usd: self
                .limits
                .nano_usd
                .map(|most| most.saturating_sub(taken.nano_usd)),
            tokens: self
                .limits
                .tokens
                .map(|most| most.saturating_sub(taken.tokens)),
        }
    }

    /// What would be left if all that is under way cost nothing: where even that does not fit, waiting does not help.
    pub(crate) fn left_at_best(&self) -> Left {
        Left {
            nano_usd: self
                .limits
                .nano_usd
                .map(|most| most.saturating_sub(self.spent.nano_usd)),
            tokens: self
                .limits
                .tokens
                .map(|most| most.saturating_sub(self.spent.tokens)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(tokens: u64, nano_usd: Option<u64>) -> Cost {
        Cost {
            tokens,
            nano_usd,
            assumed: false,
        }
    }

    #[test]
    fn nothing_leaves_that_could_cost_more_than_is_left() {
        let mut budget = Budget::new(Limits::new(Some(1.0), None));
        let worst = cost(100_000, Some(300_000_000));
        assert!((0..3).all(|_| budget.reserve(&worst)));
        assert!(!budget.reserve(&worst), "the fourth could pass the limit");
        assert_eq!(budget.left().nano_usd, Some(100_000_000));
        assert_eq!(budget.left_at_best().nano_usd, Some(1_000_000_000));
        budget.settle(&worst, &cost(1000, Some(1)));
        assert!(budget.reserve(&worst));
        assert_eq!(budget.spent(), cost(1000, Some(1)));
        assert!(!budget.reserve(&cost(1, None)), "no price, no dollars");
    }

    #[test]
    fn a_question_that_is_out_already_is_held_even_where_it_no_longer_fits() {
        let mut budget = Budget::new(Limits::new(None, Some(100)));
        assert!(budget.reserve(&cost(60, None)));
        budget.hold(&cost(90, None));
        assert!(!budget.would_fit(&cost(1, None)));
        // Its end frees what it held, and nothing of the other's.
        budget.settle(&cost(90, None), &cost(10, None));
        assert_eq!(budget.left().tokens, Some(30));
    }

    #[test]
    fn tokens_are_limited_alike() {
        let mut budget = Budget::new(Limits::new(None, Some(1000)));
        budget.count(&cost(400, None));
        assert_eq!(budget.spent().nano_usd, None);
        assert!(budget.reserve(&cost(600, None)) && !budget.reserve(&cost(1, None)));
        budget.settle(&cost(600, None), &cost(0, Some(0)));
        assert_eq!(budget.left().tokens, Some(600));
        let mut free = Budget::new(Limits::default());
        assert!(
            free.reserve(&cost(u64::MAX, Some(u64::MAX))) && free.reserve(&cost(u64::MAX, None))
        );
    }

    #[test]
    fn dollars_become_whole_billionths() {
        for (usd, nano) in [
            (0.1, 100_000_000),
            (0.29, 290_000_000),
            (1.0, 1_000_000_000),
            (1e-9, 1),
        ] {
            assert_eq!(Limits::new(Some(usd), None).nano_usd, Some(nano));
        }
    }
}
