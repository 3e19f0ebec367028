//! Writes the C++ text that checks whether each launch passes what its function takes. A kernel file cannot change this text.
//!
//! The text follows the source, where the types are known. It declares everything in namespaces whose names contain a hash of the
//! source, so no source can contain them. It undefines every word that it uses, so that none is a macro. The expression of a launch is
//! compiled once; the checks and NVRTC's mangled name use the result, so they cannot differ. Compiles nothing.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::base::Digest;
use crate::device::argument_checks::{CHECK_NAMESPACE, LAUNCH_CHECKS, passed_types};
use crate::kernel::lexer::{LexemeKind, lex};
use crate::kernel::plan::{EntryPoint, TranslationUnit};

/// Ends a comment or macro that the source continues with a backslash.
pub(super) const END_OF_SOURCE: &str = "\n\n";

/// Ends a declaration that the source leaves open.
const END_OF_DECLARATION: &str = ";";

/// Takes the result of a launch's expression as its argument. Never defined, so there is no definition that a source could replace.
const LAUNCH: &str = "template <auto> struct Launch;";

/// Functions whose names are the first and the last of those that NVRTC returns, so that a name that a source adds is noticed.
const FRAME: [&str; 2] = ["first", "last"];

/// Gives the function of a launch and its type.
const LAUNCHED: &str = "template <class T> struct Launched;
template <template <auto> class Launch, auto Function> struct Launched<Launch<Function>> {
    using type = typename Bare<decltype(Function)>::type;
    static constexpr auto function() { return Function; }
};
template <int Launch> struct Checked;
";

/// The names in kforge's text around one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CheckNames {
    hash: Digest,
}

impl CheckNames {
    /// The names for a kernel file.
    pub(super) fn of(source: &str) -> Self {
        Self {
            hash: Digest::of(source),
        }
    }

    /// The namespace of the checks.
    pub(super) fn checks(&self) -> String {
        format!("{CHECK_NAMESPACE}_{}", self.hash)
    }

    /// The namespace of the launches' functions.
    fn launches(&self) -> String {
        format!("{CHECK_NAMESPACE}_launches_{}", self.hash)
    }

    /// Declarations before the source of the two functions of the frame. They are never defined, so they leave no code.
    pub(super) fn frame_declarations(&self) -> String {
        let frame = FRAME.map(|name| format!("__global__ void {name}();"));
        format!("namespace {} {{ {} }}\n", self.checks(), frame.join(" "))
    }

    /// All expressions whose mangled names NVRTC returns: the first of the frame, one for each launch, the last of the frame.
    pub(super) fn expressions(&self, launches: usize) -> Vec<String> {
        let framed = |name: &str| format!("::{}::{name}", self.checks());
        let functions = (0..launches).map(|launch| self.launched_function(launch));
        let mut all: Vec<_> = functions.collect();
        all.insert(0, framed(FRAME[0]));
        all.push(framed(FRAME[1]));
        all
    }

    /// The mangled names of the launches' functions. `None` if the source has added names of its own with `#pragma nv_mangled_name`: then
    /// NVRTC returns them in another order.
    pub(super) fn functions(&self, mut names: Vec<String>) -> Option<Vec<String>> {
        let namespace = self.checks();
        let is_framed = |name: &String, expected: &str| {
            let (outer, inner) = (namespace.len(), expected.len());
            *name == format!("_ZN{outer}{namespace}{inner}{expected}Ev")
        };
        let last = names.pop().filter(|name| is_framed(name, FRAME[1]));
        let first = names.first().filter(|name| is_framed(name, FRAME[0]));
        (last.is_some() && first.is_some()).then(|| names.split_off(1))
    }

    /// The expression whose mangled name is that of a launch's function. It exists only if the checks have been compiled.
    fn launched_function(&self, launch: usize) -> String {
        format!("::{}::Checked<{launch}>::function()", self.checks())
    }
}

/// The text that follows a source.
pub(super) fn launch_checks(unit: &TranslationUnit) -> String {
    let names = CheckNames::of(&unit.source);
    let launches = names.launches();
    let launch_words = "namespace using template auto struct";
    // An unclosed brace is reported at the last line of the kernel file.
    let last = unit.source.lines().count().max(1);
    let mut text = format!(
        "{}#line {last} \"kernel.cu\"\n{END_OF_DECLARATION} namespace {launches} {{ {LAUNCH} }}\n",
        without_macros(launch_words)
    );
    for (index, entry) in unit.entry_points.iter().enumerate() {
        // The expression may contain macros of the source, which may define others with `_Pragma`.
        text.push_str(&without_macros(launch_words));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{}namespace {launches} {{ using launch_{index} = Launch<(&{})>; }}",
            line_of(entry),
            entry.expression
        );
    }
    let checks = checks(unit, &names);
    let last = format!("#line {last} \"kernel.cu\"\n");
    text + &without_macros(&checks) + &checks + &last
}

