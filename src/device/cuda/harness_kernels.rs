//! The harness kernels (`numerics.cu`) as functions. They do to device memory what `device::numerics` does to host memory.
//!
//! `harness_functions` loads them.
//! Every call is queued on the GPU's stream. A call that returns a result waits for it. Never called while a candidate runs.

use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr;
use std::rc::Rc;

use cudarc::driver::sys::{self, CUdeviceptr};

use super::buffer_copies::{BufferCopies, CopyNumbers, FilledCopies};
use super::compiler::Compiler;
use super::gpu::{DriverError, Gpu, call};
use super::harness_functions::HarnessFunctions;
use super::judge_memory::{JudgeBuffer, JudgeMemory};
use super::layout::GuardZones;
use super::memory::{Access, copy_to_host, zero_memory};
use crate::device::numerics::{self, RawDistribution};
use crate::device::program::FillKernels;
use crate::device::{Mismatch, OutputComparison, Poison, PoisonCount};
use crate::task::{DType, Distribution, Tolerance};

const THREADS: u32 = 256;
/// Size limit for the results of one call.
const RESULT_BYTES: usize = 1 << 20;
/// The size of `CompareResult` in `numerics.cu`, in words.
const COMPARE_RESULT_WORDS: usize = 8;
/// Thread blocks that hash one range.
const RANGE_BLOCKS: u32 = 64;
/// Memory that the cache fetches at once.
const SECTOR_BYTES: u64 = 32;
/// Lanes and elements of a piece, as in `numerics.h`.
const LANES: u64 = 8;
const PIECE: u64 = 4096;

/// Pointers to a kernel's arguments, in order. The variables must live until the kernel is queued.
macro_rules! arguments {
    ($($value:ident),* $(,)?) => {
        &mut [$((&raw mut $value).cast::<::std::ffi::c_void>()),*]
    };
}
pub(super) use arguments;

/// The harness kernels of a GPU.
pub(super) struct HarnessKernels {
    gpu: Rc<Gpu>,
    functions: HarnessFunctions,
    memory: Rc<JudgeMemory>,
    results: JudgeBuffer,
    /// Memory for the partial sums of comparisons; grows on demand.
    partial_sums: RefCell<JudgeBuffer>,
}

/// Hashes that the GPU computes, one after the other in the results of the harness kernels.
pub(super) struct QueuedHashes {
    start: CUdeviceptr,
    count: usize,
}

/// The size of a launch of a harness kernel.
#[derive(Clone, Copy)]
struct LaunchSize {
    grid: [u32; 2],
    threads: u32,
    shared_bytes: u32,
}

impl LaunchSize {
    fn new(grid: [u32; 2]) -> Self {
        Self {
            grid,
            threads: THREADS,
            shared_bytes: 0,
        }
    }
}

impl HarnessKernels {
    pub(super) fn load(memory: &Rc<JudgeMemory>, compiler: &Rc<Compiler>) -> anyhow::Result<Self> {
        let gpu = memory.gpu();
        Ok(Self {
            gpu: Rc::clone(gpu),
            functions: HarnessFunctions::load(gpu, compiler)?,
            results: memory.allocate(RESULT_BYTES)?,
            partial_sums: RefCell::new(memory.allocate(1 << 20)?),
            memory: Rc::clone(memory),
        })
    }

    /// The kernels that fill buffers of a dtype, for another process.
    pub(super) fn fill_kernels(&self, dtype: DType) -> anyhow::Result<FillKernels> {
        self.functions.fill_kernels(dtype)
    }

    /// Launches a kernel that uses the judge's memory.
    fn launch(
        &self,
        function: sys::CUfunction,
        size: LaunchSize,
        arguments: &mut [*mut c_void],
    ) -> Result<(), DriverError> {
        self.memory.set_access(Access::Writable)?;
        self.launch_apart(function, size, arguments)
    }

    /// Launches a kernel that does not use the judge's memory, which may be hidden.
    fn launch_apart(
        &self,
        function: sys::CUfunction,
        size: LaunchSize,
        arguments: &mut [*mut c_void],
    ) -> Result<(), DriverError> {
        call!(cuLaunchKernel(
            function,
            size.grid[0],
            size.grid[1],
            1,
            size.threads,
            1,
            1,
            size.shared_bytes,
            self.gpu.stream,
            arguments.as_mut_ptr(),
            ptr::null_mut()
        ))
    }

    /// A launch with enough blocks to occupy the GPU, over all copies.
    fn size_for(&self, threads_wanted: u64, copies: u32) -> LaunchSize {
        let limit = (self.gpu.sm_count * 16).div_ceil(copies.max(1)).max(1);
        let wanted = threads_wanted.div_ceil(u64::from(THREADS)).max(1);
        LaunchSize::new([wanted.min(u64::from(limit)) as u32, copies])
    }

