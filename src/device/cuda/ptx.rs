//! Reads the PTX and the assembler's log of a compiled kernel: its resources, the kinds of its parameters, and its features.
//!
//! Text in, data out; `compiler` decides what follows from it. `ptx_rules` finds what is forbidden.

use std::collections::HashMap;

use indexmap::IndexMap;

use super::ptx_tokens::{Statement, Token, statements, tokenize};
use crate::device::ParameterKind;
use crate::verdict::{Resources, SERIALIZED_WGMMA, WIDE_FENCES};

/// Resources of a module: for each, the maximum over all entries.
pub(super) fn parse_resources(log: &str) -> Resources {
    let mut resources = Resources::default();
    fn raise<T: Ord + Copy>(maximum: &mut Option<T>, value: Option<T>) {
        *maximum = (*maximum).max(value);
    }
    for line in log.lines().filter(|line| line.starts_with("ptxas")) {
        let registers =
            number_before(line, " registers").and_then(|count| u32::try_from(count).ok());
        raise(&mut resources.registers, registers);
        let spilt = number_before(line, " bytes spill stores")
            .max(number_before(line, " bytes spill loads"));
        raise(&mut resources.spill_bytes, spilt);
        if registers.is_some() {
            let shared = number_before(line, " bytes smem").unwrap_or(0);
            raise(&mut resources.shared_bytes, Some(shared));
        }
    }
    resources
}

