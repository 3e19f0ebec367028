//! The results of a level in KernelBench's files: `eval_results.json`, `baseline_time_torch.json`, and the shares `fast_p`.
//!
//! `eval_results.json` has, by the number of the problem, a list of samples with `sample_id`, `compiled`, `correctness`, `metadata`, `runtime`
//! and `runtime_stats`; times are in milliseconds. KernelBench's `benchmark_eval_analysis.py` reads it and the baseline's times.

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::kernelbench_problems::Problem;
use crate::base::{Digest, files};
use crate::verdict::{BaselineEntry, BaselineTable, BaselineWorkload, Speedup, Status, Verdict};

/// The values of p that KernelBench's script prints.
const THRESHOLDS: [f64; 6] = [0.0, 0.5, 0.8, 1.0, 1.5, 2.0];

/// What is known about the kernel of a problem. Its file is `samples/level_L_problem_P_sample_0.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Judged {
    /// Path of the kernel; `None` if there is none.
    pub(super) kernel: Option<String>,
    pub(super) source: Option<Digest>,
    /// As the command was asked.
    pub(super) backend: String,
    pub(super) precision: String,
    pub(super) baseline: String,
    pub(super) verdict: Option<Box<Verdict>>,
    /// Its times against the baseline.
    pub(super) table: Option<BaselineTable>,
    /// Why something is missing.
    pub(super) error: Option<String>,
}

impl Judged {
    pub(super) fn without_kernel(reason: String) -> Self {
        Self {
            error: Some(reason),
            ..Self::default()
        }
    }

    /// Whether this is the complete result of the same kernel, asked in the same way.
    pub(super) fn is_of(&self, asked: &Self) -> bool {
        self.error.is_none()
            && self.source == asked.source
            && self.backend == asked.backend
            && self.precision == asked.precision
            && self.baseline == asked.baseline
    }

    fn status(&self) -> Option<Status> {
        Some(self.verdict.as_ref()?.status)
    }

    fn is_compiled(&self) -> bool {
        !matches!(
            self.status(),
            None | Some(
                Status::HarnessError
                    | Status::Rejected
                    | Status::Unsupported
                    | Status::CompileError
                    | Status::CompileTimeout
            )
        )
    }

    /// Nothing was found wrong. A machine that is too busy to time it says nothing about that.
    fn is_correct(&self) -> bool {
        matches!(self.status(), Some(Status::Passed | Status::Inconclusive))
    }

    fn entry(&self) -> Option<&BaselineEntry> {
        let mut entries = self.table.as_ref()?.entries.iter();
        entries.find(|entry| entry.name == self.baseline)
    }

    fn kernel_speedup(&self) -> Option<Speedup> {
        self.entry()?.kernel_speedup
    }

    fn times(&self) -> Option<&BaselineWorkload> {
        self.entry()?.workloads.first()
    }

    /// In one line.
    fn words(&self) -> String {
        let reason = || {
            let entry = self.entry().and_then(|entry| entry.reason.clone());
            entry.or_else(|| self.error.clone()).unwrap_or_default()
        };
        match (self.verdict.as_deref(), self.kernel_speedup()) {
            (Some(_), Some(Speedup { geomean, ci95 })) if self.is_correct() => {
                let [low, high] = ci95;
                let baseline = &self.baseline;
                let deviation = self.entry().and_then(|entry| entry.deviation);
                let remark = deviation.map_or_else(String::new, |deviation| {
                    format!(
                        ", which is outside the tolerance ({})",
                        deviation.in_words()
                    )
                });
                format!("correct, {geomean:.2}x [{low:.2}, {high:.2}] over {baseline}{remark}")
            }
            (Some(_), None) if self.is_correct() => format!("correct, not timed: {}", reason()),
            (Some(verdict), _) => {
                let reason = verdict.reason.as_deref().unwrap_or_default();
                format!("{}: {reason}", verdict.status)
            }
            (None, _) => format!("not judged: {}", reason()),
        }
    }

    /// A sample of `eval_results.json`.
    fn sample(&self) -> Value {
        let milliseconds = self.times().map_or(-1.0, |times| times.kernel_us / 1e3);
        let (hardware, device) = self.hardware();
        let mut metadata = json!({
            "hardware": hardware, "device": device, "kernel": self.kernel, "baseline": self.baseline,
            "status": self.status(), "speedup": self.kernel_speedup(),
        });
        if !self.is_correct() || self.error.is_some() {
            metadata["error"] = self.words().into();
        }
        let stats = match self.times() {
            Some(_) => json!({"mean": milliseconds, "hardware": hardware, "device": device}),
            None => json!({}),
        };
        json!({
            "sample_id": 0, "compiled": self.is_compiled(), "correctness": self.is_correct(),
            "metadata": metadata, "runtime": milliseconds, "runtime_stats": stats,
        })
    }

