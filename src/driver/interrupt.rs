//! Ctrl-C and SIGTERM: the first one stops the run in an orderly way, the second one ends the process at once.
//!
//! Only watches for signals; the task's loop decides how to stop.

use anyhow::{Context, Result};
use tokio::sync::watch;

/// A receiver that becomes true at the first SIGINT or SIGTERM. Call it once, inside the runtime.
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
        // The receiver is gone if the run has ended.
        let _ = sender.send(true);
    });
    Ok(receiver)
}

/// A receiver that never becomes true.
pub fn never_interrupted() -> watch::Receiver<bool> {
    watch::channel(false).1
}

/// Waits for the interrupt. Waits forever if the sender is gone.
pub(super) async fn interrupted(interrupt: &mut watch::Receiver<bool>) {
    if interrupt.wait_for(|is_set| *is_set).await.is_err() {
        std::future::pending::<()>().await;
    }
}