/// The text after the last expression: nothing in it is from the source.
fn checks(unit: &TranslationUnit, names: &CheckNames) -> String {
    let (checks, launches) = (names.checks(), names.launches());
    let own = |text: &str| text.replace(CHECK_NAMESPACE, &checks);
    let mut text = format!("#line 1 \"launch_checks.h\"\n{}", own(LAUNCH_CHECKS));
    let _ = writeln!(text, "namespace {checks} {{\n{LAUNCHED}}}");
    for (index, entry) in unit.entry_points.iter().enumerate() {
        let _ = writeln!(
            text,
            "{}static_assert(::{checks}::Entry<{index}, {}, ::{checks}::Launched<::{launches}::launch_{index}>::type>::count < 65536, \"\");",
            line_of(entry),
            own(&passed_types(entry)),
        );
    }
    for index in 0..unit.entry_points.len() {
        let _ = writeln!(
            text,
            "namespace {checks} {{ template <> struct Checked<{index}> : Launched<::{launches}::launch_{index}> {{}}; }}"
        );
    }
    text
}

fn line_of(entry: &EntryPoint) -> String {
    format!("#line {} \"kernel.cu\"\n", entry.line)
}

/// Directives that undefine all words of a text as macros. No word in kforge's text may be a macro.
fn without_macros(text: &str) -> String {
    let mut words = BTreeSet::new();
    for lexeme in lex(text) {
        let lexeme_text = &text[lexeme.range];
        match lexeme.kind {
            LexemeKind::Identifier => {
                words.insert(lexeme_text);
            }
            LexemeKind::Directive => words.extend(names_in(lexeme_text)),
            _ => {}
        }
    }
    words
        .into_iter()
        .map(|word| format!("#undef {word}\n"))
        .collect()
}

fn names_in(directive: &str) -> impl Iterator<Item = &str> {
    let parts = directive.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    parts.filter(|word| word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(source: &str) -> TranslationUnit {
        TranslationUnit {
            source: source.to_owned(),
            constants: Vec::new(),
            macros: Vec::new(),
            entry_points: vec![EntryPoint {
                expression: "k<4>".to_owned(),
                arguments: Vec::new(),
                argument_names: Vec::new(),
                line: 7,
            }],
            fast_math: false,
            max_registers: None,
            arch: None,
        }
    }

    #[test]
    fn names_of_another_order_are_refused() {
        let names = CheckNames::of("x");
        let framed = |name: &str| format!("_ZN45{}{}{name}Ev", names.checks(), name.len());
        assert_eq!(names.checks().len(), 45);
        let (first, last) = (framed("first"), framed("last"));
        let found =
            |list: &[&str]| names.functions(list.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(
            found(&[&first, "_Z1kv", "j", &last]).unwrap(),
            ["_Z1kv", "j"]
        );
        for list in [
            &[first.as_str(), "_Z1kv"][..],
            &["_Z1kv", "_Z1kv", &last],
            &[&last, "_Z1kv", &first],
            &[&first],
            &[],
        ] {
            assert_eq!(found(list), None, "{list:?}");
        }
        assert_eq!(names.expressions(1).len(), 3);
    }

    #[test]
    fn names_depend_on_the_source_and_every_word_is_freed_of_macros() {
        let source = "__global__ void k() {}";
        let text = launch_checks(&unit(source));
        let names = CheckNames::of(source);
        assert_ne!(names, CheckNames::of("__global__ void k() { }"));
        assert!(text.contains("#line 7 \"kernel.cu\"\nnamespace kforge_check_launches_"));
        assert!(!text.contains("kforge_check::"));
        let (_, behind) = text.rsplit_once("Launch<(&k<4>)>; }\n").unwrap();
        let is_text = |line: &&str| !line.starts_with('#');
        let (directives, checks): (Vec<_>, Vec<_>) =
            behind.lines().partition(|line| !is_text(line));
        for word in checks
            .iter()
            .flat_map(|line| names_in(line.split("//").next().unwrap_or("")))
        {
            let directive = format!("#undef {word}");
            assert!(directives.contains(&directive.as_str()), "{word}");
        }
        // Nothing in it can close a group that the source has left open.
        assert!(!text.contains("#endif") && !text.contains("#el"));
    }
}