    fn hardware(&self) -> (String, String) {
        let verdict = self.verdict.as_deref();
        let device = verdict.map_or_else(String::new, |verdict| verdict.device.name.clone());
        (
            device,
            verdict.map_or_else(String::new, |verdict| verdict.backend.clone()),
        )
    }
}

/// The results of a level.
pub(super) struct Results {
    level: u32,
    baseline: String,
    /// Number and file of each problem, and what is known of its kernel.
    judged: Vec<(u32, String, Judged)>,
}

impl Results {
    pub(super) fn new(level: u32, baseline: &str) -> Self {
        Self {
            level,
            baseline: baseline.to_owned(),
            judged: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, problem: &Problem, judged: Judged) {
        let file = problem.file.file_name().unwrap_or_default();
        let number = problem.number.unwrap_or_default();
        self.judged
            .push((number, file.to_string_lossy().into_owned(), judged));
    }

    /// What is printed as soon as a kernel is judged.
    pub(super) fn line(&self, problem: &Problem, judged: &Judged) -> String {
        format!("{}: {}\n", problem.name, judged.words())
    }

    /// The share of all problems whose kernel is correct and more than `p` times as fast. `bound`: the speedup that counts.
    fn share(&self, p: f64, bound: &dyn Fn(Speedup) -> f64) -> f64 {
        let is_fast = |judged: &Judged| {
            let is_faster = judged
                .kernel_speedup()
                .is_some_and(|speedup| bound(speedup) > p);
            // Every correct kernel is faster than 0.
            judged.is_correct() && (p == 0.0 || is_faster)
        };
        let fast = self.judged.iter().filter(|(_, _, judged)| is_fast(judged));
        fast.count() as f64 / self.judged.len().max(1) as f64
    }

    fn count(&self, test: &dyn Fn(&Judged) -> bool) -> usize {
        let judged = self.judged.iter();
        judged.filter(|(_, _, judged)| test(judged)).count()
    }

    pub(super) fn fast_p(&self) -> Value {
        let shares = |bound: &dyn Fn(Speedup) -> f64| -> Map<String, Value> {
            let shares = THRESHOLDS.iter();
            let named = shares.map(|p| (format!("{p:.1}"), self.share(*p, bound).into()));
            named.collect()
        };
        json!({
            "level": self.level,
            "baseline": self.baseline,
            "problems": self.judged.len(),
            "compiled": self.count(&Judged::is_compiled),
            "correct": self.count(&Judged::is_correct),
            "fast_p": shares(&|speedup| speedup.geomean),
            "surely": shares(&|speedup| speedup.ci95[0]),
        })
    }

    /// Writes the files of results.
    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        files::create_folder_durably(folder)?;
        let samples = self.judged.iter();
        let samples: Map<String, Value> = samples
            .map(|(number, _, judged)| (number.to_string(), json!([judged.sample()])))
            .collect();
        let mut times = Map::new();
        for (_, file, judged) in &self.judged {
            if let Some(workload) = judged.times() {
                let (hardware, device) = judged.hardware();
                times.insert(
                    file.clone(),
                    json!({"mean": workload.baseline_us / 1e3, "hardware": hardware, "device": device}),
                );
            }
        }
        let level = format!("level{}", self.level);
        let times = Map::from_iter([(level, Value::Object(times))]);
        for (name, value) in [
            ("eval_results.json", Value::Object(samples)),
            ("baseline_time_torch.json", Value::Object(times)),
            ("fast_p.json", self.fast_p()),
        ] {
            let text = serde_json::to_string_pretty(&value).context("failed to write results")?;
            files::replace_durably(&folder.join(name), format!("{text}\n").as_bytes())?;
        }
        Ok(())
    }

    /// The table that ends the command's output.
    pub(super) fn describe(&self, folder: &Path) -> String {
        let (level, problems) = (self.level, self.judged.len());
        let compiled = self.count(&Judged::is_compiled);
        let correct = self.count(&Judged::is_correct);
        let mut text = format!(
            "\nlevel {level}: {problems} problems, {compiled} kernels compile, {correct} are correct\n     p  fast_p  surely\n"
        );
        for p in THRESHOLDS {
            let fast = self.share(p, &|speedup| speedup.geomean);
            let surely = self.share(p, &|speedup| speedup.ci95[0]);
            text += &format!("   {p:.1}  {fast:>6.2}  {surely:>6.2}\n");
        }
        text += &format!(
            "  fast_p: the share of all problems with a correct kernel that is more than p times as fast as {}\n  surely: the same, for the lower end of the interval\n  results  {}\n",
            self.baseline,
            folder.display()
        );
        text
    }
}
