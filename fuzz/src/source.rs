//! Checks the CPU backend's text processing: the rewriting of sources before they are compiled, and the reading of compiler logs.

use kforge::device::cpu::texts;
use kforge::kernel::plan::{ArgumentType, EntryPoint, TranslationUnit};
use kforge::task::DType;

pub fn source(input: &[u8]) {
    let text = super::lossy_text(input);
    let unit = TranslationUnit {
        source: text.clone().into_owned(),
        constants: vec![("WIDTH".to_owned(), 8), ("LONG".to_owned(), 1 << 40)],
        macros: vec![("UNROLL".to_owned(), 4)],
        entry_points: vec![EntryPoint {
            expression: "f<UNROLL>".to_owned(),
            arguments: vec![ArgumentType::Pointer(DType::Float32), ArgumentType::I64],
            argument_names: Vec::new(),
            line: 1,
        }],
        fast_math: false,
        max_registers: None,
        arch: None,
    };
    for refusal in texts::possible_refusals(&unit) {
        let line = refusal
            .evidence
            .line
            .expect("a refusal of a source has a line");
        super::assert_line(line, &text, &refusal.reason);
    }
    check_line_count(&unit);
    texts::check_expansion(&text);
    let refusal = texts::compile_error(&unit, &text);
    assert!(!refusal.reason.is_empty());
    assert!(
        refusal.reason.len() < 1024,
        "a reason of {} bytes",
        refusal.reason.len()
    );
    assert!(refusal.evidence.log.is_none_or(|log| log.len() < 8192));
}

/// Rewriting keeps the number of lines, because the compiler reports lines of the rewritten text, and changes nothing else.
fn check_line_count(unit: &TranslationUnit) {
    let whole = texts::translation_unit(unit);
    let head = "\n# 1 \"kernel.cu\"\n";
    let tail = "\n# 1 \"launches of the header\"\n";
    let start = whole.find(head).expect("the source starts") + head.len();
    let end = whole.rfind(tail).expect("the source ends");
    let rewritten = &whole[start..end];
    assert_eq!(
        rewritten.matches('\n').count(),
        unit.source.matches('\n').count(),
        "the number of lines changed:\n{rewritten}"
    );
    // Only shared memory, directives, loop conditions, inline PTX and thread-local variables are rewritten.
    let rewritten_words = [
        "__shared__",
        "#",
        "%:",
        "while",
        "for",
        "asm",
        "thread",
        "_Thread_local",
        "_Pragma",
    ];
    if !rewritten_words
        .iter()
        .any(|word| unit.source.contains(word))
    {
        assert_eq!(rewritten, unit.source);
    }
}
