//! What prompts contain, and what they must never contain.

use super::*;
use crate::device::DeviceFacts;
use crate::event::Operator;
use crate::kernel::Kernel;
use crate::task::{Task, TaskFiles};
use crate::verdict::Verdict;

mod feedback;
mod filling;
mod quoting;
mod templates;
mod wording;

fn task(name: &str) -> Task {
    TaskFiles::find(name)
        .and_then(|files| files.load())
        .unwrap()
}

/// Recorded verdicts: every status, two of a GPU, and two with findings on hidden shapes and inputs.
fn verdicts() -> Vec<Verdict> {
    let lines = include_str!("../../../../tests/fixtures/prompts/verdicts.jsonl").lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn verdict(kernel: &str) -> Verdict {
    let found = verdicts()
        .into_iter()
        .find(|verdict| verdict.kernel == kernel);
    found.unwrap_or_else(|| panic!("no verdict of {kernel}"))
}

fn h200() -> DeviceFacts {
    DeviceFacts {
        name: "NVIDIA H200".to_owned(),
        multiprocessors: Some(132),
        cache_bytes: Some(50 << 20),
        bytes_a_second: Some(4.3e12),
        float_a_second: Some(6.0e13),
        tensor_a_second: Some(6.5e14),
        ..DeviceFacts::for_device(&crate::verdict::DeviceIdentity {
            arch: "sm_90".to_owned(),
            ..crate::verdict::DeviceIdentity::default()
        })
    }
}

fn prompt_input<'a>(task: &'a Task, device: &'a DeviceFacts) -> PromptInput<'a> {
    PromptInput {
        operator: Operator::Propose,
        task,
        profile: "full",
        backend: "cuda",
        device,
        baseline: "fla",
        parents: &[],
        context: &[],
        history: &[],
        card: None,
        to_beat: None,
        lessons: None,
        max_edits: 2,
        budget_tokens: 100_000,
        missed: None,
    }
}

fn shown_kernel<'a>(
    step: u64,
    source: &'a str,
    feedback: Option<&'a Feedback>,
    label: KernelLabel,
) -> ShownKernel<'a> {
    ShownKernel {
        step,
        operator: Operator::Propose,
        source,
        feedback,
        label,
    }
}

fn section_text<'p>(prompt: &'p Prompt, name: &str) -> &'p str {
    let found = prompt.sections.iter().find(|section| section.name == name);
    found.map_or("", |section| section.text.as_str())
}
