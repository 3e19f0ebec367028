//! The CPU as a device: CUDA C++ compiled by the system's compiler, its threads as fibers, in a process that holds nothing else.
//!
//! A time on this device is a CPU time; whoever shows it says so.

use std::cell::RefCell;
use std::rc::Rc;

mod bound_kernel;
mod compiler;
mod compiler_flags;
mod compiler_runner;
mod control_page;
mod diagnostics;
mod faults;
mod input_cache;
mod line_table;
mod process;
mod runtime_build;
mod saved_variables;
mod shared_declarations;
mod source;
mod source_checks;
#[doc(hidden)]
pub mod texts;
mod toolchain;
mod wait_loops;

pub use super::sandbox::{SandboxSupport, require_sandbox, sandbox_support};
pub use compiler::{HostCompiler, find_compiler};

use super::{
    Build, Compile, Compiled, Device, LockFile, Opened, Program, Purpose, TimingProperties,
};
use crate::kernel::plan::{Plan, TranslationUnit};
use crate::verdict::DeviceIdentity;

/// How many blocks the same pair of processes is timed for: where a process lands in memory moves its times for all its life.
const BLOCKS_PER_PROCESS: usize = 2;

/// This machine's processor with its C++ compiler.
pub struct CpuDevice {
    toolchain: toolchain::Toolchain,
    cores: u32,
    input_cache: Rc<RefCell<input_cache::InputCache>>,
}

impl CpuDevice {
    /// Finds the compiler and compiles what all candidates share, unless that was done before.
    ///
    /// # Errors
    /// `Failure::environment` where there is no compiler, or no place for its results.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            toolchain: toolchain::Toolchain::open()?,
            cores: cores(),
            input_cache: Rc::default(),
        })
    }
}

/// What judges on this machine, without a look at the compiler.
pub(crate) fn identity() -> DeviceIdentity {
    DeviceIdentity {
        name: processor_name(),
        arch: std::env::consts::ARCH.to_owned(),
        uuid: None,
        driver: None,
        cores: Some(cores()),
    }
}

/// The cores that this process may use.
pub(crate) fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32)
}

impl CpuDevice {
    /// The compiler that it found.
    pub(crate) fn compiler(&self) -> &HostCompiler {
        self.toolchain.compiler()
    }

    /// Whether programs are linked statically, so that their processes need no file.
    pub(crate) fn is_static(&self) -> bool {
        self.toolchain.is_static()
    }
}

impl CpuDevice {
    /// The builds that this compiler cannot make, each with its first complaint.
    pub(crate) fn missing_builds(&self) -> Vec<(Build, String)> {
        self.toolchain.missing_builds()
    }
}

impl Device for CpuDevice {
    fn identity(&self) -> DeviceIdentity {
        identity()
    }

    fn sandbox_description(&self) -> String {
        let mechanisms = sandbox_support().describe();
        match self.toolchain.is_static() {
            true => mechanisms.to_owned(),
            false => format!("{mechanisms}, with a loader"),
        }
    }

    fn open(&self, program: &Program, plan: &Plan, _: Purpose) -> anyhow::Result<Opened> {
        if let Some(refusal) = source_checks::refuse_plan(plan) {
            return Ok(Opened::Refused(refusal));
        }
        bound_kernel::CpuBoundKernel::open(
            program,
            plan,
            self.cores,
            self.toolchain.empty_folder(),
            &self.toolchain.empty_program(),
            Rc::clone(&self.input_cache),
        )
    }
}

impl Compile for CpuDevice {
    fn builds(&self) -> &[Build] {
        self.toolchain.builds()
    }

    fn compile(&self, unit: &TranslationUnit, build: Build) -> anyhow::Result<Compiled> {
        compile_unit(&self.toolchain, unit, build)
    }

    fn compile_builds(
        &self,
        unit: &TranslationUnit,
        builds: &[Build],
    ) -> anyhow::Result<Vec<Compiled>> {
        let toolchain = &self.toolchain;
        std::thread::scope(|scope| {
            let running: Vec<_> = (builds.iter())
                .map(|build| scope.spawn(move || compile_unit(toolchain, unit, *build)))
                .collect();
            let joined = running.into_iter().map(|running| {
                running
                    .join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("compiling a kernel panicked")))
            });
            joined.collect()
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
    unit: &TranslationUnit,
    build: Build,
) -> anyhow::Result<Compiled> {
    if let Some(refusal) = source_checks::refuse_unit(unit) {
        return Ok(Compiled::Refused(refusal));
    }
    toolchain.build(&toolchain::CompileTask {
        kernel: &unit.source,
        text: &source::generate_cpp(unit),
        build,
        fast_math: unit.fast_math,
    })
}

fn processor_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| {
        line.strip_prefix("model name")?
            .split_once(':')
            .map(|(_, name)| name.trim().to_owned())
    });
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}
