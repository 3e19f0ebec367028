//! The device clock: times the work between two CUDA events, flushes the cache before it, and waits with a deadline.
//!
//! `Graph` records several runs so that one launch starts them all. Never decides what is timed: `bound_kernel` does.

use std::ptr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cudarc::driver::sys::{self, CUresult};

use super::gpu::{DriverError, Gpu, call, kernel_error};
use super::harness_kernels::HarnessKernels;
use super::memory::{Access, Region, zero_memory};
use crate::base::progress;
use crate::device::refusal::DeviceError;

/// How long to spin before sleeping between polls.
const SPIN_TIME: Duration = Duration::from_millis(2);
/// The driver needs up to this long to report some faults. Without it such a fault would look like a timeout.
const FAULT_REPORT_DELAY: Duration = Duration::from_millis(700);
const POLL_INTERVAL: Duration = Duration::from_micros(50);

/// Two events, and the memory that is used to flush the cache.
pub(super) struct Clock {
    gpu: Rc<Gpu>,
    begin: sys::CUevent,
    end: sys::CUevent,
    flush: Option<FlushMemory>,
}

/// The memory that is used to flush the cache, twice the cache's size each. Nothing that a kernel could leave in it outlives a flush:
/// one part is overwritten, and no kernel can write to the other.
struct FlushMemory {
    written: Region,
    read: Region,
}

impl FlushMemory {
    fn new(gpu: &Rc<Gpu>) -> Result<Self, DriverError> {
        let bytes = 2 * gpu.cache_bytes;
        let read = Region::new(gpu, bytes, false)?;
        zero_memory(gpu, read.start(), read.bytes() as usize)?;
        gpu.synchronize()?;
        Ok(Self {
            written: Region::new(gpu, bytes, false)?,
            read,
        })
    }
}

/// The result of waiting for the device.
pub(super) enum WaitResult {
    Done,
    TimedOut,
    Fault(CUresult),
}

impl Clock {
    pub(super) fn new(gpu: &Rc<Gpu>) -> Result<Self, DriverError> {
        let event = || {
            let mut event = ptr::null_mut();
            call!(cuEventCreate(&raw mut event, 0)).map(|()| event)
        };
        Ok(Self {
            gpu: Rc::clone(gpu),
            begin: event()?,
            end: event()?,
            flush: None,
        })
    }

    /// Makes all lines ordinary that a kernel may have made to stay in the cache. Must follow every run of a kernel that can do so, before
    /// anything else runs, and no other kernel: on an H200 each later launch of the process takes 0.36 us longer, until another process
    /// uses the GPU.
    pub(super) fn reset_persisting_lines() {
        // GPUs before Ampere have no such lines.
        let _ = call!(cuCtxResetPersistingL2Cache());
    }

    /// Queues a cache flush: writes twice the cache's size, then reads as much. Afterwards the cache holds none of a kernel's
    /// data and no dirty lines. The launches to be timed can be queued while it runs, so that none of them is late.
    pub(super) fn flush_cache(&mut self, harness: &HarnessKernels) -> anyhow::Result<()> {
        let gpu = Rc::clone(&self.gpu);
        let memory = self.flush_memory()?;
        memory.written.set_access(Access::Writable)?;
        memory.read.set_access(Access::Readable)?;
        let (start, bytes) = (memory.written.start(), memory.written.bytes());
        call!(cuMemsetD32Async(
            start,
            0x5eed_5eed,
            (bytes / 4) as usize,
            gpu.stream
        ))?;
        harness.read_through(memory.read.start(), memory.read.bytes(), start)
    }

    /// Hides the memory of `flush_cache` from a kernel that is launched without a flush. Nothing may be running.
    pub(super) fn hide_flush_memory(&self) -> Result<(), DriverError> {
        if let Some(memory) = &self.flush {
            memory.written.set_access(Access::Hidden)?;
            memory.read.set_access(Access::Hidden)?;
        }
        Ok(())
    }

    fn flush_memory(&mut self) -> Result<&FlushMemory, DriverError> {
        let memory = match self.flush.take() {
            Some(memory) => memory,
            None => FlushMemory::new(&self.gpu)?,
        };
        Ok(self.flush.insert(memory))
    }

    pub(super) fn record_start(&self) -> Result<(), DriverError> {
        call!(cuEventRecord(self.begin, self.gpu.stream))
    }

    pub(super) fn record_end(&self) -> Result<(), DriverError> {
        call!(cuEventRecord(self.end, self.gpu.stream))
    }

