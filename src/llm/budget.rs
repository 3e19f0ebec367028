//! A run's budget for models: the worst case is reserved before a request is sent, and the real cost is settled when its reply
//! arrives.
//!
//! Integer arithmetic without a lock: the driver owns it. A request that an earlier process has sent is counted even if it does not fit.

use crate::event::Cost;

/// The most that a run may spend on models. `None` means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetLimits {
    /// In billionths of a dollar.
    pub nano_usd: Option<u64>,
    /// Input and output tokens together, those that a provider has cached included.
    pub tokens: Option<u64>,
}

impl BudgetLimits {
    /// From the config's dollars, rounded to a billionth, and tokens. The config has refused negative amounts.
    pub fn new(usd: Option<f64>, tokens: Option<u64>) -> Self {
        Self {
            nano_usd: usd.map(|usd| (usd * 1e9).round() as u64),
            tokens,
        }
    }
}

/// What a run has spent and reserved.
#[derive(Clone, Debug)]
pub struct Budget {
    limits: BudgetLimits,
    spent: Amount,
    reserved: Amount,
    /// Whether everything that was spent had a price. True if nothing was spent.
    all_priced: bool,
    /// Whether a part of the tokens is estimated from bytes.
    estimated: bool,
}

/// Tokens and billionths of a dollar. Sums stop at the largest number, differences at 0.
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

    fn minus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_sub(other.tokens),
            nano_usd: self.nano_usd.saturating_sub(other.nano_usd),
        }
    }
}

/// What a run may still reserve. `None` means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemainingBudget {
    /// In billionths of a dollar.
    pub nano_usd: Option<u64>,
    pub tokens: Option<u64>,
}

impl Budget {
    pub(crate) fn new(limits: BudgetLimits) -> Self {
        Self {
            limits,
            spent: Amount::default(),
            reserved: Amount::default(),
            all_priced: true,
            estimated: false,
        }
    }

    /// Reserves a request's worst case. Returns false and reserves nothing if it does not fit. A cost without a price never fits a
    /// limit in dollars.
    #[must_use]
    pub(crate) fn reserve(&mut self, worst_case: &Cost) -> bool {
        let fits = self.would_fit(worst_case);
        if fits {
            self.reserved = self.reserved.plus(Amount::of(worst_case));
        }
        fits
    }

    /// Reserves the worst case of a request to a mailbox that an earlier process has sent, even if it no longer fits: the request cannot be
    /// withdrawn.
    pub(crate) fn reserve_sent(&mut self, worst_case: &Cost) {
        self.reserved = self.reserved.plus(Amount::of(worst_case));
    }

    /// Whether a worst case could be reserved now.
    pub(crate) fn would_fit(&self, worst_case: &Cost) -> bool {
        let left = self.remaining();
        let dollars = left
            .nano_usd
            .is_none_or(|left| worst_case.nano_usd.is_some_and(|cost| cost <= left));
        dollars && left.tokens.is_none_or(|left| worst_case.tokens <= left)
    }

    /// Releases a reservation and adds the real cost to what is spent, also where it is more than was reserved.
    pub(crate) fn settle(&mut self, reserved: &Cost, spent: &Cost) {
        self.reserved = self.reserved.minus(Amount::of(reserved));
        self.add_spent(spent);
    }

    /// Adds a cost of an earlier process of the same run.
    pub(crate) fn add_spent(&mut self, spent: &Cost) {
        self.all_priced &= spent.nano_usd.is_some() || spent.tokens == 0;
        self.estimated |= spent.estimated && spent.tokens > 0;
        self.spent = self.spent.plus(Amount::of(spent));
    }

    /// Takes back the cost that `add_spent` counted for a lost request to a mailbox, because its reply may still come.
    pub(crate) fn undo_spent(&mut self, counted: &Cost) {
        self.spent = self.spent.minus(Amount::of(counted));
    }

    /// What was spent, the worst case of lost requests included. Dollars are `None` if a part of the tokens has no price.
    pub(crate) fn spent(&self) -> Cost {
        Cost {
            tokens: self.spent.tokens,
            nano_usd: self.all_priced.then_some(self.spent.nano_usd),
            assumed: false,
            estimated: self.estimated,
        }
    }

