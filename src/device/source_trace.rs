//! The source trace: which conditional groups of a source a compiler's preprocessor keeps, and which names are macros there.
//!
//! This module puts marks into a source, and reads from a compiler's messages which marks it has seen. So the compiler itself says what
//! it keeps. Two compilers with equal traces compile the same program, as far as the preprocessor decides it. The callers run the
//! compiler: nothing is compiled here.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::base::Digest;
use crate::kernel::lexer::{LexemeKind, lex, starts_with_directive, strip_comments};

/// Directives that begin a group of lines.
const GROUPS: [&str; 7] = [
    "ifdef", "ifndef", "if", "elifdef", "elifndef", "elif", "else",
];

/// Words of the preprocessor itself. They are never reported as macros.
const NOT_MACROS: [&str; 4] = ["defined", "define", "__has_include", "__has_include_next"];

/// Macros that contain the time, so that two compilations never have the same program.
const TIME_MACROS: [&str; 3] = ["__TIME__", "__DATE__", "__TIMESTAMP__"];

/// A source with marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MarkedSource {
    /// The source with its marks. A `#line` after each mark keeps the line numbers of the source.
    pub(super) text: String,
    /// The lines with a directive that begins a group.
    groups: Vec<u32>,
    /// The names in the source.
    names: BTreeSet<String>,
    /// The start of every mark. It contains a hash of the source, so it cannot occur in the source.
    prefix: String,
}

/// What a preprocessor keeps of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTrace {
    /// The lines of the directives whose groups it keeps.
    pub(super) groups: BTreeSet<u32>,
    /// The names in the source that are macros at the end of the source.
    pub(super) macros: BTreeSet<String>,
}

/// How the marks are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReportAs {
    /// As warnings of a compiler.
    Warnings,
    /// As words in the preprocessed text.
    Words,
}

impl MarkedSource {
    /// Marks a source whose lines are those of `original`, the kernel file.
    pub(super) fn new(original: &str, source: &str) -> Self {
        let prefix = format!("kforge_trace_{}", Digest::of(original));
        let mut text = String::with_capacity(source.len() + 256);
        let mut groups = Vec::new();
        let mut at = 0;
        for lexeme in lex(source) {
            if lexeme.kind != LexemeKind::Directive || !begins_group(&source[lexeme.range.clone()])
            {
                continue;
            }
            text.push_str(&source[at..lexeme.range.end]);
            at = lexeme.range.end;
            let next = lexeme.line + source[lexeme.range].matches('\n').count() as u32 + 1;
            // Writing to a String cannot fail.
            let _ = write!(text, "\n#define {prefix}_{}\n#line {next}", lexeme.line);
            groups.push(lexeme.line);
        }
        text.push_str(&source[at..]);
        Self {
            text,
            groups,
            names: names(original),
            prefix,
        }
    }

    /// The text that makes a compiler report the marks. It belongs at the end of the translation unit, outside of all declarations.
    pub(super) fn report(&self, form: ReportAs) -> String {
        let command = match form {
            ReportAs::Warnings => "#warning ",
            ReportAs::Words => "",
        };
        let prefix = &self.prefix;
        let mut text = String::new();
        for line in &self.groups {
            let _ = writeln!(
                text,
                "#ifdef {prefix}_{line}\n{command}{prefix}_group_{line}\n#endif"
            );
        }
        for name in &self.names {
            let _ = writeln!(
                text,
                "#ifdef {name}\n{command}{prefix}_macro_{name}\n#endif"
            );
        }
        text
    }

    /// The trace in a compiler's output.
    pub(super) fn read(&self, output: &str) -> SourceTrace {
        let mut trace = SourceTrace::default();
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        for (at, prefix) in output.match_indices(&self.prefix) {
            let mark = &output[at + prefix.len()..];
            let mark = &mark[..mark.find(|letter| !is_name(letter)).unwrap_or(mark.len())];
            if let Some(line) = mark.strip_prefix("_group_") {
                trace.groups.extend(line.parse::<u32>());
            } else if let Some(name) = mark.strip_prefix("_macro_") {
                trace.macros.insert(name.to_owned());
            }
        }
        trace
    }

    /// A compiler's output without the messages about marks.
    pub(super) fn without_marks(&self, output: &str) -> String {
        let mut text = String::with_capacity(output.len());
        let mut is_mark = false;
        for line in output.split_inclusive('\n') {
            // The caret under an excerpt belongs to it.
            let is_caret = is_mark && line.trim() == "^";
            is_mark = line.contains(&self.prefix);
            if !is_mark && !is_caret {
                text.push_str(line);
            }
        }
        text
    }
}

