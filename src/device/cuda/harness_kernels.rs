//! The judge's own device code, loaded: what `numerics` does to memory that the CPU reaches, for memory that it does not.
//!
//! Every call is queued on the card's stream; those that give an answer wait for it. Never called while a candidate runs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::ptr;
use std::rc::Rc;

use cudarc::driver::sys::{self, CUdeviceptr};

use super::card::{DriverError, Gpu, call};
use super::compiler::Compiler;
use super::memory::{DeviceBuffer, copy_to_host, zero_memory};
use crate::device::numerics::{self, RawDistribution};
use crate::device::{Comparison, Poison};
use crate::task::{DType, Distribution, Tolerance};

const NUMERICS: &str = include_str!("../numerics.h");
const KERNELS: &str = include_str!("numerics.cu");
/// Kernels of no dtype.
const COMMON: [&str; 7] = [
    "total",
    "not_finite",
    "hash",
    "renew_zones",
    "look_at_zones",
    "scrub_shared",
    "read_through",
];
const THREADS: u32 = 256;
/// Bytes of answers that one question can have.
const RESULT_BYTES: usize = 1 << 20;
/// The layout of `Outcome` in `numerics.cu`, in words.
const COMPARE_RESULT_WORDS: usize = 7;
/// As in `numerics.h`: lanes of a piece, elements of a piece.
const LANES: u64 = 8;
const PIECE: u64 = 4096;
/// As in `numerics.cu`.
const MAX_NAMED_COPIES: usize = 16;

/// Pointers to a kernel's arguments, in order: variables that live until it is queued.
macro_rules! arguments {
    ($($value:ident),* $(,)?) => {
        &mut [$((&raw mut $value).cast::<::std::ffi::c_void>()),*]
    };
}
pub(super) use arguments;

/// A module of the driver's, with the functions that were asked for.
pub(super) struct LoadedModule {
    card: Rc<Gpu>,
    pub(super) handle: sys::CUmodule,
}

impl LoadedModule {
    pub(super) fn load(card: &Rc<Gpu>, image: &[u8]) -> Result<Self, DriverError> {
        let mut handle = ptr::null_mut();
        call!(cuModuleLoadData(&raw mut handle, image.as_ptr().cast()))?;
        Ok(Self {
            card: Rc::clone(card),
            handle,
        })
    }

    pub(super) fn function(&self, name: &str) -> anyhow::Result<sys::CUfunction> {
        let name = CString::new(name)?;
        let mut function = ptr::null_mut();
        call!(cuModuleGetFunction(
            &raw mut function,
            self.handle,
            name.as_ptr()
        ))?;
        Ok(function)
    }
}

impl Drop for LoadedModule {
    fn drop(&mut self) {
        if !self.card.is_broken() {
            let _ = call!(cuModuleUnload(self.handle));
        }
    }
}

/// One buffer in all copies: a table of addresses on the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct BufferCopies {
    pub(super) table: CUdeviceptr,
    pub(super) copies: u32,
    pub(super) dtype: DType,
    pub(super) elements: u64,
}

impl BufferCopies {
    pub(super) fn bytes(&self) -> u64 {
        self.elements * self.dtype.bytes()
    }
}

/// The numbers of the copies that a buffer's places stand for; none: 0, 1, 2, …
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct CopyNumbers {
    named: u32,
    numbers: [u32; MAX_NAMED_COPIES],
}

impl CopyNumbers {
    /// At most [`Own::MOST_COPIES`].
    pub(super) fn named(numbers: &[u32]) -> Self {
        let mut copies = Self {
            named: numbers.len().min(MAX_NAMED_COPIES) as u32,
            ..Self::default()
        };
        for (slot, number) in copies.numbers.iter_mut().zip(numbers) {
            *slot = *number;
        }
        copies
    }
}

pub(super) struct HarnessKernels {
    card: Rc<Gpu>,
    compiler: Rc<Compiler>,
    untyped: HashMap<&'static str, sys::CUfunction>,
    typed: RefCell<HashMap<(DType, &'static str), sys::CUfunction>>,
    modules: RefCell<Vec<LoadedModule>>,
    results: DeviceBuffer,
    /// Partial sums of comparisons; grows.
    partial_sums: RefCell<DeviceBuffer>,
}

impl HarnessKernels {
    pub(super) const MAX_COPIES: usize = MAX_NAMED_COPIES;

