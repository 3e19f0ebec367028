//! Edits of a kernel's source before it is compiled, and refusals that take effect only if the compiler reaches their line.
//!
//! The compiler's preprocessor decides what is present: a directive that is refused becomes an `#error` with a number, which does
//! nothing in a group that is left out. Every edit keeps the number of lines. Uses the lexer; compiles nothing.

use std::ops::Range;

use super::refusal::Refusal;
use crate::kernel::lexer::starts_with_directive;

/// The text of an `#error`, or of a comment in the PTX, in front of the number of a refusal. `cuda/source` has it too.
const MARKER: &str = "kforge refuses line number ";

/// A source with the replacements that were made in it.
#[derive(Debug, Default)]
pub(super) struct SourceRewrite {
    /// Byte ranges with their new texts, in any order.
    edits: Vec<(Range<usize>, String)>,
    refusals: Vec<Refusal>,
}

impl SourceRewrite {
    /// Replaces a range. The line breaks of the old text are kept after the new text, which has none.
    pub(super) fn replace(&mut self, source: &str, range: Range<usize>, text: impl Into<String>) {
        let mut text = text.into();
        text.extend(source[range.clone()].matches('\n'));
        self.edits.push((range, text));
    }

    /// Replaces a range within a directive, whose line breaks are escaped.
    pub(super) fn replace_in_directive(&mut self, source: &str, range: Range<usize>, text: &str) {
        let breaks = source[range.clone()].matches('\n').count();
        self.edits
            .push((range, text.to_owned() + &" \\\n".repeat(breaks)));
    }

    /// Removes a directive.
    pub(super) fn remove(&mut self, source: &str, range: Range<usize>) {
        self.replace(source, range, "");
    }

    /// Refuses a directive if the compiler reaches it.
    pub(super) fn refuse(&mut self, source: &str, range: Range<usize>, refusal: Refusal) {
        let number = self.add_refusal(refusal);
        self.replace(source, range, format!("#error {MARKER}{number}"));
    }

    /// Adds a refusal. Returns its number.
    pub(super) fn add_refusal(&mut self, refusal: Refusal) -> usize {
        self.refusals.push(refusal);
        self.refusals.len() - 1
    }

    /// The source with all edits. Of edits that overlap, the first is made.
    pub(super) fn apply(&mut self, source: &str) -> String {
        self.edits
            .sort_by_key(|(range, _)| (range.start, range.end));
        let mut text = String::with_capacity(source.len() + 256);
        let mut at = 0;
        for (range, replacement) in &self.edits {
            if range.start >= at {
                text.push_str(&source[at..range.start]);
                text.push_str(replacement);
                at = range.end;
            }
        }
        text.push_str(&source[at..]);
        text
    }

    /// The refusals, whether or not the compiler reaches them.
    pub(super) fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// The first refusal whose `#error` a compiler reached, from its output.
    pub(super) fn reached(&self, log: &str) -> Option<&Refusal> {
        let errors = log.lines().filter(|line| !line.starts_with(' '));
        let mut errors = errors.filter_map(|line| Some(line.split_once("error")?.1));
        errors.find_map(|error| self.marked(error))
    }

    /// The first refusal whose text is in the compiled code.
    pub(super) fn marked(&self, code: &str) -> Option<&Refusal> {
        let mut numbers = code.split(MARKER).skip(1).filter_map(|rest| {
            let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
            digits.parse::<usize>().ok()
        });
        numbers.find_map(|number| self.refusals.get(number))
    }
}

/// Reasons that both devices give.
pub(super) const NO_HEADER_NAME: &str = "`#include` needs the name of a header in `<…>`";
pub(super) const ONLY_INCLUDE: &str = "only `#include <…>` of CUDA headers is accepted";

/// Why a header that no device knows is refused.
pub(super) fn unknown_header(name: &str) -> String {
    if leaves_folder(name) {
        return format!("`{name}` is outside the folders for headers");
    }
    format!(
        "`#include <{name}>`: there is no such header: use headers of CUDA, such as `<cuda_bf16.h>`"
    )
}

