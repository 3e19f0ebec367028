//! Compiles and loads the harness kernels (`numerics.cu`). Launches none: `harness_kernels` does.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use cudarc::driver::sys;

use super::compiler::Compiler;
use super::gpu::Gpu;
use super::launch_limits::local_memory;
use super::loaded_module::LoadedModule;
use crate::device::numerics;
use crate::device::program::{FillKernels, Program};
use crate::task::DType;

const NUMERICS: &str = include_str!("../numerics.h");
const KERNELS: &str = include_str!("numerics.cu");
/// Kernels without a dtype parameter.
const UNTYPED: [&str; 10] = [
    "total",
    "not_finite",
    "hash",
    "write_guard_zones",
    "check_guard_zones",
    "scrub_shared",
    "hash_ranges",
    "read_through",
    "warm",
    "wait",
];

/// Bytes of local memory that are overwritten in addition to those of the kernel: functions have frames at different places.
const OTHER_FRAMES_BYTES: u64 = 1024;
/// Up to this size the overwritten bytes are a power of two, above it a multiple of it. There are few such kernels to compile then.
const LOCAL_SCRUB_STEP: u64 = 8 << 10;
/// Maximum number of bytes of a thread that are overwritten. On a GPU with 132 multiprocessors this is 17 GiB in total.
const MAX_LOCAL_SCRUB: u64 = 64 << 10;
/// The most local memory of a thread that a kernel may have: all of it can be overwritten.
pub(super) const MAX_LOCAL_BYTES: u64 = MAX_LOCAL_SCRUB - OTHER_FRAMES_BYTES;

/// The functions of the loaded harness kernels.
pub(super) struct HarnessFunctions {
    gpu: Rc<Gpu>,
    compiler: Rc<Compiler>,
    untyped: HashMap<&'static str, sys::CUfunction>,
    typed: RefCell<HashMap<(DType, &'static str), sys::CUfunction>>,
    /// By the bytes that they overwrite.
    local_scrubs: RefCell<HashMap<u64, sys::CUfunction>>,
    /// Keeps the functions loaded.
    modules: RefCell<Vec<LoadedModule>>,
}

impl HarnessFunctions {
    /// Loads the kernels without a dtype.
    pub(super) fn load(gpu: &Rc<Gpu>, compiler: &Rc<Compiler>) -> anyhow::Result<Self> {
        let functions = Self {
            gpu: Rc::clone(gpu),
            compiler: Rc::clone(compiler),
            untyped: HashMap::new(),
            typed: RefCell::default(),
            local_scrubs: RefCell::default(),
            modules: RefCell::default(),
        };
        let untyped = functions.load_entries(&functions.compile("judge", "", &UNTYPED)?)?;
        let untyped = UNTYPED.iter().copied().zip(untyped).collect();
        Ok(Self {
            untyped,
            ..functions
        })
    }

    /// `definitions`: text before the source.
    fn compile(&self, name: &str, definitions: &str, entries: &[&str]) -> anyhow::Result<Program> {
        let source = KERNELS.replace(
            "#include \"numerics.h\"",
            &NUMERICS.replace("#pragma once", ""),
        );
        let source = format!("{definitions}{source}");
        self.compiler
            .compile_harness(name, &source, &["--fmad=false"], entries)
    }

    /// Loads the entries of a program, in their order.
    fn load_entries(&self, program: &Program) -> anyhow::Result<Vec<sys::CUfunction>> {
        let module = LoadedModule::load(&self.gpu, &std::fs::read(&program.image)?)?;
        let functions = program
            .entries
            .iter()
            .map(|entry| module.function(&entry.name));
        let functions = functions.collect::<anyhow::Result<Vec<_>>>()?;
        self.modules.borrow_mut().push(module);
        Ok(functions)
    }

