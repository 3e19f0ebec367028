//! How likely each transformation is to make a kernel faster: how often its children are tried before others'.
//!
//! Priors from the yields over the shipped tasks (`cargo bench --bench yields`), and from what GPUs reward too: independent
//! partial results and wide loads first, spelling last. They order the trials, and rule nothing out.

/// The weight of a transformation by its name; 1 where nothing is known.
pub(super) fn of(transformation: &str) -> f64 {
    match transformation {
        "split_accumulator" => 6.0,
        "vectorize" | "stage_in_local" | "fast_math" => 3.0,
        "hoist" | "cache_in_register" | "forward_store" | "reciprocal" | "strip_mine" => 2.0,
        "restrict" | "fma" | "coarsen" | "fuse" | "interchange" | "cache_in_shared" => 1.0,
        "unroll" | "block_size" | "ldg" | "streaming_store" => 0.6,
        "tunable" | "row_pointer" | "unsigned_index" | "inlining" => 0.3,
        _ => 1.0,
    }
}
