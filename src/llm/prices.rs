//! What tokens cost: prices as the config gives them, and exact integer amounts.
//!
//! The config gives dollars per million tokens. A rate is kept in picodollars (10^-12 dollars) per token, so that sums are exact.
//! An amount is in nanodollars (10^-9 dollars), rounded up once per reply.

use serde::{Deserialize, Serialize};

use crate::base::Failure;
use crate::base::text::estimate_tokens;
use crate::event::{Cost, Usage};

/// A model's prices in dollars per million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Uncached input tokens.
    pub input: f64,
    /// Input tokens read from the provider's cache. Default: `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<f64>,
    /// Input tokens written to the cache. Default: `input`, and a quarter more for Anthropic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<f64>,
    /// Output tokens, reasoning included.
    pub output: f64,
}

/// Picodollars per token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TokenRates {
    input: u64,
    cached: u64,
    cache_write: u64,
    output: u64,
}

/// A price above this, in dollars per million tokens, is a typo.
const MAX_PRICE: f64 = 100_000.0;

impl Price {
    /// Checks that the prices are in range. `key` is the price's key in the config.
    pub(super) fn check(&self, key: &str) -> Result<(), Failure> {
        let all = [
            ("input", Some(self.input)),
            ("cached", self.cached),
            ("cache_write", self.cache_write),
            ("output", Some(self.output)),
        ];
        for (name, value) in all {
            if let Some(value) = value.filter(|value| !(0.0..=MAX_PRICE).contains(value)) {
                return Err(Failure::usage(format!("`{key}.{name}` cannot be `{value}`")).hint(
                    "a price is in dollars per million tokens, for example `price: {input: 3, output: 15}`",
                ));
            }
        }
        Ok(())
    }

    /// `cache_write_surcharge`: whether a cache write without a price costs a quarter more than input.
    pub(super) fn rates(&self, cache_write_surcharge: bool) -> TokenRates {
        // Up to `MAX_PRICE` the product is far below 2^53: rounding only corrects its last bit.
        let rate = |dollars: f64| (dollars * 1e6).round() as u64;
        let input = rate(self.input);
        let surcharge = if cache_write_surcharge {
            input.div_ceil(4)
        } else {
            0
        };
        TokenRates {
            input,
            cached: self.cached.map_or(input, rate),
            cache_write: self.cache_write.map_or(input + surcharge, rate),
            output: rate(self.output),
        }
    }
}

impl TokenRates {
    fn nano_usd(&self, usage: &Usage) -> u64 {
        let of = |tokens: u64, rate: u64| u128::from(tokens) * u128::from(rate);
        let sum = of(usage.input, self.input)
            + of(usage.cached, self.cached)
            + of(usage.cache_write, self.cache_write)
            + of(usage.output, self.output);
        u64::try_from(sum.div_ceil(1000)).unwrap_or(u64::MAX)
    }

    fn max_input_rate(&self) -> u64 {
        self.input.max(self.cached).max(self.cache_write)
    }
}

/// The cost of a request to a provider that counts no tokens, estimated from the bytes of prompt and reply. It has no price.
pub(super) fn estimated_cost(prompt_bytes: u64, reply_bytes: u64) -> Cost {
    // Each part is rounded up, so that no reply costs more than the longest one.
    let tokens = estimate_tokens(prompt_bytes).saturating_add(estimate_tokens(reply_bytes));
    Cost {
        tokens,
        nano_usd: None,
        assumed: false,
        estimated: true,
    }
}

/// The cost of a usage.
pub(super) fn cost_of_usage(rates: Option<&TokenRates>, usage: &Usage) -> Cost {
    Cost {
        tokens: usage.tokens(),
        nano_usd: rates.map(|rates| rates.nano_usd(usage)),
        assumed: false,
        estimated: false,
    }
}

/// The most that these tokens can cost, however the input is cached.
pub(super) fn worst_case(rates: Option<&TokenRates>, input: u64, output: u64) -> Cost {
    let usage = Usage {
        input,
        output,
        ..Usage::default()
    };
    let at_max_input_rate = |rates: &TokenRates| TokenRates {
        input: rates.max_input_rate(),
        ..*rates
    };
    Cost {
        tokens: usage.tokens(),
        nano_usd: rates.map(|rates| at_max_input_rate(rates).nano_usd(&usage)),
        assumed: true,
        estimated: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SONNET: Price = Price {
        input: 3.0,
        cached: Some(0.3),
        cache_write: Some(3.75),
        output: 15.0,
    };

    #[test]
    fn costs_are_exact_to_the_token() {
        let usage = Usage {
            input: 1000,
            cached: 90_000,
            cache_write: 9000,
            output: 2000,
            reasoning: 500,
        };
        let cost = cost_of_usage(Some(&SONNET.rates(true)), &usage);
        // 3,000 + 27,000 + 33,750 + 30,000 millionths of a dollar.
        assert_eq!((cost.tokens, cost.nano_usd), (102_000, Some(93_750_000)));
        assert!(!cost.assumed);
        let odd = Price {
            input: 0.0375,
            cached: None,
            cache_write: None,
            output: 0.1,
        };
        let one = |input, output| {
            super::cost_of_usage(
                Some(&odd.rates(false)),
                &Usage {
                    input,
                    output,
                    ..Usage::default()
                },
            )
            .nano_usd
        };
        assert_eq!(one(2, 0), Some(75));
        assert_eq!(one(1, 0), Some(38), "parts of a billionth are rounded up");
        assert_eq!(one(0, 10_000_000), Some(1_000_000_000));
    }

    #[test]
    fn worst_case_bounds_every_cached_split() {
        let rates = SONNET.rates(true);
        let worst = worst_case(Some(&rates), 100, 50);
        for cached in 0..=100 {
            for cache_write in 0..=100 - cached {
                let usage = Usage {
                    input: 100 - cached - cache_write,
                    cached,
                    cache_write,
                    output: 50,
                    reasoning: 0,
                };
                assert!(cost_of_usage(Some(&rates), &usage).nano_usd <= worst.nano_usd);
            }
        }
        assert_eq!(worst_case(None, 100, 50).nano_usd, None);
        assert_eq!(
            SONNET.rates(true),
            Price {
                cache_write: None,
                ..SONNET
            }
            .rates(true)
        );
    }
}
