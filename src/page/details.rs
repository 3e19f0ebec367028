//! What a step asked, received and came to, for the page's panel: kernel, difference, verdict, evidence, exchange with a model.
//!
//! Reads the files of the step. A file that is missing or damaged is said to be so.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::answer::made_by;
use super::figures;
use super::texts::{TextId, Texts};
use crate::base::Digest;
use crate::history::{Outcome, StepHistory, TaskHistory};
use crate::verdict::{Status, WorkloadVerdict};

/// The longest prompt or reply that is shown, in bytes.
const MAX_EXCHANGE_BYTES: usize = 60_000;

/// The longest log, trace or list of edits that is shown, in bytes.
const MAX_NOTE_BYTES: usize = 6_000;

/// The largest file that is read.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The panel of one step.
#[derive(Debug, Serialize)]
pub(super) struct StepDetails {
    step: u64,
    made_by: String,
    change: String,
    parents: Vec<u64>,
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Rows of names and values.
    facts: Vec<(&'static str, String)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    workloads: Vec<[String; 5]>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    evidence: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    /// The kernel, and the parent's.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<TextId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_kernel: Option<TextId>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exchange: Vec<Exchange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edits: Option<String>,
    /// Where the files are, relative to the run directory.
    folder: String,
}

/// A request to a model. `None`: the text is not in the page.
#[derive(Debug, Serialize)]
struct Exchange {
    prompt: Option<TextId>,
    reply: Option<TextId>,
}

/// The part of `verdict.json` that the panel shows.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct ShownVerdict {
    workloads: Vec<WorkloadVerdict>,
    evidence: Option<serde_json::Map<String, Value>>,
    resources: crate::verdict::Resources,
    tunables: indexmap::IndexMap<String, Value>,
    not_done: Vec<String>,
}

/// Collects the details of steps, and the texts that they share.
pub(super) struct DetailsReader<'a> {
    task: &'a TaskHistory,
    texts: &'a mut Texts,
    kernels: HashMap<u64, TextId>,
    last_prompt: Option<TextId>,
    /// Describes the cell of an elite, by step.
    cells: HashMap<u64, String>,
}

impl<'a> DetailsReader<'a> {
    pub(super) fn new(task: &'a TaskHistory, texts: &'a mut Texts) -> Self {
        let elites = task.grid.elites().iter();
        Self {
            cells: elites
                .map(|elite| (elite.step, task.grid.describe(elite)))
                .collect(),
            task,
            texts,
            kernels: HashMap::new(),
            last_prompt: None,
        }
    }

    /// Reads the kernels of steps into the page, as far as they fit.
    pub(super) fn read_kernels(&mut self, steps: &[u64]) {
        for step in steps {
            let Some(entry) = self.task.step(*step) else {
                continue;
            };
            let Some(digest) = entry.kernel else { continue };
            let Some(source) = read_text(&self.task.folder.source(*step)) else {
                continue;
            };
            // The journal says which kernel was judged.
            if Digest::of(&source) != digest {
                continue;
            }
            let parents = entry.parents.iter();
            let like = parents.filter_map(|parent| self.kernels.get(parent)).next();
            if let Some(id) = self.texts.add(source, like.copied()) {
                self.kernels.insert(*step, id);
            }
        }
    }

    /// The kernel of a step, if the page has it.
    pub(super) fn kernel(&self, step: u64) -> Option<&str> {
        self.texts.get(*self.kernels.get(&step)?)
    }

    /// The details of a step.
    pub(super) fn details(&mut self, step: &StepHistory) -> StepDetails {
        let folder = &self.task.folder;
        let verdict: ShownVerdict = match step.outcome.is_judged() {
            true => read_text(&folder.verdict(step.step))
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default(),
            false => ShownVerdict::default(),
        };
        let mut evidence = Vec::new();
        let mut log = None;
        for (name, value) in verdict.evidence.iter().flatten() {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            match name.as_str() {
                "log" => log = Some(shorten(&text, MAX_NOTE_BYTES)),
                "counters" | "device_sanitizer" => {}
                _ => evidence.push((name.replace('_', " "), shorten(&text, 400))),
            }
        }
        let parent = step.parents.first().copied();
        StepDetails {
            step: step.step,
            made_by: made_by(self.task, step.step),
            change: step.detail.to_string(),
            parents: step.parents.to_vec(),
            outcome: step.outcome.name(),
            reason: step.reason.as_deref().map(str::to_owned),
            facts: self.facts(step, &verdict),
            workloads: verdict
                .workloads
                .iter()
                .filter(|one| !one.hidden)
                .map(workload_row)
                .collect(),
            evidence,
            log,
            kernel: self.kernels.get(&step.step).copied(),
            parent_kernel: parent.and_then(|parent| self.kernels.get(&parent)).copied(),
            exchange: self.exchange(step),
            trace: read_text(&folder.trace(step.step)).map(|text| shorten(&text, MAX_NOTE_BYTES)),
            edits: read_text(&folder.edits(step.step)).map(|text| shorten(&text, MAX_NOTE_BYTES)),
            folder: format!("{}/steps/{:06}", self.task.name, step.step),
        }
    }

