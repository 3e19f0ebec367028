//! Names that a source may not use as they are: those of the runtime and of the sanitizers' calls, attributes that switch instrumentation
//! off or reach the assembler, and macros and built-ins with another value in each build.
//!
//! A source that knows its build could behave well only in the builds that inspect it. So these words are renamed in a source, and macros
//! that differ are not defined. Renaming refuses nothing: an unknown attribute has no effect, and a name of the source itself is renamed
//! everywhere. Text only.

use std::fmt::Write;

use crate::kernel::lexer::{LexemeKind, lex, strip_comments};

/// Namespaces and symbols of the runtime and of the generated text.
const RUNTIME: [&str; 7] = [
    "kforge",
    "kforge_check",
    "kforge_entries",
    "kforge_entry_count",
    "kforge_launch",
    "kforge_memmove",
    "kforge_memset",
];
/// The beginnings of the names of calls that only the instrumented builds have, and the beginning of all C++ symbols.
const CALLS: [&str; 4] = ["__tsan_", "__asan_", "__ubsan_", "_Z"];
/// Attributes that switch instrumentation or optimisation of a function; that make a symbol optional, so that a program can look whether it
/// exists; that run a function before the first launch; or whose text reaches the assembler as it is, so that it may hold instructions.
/// Without leading and closing underscores.
const ATTRIBUTES: [&str; 16] = [
    "alias",
    "constructor",
    "destructor",
    "ifunc",
    "init_priority",
    "no_address_safety_analysis",
    "no_sanitize",
    "no_sanitize_address",
    "no_sanitize_thread",
    "no_sanitize_undefined",
    "optimize",
    "section",
    "symver",
    "target_clones",
    "weak",
    "weakref",
];
/// Built-ins whose value depends on the optimisation or on the instrumentation.
const BUILTINS: [&str; 4] = [
    "__builtin_dynamic_object_size",
    "__builtin_object_size",
    "__has_extension",
    "__has_feature",
];
/// It asks whether the optimiser knows a value, and may always return 0.
const CONSTANT_TEST: &str = "__builtin_constant_p";
/// Macros that some builds define and others do not, by their flags. A test lists those of the installed compiler.
const OF_BUILDS: [&str; 14] = [
    "__ASSOCIATIVE_MATH__",
    "__FAST_MATH__",
    "__GCC_IEC_559",
    "__GCC_IEC_559_COMPLEX",
    "__NO_INLINE__",
    "__NO_SIGNED_ZEROS__",
    "__RECIPROCAL_MATH__",
    "__SANITIZE_ADDRESS__",
    "__SANITIZE_HWADDRESS__",
    "__SANITIZE_THREAD__",
    "__STDC_IEC_559__",
    "__STDC_IEC_559_COMPLEX__",
    "__STDC_IEC_60559_BFP__",
    "__STDC_IEC_60559_COMPLEX__",
];
/// What a renamed word begins with.
pub(super) const RENAMED_PREFIX: &str = "kforge_renamed_";

/// The entries behind a source, whose macros could change every word: without these macros, and with `KFORGE_ENTRY` defined only there.
pub(super) const ENTRY_DEFINITIONS: &str = "#define KFORGE_ENTRIES_BEGIN extern \"C\" const ::kforge::Entry kforge_entries[] = {
#define KFORGE_ENTRY(index, expression, ...) {[](const void* const* arguments) { ::kforge_launch::Caller<__VA_ARGS__>::call(expression, arguments); }, ::kforge_check::Entry<index, __VA_ARGS__, decltype(&expression)>::count},
#define KFORGE_ENTRIES_END }; extern \"C\" const unsigned kforge_entry_count = sizeof(kforge_entries) / sizeof(kforge_entries[0]);
";
/// Names of argument types, which `passed_types` writes.
const TYPE_NAMES: [&str; 17] = [
    "BoolConstant",
    "FloatConstant",
    "IntegerConstant",
    "IntegerValue",
    "NullPointer",
    "__half",
    "__nv_bfloat16",
    "__nv_fp8_e4m3",
    "__nv_fp8_e5m2",
    "bool",
    "char",
    "double",
    "float",
    "int",
    "long",
    "short",
    "types",
];

/// The word that replaces a word of a source; `None` if the word stays.
pub(super) fn renamed(word: &str) -> Option<String> {
    is_reserved(word).then(|| format!("{RENAMED_PREFIX}{word}"))
}

/// Whether a renamed word belongs to kforge or to a build. All other renamed words are attributes; a source may use their names for
/// anything.
pub(super) fn is_own(word: &str) -> bool {
    is_reserved(word) && !is_attribute(word)
}

/// Whether a source would learn its build by this word, or reach the runtime.
fn is_reserved(word: &str) -> bool {
    RUNTIME.contains(&word)
        || CALLS.iter().any(|start| word.starts_with(start))
        || BUILTINS.contains(&word)
        || OF_BUILDS.contains(&word)
        || word == CONSTANT_TEST
        || is_attribute(word)
}

