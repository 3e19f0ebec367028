//! Chooses the branch for other devices where a source selects inline PTX or tensor cores by the GPU's architecture.
//!
//! `#if __CUDA_ARCH__ >= 800`, inline PTX, `#else`, C++, `#endif`: the CPU runs the C++. Code whose only variant is inline PTX
//! stays as it is, because leaving it out would change the results. Text only; `source_checks` makes the edits.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::words::{PTX_WORDS, UNSUPPORTED_WORDS};
use crate::device::thread_locals::OpenBraces;
use crate::kernel::lexer::{Lexeme, LexemeKind, lex, starts_with_directive, strip_comments};

/// The macro that says for which GPU a source is compiled.
const ARCH: &str = "__CUDA_ARCH__";
/// The macro that is defined only here.
const CPU: &str = "KFORGE_CPU";
/// Words of a branch that only reports that there is no code for a device.
const STOPS: [&str; 7] = [
    "__trap",
    "assert",
    "static_assert",
    "__brkpt",
    "abort",
    "printf",
    "__builtin_unreachable",
];

/// One branch of a conditional group.
#[derive(Debug)]
struct Branch<'a> {
    /// The index of its directive.
    directive: usize,
    keyword: &'static str,
    condition: String,
    lexemes: &'a [Lexeme],
}

/// How often functions that call others with inline PTX are looked for.
const MAX_CALL_DEPTH: usize = 4;

/// The directives to replace: the index of each, and its new text.
pub(super) fn choose_fallbacks(source: &str, lexemes: &[Lexeme]) -> HashMap<usize, &'static str> {
    let mut words: HashSet<String> = gpu_words().map(str::to_owned).collect();
    if !source.contains(ARCH) || !words.iter().any(|word| source.contains(word.as_str())) {
        return HashMap::new();
    }
    let mut choice = choose(source, lexemes, &words);
    // A branch may call functions with inline PTX. Functions whose own branches have been chosen are not among them.
    for _ in 0..MAX_CALL_DEPTH {
        let known = words.len();
        words.extend(gpu_functions(source, lexemes, &words, &choice.left_out));
        if words.len() == known {
            break;
        }
        choice = choose(source, lexemes, &words);
    }
    choice.replacements
}

/// Which branches are compiled.
#[derive(Debug, Default)]
struct BranchChoice {
    replacements: HashMap<usize, &'static str>,
    /// The indices of the lexemes that are not compiled.
    left_out: Vec<Range<usize>>,
}

/// Chooses branches, given the words that a CPU cannot run.
fn choose(source: &str, lexemes: &[Lexeme], words: &HashSet<String>) -> BranchChoice {
    let mut finder = BranchFinder {
        source,
        words,
        arch_macros: HashSet::from([ARCH.to_owned()]),
    };
    let mut choice = BranchChoice::default();
    // The branches of every group that is open.
    let mut open: Vec<Vec<Branch<'_>>> = Vec::new();
    let directives = lexemes.iter().enumerate();
    for (index, lexeme) in directives.filter(|(_, lexeme)| lexeme.kind == LexemeKind::Directive) {
        let (keyword, condition) = finder.parse(lexeme);
        if matches!(keyword, "elif" | "else" | "endif")
            && let Some(last) = open.last_mut().and_then(|group| group.last_mut())
        {
            last.lexemes = &lexemes[last.directive + 1..index];
        }
        let depends = |finder: &BranchFinder<'_>| {
            let mut outer = open.iter().flatten();
            outer.any(|branch| finder.mentions_arch(&branch.condition))
        };
        match keyword {
            "define" if finder.mentions_arch(&condition) || depends(&finder) => {
                finder.arch_macros.insert(macro_name(&condition).to_owned());
            }
            "endif" => {
                if let Some(group) = open.pop() {
                    finder.choose(&group, &mut choice);
                }
            }
            "if" | "ifdef" | "ifndef" | "elif" | "else" => {
                let branch = Branch {
                    directive: index,
                    keyword,
                    condition,
                    lexemes: &[],
                };
                if keyword.starts_with("if") {
                    open.push(vec![branch]);
                } else if let Some(group) = open.last_mut() {
                    group.push(branch);
                }
            }
            _ => {}
        }
    }
    choice
}

/// The name of a macro, from its definition after the keyword.
fn macro_name(definition: &str) -> &str {
    let name = definition.trim_start();
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    &name[..name.find(|letter| !is_name(letter)).unwrap_or(name.len())]
}

