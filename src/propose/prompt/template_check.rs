//! A question that asks for everything, so that a template's mistake is told when it is read and not in the night.

use super::{
    Feedback, HistoryEntry, KernelLabel, Language, MissedEdits, PromptInput, ShownKernel,
    Templates, render,
};
use crate::base::Failure;
use crate::device::DeviceFacts;
use crate::event::Operator;
use crate::task::TaskFiles;
use crate::verdict::Status;

const OPERATORS: [Operator; 4] = [
    Operator::Propose,
    Operator::Edit,
    Operator::Crossover,
    Operator::Repair,
];

/// Renders every template under values of all kinds.
pub(super) fn check(templates: &Templates) -> Result<(), Failure> {
    let task = TaskFiles::find("softmax")?.load()?;
    let (_, source) = task.baseline();
    let feedback = Feedback {
        status: Status::Race,
        reason: None,
        hidden: false,
        speedup: None,
        workloads: Vec::new(),
        more_workloads: 0,
        resources: crate::verdict::Resources::default(),
        margin: None,
        place: None,
        accesses: Vec::new(),
        counters: Vec::new(),
        log: None,
    };
    let tried = [HistoryEntry {
        step: 1,
        operator: Operator::Mutate,
        parents: vec![1, 2],
        detail: "unroll".to_owned(),
        expected: Some(-0.1),
        result: "no difference".to_owned(),
    }];
    let shown = |feedback| ShownKernel {
        step: 1,
        operator: Operator::Start,
        source,
        feedback,
        label: KernelLabel::Parent,
    };
    let device = DeviceFacts::default();
    for backend in ["cuda", "cpu", "metal"] {
        for operator in OPERATORS {
            for feedback in [None, Some(&feedback)] {
                let parents = [shown(feedback)];
                let cards = templates.cards(Language::of_backend(backend));
                let cards = cards.map(|card| Some(card.name.as_str())).chain([None]);
                for card in cards {
                    let question = PromptInput {
                        operator,
                        task: &task,
                        profile: "quick",
                        backend,
                        device: &device,
                        baseline: "naive",
                        parents: &parents,
                        context: &parents,
                        history: &tried,
                        card,
                        max_edits: 2,
                        budget_tokens: u64::MAX,
                        missed: Some(MissedEdits {
                            reply: "x",
                            message: "y",
                        }),
                    };
                    render(&question, templates)?;
                }
            }
        }
    }
    Ok(())
}
