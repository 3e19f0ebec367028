//! Oracles and baselines in Python: the expected outputs of a task by the `run` of its definition or of a Python file, and functions that
//! kernels are timed against.
//!
//! One Python process serves all cases of a judge. `process` starts it and exchanges messages with it; `kernel` is the oracle bound to one
//! case, over host memory, and `device_kernel` over a GPU's; `baseline` is a baseline bound to one case, with copies of its inputs. `interpreter` finds the program. Never runs
//! a candidate.

mod baseline;
mod baseline_layout;
mod device_fill;
mod device_kernel;
mod interpreter;
mod kernel;
mod process;

use std::cell::{Cell, RefCell};
use std::process::{Command, Stdio};
use std::rc::Rc;

use serde_json::Value;

use crate::kernel::Scalars;
use crate::kernel::plan::{Buffer, LaunchPlan};
use crate::task::{Definition, Task};

use super::{BoundKernel, Device, Upload};
pub(crate) use baseline::{PythonBaselines, UnavailableBaseline};
use device_kernel::DevicePythonKernel;
pub(crate) use interpreter::find as find_python;
use kernel::{Call, PythonKernel};
use process::{PythonProcess, PythonProgram};

/// Whether the Python that kforge uses has PyTorch. Imports nothing, so it takes a fraction of a second.
pub(crate) fn has_pytorch() -> bool {
    let script = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)";
    let Ok(python) = interpreter::find("a baseline") else {
        return false;
    };
    let mut command = Command::new(python);
    command.args(["-c", script]).stdin(Stdio::null());
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// A task's reference in Python, ready to compute.
pub struct PythonOracle {
    process: Rc<RefCell<PythonProcess>>,
    definition: Definition,
    upload: Upload,
    /// Whether memory of the process on the GPU can be mapped; `None`: not tried yet.
    shares_memory: Cell<Option<bool>>,
}

impl PythonOracle {
    /// Starts Python and runs the source of the reference, which must define `run`. On a GPU, PyTorch may use that of the device.
    ///
    /// # Errors
    /// `Failure::environment` if Python or a module that the source imports is not installed; `Failure::reference` if the source fails.
    pub fn start(task: &Task, device: &dyn Device) -> anyhow::Result<Self> {
        let interpreter = find_python(&format!("the oracle of task `{}`", task.name))?;
        let program = PythonProgram {
            script: concat!(
                include_str!("device_memory.py"),
                include_str!("reference.py")
            ),
            source: [task.oracle.clone(), task.settings.oracle.clone()],
            subject: format!("the Python reference of task `{}`", task.name),
        };
        let process = PythonProcess::start(&interpreter, program, device.identity().uuid)?;
        Ok(Self {
            process: Rc::new(RefCell::new(process)),
            definition: task.definition.clone(),
            upload: device.upload(),
            shares_memory: Cell::new(None),
        })
    }

    /// Whether the reference computes on the GPU, in PyTorch.
    fn uses_gpu(&self) -> bool {
        let process = self.process.borrow();
        process.greeted().get("on_gpu").and_then(Value::as_bool) == Some(true)
    }

    /// Binds the reference to buffers on the GPU. `None` if it does not compute there, or cannot share memory with this process.
    fn open_on_gpu(
        &self,
        device: &dyn Device,
        plan: &LaunchPlan,
        call: Call,
        copies: usize,
    ) -> anyhow::Result<Option<DevicePythonKernel>> {
        if !self.uses_gpu() || self.shares_memory.get() == Some(false) {
            return Ok(None);
        }
        let Some(buffers) = device.open_buffers(plan, copies)? else {
            return Ok(None);
        };
        let bytes: Vec<u64> = plan.buffers.iter().map(Buffer::bytes).collect();
        let kernel = DevicePythonKernel::new(Rc::clone(&self.process), buffers, call, &bytes);
        if self.shares_memory.get().is_none() {
            let checked = kernel.check_sharing();
            self.shares_memory.set(Some(checked.is_ok()));
            if let Err(error) = checked {
                tracing::warn!(
                    "the oracle's inputs and outputs pass through the host, which takes longer: memory of the GPU cannot be shared with Python ({error:#})"
                );
                // The attempt may have ended it.
                self.process.borrow_mut().ensure_running()?;
                return Ok(None);
            }
        }
        Ok(Some(kernel))
    }

    /// Binds the reference to the buffers of a plan, in `copies` copies. Inputs without a shape have the values of `scalars`.
    ///
    /// # Errors
    /// If the process has ended and cannot be started again.
    pub fn open(
        &self,
        device: &dyn Device,
        plan: &LaunchPlan,
        scalars: &Scalars,
        copies: usize,
    ) -> anyhow::Result<Box<dyn BoundKernel>> {
        self.process.borrow_mut().ensure_running()?;
        let call = || Call::new(&self.definition, plan, scalars);
        if let Some(kernel) = self.open_on_gpu(device, plan, call(), copies)? {
            return Ok(Box::new(kernel));
        }
        Ok(Box::new(PythonKernel::new(
            Rc::clone(&self.process),
            Rc::clone(&self.upload),
            call(),
            plan,
            copies,
        )))
    }
}