    /// The limits that a worst case exceeds now, each raised so that it fits with as much again. `None` if it fits.
    pub(crate) fn limits_to_fit(&self, worst_case: &Cost) -> Option<BudgetLimits> {
        if self.would_fit(worst_case) {
            return None;
        }
        let left = self.remaining();
        let used = self.spent.plus(self.reserved);
        let raised = |limit: Option<u64>, left: Option<u64>, used: u64, cost: u64| {
            let (limit, left) = (limit?, left?);
            let needed = used.saturating_add(cost.saturating_mul(2));
            (cost > left).then(|| needed.max(limit.saturating_mul(2)))
        };
        let nano_usd = worst_case.nano_usd.unwrap_or(0);
        Some(BudgetLimits {
            nano_usd: raised(self.limits.nano_usd, left.nano_usd, used.nano_usd, nano_usd),
            tokens: raised(
                self.limits.tokens,
                left.tokens,
                used.tokens,
                worst_case.tokens,
            ),
        })
    }

    /// What may still be reserved.
    pub(crate) fn remaining(&self) -> RemainingBudget {
        let used = self.spent.plus(self.reserved);
        let Self { limits, .. } = self;
        RemainingBudget {
            nano_usd: (limits.nano_usd).map(|limit| limit.saturating_sub(used.nano_usd)),
            tokens: limits.tokens.map(|limit| limit.saturating_sub(used.tokens)),
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
            ..Cost::default()
        }
    }

    #[test]
    fn raised_limits_fit_the_request_that_did_not() {
        let limits = BudgetLimits::new(Some(1.0), Some(1000));
        let mut budget = Budget::new(limits);
        budget.add_spent(&cost(500, Some(900_000_000)));
        assert_eq!(budget.limits_to_fit(&cost(500, Some(100_000_000))), None);
        let raised = budget.limits_to_fit(&cost(500, Some(200_000_000)));
        let raised = raised.unwrap();
        assert_eq!(
            (raised.nano_usd, raised.tokens),
            (Some(2_000_000_000), None),
            "only the limit that is reached"
        );
        let large = cost(5000, Some(1));
        let raised = budget.limits_to_fit(&large).unwrap();
        assert_eq!((raised.nano_usd, raised.tokens), (None, Some(10_500)));
        let mut next = Budget::new(BudgetLimits {
            tokens: raised.tokens,
            ..limits
        });
        next.add_spent(&budget.spent());
        assert!(next.would_fit(&large));
    }

    #[test]
    fn estimate_is_marked_in_the_sum() {
        let mut budget = Budget::new(BudgetLimits::default());
        budget.add_spent(&cost(5, None));
        assert!(!budget.spent().estimated);
        budget.add_spent(&Cost {
            estimated: true,
            ..cost(5, None)
        });
        assert!(budget.spent().estimated);
    }

    #[test]
    fn reservation_never_exceeds_the_limit() {
        let mut budget = Budget::new(BudgetLimits::new(Some(1.0), None));
        let worst = cost(100_000, Some(300_000_000));
        assert!((0..3).all(|_| budget.reserve(&worst)));
        assert!(!budget.reserve(&worst), "the fourth could exceed the limit");
        assert_eq!(budget.remaining().nano_usd, Some(100_000_000));
        budget.settle(&worst, &cost(1000, Some(1)));
        assert!(budget.reserve(&worst));
        assert_eq!(budget.spent(), cost(1000, Some(1)));
        assert!(
            !budget.reserve(&cost(1, None)),
            "a cost without a price does not fit a dollar limit"
        );
    }

    #[test]
    fn sent_request_is_reserved_even_over_the_limit() {
        let mut budget = Budget::new(BudgetLimits::new(None, Some(100)));
        assert!(budget.reserve(&cost(60, None)));
        budget.reserve_sent(&cost(90, None));
        assert!(!budget.would_fit(&cost(1, None)));
        // Settling one request leaves the other's reservation in place.
        budget.settle(&cost(90, None), &cost(10, None));
        assert_eq!(budget.remaining().tokens, Some(30));
    }

    #[test]
    fn token_limit_is_enforced() {
        let mut budget = Budget::new(BudgetLimits::new(None, Some(1000)));
        budget.add_spent(&cost(400, None));
        assert_eq!(budget.spent().nano_usd, None);
        assert!(budget.reserve(&cost(600, None)) && !budget.reserve(&cost(1, None)));
        budget.settle(&cost(600, None), &cost(0, Some(0)));
        assert_eq!(budget.remaining().tokens, Some(600));
        let mut unlimited = Budget::new(BudgetLimits::default());
        assert!(unlimited.reserve(&cost(u64::MAX, Some(u64::MAX))));
        assert!(unlimited.reserve(&cost(u64::MAX, None)));
    }

    #[test]
    fn dollars_are_converted_to_nano_dollars() {
        for (usd, nano) in [
            (0.1, 100_000_000),
            (0.29, 290_000_000),
            (1.0, 1_000_000_000),
            (1e-9, 1),
        ] {
            assert_eq!(BudgetLimits::new(Some(usd), None).nano_usd, Some(nano));
        }
    }
}
