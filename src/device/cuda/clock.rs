//! The clock: units between two events on the device, behind a cache that is flushed or warm, against a deadline.

use std::ptr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cudarc::driver::sys::{self, CUresult};

use super::card::{DriverError, Gpu, call};
use super::harness_kernels::HarnessKernels;
use super::memory::Region;

/// How long to wait for a launch without giving the processor away.
const SPIN_TIME: Duration = Duration::from_millis(2);
/// Some faults take the driver this long to tell: without it they would look like a launch that does not end.
const FAULT_REPORT_DELAY: Duration = Duration::from_millis(700);
const POLL_INTERVAL: Duration = Duration::from_micros(50);

/// Two events, and the memory that pushes everything else out of the cache.
pub(super) struct Clock {
    card: Rc<Gpu>,
    begin: sys::CUevent,
    end: sys::CUevent,
    flush: Option<Region>,
}

/// How waiting for the device came out.
pub(super) enum WaitResult {
    Done,
    TimedOut,
    Fault(CUresult),
}

impl Clock {
    pub(super) fn new(card: &Rc<Gpu>) -> Result<Self, DriverError> {
        let event = || {
            let mut event = ptr::null_mut();
            call!(cuEventCreate(&raw mut event, 0)).map(|()| event)
        };
        Ok(Self {
            card: Rc::clone(card),
            begin: event()?,
            end: event()?,
            flush: None,
        })
    }

    /// Queues what leaves nothing in the cache of what a kernel may read, and no line that must be written back: twice the
    /// cache's size is written, and as much read. While it runs the launches behind it can be queued, so that none is late.
    pub(super) fn flush_cache(&mut self, own: &HarnessKernels) -> anyhow::Result<()> {
        let half = 2 * self.card.cache_bytes;
        let region = match self.flush.take() {
            Some(region) => region,
            None => Region::new(&self.card, 2 * half, false)?,
        };
        let _ = call!(cuCtxResetPersistingL2Cache());
        call!(cuMemsetD32Async(
            region.start(),
            0x5eed_5eed,
            (half / 4) as usize,
            self.card.stream
        ))?;
        own.read_through(region.start() + half, half)?;
        self.flush = Some(region);
        Ok(())
    }

    pub(super) fn record_start(&self) -> Result<(), DriverError> {
        call!(cuEventRecord(self.begin, self.card.stream))
    }

    pub(super) fn record_end(&self) -> Result<(), DriverError> {
        call!(cuEventRecord(self.end, self.card.stream))
    }

    /// Waits for the end, not longer than until the deadline.
    pub(super) fn wait(&self, deadline: Duration) -> WaitResult {
        let begun = Instant::now();
        loop {
            // Before the device is asked: this process may have stood still since, and the launch ended in time.
            let waited = begun.elapsed();
            // SAFETY: the event lives as long as the clock.
            match unsafe { sys::cuEventQuery(self.end) } {
                // The device's own clock tells how long it took, whenever somebody looked.
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

    /// Between the two events, on the device's own clock (resolution about half a microsecond).
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
        if !self.card.is_broken() {
            let _ = call!(cuEventDestroy_v2(self.begin));
            let _ = call!(cuEventDestroy_v2(self.end));
        }
    }
}

/// Units recorded once and launched together, so that no launch waits for the host.
pub(super) struct Graph {
    card: Rc<Gpu>,
    handle: sys::CUgraphExec,
}

impl Graph {
    /// Records what `queue` puts on the stream; nothing of it runs yet.
    pub(super) fn record(
        card: &Rc<Gpu>,
        queue: impl FnOnce() -> Result<(), DriverError>,
    ) -> Result<Self, DriverError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        call!(cuStreamBeginCapture_v2(card.stream, mode))?;
        let queued = queue();
        let mut graph = ptr::null_mut();
        let ended = call!(cuStreamEndCapture(card.stream, &raw mut graph));
        queued.and(ended)?;
        let mut handle = ptr::null_mut();
        let made = call!(cuGraphInstantiateWithFlags(&raw mut handle, graph, 0));
        let _ = call!(cuGraphDestroy(graph));
        made?;
        call!(cuGraphUpload(handle, card.stream))?;
        Ok(Self {
            card: Rc::clone(card),
            handle,
        })
    }

    pub(super) fn launch(&self) -> Result<(), DriverError> {
        call!(cuGraphLaunch(self.handle, self.card.stream))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if !self.card.is_broken() {
            let _ = call!(cuGraphExecDestroy(self.handle));
        }
    }
}
