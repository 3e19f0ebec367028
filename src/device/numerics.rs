//! The judge's work on host memory: fill, poison, compare, hash. Safe wrappers around `numerics.cpp`.
//!
//! A GPU runs the same functions on its own memory (`cuda/numerics.cu`), so the same seed gives the same bits on every device.
//! Never decides whether a result is right: it only returns numbers.

use std::sync::OnceLock;

use super::aligned::AlignedBytes;
use super::memory::{Mismatch, OutputComparison, Poison, PoisonCount};
use crate::kernel::plan::Argument;
use crate::task::{CumulativeTotal, DType, Distribution, DistributionKind, Norm, Tolerance};

#[repr(C)]
#[derive(Debug, Default)]
struct RawComparison {
    failed: u64,
    first: u64,
    first_found: f64,
    max_abs_error: f64,
    max_rel_error: f64,
    mean_abs_error: f64,
    worst: f64,
}

/// Same layout as `Distribution` in `numerics.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct RawDistribution {
    shape: u32,
    levels: u32,
    first: f64,
    second: f64,
    mean: f64,
    zeros: f64,
    large_rows: f64,
    row: u64,
    one_hot: u32,
    normalize: u32,
}

impl RawDistribution {
    /// The structure as it lies in memory, in words of 8 bytes.
    pub(super) fn words(&self) -> [u64; 8] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        [
            pair(self.shape, self.levels),
            self.first.to_bits(),
            self.second.to_bits(),
            self.mean.to_bits(),
            self.zeros.to_bits(),
            self.large_rows.to_bits(),
            self.row,
            pair(self.one_hot, self.normalize),
        ]
    }

    /// Whether an element depends on its whole row.
    pub(super) fn needs_whole_row(&self) -> bool {
        self.normalize != 0
    }
}

/// The functions of `numerics.cpp`, compiled for one kind of processor. Same layout as `Functions` there.
#[repr(C)]
struct Functions {
    fill: unsafe extern "C" fn(
        dtype: u32,
        memory: *mut u8,
        first: u64,
        elements: u64,
        distribution: *const RawDistribution,
        seed: u64,
    ),
    store: unsafe extern "C" fn(dtype: u32, values: *const f64, memory: *mut u8, elements: u64),
    poison: unsafe extern "C" fn(dtype: u32, memory: *mut u8, elements: u64, kind: u32, seed: u64),
    unwritten: unsafe extern "C" fn(
        dtype: u32,
        memory: *const u8,
        elements: u64,
        kind: u32,
        seed: u64,
        first: *mut u64,
    ) -> u64,
    values: unsafe extern "C" fn(dtype: u32, memory: *const u8, elements: u64, into: *mut f64),
    compare: unsafe extern "C" fn(
        dtype: u32,
        memory: *const u8,
        expected: *const f64,
        elements: u64,
        atol_rms: f64,
        rtol: f64,
        result: *mut RawComparison,
    ),
    hash: unsafe extern "C" fn(memory: *const u8, bytes: u64) -> u64,
    seed_of_copy: unsafe extern "C" fn(seed: u64, copy: u64) -> u64,
    fill_noise: unsafe extern "C" fn(memory: *mut u64, first: u64, words: u64, key: u64),
    has_noise: unsafe extern "C" fn(memory: *const u64, first: u64, words: u64, key: u64) -> u32,
    first_not_finite: unsafe extern "C" fn(values: *const f64, elements: u64) -> u64,
    root_mean_square: unsafe extern "C" fn(values: *const f64, elements: u64) -> f64,
}

unsafe extern "C" {
    static kforge_numerics_functions: Functions;
    #[cfg(target_arch = "x86_64")]
    static kforge_numerics_avx2_functions: Functions;
    #[cfg(target_arch = "x86_64")]
    static kforge_numerics_avx512_functions: Functions;
}

/// The variants that this processor can run, the fastest last. All give the same bits.
fn supported_variants() -> Vec<&'static Functions> {
    // SAFETY: a constant of numerics.cpp with the same layout.
    let mut variants = vec![unsafe { &kforge_numerics_functions }];
    #[cfg(target_arch = "x86_64")]
    {
        let has_avx2 = is_x86_feature_detected!("avx2");
        if has_avx2 {
            // SAFETY: as above.
            variants.push(unsafe { &kforge_numerics_avx2_functions });
        }
        if has_avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: as above.
            variants.push(unsafe { &kforge_numerics_avx512_functions });
        }
    }
    variants
}

