//! The device clock: times the work between two CUDA events, flushes the cache before it, and waits with a deadline.
//!
//! `Graph` records several runs so that one launch starts them all. Never decides what is timed: `bound_kernel` does.

use std::ptr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cudarc::driver::sys::{self, CUresult};

use super::gpu::{DriverError, Gpu, call};
use super::harness_kernels::HarnessKernels;
use super::memory::Region;
use crate::base::progress;

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
    flush: Option<Region>,
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

    /// Queues a cache flush: writes twice the cache's size, then reads as much. Afterwards the cache holds none of a kernel's
    /// data and no dirty lines. The launches to be timed can be queued while it runs, so that none of them is late.
    pub(super) fn flush_cache(&mut self, harness: &HarnessKernels) -> anyhow::Result<()> {
        let half = 2 * self.gpu.cache_bytes;
        let region = match self.flush.take() {
            Some(region) => region,
            None => Region::new(&self.gpu, 2 * half, false)?,
        };
        let _ = call!(cuCtxResetPersistingL2Cache());
        call!(cuMemsetD32Async(
            region.start(),
            0x5eed_5eed,
            (half / 4) as usize,
            self.gpu.stream
        ))?;
        harness.read_through(region.start() + half, half)?;
        self.flush = Some(region);
        Ok(())
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

/// A CUDA graph of several runs, recorded once and launched together, so that no launch waits for the host.
pub(super) struct Graph {
    gpu: Rc<Gpu>,
    handle: sys::CUgraphExec,
}

impl Graph {
    /// Records what `queue` puts on the stream. Nothing runs yet.
    pub(super) fn record(
        gpu: &Rc<Gpu>,
        queue: impl FnOnce() -> Result<(), DriverError>,
    ) -> Result<Self, DriverError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        call!(cuStreamBeginCapture_v2(gpu.stream, mode))?;
        let queued = queue();
        let mut graph = ptr::null_mut();
        let ended = call!(cuStreamEndCapture(gpu.stream, &raw mut graph));
        queued.and(ended)?;
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
