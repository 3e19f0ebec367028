//! The list of all transformations.
//!
//! Their order is part of the order of children: see `site_order`.

use super::transformation::Transformation;
use super::{
    block, cache_hints, cache_in_register, coarsen, fast_math, fma, forward_store, fuse, hoist,
    interchange, launch_bounds, qualifiers, reciprocal, restrict, row_pointer, shared,
    split_accumulator, stage, unroll, unsigned_index, vectorize, vectorize_lanes, warp_per_row,
};

/// All transformations.
pub(crate) fn transformations() -> &'static [&'static dyn Transformation] {
    // The order decides which child an attempt gives: another order changes what a search with the same seed does.
    &[
        &unroll::Unroll,
        &split_accumulator::SplitAccumulator,
        &split_accumulator::StripMine,
        &fast_math::FastMath,
        &fma::Fma,
        &reciprocal::Reciprocal,
        &vectorize::Vectorize,
        &restrict::Restrict,
        &cache_hints::Ldg,
        &cache_hints::StreamingStore,
        &row_pointer::RowPointer,
        &cache_in_register::CacheInRegister,
        &forward_store::ForwardStore,
        &hoist::Hoist,
        &block::BlockSize,
        &block::ExtendTunable,
        &coarsen::Coarsen,
        &stage::StageInLocal,
        &fuse::Fuse,
        &interchange::Interchange,
        &shared::CacheInShared,
        &qualifiers::Inlining,
        &unsigned_index::UnsignedIndex,
        &launch_bounds::LaunchBounds,
        &cache_hints::StreamingLoad,
        &warp_per_row::WarpPerRow,
        &vectorize_lanes::VectorizeLanes,
    ]
}
