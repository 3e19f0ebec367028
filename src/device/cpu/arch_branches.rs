//! Chooses the branch for other devices where a source selects inline PTX by the GPU's architecture.
//!
//! `#if __CUDA_ARCH__ >= 800`, inline PTX, `#else`, C++, `#endif`: the CPU runs the C++. Code whose only variant is inline PTX
//! stays as it is, because leaving it out would change the results. Text only; `source_checks` makes the edits.

use std::collections::{HashMap, HashSet};

use super::words::PTX_WORDS;
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

/// The directives to replace: the index of each, and its new text.
pub(super) fn choose_fallbacks(source: &str, lexemes: &[Lexeme]) -> HashMap<usize, &'static str> {
    let mut chosen = HashMap::new();
    if !source.contains(ARCH) || !PTX_WORDS.iter().any(|word| source.contains(word)) {
        return chosen;
    }
    let mut finder = BranchFinder {
        source,
        arch_macros: HashSet::from([ARCH.to_owned()]),
    };
    // The branches of every group that is open.
    let mut open: Vec<Vec<Branch<'_>>> = Vec::new();
    for (index, lexeme) in lexemes.iter().enumerate() {
        if lexeme.kind != LexemeKind::Directive {
            continue;
        }
        let (keyword, condition) = finder.parse(lexeme);
        if matches!(keyword, "elif" | "else" | "endif")
            && let Some(last) = open.last_mut().and_then(|group| group.last_mut())
        {
            last.lexemes = &lexemes[last.directive + 1..index];
        }
        let branch = |keyword, condition| Branch {
            directive: index,
            keyword,
            condition,
            lexemes: &[],
        };
        match keyword {
            "if" | "ifdef" | "ifndef" => open.push(vec![branch(keyword, condition)]),
            "elif" | "else" => {
                if let Some(group) = open.last_mut() {
                    group.push(branch(keyword, condition));
                }
            }
            "endif" => {
                if let Some(group) = open.pop() {
                    finder.choose(&group, &mut chosen);
                }
            }
            "define" if finder.mentions_arch(&condition) => {
                finder.add_macro(&condition);
            }
            "define"
                if open
                    .iter()
                    .flatten()
                    .any(|branch| finder.depends_on_arch(branch)) =>
            {
                finder.add_macro(&condition);
            }
            _ => {}
        }
    }
    chosen
}

/// Whether a source has code that only a CPU runs, so that a fault on the CPU may say nothing about a GPU.
pub(crate) fn has_cpu_code(source: &str) -> bool {
    source.contains(CPU) || !choose_fallbacks(source, &lex(source)).is_empty()
}

struct BranchFinder<'a> {
    source: &'a str,
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

    fn depends_on_arch(&self, branch: &Branch<'_>) -> bool {
        self.mentions_arch(&branch.condition)
    }

    /// Adds the macro of a `#define`, given behind the keyword.
    fn add_macro(&mut self, definition: &str) {
        let name = definition.trim_start();
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let end = name.find(|letter| !is_name(letter)).unwrap_or(name.len());
        self.arch_macros.insert(name[..end].to_owned());
    }

    /// Chooses the branch of a complete group.
    fn choose(&self, group: &[Branch<'_>], chosen: &mut HashMap<usize, &'static str>) {
        let depends = group.iter().any(|branch| self.depends_on_arch(branch));
        let names_cpu = |branch: &Branch<'_>| branch.condition.contains(CPU);
        if !depends || group.iter().any(names_cpu) {
            return;
        }
        let with_ptx: Vec<_> = group.iter().map(|branch| self.has_ptx(branch)).collect();
        let Some(last) = group.last() else { return };
        let usable = |index: usize| !with_ptx[index] && self.is_usable(&group[index]);
        let has_fallback = (0..group.len()).any(usable)
            || (last.keyword != "else" && group.iter().all(|branch| self.returns(branch)));
        if !has_fallback {
            return;
        }
        for (branch, has_ptx) in group.iter().zip(&with_ptx) {
            let is_else = branch.keyword == "else";
            if *has_ptx && !is_else {
                let text = if branch.keyword == "elif" {
                    "#elif 0"
                } else {
                    "#if 0"
                };
                chosen.insert(branch.directive, text);
            }
            if *has_ptx && is_else {
                // The last branch without inline PTX that depends on the architecture takes its place.
                let mut others = group.iter().zip(&with_ptx).rev();
                let other = others.find(|(other, has_ptx)| {
                    !**has_ptx && self.is_usable(other) && self.depends_on_arch(other)
                });
                if let Some((other, _)) = other {
                    let text = if other.keyword == "elif" {
                        "#elif 1"
                    } else {
                        "#if 1"
                    };
                    chosen.insert(other.directive, text);
                }
            }
        }
    }

    fn has_ptx(&self, branch: &Branch<'_>) -> bool {
        let text = |lexeme: &Lexeme| &self.source[lexeme.range.clone()];
        branch.lexemes.iter().any(|lexeme| match lexeme.kind {
            LexemeKind::Identifier => PTX_WORDS.contains(&text(lexeme)),
            LexemeKind::Directive => {
                let inner = text(lexeme).trim_start_matches(['#', '%', ':']);
                let mut words = lex(inner).into_iter();
                words.any(|word| PTX_WORDS.contains(&&inner[word.range]))
            }
            _ => false,
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

    /// Whether the last statement of a branch is a `return`: then the code behind the group is the other variant.
    fn returns(&self, branch: &Branch<'_>) -> bool {
        let texts: Vec<_> = branch
            .lexemes
            .iter()
            .map(|lexeme| &self.source[lexeme.range.clone()])
            .collect();
        let Some((&";", rest)) = texts.split_last().map(|(last, rest)| (last, rest)) else {
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
        ] {
            assert_eq!(chosen(source), expected, "{source}");
        }
    }

    #[test]
    fn inline_ptx_without_another_variant_is_kept() {
        for source in [
            "#if __CUDA_ARCH__ >= 800\nasm(\"x\");\n#endif",
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
