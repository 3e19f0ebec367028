//! Loads a user's templates and renders every one of them once, so that a mistake is reported when the run starts and not hours
//! later.

use std::path::Path;

use super::feedback::Feedback;
use super::input::{
    HistoryEntry, KernelLabel, PromptInput, RejectedReply, ShownKernel, TimesToBeat,
};
use super::render::render;
use super::templates::Templates;
use crate::base::Failure;
use crate::device::DeviceFacts;
use crate::event::Operator;
use crate::task::{Task, TaskFiles};
use crate::verdict::Status;

const MODEL_OPERATORS: [Operator; 4] = [
    Operator::Propose,
    Operator::Edit,
    Operator::Crossover,
    Operator::Repair,
];

impl Templates {
    /// The embedded templates, overridden file by file by those of a folder.
    ///
    /// # Errors
    /// `Failure::usage` with the file and its line.
    pub(crate) fn with_folder(folder: &Path) -> Result<Self, Failure> {
        let templates = Self::with_unchecked_folder(folder)?;
        let task = TaskFiles::find("softmax")?.load()?;
        for backend in ["cuda", "cpu", "metal"] {
            render_all(&templates, &task, backend)?;
        }
        Ok(templates)
    }
}

/// Renders every template and card of a backend, once with a judged parent and once with a parent that was not judged.
fn render_all(templates: &Templates, task: &Task, backend: &str) -> Result<(), Failure> {
    let (_, source) = task.baseline();
    let feedback = Feedback::of_status(Status::Race);
    let history = [HistoryEntry {
        step: 1,
        operator: Operator::Mutate,
        parents: vec![1, 2],
        detail: "unroll".to_owned(),
        expected: Some(-0.1),
        result: "no difference".to_owned(),
    }];
    let device = DeviceFacts::default();
    let ids = task.workloads.iter().map(|workload| workload.id.clone());
    let to_beat = TimesToBeat {
        label: "torch 2.11.0".to_owned(),
        microseconds: ids.map(|id| (id, 12.5)).collect(),
    };
    let cards = templates.cards(backend);
    let cards = cards.map(|card| Some(card.name.as_str())).chain([None]);
    for card in cards {
        for (operator, feedback) in MODEL_OPERATORS
            .into_iter()
            .flat_map(|operator| [(operator, None), (operator, Some(&feedback))])
        {
            let parents = [ShownKernel {
                step: 1,
                operator: Operator::Start,
                source,
                feedback,
                label: KernelLabel::Parent,
            }];
            let input = PromptInput {
                operator,
                task,
                profile: "quick",
                backend,
                device: &device,
                baseline: "naive",
                parents: &parents,
                context: &parents,
                history: &history,
                card,
                to_beat: feedback.map(|_| &to_beat),
                lessons: feedback.map(|_| "what helped"),
                max_edits: 2,
                budget_tokens: u64::MAX,
                missed: Some(RejectedReply {
                    reply: "x",
                    message: "y",
                    had_edits: feedback.is_some(),
                }),
            };
            render(&input, templates)?;
        }
    }
    Ok(())
}
