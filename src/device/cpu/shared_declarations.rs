//! Rewrites `__shared__` declarations into C++ that takes the memory from the runtime.
//!
//! A static variable becomes a reference into the shared memory of the block, a dynamic one a pointer to its end. At namespace
//! scope a variable stays thread-local and is registered with the runtime. Malformed declarations are left unchanged, so
//! that the compiler reports them.

use std::fmt::Write;

use crate::kernel::lexer::{Lexeme, LexemeKind};

/// One variable of a declaration.
struct Declarator {
    /// The type without `__shared__`, `extern`, `static` and alignment.
    kind: String,
    name: String,
    /// `[32][33]`, or empty.
    dimensions: String,
}

/// The index of the `;` that ends the declaration, or the number of lexemes if there is none.
pub(super) fn declaration_end(source: &str, lexemes: &[Lexeme], start: usize) -> usize {
    let mut depth = 0i32;
    for (index, lexeme) in lexemes.iter().enumerate().skip(start) {
        match &source[lexeme.range.clone()] {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            ";" if depth <= 0 => return index,
            _ => {}
        }
    }
    lexemes.len()
}

/// The replacement for one `__shared__` declaration without its `;`. `None` leaves it to the compiler to report. `count` numbers
/// the variables of a translation unit.
pub(super) fn rewrite_shared(
    source: &str,
    declaration: &[Lexeme],
    at_namespace_scope: bool,
    count: &mut usize,
) -> Option<String> {
    let text = |lexeme: &Lexeme| &source[lexeme.range.clone()];
    // The result is one line, but a directive needs its own line, and a literal over two lines must keep them.
    let fits_on_a_line =
        |lexeme: &Lexeme| lexeme.kind != LexemeKind::Directive && !text(lexeme).contains('\n');
    if !declaration.iter().all(fits_on_a_line) {
        return None;
    }
    let mut rest = Vec::new();
    let (mut is_extern, mut alignment) = (false, String::new());
    let mut index = 0;
    while index < declaration.len() {
        match text(&declaration[index]) {
            "extern" => is_extern = true,
            "static" | "__shared__" => {}
            "alignas" | "__align__" => {
                let close = closing_parenthesis(source, declaration, index + 1)?;
                let wanted = join_lexemes(source, declaration[index + 2..close].iter());
                // Writing to a String cannot fail.
                let _ = write!(alignment, "alignas({wanted}) ");
                index = close;
            }
            _ => rest.push(declaration[index].clone()),
        }
        index += 1;
    }
    let mut result = String::new();
    for declarator in parse_declarators(source, &rest)? {
        let number = *count;
        *count += 1;
        result.push_str(&match (is_extern, at_namespace_scope) {
            (true, _) => dynamic_variable(&declarator, number, at_namespace_scope)?,
            (false, true) => namespace_variable(&declarator),
            (false, false) => static_variable(&declarator, number, &alignment),
        });
    }
    Some(result)
}

/// `T s[]` or `T s[][33]`: a pointer to the elements of the first dimension.
fn dynamic_variable(
    declarator: &Declarator,
    number: usize,
    at_namespace_scope: bool,
) -> Option<String> {
    let Declarator {
        kind,
        name,
        dimensions,
    } = declarator;
    let inner = dimensions.get(dimensions.find(']')? + 1..)?;
    let alias = format!("kforge_shared_type_{number}");
    let (typedef, element) = if inner.trim().is_empty() {
        (String::new(), kind.as_str())
    } else {
        (format!("typedef {kind} {alias}{inner}; "), alias.as_str())
    };
    Some(if at_namespace_scope {
        format!("{typedef}KFORGE_DYNAMIC_SHARED({element}, {name});")
    } else {
        format!(
            "{typedef}{element}* const {name} = static_cast<{element}*>(::kforge::shared_dynamic());"
        )
    })
}

fn namespace_variable(declarator: &Declarator) -> String {
    let Declarator {
        kind,
        name,
        dimensions,
    } = declarator;
    format!("static thread_local {kind} {name}{dimensions}; KFORGE_SHARED_VARIABLE({name});")
}

