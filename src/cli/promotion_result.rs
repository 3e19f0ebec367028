//! The result of `kforge promote` for one task, as text, and the best known kernel that a promotion would replace.
//!
//! Data and text only: `promote` judges, and replaces the files.

use serde_json::{Value, json};

use crate::base::Digest;
use crate::report;
use crate::task::BestKnown;
use crate::verdict::{DeviceIdentity, StrongestBaseline, Verdict};

/// The outcome for one task.
pub(super) struct PromotionResult {
    pub(super) promoted: bool,
    pub(super) why: String,
    /// The outcome as JSON, which is also what the text for people is made from.
    pub(super) facts: Value,
}

/// The kernel in `best.cu`, and the device of its verdict. Backend and device are unknown without a verdict of this kernel.
pub(super) struct CurrentBest {
    pub(super) origin: String,
    pub(super) kernel: Digest,
    pub(super) backend: Option<String>,
    pub(super) device: Option<DeviceIdentity>,
}

impl CurrentBest {
    pub(super) fn new(known: &BestKnown) -> Self {
        let kernel = Digest::of(&known.source);
        let value: Option<Value> = known
            .verdict
            .as_deref()
            .and_then(|text| serde_json::from_str(text).ok());
        // A verdict of another kernel says nothing about this one.
        let value = value.filter(|value| value["promoted"]["kernel"] == json!(kernel));
        let verdict: Option<Verdict> = value.and_then(|value| serde_json::from_value(value).ok());
        Self {
            origin: known.origin.clone(),
            kernel,
            backend: verdict.as_ref().map(|verdict| verdict.backend.clone()),
            device: verdict.map(|verdict| verdict.device),
        }
    }

    /// A label of the device that measured the kernel, if it is known and differs from this backend or device.
    pub(super) fn other_device(&self, backend: &str, here: &DeviceIdentity) -> Option<String> {
        let (their_backend, theirs) = (self.backend.as_ref()?, self.device.as_ref()?);
        let is_here =
            their_backend == backend && theirs.name == here.name && theirs.arch == here.arch;
        (!is_here).then(|| device_label(their_backend, &theirs.name, &theirs.arch))
    }
}

pub(super) fn device_label(backend: &str, name: &str, arch: &str) -> String {
    format!("{backend}, {name} ({arch})")
}

/// The result as text, from `facts`.
pub(super) fn describe_result(task: &str, result: &PromotionResult) -> String {
    let facts = &result.facts;
    let what = if result.promoted {
        "promoted"
    } else {
        "not promoted"
    };
    let mut text = format!("{task}: {what}: {}\n", result.why);
    if let Some(step) = facts["step"].as_u64() {
        let run = facts["run"].as_str().unwrap_or_default();
        text += &format!("  kernel     step {step} of {run}\n");
    }
    if let Some(confirmed) = speedup_line(&facts["verdict"]) {
        text += &format!("  confirmed  {confirmed}\n");
    }
    let strongest = serde_json::from_value::<StrongestBaseline>(facts["strongest"].clone());
    if let Ok(strongest) = strongest {
        let line = report::over_strongest(&strongest);
        let line = line.trim_start_matches(", ").trim_start_matches("but ");
        text += &format!("  strongest  {line}\n");
    }
    if let Some(origin) = facts["there"]["origin"].as_str() {
        let relation = if result.promoted {
            "replaces"
        } else {
            "current"
        };
        text += &match speedup_line(&facts["verdict_of_there"]) {
            Some(judged) => format!("  {relation:<9}  {origin}: {judged}\n"),
            None => format!("  {relation:<9}  {origin}\n"),
        };
    }
    if result.promoted {
        let path = facts["kernel"].as_str().unwrap_or_default();
        text += &format!("  now in     {path}, with its verdict in best.json\n");
    }
    if let Some(remedy) = facts["remedy"].as_str() {
        text += &format!("  hint: {remedy}\n");
    }
    if facts["task_changed_since_the_run"] == json!(true) {
        text += "  note       the task has changed since the run; the kernel was judged on the new one\n";
    }
    text
}

/// The speedup and the device of a verdict; `None` without a verdict that passed.
fn speedup_line(verdict: &Value) -> Option<String> {
    let verdict: Verdict = serde_json::from_value(verdict.clone()).ok()?;
    let baseline = verdict.baseline.map(|baseline| baseline.name);
    let speedup = verdict.speedup?;
    let [low, high] = speedup.ci95;
    Some(format!(
        "{:.3}x [{low:.3}, {high:.3}] over `{}` on {}",
        speedup.geomean,
        baseline.unwrap_or_default(),
        device_label(&verdict.backend, &verdict.device.name, &verdict.device.arch)
    ))
}
