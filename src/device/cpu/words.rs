//! Edits words that the CPU's compiler would misunderstand: inline PTX, `_Pragma`, `thread_local`. Finds words of features that
//! this device lacks.
//!
//! Inline PTX and a `thread_local` in a function become calls that end the process when a thread reaches them. So they do no harm
//! in a function that nothing calls. The compiler decides about everything else.

use super::checked_source::CheckedSource;
use super::own_names::{is_own, renamed};
use crate::device::refusal::MANAGED_MEMORY;
use crate::device::thread_locals::{THREAD_LOCAL, THREAD_LOCAL_WORDS};
use crate::kernel::lexer::{Lexeme, LexemeKind, lex, starts_with_directive};
use crate::verdict::Status;

pub(super) const PTX_WORDS: [&str; 3] = ["asm", "__asm", "__asm__"];
/// Words that may follow `asm`.
const PTX_QUALIFIERS: [&str; 6] = [
    "volatile",
    "__volatile__",
    "__volatile",
    "goto",
    "inline",
    "__inline__",
];

/// Macros of the generated text that stand for edited words.
pub(super) const DROPPED_PRAGMA: &str = "KFORGE_DROPPED_PRAGMA";
pub(super) const EMPTY_PTX: &str = "KFORGE_EMPTY_PTX";
pub(super) const PTX_AT_LINE: &str = "KFORGE_PTX_AT_LINE_";
/// No declaration has this name, so the compiler reports it.
const REFUSED_THREAD_LOCAL: &str = "kforge_refuses_thread_local";

/// Pragmas that mean the same to this compiler. All others are dropped, as CUDA's compiler ignores what it does not know.
const KEPT_PRAGMAS: &[&str] = &[
    "unroll",
    "nounroll",
    "once",
    "pack",
    "push_macro",
    "pop_macro",
];

/// Identifiers of features that this device does not support, with the name of the feature. Nothing declares them here.
pub(super) const UNSUPPORTED_WORDS: &[(&str, &str)] = &[
    ("wmma", "tensor cores"),
    ("nvcuda", "tensor cores"),
    ("wgmma", "tensor cores"),
    ("CUtensorMap", "tensor maps"),
    ("__cluster_dims__", "clusters"),
    ("this_cluster", "clusters"),
    ("cluster_group", "clusters"),
    ("this_grid", "grid-wide barriers"),
    ("grid_group", "grid-wide barriers"),
    ("this_multi_grid", "grid-wide barriers"),
    ("barrier_arrive_tx", "bulk copies"),
    ("memcpy_async_tx", "bulk copies"),
    ("cp_async_bulk", "bulk copies"),
    ("cudaTextureObject_t", "textures"),
    ("cudaSurfaceObject_t", "surfaces"),
    ("cudaLaunchKernel", "dynamic parallelism"),
    (
        "cudaGridDependencySynchronize",
        "programmatic dependent launches",
    ),
    (
        "cudaTriggerProgrammaticLaunchCompletion",
        "programmatic dependent launches",
    ),
];

/// Whether a pragma, given behind `pragma`, is left to the compiler.
pub(super) fn is_kept_pragma(pragma: &str) -> bool {
    let pragma = pragma.trim_start();
    KEPT_PRAGMAS
        .iter()
        .any(|kept| starts_with_directive(pragma, kept))
}

/// Edits the words in a directive: in the body of a macro, in a condition.
pub(super) fn edit_words(source: &str, directive: &Lexeme, checked: &mut CheckedSource) {
    // Behind the `#`, so that the rest is read as code.
    let start = directive.range.start + 1;
    let mut lexemes = lex(&source[start..directive.range.end]);
    // What continues a line is not part of the code.
    lexemes.retain(|lexeme| &source[start..][lexeme.range.clone()] != "\\");
    for lexeme in &mut lexemes {
        lexeme.range = lexeme.range.start + start..lexeme.range.end + start;
        lexeme.line += directive.line - 1;
    }
    for index in 0..lexemes.len() {
        let words = Words {
            source,
            lexemes: &lexemes,
            is_directive: true,
        };
        words.edit(index, checked);
    }
}

/// Why inline PTX is not supported.
pub(super) fn ptx_reason(word: &str) -> String {
    format!("`{word}`: inline PTX cannot run on a CPU (`#ifdef KFORGE_CPU` selects other code)")
}