    pub(super) fn load(card: &Rc<Gpu>, compiler: &Rc<Compiler>) -> anyhow::Result<Self> {
        let own = Self {
            card: Rc::clone(card),
            compiler: Rc::clone(compiler),
            untyped: HashMap::new(),
            typed: RefCell::default(),
            modules: RefCell::default(),
            results: DeviceBuffer::new(card, RESULT_BYTES)?,
            partial_sums: RefCell::new(DeviceBuffer::new(card, 1 << 20)?),
        };
        let functions = own.compile("judge", &COMMON)?;
        let common = COMMON.iter().copied().zip(functions).collect();
        Ok(Self {
            untyped: common,
            ..own
        })
    }

    fn compile(&self, name: &str, entries: &[&str]) -> anyhow::Result<Vec<sys::CUfunction>> {
        let source = KERNELS.replace(
            "#include \"numerics.h\"",
            &NUMERICS.replace("#pragma once", ""),
        );
        let program = self
            .compiler
            .compile_harness(name, &source, &["--fmad=false"], entries)?;
        let module = LoadedModule::load(&self.card, &std::fs::read(&program.image)?)?;
        let functions = program.entries.iter().map(|entry| module.function(entry));
        let functions = functions.collect::<anyhow::Result<Vec<_>>>()?;
        self.modules.borrow_mut().push(module);
        Ok(functions)
    }

    /// The kernels of one dtype, loaded when they are first needed.
    fn typed_kernel(&self, dtype: DType, name: &'static str) -> anyhow::Result<sys::CUfunction> {
        if let Some(function) = self.typed.borrow().get(&(dtype, name)) {
            return Ok(*function);
        }
        let number = numerics::dtype_number(dtype);
        let kinds = ["fill", "fill_rows", "poison", "count_poison", "square"];
        let mut names: Vec<&'static str> = kinds.to_vec();
        let mut entries: Vec<_> = kinds
            .iter()
            .map(|kind| format!("{kind}<{number}>"))
            .collect();
        names.push("compare");
        entries.push(format!("compare<{number}, 0>"));
        // With float64 both are the same.
        if dtype != DType::Float64 {
            names.push("compare_same");
            entries.push(format!("compare<{number}, {number}>"));
        }
        let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
        let functions = self.compile(&format!("judge-{dtype}"), &entries)?;
        let mut typed = self.typed.borrow_mut();
        for (name, function) in names.into_iter().zip(functions) {
            typed.insert((dtype, name), function);
        }
        (typed.get(&(dtype, name)).copied())
            .ok_or_else(|| anyhow::anyhow!("the judge has no kernel `{name}` for {dtype}"))
    }

    fn untyped_kernel(&self, name: &'static str) -> anyhow::Result<sys::CUfunction> {
        let function = self.untyped.get(name).copied();
        function.ok_or_else(|| anyhow::anyhow!("the judge has no kernel `{name}`"))
    }

    fn launch(
        &self,
        function: sys::CUfunction,
        grid: (u32, u32),
        (threads, shared): (u32, u32),
        arguments: &mut [*mut c_void],
    ) -> Result<(), DriverError> {
        call!(cuLaunchKernel(
            function,
            grid.0,
            grid.1,
            1,
            threads,
            1,
            1,
            shared,
            self.card.stream,
            arguments.as_mut_ptr(),
            ptr::null_mut()
        ))
    }

    /// Enough blocks to keep the card busy, over all copies.
    fn grid_for(&self, threads_wanted: u64, copies: u32) -> (u32, u32) {
        let most = (self.card.sm_count * 16).div_ceil(copies.max(1)).max(1);
        let wanted = threads_wanted.div_ceil(u64::from(THREADS)).max(1);
        (wanted.min(u64::from(most)) as u32, copies)
    }

    pub(super) fn fill(
        &self,
        places: BufferCopies,
        row: u64,
        distribution: &Distribution,
        (mut seed, mut copies): (u64, CopyNumbers),
    ) -> anyhow::Result<()> {
        let row = row.clamp(1, places.elements.max(1));
        let mut raw: RawDistribution = numerics::raw_distribution(places.dtype, row, distribution);
        let by_rows = raw.needs_whole_row();
        let function =
            self.typed_kernel(places.dtype, if by_rows { "fill_rows" } else { "fill" })?;
        let (mut table, mut elements) = (places.table, places.elements);
        let threads = if by_rows {
            elements / row
        } else {
            elements.div_ceil(4)
        };
        self.launch(
            function,
            self.grid_for(threads, places.copies),
            (THREADS, 0),
            arguments!(table, elements, raw, seed, copies),
        )?;
        Ok(())
    }

