//! What the judge does to memory that the CPU reaches: safe doors to `numerics.cpp`.
//!
//! The functions behind it are those that a GPU will run on its own memory: the same seed gives the same bits everywhere.

use super::{Comparison, Poison};
use crate::task::{DType, Distribution, Norm, Shape, Tolerance};

#[repr(C)]
#[derive(Default)]
struct RawComparison {
    failed: u64,
    first: u64,
    first_found: f64,
    max_abs_error: f64,
    max_rel_error: f64,
    mean_abs_error: f64,
    worst: f64,
}

unsafe extern "C" {
    fn kforge_fill(
        dtype: u32,
        memory: *mut u8,
        elements: u64,
        row: u64,
        shape: u32,
        first: f64,
        second: f64,
        normalize: bool,
        seed: u64,
    );
    fn kforge_poison(dtype: u32, memory: *mut u8, elements: u64, seed: u64);
    fn kforge_unwritten(
        dtype: u32,
        memory: *const u8,
        elements: u64,
        finite: bool,
        seed: u64,
        first: *mut u64,
    ) -> u64;
    fn kforge_values(dtype: u32, memory: *const u8, elements: u64, into: *mut f64);
    fn kforge_compare(
        dtype: u32,
        memory: *const u8,
        expected: *const f64,
        elements: u64,
        atol_rms: f64,
        rtol: f64,
        result: *mut RawComparison,
    );
    fn kforge_hash(memory: *const u8, bytes: u64) -> u64;
}

/// How many whole elements a memory holds. The memory must be aligned for them, as mapped pages and vectors' buffers are.
fn elements(dtype: DType, memory: &[u8]) -> u64 {
    assert_eq!(
        memory.as_ptr().align_offset(dtype.bytes() as usize),
        0,
        "memory for {dtype} is not aligned"
    );
    memory.len() as u64 / dtype.bytes()
}

/// Fills with random values. `row` is the length of the last axis, over which normalised distributions have length 1.
pub fn fill(dtype: DType, memory: &mut [u8], row: u64, distribution: &Distribution, seed: u64) {
    let elements = elements(dtype, memory);
    let row = row.clamp(1, elements.max(1));
    assert_eq!(
        elements % row,
        0,
        "rows of {row} do not divide {elements} elements"
    );
    let (shape, first, second) = match distribution.shape {
        Shape::Normal(deviation) => (0, deviation, 0.0),
        Shape::Uniform([low, high]) => (1, low, high),
        Shape::Value(value) => (2, value, 0.0),
    };
    let normalize = distribution.normalize == Some(Norm::L2) && dtype.is_float();
    // SAFETY: the memory holds `elements` aligned elements, and rows divide them.
    unsafe {
        kforge_fill(
            number(dtype),
            memory.as_mut_ptr(),
            elements,
            row,
            shape,
            first,
            second,
            normalize,
            seed,
        )
    }
}

/// Fills with a pattern that an honest kernel does not leave behind.
pub fn poison(dtype: DType, memory: &mut [u8], pattern: Poison) {
    match pattern {
        Poison::NotANumber => memory.fill(0xff),
        // SAFETY: the memory holds as many aligned elements as are counted.
        Poison::Finite { seed } => unsafe {
            kforge_poison(
                number(dtype),
                memory.as_mut_ptr(),
                elements(dtype, memory),
                seed,
            )
        },
    }
}

/// How many elements still hold their poison, and the index of the first.
pub fn unwritten(dtype: DType, memory: &[u8], pattern: Poison) -> (u64, Option<u64>) {
    let (finite, seed) = match pattern {
        Poison::NotANumber => (false, 0),
        Poison::Finite { seed } => (true, seed),
    };
    let mut first = 0;
    // SAFETY: the memory holds as many aligned elements as are counted; `first` is written at most once.
    let count = unsafe {
        kforge_unwritten(
            number(dtype),
            memory.as_ptr(),
            elements(dtype, memory),
            finite,
            seed,
            &raw mut first,
        )
    };
    (count, (count > 0).then_some(first))
}

/// The elements in double precision.
pub fn values(dtype: DType, memory: &[u8]) -> Vec<f64> {
    let elements = elements(dtype, memory);
    let mut values = vec![0.0; elements as usize];
    // SAFETY: both sides hold `elements` aligned elements.
    unsafe {
        kforge_values(
            number(dtype),
            memory.as_ptr(),
            elements,
            values.as_mut_ptr(),
        )
    }
    values
}

/// Every element against its expected value.
pub fn compare(dtype: DType, memory: &[u8], expected: &[f64], tolerance: Tolerance) -> Comparison {
    let elements = elements(dtype, memory);
    assert_eq!(
        elements,
        expected.len() as u64,
        "as many expected values as elements"
    );
    let mut raw = RawComparison::default();
    // SAFETY: both sides hold `elements` aligned elements; `raw` has the layout that the other side writes.
    unsafe {
        kforge_compare(
            number(dtype),
            memory.as_ptr(),
            expected.as_ptr(),
            elements,
            tolerance.atol_rms,
            tolerance.rtol,
            &raw mut raw,
        );
    }
    let first = (raw.failed > 0).then(|| {
        (
            raw.first,
            expected
                .get(raw.first as usize)
                .copied()
                .unwrap_or(f64::NAN),
            raw.first_found,
        )
    });
    Comparison {
        elements,
        failed: raw.failed,
        first,
        max_abs_error: raw.max_abs_error,
        max_rel_error: raw.max_rel_error,
        mean_abs_error: raw.mean_abs_error,
        worst: raw.worst,
    }
}

pub fn hash(memory: &[u8]) -> u64 {
    // SAFETY: exactly the bytes of the slice are read.
    unsafe { kforge_hash(memory.as_ptr(), memory.len() as u64) }
}

/// The numbers of `numerics.h`.
fn number(dtype: DType) -> u32 {
    match dtype {
        DType::Float64 => 0,
        DType::Float32 => 1,
        DType::Float16 => 2,
        DType::BFloat16 => 3,
        DType::Float8E4M3 => 4,
        DType::Float8E5M2 => 5,
        DType::Int64 => 6,
        DType::Int32 => 7,
        DType::Int16 => 8,
        DType::Int8 => 9,
        DType::Bool => 10,
    }
}
