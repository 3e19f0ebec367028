//! How candidates are made without a model.

mod edit;
pub mod mutate;

use crate::event::{Brief, Operator};
use crate::kernel::{Kernel, with_point};
use crate::task::Task;

pub struct Parent<'a> {
    pub step: u64,
    pub source: &'a str,
}

pub struct Proposal {
    pub source: String,
    pub detail: String,
}

pub enum Answer {
    Proposal(Proposal),
    NoOp(String),
}

pub fn propose(brief: &Brief, parents: &[Parent<'_>], task: &Task) -> Answer {
    let Some(parent) = parents.first() else {
        return Answer::NoOp("no parent".to_owned());
    };
    match brief.operator {
        Operator::Start => Answer::Proposal(Proposal {
            source: parent.source.to_owned(),
            detail: brief.start.clone().unwrap_or_default(),
        }),
        Operator::Autotune => {
            let Some(point) = &brief.point else {
                return Answer::NoOp("no point".to_owned());
            };
            match Kernel::parse(parent.source, &task.definition)
                .ok()
                .and_then(|kernel| with_point(&kernel, point))
            {
                Some(source) => Answer::Proposal(Proposal {
                    source,
                    detail: format!("{point:?}"),
                }),
                None => Answer::NoOp("no such point".to_owned()),
            }
        }
        Operator::Mutate => {
            match mutate::children(parent.source, task).nth(brief.attempt as usize) {
                Some(child) => Answer::Proposal(Proposal {
                    source: child.source,
                    detail: child.detail,
                }),
                None => Answer::NoOp("no transformation applies".to_owned()),
            }
        }
        Operator::Recombine => Answer::NoOp("not yet".to_owned()),
    }
}