fn fastest_functions() -> &'static Functions {
    static FASTEST: OnceLock<&'static Functions> = OnceLock::new();
    FASTEST.get_or_init(|| {
        // SAFETY: a constant of numerics.cpp with the same layout.
        let portable = unsafe { &kforge_numerics_functions };
        supported_variants().pop().unwrap_or(portable)
    })
}

/// The number of whole elements in some memory. The memory must be aligned for the dtype; mapped pages and `Vec<u64>` are.
fn element_count(dtype: DType, memory: &[u8]) -> u64 {
    assert_eq!(
        memory.as_ptr().align_offset(dtype.bytes() as usize),
        0,
        "memory for {dtype} is not aligned"
    );
    memory.len() as u64 / dtype.bytes()
}

/// Bytes that one thread fills in about the time that several threads take to start.
const BYTES_PER_THREAD: usize = 256 << 10;

/// Fills memory with random values. `row` is the length of the last axis; normalized distributions have length 1 over it.
///
/// Several threads fill large memory. The values do not depend on their number.
pub fn fill(dtype: DType, memory: &mut [u8], row: u64, distribution: &Distribution, seed: u64) {
    let elements = element_count(dtype, memory);
    let row = row.clamp(1, elements.max(1));
    assert_eq!(
        elements % row,
        0,
        "rows of {row} do not divide {elements} elements"
    );
    let raw = raw_distribution(dtype, row, distribution);
    let fill_rows = |memory: &mut [u8], first: u64| {
        // SAFETY: the memory holds whole aligned rows.
        unsafe {
            (fastest_functions().fill)(
                dtype_number(dtype),
                memory.as_mut_ptr(),
                first,
                element_count(dtype, memory),
                &raw const raw,
                seed,
            )
        }
    };
    let threads = threads_for(memory.len() as u64);
    let rows_per_thread = (elements / row).div_ceil(threads as u64).max(1);
    let elements_per_thread = rows_per_thread * row;
    let bytes_per_thread = (elements_per_thread * dtype.bytes()) as usize;
    if bytes_per_thread >= memory.len() {
        return fill_rows(memory, 0);
    }
    std::thread::scope(|scope| {
        for (index, part) in memory.chunks_mut(bytes_per_thread).enumerate() {
            let first = index as u64 * elements_per_thread;
            scope.spawn(move || fill_rows(part, first));
        }
    });
}

/// Threads that fill this many bytes fastest.
pub(super) fn threads_for(bytes: u64) -> usize {
    let threads = bytes / BYTES_PER_THREAD as u64;
    threads.clamp(1, core_count() as u64) as usize
}

/// Cores that this process may use.
fn core_count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| std::thread::available_parallelism().map_or(1, |cores| cores.get()))
}

pub(super) fn raw_distribution(
    dtype: DType,
    row: u64,
    distribution: &Distribution,
) -> RawDistribution {
    let (shape, first, second) = match &distribution.kind {
        DistributionKind::Normal(deviation) => (0, *deviation, 0.0),
        DistributionKind::Uniform([low, high]) => (1, *low, *high),
        // An expression without a value: the lowest.
        DistributionKind::Value(value) | DistributionKind::UniformBelow(value, _) => {
            (2, *value, 0.0)
        }
        DistributionKind::Cumulative(CumulativeTotal::Size(total)) => (3, *total as f64, 0.0),
        // An axis without a size: the total is 0.
        DistributionKind::Cumulative(CumulativeTotal::Axis(_)) => (3, 0.0, 0.0),
    };
    RawDistribution {
        shape,
        levels: distribution.levels,
        first,
        second,
        mean: distribution.mean,
        zeros: distribution.zeros,
        large_rows: distribution.large_rows,
        row,
        one_hot: u32::from(distribution.one_hot),
        normalize: u32::from(distribution.normalize == Some(Norm::L2) && dtype.is_float()),
    }
}

