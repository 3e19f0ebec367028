//! Checks and edits a source before it is compiled: what this device cannot run, and preprocessor lines that no kernel needs.
//!
//! What the preprocessor leaves out, and functions that nothing calls, do not count. So a source is hardly ever refused here:
//! `directives` and `words` edit it, the compiler and the process decide, and `explain` reads the compiler's errors.
//! The checks give clear messages. They are not a defence: the sandbox confines whatever runs.

use super::arch_branches::choose_fallbacks;
use super::checked_source::CheckedSource;
use super::directives::edit_directive;
use super::thread_locals::{Scopes, edit_thread_local};
use super::words::{THREAD_LOCAL_WORDS, Words};
use crate::device::Refusal;
use crate::device::refusal::NESTED_LAUNCH;
use crate::kernel::lexer::{LexemeKind, are_adjacent, lex};
use crate::kernel::plan::{ArgumentType, Plan, TranslationUnit};
use crate::verdict::Status;

/// A refusal if the type of an argument is not supported.
pub(super) fn refuse_arguments(unit: &TranslationUnit) -> Option<Refusal> {
    let takes_map = |arguments: &[ArgumentType]| arguments.contains(&ArgumentType::TensorMap);
    let mut entries = unit.entry_points.iter();
    let entry = entries.find(|entry| takes_map(&entry.arguments))?;
    let reason = "tensor maps do not run on a CPU";
    Some(Refusal::at_line(Status::Unsupported, entry.line, reason))
}

/// A refusal if a launch of the plan is not supported.
pub(super) fn refuse_plan(plan: &Plan) -> Option<Refusal> {
    let refused = |what: &str| {
        let reason = format!("{what} do not run on a CPU");
        Some(Refusal::new(Status::Unsupported, reason))
    };
    plan.launches.iter().find_map(|launch| match launch {
        launch if launch.cluster.is_some() => refused("clusters"),
        launch if launch.cooperative => refused("cooperative launches"),
        _ => None,
    })
}

/// Checks a source and makes the edits.
pub(super) fn check_source(source: &str) -> CheckedSource {
    let lexemes = lex(source);
    let mut checked = CheckedSource {
        joins_tokens: joins_tokens(source),
        ..CheckedSource::default()
    };
    let mut scopes = Scopes::default();
    let fallbacks = choose_fallbacks(source, &lexemes);
    let words = Words {
        source,
        lexemes: &lexemes,
        is_directive: false,
    };
    for (index, lexeme) in lexemes.iter().enumerate() {
        let text = &source[lexeme.range.clone()];
        scopes.read(source, &lexemes, index);
        match lexeme.kind {
            LexemeKind::Directive => match fallbacks.get(&index) {
                Some(condition) => {
                    let range = lexeme.range.clone();
                    checked.edits.replace(source, range, *condition);
                }
                None => edit_directive(source, lexeme, &mut checked),
            },
            LexemeKind::Identifier
                if THREAD_LOCAL_WORDS.contains(&text) && scopes.in_function() =>
            {
                edit_thread_local(words, index, &scopes, &mut checked);
            }
            LexemeKind::Identifier => words.edit(index, &mut checked),
            LexemeKind::Symbol if is_launch(source, &lexemes[index..]) => {
                checked.add_finding("<<<", Status::Rejected, lexeme.line, NESTED_LAUNCH);
            }
            _ => {}
        }
    }
    checked.text = checked.edits.apply(source);
    checked
}

/// Whether the source starts with the `<<<` of a launch.
fn is_launch(source: &str, lexemes: &[crate::kernel::lexer::Lexeme]) -> bool {
    let texts = lexemes
        .iter()
        .take(3)
        .map(|lexeme| &source[lexeme.range.clone()]);
    texts.eq(["<", "<", "<"]) && are_adjacent(lexemes)
}

/// Whether the preprocessor makes words that are not in the source: with `##`, or from a word that a backslash continues.
fn joins_tokens(source: &str) -> bool {
    let is_word =
        |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let is_split = |(at, _): (usize, &str)| {
        let behind = source[at + 1..].trim_start_matches([' ', '\t', '\r', '\u{b}', '\u{c}']);
        let next = behind.strip_prefix('\n').map(|rest| rest.bytes().next());
        is_word(source[..at].bytes().next_back()) && next.is_some_and(is_word)
    };
    ["##", "%:%:", "??"]
        .iter()
        .any(|join| source.contains(join))
        || source.match_indices('\\').any(is_split)
}
