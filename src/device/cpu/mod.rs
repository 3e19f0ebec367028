//! The CPU as a device: CUDA C++ compiled by the system's compiler, its threads as fibers, in a process that holds nothing else.
//!
//! A time on this device is a CPU time; whoever shows it says so.

use std::cell::RefCell;
use std::rc::Rc;

use indexmap::IndexMap;

mod arm;
mod compiler;
mod control;
mod diagnostics;
mod faults;
mod flags;
mod kept;
mod lines;
mod polls;
mod process;
mod refuse;
mod source;
mod state;
#[doc(hidden)]
pub mod texts;

pub use super::sandbox::{Mechanisms, mechanisms, require as require_sandbox};
pub use compiler::{Compiler, find as find_compiler};

use super::{Build, Compiled, Device, Lock, Opened, Program, Purpose};
use crate::kernel::plan::{Plan, Unit};
use crate::verdict::{DeviceIdentity, Resources};

/// How many blocks the same pair of processes is timed for: where a process lands in memory moves its times for all its life.
const BLOCKS_A_PROCESS: usize = 2;

/// This machine's processor with its C++ compiler.
pub struct CpuDevice {
    toolchain: compiler::Toolchain,
    cores: u32,
    kept: Rc<RefCell<kept::Kept>>,
}

impl CpuDevice {
    /// Finds the compiler and compiles what all candidates share, unless that was done before.
    ///
    /// # Errors
    /// `Failure::environment` where there is no compiler, or no place for its results.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            toolchain: compiler::Toolchain::open()?,
            cores: cores(),
            kept: Rc::default(),
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
    pub(crate) fn compiler(&self) -> &Compiler {
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

    fn sandbox(&self) -> String {
        let held = mechanisms().describe();
        match self.toolchain.is_static() {
            true => held.to_owned(),
            false => format!("{held}, with a loader"),
        }
    }

    fn builds(&self) -> &[Build] {
        self.toolchain.builds()
    }

    fn compile(&self, unit: &Unit, build: Build) -> anyhow::Result<Compiled> {
        compile(&self.toolchain, unit, build)
    }

    fn compile_each(&self, unit: &Unit, builds: &[Build]) -> anyhow::Result<Vec<Compiled>> {
        let toolchain = &self.toolchain;
        std::thread::scope(|scope| {
            let running: Vec<_> = (builds.iter())
                .map(|build| scope.spawn(move || compile(toolchain, unit, *build)))
                .collect();
            let joined = running.into_iter().map(|running| {
                running
                    .join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("compiling a kernel panicked")))
            });
            joined.collect()
        })
    }

    fn open(&self, program: &Program, plan: &Plan, _: Purpose) -> anyhow::Result<Opened> {
        if let Some(refusal) = refuse::refuse_plan(plan) {
            return Ok(Opened::Refused(refusal));
        }
        arm::CpuArm::open(
            program,
            plan,
            self.cores,
            self.toolchain.empty_folder(),
            &self.toolchain.trial(),
            Rc::clone(&self.kept),
        )
    }

    fn blocks_a_process(&self) -> Option<usize> {
        Some(BLOCKS_A_PROCESS)
    }

    fn lock(&self) -> Lock {
        lock()
    }
}

/// The lock of this machine's processor, one for each user.
pub(crate) fn lock() -> Lock {
    // SAFETY: geteuid has no preconditions and cannot fail.
    let user = unsafe { libc::geteuid() };
    Lock {
        path: super::lock_folder().join(format!("kforge-host-{user}.lock")),
        is_host: true,
    }
}

fn compile(toolchain: &compiler::Toolchain, unit: &Unit, build: Build) -> anyhow::Result<Compiled> {
    if let Some(refusal) = refuse::refuse_unit(unit) {
        return Ok(Compiled::Refused(refusal));
    }
    let text = source::translation_unit(unit);
    Ok(
        match toolchain.build(&unit.source, &text, build, unit.fast_math)? {
            Ok((image, held, compile_seconds)) => Compiled::Ready(Program {
                image,
                held,
                build,
                schedule: 0,
                resources: Resources::default(),
                compile_seconds,
                log: String::new(),
                entries: Vec::new(),
                facts: IndexMap::new(),
            }),
            Err(refusal) => Compiled::Refused(refusal),
        },
    )
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