    pub(super) fn poison(
        &self,
        places: BufferCopies,
        pattern: Poison,
        mut copies: CopyNumbers,
    ) -> anyhow::Result<()> {
        let function = self.typed_kernel(places.dtype, "poison")?;
        let (mut table, mut elements) = (places.table, places.elements);
        let (mut finite, mut seed) = poison_arguments(pattern);
        self.launch(
            function,
            self.grid_for(elements.div_ceil(4), places.copies),
            (THREADS, 0),
            arguments!(table, elements, finite, seed, copies),
        )?;
        Ok(())
    }

    /// For each copy how many elements hold their poison (`want`), or another value, and the first of them.
    pub(super) fn count_poison(
        &self,
        places: BufferCopies,
        pattern: Poison,
        mut copies: CopyNumbers,
        want: bool,
    ) -> anyhow::Result<Vec<(u64, Option<u64>)>> {
        let function = self.typed_kernel(places.dtype, "count_poison")?;
        let mut counts = self.clear_results(places.copies as usize * 16)?;
        let (mut table, mut elements) = (places.table, places.elements);
        let (mut finite, mut seed) = poison_arguments(pattern);
        let mut want = u32::from(want);
        self.launch(
            function,
            self.grid_for(elements, places.copies),
            (THREADS, 0),
            arguments!(table, elements, finite, seed, copies, want, counts),
        )?;
        self.read_counts(places.copies)
    }

    /// For each copy of doubles how many are no finite number, and the first.
    pub(super) fn not_finite(
        &self,
        places: BufferCopies,
    ) -> anyhow::Result<Vec<(u64, Option<u64>)>> {
        let mut counts = self.clear_results(places.copies as usize * 16)?;
        let (mut table, mut elements) = (places.table, places.elements);
        self.launch(
            self.untyped_kernel("not_finite")?,
            self.grid_for(elements, places.copies),
            (THREADS, 0),
            arguments!(table, elements, counts),
        )?;
        self.read_counts(places.copies)
    }

    /// Room for so many bytes of answers, all zeros.
    fn clear_results(&self, bytes: usize) -> anyhow::Result<CUdeviceptr> {
        anyhow::ensure!(bytes <= self.results.bytes(), "too many copies of a buffer");
        zero_memory(&self.card, self.results.address(), bytes)?;
        Ok(self.results.address())
    }

    fn read_counts(&self, copies: u32) -> anyhow::Result<Vec<(u64, Option<u64>)>> {
        let mut words = vec![0u64; copies as usize * 2];
        copy_to_host(&self.card, self.results.address(), &mut words)?;
        let pairs = words.chunks_exact(2);
        Ok(pairs
            .map(|pair| (pair[0], (pair[0] > 0).then_some(!pair[1])))
            .collect())
    }

    /// Each copy against its expected values: doubles, or the buffer's own dtype. The same bits as `numerics::compare`.
    pub(super) fn compare(
        &self,
        places: BufferCopies,
        expected: BufferCopies,
        tolerance: Tolerance,
    ) -> anyhow::Result<Vec<Comparison>> {
        let copies = places.copies;
        anyhow::ensure!(
            expected.elements == places.elements && expected.copies == copies,
            "a buffer has another size than what it is compared with"
        );
        let same = expected.dtype != DType::Float64;
        anyhow::ensure!(
            !same || expected.dtype == places.dtype,
            "a buffer has another dtype than what it is compared with"
        );
        let slots = places.elements.div_ceil(PIECE) * LANES;
        self.reserve_partial_sums((slots * u64::from(copies) * 8) as usize)?;
        let mut outcomes = self.clear_results(copies as usize * COMPARE_RESULT_WORDS * 8)?;
        let mut partial = self.partial_sums.borrow().address();
        let (mut table, mut expected_table) = (places.table, expected.table);
        let mut elements = places.elements;
        let (mut absolute, mut relative) = (tolerance.atol_rms, tolerance.rtol);
        self.launch(
            self.typed_kernel(expected.dtype, "square")?,
            self.grid_for(slots, copies),
            (THREADS, 0),
            arguments!(expected_table, elements, partial),
        )?;
        self.finish_sums(copies, partial, elements, true, outcomes)?;
        self.launch(
            self.typed_kernel(places.dtype, if same { "compare_same" } else { "compare" })?,
            self.grid_for(slots, copies),
            (THREADS, 0),
            arguments!(
                table,
                expected_table,
                elements,
                absolute,
                relative,
                partial,
                outcomes
            ),
        )?;
        self.finish_sums(copies, partial, elements, false, outcomes)?;
        let mut words = vec![0u64; copies as usize * COMPARE_RESULT_WORDS];
        copy_to_host(&self.card, outcomes, &mut words)?;
        Ok(words
            .chunks_exact(COMPARE_RESULT_WORDS)
            .map(|words| Comparison {
                elements,
                failed: words[0],
                // What was expected and found there is looked up by whoever wants it.
                first: (words[0] > 0).then_some((!words[1], f64::NAN, f64::NAN)),
                max_abs_error: f64::from_bits(words[2]),
                max_rel_error: f64::from_bits(words[3]),
                worst_ratio: f64::from_bits(words[4]),
                mean_abs_error: f64::from_bits(words[6]),
            })
            .collect())
    }