/// `alignment`: as `alignas(16) `, or empty.
fn static_variable(declarator: &Declarator, number: usize, alignment: &str) -> String {
    let Declarator {
        kind,
        name,
        dimensions,
    } = declarator;
    let alias = format!("kforge_shared_type_{number}");
    let mut text = format!("typedef {kind} {alias}{dimensions}; ");
    let mut bytes = format!("alignof({alias})");
    if !alignment.is_empty() {
        // Only a declaration takes a type as well as a number.
        let aligned = format!("kforge_shared_aligned_{number}");
        // Writing to a String cannot fail.
        let _ = write!(text, "struct {alignment}{aligned} {{ char byte; }}; ");
        bytes = format!("{bytes} > alignof({aligned}) ? {bytes} : alignof({aligned})");
    }
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "static thread_local ::kforge::SharedSlot kforge_shared_slot_{number}; \
         {alias}& {name} = *static_cast<{alias}*>(::kforge::shared_static(kforge_shared_slot_{number}, sizeof({alias}), \
         {bytes}));"
    );
    text
}

/// The index of the parenthesis that closes the one at `open`.
fn closing_parenthesis(source: &str, lexemes: &[Lexeme], open: usize) -> Option<usize> {
    let mut depth = 0i32;
    for (index, lexeme) in lexemes.iter().enumerate().skip(open) {
        match &source[lexeme.range.clone()] {
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

/// The variables of a declaration. `None` if it has an unexpected form.
fn parse_declarators(source: &str, lexemes: &[Lexeme]) -> Option<Vec<Declarator>> {
    let mut kind = String::new();
    let mut result = Vec::new();
    for (order, part) in split_at_commas(source, lexemes).iter().enumerate() {
        let open = first_bracket(source, part);
        let name = open
            .checked_sub(1)
            .map(|index| part[index])
            .filter(|lexeme| lexeme.kind == LexemeKind::Identifier)?;
        if order == 0 {
            kind = join_lexemes(source, part[..open - 1].iter().copied());
            if kind.is_empty() {
                return None;
            }
        }
        result.push(Declarator {
            kind: kind.clone(),
            name: source[name.range.clone()].to_owned(),
            dimensions: join_lexemes(source, part[open..].iter().copied()),
        });
    }
    Some(result)
}

/// Splits at commas outside of all brackets. Angle brackets count too, as in `Pair<int, 2>`.
fn split_at_commas<'l>(source: &str, lexemes: &'l [Lexeme]) -> Vec<Vec<&'l Lexeme>> {
    let (mut round, mut angle) = (0i32, 0i32);
    let mut parts = Vec::new();
    let mut part = Vec::new();
    for lexeme in lexemes {
        match &source[lexeme.range.clone()] {
            "(" | "[" | "{" => round += 1,
            ")" | "]" | "}" => round -= 1,
            "<" if round == 0 => angle += 1,
            ">" if round == 0 => angle -= 1,
            "," if round == 0 && angle == 0 => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(lexeme);
    }
    parts.push(part);
    parts
}

/// Lexemes on one line, spaced as in the source, without comments.
fn join_lexemes<'l>(source: &str, lexemes: impl Iterator<Item = &'l Lexeme>) -> String {
    let mut text = String::new();
    let mut end = None;
    for lexeme in lexemes {
        if end.is_some_and(|end| end != lexeme.range.start) {
            text.push(' ');
        }
        text.push_str(&source[lexeme.range.clone()]);
        end = Some(lexeme.range.end);
    }
    text
}

/// The index of the first `[` outside of other brackets, or the number of lexemes if there is none.
fn first_bracket(source: &str, lexemes: &[&Lexeme]) -> usize {
    let mut depth = 0i32;
    for (index, lexeme) in lexemes.iter().enumerate() {
        match &source[lexeme.range.clone()] {
            "[" if depth == 0 => return index,
            "(" | "{" | "[" => depth += 1,
            ")" | "}" | "]" => depth -= 1,
            _ => {}
        }
    }
    lexemes.len()
}
