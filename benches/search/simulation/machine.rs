//! A simulated machine: what a judgement costs, how noisy its figures are, and how long models think.
//!
//! Every figure has its source in `benches/search/README.md`.

use super::dice::Dice;

/// Seconds of one stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct JudgementCosts {
    /// Outside the device: compilation, start of the process.
    pub(crate) host: f64,
    /// Compilation, where it needs the device: on a CPU.
    pub(crate) compile: f64,
    /// All checks of a kernel that passes.
    pub(crate) check: f64,
    /// The part of the checks that comes before the first look.
    pub(crate) first_check: f64,
    /// A full timing.
    pub(crate) timing: f64,
    /// A quick check and a few samples of one point, before a kernel is judged.
    pub(crate) trial: f64,
}

/// How precise a full timing is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Noise {
    /// Half widths of the 95 % interval of the log speedup around this value.
    Quiet(f64),
    /// One of these half widths; one figure in ten is off by three times as much as its interval says.
    Shared(&'static [f64]),
}

/// A device with its judge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub(crate) costs: JudgementCosts,
    pub(crate) noise: Noise,
    /// The part of a full timing's samples that a duel takes.
    pub(crate) duel: f64,
    /// Judgements at the same time. The device itself serves one after the other.
    pub(crate) in_flight: usize,
    /// Seconds of one proposal of an own operator. One at a time.
    pub(crate) proposal: f64,
    pub(crate) models: Option<ModelCosts>,
}

/// How long models think.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelCosts {
    /// One of them may be `WEAK_MODEL`.
    pub(crate) names: &'static [&'static str],
    /// Requests at the same time.
    pub(crate) concurrency: usize,
    /// Seconds of the median answer.
    pub(crate) median: f64,
    /// Standard deviation of the logarithm of the seconds.
    pub(crate) spread: f64,
    /// How often an answer is a straggler, and its seconds.
    pub(crate) straggler_share: f64,
    pub(crate) straggler: f64,
}

/// A duel of at least 8 blocks on a device whose full timing has at least 20.
const SHORT_DUEL: f64 = 0.4;

/// An NVIDIA H200 that judges `gdn_decode`.
pub(crate) const CARD: Machine = Machine {
    costs: JudgementCosts {
        host: 0.24,
        compile: 0.0,
        check: 0.47,
        first_check: 0.05,
        timing: 3.2,
        trial: 0.05,
    },
    noise: Noise::Quiet(0.0033),
    duel: SHORT_DUEL,
    in_flight: 3,
    proposal: 0.02,
    models: None,
};

/// The same card with models that think, one answer in twenty for 15 minutes.
pub(crate) const CARD_WITH_MODELS: Machine = Machine {
    models: Some(ModelCosts {
        names: &["model"],
        concurrency: 4,
        median: 40.0,
        spread: 0.5,
        straggler_share: 0.05,
        straggler: 900.0,
    }),
    ..CARD
};

/// A model whose kernels seldom pass and that has few ideas.
pub(crate) const WEAK_MODEL: &str = "weak";

/// The same with a second model, which is weak.
pub(crate) const CARD_WITH_A_WEAK_MODEL: Machine = Machine {
    models: Some(ModelCosts {
        names: &["model", WEAK_MODEL],
        concurrency: 4,
        median: 40.0,
        spread: 0.5,
        straggler_share: 0.05,
        straggler: 900.0,
    }),
    ..CARD
};

/// The same card with models of which every fourth answer takes 20 minutes.
pub(crate) const CARD_WITH_STRAGGLERS: Machine = Machine {
    models: Some(ModelCosts {
        names: &["model"],
        concurrency: 4,
        median: 40.0,
        spread: 0.5,
        straggler_share: 0.25,
        straggler: 1200.0,
    }),
    ..CARD
};