fn is_attribute(word: &str) -> bool {
    let plain = word
        .strip_prefix("__")
        .and_then(|rest| rest.strip_suffix("__"));
    ATTRIBUTES.contains(&plain.unwrap_or(word))
}

/// Whether a word that the preprocessor made is refused. The macros of the headers contain `kforge` and no other reserved word.
pub(super) fn is_refused_when_made(word: &str) -> bool {
    is_reserved(word) && word != "kforge" && !OF_BUILDS.contains(&word)
}

/// The first reserved word of a directive that a line break splits, so that the words of the text do not show it.
pub(super) fn split_word(directive: &str) -> Option<String> {
    let joined = strip_comments(directive);
    let words = |text: &str| -> Vec<String> {
        let body = text.trim_start_matches(['#', '%', ':']);
        lex(body)
            .into_iter()
            .filter(|lexeme| lexeme.kind == LexemeKind::Identifier)
            .map(|lexeme| body[lexeme.range].to_owned())
            .collect()
    };
    let plain = words(&directive.replace('\\', " "));
    let mut made = words(&joined).into_iter();
    made.find(|word| is_reserved(word) && !plain.contains(word))
}

/// Directives in front of a source: no macro says which build compiles it.
pub(super) fn directives_before_source() -> String {
    let constant = renamed(CONSTANT_TEST).unwrap_or_default();
    undefinitions(OF_BUILDS) + &format!("#define {constant}(...) 0\n")
}

/// Directives behind a source: none of its macros changes a word of the entries.
pub(super) fn directives_behind_source() -> String {
    let words = lex(ENTRY_DEFINITIONS);
    let directives = words
        .iter()
        .map(|lexeme| &ENTRY_DEFINITIONS[lexeme.range.clone()]);
    let mut names: Vec<&str> = directives
        .flat_map(|line| {
            line.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'))
        })
        .filter(|word| word.starts_with(|letter: char| letter.is_ascii_alphabetic()))
        .filter(|word| !["C", "define", "expression", "index"].contains(word))
        .chain(TYPE_NAMES)
        .chain(["signed", "unsigned"])
        .collect();
    names.sort_unstable();
    names.dedup();
    undefinitions(names) + ENTRY_DEFINITIONS
}

fn undefinitions<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let mut text = String::new();
    for name in names {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "#undef {name}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::process::Command;

    use super::super::compiler::find_compiler;
    use super::super::compiler_flags::compile_flags;
    use super::*;
    use crate::device::Build;

    #[test]
    fn reserved_words_are_renamed() {
        for word in [
            "kforge",
            "__tsan_read4",
            "_ZN6kforge4failEv",
            "__weak__",
            "no_sanitize",
            "__builtin_constant_p",
            "__SANITIZE_THREAD__",
        ] {
            assert_eq!(renamed(word), Some(format!("kforge_renamed_{word}")));
        }
        for word in [
            "kforge_softmax",
            "KFORGE_CPU",
            "weaker",
            "__zero",
            "optimizer",
        ] {
            assert_eq!(renamed(word), None, "{word}");
        }
        assert!(is_own("kforge") && !is_own("weak"));
        assert_eq!(
            split_word("#define __SANI\\\nTIZE_THREAD__ 1").as_deref(),
            Some("__SANITIZE_THREAD__")
        );
        assert_eq!(split_word("#define ROWS \\\n  kforge"), None);
    }

    #[test]
    fn entries_follow_undefined_names() {
        let text = directives_behind_source();
        for name in [
            "extern",
            "const",
            "kforge",
            "KFORGE_ENTRY",
            "unsigned",
            "decltype",
            "sizeof",
        ] {
            let line = format!("#undef {name}\n");
            let at = text.find(&line).unwrap_or_else(|| panic!("{name}: {text}"));
            assert!(at < text.find("#define").unwrap());
        }
    }

    /// The macros of all builds are the same behind the directives.
    #[test]
    fn no_macro_differs_between_builds() {
        // Without a compiler there is nothing to compare.
        let Ok(compiler) = find_compiler() else {
            return;
        };
        let file = tempfile::Builder::new().suffix(".cpp").tempfile().unwrap();
        std::fs::write(file.path(), directives_before_source()).unwrap();
        let mut lists = BTreeMap::new();
        for build in [Build::Fast, Build::Bounds, Build::Race] {
            for fast_math in [false, true] {
                let mut command = Command::new(&compiler.path);
                command.args(compile_flags(build, fast_math));
                let output = command
                    .args(["-dM", "-E"])
                    .arg(file.path())
                    .output()
                    .unwrap();
                if output.status.success() {
                    let mut lines: Vec<_> = String::from_utf8_lossy(&output.stdout)
                        .lines()
                        .map(str::to_owned)
                        .collect();
                    lines.sort();
                    lists.insert((build.name(), fast_math), lines);
                }
            }
        }
        let expected = &lists[&(Build::Fast.name(), false)];
        for (build, list) in &lists {
            let differing: Vec<_> = (list.iter().filter(|line| !expected.contains(line)))
                .chain(expected.iter().filter(|line| !list.contains(line)))
                .collect();
            assert!(differing.is_empty(), "{build:?}: {differing:?}");
        }
    }
}
