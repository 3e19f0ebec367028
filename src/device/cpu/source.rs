//! The translation unit of a candidate: constants, tunables, the source with its `__shared__` declarations rewritten in place,
//! and the entries. Lines in errors stay the kernel file's own.

use std::fmt::Write;

use super::wait_loops::wait_loop_edits;
use crate::kernel::lexer::{Lexeme, LexemeKind, lex};
use crate::kernel::plan::{ArgumentType, TranslationUnit};

/// The C++ text of a unit.
pub(super) fn generate_cpp(unit: &TranslationUnit) -> String {
    // A `__shared__` that a macro hides is not rewritten: one OS thread runs one block at a time, so its own variable will do.
    let mut text =
        String::from("#include \"kforge_cuda.h\"\n#define __shared__ static thread_local\n");
    for (name, value) in &unit.constants {
        // In memory of the text alone: writing to a String cannot fail.
        let kind = if i32::try_from(*value).is_ok() {
            "int"
        } else {
            "long long"
        };
        let _ = writeln!(text, "constexpr {kind} {name} = {value};");
    }
    for (name, value) in &unit.macros {
        let _ = writeln!(text, "#define {name} {value}");
    }
    text.push_str("# 1 \"kernel.cu\"\n");
    text.push_str(&rewrite_source(unit));
    text.push_str("\n# 1 \"launches of the header\"\nKFORGE_ENTRIES_BEGIN\n");
    for (index, entry) in unit.entry_points.iter().enumerate() {
        let types: Vec<_> = entry
            .arguments
            .iter()
            .map(|argument| cpp_type(*argument))
            .collect();
        let _ = writeln!(
            text,
            "# {} \"kernel.cu\"\nKFORGE_ENTRY({index}, ({}), ::kforge::types<{}>)",
            entry.line,
            entry.expression,
            types.join(", ")
        );
    }
    text.push_str("KFORGE_ENTRIES_END\n");
    text
}

fn cpp_type(argument: ArgumentType) -> String {
    match argument {
        ArgumentType::Pointer(dtype) => format!("{}*", dtype.cuda_type()),
        ArgumentType::Scalar(dtype) => dtype.cuda_type().to_owned(),
        ArgumentType::I32 => "int".to_owned(),
        ArgumentType::U32 => "unsigned".to_owned(),
        ArgumentType::I64 => "long long".to_owned(),
        // Refused before anything is compiled.
        ArgumentType::TensorMap => "void".to_owned(),
    }
}

/// The source with shared declarations and unroll pragmas in words that the host's compiler knows.
fn rewrite_source(unit: &TranslationUnit) -> String {
    let source = unit.source.as_str();
    let tokens = lex(source);
    let mut edits: Vec<(std::ops::Range<usize>, String)> = Vec::new();
    let mut scopes = Vec::new();
    let mut statement = 0;
    let mut shared = 0;
    let mut index = 0;
    while index < tokens.len() {
        let token = &tokens[index];
        match (&token.kind, &source[token.range.clone()]) {
            (LexemeKind::Directive, line) => {
                if let Some(replacement) = rewrite_unroll(line, tokens.get(index + 1), unit) {
                    edits.push((token.range.clone(), replacement));
                }
                if statement == index {
                    statement = index + 1;
                }
            }
            (LexemeKind::Symbol, "{") => {
                scopes.push(opens_namespace(source, &tokens[statement..index]));
                statement = index + 1;
            }
            (LexemeKind::Symbol, "}") => {
                scopes.pop();
                statement = index + 1;
            }
            (LexemeKind::Symbol, ";") => statement = index + 1,
            (LexemeKind::Identifier, "__shared__") => {
                let end = declaration_end(source, &tokens, index);
                let at_namespace_scope = scopes.iter().all(|is_namespace| *is_namespace);
                let range = tokens[statement].range.start
                    ..tokens
                        .get(end)
                        .map_or(source.len(), |token| token.range.end);
                if let Some(mut replacement) = rewrite_shared(
                    source,
                    &tokens[statement..end.min(tokens.len())],
                    at_namespace_scope,
                    &mut shared,
                ) {
                    replacement.extend(source[range.clone()].matches('\n'));
                    edits.push((range, replacement));
                }
                index = end;
                statement = end + 1;
            }
            _ => {}
        }
        index += 1;
    }
    edits.extend(wait_loop_edits(source, &tokens));
    edits.sort_by_key(|(range, _)| range.start);
    let mut text = String::with_capacity(source.len() + 1024);
    let mut at = 0;
    for (range, replacement) in edits {
        // A declaration that never closes holds the loops behind it: it was rewritten whole.
        if range.start >= at {
            text.push_str(&source[at..range.start]);
            text.push_str(&replacement);
            at = range.end;
        }
    }
    text.push_str(&source[at..]);
    text
}

