//! Finds calls of the device's heap (`malloc`, `new`, …) in a compiled kernel, which both devices refuse with the same words.
//!
//! As on a GPU, only code that a kernel can reach counts: the object file's relocations say what refers to what.

use std::collections::HashSet;

use object::{
    Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SymbolIndex, SymbolSection,
};

use crate::device::Refusal;
use crate::device::refusal::DEVICE_HEAP;
use crate::kernel::lexer::{LexemeKind, lex};
use crate::verdict::Status;

/// The functions of C that allocate or free memory.
const C_FUNCTIONS: [&str; 9] = [
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "free",
    "aligned_alloc",
    "posix_memalign",
    "memalign",
    "strdup",
];
/// The beginnings of the symbols of `new`, `new[]`, `delete` and `delete[]`.
const HEAP_OPERATORS: [&str; 4] = ["_Znw", "_Zna", "_Zdl", "_Zda"];
/// What these functions are in a source.
const OPERATOR_WORDS: [&str; 2] = ["new", "delete"];
/// The table of the launches' kernels (`runtime/entry.h`), where a process begins to run them.
const ENTRIES: &str = "kforge_entries";

/// The refusal of a compiled kernel that can reach a call of the heap.
pub(super) fn refuse_heap_calls(object: &[u8], source: &str) -> anyhow::Result<Option<Refusal>> {
    let calls_heap = can_reach_heap(&object::File::parse(object)?)?;
    Ok(calls_heap.then(|| match first_line(source) {
        Some(line) => Refusal::at_line(Status::Rejected, line, DEVICE_HEAP),
        None => Refusal::new(Status::Rejected, DEVICE_HEAP),
    }))
}

/// Whether the entries can reach a function of the heap.
fn can_reach_heap(file: &object::File<'_>) -> anyhow::Result<bool> {
    let mut waiting: Vec<SectionIndex> = Vec::new();
    for symbol in file.symbols() {
        if symbol.name()? == ENTRIES
            && let Some(section) = symbol.section_index()
        {
            waiting.push(section);
        }
    }
    let mut seen: HashSet<SectionIndex> = waiting.iter().copied().collect();
    while let Some(section) = waiting.pop() {
        for (_, relocation) in file.section_by_index(section)?.relocations() {
            let section = match relocation.target() {
                RelocationTarget::Symbol(symbol) => match target_of(file, symbol)? {
                    Target::Heap => return Ok(true),
                    Target::Section(section) => section,
                    Target::Elsewhere => continue,
                },
                RelocationTarget::Section(section) => section,
                _ => continue,
            };
            if seen.insert(section) {
                waiting.push(section);
            }
        }
    }
    Ok(false)
}

/// What a relocation refers to.
enum Target {
    Heap,
    Section(SectionIndex),
    /// The runtime or the C library.
    Elsewhere,
}

fn target_of(file: &object::File<'_>, index: SymbolIndex) -> anyhow::Result<Target> {
    let symbol = file.symbol_by_index(index)?;
    Ok(match symbol.section() {
        SymbolSection::Section(section) => Target::Section(section),
        SymbolSection::Undefined if is_heap_function(symbol.name()?) => Target::Heap,
        _ => Target::Elsewhere,
    })
}

fn is_heap_function(symbol: &str) -> bool {
    C_FUNCTIONS.contains(&symbol) || HEAP_OPERATORS.iter().any(|start| symbol.starts_with(start))
}

/// The first line of a source that names one of the functions.
fn first_line(source: &str) -> Option<u32> {
    let mut lexemes = lex(source).into_iter();
    let found = lexemes.find(|lexeme| {
        let text = &source[lexeme.range.clone()];
        match lexeme.kind {
            LexemeKind::Identifier => C_FUNCTIONS.contains(&text) || OPERATOR_WORDS.contains(&text),
            LexemeKind::Directive => C_FUNCTIONS.iter().any(|name| text.contains(name)),
            _ => false,
        }
    });
    found.map(|lexeme| lexeme.line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_the_heap_are_recognised() {
        for name in ["malloc", "free", "_Znwm", "_ZdlPvm", "_ZnamSt11align_val_t"] {
            assert!(is_heap_function(name), "{name}");
        }
        for name in ["kforge_malloc", "memcpy", "_Z3newi", "_ZN3new4callEv"] {
            assert!(!is_heap_function(name), "{name}");
        }
        let source = "// malloc\nint renew;\n#define GET(n) \\\n  malloc(n)\nnew int;\n";
        assert_eq!(first_line(source), Some(3));
        assert_eq!(first_line("int x;"), None);
    }
}