/// The number directly before `words` in a line.
fn number_before(line: &str, words: &str) -> Option<u64> {
    let (head, _) = line.split_once(words)?;
    head.rsplit(|letter: char| !letter.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// The kinds of the parameters of an entry; empty if there is no such entry.
pub(super) fn parameter_kinds(ptx: &str, entry: &str) -> Vec<ParameterKind> {
    let tokens = tokenize(ptx).unwrap_or_default();
    let is_head = |statement: &&Statement<'_, '_>| {
        let mut pairs = statement.tokens.windows(2);
        statement.tokens.last().is_some_and(|last| !last.is(";"))
            && pairs.any(|pair| pair[0].is(".entry") && pair[1].is(entry))
    };
    let statements = statements(&tokens);
    let Some(head) = statements.iter().find(is_head) else {
        return Vec::new();
    };
    let declarations = head
        .tokens
        .split(|token| token.is(",") || token.is("(") || token.is(")"));
    let declarations = declarations.filter(|tokens| tokens.iter().any(|token| token.is(".param")));
    let kind = |tokens: &[Token<'_>]| {
        let has = |word: &str| tokens.iter().any(|token| token.is(word));
        if has("[") {
            ParameterKind::Other
        } else if has(".f32") {
            ParameterKind::Float32
        } else if has(".f64") {
            ParameterKind::Float64
        } else {
            ParameterKind::Other
        }
    };
    declarations.map(kind).collect()
}

/// Whether code can ask the cache to keep lines longer than others. Without PTX nothing is known, so it can.
pub(super) fn may_keep_lines(ptx: &str) -> bool {
    const WORDS: [&str; 4] = ["evict_last", "cache_hint", "createpolicy", "applypriority"];
    ptx.is_empty() || WORDS.iter().any(|word| ptx.contains(word))
}

/// The features of the code, by name. Instructions are counted statically, not by how often they run.
pub(super) fn count_features(ptx: &str, log: &str) -> IndexMap<String, f64> {
    let mut counter = FeatureCounter::default();
    let mut location = "";
    let mut labels: HashMap<&str, ()> = HashMap::new();
    for line in ptx.lines().map(str::trim) {
        if line.starts_with(".loc") {
            location = line;
            continue;
        }
        if let Some(label) = line.strip_suffix(':') {
            labels.insert(label, ());
            continue;
        }
        if line.is_empty() || line.starts_with(['.', '/', '{', '}', '(', ')', '$']) {
            continue;
        }
        // `@%p1 bra $L__BB0_2;`
        let instruction = match line.strip_prefix('@') {
            Some(predicated) => predicated
                .split_once(' ')
                .map_or("", |(_, rest)| rest.trim_start()),
            None => line,
        };
        let (operation, operands) = instruction
            .split_once([' ', '\t', ';'])
            .unwrap_or((instruction, ""));
        counter.count_instruction(operation, location);
        let target = operands.trim().trim_end_matches(';');
        if operation.starts_with("bra") && labels.contains_key(target) {
            counter.add("loops");
        }
    }
    counter.finish(log)
}

#[derive(Default)]
struct FeatureCounter {
    counts: IndexMap<&'static str, f64>,
    /// By source location and operation: the number of instructions. Shows unrolling.
    copies: HashMap<(String, String), u32>,
}

/// All features that are counted. A feature that does not occur is 0.
const COUNTED_FEATURES: &[&str] = &[
    "instructions",
    "vector_load_bytes",
    "vector_store_bytes",
    "mma",
    "wgmma",
    "half_mma",
    "bfloat16_mma",
    "tf32_mma",
    "fp8_mma",
    "double_mma",
    "integer_mma",
    "matrix_loads",
    "async_copies",
    "bulk_copies",
    "tensor_copies",
    "transaction_barriers",
    "register_moves_between_warps",
    "block_barriers",
    "warp_barriers",
    "cluster_barriers",
    WIDE_FENCES,
    "shuffles",
    "atomics",
    "local_accesses",
    "double_arithmetic",
    "cache_hints",
    "loops",
];

impl FeatureCounter {
    fn add(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1.0;
    }

    fn raise_to(&mut self, name: &'static str, value: f64) {
        let count = self.counts.entry(name).or_default();
        *count = count.max(value);
    }

    fn count_instruction(&mut self, operation: &str, location: &str) {
        let parts: Vec<_> = operation.split('.').collect();
        let has = |part: &str| parts.contains(&part);
        let first = parts[0];
        self.add("instructions");
        match first {
            "ld" | "ldu" | "st" if has("local") => self.add("local_accesses"),
            // An access without a state space is generic; most of them are to global memory.
            "ld" | "ldu" | "st"
                if !["shared", "param", "const"].iter().any(|space| {
                    parts
                        .iter()
                        .any(|part| part.split("::").next() == Some(space))
                }) =>
            {
                let name = match first {
                    "st" => "vector_store_bytes",
                    _ => "vector_load_bytes",
                };
                self.raise_to(name, access_bytes(&parts));
            }
            "mma" | "wmma" if first == "mma" || has("mma") => {
                self.add("mma");
                self.count_mma_type(&parts);
            }
            "wgmma" if has("mma_async") => {
                self.add("wgmma");
                self.count_mma_type(&parts);
            }
            "ldmatrix" | "stmatrix" => self.add("matrix_loads"),
            "cp" if has("bulk") && has("tensor") => self.add("tensor_copies"),
            "cp" if has("bulk") && !has("commit_group") && !has("wait_group") => {
                self.add("bulk_copies")
            }
            "cp" if has("async")
                && !["commit_group", "wait_group", "wait_all", "mbarrier"]
                    .iter()
                    .any(|part| has(part)) =>
            {
                self.add("async_copies");
            }
            "mbarrier" if has("init") => self.add("transaction_barriers"),
            "setmaxnreg" => self.add("register_moves_between_warps"),
            "bar" | "barrier" if has("warp") => self.add("warp_barriers"),
            "barrier" if has("cluster") => self.add("cluster_barriers"),
            "bar" | "barrier" => self.add("block_barriers"),
            "shfl" => self.add("shuffles"),
            "atom" | "red" => self.add("atomics"),
            "add" | "sub" | "mul" | "fma" | "mad" | "div" | "sqrt" | "rcp" if has("f64") => {
                self.add("double_arithmetic")
            }
            "createpolicy" | "prefetch" | "prefetchu" | "applypriority" | "discard" => {
                self.add("cache_hints")
            }
            _ => {}
        }
        if parts
            .iter()
            .any(|part| part.contains("evict_last") || part.contains("cache_hint"))
        {
            self.add("cache_hints");
        }
        if is_wide_fence(first, &parts) {
            self.add(WIDE_FENCES);
        }
        let is_significant =
            matches!(first, "ld" | "st" | "mma" | "wgmma" | "fma" | "cp" | "shfl") && !has("param");
        if is_significant && !location.is_empty() {
            *self
                .copies
                .entry((location.to_owned(), operation.to_owned()))
                .or_default() += 1;
        }
    }

    fn count_mma_type(&mut self, parts: &[&str]) {
        for part in parts {
            match *part {
                "f16" | "f16x2" => self.raise_to("half_mma", 1.0),
                "bf16" => self.raise_to("bfloat16_mma", 1.0),
                "tf32" => self.raise_to("tf32_mma", 1.0),
                "e4m3" | "e5m2" => self.raise_to("fp8_mma", 1.0),
                "f64" => self.raise_to("double_mma", 1.0),
                "s8" | "u8" | "s4" | "u4" | "b1" => self.raise_to("integer_mma", 1.0),
                _ => {}
            }
        }
    }

    fn finish(mut self, log: &str) -> IndexMap<String, f64> {
        let stack = log
            .lines()
            .filter_map(|line| number_before(line, " bytes stack frame"));
        let stack = stack.max().unwrap_or(0) as f64;
        let resources = parse_resources(log);
        let unrolled = self.copies.values().copied().max().unwrap_or(1);
        let counted = COUNTED_FEATURES
            .iter()
            .map(|name| (*name, self.counts.swap_remove(name).unwrap_or(0.0)));
        let mut features: IndexMap<_, _> = counted
            .map(|(name, count)| (name.to_owned(), count))
            .collect();
        features.insert("unrolled".to_owned(), f64::from(unrolled));
        features.insert("stack_bytes".to_owned(), stack);
        features.insert(SERIALIZED_WGMMA.to_owned(), serialized_functions(log));
        if let Some(bytes) = resources.spill_bytes {
            features.insert("spill_bytes".to_owned(), bytes as f64);
        }
        if let Some(registers) = resources.registers {
            features.insert("registers".to_owned(), f64::from(registers));
        }
        features
    }
}

/// The number of functions whose `wgmma` products run one after the other, with a wait after each. The assembler only mentions it.
fn serialized_functions(log: &str) -> f64 {
    let lines = log.lines();
    lines
        .filter(|line| line.contains("wgmma") && line.contains("serialized"))
        .count() as f64
}

/// Whether an instruction makes earlier writes visible beyond the block. The assembler puts a fence of the whole device in front of it, also
/// if its scope is a cluster. A release of barriers that were just initialized needs none.
fn is_wide_fence(first: &str, parts: &[&str]) -> bool {
    let has = |part: &str| parts.contains(&part);
    if has("mbarrier_init") || has("proxy") || has("relaxed") {
        return false;
    }
    let is_wide = ["cluster", "gpu", "sys", "gl"]
        .iter()
        .any(|scope| has(scope));
    let releases = has("release") || has("acq_rel") || has("sc");
    match first {
        "membar" => is_wide,
        "barrier" => has("cluster") && has("arrive"),
        _ => is_wide && releases,
    }
}

/// Bytes that one thread accesses at once: 16 for `v4.f32`.
fn access_bytes(parts: &[&str]) -> f64 {
    let lanes = parts
        .iter()
        .find_map(|part| part.strip_prefix('v')?.parse::<u32>().ok());
    let bits = parts
        .last()
        .and_then(|part| part.strip_prefix(['b', 'u', 's', 'f'])?.parse::<u32>().ok());
    f64::from(lanes.unwrap_or(1) * bits.unwrap_or(0) / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serialized_products_are_counted_by_function() {
        let log = "ptxas info    : (C7512) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources for the function 'attention'\nptxas info    : Used 96 registers, used 16 barriers\n";
        assert_eq!(count_features("", log)[SERIALIZED_WGMMA], 1.0);
        let other = "ptxas info    : Used 96 registers, used 16 barriers\n";
        assert_eq!(count_features("", other)[SERIALIZED_WGMMA], 0.0);
    }

    #[test]
    fn fences_beyond_the_block_are_counted() {
        let count = |code: &str| count_features(code, "").get(WIDE_FENCES).copied();
        for (code, expected) in [
            (
                "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r1];",
                1.0,
            ),
            (
                "barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.acquire;",
                1.0,
            ),
            (
                "membar.gl;\nfence.acq_rel.gpu;\n@%p1 red.release.gpu.global.add.s32 [%rd1], 1;",
                3.0,
            ),
            ("mbarrier.arrive.shared::cluster.b64 _, [%r1];", 0.0),
            (
                "barrier.cluster.arrive.relaxed;\nfence.mbarrier_init.release.cluster;",
                0.0,
            ),
            (
                "membar.cta;\nfence.proxy.async.shared::cta;\nld.acquire.gpu.s32 %r1, [%rd1];",
                0.0,
            ),
            (
                "bar.sync 0;\natom.relaxed.gpu.global.add.s32 %r1, [%rd1], 1;",
                0.0,
            ),
        ] {
            assert_eq!(count(code), Some(expected), "{code}");
        }
    }

    #[test]
    fn requests_to_keep_lines_are_seen() {
        for code in [
            "createpolicy.fractional.L2::evict_last.b64 %rd1, 1.0;",
            "ld.global.L2::cache_hint.f32 %f1, [%rd1], %rd2;",
            "prefetch.global.L2::evict_last [%rd1];",
            "",
        ] {
            assert!(may_keep_lines(code), "{code}");
        }
        let others = "ld.global.cs.f32 %f1, [%rd1]; prefetch.global.L2 [%rd1]; ld.global.L2::128B.f32 %f1, [%rd1];";
        assert!(!may_keep_lines(others));
    }

    #[test]
    fn parameter_kinds_are_those_of_the_definition() {
        let ptx = "// .entry k(.param .f64 a)\n.visible .entry k(.param .u64 a)\n;\n.visible .entry other(.param .f64 a)\n{ ret; }\n\
            .weak .entry k(\n.param .u64 .ptr .align 1 k_param_0,\n.param .f32 k_param_1, .param .align 8 .b8 k_param_2[16],\n.param .f64 k_param_3\n)\n\
            .maxntid 128, 1, 1\n{\n/* .entry k( */ ret;\n}\n";
        use ParameterKind::{Float32, Float64, Other};
        assert_eq!(parameter_kinds(ptx, "k"), [Other, Float32, Other, Float64]);
        assert_eq!(parameter_kinds(ptx, "other"), [Float64]);
        assert_eq!(parameter_kinds(ptx, "none"), []);
    }
}