/// Two shared cores that judge `softmax`. On a CPU compiling needs the device too.
pub(crate) const SHARED_CPU: Machine = Machine {
    costs: JudgementCosts {
        host: 0.0,
        compile: 0.59,
        check: 1.69 + 1.46,
        first_check: 0.3,
        timing: 5.32,
        trial: 0.6,
    },
    noise: Noise::Shared(&[0.041, 0.026, 0.046, 0.052, 0.025, 0.02, 0.035, 0.017]),
    duel: 1.0,
    in_flight: 2,
    proposal: 0.02,
    models: None,
};

/// The looks at a timing: the part of the timing that is done, and how many standard errors above the estimate the limit is.
const LOOKS: [(f64, f64); 3] = [(0.2, 3.5), (0.4, 3.2), (0.8, 3.1)];

/// The standard error that the blocks of one look may not show (`eval::racing`).
const HIDDEN_ERROR: f64 = 0.005;

/// The 97.5 % quantile of the standard normal distribution.
const Z95: f64 = 1.96;

/// A measured ratio with its interval, in logarithms, and the part of the timing that it took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measurement {
    pub(crate) estimate: f64,
    pub(crate) half_width: f64,
    pub(crate) part: f64,
    pub(crate) dismissed: bool,
}

impl Machine {
    /// The default of `search.window`, as `config::resolve` chooses it.
    pub(crate) fn window(&self) -> u64 {
        // Only on a CPU compiling needs the device.
        let is_cpu = self.costs.compile > 0.0;
        let steps = match self.models {
            None if is_cpu => self.in_flight,
            None => 2 * self.in_flight,
            Some(models) => 2 * (self.in_flight + models.concurrency),
        };
        steps as u64
    }

    /// Times a kernel with this true log speedup. With a bar (a log speedup), the timing may end early.
    pub(crate) fn measure(&self, truth: f64, bar: Option<f64>, dice: &mut Dice) -> Measurement {
        self.measure_part(1.0, truth, bar, dice)
    }

    /// The same with this part of the samples of a full timing.
    pub(crate) fn measure_part(
        &self,
        samples: f64,
        truth: f64,
        bar: Option<f64>,
        dice: &mut Dice,
    ) -> Measurement {
        let drawn = self.noise.draw(dice);
        let [half_width, error] = <[f64; 2]>::from(drawn).map(|all| all / samples.sqrt());
        let estimate = truth + error;
        for (part, limit) in LOOKS {
            let early = half_width / Z95 / f64::sqrt(part);
            let error = f64::hypot(early, HIDDEN_ERROR);
            let seen = estimate + early * f64::sqrt(1.0 - part) * dice.normal();
            if bar.is_some_and(|bar| seen + limit * error < bar) {
                return Measurement {
                    estimate: seen,
                    half_width: limit * error,
                    part,
                    dismissed: true,
                };
            }
        }
        Measurement {
            estimate,
            half_width,
            part: samples,
            dismissed: false,
        }
    }
}

impl Noise {
    /// The standard deviation of the logarithm of the time that a trial finds.
    pub(crate) fn of_trial(self) -> f64 {
        match self {
            Noise::Quiet(_) => 0.01,
            Noise::Shared(_) => 0.06,
        }
    }

    /// The half width of an interval, and the error of its estimate.
    fn draw(self, dice: &mut Dice) -> (f64, f64) {
        match self {
            Noise::Quiet(typical) => {
                let half_width = typical * (0.2 * dice.normal()).exp();
                (half_width, half_width / Z95 * dice.normal())
            }
            Noise::Shared(widths) => {
                let half_width = dice.pick(widths).copied().unwrap_or(0.0);
                let factor = if dice.chance(0.1) { 3.0 } else { 1.0 };
                (half_width, factor * half_width / Z95 * dice.normal())
            }
        }
    }
}

impl ModelCosts {
    /// Seconds of an answer.
    pub(crate) fn answer(&self, dice: &mut Dice) -> f64 {
        if dice.chance(self.straggler_share) {
            return self.straggler;
        }
        self.median * (self.spread * dice.normal()).exp()
    }
}