/// The seed of the random values in a copy with this number. Copy 0 has the seed itself.
pub(super) fn seed_of_copy(seed: u64, copy: u32) -> u64 {
    // SAFETY: plain numbers.
    unsafe { (fastest_functions().seed_of_copy)(seed, u64::from(copy)) }
}

/// The value of an argument in the first bytes of a word; 0 for an argument that is an address.
pub(crate) fn argument_word(argument: Argument) -> u64 {
    match argument {
        Argument::Buffer(_) | Argument::TensorMap(_) | Argument::Null => 0,
        Argument::I32(value) => u64::from(value as u32),
        Argument::U32(value) => u64::from(value),
        Argument::I64(value) | Argument::Integer(value) => value as u64,
        Argument::Float(value) => value.to_bits(),
        Argument::Scalar(dtype, value) => {
            let mut memory = AlignedBytes::zeroed(dtype.bytes() as usize);
            let constant = Distribution::new(DistributionKind::Value(value));
            fill(dtype, memory.as_mut_slice(), 1, &constant, 0);
            memory.first_word()
        }
    }
}

/// Stores values, rounded to the dtype: the inverse of `values`.
pub fn store(dtype: DType, values: &[f64], memory: &mut [u8]) {
    let elements = element_count(dtype, memory);
    assert_eq!(
        elements,
        values.len() as u64,
        "the number of values differs from the number of elements"
    );
    // SAFETY: both sides hold `elements` aligned elements.
    unsafe {
        (fastest_functions().store)(
            dtype_number(dtype),
            values.as_ptr(),
            memory.as_mut_ptr(),
            elements,
        )
    }
}

/// Values after rounding to a dtype.
pub(crate) fn round_to_dtype(dtype: DType, given: &[f64]) -> Vec<f64> {
    with_stored_values(dtype, given, |memory| values(dtype, memory))
}

/// Compares values with their expected values, after rounding them to the dtype.
pub(crate) fn compare_values(
    dtype: DType,
    found: &[f64],
    expected: &[f64],
    tolerance: Tolerance,
) -> OutputComparison {
    with_stored_values(dtype, found, |memory| {
        compare(dtype, memory, expected, tolerance)
    })
}

fn with_stored_values<T>(dtype: DType, given: &[f64], then: impl FnOnce(&[u8]) -> T) -> T {
    let mut memory = AlignedBytes::zeroed(given.len() * dtype.bytes() as usize);
    store(dtype, given, memory.as_mut_slice());
    then(memory.as_slice())
}

/// Fills memory with a pattern that no kernel leaves in its outputs by doing its work.
pub fn poison(dtype: DType, memory: &mut [u8], pattern: Poison) {
    if pattern == Poison::Nan {
        memory.fill(0xff);
        return;
    }
    let (kind, seed) = poison_arguments(pattern);
    // SAFETY: the memory holds that many aligned elements.
    unsafe {
        (fastest_functions().poison)(
            dtype_number(dtype),
            memory.as_mut_ptr(),
            element_count(dtype, memory),
            kind,
            seed,
        )
    }
}

/// A pattern as `numerics.h` takes it: its kind, and its seed.
pub(super) fn poison_arguments(pattern: Poison) -> (u32, u64) {
    match pattern {
        Poison::Nan => (0, 0),
        Poison::Finite { seed } => (1, seed),
        Poison::SecretNan { seed } => (2, seed),
    }
}

/// Counts the elements that still hold their poison.
pub fn count_unwritten(dtype: DType, memory: &[u8], pattern: Poison) -> PoisonCount {
    let (kind, seed) = poison_arguments(pattern);
    let mut first = 0;
    // SAFETY: the memory holds that many aligned elements; `first` is valid for writes.
    let count = unsafe {
        (fastest_functions().unwritten)(
            dtype_number(dtype),
            memory.as_ptr(),
            element_count(dtype, memory),
            kind,
            seed,
            &raw mut first,
        )
    };
    PoisonCount {
        count,
        first: (count > 0).then_some(first),
    }
}

/// For each element, whether it still holds its poison.
pub fn unwritten_elements(dtype: DType, memory: &[u8], pattern: Poison) -> Vec<bool> {
    let mut poisoned = AlignedBytes::zeroed(memory.len());
    poison(dtype, poisoned.as_mut_slice(), pattern);
    let bytes = dtype.bytes() as usize;
    let elements = memory.chunks(bytes);
    let pairs = elements.zip(poisoned.as_slice().chunks(bytes));
    pairs.map(|(one, other)| one == other).collect()
}

