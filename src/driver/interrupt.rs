//! Ctrl-C and SIGTERM: the first stops the run in order, the second ends the process at once.

use anyhow::{Context, Result};
use tokio::sync::watch;

/// Turns true at the first SIGINT or SIGTERM. To be called once, inside the runtime.
pub fn watch_signals() -> Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: only restores the default action; no handler of ours is replaced by other code.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        // Nobody listens any more once the run is over.
        let _ = sender.send(true);
    });
    Ok(receiver)
}

/// A signal that never comes.
pub fn never_interrupted() -> watch::Receiver<bool> {
    watch::channel(false).1
}

/// Waits until the interrupt comes; for ever where none can come any more.
pub(super) async fn interrupted(interrupt: &mut watch::Receiver<bool>) {
    if interrupt.wait_for(|told| *told).await.is_err() {
        std::future::pending::<()>().await;
    }
}
