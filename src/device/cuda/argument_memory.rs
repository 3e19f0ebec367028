//! Finds writes to the memory of a kernel's arguments. What a launch leaves there can reach the next one, and no other check sees it.
//!
//! Follows addresses through the registers of each function of the PTX, from where the address of a parameter is taken to stores and
//! atomics. Does not follow addresses through memory or calls: `docs/trust.md` says so.

use std::collections::BTreeSet;

use super::ptx_tokens::{Statement, Token, TokenKind, statements, tokenize};

/// Instructions that write through an address.
const WRITES: [&str; 5] = ["st", "atom", "red", "multimem", "stmatrix"];
/// Instructions whose result is never an address of a parameter, even if an operand is one.
const READS: [&str; 4] = ["ld", "ldu", "prefetch", "setp"];

/// Whether a function of the PTX writes through the address of a parameter of a kernel.
pub(super) fn writes_arguments(ptx: &str) -> bool {
    // `ptx_rules` refuses text that cannot be split.
    let tokens = tokenize(ptx).unwrap_or_default();
    let statements = statements(&tokens);
    let mut start = 0;
    while start < statements.len() {
        let body = function_length(&statements[start..]);
        if writes_in(&statements[start..start + body]) {
            return true;
        }
        start += body;
    }
    false
}

/// The number of statements up to the next function.
fn function_length(statements: &[Statement<'_, '_>]) -> usize {
    let is_head = |statement: &Statement<'_, '_>| {
        statement.depth == 0 && (statement.has(".entry") || statement.has(".func"))
    };
    let next = statements.iter().skip(1).position(is_head);
    next.map_or(statements.len(), |next| next + 1)
}

fn writes_in(body: &[Statement<'_, '_>]) -> bool {
    let parameters = body.first().map(parameter_names).unwrap_or_default();
    let mut addresses: BTreeSet<&str> = BTreeSet::new();
    // Loops carry addresses backwards, so look again until nothing is added.
    loop {
        let before = addresses.len();
        for statement in body.iter().skip(1) {
            add_addresses(statement, &parameters, &mut addresses);
        }
        if addresses.len() == before {
            break;
        }
    }
    body.iter().any(|statement| {
        let instruction = Instruction::of(statement);
        WRITES.contains(&instruction.name)
            && !statement.has(".param")
            && instruction
                .operands
                .iter()
                .any(|word| addresses.contains(word))
    })
}

/// The parameters that a kernel's head declares. Those of other functions are values, not memory of the launch.
fn parameter_names<'p>(head: &Statement<'_, 'p>) -> BTreeSet<&'p str> {
    if !head.has(".entry") {
        return BTreeSet::new();
    }
    let words = head.tokens.windows(2);
    words
        .filter(|pair| is_variable(&pair[0]) && matches!(pair[1].text, "," | ")" | "["))
        .map(|pair| pair[0].text)
        .collect()
}

fn is_name(token: &Token<'_>) -> bool {
    token.kind == TokenKind::Word && !token.is_directive()
}

/// Whether a token is a name and not a number.
fn is_variable(token: &Token<'_>) -> bool {
    is_name(token) && !token.text.starts_with(|first: char| first.is_ascii_digit())
}

/// An instruction with the names among its operands, in order.
struct Instruction<'p> {
    name: &'p str,
    operands: Vec<&'p str>,
}

impl<'p> Instruction<'p> {
    fn of(statement: &Statement<'_, 'p>) -> Self {
        let mut words = statement.tokens;
        // A predicate: `@p` or `@!p`.
        if words.first().is_some_and(|first| first.is("@")) {
            words = &words[1..];
            let negated = usize::from(words.first().is_some_and(|first| first.is("!")));
            words = words.get(negated + 1..).unwrap_or_default();
        }
        let names = words.iter().skip(1).filter(|token| is_name(token));
        Self {
            name: words.first().map_or("", |first| first.text),
            operands: names.map(|token| token.text).collect(),
        }
    }
}

/// Adds the result of an instruction if one of its operands is the address of a parameter, or comes from one.
fn add_addresses<'p>(
    statement: &Statement<'_, 'p>,
    parameters: &BTreeSet<&'p str>,
    addresses: &mut BTreeSet<&'p str>,
) {
    let instruction = Instruction::of(statement);
    if WRITES.contains(&instruction.name) || READS.contains(&instruction.name) {
        return;
    }
    let Some((result, sources)) = instruction.operands.split_first() else {
        return;
    };
    let is_address = |word: &&str| parameters.contains(*word) || addresses.contains(*word);
    if sources.iter().any(is_address) {
        addresses.insert(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(body: &str) -> String {
        format!(
            ".version 9.0\n.visible .entry k(\n.param .u64 k_param_0,\n.param .align 64 .b8 k_param_1[128]\n)\n.maxntid 64, 1, 1\n{{\n{body}\nret;\n}}\n"
        )
    }

    #[test]
    fn writes_through_the_address_of_a_parameter_are_found() {
        for body in [
            "mov.u64 %rd1, k_param_0; cvta.param.u64 %rd2, %rd1; st.u32 [%rd2+64], %r1;",
            "cvta.param.u64 %rd2, k_param_1; add.s64 %rd3, %rd2, 128; @%p1 st.volatile.v2.u32 [%rd3], {%r1, %r2};",
            "mov.b64 %rd1, k_param_1; atom.add.u32 %r1, [%rd1], 1;",
            "mov.b64 %rd1, k_param_1; @!%p2 red.global.add.u32 [%rd1+4], 1;",
            // Backwards around a loop.
            "$L: st.u32 [%rd5], %r1; mov.u64 %rd5, %rd4; mov.u64 %rd4, k_param_0; bra $L;",
            // The address itself is stored, so that another instruction can load it.
            "mov.u64 %rd1, k_param_0; st.local.u64 [%rd9], %rd1;",
        ] {
            assert!(writes_arguments(&kernel(body)), "{body}");
        }
    }

    #[test]
    fn reads_of_parameters_are_accepted() {
        for body in [
            "ld.param.u64 %rd1, [k_param_0]; cvta.to.global.u64 %rd2, %rd1; st.global.u32 [%rd2], %r1;",
            "mov.b64 %rd1, k_param_1; cvta.param.u64 %rd2, %rd1; prefetch.tensormap [%rd2]; ld.global.u64 %rd3, [%rd4]; st.global.u32 [%rd3], %r1;",
            "mov.b64 %rd1, k_param_1; cvta.param.u64 %rd2, %rd1; cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd2, {%r1, %r2}], [%r3];",
            "add.s64 %rd1, %rd4, 64; st.global.u32 [%rd1], %r1;",
            "mov.b64 %rd1, k_param_1; { .param .b64 param0; st.param.b64 [param0+0], %rd1; call.uni f, (param0); }",
        ] {
            assert!(!writes_arguments(&kernel(body)), "{body}");
        }
        // Another function has its own registers.
        let other = ".func f(\n.param .b64 f_param_0\n)\n{\nst.u32 [%rd1], %r1;\nret;\n}\n";
        let both = format!("{}{other}", kernel("mov.u64 %rd1, k_param_0;"));
        assert!(!writes_arguments(&both));
    }
}