    /// Fills all copies with random values. `row`: length of the last axis. Needs none of the judge's memory.
    pub(super) fn fill(
        &self,
        filled: FilledCopies,
        row: u64,
        distribution: &Distribution,
        mut seed: u64,
    ) -> anyhow::Result<()> {
        let FilledCopies {
            copies: buffer,
            mut addresses,
            mut numbers,
        } = filled;
        let row = row.clamp(1, buffer.elements.max(1));
        let mut raw: RawDistribution = numerics::raw_distribution(buffer.dtype, row, distribution);
        let mut elements = buffer.elements;
        let (kernel, threads) = if raw.needs_whole_row() {
            ("fill_rows", elements / row)
        } else {
            ("fill", elements.div_ceil(4))
        };
        self.launch_apart(
            self.functions.typed(buffer.dtype, kernel)?,
            self.size_for(threads, buffer.copies),
            arguments!(addresses, elements, raw, seed, numbers),
        )?;
        Ok(())
    }

    /// Needs none of the judge's memory.
    pub(super) fn poison(&self, filled: FilledCopies, pattern: Poison) -> anyhow::Result<()> {
        let FilledCopies {
            copies: buffer,
            mut addresses,
            mut numbers,
        } = filled;
        let function = self.functions.typed(buffer.dtype, "poison")?;
        let mut elements = buffer.elements;
        let (mut kind, mut seed) = numerics::poison_arguments(pattern);
        self.launch_apart(
            function,
            self.size_for(elements.div_ceil(4), buffer.copies),
            arguments!(addresses, elements, kind, seed, numbers),
        )?;
        Ok(())
    }

    /// For each copy, counts the elements that hold their poison (`want`) or another value.
    pub(super) fn count_poison(
        &self,
        buffer: BufferCopies,
        pattern: Poison,
        mut copies: CopyNumbers,
        want: bool,
    ) -> anyhow::Result<Vec<PoisonCount>> {
        let function = self.functions.typed(buffer.dtype, "count_poison")?;
        let mut counts = self.clear_results(buffer.copies as usize * 16)?;
        let (mut table, mut elements) = (buffer.table, buffer.elements);
        let (mut kind, mut seed) = numerics::poison_arguments(pattern);
        let mut want = u32::from(want);
        self.launch(
            function,
            self.size_for(elements, buffer.copies),
            arguments!(table, elements, kind, seed, copies, want, counts),
        )?;
        self.read_counts(buffer.copies)
    }

    /// For each copy of doubles, counts the elements that are not finite.
    pub(super) fn not_finite(&self, buffer: BufferCopies) -> anyhow::Result<Vec<PoisonCount>> {
        let mut counts = self.clear_results(buffer.copies as usize * 16)?;
        let (mut table, mut elements) = (buffer.table, buffer.elements);
        self.launch(
            self.functions.untyped("not_finite")?,
            self.size_for(elements, buffer.copies),
            arguments!(table, elements, counts),
        )?;
        self.read_counts(buffer.copies)
    }

    /// Clears memory for results and returns its address.
    fn clear_results(&self, bytes: usize) -> anyhow::Result<CUdeviceptr> {
        anyhow::ensure!(bytes <= self.results.bytes(), "too many copies of a buffer");
        self.memory.set_access(Access::Writable)?;
        zero_memory(&self.gpu, self.results.address(), bytes)?;
        Ok(self.results.address())
    }

    fn read_counts(&self, copies: u32) -> anyhow::Result<Vec<PoisonCount>> {
        let mut words = vec![0u64; copies as usize * 2];
        copy_to_host(&self.gpu, self.results.address(), &mut words)?;
        let counts = words.chunks_exact(2).map(|words| PoisonCount {
            count: words[0],
            first: (words[0] > 0).then_some(!words[1]),
        });
        Ok(counts.collect())
    }

