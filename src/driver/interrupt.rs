//! The interruption of a run: Ctrl-C, SIGTERM and SIGHUP stop it in an orderly way.
//!
//! `base::interrupt` watches for signals; the task's loop decides how to stop.

use anyhow::Result;
use tokio::sync::watch;

use crate::base::interrupt;

/// A receiver that becomes true at the first SIGINT, SIGTERM or SIGHUP. A caller that does not end soon after is ended.
pub fn watch_signals() -> Result<watch::Receiver<bool>> {
    interrupt::subscribe()
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
