//! Reads the PTX and the assembler's log of a compiled kernel: its resources, its parameters, its features, and constructs that
//! are forbidden.
//!
//! Text in, data out; `compiler` decides what follows from it.

use std::collections::HashMap;

use indexmap::IndexMap;

use crate::device::ParameterKind;
use crate::device::refusal::{DEVICE_HEAP, MANAGED_MEMORY};
use crate::verdict::Resources;

/// External functions that a kernel may call: they need no memory and launch nothing.
const ALLOWED_CALLS: &[&str] = &["vprintf", "__assertfail"];

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

/// The first forbidden construct in the PTX: a reason, and the names in the source that can cause it.
pub(super) fn find_forbidden(ptx: &str) -> Option<(String, &'static [&'static str])> {
    // Inline assembly is copied as written, so a declaration may be anywhere in a line. `.file` lines hold paths, not code.
    let is_code = |line: &&str| !line.starts_with(".file");
    for line in ptx.lines().map(str::trim_start).filter(is_code) {
        if contains_word(line, ".managed") {
            return Some((MANAGED_MEMORY.to_owned(), &["__managed__", "asm"]));
        }
        if contains_word(line, ".include") {
            return Some(("PTX may not include files".to_owned(), &["asm"]));
        }
    }
    let called = external_functions(ptx).find(|name| !ALLOWED_CALLS.contains(name))?;
    let words: &[&str] = match called {
        "malloc" | "free" => &["malloc", "free", "new", "delete", "alloca"],
        _ => &["asm"],
    };
    let reason = match called {
        "malloc" | "free" => DEVICE_HEAP.to_owned(),
        other => format!("calls of the external function `{other}` are not accepted"),
    };
    Some((reason, words))
}

/// Whether a line contains `word` as a whole name, not as part of a longer one.
fn contains_word(line: &str, word: &str) -> bool {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '$');
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_name) && !line[at + word.len()..].starts_with(is_name)
    })
}

/// The functions that the PTX declares but does not define.
fn external_functions(ptx: &str) -> impl Iterator<Item = &str> {
    let declared = ptx.split(".extern").skip(1);
    let declared = declared.filter_map(|rest| {
        let rest = rest.trim_start().strip_prefix(".func")?.trim_start();
        // The return value comes before the name.
        match rest.strip_prefix('(') {
            Some(returned) => Some(returned.split_once(')')?.1.trim_start()),
            None => Some(rest),
        }
    });
    declared.map(|rest| {
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '$');
        let end = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
        &rest[..end]
    })
}

/// The size in bytes of each parameter of an entry; `None` if the PTX has no such entry.
pub(super) fn parameter_sizes(ptx: &str, entry: &str) -> Option<Vec<u64>> {
    let parameters = parameter_list(ptx, entry)?;
    Some(parameters.into_iter().map(parameter_size).collect())
}

/// The declarations of the parameters of an entry; `None` if there is no such entry.
fn parameter_list<'p>(ptx: &'p str, entry: &str) -> Option<Vec<&'p str>> {
    let mut after = ptx.split(".entry ").skip(1);
    let rest = after.find_map(|rest| {
        let rest = rest.trim_start().strip_prefix(entry)?.trim_start();
        (rest.starts_with('(') || rest.starts_with('{') || rest.starts_with('.')).then_some(rest)
    })?;
    let Some(rest) = rest.strip_prefix('(') else {
        return Some(Vec::new());
    };
    let list = rest.split_once(')').map_or(rest, |(list, _)| list);
    let parameters = list
        .split(',')
        .filter(|parameter| parameter.contains(".param"));
    Some(parameters.collect())
}

/// The kinds of the parameters of an entry; empty if there is no such entry.
pub(super) fn parameter_kinds(ptx: &str, entry: &str) -> Vec<ParameterKind> {
    let kind = |parameter: &str| {
        let has = |word: &str| parameter.split_whitespace().any(|other| other == word);
        if has(".f32") {
            ParameterKind::Float32
        } else if has(".f64") {
            ParameterKind::Float64
        } else {
            ParameterKind::Other
        }
    };
    let parameters = parameter_list(ptx, entry).unwrap_or_default();
    parameters.into_iter().map(kind).collect()
}

/// The size of a parameter such as `.param .align 64 .b8 name[128]` or `.param .u64 .ptr .align 1 name`.
fn parameter_size(parameter: &str) -> u64 {
    let unit = parameter.split_whitespace().find_map(|word| {
        let word = word.strip_prefix('.')?;
        let bits: u64 = word.strip_prefix(['b', 'u', 's', 'f'])?.parse().ok()?;
        Some(bits / 8)
    });
    let count = parameter
        .split_once('[')
        .and_then(|(_, rest)| rest.split(']').next()?.trim().parse::<u64>().ok());
    unit.unwrap_or(0) * count.unwrap_or(1)
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
        if let Some(bytes) = resources.spill_bytes {
            features.insert("spill_bytes".to_owned(), bytes as f64);
        }
        if let Some(registers) = resources.registers {
            features.insert("registers".to_owned(), f64::from(registers));
        }
        features
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
    fn forbidden_declarations_are_found_anywhere_in_a_line() {
        for ptx in [
            ".global .attribute(.managed) .align 4 .u32 count;",
            "\t{ .global .attribute(.managed) .align 4 .u32 count;",
            ".visible .global .attribute( .managed ) .u32 count;",
            "mov.u32 %r1, 0; .include \"/etc/hostname\"",
        ] {
            assert!(find_forbidden(ptx).is_some(), "{ptx}");
        }
        for ptx in [
            "\t.file\t1 \"/usr/.include/cuda.h\"",
            ".global .align 4 .u32 managed;",
            "ld.global.u32 %r1, [%rd1];",
        ] {
            assert!(find_forbidden(ptx).is_none(), "{ptx}");
        }
    }
}
