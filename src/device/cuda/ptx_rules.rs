//! Finds what a kernel's PTX must not contain: declarations that outlive a launch or that the compiler does not know of, files, and
//! calls of functions outside of the kernel. Inline PTX can put each of them anywhere.
//!
//! Reads statements (`ptx_tokens`), never lines. Compiles nothing; `cubin` reads what the assembler makes of the text.

use super::ptx_tokens::{Ambiguity, Statement, Token, statements, tokenize};
use crate::device::refusal::{DEVICE_HEAP, MANAGED_MEMORY};

/// External functions that a kernel may call: they need no memory and launch nothing.
pub(super) const ALLOWED_CALLS: [&str; 2] = ["vprintf", "__assertfail"];
/// Directives that may begin a statement of inline PTX: they declare what ends with the function or the block.
const LOCAL_DIRECTIVES: [&str; 8] = [
    ".reg",
    ".local",
    ".shared",
    ".param",
    ".pragma",
    ".branchtargets",
    ".calltargets",
    ".callprototype",
];
/// Directives that the compiler writes inside of functions.
const FUNCTION_DIRECTIVES: [&str; 1] = [".loc"];
/// Directives that no instruction has as a modifier, and that inline PTX must not contain anywhere.
const FILE_DIRECTIVES: [&str; 11] = [
    ".func",
    ".entry",
    ".visible",
    ".common",
    ".alias",
    ".section",
    ".file",
    ".loc",
    ".version",
    ".target",
    ".address_size",
];
/// Declarations of textures, surfaces and samplers.
const TEXTURES: [&str; 3] = [".texref", ".surfref", ".samplerref"];
/// Why inline PTX that is not made of whole blocks is refused.
const OPEN_BLOCK: &str = "inline PTX closes a block that it has not opened, or leaves one open";
/// Words of a source that put inline PTX into the compiled PTX.
const ASSEMBLY: &[&str] = &["asm", "__asm__", "__asm"];

/// A forbidden construct.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ForbiddenCode {
    pub(super) reason: String,
    /// The words of a source that can cause it.
    pub(super) words: &'static [&'static str],
}

impl ForbiddenCode {
    fn in_assembly(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            words: ASSEMBLY,
        }
    }

    fn ambiguous(Ambiguity(what): Ambiguity) -> Self {
        Self::in_assembly(format!("inline PTX contains {what}, which is not accepted"))
    }

    fn call(name: &str) -> Self {
        let is_heap = matches!(name, "malloc" | "free");
        Self {
            reason: if is_heap {
                DEVICE_HEAP.to_owned()
            } else {
                format!("calls of the external function `{name}` are not accepted")
            },
            words: if is_heap {
                &[
                    "malloc", "free", "new", "delete", "alloca", "asm", "__asm__", "__asm",
                ]
            } else {
                ASSEMBLY
            },
        }
    }
}

/// The first forbidden construct of a PTX text.
pub(super) fn find_forbidden(ptx: &str) -> Option<ForbiddenCode> {
    let tokens = match tokenize(ptx) {
        Ok(tokens) => tokens,
        Err(ambiguity) => return Some(ForbiddenCode::ambiguous(ambiguity)),
    };
    let statements = statements(&tokens);
    let found = statements.iter().find_map(check_statement);
    found
        .or_else(|| check_blocks(&statements))
        .or_else(|| check_order(&statements))
}

/// Refuses a variable that is declared after a function. The compiler declares all variables before the functions, so this one is from
/// inline PTX that has closed its function, even if it forges the compiler's comments.
fn check_order(statements: &[Statement<'_, '_>]) -> Option<ForbiddenCode> {
    let mut outer = statements.iter().filter(|statement| statement.depth == 0);
    outer.find(|statement| statement.tokens.len() == 1 && statement.has("{"))?;
    let is_variable = |statement: &&Statement<'_, '_>| {
        let first = statement.first().filter(|first| first.is_directive());
        let is_other = |first: &Token<'_>| [".section", ".file", ".loc"].contains(&first.text);
        first.is_some_and(|first| !is_other(first))
            && !statement.has(".func")
            && !statement.has(".entry")
    };
    let variable = outer.find(is_variable)?;
    let text = variable.first().map_or("", |first| first.text);
    Some(ForbiddenCode::in_assembly(format!(
        "inline PTX may not contain `{text}`: declare variables and functions in C++"
    )))
}