    /// Compares each copy with its expected values, which are doubles or have the buffer's dtype. Gives the same bits as
    /// `numerics::compare`, but of the first mismatch only the index.
    pub(super) fn compare(
        &self,
        buffer: BufferCopies,
        expected: BufferCopies,
        tolerance: Tolerance,
    ) -> anyhow::Result<Vec<OutputComparison>> {
        let copies = buffer.copies;
        let kernel = compare_kernel(buffer, expected)?;
        let slots = buffer.elements.div_ceil(PIECE) * LANES;
        self.reserve_partial_sums((slots * u64::from(copies) * 8) as usize)?;
        let mut results = self.clear_results(copies as usize * COMPARE_RESULT_WORDS * 8)?;
        let mut partial = self.partial_sums.borrow().address();
        let (mut table, mut expected_table) = (buffer.table, expected.table);
        let mut elements = buffer.elements;
        let (mut absolute, mut relative) = (tolerance.atol_rms, tolerance.rtol);
        self.launch(
            self.functions.typed(expected.dtype, "square")?,
            self.size_for(slots, copies),
            arguments!(expected_table, elements, partial, results),
        )?;
        self.finish_sums(buffer, partial, true, results)?;
        self.launch(
            self.functions.typed(buffer.dtype, kernel)?,
            self.size_for(slots, copies),
            arguments!(
                table,
                expected_table,
                elements,
                absolute,
                relative,
                partial,
                results
            ),
        )?;
        self.finish_sums(buffer, partial, false, results)?;
        let mut words = vec![0u64; copies as usize * COMPARE_RESULT_WORDS];
        copy_to_host(&self.gpu, results, &mut words)?;
        let comparisons = words.chunks_exact(COMPARE_RESULT_WORDS);
        Ok(comparisons
            .map(|words| decode_comparison(elements, words))
            .collect())
    }

    /// Adds the partial sums of each copy, and stores the root of their mean (`root`) or their mean in `results`.
    fn finish_sums(
        &self,
        buffer: BufferCopies,
        mut partial: CUdeviceptr,
        root: bool,
        mut results: CUdeviceptr,
    ) -> anyhow::Result<()> {
        let (mut elements, mut root) = (buffer.elements, u32::from(root));
        self.launch(
            self.functions.untyped("total")?,
            LaunchSize::new([1, buffer.copies]),
            arguments!(partial, elements, root, results),
        )?;
        Ok(())
    }

    fn reserve_partial_sums(&self, bytes: usize) -> anyhow::Result<()> {
        let mut partial = self.partial_sums.borrow_mut();
        if partial.bytes() < bytes {
            self.gpu.synchronize()?;
            *partial = self.memory.allocate(bytes.next_power_of_two())?;
        }
        Ok(())
    }

    /// A hash of each copy.
    pub(super) fn hash(&self, buffer: BufferCopies) -> anyhow::Result<Vec<u64>> {
        let mut queued = self.begin_hashes(buffer.copies as usize)?;
        self.queue_hashes(&mut queued, buffer)?;
        self.read_hashes(queued)
    }

    /// Clears memory for the hashes of this many copies, of one buffer or of several.
    pub(super) fn begin_hashes(&self, count: usize) -> anyhow::Result<QueuedHashes> {
        Ok(QueuedHashes {
            start: self.clear_results(count * 8)?,
            count: 0,
        })
    }

    /// Queues a hash of each copy of a buffer.
    pub(super) fn queue_hashes(
        &self,
        queued: &mut QueuedHashes,
        buffer: BufferCopies,
    ) -> anyhow::Result<()> {
        let mut hashes = queued.start + queued.count as u64 * 8;
        let (mut table, mut bytes) = (buffer.table, buffer.bytes());
        self.launch(
            self.functions.untyped("hash")?,
            self.size_for(bytes / 8, buffer.copies),
            arguments!(table, bytes, hashes),
        )?;
        queued.count += buffer.copies as usize;
        Ok(())
    }

    /// Waits for all queued hashes.
    pub(super) fn read_hashes(&self, queued: QueuedHashes) -> anyhow::Result<Vec<u64>> {
        let mut words = vec![0u64; queued.count];
        copy_to_host(&self.gpu, queued.start, &mut words)?;
        Ok(words)
    }

    /// Writes the pattern into guard zones.
    pub(super) fn write_guard_zones(&self, zones: &GuardZones) -> anyhow::Result<()> {
        let (mut list, mut key) = (zones.list_address(), zones.key);
        let function = self.functions.untyped("write_guard_zones")?;
        let size = LaunchSize::new([zones.count, 1]);
        Ok(self.launch(function, size, arguments!(list, key))?)
    }

    /// For each buffer, the damage to its guard zones that is nearest to its data, in bytes from the data; negative: before it.
    pub(super) fn check_guard_zones(
        &self,
        zones: &GuardZones,
        buffers: usize,
    ) -> anyhow::Result<Vec<Option<i64>>> {
        let mut damage = self.clear_results(buffers * 8)?;
        let mut words = vec![0u64; buffers];
        let (mut list, mut key) = (zones.list_address(), zones.key);
        self.launch(
            self.functions.untyped("check_guard_zones")?,
            LaunchSize::new([zones.count, 1]),
            arguments!(list, key, damage),
        )?;
        copy_to_host(&self.gpu, damage, &mut words)?;
        let decoded = words.into_iter().map(|word| match !word {
            u64::MAX => None,
            word if word % 2 == 0 => Some((word / 2) as i64),
            word => Some(-((word / 2) as i64)),
        });
        Ok(decoded.collect())
    }