    fn facts(&self, step: &StepHistory, verdict: &ShownVerdict) -> Vec<(&'static str, String)> {
        let mut facts = Vec::new();
        let mut add = |name, value: Option<String>| {
            facts.extend(
                value
                    .filter(|value| !value.is_empty())
                    .map(|value| (name, value)),
            );
        };
        let search = step.speedup.as_ref().map(figures::provisional_speedup);
        add("speedup in the search (provisional)", search);
        let confirmation = self.task.confirmations.get(&step.step);
        add("confirmed speedup", confirmation.map(confirmation_text));
        let parent = step
            .parents
            .first()
            .and_then(|parent| self.task.step(*parent));
        add("gain over its parent (provisional)", gain(step, parent));
        let expected = step
            .expected
            .map(|change| format!("{:+.0} %", change * 100.0));
        add("change of time that the model expected", expected);
        let measured = time_change(step, parent).filter(|_| step.expected.is_some());
        let measured = measured.map(|change| format!("{:+.0} % (provisional)", change * 100.0));
        add("change of time as measured", measured);
        add("cell of the archive", self.cells.get(&step.step).cloned());
        let tunables = verdict
            .tunables
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        add("tunables", Some(tunables.collect::<Vec<_>>().join(", ")));
        add("resources", Some(resources_text(&verdict.resources)));
        add("not done", Some(verdict.not_done.join(", ")));
        add(
            "strategy card",
            self.task.name_of(step.card).map(str::to_owned),
        );
        let cost = (step.requests > 0).then(|| {
            let dollars = match self.task.dollars() {
                Some(_) => figures::dollars(step.nano_usd as f64 / 1e9),
                None => "price unknown".to_owned(),
            };
            format!(
                "{} tokens in {}, {dollars}",
                figures::count(step.tokens),
                crate::report::pluralize(u64::from(step.requests), "request")
            )
        });
        add("cost", cost);
        let duplicate = step.duplicate_of.map(|of| format!("step {of}"));
        add("has the same code as", duplicate);
        let judged = step
            .outcome
            .is_judged()
            .then(|| figures::duration(step.judge_seconds.into()));
        add("judged in", judged);
        add(
            "ended after",
            Some(format!("{} of work", figures::duration(step.at_seconds))),
        );
        facts
    }

    fn exchange(&mut self, step: &StepHistory) -> Vec<Exchange> {
        let mut exchange = Vec::new();
        for ask in 1..=step.requests {
            let prompt = read_text(&self.task.folder.prompt(step.step, ask));
            let reply = read_text(&self.task.folder.response(step.step, ask));
            let like = self.last_prompt;
            let kernel = self.kernels.get(&step.step).copied();
            let prompt =
                prompt.and_then(|text| self.texts.add(shorten(&text, MAX_EXCHANGE_BYTES), like));
            let reply =
                reply.and_then(|text| self.texts.add(shorten(&text, MAX_EXCHANGE_BYTES), kernel));
            self.last_prompt = prompt.or(self.last_prompt);
            exchange.push(Exchange { prompt, reply });
        }
        exchange
    }
}

/// What a confirmation says, in a few words.
pub(super) fn confirmation_text(confirmation: &crate::history::Confirmation) -> String {
    match &confirmation.speedup {
        Some(speedup) => figures::confirmed_speedup(speedup),
        None if confirmation.refutes() => format!("refuted: {}", confirmation.verdict.status),
        None if confirmation.verdict.status == Status::Inconclusive => "too noisy".to_owned(),
        None => "without a figure".to_owned(),
    }
}

/// What a step brought over its parent, by the estimates of the search.
pub(super) fn gain(step: &StepHistory, parent: Option<&StepHistory>) -> Option<String> {
    let (now, before) = figures_of_both(step, parent)?;
    Some(figures::provisional(now / before))
}

/// Change of the run time against the parent: -0.2 for 20 % less.
fn time_change(step: &StepHistory, parent: Option<&StepHistory>) -> Option<f64> {
    let (now, before) = figures_of_both(step, parent)?;
    Some(before / now - 1.0)
}

fn figures_of_both(step: &StepHistory, parent: Option<&StepHistory>) -> Option<(f64, f64)> {
    let passed = |step: &StepHistory| {
        let speedup = step.speedup.filter(|_| step.outcome == Outcome::Passed);
        speedup.map(|speedup| speedup.geomean)
    };
    passed(step).zip(passed(parent?))
}

fn workload_row(workload: &WorkloadVerdict) -> [String; 5] {
    let time = |summary: &Option<crate::verdict::TimeSummary>| {
        summary.map_or_else(String::new, |summary| figures::microseconds(summary.median))
    };
    let interval = workload
        .ci95
        .map_or_else(String::new, figures::provisional_interval);
    [
        workload.id.clone(),
        workload.status.to_string(),
        time(&workload.candidate_us),
        time(&workload.baseline_us),
        workload.speedup.map_or_else(String::new, |speedup| {
            format!("{} {interval}", figures::provisional(speedup))
        }),
    ]
}

fn resources_text(resources: &crate::verdict::Resources) -> String {
    let mut parts = Vec::new();
    parts.extend(
        resources
            .registers
            .map(|count| format!("{count} registers")),
    );
    let spills = resources.spill_bytes.filter(|bytes| *bytes > 0);
    parts.extend(spills.map(|bytes| format!("{bytes} bytes spilled")));
    parts.extend(
        resources
            .shared_bytes
            .map(|bytes| format!("{bytes} bytes of shared memory")),
    );
    let occupancy = resources.occupancy.map(figures::percent);
    parts.extend(occupancy.map(|share| format!("occupancy {share}")));
    parts.join(", ")
}

/// Reads a text of limited size; bytes that are no text are replaced.
pub(super) fn read_text(path: &Path) -> Option<String> {
    let is_small = std::fs::metadata(path).ok()?.len() <= MAX_FILE_BYTES;
    let bytes = is_small.then(|| std::fs::read(path).ok())??;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The start and the end of a text that is too long.
fn shorten(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut start = most * 2 / 3;
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = text.len() - most / 3;
    while !text.is_char_boundary(end) {
        end += 1;
    }
    format!(
        "{}\n\n[… {} bytes are left out here …]\n\n{}",
        &text[..start],
        end - start,
        &text[end..]
    )
}
