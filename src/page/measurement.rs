//! What `kforge compare --measure` found, and correlations, as text. Pure.

use serde::Serialize;

use super::figures;
use crate::history::Correlation;
use crate::report::{TERMINAL_WIDTH, pluralize, wrap};
use crate::verdict::Speedup;

/// A kernel that was measured again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct MeasuredKernel {
    pub(crate) run: String,
    pub(crate) step: u64,
    pub(crate) status: String,
    pub(crate) reason: Option<String>,
    /// Over the baseline. `None` if it did not pass.
    pub(crate) speedup: Option<Speedup>,
}

/// The best kernels of two arms on this machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Measurement {
    pub(crate) device: String,
    /// Of the first arm and of the second. Empty if an arm has no kernel.
    pub(crate) kernels: Vec<MeasuredKernel>,
    /// Both arms found the same source.
    pub(crate) is_same_kernel: bool,
    /// Time of the first / time of the second, timed in pairs. `None` if one did not pass, or the times varied too much.
    pub(crate) ratio: Option<f64>,
    pub(crate) ci95: Option<[f64; 2]>,
    /// The arm without a kernel: 0 or 1.
    pub(crate) missing: Option<usize>,
}

impl Measurement {
    pub(crate) fn without_kernel(device: String, arm: usize) -> Self {
        Self {
            device,
            kernels: Vec::new(),
            is_same_kernel: false,
            ratio: None,
            ci95: None,
            missing: Some(arm),
        }
    }
}

/// A measurement as text. `arms`: what the user calls the two arms.
pub(crate) fn measurement_text(measurement: &Measurement, arms: [&str; 2]) -> String {
    if let Some(missing) = measurement.missing {
        return format!(
            "  nothing was measured: {} has no kernel that passed\n",
            arms[missing]
        );
    }
    let result = match (measurement.ratio, measurement.ci95) {
        (Some(ratio), Some(interval)) => {
            let word = match interval {
                [low, _] if low > 1.0 => format!("{} is faster", arms[1]),
                [_, high] if high < 1.0 => format!("{} is slower", arms[1]),
                _ => "no difference shown".to_owned(),
            };
            format!(
                "ratio {} {}: {word}",
                figures::confirmed(ratio),
                figures::confirmed_interval(interval)
            )
        }
        _ => "no ratio: one of the two did not pass, or the times varied too much".to_owned(),
    };
    let mut text = format!(
        "  measured now on {}, in pairs: {result}\n",
        measurement.device
    );
    for (arm, kernel) in arms.iter().zip(&measurement.kernels) {
        let figure = match &kernel.speedup {
            Some(speedup) => format!("{} over the baseline", figures::confirmed_speedup(speedup)),
            None => match &kernel.reason {
                Some(reason) => format!("{}: {reason}", kernel.status),
                None => kernel.status.clone(),
            },
        };
        let place = match kernel.run.as_str() {
            run if run == *arm => format!("step {}", kernel.step),
            run => format!("{run}, step {}", kernel.step),
        };
        text += &wrap(&format!("{arm} ({place}): {figure}"), TERMINAL_WIDTH, 4);
    }
    if measurement.is_same_kernel {
        text += "    both are the same kernel: the ratio shows what this machine resolves\n";
    }
    text
}

/// Correlations as text. `arms`: what the user calls each arm.
pub(crate) fn correlation_text(correlations: &[Correlation], arms: &[String]) -> String {
    let texts = correlations.iter().map(|one| {
        let [first, second] = &one.quantities;
        let arm = arms.get(one.arm).map_or("", String::as_str);
        let count = pluralize(one.candidates as u64, "candidate");
        let result = match (one.rho, one.ci95, one.corrected) {
            (Some(rho), Some([low, high]), Some(p)) => {
                let word = if p < crate::history::LEVEL {
                    "they go together"
                } else {
                    "no relation can be shown"
                };
                format!("rho {rho:.2} [{low:.2}, {high:.2}], corrected p {p:.4}: {word}")
            }
            _ => "too few, or all have the same value".to_owned(),
        };
        format!(
            "{}: {first} and {second}\n  {arm}: {count}, {result}\n",
            one.task
        )
    });
    texts.collect::<Vec<_>>().join("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(ratio: Option<f64>, ci95: Option<[f64; 2]>) -> Measurement {
        let kernel = |run: &str, speedup: Option<Speedup>| MeasuredKernel {
            run: run.to_owned(),
            step: 7,
            status: if speedup.is_some() { "passed" } else { "race" }.to_owned(),
            reason: speedup.is_none().then(|| "two threads write".to_owned()),
            speedup,
        };
        let speedup = Speedup {
            geomean: 2.0,
            ci95: [1.9, 2.1],
        };
        Measurement {
            device: "a CPU".to_owned(),
            kernels: vec![
                kernel("a", Some(speedup)),
                kernel("s/x=1,seed=2", ratio.map(|_| speedup)),
            ],
            is_same_kernel: false,
            ratio,
            ci95,
            missing: None,
        }
    }

    #[test]
    fn text_says_which_is_faster_and_why_there_is_no_ratio() {
        let arms = ["a", "s/x=1"];
        for (ratio, ci95, expected) in [
            (Some(1.5), Some([1.4, 1.6]), "s/x=1 is faster"),
            (Some(0.8), Some([0.7, 0.9]), "s/x=1 is slower"),
            (Some(1.0), Some([0.9, 1.1]), "no difference shown"),
            (None, None, "race: two threads write"),
        ] {
            let text = measurement_text(&measured(ratio, ci95), arms);
            assert!(text.contains(expected), "{text}");
            assert!(text.contains("    a (step 7): "), "{text}");
            assert!(text.contains("(s/x=1,seed=2, step 7): "), "{text}");
        }
        let missing = Measurement::without_kernel("a CPU".to_owned(), 1);
        assert!(measurement_text(&missing, arms).contains("s/x=1 has no kernel"));
    }
}