fn begins_group(directive: &str) -> bool {
    let plain = strip_comments(directive);
    let body = directive_body(&plain);
    GROUPS.iter().any(|name| starts_with_directive(body, name))
}

/// The names in a source that may be macros: in code and in the bodies of macros. Names in conditions are left out, because the kept
/// groups already show their effect.
fn names(source: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for lexeme in lex(source) {
        let text = &source[lexeme.range];
        match lexeme.kind {
            LexemeKind::Identifier => {
                names.insert(text.to_owned());
            }
            LexemeKind::Directive => {
                let plain = strip_comments(text);
                if starts_with_directive(directive_body(&plain), "define") {
                    names.extend(identifiers(&plain).map(str::to_owned));
                }
            }
            _ => {}
        }
    }
    names.retain(|name| name.is_ascii() && !NOT_MACROS.contains(&name.as_str()));
    names
}

/// A directive without its `#`.
fn directive_body(plain: &str) -> &str {
    plain.trim_start_matches(['#', '%', ':']).trim_start()
}

fn identifiers(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    parts.filter(|word| !word.is_empty() && !word.starts_with(|first: char| first.is_ascii_digit()))
}

/// The first difference between two traces of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceDifference {
    /// The line in the kernel file of a directive whose group only one of the two keeps.
    pub line: Option<u32>,
    /// A name that is a macro for only one of the two, or that contains the time.
    pub name: Option<String>,
}

impl SourceTrace {
    /// The first difference from another trace of the same source. `known`: names that may be macros for only one of the two.
    pub(super) fn difference(
        &self,
        other: &Self,
        known: impl Fn(&str) -> bool,
    ) -> Option<TraceDifference> {
        if let Some(line) = self.groups.symmetric_difference(&other.groups).next() {
            return Some(TraceDifference {
                line: Some(*line),
                name: None,
            });
        }
        let mut names = self.macros.symmetric_difference(&other.macros);
        // A macro with the time is a difference even if both traces have it.
        let mut all = self.macros.union(&other.macros);
        let of_time = all.find(|name| TIME_MACROS.contains(&name.as_str()));
        let name = of_time.or_else(|| names.find(|name| !known(name)))?;
        Some(TraceDifference {
            line: None,
            name: Some(name.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_keep_line_numbers_and_report_what_is_compiled() {
        let source = "#if A \\\n  B\nint x;\n#else /* c */\nint y; // #if\n#endif\n%: ifdef __GNUC__\n#endif\n# define C D\n";
        let marked = MarkedSource::new(source, source);
        assert_eq!(marked.groups, [1, 4, 7]);
        let prefix = &marked.prefix;
        assert!(marked.text.starts_with(&format!(
            "#if A \\\n  B\n#define {prefix}_1\n#line 3\nint x;\n#else"
        )));
        let output = format!(
            "kernel.cu(9): warning: {prefix}_group_4\n{prefix}_group_x {prefix}_macro___GNUC__\n{prefix}"
        );
        let trace = marked.read(&output);
        assert_eq!(trace.groups, BTreeSet::from([4]));
        assert_eq!(trace.macros, BTreeSet::from(["__GNUC__".to_owned()]));
        let log = format!("a\nx: {prefix}_group_4\n  #warning {prefix}_group_4\n   ^\n\nb\n   ^\n");
        assert_eq!(marked.without_marks(&log), "a\n\nb\n   ^\n");
        let names: Vec<_> = marked.names.iter().map(String::as_str).collect();
        assert_eq!(names, ["C", "D", "int", "x", "y"]);
    }

    #[test]
    fn differences_name_a_line_or_a_macro() {
        let trace = |groups: &[u32], macros: &[&str]| SourceTrace {
            groups: groups.iter().copied().collect(),
            macros: macros.iter().map(|name| (*name).to_owned()).collect(),
        };
        let first = trace(&[1, 4], &["A", "assert"]);
        let difference = |other: &SourceTrace| first.difference(other, |name| name == "assert");
        assert_eq!(difference(&first), None);
        assert_eq!(difference(&trace(&[1, 4], &["A"])), None);
        let found = difference(&trace(&[1], &["A"])).unwrap();
        assert_eq!((found.line, found.name), (Some(4), None));
        let found = difference(&trace(&[1, 4], &["A", "B"])).unwrap();
        assert_eq!((found.line, found.name.as_deref()), (None, Some("B")));
        let timed = trace(&[1, 4], &["A", "__TIME__"]);
        assert!(timed.difference(&timed, |_| true).is_some());
    }
}