    /// A kernel without a dtype.
    pub(super) fn untyped(&self, name: &'static str) -> anyhow::Result<sys::CUfunction> {
        let function = self.untyped.get(name).copied();
        function.ok_or_else(|| anyhow::anyhow!("no harness kernel `{name}`"))
    }

    /// A kernel for a dtype. All kernels of a dtype are loaded at the first use.
    pub(super) fn typed(
        &self,
        dtype: DType,
        name: &'static str,
    ) -> anyhow::Result<sys::CUfunction> {
        if let Some(function) = self.typed.borrow().get(&(dtype, name)) {
            return Ok(*function);
        }
        let (names, program) = self.compile_typed(dtype)?;
        let functions = self.load_entries(&program)?;
        let mut typed = self.typed.borrow_mut();
        for (name, function) in names.into_iter().zip(functions) {
            typed.insert((dtype, name), function);
        }
        (typed.get(&(dtype, name)).copied())
            .ok_or_else(|| anyhow::anyhow!("no harness kernel `{name}` for {dtype}"))
    }

    /// The kernels of a dtype, with their names in the order of the program's entries.
    fn compile_typed(&self, dtype: DType) -> anyhow::Result<(Vec<&'static str>, Program)> {
        let number = numerics::dtype_number(dtype);
        let mut names = vec!["fill", "fill_rows", "poison", "count_poison", "square"];
        let mut entries: Vec<_> = (names.iter())
            .map(|kernel| format!("{kernel}<{number}>"))
            .collect();
        names.push("compare");
        entries.push(format!("compare<{number}, 0>"));
        // For float64 both are the same kernel.
        if dtype != DType::Float64 {
            names.push("compare_same");
            entries.push(format!("compare<{number}, {number}>"));
        }
        let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
        let program = self.compile(&format!("judge-{dtype}"), "", &entries)?;
        Ok((names, program))
    }

    /// The kernels that fill buffers of a dtype, for another process.
    pub(super) fn fill_kernels(&self, dtype: DType) -> anyhow::Result<FillKernels> {
        let (names, program) = self.compile_typed(dtype)?;
        let entry_of = |kernel: &str| {
            let mut entries = names.iter().zip(&program.entries);
            let entry = entries.find(|(name, _)| **name == kernel);
            let entry = entry.map(|(_, entry)| entry.name.clone());
            entry.ok_or_else(|| anyhow::anyhow!("no harness kernel `{kernel}` for {dtype}"))
        };
        Ok(FillKernels {
            by_element: entry_of("fill")?,
            by_row: entry_of("fill_rows")?,
            program,
        })
    }

    /// The kernel that overwrites `bytes` bytes of every thread's local memory; at most `MAX_LOCAL_BYTES`.
    pub(super) fn scrub_local(&self, bytes: u64) -> anyhow::Result<sys::CUfunction> {
        let bytes = bytes.min(MAX_LOCAL_BYTES) + OTHER_FRAMES_BYTES;
        let bytes = if bytes > LOCAL_SCRUB_STEP {
            bytes.next_multiple_of(LOCAL_SCRUB_STEP)
        } else {
            bytes.next_power_of_two()
        };
        if let Some(function) = self.local_scrubs.borrow().get(&bytes) {
            return Ok(*function);
        }
        let definitions = format!("#define LOCAL_BYTES {bytes}\n");
        let name = format!("judge-local-{bytes}");
        let functions =
            self.load_entries(&self.compile(&name, &definitions, &["scrub_local"])?)?;
        let function = functions.first().copied();
        let function = function.ok_or_else(|| anyhow::anyhow!("no harness kernel `{name}`"))?;
        // Without this memory, the kernel overwrites nothing, and a candidate could find what it left.
        let overwritten = local_memory(function)?;
        anyhow::ensure!(
            overwritten >= bytes,
            "the harness kernel `{name}` was compiled to overwrite {overwritten} bytes of local memory instead of {bytes}"
        );
        self.local_scrubs.borrow_mut().insert(bytes, function);
        Ok(function)
    }
}