/// The reason to refuse an external symbol that the assembler's result needs.
pub(super) fn refuse_symbol(name: &str) -> Option<ForbiddenCode> {
    (!ALLOWED_CALLS.contains(&name)).then(|| ForbiddenCode::call(name))
}

fn check_statement(statement: &Statement<'_, '_>) -> Option<ForbiddenCode> {
    if statement.has(".managed") {
        return Some(ForbiddenCode {
            reason: MANAGED_MEMORY.to_owned(),
            words: &["__managed__", "asm", "__asm__", "__asm"],
        });
    }
    if statement.has(".include") {
        return Some(ForbiddenCode::in_assembly("PTX may not include files"));
    }
    if let Some(kind) = TEXTURES.iter().find(|kind| statement.has(kind)) {
        return Some(ForbiddenCode::in_assembly(format!(
            "inline PTX may not declare `{kind}`"
        )));
    }
    if statement.has(".alias") {
        return Some(ForbiddenCode::in_assembly(
            "inline PTX may not contain `.alias`",
        ));
    }
    check_external(statement).or_else(|| check_place(statement))
}

/// Refuses declarations of what another module defines.
fn check_external(statement: &Statement<'_, '_>) -> Option<ForbiddenCode> {
    if !statement.has(".extern") || statement.has(".shared") {
        return None;
    }
    match function_name(statement) {
        Some(name) if ALLOWED_CALLS.contains(&name) => None,
        Some(name) => Some(ForbiddenCode::call(name)),
        None => Some(ForbiddenCode::in_assembly(
            "PTX may not contain variables of other modules",
        )),
    }
}

/// The name of the function that a statement declares.
fn function_name<'p>(statement: &Statement<'_, 'p>) -> Option<&'p str> {
    let at = statement
        .tokens
        .iter()
        .position(|token| token.is(".func"))?;
    let mut parentheses = 0;
    // The list of returned values comes before the name, and so may attributes.
    let name = statement.tokens[at + 1..].iter().find(|token| {
        parentheses += i32::from(token.is("(")) - i32::from(token.is(")"));
        parentheses == 0 && !token.is(")") && !token.is_directive()
    });
    name.map(|token| token.text)
}

/// Refuses a declaration where the compiler would not write it.
fn check_place(statement: &Statement<'_, '_>) -> Option<ForbiddenCode> {
    let refused = |token: &Token<'_>| {
        Some(ForbiddenCode::in_assembly(format!(
            "inline PTX may not contain `{}`: declare variables and functions in C++",
            token.text
        )))
    };
    let is_of_file = |token: &&Token<'_>| {
        token.assembly.is_some() && FILE_DIRECTIVES.iter().any(|directive| token.is(directive))
    };
    if let Some(token) = statement.tokens.iter().find(is_of_file) {
        return refused(token);
    }
    let first = statement.first().filter(|first| first.is_directive())?;
    let in_assembly = first.assembly.is_some();
    let is_within = in_assembly || statement.depth > 0;
    let is_local = LOCAL_DIRECTIVES.contains(&first.text)
        || !in_assembly && FUNCTION_DIRECTIVES.contains(&first.text)
        || first.is(".extern") && statement.has(".shared");
    if is_within && !is_local {
        refused(first)
    } else {
        None
    }
}

