//! Device code for nvcc: the judged source, once for each program, in a namespace of its own.
//!
//! NVRTC compiles a kernel file alone; nvcc compiles it together with host code and with its other programs. So the directives come
//! first, outside of any namespace, which includes every header under the source's own conditions. Then each program follows in
//! its namespace, with the constants and macros that the judge gave it, and takes all its macros back. Line numbers are those of the
//! kernel file. Compiles nothing.

use std::fmt::Write;

use super::names::is_keyword;
use super::plan::{HostPlan, Program};
use super::refusal::refuse_line;
use crate::base::Failure;
use crate::device::cuda::omitted_headers;
use crate::kernel::lexer::{Lexeme, LexemeKind, lex};
use crate::kernel::syntax::{Syntax, declares_at_namespace_scope};

/// Macros that tell NVRTC from nvcc: code that depends on them is not the judged code.
const COMPILER_MACROS: [&str; 3] = ["__CUDACC_RTC__", "__NVCC__", "__NVCOMPILER"];

/// A macro of the export: a pragma in which macros are expanded.
const PRAGMA: &str = "KFORGE_PRAGMA";

/// The integer types as the judge's compiler has them: 64-bit ones are `long long`.
const TYPES: &str = "using int64_t = long long; using uint64_t = unsigned long long; using intptr_t = long long;
using uintptr_t = unsigned long long; using intmax_t = long long; using uintmax_t = unsigned long long;
";

/// The device code of all programs. `launch_functions` is put behind each source, where its macros still hold.
///
/// # Errors
/// A usage failure if nvcc would compile other code than was judged.
pub(super) fn device_text(plan: &HostPlan<'_>, launch_functions: &str) -> Result<String, Failure> {
    let source = plan.kernel.text.as_str();
    let lexemes = lex(source);
    check_source(plan, &lexemes)?;
    let (directives, macros) = directives(source, &lexemes);
    let annotated = with_device_functions(source, &lexemes);
    let tunables = plan.programs.iter().flat_map(|one| &one.unit.macros);
    let mut names: Vec<&str> = tunables.map(|(name, _)| name.as_str()).collect();
    names.extend(macros.iter().map(String::as_str));
    let annotated = with_expanded_pragmas(&annotated, &names);
    let freed: Vec<&str> = FREED
        .iter()
        .copied()
        .filter(|name| macros.iter().all(|own| own != name))
        .filter(|name| declares_at_namespace_scope(source, name))
        .collect();
    // Writing to a String cannot fail, so the results of `write!` are ignored.
    let mut text = String::new();
    if annotated.contains(PRAGMA) {
        let _ = writeln!(
            text,
            "#define {PRAGMA}(text) {PRAGMA}_OF(text)\n#define {PRAGMA}_OF(text) _Pragma(#text)"
        );
    }
    for (index, program) in plan.programs.iter().enumerate() {
        text.push_str(&omitted_headers(&program.unit));
        push_tunables(&mut text, program);
        text.push_str(&directives);
        pop(&mut text, program, &macros);
        let _ = writeln!(text, "\nnamespace kforge_{}_program_{index} {{", plan.name);
        text.push_str(TYPES);
        for name in &freed {
            let _ = writeln!(text, "#pragma push_macro(\"{name}\")\n#undef {name}");
        }
        for (name, value) in &program.unit.constants {
            let kind = i32::try_from(*value).map_or("long long", |_| "int");
            let _ = writeln!(text, "constexpr {kind} {name} = {value};");
        }
        push_tunables(&mut text, program);
        let _ = writeln!(text, "#line 1 \"{}.kforge.cu\"", plan.name);
        text.push_str(&annotated);
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let _ = writeln!(text, "#line 1 \"{}.launches.cu\"", plan.name);
        text.push_str(launch_functions);
        text.push_str("}\n");
        pop(&mut text, program, &macros);
        for name in &freed {
            let _ = writeln!(text, "#pragma pop_macro(\"{name}\")");
        }
    }
    Ok(text)
}

/// Macros of the host's headers that a source may declare as something else.
const FREED: [&str; 5] = ["INFINITY", "NAN", "M_PI", "HUGE_VALF", "MAXFLOAT"];

fn push_tunables(text: &mut String, program: &Program) {
    for (name, value) in &program.unit.macros {
        let _ = writeln!(text, "#pragma push_macro(\"{name}\")\n#undef {name}");
        let _ = writeln!(text, "#define {name} {value}");
    }
}

/// Takes back the macros of the source and the tunables.
fn pop(text: &mut String, program: &Program, macros: &[String]) {
    for name in macros {
        let _ = writeln!(text, "#undef {name}");
    }
    for (name, _) in program.unit.macros.iter().rev() {
        let _ = writeln!(text, "#pragma pop_macro(\"{name}\")");
    }
}

