//! Where an exported kernel comes from, and what is known about its speed.

use serde::Serialize;

use crate::base::Digest;
use crate::verdict::{Status, Verdict};

/// The origin of an exported kernel.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Provenance {
    /// The kernel file, or its run.
    pub(crate) origin: String,
    /// The step of the run.
    pub(crate) step: Option<u64>,
    pub(crate) task: String,
    /// Hash of the kernel file.
    pub(crate) source: Digest,
    pub(crate) kforge: &'static str,
    /// What the last verdict says. `None`: no verdict is known.
    pub(crate) judged: Option<JudgedAs>,
}

/// The part of a verdict that an export repeats.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct JudgedAs {
    pub(crate) status: Status,
    pub(crate) confirmed: bool,
    pub(crate) speedup: Option<f64>,
    pub(crate) ci95: Option<[f64; 2]>,
    pub(crate) baseline: Option<String>,
    pub(crate) backend: String,
    pub(crate) device: String,
    pub(crate) arch: String,
    /// The time of each timed workload, in microseconds: the median.
    pub(crate) workloads: Vec<(String, f64)>,
}

impl From<&Verdict> for JudgedAs {
    fn from(verdict: &Verdict) -> Self {
        let timed = verdict.workloads.iter().filter_map(|workload| {
            let times = workload.candidate_us.as_ref()?;
            Some((workload.id.clone(), times.median))
        });
        Self {
            status: verdict.status,
            confirmed: verdict.confirmed,
            speedup: verdict.speedup.map(|speedup| speedup.geomean),
            ci95: verdict.speedup.map(|speedup| speedup.ci95),
            baseline: verdict
                .baseline
                .as_ref()
                .map(|baseline| baseline.name.clone()),
            backend: verdict.backend.clone(),
            device: verdict.device.name.clone(),
            arch: verdict.device.arch.clone(),
            workloads: timed.collect(),
        }
    }
}

impl Provenance {
    /// The lines at the top of an exported file, without comment signs.
    pub(super) fn lines(&self) -> Vec<String> {
        let step = self.step.map(|step| format!(", step {step}"));
        let mut lines = vec![
            format!(
                "Exported by kforge {} for task `{}` from {}{}",
                self.kforge,
                self.task,
                self.origin,
                step.unwrap_or_default()
            ),
            format!("kernel file: {}", self.source),
        ];
        lines.push(self.speed_line());
        lines
    }

    /// What is known about the kernel's speed.
    pub(crate) fn speed_line(&self) -> String {
        match &self.judged {
            None => "speed: not measured; no verdict is known for this file".to_owned(),
            Some(judged) => judged.line(),
        }
    }

    /// One line for formats with a description.
    pub(super) fn summary(&self) -> String {
        self.lines().join("; ")
    }
}

impl JudgedAs {
    fn line(&self) -> String {
        let device = format!("{} ({})", self.device, self.arch);
        match (self.speedup, self.ci95) {
            (Some(speedup), Some([low, high])) => {
                let baseline = self.baseline.as_deref().unwrap_or("the baseline");
                let note = if self.confirmed {
                    "confirmed"
                } else {
                    "not confirmed"
                };
                format!(
                    "speed: {speedup:.3}x [{low:.3}, {high:.3}] over `{baseline}` on {device}, {note}"
                )
            }
            _ => format!("verdict: {} on {device}", self.status),
        }
    }
}