/// Whether a directive, given without its `#`, sets line numbers or file names: `#line`, `# 7 "file"`. Generated sources have them.
pub(super) fn is_line_marker(body: &str) -> bool {
    body.starts_with(|first: char| first.is_ascii_digit()) || starts_with_directive(body, "line")
}

/// The name in `<…>` or `"…"`.
pub(super) fn header_name(text: &str) -> Option<&str> {
    let within = |open: char, close: char| Some(text.strip_prefix(open)?.split_once(close)?.0);
    within('<', '>').or_else(|| within('"', '"'))
}

/// Whether a header's name could refer to a file outside the folders for headers.
pub(super) fn leaves_folder(name: &str) -> bool {
    let name = name.trim();
    name.starts_with(['/', '~']) || name.contains('\\') || name.split('/').any(|part| part == "..")
}

/// The byte range of every `__has_include(<name>)` in a directive, with the name.
pub(super) fn has_include_tests(directive: &str) -> Vec<(Range<usize>, &str)> {
    const WORD: &str = "__has_include";
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let test = |start: usize| {
        let behind = &directive[start + WORD.len()..];
        let behind = behind.strip_prefix("_next").unwrap_or(behind);
        if directive[..start].ends_with(is_name) || behind.starts_with(is_name) {
            return None;
        }
        let operand = behind.trim_start().strip_prefix('(')?.trim_start();
        let name = header_name(operand)?;
        // The name and its two delimiters.
        let rest = operand[name.len() + 2..].trim_start().strip_prefix(')')?;
        (!name.contains('\n')).then(|| (start..directive.len() - rest.len(), name))
    };
    let starts = directive.match_indices(WORD);
    starts.filter_map(|(start, _)| test(start)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Status;

    #[test]
    fn edits_keep_lines_and_only_reached_refusals_count() {
        let source = "#if 0\n#include <a \\\n>\n#endif\n#include <b>\n";
        let mut edits = SourceRewrite::default();
        let refusal = |line, reason| Refusal::at_line(Status::Rejected, line, reason);
        let at = |text: &str| {
            let start = source.find(text).unwrap();
            start..start + text.len()
        };
        edits.refuse(source, at("#include <a \\\n>"), refusal(2, "a"));
        edits.refuse(source, at("#include <b>"), refusal(5, "b"));
        let text = edits.apply(source);
        assert_eq!(text.matches('\n').count(), source.matches('\n').count());
        for log in [
            "kernel.cu:5:2: error: #error kforge refuses line number 1\n",
            "kernel.cu(5): catastrophic error: #error directive: kforge refuses line number 1\n",
            "kernel.cu:5:2: error: kforge refuses line number 1\n",
        ] {
            assert_eq!(edits.reached(log).unwrap().reason, "line 5: b");
        }
        for log in [
            "kernel.cu:5:2: error: #error kforge refuses line number 7\n",
            "kernel.cu:5:2: error: x\n   5 | #error kforge refuses line number 1\n",
            "",
        ] {
            assert_eq!(edits.reached(log), None);
        }
    }

    #[test]
    fn tests_for_headers_are_found_with_their_names() {
        let found = |directive| {
            let tests = has_include_tests(directive);
            let names: Vec<_> = tests.iter().map(|(_, name)| *name).collect();
            names.join(",")
        };
        for (directive, expected) in [
            ("#if __has_include(<a/b.h>)", "a/b.h"),
            (
                "#if defined(X) && __has_include ( \"c.h\" ) || __has_include(<d>)",
                "c.h,d",
            ),
            ("#if __has_include_next(<a>)", "a"),
            ("#ifdef __has_include", ""),
            ("#if defined(__has_include)", ""),
            ("#if __has_include(NAME)", ""),
            ("#if __has_include(<", ""),
            ("#if my__has_include(<a>)", ""),
        ] {
            assert_eq!(found(directive), expected, "{directive}");
        }
    }
}