/// The functions and macros that use one of the words outside of the ranges that are left out.
fn gpu_functions(
    source: &str,
    lexemes: &[Lexeme],
    words: &HashSet<String>,
    left_out: &[Range<usize>],
) -> HashSet<String> {
    let text = |lexeme: &Lexeme| &source[lexeme.range.clone()];
    let mut braces = OpenBraces::default();
    let mut functions = HashSet::new();
    for (index, lexeme) in lexemes.iter().enumerate() {
        braces.read(source, lexemes, index);
        if left_out.iter().any(|range| range.contains(&index)) {
            continue;
        }
        if lexeme.kind == LexemeKind::Directive {
            let plain = strip_comments(text(lexeme));
            let body = plain.trim_start_matches(['#', '%', ':']).trim_start();
            if let Some(definition) = body.strip_prefix("define") {
                let name = macro_name(definition);
                if uses_word(definition, words) && !words.contains(name) {
                    functions.insert(name.to_owned());
                }
            }
        } else if lexeme.kind == LexemeKind::Identifier
            && words.contains(text(lexeme))
            && let Some(name) = braces.function()
        {
            functions.insert(name.to_owned());
        }
    }
    functions
}

fn uses_word(text: &str, words: &HashSet<String>) -> bool {
    let lexemes = lex(text);
    let mut found = lexemes.iter().map(|lexeme| &text[lexeme.range.clone()]);
    found.any(|word| words.contains(word))
}

/// Inline PTX, and words of features that a CPU lacks.
fn gpu_words() -> impl Iterator<Item = &'static str> {
    let others = UNSUPPORTED_WORDS.iter().map(|(word, _)| *word);
    PTX_WORDS.into_iter().chain(others)
}

struct BranchFinder<'a> {
    source: &'a str,
    /// The words that a CPU cannot run.
    words: &'a HashSet<String>,
    /// `__CUDA_ARCH__`, and the macros whose values follow from it.
    arch_macros: HashSet<String>,
}

