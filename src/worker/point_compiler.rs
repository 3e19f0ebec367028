//! Prepares the points of a recorded space ahead of the device: writes their kernel files, checks their headers, and compiles them for a GPU.
//!
//! Threads share the points, each with a compiler of its own, and stop when enough of them wait. The worker finds the code in the cache. On a
//! CPU only the headers are checked: a compiler would disturb the timing. Measures nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, anyhow};
use indexmap::IndexMap;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::device::cuda::compiler::Compiler;
use crate::eval::{self, PointFault};
use crate::kernel::{DeviceLimits, Kernel, with_point};
use crate::task::{Profile, Task};

/// Points that wait for the device, for each thread.
const WAITING_PER_THREAD: usize = 4;

/// A kernel, and what its points are prepared for.
pub(crate) struct PointPlan {
    pub(crate) task: Arc<Task>,
    pub(crate) kernel: Kernel,
    pub(crate) profile: Profile,
    pub(crate) limits: DeviceLimits,
    /// The architecture to compile for. `None`: nothing is compiled.
    pub(crate) arch: Option<String>,
    /// In the order in which they are prepared.
    pub(crate) points: Vec<IndexMap<String, i64>>,
}

/// A point that is ready for the device, or that has a fault already.
pub(crate) struct PreparedPoint {
    pub(crate) point: IndexMap<String, i64>,
    /// The kernel file with this point.
    pub(crate) source: Result<String, PointFault>,
    /// Time of the compiler; 0 if the code was in its cache.
    pub(crate) compile_seconds: f64,
}

/// The points in preparation. Dropping it ends the threads after what they compile now.
pub(crate) struct PointCompiler {
    prepared: Receiver<anyhow::Result<PreparedPoint>>,
}

impl PointCompiler {
    /// Starts to prepare points on `threads` threads.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(crate) fn start(plan: PointPlan, threads: usize) -> anyhow::Result<Self> {
        let threads = threads.max(1);
        let (sender, prepared) = channel(WAITING_PER_THREAD * threads);
        let plan = Arc::new(plan);
        let next = Arc::new(AtomicUsize::new(0));
        for _ in 0..threads {
            let (plan, next, sender) = (Arc::clone(&plan), Arc::clone(&next), sender.clone());
            std::thread::Builder::new()
                .name("prepare".to_owned())
                .spawn(move || {
                    if let Err(error) = prepare_all(&plan, &next, &sender) {
                        let _ = sender.blocking_send(Err(error));
                    }
                })
                .context("failed to start a thread")?;
        }
        Ok(Self { prepared })
    }

    /// The next point that is ready, in any order. `None` if there are no more.
    pub(crate) async fn next(&mut self) -> Option<anyhow::Result<PreparedPoint>> {
        self.prepared.recv().await
    }
}

/// Prepares points until all are prepared, or the receiver is gone.
fn prepare_all(
    plan: &PointPlan,
    next: &AtomicUsize,
    sender: &Sender<anyhow::Result<PreparedPoint>>,
) -> anyhow::Result<()> {
    let compiler = plan.arch.as_deref().map(Compiler::open).transpose()?;
    while let Some(point) = plan.points.get(next.fetch_add(1, Ordering::Relaxed)) {
        let prepared = prepare(plan, compiler.as_ref(), point)?;
        if sender.blocking_send(Ok(prepared)).is_err() {
            break;
        }
    }
    Ok(())
}

fn prepare(
    plan: &PointPlan,
    compiler: Option<&Compiler>,
    point: &IndexMap<String, i64>,
) -> anyhow::Result<PreparedPoint> {
    let source = with_point(&plan.kernel, point)
        .ok_or_else(|| anyhow!("failed to write the values of a point into the header"))?;
    let kernel = Kernel::parse(&source, &plan.task.definition)
        .map_err(|error| anyhow!("failed to read the header of a point: {error}"))?;
    let mut prepared = PreparedPoint {
        point: point.clone(),
        source: Ok(source),
        compile_seconds: 0.0,
    };
    if let Err(fault) = eval::check_header(&plan.task, &plan.profile, &plan.limits, &kernel) {
        prepared.source = Err(fault);
    } else if let (Some(compiler), Ok(source)) = (compiler, &prepared.source) {
        let compiled = eval::compile_only(compiler, &plan.task, "", source)?;
        prepared.compile_seconds = compiled.seconds.compile;
        if let Some(status) = compiled.status {
            let reason = compiled.reason.unwrap_or_default();
            prepared.source = Err(PointFault::of_refused(status, reason));
        }
    }
    Ok(prepared)
}
