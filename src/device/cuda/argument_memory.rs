//! Finds uses of the memory of a kernel's arguments that could connect launches: writes, which a later launch may find, and reads of what
//! lies next to the arguments.
//!
//! `argument_addresses` follows the addresses. An address that is stored counts as a write. A read at an address that is computed while
//! the kernel runs is accepted: an honest kernel copies a tensor map so. Compiles nothing.

use super::argument_addresses::{Address, AddressMap, Function, Instruction};
use super::ptx_rules::ForbiddenCode;
use super::ptx_tokens::{Statement, statements, tokenize};

/// Instructions that write through an address.
const WRITES: [&str; 8] = [
    "st",
    "atom",
    "red",
    "multimem",
    "stmatrix",
    "tensormap",
    "discard",
    "wmma.store",
];
/// Instructions that read through an address, and whose result is none.
const READS: [&str; 4] = ["ld", "ldu", "ldmatrix", "wmma.load"];
const WRITTEN: &str = "the kernel writes to the memory of its arguments";
const READ_BEYOND: &str = "the kernel reads memory next to its arguments";
const UNKNOWN_CALL: &str =
    "the kernel passes the address of an argument to a function that the PTX does not name";

/// The first use of the memory of arguments that is refused.
pub(super) fn find_argument_accesses(ptx: &str) -> Option<ForbiddenCode> {
    // `ptx_rules` refuses text that cannot be split.
    let tokens = tokenize(ptx).unwrap_or_default();
    let statements = statements(&tokens);
    let functions = Function::all(&statements);
    let map = AddressMap::follow(&functions);
    let mut all = functions.iter().enumerate();
    let reason = all.find_map(|(index, function)| {
        if map.passes_to_unknown(index) {
            return Some(UNKNOWN_CALL);
        }
        let mut body = function.body.iter();
        body.find_map(|statement| find_access(&map, index, function, statement))
    })?;
    Some(ForbiddenCode {
        reason: reason.to_owned(),
        words: &["asm", "__asm__", "__asm", "__grid_constant__"],
    })
}

/// Why a statement is refused.
fn find_access(
    map: &AddressMap<'_>,
    index: usize,
    function: &Function<'_, '_>,
    statement: &Statement<'_, '_>,
) -> Option<&'static str> {
    let instruction = Instruction::of(statement);
    let known = |word: &str| map.address(index, word);
    let is_write = WRITES.contains(&instruction.name.as_str()) && !statement.has(".param");
    if is_write
        && instruction
            .operands
            .iter()
            .any(|word| known(word).is_some())
    {
        return Some(WRITTEN);
    }
    // A tensor copy names its tensor map by an address; another copy has no business with arguments.
    let is_copy = instruction.name == "cp" && !statement.has(".tensor");
    if is_copy
        && instruction
            .operands
            .iter()
            .any(|word| known(word).is_some())
    {
        let is_to_global = statement.has(".global") && !statement.has(".prefetch");
        return Some(if is_to_global { WRITTEN } else { READ_BEYOND });
    }
    if !READS.contains(&instruction.name.as_str()) {
        return None;
    }
    let bytes = function.parameter_bytes().max(map.widest_entry());
    let mut places = instruction.places(statement).into_iter();
    let is_beyond = places.any(|(word, offset)| match known(word) {
        Some(Address::Offset(start)) => !is_within(start.saturating_add(offset), bytes),
        // A kernel may copy a tensor map word by word.
        Some(Address::Computed) => false,
        None => function.is_own_parameter(word) && !is_within(offset, bytes),
    });
    is_beyond.then_some(READ_BEYOND)
}