    /// Overwrites the shared memory of every multiprocessor, so that nothing of earlier launches remains.
    pub(super) fn scrub_shared(&self) -> anyhow::Result<()> {
        let function = self.functions.untyped("scrub_shared")?;
        let bytes = self.gpu.max_shared_bytes;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        call!(cuFuncSetAttribute(function, attribute, bytes as i32))?;
        let mut words = bytes / 4;
        let size = LaunchSize {
            grid: [self.gpu.sm_count, 1],
            threads: 1024,
            shared_bytes: bytes,
        };
        Ok(self.launch_apart(function, size, arguments!(words))?)
    }

    /// Overwrites `bytes` bytes of the local memory of all threads, so that nothing of earlier launches remains.
    pub(super) fn scrub_local(&self, bytes: u64) -> anyhow::Result<()> {
        let function = self.functions.scrub_local(bytes)?;
        let mut value = 0xffff_ffffu32;
        let size = LaunchSize {
            // A multiprocessor holds at most two such blocks.
            grid: [2 * self.gpu.sm_count, 1],
            threads: 1024,
            shared_bytes: 0,
        };
        Ok(self.launch_apart(function, size, arguments!(value))?)
    }

    /// Queues a hash of each range, into `hashes`. `ranges`: start and length of each, in bytes and multiples of 8.
    pub(super) fn hash_ranges(
        &self,
        ranges: &JudgeBuffer,
        count: u32,
        hashes: &JudgeBuffer,
    ) -> anyhow::Result<()> {
        self.memory.set_access(Access::Writable)?;
        zero_memory(&self.gpu, hashes.address(), count as usize * 8)?;
        let (mut table, mut into) = (ranges.address(), hashes.address());
        let size = LaunchSize::new([RANGE_BLOCKS, count]);
        self.launch(
            self.functions.untyped("hash_ranges")?,
            size,
            arguments!(table, into),
        )?;
        Ok(())
    }

    /// Reads `bytes` bytes, so that the cache holds them. `sink`: writable memory.
    pub(super) fn read_through(
        &self,
        mut memory: CUdeviceptr,
        bytes: u64,
        mut sink: CUdeviceptr,
    ) -> anyhow::Result<()> {
        let mut groups = bytes / 16;
        let function = self.functions.untyped("read_through")?;
        let size = self.size_for(groups, 1);
        Ok(self.launch_apart(function, size, arguments!(memory, groups, sink))?)
    }

    /// Keeps the device busy for `nanoseconds`, so that what is queued meanwhile follows without a pause.
    pub(super) fn wait(&self, mut nanoseconds: u64) -> anyhow::Result<()> {
        let function = self.functions.untyped("wait")?;
        let size = self.size_for(1, 1);
        Ok(self.launch_apart(function, size, arguments!(nanoseconds))?)
    }

    /// Reads `bytes` bytes and writes nothing, so that the cache holds them.
    pub(super) fn warm(&self, mut memory: CUdeviceptr, bytes: u64) -> anyhow::Result<()> {
        let mut sectors = bytes.div_ceil(SECTOR_BYTES);
        let function = self.functions.untyped("warm")?;
        let size = self.size_for(sectors, 1);
        Ok(self.launch_apart(function, size, arguments!(memory, sectors))?)
    }
}

/// The name of the comparison kernel for two buffers, which must have the same shape.
fn compare_kernel(buffer: BufferCopies, expected: BufferCopies) -> anyhow::Result<&'static str> {
    anyhow::ensure!(
        expected.elements == buffer.elements && expected.copies == buffer.copies,
        "a buffer and its expected values differ in size"
    );
    if expected.dtype == DType::Float64 {
        return Ok("compare");
    }
    anyhow::ensure!(
        expected.dtype == buffer.dtype,
        "a buffer of {} cannot be compared with expected values of {}",
        buffer.dtype,
        expected.dtype
    );
    Ok("compare_same")
}

/// Decodes a `CompareResult` of `numerics.cu`.
fn decode_comparison(elements: u64, words: &[u64]) -> OutputComparison {
    OutputComparison {
        elements,
        failed: words[0],
        first: (words[0] > 0).then_some(Mismatch {
            index: !words[1],
            expected: f64::NAN,
            found: f64::NAN,
        }),
        max_abs_error: f64::from_bits(words[2]),
        max_rel_error: f64::from_bits(words[3]),
        worst_ratio: f64::from_bits(words[4]),
        mean_abs_error: f64::from_bits(words[6]),
    }
}