    /// Waits for the end event until the deadline.
    pub(super) fn wait(&self, deadline: Duration) -> WaitResult {
        let started = Instant::now();
        let _bounded = progress::bounded_wait();
        loop {
            // Taken before the query: if this process is suspended in between, the launch may still have ended in time.
            let waited = started.elapsed();
            // SAFETY: the event lives as long as the clock.
            match unsafe { sys::cuEventQuery(self.end) } {
                // This process looked too late; the device's clock knows how long the launch took.
                CUresult::CUDA_SUCCESS if waited <= deadline => return WaitResult::Done,
                CUresult::CUDA_SUCCESS => {
                    return match self.elapsed() {
                        Ok(time) if time <= deadline => WaitResult::Done,
                        Ok(_) => WaitResult::TimedOut,
                        Err(error) => WaitResult::Fault(error.code),
                    };
                }
                CUresult::CUDA_ERROR_NOT_READY => {}
                code => return WaitResult::Fault(code),
            }
            if waited > deadline + FAULT_REPORT_DELAY {
                return WaitResult::TimedOut;
            }
            if waited > SPIN_TIME {
                std::thread::sleep(POLL_INTERVAL);
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// The time between the two events on the device's clock (resolution about half a microsecond).
    pub(super) fn elapsed(&self) -> Result<Duration, DriverError> {
        let mut milliseconds = 0f32;
        call!(cuEventElapsedTime_v2(
            &raw mut milliseconds,
            self.begin,
            self.end
        ))?;
        Ok(Duration::from_secs_f64(
            f64::from(milliseconds).max(0.0) / 1e3,
        ))
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        if !self.gpu.is_broken() {
            let _ = call!(cuEventDestroy_v2(self.begin));
            let _ = call!(cuEventDestroy_v2(self.end));
        }
    }
}

/// An event without a time: marks a place in the stream that later work waits for.
pub(super) struct StreamEvent {
    gpu: Rc<Gpu>,
    handle: sys::CUevent,
}

impl StreamEvent {
    pub(super) fn new(gpu: &Rc<Gpu>) -> Result<Self, DriverError> {
        let mut handle = ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        call!(cuEventCreate(&raw mut handle, flags))?;
        Ok(Self {
            gpu: Rc::clone(gpu),
            handle,
        })
    }

    pub(super) fn record(&self) -> Result<(), DriverError> {
        call!(cuEventRecord(self.handle, self.gpu.stream))
    }

    /// Makes everything that is queued from now on wait for the place of the last `record`.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        call!(cuStreamWaitEvent(self.gpu.stream, self.handle, 0))
    }
}

impl Drop for StreamEvent {
    fn drop(&mut self) {
        if !self.gpu.is_broken() {
            let _ = call!(cuEventDestroy_v2(self.handle));
        }
    }
}

/// A CUDA graph of several runs, launched together, so that no launch waits for the host. It is launched once: a second launch would
/// find what the first one left in the memory of its arguments.
pub(super) struct Graph {
    gpu: Rc<Gpu>,
    handle: sys::CUgraphExec,
}

impl Graph {
    /// Records what `queue` puts on the stream. Nothing runs yet.
    pub(super) fn record(
        gpu: &Rc<Gpu>,
        queue: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<Self, DeviceError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        call!(cuStreamBeginCapture_v2(gpu.stream, mode)).map_err(kernel_error)?;
        let queued = queue();
        let mut graph = ptr::null_mut();
        let ended = call!(cuStreamEndCapture(gpu.stream, &raw mut graph));
        queued?;
        ended.map_err(kernel_error)?;
        Self::instantiate(gpu, graph).map_err(kernel_error)
    }

    fn instantiate(gpu: &Rc<Gpu>, graph: sys::CUgraph) -> Result<Self, DriverError> {
        let mut handle = ptr::null_mut();
        let made = call!(cuGraphInstantiateWithFlags(&raw mut handle, graph, 0));
        let _ = call!(cuGraphDestroy(graph));
        made?;
        call!(cuGraphUpload(handle, gpu.stream))?;
        Ok(Self {
            gpu: Rc::clone(gpu),
            handle,
        })
    }

    pub(super) fn launch(&self) -> Result<(), DriverError> {
        call!(cuGraphLaunch(self.handle, self.gpu.stream))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if !self.gpu.is_broken() {
            let _ = call!(cuGraphExecDestroy(self.handle));
        }
    }
}
