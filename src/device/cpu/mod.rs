//! The CPU as a device: CUDA C++ compiled by the system's C++ compiler, run in a separate confined process, with CUDA threads as
//! fibers.
//!
//! Times on this device are CPU times; they say nothing about a GPU. Nothing here decides whether a result is correct.

use std::cell::RefCell;
use std::rc::Rc;

mod access_sites;
mod arch_branches;
mod bound_kernel;
mod checked_source;
mod code_sections;
mod compiler;
mod compiler_flags;
mod compiler_runner;
mod control_page;
mod diagnostics;
mod directives;
mod expansion;
mod explain;
mod faults;
mod gpu_macros;
mod headers;
mod heap_calls;
mod input_cache;
mod layout;
mod limits;
mod line_table;
mod memory_locations;
mod own_names;
mod plan_encoding;
mod private_pages;
mod process;
mod process_memory;
mod program_symbols;
mod runtime_build;
mod saved_memory;
mod screened_compiler;
mod shared_declarations;
mod shared_memory;
mod source;
mod source_checks;
mod taken_names;
#[doc(hidden)]
pub mod texts;
mod toolchain;
mod wait_loops;
mod words;

pub use super::sandbox::{SandboxSupport, require_sandbox, sandbox_support};
pub use compiler::{HostCompiler, find_compiler};
pub use gpu_macros::GpuMacros;

use bound_kernel::{KernelEnvironment, StartingKernel};
use screened_compiler::ScreenedCompiler;

use super::argument_checks::missing_kernel;
use super::{
    Build, Compile, Compiled, Device, LockFile, Opened, Program, Purpose, Refusal, SourceTrace,
    TimingProperties, TraceDifference,
};
use crate::kernel::plan::{LaunchPlan, TranslationUnit};
use crate::verdict::DeviceIdentity;

/// The number of timing blocks that one pair of processes serves. Where a process is placed in memory affects all of its times, so pairs
/// are replaced often.
const BLOCKS_PER_PROCESS: usize = 2;

/// This machine's processor with its C++ compiler.
pub struct CpuDevice {
    toolchain: toolchain::Toolchain,
    cores: u32,
    input_cache: Rc<RefCell<input_cache::InputCache>>,
    symbols: Rc<RefCell<program_symbols::SymbolCache>>,
    /// For a screen: sources are compiled as NVRTC sees them, without code for the CPU.
    screened: Option<ScreenedCompiler>,
}

impl CpuDevice {
    /// Finds the compiler and builds what all candidates share, unless an earlier process did.
    ///
    /// # Errors
    /// `Failure::environment` if there is no compiler, or its results cannot be stored.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            toolchain: toolchain::Toolchain::open()?,
            cores: cores(),
            input_cache: Rc::default(),
            symbols: Rc::default(),
            screened: None,
        })
    }

    /// Like `new`, for a screen: compiles what a GPU's compiler would compile. `macros`: the macros of that compiler. A source's code for
    /// the CPU is left out.
    ///
    /// # Errors
    /// See `new`.
    pub fn for_screen(macros: GpuMacros) -> anyhow::Result<Self> {
        let device = Self::new()?;
        let screened = ScreenedCompiler::new(device.compiler(), macros)?;
        Ok(Self {
            screened: Some(screened),
            ..device
        })
    }

    /// The first difference between the source trace of a GPU's compiler (`trace`) and that of this device's compiler. `None` if they are
    /// equal, and for a device that was not made by `for_screen`.
    ///
    /// # Errors
    /// If the preprocessor cannot be run.
    pub fn trace_difference(
        &self,
        unit: &TranslationUnit,
        trace: &SourceTrace,
    ) -> anyhow::Result<Option<TraceDifference>> {
        match &self.screened {
            Some(screened) => screened.trace_difference(&self.toolchain, unit, trace),
            None => Ok(None),
        }
    }

    /// The compiler that was found.
    pub(crate) fn compiler(&self) -> &HostCompiler {
        self.toolchain.compiler()
    }

    /// Whether programs are linked statically, so that their processes need no files.
    pub(crate) fn is_static(&self) -> bool {
        self.toolchain.is_static()
    }

    /// The builds that this compiler cannot make, each with its first error.
    pub(crate) fn missing_builds(&self) -> Vec<(Build, String)> {
        self.toolchain.missing_builds()
    }
}

/// The device that verdicts name. Does not need a compiler.
pub(crate) fn identity() -> DeviceIdentity {
    DeviceIdentity {
        name: processor_name(),
        arch: std::env::consts::ARCH.to_owned(),
        uuid: None,
        driver: None,
        cores: Some(cores()),
    }
}

/// The number of cores that this process may use.
pub(crate) fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32)
}

