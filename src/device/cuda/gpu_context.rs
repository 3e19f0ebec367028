//! What all kernels on a GPU share: the opened GPU, the harness kernels, the clock, and the captured output.

use std::cell::RefCell;
use std::rc::Rc;

use super::captured_output::CapturedOutput;
use super::clock::Clock;
use super::gpu::Gpu;
use super::harness_kernels::HarnessKernels;

/// Shared by all bound kernels of a GPU.
pub(super) struct GpuContext {
    pub(super) gpu: Rc<Gpu>,
    pub(super) harness: HarnessKernels,
    pub(super) clock: RefCell<Clock>,
    /// `None` if the output of kernels is not captured.
    pub(super) captured_output: Option<CapturedOutput>,
}

impl GpuContext {
    /// What kernels have printed since the last call.
    pub(super) fn take_output(&self) -> Option<String> {
        self.captured_output.as_ref().and_then(CapturedOutput::take)
    }
}