impl BranchFinder<'_> {
    /// The name of a directive that matters here, and the rest of its text.
    fn parse(&self, lexeme: &Lexeme) -> (&'static str, String) {
        let plain = strip_comments(&self.source[lexeme.range.clone()]);
        let body = plain.trim_start_matches(['#', '%', ':']).trim_start();
        let keywords = ["if", "ifdef", "ifndef", "elif", "else", "endif", "define"];
        let keyword = keywords
            .into_iter()
            .find(|keyword| starts_with_directive(body, keyword));
        let keyword = keyword.unwrap_or_default();
        (keyword, body[keyword.len()..].to_owned())
    }

    fn mentions_arch(&self, text: &str) -> bool {
        let lexemes = lex(text);
        let mut words = lexemes.iter().map(|lexeme| &text[lexeme.range.clone()]);
        words.any(|word| self.arch_macros.contains(word))
    }

    /// Chooses the branch of a complete group.
    fn choose(&self, group: &[Branch<'_>], choice: &mut BranchChoice) {
        let depends = |branch: &Branch<'_>| self.mentions_arch(&branch.condition);
        let names_cpu = |branch: &Branch<'_>| branch.condition.contains(CPU);
        if !group.iter().any(depends) || group.iter().any(names_cpu) {
            return;
        }
        let with_ptx: Vec<_> = group.iter().map(|branch| self.has_ptx(branch)).collect();
        let usable: Vec<_> = (group.iter().zip(&with_ptx))
            .map(|(branch, has_ptx)| !has_ptx && self.is_usable(branch))
            .collect();
        let ends_with_else = group.last().is_some_and(|last| last.keyword == "else");
        let returns = !ends_with_else && group.iter().all(|branch| self.returns(branch));
        if !returns && !usable.contains(&true) {
            return;
        }
        let mut replace = |branch: &Branch<'_>, value: &str| {
            let text = match (branch.keyword, value) {
                ("elif", "0") => "#elif 0",
                ("elif", _) => "#elif 1",
                (_, "0") => "#if 0",
                _ => "#if 1",
            };
            choice.replacements.insert(branch.directive, text);
        };
        for (branch, _) in group.iter().zip(&with_ptx).filter(|(_, has_ptx)| **has_ptx) {
            if branch.keyword != "else" {
                replace(branch, "0");
            } else {
                // The last usable branch that depends on the architecture takes its place.
                let mut others = group.iter().zip(&usable).rev();
                let other = others.find(|(other, usable)| **usable && depends(other));
                let Some((other, _)) = other else { continue };
                replace(other, "1");
            }
            let first = branch.directive + 1;
            choice.left_out.push(first..first + branch.lexemes.len());
        }
    }

    fn has_ptx(&self, branch: &Branch<'_>) -> bool {
        branch.lexemes.iter().any(|lexeme| {
            let text = &self.source[lexeme.range.clone()];
            match lexeme.kind {
                LexemeKind::Identifier => self.words.contains(text),
                LexemeKind::Directive => {
                    uses_word(text.trim_start_matches(['#', '%', ':']), self.words)
                }
                _ => false,
            }
        })
    }

    /// Whether a branch has code that does something, or defines macros.
    fn is_usable(&self, branch: &Branch<'_>) -> bool {
        let text = |lexeme: &Lexeme| &self.source[lexeme.range.clone()];
        let stops = branch.lexemes.iter().any(|lexeme| match lexeme.kind {
            LexemeKind::Identifier => STOPS.contains(&text(lexeme)),
            LexemeKind::Directive => self.is_error(text(lexeme)),
            _ => false,
        });
        let has_code = branch
            .lexemes
            .iter()
            .any(|lexeme| lexeme.kind != LexemeKind::Directive || self.parse(lexeme).0 == "define");
        has_code && !stops
    }

    fn is_error(&self, directive: &str) -> bool {
        let plain = strip_comments(directive);
        starts_with_directive(
            plain.trim_start_matches(['#', '%', ':']).trim_start(),
            "error",
        )
    }

    /// Whether the last statement of a branch is a `return`: then the code after the group is the other variant.
    fn returns(&self, branch: &Branch<'_>) -> bool {
        let texts: Vec<_> = branch
            .lexemes
            .iter()
            .map(|lexeme| &self.source[lexeme.range.clone()])
            .collect();
        let Some((&";", rest)) = texts.split_last() else {
            return false;
        };
        let start = rest
            .iter()
            .rposition(|text| matches!(*text, ";" | "{" | "}"));
        rest.get(start.map_or(0, |start| start + 1)) == Some(&"return")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines whose directive is replaced, each with its new text.
    fn chosen(source: &str) -> String {
        let lexemes = lex(source);
        let found = choose_fallbacks(source, &lexemes);
        let mut lines: Vec<_> = found
            .iter()
            .map(|(index, text)| format!("{}:{text}", lexemes[*index].line))
            .collect();
        lines.sort();
        lines.join(" ")
    }

    #[test]
    fn branches_without_inline_ptx_are_chosen() {
        for (source, expected) in [
            (
                "#if __CUDA_ARCH__ >= 800\nasm(\"x\");\n#else\ny = x;\n#endif",
                "1:#if 0",
            ),
            (
                "#ifdef __CUDA_ARCH__\nasm(\"x\");\n#else\ny = x;\n#endif",
                "1:#if 0",
            ),
            (
                "#if __CUDA_ARCH__ >= 900\nasm(\"x\");\n#elif __CUDA_ARCH__ >= 800\nasm(\"y\");\n#else\ny = x;\n#endif",
                "1:#if 0 3:#elif 0",
            ),
            (
                "#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 800\ny = x;\n#else\nasm(\"x\");\n#endif",
                "1:#if 1",
            ),
            (
                "#if __CUDA_ARCH__ >= 800\nasm(\"x\");\nreturn y;\n#endif\nreturn 1;",
                "1:#if 0",
            ),
            (
                "#if __CUDA_ARCH__ >= 800\n#define COPY(a) asm(\"x\")\n#else\n#define COPY(a) f(a)\n#endif",
                "1:#if 0",
            ),
            (
                "#if __CUDA_ARCH__ >= 800\n#define HAS_COPY 1\n#endif\n#ifdef HAS_COPY\nasm(\"x\");\n#else\ny = x;\n#endif",
                "4:#if 0",
            ),
            (
                "struct S { template <int N> void copy() { asm(\"x\"); } };\nvoid all(S s) { s.copy<1>(); }\nvoid f() {\n#if __CUDA_ARCH__ >= 800\nall(s);\n#else\ny = x;\n#endif\n}",
                "4:#if 0",
            ),
            (
                "#define COPY(a) asm(\"x\")\n#if __CUDA_ARCH__ >= 800\nCOPY(a);\n#else\ny = x;\n#endif",
                "2:#if 0",
            ),
            (
                "int copy() {\n#if __CUDA_ARCH__ >= 800\nasm(\"x\");\n#else\ny = x;\n#endif\n}\nvoid f() {\n#if __CUDA_ARCH__ >= 800\ncopy();\n#else\ny = x;\n#endif\n}",
                "2:#if 0",
            ),
            (
                "#if __CUDA_ARCH__ >= 700\nwmma::fill_fragment(c, 0);\n#else\ny = x;\n#endif",
                "1:#if 0",
            ),
        ] {
            assert_eq!(chosen(source), expected, "{source}");
        }
    }

    #[test]
    fn inline_ptx_without_another_variant_is_kept() {
        for source in [
            "#if __CUDA_ARCH__ >= 800\nasm(\"x\");\n#endif",
            "void copy() { asm(\"x\"); }\n#if __CUDA_ARCH__ >= 800\ncopy();\n#else\ncopy();\n#endif",
            "#if __CUDA_ARCH__ >= 800\nasm(\"x\");\n#else\n#endif",
            "#if __CUDA_ARCH__ >= 800\nasm(\"x\");\n#else\n__trap();\n#endif",
            "#if __CUDA_ARCH__ >= 800\nasm(\"x\");\n#else\n#error no\n#endif",
            "#if __CUDA_ARCH__ >= 800\nasm(\"x\");\n#else\nasm(\"y\");\n#endif",
            "#if USE_PTX\nasm(\"x\");\n#else\ny = x;\n#endif\nint a = __CUDA_ARCH__;",
            "#if __CUDA_ARCH__ >= 800 && !defined(KFORGE_CPU)\nasm(\"x\");\n#else\ny = x;\n#endif",
            "#endif\n#else\n#if __CUDA_ARCH__\nasm(",
        ] {
            assert_eq!(chosen(source), "", "{source}");
        }
    }
}