impl CpuDevice {
    /// Starts the process of a kernel. The inner result is an error if the kernel is refused.
    fn begin<'a>(
        &'a self,
        program: &'a Program,
        plan: &'a LaunchPlan,
        purpose: Purpose,
    ) -> anyhow::Result<Result<StartingKernel<'a>, Refusal>> {
        if let Some(refusal) = source_checks::refuse_plan(plan) {
            return Ok(Err(refusal));
        }
        let environment = KernelEnvironment {
            threads: self.cores,
            waits_asleep: matches!(purpose, Purpose::Expect { .. }),
            folder: self.toolchain.empty_folder(),
            empty_program: self.toolchain.empty_program(),
            input_cache: Rc::clone(&self.input_cache),
            symbols: Rc::clone(&self.symbols),
        };
        StartingKernel::begin(program, plan, environment)
    }
}

impl Device for CpuDevice {
    fn identity(&self) -> DeviceIdentity {
        identity()
    }

    fn sandbox_description(&self) -> String {
        let mechanisms = sandbox_support().describe();
        if self.toolchain.is_static() {
            mechanisms.to_owned()
        } else {
            format!("{mechanisms}, with a loader")
        }
    }

    /// Guard zones surround every buffer instead.
    fn has_edges(&self) -> bool {
        false
    }

    fn open(
        &self,
        program: &Program,
        plan: &LaunchPlan,
        purpose: Purpose,
    ) -> anyhow::Result<Opened> {
        match self.begin(program, plan, purpose)? {
            Ok(starting) => starting.finish(),
            Err(refusal) => Ok(Opened::Refused(refusal)),
        }
    }

    /// The processes start at the same time.
    fn open_pair(
        &self,
        [one, other]: [(&Program, &LaunchPlan); 2],
        purpose: Purpose,
    ) -> anyhow::Result<[Opened; 2]> {
        let begin = |(program, plan)| self.begin(program, plan, purpose);
        let starting = [begin(one)?, begin(other)?];
        let [one, other] = starting.map(|starting| match starting {
            Ok(starting) => starting.finish(),
            Err(refusal) => Ok(Opened::Refused(refusal)),
        });
        Ok([one?, other?])
    }
}

impl Compile for CpuDevice {
    fn builds(&self) -> &[Build] {
        self.toolchain.builds()
    }

    fn compile(&self, unit: &TranslationUnit, build: Build) -> anyhow::Result<Compiled> {
        compile_unit(&self.toolchain, self.screened.as_ref(), unit, build)
    }

    fn compile_builds(
        &self,
        unit: &TranslationUnit,
        builds: &[Build],
    ) -> anyhow::Result<Vec<Compiled>> {
        let (toolchain, screened) = (&self.toolchain, self.screened.as_ref());
        std::thread::scope(|scope| {
            let compilations: Vec<_> = (builds.iter())
                .map(|build| scope.spawn(move || compile_unit(toolchain, screened, unit, *build)))
                .collect();
            let results = compilations.into_iter().map(|compilation| {
                compilation
                    .join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("compiling a kernel panicked")))
            });
            results.collect()
        })
    }
}

impl TimingProperties for CpuDevice {
    fn blocks_per_process(&self) -> Option<usize> {
        Some(BLOCKS_PER_PROCESS)
    }

    fn lock_file(&self) -> LockFile {
        host_lock()
    }
}

/// The lock of this machine's processor, one for each user.
pub(crate) fn host_lock() -> LockFile {
    // SAFETY: geteuid has no preconditions and cannot fail.
    let user = unsafe { libc::geteuid() };
    LockFile {
        path: super::lock::lock_folder().join(format!("kforge-host-{user}.lock")),
        is_host: true,
    }
}

fn compile_unit(
    toolchain: &toolchain::Toolchain,
    screened: Option<&ScreenedCompiler>,
    unit: &TranslationUnit,
    build: Build,
) -> anyhow::Result<Compiled> {
    let refusal = source_checks::refuse_arguments(unit).or_else(|| missing_kernel(unit));
    if let Some(refusal) = refusal {
        return Ok(Compiled::Refused(refusal));
    }
    let (checked, directives) = match screened {
        Some(screened) => (
            source_checks::check_source_for_gpu(&unit.source),
            screened.directives(unit),
        ),
        None => (source_checks::check_source(&unit.source), String::new()),
    };
    toolchain.build(&toolchain::CompileTask {
        unit,
        text: &source::generate_cpp(unit, &checked, &directives),
        checked: &checked,
        build,
    })
}

fn processor_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| {
        let (_, name) = line.strip_prefix("model name")?.split_once(':')?;
        Some(name.trim().to_owned())
    });
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}
