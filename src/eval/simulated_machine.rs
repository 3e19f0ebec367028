//! A machine whose times are disturbed, for tests of the decisions that are made from timed samples.

use super::sampling::{PairTimes, Samples};
use crate::base::RandomStream;

/// Simulated candidates of a test. `KFORGE_TEST_CANDIDATES` sets more: the figures in `benches/results/racing.md` are of 100,000.
pub(super) fn candidates() -> u64 {
    let number = std::env::var("KFORGE_TEST_CANDIDATES").ok();
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or(2000)
}

/// What disturbs the times of a simulated machine.
#[derive(Clone, Copy, Debug)]
pub(super) enum Noise {
    /// 2 % for each sample.
    Quiet,
    /// 2 % for each sample, and 3 % that all samples of a process share.
    Process,
    /// 5 % for each sample; one sample in ten is interrupted and takes much longer.
    Interrupted,
    /// Like `Interrupted`, but only the candidate is interrupted.
    CandidateInterrupted,
    /// Like `Interrupted`, but only the baseline is interrupted.
    BaselineInterrupted,
    /// 1 % for each sample of a t distribution with 2 degrees of freedom, which has no variance.
    HeavyTailed,
    /// The clock of the machine drifts by 30 %, and the ratio of the kernels by 1 %.
    Drifting,
    /// The candidate's samples vary by 6 %, the baseline's by 1 %, or the other way round.
    UnequalCandidate,
    UnequalBaseline,
}

pub(super) const KINDS: [Noise; 9] = [
    Noise::Quiet,
    Noise::Process,
    Noise::Interrupted,
    Noise::CandidateInterrupted,
    Noise::BaselineInterrupted,
    Noise::HeavyTailed,
    Noise::Drifting,
    Noise::UnequalCandidate,
    Noise::UnequalBaseline,
];

/// A standard normal draw, by Box and Muller.
fn normal(stream: &mut RandomStream) -> f64 {
    (-2.0 * (1.0 - stream.uniform()).ln()).sqrt() * (std::f64::consts::TAU * stream.uniform()).cos()
}

fn exponential(stream: &mut RandomStream) -> f64 {
    -(1.0 - stream.uniform()).ln()
}

/// The samples of one workload on a simulated machine.
pub(super) struct Simulation {
    noise: Noise,
    log_speedup: f64,
    stream: RandomStream,
    pub(super) samples: Samples,
    /// Blocks and samples so far.
    blocks: usize,
    launches: f64,
    processes: usize,
    /// What all samples of a process share: the candidate's and the baseline's.
    shared: [f64; 2],
    /// Frequency and phase of a drift.
    drift: [f64; 2],
    /// The standard error of the anchor's log speedup.
    pub(super) anchor_error: f64,
}

impl Simulation {
    pub(super) fn new(noise: Noise, log_speedup: f64, mut stream: RandomStream) -> Self {
        let drift = [0.02 + 0.5 * stream.uniform(), 7.0 * stream.uniform()];
        Self {
            noise,
            log_speedup,
            stream,
            samples: Samples::default(),
            blocks: 0,
            launches: 0.0,
            processes: 0,
            shared: [0.0; 2],
            drift,
            anchor_error: 0.0,
        }
    }

    /// Timed against an anchor, whose measured log speedup is off by an error with this standard deviation.
    pub(super) fn with_anchor(mut self, error: f64) -> Self {
        self.samples = Samples::shifted(error * normal(&mut self.stream));
        self.anchor_error = error;
        self
    }

    /// Time of one sample, as a factor. `side`: 0 for the candidate, 1 for the baseline.
    fn sample(&mut self, side: usize) -> f64 {
        self.launches += 1.0;
        let [frequency, phase] = self.drift;
        let stream = &mut self.stream;
        let interruption = |stream: &mut RandomStream| {
            if stream.uniform() < 0.1 {
                exponential(stream)
            } else {
                0.0
            }
        };
        let log = match self.noise {
            Noise::Quiet | Noise::Process => 0.02 * normal(stream),
            Noise::Interrupted => 0.05 * normal(stream) + interruption(stream),
            Noise::CandidateInterrupted | Noise::BaselineInterrupted => {
                let hit = usize::from(matches!(self.noise, Noise::BaselineInterrupted));
                let more = interruption(stream);
                0.02 * normal(stream) + if side == hit { more } else { 0.0 }
            }
            // Normal / sqrt(exponential): 2 degrees of freedom.
            Noise::HeavyTailed => 0.01 * normal(stream) / exponential(stream).sqrt(),
            Noise::Drifting => {
                let wave = |scale: f64| (scale * frequency * self.launches + phase).sin();
                let own = if side == 0 { 0.01 * wave(0.5) } else { 0.0 };
                0.02 * normal(stream) + 0.3 * wave(1.0) + own
            }
            Noise::UnequalCandidate | Noise::UnequalBaseline => {
                let wide = usize::from(matches!(self.noise, Noise::UnequalBaseline));
                let deviation = if side == wide { 0.06 } else { 0.01 };
                deviation * normal(stream)
            }
        };
        (log + self.shared[side]).exp()
    }

    /// Takes samples until there are this many blocks. `per_process`: blocks of a process.
    pub(super) fn run_to(&mut self, blocks: usize, per_process: usize) {
        let first = self.blocks;
        while self.blocks < blocks {
            if (self.blocks - first).is_multiple_of(per_process) {
                self.processes += 1;
                if matches!(self.noise, Noise::Process) {
                    self.shared = [0, 1].map(|_| 0.03 * normal(&mut self.stream));
                }
            }
            let speedup = self.log_speedup.exp();
            let mut pairs = Vec::new();
            for leader in [0, 1] {
                let times = [leader, 1 - leader].map(|side| (side, self.sample(side)));
                let of = |side| times.iter().find(|time| time.0 == side).unwrap().1;
                pairs.push(PairTimes {
                    candidate: of(0),
                    opponent: speedup * of(1),
                });
            }
            self.samples.add_block(&pairs, self.processes, false);
            self.blocks += 1;
        }
    }
}