/// The elements in double precision.
pub fn values(dtype: DType, memory: &[u8]) -> Vec<f64> {
    let elements = element_count(dtype, memory);
    let mut values = vec![0.0; elements as usize];
    // SAFETY: both sides hold `elements` aligned elements.
    unsafe {
        (fastest_functions().values)(
            dtype_number(dtype),
            memory.as_ptr(),
            elements,
            values.as_mut_ptr(),
        )
    }
    values
}

/// Compares every element with its expected value.
pub fn compare(
    dtype: DType,
    memory: &[u8],
    expected: &[f64],
    tolerance: Tolerance,
) -> OutputComparison {
    let elements = element_count(dtype, memory);
    assert_eq!(
        elements,
        expected.len() as u64,
        "the number of expected values differs from the number of elements"
    );
    let mut raw = RawComparison::default();
    // SAFETY: both sides hold `elements` aligned elements; `raw` has the layout of `Result` in numerics.h.
    unsafe {
        (fastest_functions().compare)(
            dtype_number(dtype),
            memory.as_ptr(),
            expected.as_ptr(),
            elements,
            tolerance.atol_rms,
            tolerance.rtol,
            &raw mut raw,
        );
    }
    let first = (raw.failed > 0).then(|| Mismatch {
        index: raw.first,
        expected: (expected.get(raw.first as usize).copied()).unwrap_or(f64::NAN),
        found: raw.first_found,
    });
    OutputComparison {
        elements,
        failed: raw.failed,
        first,
        max_abs_error: raw.max_abs_error,
        max_rel_error: raw.max_rel_error,
        mean_abs_error: raw.mean_abs_error,
        worst_ratio: raw.worst,
    }
}

/// A hash of some bytes; the same bytes give the same hash on every device.
pub fn hash(memory: &[u8]) -> u64 {
    // SAFETY: exactly the bytes of the slice are read.
    unsafe { (fastest_functions().hash)(memory.as_ptr(), memory.len() as u64) }
}

/// Fills whole, aligned words with noise that cannot be predicted without the key. `first` is the number of the first word.
pub(super) fn fill_noise(memory: &mut [u8], first: u64, key: u64) {
    let words = element_count(DType::Int64, memory);
    // SAFETY: the memory holds that many aligned words.
    unsafe { (fastest_functions().fill_noise)(memory.as_mut_ptr().cast(), first, words, key) }
}

/// Whether whole, aligned words hold what `fill_noise` wrote.
pub(super) fn has_noise(memory: &[u8], first: u64, key: u64) -> bool {
    let words = element_count(DType::Int64, memory);
    // SAFETY: the memory holds that many aligned words.
    unsafe { (fastest_functions().has_noise)(memory.as_ptr().cast(), first, words, key) != 0 }
}

/// The index of the first value that is infinite or not a number.
pub(crate) fn first_not_finite(values: &[f64]) -> Option<u64> {
    let elements = values.len() as u64;
    // SAFETY: exactly the values of the slice are read.
    let first = unsafe { (fastest_functions().first_not_finite)(values.as_ptr(), elements) };
    (first < elements).then_some(first)
}

/// The root mean square that an absolute bound is a share of: of the values that are neither 0 nor infinite nor NaN. 0 if there is none.
pub(crate) fn root_mean_square(values: &[f64]) -> f64 {
    // SAFETY: exactly the values of the slice are read.
    unsafe { (fastest_functions().root_mean_square)(values.as_ptr(), values.len() as u64) }
}

/// Combines the hashes of several copies, in this order. A single hash stays as it is.
pub(super) fn combine_hashes(hashes: &[u64]) -> u64 {
    let rotated = (0..)
        .zip(hashes)
        .map(|(position, hash)| hash.rotate_left(position % 64));
    rotated.fold(0, u64::wrapping_add)
}

/// The dtype's number in `numerics.h`.
pub(super) fn dtype_number(dtype: DType) -> u32 {
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

#[cfg(test)]
#[path = "numerics_bound_tests.rs"]
mod bound_tests;

#[cfg(test)]
#[path = "numerics_tests.rs"]
mod tests;