/// Refuses inline PTX that closes a block that it has not opened, leaves one open, or goes on in the compiler's code.
fn check_blocks(statements: &[Statement<'_, '_>]) -> Option<ForbiddenCode> {
    // The open inline PTX: its number, and the depth before it.
    let mut open: Option<(u32, i32)> = None;
    for statement in statements {
        let number = statement.first().and_then(|first| first.assembly);
        let is_whole = statement
            .tokens
            .iter()
            .all(|token| token.assembly == number);
        if open.is_some_and(|(_, depth)| statement.depth < depth) || !is_whole {
            return Some(ForbiddenCode::in_assembly(OPEN_BLOCK));
        }
        if open.map(|(number, _)| number) != number {
            if open.is_some_and(|(_, depth)| statement.depth != depth) {
                return Some(ForbiddenCode::in_assembly(OPEN_BLOCK));
            }
            open = number.map(|number| (number, statement.depth));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PTX of a kernel with this inline PTX.
    fn kernel(assembly: &str) -> String {
        format!(
            ".version 9.0\n.target sm_90\n.address_size 64\n\n.visible .entry k(\n.param .u64 k_param_0\n)\n{{\n\t.reg .b32 %r<2>;\n\
            \t.loc\t1 2 3\n\t// begin inline asm\n\t{assembly}\n\t// end inline asm\n\tret;\n\n}}\n\t.file\t1 \"/usr/.include/kernel.cu\"\n"
        )
    }

    #[test]
    fn declarations_are_found_wherever_they_are() {
        for assembly in [
            ".global .attribute(.managed) .align 4 .u32 count;",
            "{ .global .attribute/**/( .managed ) .u32 count; }",
            ".file 77 \"a.cu\" .global.attribute(.managed) .u32 count;",
            "mov.u32 %r1, 0; .include \"/etc/hostname\"",
            "{ .extern .func (.param .b64 r) malloc (.param .b64 s); }",
            "{ .extern/**/.func (.param .b64 r)\nmalloc(.param .b64 s); }",
            "{ .extern .func .noreturn free (.param .b64 s); }",
            "{ .extern .global .u32 other; }",
            "{ .global .align 4 .u32 hidden_count; }",
            "// .file\n.const .u32 x = 3;",
            "{ .weak .global .u32 x; }",
            "{ .common .global .u32 x; }",
            ".alias a, b;",
            ".section .x { .b8 1 }",
            "{ .global .texref t; }",
            "{ .global .surfref t; }",
            "#define x y",
            ".pragma \"a\\\"; .global .u32 x; \";",
            "ret;\n}\n.visible .func f()\n{\n",
            "ret;\n}\n.func f()\n{\n",
            "ret;\n}\n.visible .entry other()\n{\n",
            "ret; } {",
            "{",
            "}",
            "// end inline asm\nret; } .global .u32 x; .func f() { // begin inline asm",
            "\n\t// end inline asm\n\tret; } .const .u32 x; .func f() {\n\t// begin inline asm\n",
        ] {
            assert!(find_forbidden(&kernel(assembly)).is_some(), "{assembly}");
        }
        let heap = find_forbidden(&kernel(
            "{ .extern .func (.param .b64 r) malloc (.param .b64 s); }",
        ));
        assert!(heap.unwrap().reason.contains("use `scratch`"));
    }

    #[test]
    fn usual_assembly_is_accepted() {
        for assembly in [
            "",
            "ld.global.nc.L1::no_allocate.f32 %r1, [%rd1];",
            "{ .reg .pred p; setp.eq.u32 p, %r1, 0; @p bra DONE; bra DONE; DONE: }",
            "{\n.reg .b64 state;\nWAIT: mbarrier.try_wait.parity.shared::cta.b64 p, [%r1], %r2;\n@!p bra WAIT;\n}",
            "{ .shared .align 16 .b8 tile[64]; { .reg .b32 a; mov.b32 a, {%h1, %h2}; } }",
            "// a comment about .global\nret;",
            "/* } .global */ fence.proxy.async;",
            ".pragma \"nounroll\";",
            "ld.weak.global.u32 %r1, [%rd1];",
        ] {
            assert_eq!(find_forbidden(&kernel(assembly)), None, "{assembly}");
        }
        let module = ".extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);\n.extern .shared .align 16 .b8 raw[];\n\
            .global .align 1 .b8 $str[4] = {37, 100, 10};\n.global .align 4 .u32 managed;\n.const .u32 table[2] = {1, 2};\n.weak .func f() {\n\t.local .b8 x[4];\n// demoted variable\n\t.shared .b8 y[4];\n}\n";
        assert_eq!(find_forbidden(module), None);
    }
}