/// gcc knows `#pragma unroll` under another name, and wants a literal before a loop.
fn rewrite_unroll(line: &str, next: Option<&Lexeme>, unit: &TranslationUnit) -> Option<String> {
    let words = line
        .strip_prefix('#')?
        .trim_start()
        .strip_prefix("pragma")?
        .trim_start()
        .strip_prefix("unroll")?;
    let count = words
        .trim()
        .trim_start_matches('(')
        .trim_end_matches(')')
        .trim();
    let named = unit
        .macros
        .iter()
        .chain(&unit.constants)
        .find(|(name, _)| name == count)
        .map(|(_, value)| *value);
    let count = count
        .parse()
        .ok()
        .or(named)
        .filter(|count| (1..=65_534).contains(count))?;
    let is_loop = next
        .is_some_and(|token| matches!(&unit.source[token.range.clone()], "for" | "while" | "do"));
    is_loop.then(|| format!("#pragma GCC unroll {count}"))
}

/// `namespace …`, `inline namespace …` or `extern "C"`, and nothing of a function.
fn opens_namespace(source: &str, statement: &[Lexeme]) -> bool {
    let words: Vec<_> = statement
        .iter()
        .filter(|token| token.kind != LexemeKind::Directive)
        .map(|token| &source[token.range.clone()])
        .collect();
    match words.as_slice() {
        ["namespace", ..] | ["inline", "namespace", ..] => true,
        ["extern", language] => language.starts_with('"'),
        _ => false,
    }
}

/// The index of the `;` that ends the declaration, or of the end.
fn declaration_end(source: &str, tokens: &[Lexeme], start: usize) -> usize {
    let mut depth = 0i32;
    for (index, token) in tokens.iter().enumerate().skip(start) {
        match &source[token.range.clone()] {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            ";" if depth <= 0 => return index,
            _ => {}
        }
    }
    tokens.len()
}

/// One `__shared__` declaration without its `;`, in the runtime's words. `None` leaves it for the compiler to report.
fn rewrite_shared(
    source: &str,
    declaration: &[Lexeme],
    at_namespace_scope: bool,
    count: &mut usize,
) -> Option<String> {
    let text = |token: &Lexeme| &source[token.range.clone()];
    // One line is made of it: a directive needs a line of its own, and a literal over two lines has to keep them.
    let is_plain =
        |token: &Lexeme| token.kind != LexemeKind::Directive && !text(token).contains('\n');
    if !declaration.iter().all(is_plain) {
        return None;
    }
    let mut rest = Vec::new();
    let (mut is_extern, mut alignment) = (false, String::from("1"));
    let mut index = 0;
    while index < declaration.len() {
        match text(&declaration[index]) {
            "extern" => is_extern = true,
            "static" | "__shared__" => {}
            "alignas" | "__align__" => {
                let close = closing_parenthesis(source, declaration, index + 1)?;
                alignment = join_tokens(source, declaration[index + 2..close].iter());
                index = close;
            }
            _ => rest.push(declaration[index].clone()),
        }
        index += 1;
    }
    let declarators = parse_declarators(source, &rest)?;
    let mut result = String::new();
    for (kind, name, dimensions) in declarators {
        let number = *count;
        *count += 1;
        let alias = format!("kforge_shared_type_{number}");
        let _ = match (is_extern, at_namespace_scope) {
            (true, _) => {
                // `T s[]`, or `T s[][33]`: a pointer to what the first brackets hold.
                let inner = dimensions.get(dimensions.find(']')? + 1..)?;
                let element = if inner.trim().is_empty() {
                    kind.clone()
                } else {
                    alias.clone()
                };
                let typedef = if inner.trim().is_empty() {
                    String::new()
                } else {
                    format!("typedef {kind} {alias}{inner}; ")
                };
                if at_namespace_scope {
                    write!(result, "{typedef}KFORGE_DYNAMIC_SHARED({element}, {name});")
                } else {
                    write!(
                        result,
                        "{typedef}{element}* const {name} = static_cast<{element}*>(::kforge::shared_dynamic());"
                    )
                }
            }
            (false, true) => write!(
                result,
                "static thread_local {kind} {name}{dimensions}; KFORGE_SHARED_VARIABLE({name});"
            ),
            (false, false) => write!(
                result,
                "typedef {kind} {alias}{dimensions}; static thread_local ::kforge::SharedSlot kforge_shared_slot_{number}; \
                 {alias}& {name} = *static_cast<{alias}*>(::kforge::shared_static(kforge_shared_slot_{number}, sizeof({alias}), \
                 alignof({alias}) > ({alignment}) ? alignof({alias}) : ({alignment})));"
            ),
        };
    }
    Some(result)
}

