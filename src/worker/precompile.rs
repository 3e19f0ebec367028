//! Compiles kernels for a GPU while the worker that will judge them starts. The worker then finds the result in the cache.
//!
//! Only fills the cache: the worker compiles whatever the cache lacks, and only the worker reports errors. Judges nothing.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::device::cuda::compiler::Compiler;
use crate::eval;
use crate::task::{Task, TaskFiles};

/// How long a worker that is ready waits for a compilation. A longer one may be a kernel that the compiler cannot finish: the worker
/// then meets its limit.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Threads that compile, each with a compiler of its own: a quarter of the cores, but at least and at most this many. A proposal whose points
/// are tried is several compilations of 0.1 to 0.2 s.
const COMPILER_THREADS: [usize; 2] = [2, 6];

/// Compiles on threads of its own. Dropping it lets them end.
pub(super) struct Precompiler {
    requests: Sender<CompilationRequest>,
}

struct CompilationRequest {
    source: String,
    done: oneshot::Sender<()>,
}

/// A compilation in progress.
pub(super) struct Compilation(Option<oneshot::Receiver<()>>);

impl Compilation {
    /// Nothing to wait for.
    pub(super) const NONE: Self = Self(None);

    /// Waits until it has ended, but not long.
    pub(super) async fn wait(self) {
        if let Self(Some(done)) = self {
            // An error means that the thread has ended: the worker compiles.
            let _ = tokio::time::timeout(LONGEST_WAIT, done).await;
        }
    }
}

impl Precompiler {
    /// `None` if there is nothing to compile for, or if the task cannot be read: a worker then says why.
    pub(super) fn start(files: &TaskFiles, arch: Option<&str>) -> Option<Self> {
        let (task, arch) = (Arc::new(files.load().ok()?), arch?);
        let (requests, received) = channel();
        let received = Arc::new(Mutex::new(received));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let [least, most] = COMPILER_THREADS;
        for _ in 0..(cores / 4).clamp(least, most) {
            let (task, received, arch) =
                (Arc::clone(&task), Arc::clone(&received), arch.to_owned());
            let compile = move || compile_requests(&task, &arch, &received);
            // A machine that starts no thread compiles in the worker.
            std::thread::Builder::new()
                .name("precompile".to_owned())
                .spawn(compile)
                .ok()?;
        }
        Some(Self { requests })
    }

    /// Starts to compile a kernel.
    pub(super) fn compile(&self, source: &str) -> Compilation {
        let (done, wait) = oneshot::channel();
        let request = CompilationRequest {
            source: source.to_owned(),
            done,
        };
        Compilation(self.requests.send(request).is_ok().then_some(wait))
    }
}

/// Compiles until there are no more requests.
fn compile_requests(task: &Task, arch: &str, requests: &Mutex<Receiver<CompilationRequest>>) {
    let mut compiler = None;
    loop {
        let next = requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok(CompilationRequest { source, done }) = next else {
            return;
        };
        if compiler.is_none() {
            compiler = Compiler::open(arch).ok();
        }
        if let Some(compiler) = &compiler {
            // The worker reports what is wrong with the kernel or the compiler.
            let _ = eval::compile_only(compiler, task, "", &source);
        }
        let _ = done.send(());
    }
}
