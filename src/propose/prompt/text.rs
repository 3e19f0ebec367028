//! A finished prompt: its sections, and an estimate of its tokens.
//!
//! Plain data. `render` and `fill` make it; `kforge prompt` and the driver read it.

use serde::Serialize;

use crate::base::text;

/// The text of one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Prompt {
    pub system: String,
    /// In order; all `stable` sections come first.
    pub sections: Vec<PromptSection>,
    /// What did not fit into the prompt's token budget, one line each.
    pub left_out: Vec<String>,
    /// The version of the templates: a hash of all of them.
    pub version: String,
}

/// A named part of a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PromptSection {
    pub name: String,
    pub text: String,
    /// Estimated by [`estimate_tokens`].
    pub tokens: u64,
    /// Whether the section is the same for all steps of a run.
    pub stable: bool,
}

impl Prompt {
    /// The text that is the same for all steps of a run, without the system message.
    pub(crate) fn stable_text(&self) -> String {
        self.join_sections(|section| section.stable)
    }

    /// The text after the stable part.
    pub(crate) fn changing_text(&self) -> String {
        self.join_sections(|section| !section.stable)
    }

    /// The whole prompt as one text, as `prompt.md` stores it.
    pub(crate) fn document(&self) -> String {
        let mut text = format!("{}\n\n---\n\n", self.system.trim_end());
        for section in &self.sections {
            text.push_str(&section.text);
        }
        text
    }

    /// The estimated tokens of the whole prompt.
    pub(crate) fn estimated_tokens(&self) -> u64 {
        let sections = self.sections.iter().map(|section| section.tokens);
        estimate_tokens(&self.system) + sections.sum::<u64>()
    }

    /// The bytes of the whole prompt, an upper bound on its tokens: no tokenizer makes more tokens than bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let sections = self.sections.iter().map(|section| section.text.len());
        (self.system.len() + sections.sum::<usize>()) as u64
    }

    fn join_sections(&self, include: fn(&PromptSection) -> bool) -> String {
        let sections = self.sections.iter().filter(|section| include(section));
        sections.map(|section| section.text.as_str()).collect()
    }
}

/// Estimated tokens of a text, as `llm` estimates them for a provider that counts none.
///
/// Used only for display and for filling a prompt. The reservation for a provider that counts tokens takes each byte as a token,
/// which is the worst case.
pub(crate) fn estimate_tokens(text: &str) -> u64 {
    text::estimate_tokens(text.len() as u64)
}
