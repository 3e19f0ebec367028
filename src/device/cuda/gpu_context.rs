//! What all kernels on a GPU share: the opened GPU, the harness kernels, the clock, and the captured output.
//!
//! Decides what is hidden while a kernel runs. Launches nothing.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use super::captured_output::CapturedOutput;
use super::clock::Clock;
use super::gpu::{DriverError, Gpu};
use super::harness_kernels::HarnessKernels;
use super::judge_memory::JudgeMemory;
use super::layout::{KernelMemory, Layout};
use super::memory::Access;

/// Shared by all bound kernels of a GPU.
pub(super) struct GpuContext {
    pub(super) gpu: Rc<Gpu>,
    pub(super) judge_memory: Rc<JudgeMemory>,
    /// The buffers of all kernels that are open.
    pub(super) layouts: RefCell<Vec<Weak<Layout>>>,
    pub(super) harness: HarnessKernels,
    pub(super) clock: RefCell<Clock>,
    /// `None` if the output of kernels is not captured.
    pub(super) captured_output: Option<CapturedOutput>,
}

impl GpuContext {
    /// Makes the buffers of a kernel known to `show_only`.
    pub(super) fn register(&self, memory: &KernelMemory) {
        let mut layouts = self.layouts.borrow_mut();
        layouts.retain(|layout| layout.strong_count() > 0);
        layouts.extend(memory.layouts().map(Rc::downgrade));
    }

    /// Hides all memory of the judge and of all other kernels, so that a launch reaches only its own buffers: an access to
    /// anything else faults. Nothing may be running.
    ///
    /// Before a timed sample, the other timed kernel's data is hidden once more if it is hidden already. Hiding much memory empties the
    /// GPU's caches for address translation, and a kernel with two samples in a row would find its translations in them: its second
    /// sample was up to 2 % shorter.
    pub(super) fn show_only(
        &self,
        memory: &KernelMemory,
        is_timed: bool,
    ) -> Result<(), DriverError> {
        memory.show()?;
        self.judge_memory.set_access(Access::Hidden)?;
        let own = memory.layouts().map(|layout| layout.id);
        for layout in self.layouts.borrow().iter().filter_map(Weak::upgrade) {
            if !own.contains(&layout.id) {
                if is_timed && layout.is_timed && layout.is_hidden() {
                    layout.set_access(Access::Writable)?;
                }
                layout.set_access(Access::Hidden)?;
            }
        }
        Ok(())
    }

    /// What kernels have printed since the last call.
    pub(super) fn take_output(&self) -> Option<String> {
        self.captured_output.as_ref().and_then(CapturedOutput::take)
    }
}