/// Whether an offset from a parameter may lie among the parameters, which take `bytes` bytes.
fn is_within(offset: i64, bytes: i64) -> bool {
    (-bytes..bytes).contains(&offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(body: &str) -> String {
        format!(
            ".version 9.0\n.visible .entry k(\n.param .u64 k_param_0,\n.param .align 64 .b8 k_param_1[128]\n)\n.maxntid 64, 1, 1\n{{\n{body}\nret;\n}}\n"
        )
    }

    fn reason(ptx: &str) -> Option<String> {
        find_argument_accesses(ptx).map(|found| found.reason)
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
            // Other instructions that write.
            "mov.b64 %rd1, k_param_1; cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r3], 16;",
            "mov.b64 %rd1, k_param_1; cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd1], [%r3], 16;",
            "mov.b64 %rd1, k_param_1; wmma.store.d.sync.aligned.row.m16n16k16.f32 [%rd1], {%f1, %f2}, %r1;",
            "mov.b64 %rd1, k_param_1; tensormap.replace.tile.global_address.global.b1024.b64 [%rd1], %rd3;",
            "mov.b64 %rd1, k_param_1; discard.global.L2 [%rd1], 128;",
            // Through halves of the address, and bit by bit.
            "mov.b64 %rd1, k_param_1; mov.b64 {%r1, %r2}, %rd1; mov.b64 %rd2, {%r3, %r2}; st.u32 [%rd2], %r1;",
            "mov.b64 %rd1, k_param_1; and.b64 %rd2, %rd1, 1; setp.ne.s64 %p1, %rd2, 0; selp.b64 %rd3, 1, 0, %p1; st.u32 [%rd3], %r1;",
            "mov.b64 %rd1, k_param_1; setp.ne.s64 %p1, %rd1, 0; @%p1 or.b64 %rd3, %rd3, 1; st.u32 [%rd3], %r1;",
        ] {
            assert_eq!(reason(&kernel(body)).as_deref(), Some(WRITTEN), "{body}");
        }
    }

    #[test]
    fn reads_beyond_the_parameters_are_found() {
        for body in [
            "mov.b64 %rd1, k_param_0; cvta.param.u64 %rd2, %rd1; ld.u64 %rd3, [%rd2+4096];",
            "mov.b64 %rd1, k_param_0; ld.u64 %rd3, [%rd1+-512];",
            "ld.param.u64 %rd3, [k_param_0+4096];",
            "mov.b64 %rd1, k_param_1; cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1], 4096, [%r2];",
        ] {
            let found = reason(&kernel(body));
            assert!(found.is_some(), "{body}");
            assert!(
                body.contains("cp.") || found.as_deref() == Some(READ_BEYOND),
                "{body}"
            );
        }
    }

    #[test]
    fn usual_accesses_are_accepted() {
        for body in [
            "ld.param.u64 %rd1, [k_param_0]; cvta.to.global.u64 %rd2, %rd1; st.global.u32 [%rd2], %r1;",
            "ld.param.v2.b64 {%rd1, %rd2}, [k_param_1+64]; st.global.u32 [%rd2], %r1;",
            "mov.b64 %rd1, k_param_1; cvta.param.u64 %rd2, %rd1; prefetch.tensormap [%rd2]; ld.global.u64 %rd3, [%rd4]; st.global.u32 [%rd3], %r1;",
            "mov.b64 %rd1, k_param_1; cvta.param.u64 %rd2, %rd1; cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd2, {%r1, %r2}], [%r3];",
            "mov.b64 %rd1, k_param_0; cvta.param.u64 %rd2, %rd1; add.s64 %rd3, %rd2, 64; ld.u32 %r1, [%rd3+4]; st.global.u32 [%rd9], %r1;",
            "mov.b64 %rd1, k_param_0; mov.b64 %rd2, k_param_1; selp.b64 %rd3, %rd1, %rd2, %p1; ld.f32 %f1, [%rd3]; st.global.f32 [%rd9], %f1;",
            "mov.b64 %rd1, k_param_1; add.s64 %rd2, %rd1, %rd9; ld.u32 %r1, [%rd2]; st.shared.u32 [%r2], %r1;",
            "add.s64 %rd1, %rd4, 64; st.global.u32 [%rd1], %r1;",
            "mov.b64 %rd1, k_param_1; { .param .b64 param0; st.param.b64 [param0+0], %rd1; call.uni f, (param0); }",
        ] {
            let called = ".func f(\n.param .b64 f_param_0\n)\n{\nret;\n}\n";
            assert_eq!(reason(&format!("{called}{}", kernel(body))), None, "{body}");
        }
    }

    #[test]
    fn addresses_are_followed_through_calls() {
        let function = |name: &str, body: &str| {
            format!(
                ".func (.param .b64 {name}_retval0) {name}(\n.param .b64 {name}_param_0,\n.param .b64 {name}_param_1\n)\n{{\n{body}\nret;\n}}\n"
            )
        };
        let call = "mov.b64 %rd1, k_param_0;\n{ .param .b64 param0; .param .b64 param1; .param .b64 retval0;\nst.param.b64 [param0], %rd1; \
            st.param.b64 [param1], %rd7;\ncall.uni (retval0), f, (param0, param1);\nld.param.b64 %rd8, [retval0]; }\n";
        // A second call in the same kernel, whose first argument is another address.
        let other = "{ .param .b64 param0; .param .b64 param1; .param .b64 retval0;\nst.param.b64 [param0], %rd7; st.param.b64 [param1], %rd7;\n\
            call.uni (retval0), g, (param0, param1);\nld.param.b64 %rd9, [retval0]; }\n";
        let stores = "ld.param.u64 %rd1, [{}_param_0]; st.u32 [%rd1+4], 1;";
        let reads = "ld.param.u64 %rd1, [{}_param_0]; ld.b64 %rd2, [%rd1]; st.param.b64 [{}_retval0], %rd2;";
        let returns = "ld.param.u64 %rd1, [{}_param_0]; st.param.b64 [{}_retval0], %rd1;";
        let stores_second = "ld.param.u64 %rd1, [{}_param_1]; st.u32 [%rd1+4], 1;";
        let body = |name: &str, text: &str| function(name, &text.replace("{}", name));
        let result_is_written = "st.global.u32 [%rd8], %r1;";
        for (f, g, end, expected) in [
            (stores, reads, "", Some(WRITTEN)),
            (reads, stores, result_is_written, None),
            (stores_second, stores, result_is_written, None),
            (returns, stores, result_is_written, Some(WRITTEN)),
        ] {
            let entry = kernel(&format!("{call}{other}{end}"));
            let found = reason(&format!("{}{}{entry}", body("f", f), body("g", g)));
            assert_eq!(found.as_deref(), expected, "{f} {g} {end}");
        }
        let indirect = call.replace("f, (param0, param1)", "%rd5, (param0, param1), prototype_0");
        assert_eq!(reason(&kernel(&indirect)).as_deref(), Some(UNKNOWN_CALL));
        let unrelated = other.replace("g, (param0, param1)", "%rd5, (param0, param1), prototype_0");
        assert_eq!(reason(&kernel(&unrelated)), None);
    }
}