    fn finish_sums(
        &self,
        copies: u32,
        mut partial: CUdeviceptr,
        mut elements: u64,
        root: bool,
        mut outcomes: CUdeviceptr,
    ) -> anyhow::Result<()> {
        let mut root = u32::from(root);
        self.launch(
            self.untyped_kernel("total")?,
            (1, copies),
            (THREADS, 0),
            arguments!(partial, elements, root, outcomes),
        )?;
        Ok(())
    }

    fn reserve_partial_sums(&self, bytes: usize) -> anyhow::Result<()> {
        let mut partial = self.partial_sums.borrow_mut();
        if partial.bytes() < bytes {
            self.card.synchronize()?;
            *partial = DeviceBuffer::new(&self.card, bytes.next_power_of_two())?;
        }
        Ok(())
    }

    /// A hash of each copy.
    pub(super) fn hash(&self, places: BufferCopies) -> anyhow::Result<Vec<u64>> {
        let mut hashes = self.clear_results(places.copies as usize * 8)?;
        let (mut table, mut bytes) = (places.table, places.bytes());
        self.launch(
            self.untyped_kernel("hash")?,
            self.grid_for(bytes / 8, places.copies),
            (THREADS, 0),
            arguments!(table, bytes, hashes),
        )?;
        let mut words = vec![0u64; places.copies as usize];
        copy_to_host(&self.card, hashes, &mut words)?;
        Ok(words)
    }

    /// Writes all guard zones anew.
    pub(super) fn write_guard_zones(
        &self,
        mut zones: CUdeviceptr,
        count: u32,
    ) -> anyhow::Result<()> {
        let arguments = arguments!(zones);
        let renew = self.untyped_kernel("renew_zones")?;
        Ok(self.launch(renew, (count, 1), (THREADS, 0), arguments)?)
    }

    /// For each buffer how far from its data the nearest damage to its guard zones lies, in bytes; negative: before it.
    pub(super) fn check_guard_zones(
        &self,
        mut zones: CUdeviceptr,
        count: u32,
        buffers: usize,
    ) -> anyhow::Result<Vec<Option<i64>>> {
        let mut damages = self.clear_results(buffers * 8)?;
        let mut words = vec![0u64; buffers];
        let arguments = arguments!(zones, damages);
        self.launch(
            self.untyped_kernel("look_at_zones")?,
            (count, 1),
            (THREADS, 0),
            arguments,
        )?;
        copy_to_host(&self.card, damages, &mut words)?;
        let decoded = words.into_iter().map(|word| match !word {
            u64::MAX => None,
            word if word % 2 == 0 => Some((word / 2) as i64),
            word => Some(-((word / 2) as i64)),
        });
        Ok(decoded.collect())
    }

    /// Leaves nothing of earlier launches in any multiprocessor's shared memory.
    pub(super) fn scrub_shared(&self) -> anyhow::Result<()> {
        let function = self.untyped_kernel("scrub_shared")?;
        let bytes = self.card.max_shared_bytes;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        call!(cuFuncSetAttribute(function, attribute, bytes as i32))?;
        let mut words = bytes / 4;
        let arguments = arguments!(words);
        Ok(self.launch(function, (self.card.sm_count, 1), (1024, bytes), arguments)?)
    }

    /// Reads so many bytes, so that they are what the cache holds.
    pub(super) fn read_through(&self, mut memory: CUdeviceptr, bytes: u64) -> anyhow::Result<()> {
        let mut groups = bytes / 16;
        let mut sink = self.results.address();
        let grid = self.grid_for(groups, 1);
        let arguments = arguments!(memory, groups, sink);
        Ok(self.launch(
            self.untyped_kernel("read_through")?,
            grid,
            (THREADS, 0),
            arguments,
        )?)
    }
}

fn poison_arguments(pattern: Poison) -> (u32, u64) {
    match pattern {
        Poison::Nan => (0, 0),
        Poison::Finite { seed } => (1, seed),
    }
}