/// The index of the bracket that closes the one at `open`.
fn closing_parenthesis(source: &str, tokens: &[Lexeme], open: usize) -> Option<usize> {
    let mut depth = 0i32;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match &source[token.range.clone()] {
            "(" => depth += 1,
            ")" => {
                depth -= 1;
                if depth == 0 {
                    return Some(index);
                }
            }
            _ if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Type, name and dimensions of every declarator.
fn parse_declarators(source: &str, tokens: &[Lexeme]) -> Option<Vec<(String, String, String)>> {
    // Split at commas outside of brackets; angle brackets count until the first name is known.
    let (mut round, mut angle) = (0i32, 0i32);
    let mut parts = vec![Vec::new()];
    for token in tokens {
        match &source[token.range.clone()] {
            "(" | "[" | "{" => round += 1,
            ")" | "]" | "}" => round -= 1,
            "<" if round == 0 => angle += 1,
            ">" if round == 0 => angle -= 1,
            "," if round == 0 && angle == 0 => {
                parts.push(Vec::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut()?.push(token);
    }
    let mut kind = String::new();
    let mut result = Vec::new();
    for (order, part) in parts.iter().enumerate() {
        let open = first_bracket(source, part);
        let name = open
            .checked_sub(1)
            .map(|index| part[index])
            .filter(|token| token.kind == LexemeKind::Identifier)?;
        if order == 0 {
            // Without what stood between the words: those that were taken out (`extern`, `__shared__`), comments, lines.
            let mut end = None;
            for token in &part[..open - 1] {
                if end.is_some_and(|end| end != token.range.start) {
                    kind.push(' ');
                }
                kind.push_str(&source[token.range.clone()]);
                end = Some(token.range.end);
            }
            if kind.is_empty() {
                return None;
            }
        }
        let dimensions = join_tokens(source, part[open..].iter().copied());
        result.push((
            kind.clone(),
            source[name.range.clone()].to_owned(),
            dimensions,
        ));
    }
    Some(result)
}

/// Tokens in one line, spaced as in the source, without comments.
fn join_tokens<'t>(source: &str, tokens: impl Iterator<Item = &'t Lexeme>) -> String {
    let mut text = String::new();
    let mut end = None;
    for token in tokens {
        if end.is_some_and(|end| end != token.range.start) {
            text.push(' ');
        }
        text.push_str(&source[token.range.clone()]);
        end = Some(token.range.end);
    }
    text
}

/// The index of the first `[` that is in no other bracket, or of the end.
fn first_bracket(source: &str, tokens: &[&Lexeme]) -> usize {
    let mut depth = 0i32;
    for (index, token) in tokens.iter().enumerate() {
        match &source[token.range.clone()] {
            "[" if depth == 0 => return index,
            "(" | "{" | "[" => depth += 1,
            ")" | "}" | "]" => depth -= 1,
            _ => {}
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(source: &str) -> String {
        let unit = TranslationUnit {
            source: source.to_owned(),
            constants: vec![("WIDTH".to_owned(), 8)],
            macros: vec![("UNROLL".to_owned(), 4)],
            entry_points: Vec::new(),
            fast_math: false,
            max_registers: None,
            arch: None,
        };
        rewrite_source(&unit)
    }

    #[test]
    fn shared_declarations_are_placed_in_the_arena() {
        insta::assert_snapshot!(rewritten("void f() {\n  __shared__ float a[32][33], b;\n}"), @r"
        void f() {
          typedef float kforge_shared_type_0[32][33]; static thread_local ::kforge::SharedSlot kforge_shared_slot_0; kforge_shared_type_0& a = *static_cast<kforge_shared_type_0*>(::kforge::shared_static(kforge_shared_slot_0, sizeof(kforge_shared_type_0), alignof(kforge_shared_type_0) > (1) ? alignof(kforge_shared_type_0) : (1)));typedef float kforge_shared_type_1; static thread_local ::kforge::SharedSlot kforge_shared_slot_1; kforge_shared_type_1& b = *static_cast<kforge_shared_type_1*>(::kforge::shared_static(kforge_shared_slot_1, sizeof(kforge_shared_type_1), alignof(kforge_shared_type_1) > (1) ? alignof(kforge_shared_type_1) : (1)));
        }
        ");
        insta::assert_snapshot!(rewritten("void f() { extern __shared__ __align__(16) unsigned char raw[]; }"), @"void f() { unsigned char* const raw = static_cast<unsigned char*>(::kforge::shared_dynamic()); }");
        insta::assert_snapshot!(rewritten("namespace n { extern __shared__ float s[]; __shared__ Pair<int, 2> t[WIDTH]; }"), @"namespace n { KFORGE_DYNAMIC_SHARED(float, s); static thread_local Pair<int, 2> t[WIDTH]; KFORGE_SHARED_VARIABLE(t); }");
    }

    #[test]
    fn namespace_scope_is_recognised() {
        for (source, at_namespace_scope) in [
            (
                "extern \"C\" __global__ void f() { __shared__ float s[4]; }",
                false,
            ),
            (
                "inline __device__ void f() { __shared__ float s[4]; }",
                false,
            ),
            (
                "#define A\nnamespace { struct S { void f() { __shared__ float s[4]; } }; }",
                false,
            ),
            ("extern \"C\" { __shared__ float s[4]; }", true),
            ("inline namespace a { __shared__ float s[4]; }", true),
            ("__shared__ float s[4];", true),
        ] {
            assert_eq!(
                rewritten(source).contains("KFORGE_SHARED_VARIABLE"),
                at_namespace_scope,
                "{source}"
            );
        }
        let record = rewritten("void f() { __shared__ struct { float a[2]; int b, c; } s, t[3]; }");
        assert!(
            record.contains("kforge_shared_type_0& s = ")
                && record.contains("kforge_shared_type_1[3]; ")
                && record.contains("& t = "),
            "{record}"
        );
    }

    #[test]
    fn line_numbers_are_preserved() {
        let source = "void f() {\n  __shared__ float\n    a[32];\n  int x;\n}\n#pragma unroll UNROLL\nfor (;;) {}\n#pragma unroll\nfor (;;) {}\n#pragma unroll N\nfor (;;) {}";
        let result = rewritten(source);
        assert_eq!(result.lines().count(), source.lines().count());
        assert_eq!(result.lines().nth(3), Some("  int x;"));
        assert_eq!(result.lines().nth(5), Some("#pragma GCC unroll 4"));
        assert_eq!(result.lines().nth(7), Some("#pragma unroll"));
    }

    #[test]
    fn multi_line_declarations_preserve_line_numbers() {
        for (source, words) in [
            (
                "void f() {\n  __shared__ float a[32 // width\n  ][33 /* x\n */];\n  int x;\n}",
                "[32 ][33 ]; static",
            ),
            (
                "void f() {\n  __shared__ alignas(\n16 // why\n) float a[32];\n  int x;\n}",
                "> (16) ?",
            ),
            (
                "void f() {\n  __shared__\n#ifdef A\n  float a[4];\n#endif\n  int x;\n}",
                "  __shared__\n#ifdef A\n  float a[4];",
            ),
            (
                "float é\n#pragma unroll 4\nfor __shared__ x;\n  int x;\n",
                "#pragma GCC unroll 4\nfor __shared__ x;",
            ),
            (
                "void f() {\n  __shared__ float a[sizeof(\"\\\n\")];\n  int x;\n}",
                "__shared__ float a[sizeof(\"\\\n\")];",
            ),
        ] {
            let result = rewritten(source);
            assert!(result.contains(words), "{result}");
            let line = |text: &str| text.lines().position(|line| line == "  int x;");
            assert_eq!(line(&result), line(source), "{result}");
        }
    }

    #[test]
    fn loops_in_an_unclosed_declaration_are_not_rewritten() {
        for inside in ["while (*x == 0) {\n}\n", "é\nwhile (*x == 0);\n"] {
            let source = format!("void f() {{\n  __shared__ float a[ {{\n{inside}}}\n");
            let result = rewritten(&source);
            assert_eq!(result.matches('\n').count(), source.matches('\n').count());
            assert!(!result.contains("polled"), "{result}");
        }
    }

    #[test]
    fn malformed_source_does_not_panic() {
        for source in [
            "__shared__",
            "__shared__;",
            "void f() { __shared__ [3]; }",
            "}} __shared__ alignas( x",
            "extern __shared__ float s;",
        ] {
            rewritten(source);
        }
    }
}