/// Why a name of the runtime or of a build is refused.
pub(super) fn own_name(word: &str) -> String {
    format!("`{word}` is a name of kforge's own or of one of its builds, and no kernel may use it")
}

/// The lexemes of the code, or of one directive.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    pub(super) source: &'a str,
    pub(super) lexemes: &'a [Lexeme],
    pub(super) is_directive: bool,
}

impl Words<'_> {
    fn text(&self, index: usize) -> &str {
        let lexeme = self.lexemes.get(index);
        lexeme.map_or("", |lexeme| &self.source[lexeme.range.clone()])
    }

    /// Edits the word at an index if the CPU needs that.
    pub(super) fn edit(&self, index: usize, checked: &mut CheckedSource) {
        let lexeme = &self.lexemes[index];
        if lexeme.kind != LexemeKind::Identifier || self.is_joined(index) {
            return;
        }
        let word = self.text(index).to_owned();
        if PTX_WORDS.contains(&word.as_str()) {
            self.edit_ptx(index, &word, checked);
        } else if word == "_Pragma" {
            self.edit_pragma(index, checked);
        } else if THREAD_LOCAL_WORDS.contains(&word.as_str()) {
            let (status, line) = (Status::Rejected, lexeme.line);
            checked.add_suspect_word(REFUSED_THREAD_LOCAL, status, line, THREAD_LOCAL);
            self.replace(index..index + 1, REFUSED_THREAD_LOCAL, checked);
        } else if word == "__managed__" {
            checked.add_suspect_word(&word, Status::Rejected, lexeme.line, MANAGED_MEMORY);
        } else if let Some((_, what)) = UNSUPPORTED_WORDS.iter().find(|(known, _)| *known == word) {
            let reason = format!("`{word}`: {what} cannot run on a CPU");
            checked.add_suspect_word(&word, Status::Unsupported, lexeme.line, reason);
        } else if let Some(other) = renamed(&word) {
            if is_own(&word) {
                let reason = own_name(&word);
                checked.add_suspect_word(&other, Status::Rejected, lexeme.line, reason);
            }
            self.replace(index..index + 1, &other, checked);
        }
    }

    /// Whether `##` joins the word with another one.
    fn is_joined(&self, index: usize) -> bool {
        let is_hash = |index: usize| self.text(index) == "#";
        self.is_directive && (is_hash(index + 1) || index.checked_sub(1).is_some_and(is_hash))
    }

    /// Replaces the lexemes of a range of indices.
    fn replace(&self, range: std::ops::Range<usize>, text: &str, checked: &mut CheckedSource) {
        let bytes = self.lexemes[range.start].range.start..self.lexemes[range.end - 1].range.end;
        if self.is_directive {
            checked.edits.replace_in_directive(self.source, bytes, text);
        } else {
            checked.edits.replace(self.source, bytes, text);
        }
    }

    /// Replaces `asm volatile` by a macro that takes what follows in parentheses.
    fn edit_ptx(&self, index: usize, word: &str, checked: &mut CheckedSource) {
        let line = self.lexemes[index].line;
        let mut end = index + 1;
        while PTX_QUALIFIERS.contains(&self.text(end)) {
            end += 1;
        }
        // A statement without an instruction only keeps the compiler from moving code.
        let is_empty = self.text(end) == "("
            && self.text(end + 1) == "\"\""
            && matches!(self.text(end + 2), ":" | ")");
        if is_empty {
            self.replace(index..end, EMPTY_PTX, checked);
            return;
        }
        let name = format!("{PTX_AT_LINE}{line}");
        checked.add_suspect_word(&name, Status::Unsupported, line, ptx_reason(word));
        self.replace(index..end, &name, checked);
        if checked.ptx_lines.last() != Some(&line) {
            checked.ptx_lines.push(line);
        }
    }

    /// Drops a `_Pragma("…")` as `directives` drops a `#pragma`. The count of `unroll` needs a pragma of this compiler, so it is
    /// dropped too.
    fn edit_pragma(&self, index: usize, checked: &mut CheckedSource) {
        let literal = self.text(index + 2).trim_matches('"');
        let is_kept = is_kept_pragma(literal) && !literal.contains("unroll");
        if !is_kept || self.text(index + 1) != "(" {
            self.replace(index..index + 1, DROPPED_PRAGMA, checked);
        }
    }
}
