//! Waiting for file descriptors, and writing to them without blocking for long.

use std::time::{Duration, Instant};

/// Waits until a descriptor is ready for `events`. Returns false if the time limit passes first.
pub(crate) fn wait_until_ready(
    descriptor: libc::c_int,
    events: libc::c_short,
    limit: Duration,
) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut entry = libc::pollfd {
            fd: descriptor,
            events,
            revents: 0,
        };
        // Rounded up, so that it does not poll again and again during the last millisecond.
        let milliseconds = left.as_millis() as libc::c_int + libc::c_int::from(!left.is_zero());
        // SAFETY: the pointer leads to one valid entry.
        match unsafe { libc::poll(&raw mut entry, 1, milliseconds) } {
            0 => return false,
            1 => return entry.revents & events != 0,
            _ if left.is_zero() => return false,
            // A signal handler has interrupted it.
            _ => {}
        }
    }
}

/// Writes a text to standard error. If nothing reads for `limit`, drops the rest and returns false.
pub(crate) fn write_stderr_unless_blocked(text: &[u8], limit: Duration) -> bool {
    // A pipe that is ready has room for this many bytes.
    for chunk in text.chunks(libc::PIPE_BUF) {
        if !wait_until_ready(libc::STDERR_FILENO, libc::POLLOUT, limit) {
            return false;
        }
        // SAFETY: the pointer leads to as many bytes.
        unsafe { libc::write(libc::STDERR_FILENO, chunk.as_ptr().cast(), chunk.len()) };
    }
    true
}