/// The directives of a source that decide what is included, and the macros that it defines.
fn directives(source: &str, lexemes: &[Lexeme]) -> (String, Vec<String>) {
    let mut text = String::new();
    let mut macros: Vec<String> = Vec::new();
    for lexeme in lexemes {
        if lexeme.kind != LexemeKind::Directive {
            continue;
        }
        let directive = &source[lexeme.range.clone()];
        let body = directive.trim_start().trim_start_matches('#').trim_start();
        let word = body.split(|letter: char| !letter.is_ascii_alphanumeric());
        match word.into_iter().next().unwrap_or_default() {
            "define" => {
                let rest = body["define".len()..].trim_start();
                let end =
                    rest.find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
                let name = &rest[..end.unwrap_or(rest.len())];
                if !name.is_empty() && macros.iter().all(|known| known != name) {
                    macros.push(name.to_owned());
                }
            }
            "include" | "undef" | "if" | "ifdef" | "ifndef" | "elif" | "else" | "endif" => {}
            _ => continue,
        }
        text.push_str(directive.trim_end());
        text.push('\n');
    }
    (text, macros)
}

/// The source with `__device__` before functions without an annotation: the judge's compiler takes them for device code, nvcc for
/// host code. Lines stay the same.
fn with_device_functions(source: &str, lexemes: &[Lexeme]) -> String {
    let syntax = Syntax::parse(source);
    let mut places: Vec<usize> = Vec::new();
    for function in syntax.functions() {
        let head = function.node.start_byte()..function.declarator.start_byte();
        let words = lexemes.iter().filter(|lexeme| {
            lexeme.kind == LexemeKind::Identifier && head.contains(&lexeme.range.start)
        });
        let mut words = words.map(|lexeme| &source[lexeme.range.clone()]);
        // A name in capitals is a macro, which may have the annotation.
        let is_annotated = words.any(|word| {
            ["__device__", "__global__", "__host__", "constexpr"].contains(&word)
                || word.len() > 1 && word.chars().all(|letter| !letter.is_ascii_lowercase())
        });
        if !is_annotated {
            places.push(function.node.start_byte());
        }
    }
    let mut text = source.to_owned();
    for place in places.into_iter().rev() {
        text.insert_str(place, "__device__ ");
    }
    text
}

/// The source with `_Pragma` in place of each `#pragma unroll` that names a macro: NVRTC expands such macros, nvcc does not. Lines stay
/// the same.
fn with_expanded_pragmas(source: &str, macros: &[&str]) -> String {
    let mut text = source.to_owned();
    for lexeme in lex(source).iter().rev() {
        let directive = &source[lexeme.range.clone()];
        let body = directive.trim_start_matches('#').trim_start();
        let pragma = body.strip_prefix("pragma").unwrap_or_default().trim_start();
        if lexeme.kind != LexemeKind::Directive || !pragma.starts_with("unroll") {
            continue;
        }
        let pragma = pragma.split("//").next().unwrap_or_default().trim_end();
        let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let mut words = pragma.split(|letter| !is_word(letter)).skip(1);
        if words.any(|word| macros.contains(&word)) {
            let end = lexeme.range.start + directive.trim_end().len();
            text.replace_range(lexeme.range.start..end, &format!("{PRAGMA}({pragma})"));
        }
    }
    text
}

/// What would make nvcc compile other code, or no code.
fn check_source(plan: &HostPlan<'_>, lexemes: &[Lexeme]) -> Result<(), Failure> {
    let source = plan.kernel.text.as_str();
    let text = |index: usize| {
        let lexeme = lexemes.get(index);
        lexeme.map_or("", |lexeme| &source[lexeme.range.clone()])
    };
    for (index, lexeme) in lexemes.iter().enumerate() {
        let line = lexeme.line;
        let found = COMPILER_MACROS
            .into_iter()
            .find(|name| text(index).contains(name) && lexeme.kind != LexemeKind::Literal);
        if let Some(name) = found {
            return Err(refuse_line(
                line,
                format!("`{name}`: nvcc would compile other code than was judged"),
            ));
        }
        let is_extern_c = text(index) == "extern" && text(index + 1) == "\"C\"";
        if is_extern_c && plan.programs.len() > 1 {
            return Err(refuse_line(
                line,
                "`extern \"C\"`: the kernel has variants, and two functions cannot have one name; remove it",
            ));
        }
        let is_scope = text(index) == ":" && text(index + 1) == ":";
        let before = index.checked_sub(1).map_or("", &text);
        let is_word =
            |text: &str| text.ends_with(|last: char| last.is_ascii_alphanumeric() || last == '_');
        // `return ::f()` begins a name, `a::f()` continues one.
        let is_qualified = is_word(before) && !is_keyword(before);
        let is_global = is_scope && !is_qualified && !matches!(before, ">" | ":");
        let name = text(index + 2);
        if is_global && declares_at_namespace_scope(source, name) {
            return Err(refuse_line(
                line,
                format!("`::{name}`: the export puts the source in a namespace; write `{name}`"),
            ));
        }
    }
    Ok(())
}
