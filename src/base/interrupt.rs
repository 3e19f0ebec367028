//! SIGINT, SIGTERM and SIGHUP: the process ends within two seconds, whatever it is doing.
//!
//! The first signal asks the command to end in an orderly way, if it has subscribed. A command that has not ended after `GRACE`, or
//! that has not subscribed, is ended here, at once. A second signal ends any command at once. In each case the exit code is
//! `EXIT_CODE`. What a run has reported is durable by then, and children of this process end with it.
//!
//! A signal that was ignored when the process started stays ignored: `nohup` relies on it. Decides nothing about a run.

use std::borrow::Cow;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;

use super::descriptors::{wait_until_ready, write_stderr_unless_blocked};

/// The exit code of an interrupted command.
pub(crate) const EXIT_CODE: u8 = 130;

/// How long a command may take to end in an orderly way.
const GRACE: Duration = Duration::from_secs(1);

/// How long the last message may take where nothing reads it.
const MESSAGE_WAIT: Duration = Duration::from_millis(200);

const SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// The end of the pipe that the signal handler writes to. -1 before `start`.
static WAKE: AtomicI32 = AtomicI32::new(-1);

/// Becomes true at the first signal.
static INTERRUPTED: OnceLock<watch::Sender<bool>> = OnceLock::new();

/// The last message of a command that is ended here.
static LAST_MESSAGE: Mutex<Cow<'static, str>> = Mutex::new(Cow::Borrowed("\ninterrupted\n"));

/// Starts to watch for signals. Does nothing in a process that watches already.
pub(crate) fn start() -> Result<()> {
    let mut is_first = false;
    INTERRUPTED.get_or_init(|| {
        is_first = true;
        watch::channel(false).0
    });
    if !is_first {
        return Ok(());
    }
    let (reader, writer) = std::io::pipe().context("cannot watch for signals")?;
    let writer = OwnedFd::from(writer);
    // SAFETY: a call with numbers only. The handler must not block if thousands of signals fill the pipe.
    unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    WAKE.store(writer.as_raw_fd(), Ordering::Release);
    // The handler uses the descriptor until the process ends.
    std::mem::forget(writer);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || wait_for_signals(reader))
        .context("cannot watch for signals")?;
    SIGNALS.into_iter().try_for_each(handle)
}

/// A receiver that becomes true at the first signal. From then on the caller has `GRACE` to end the process itself.
pub(crate) fn subscribe() -> Result<watch::Receiver<bool>> {
    start()?;
    let sender = INTERRUPTED.get().context("signals are not watched")?;
    Ok(sender.subscribe())
}

/// Sets the last message of a command that has to be ended here: what happened, and how to continue. Empty once the command has
/// printed its own.
pub(crate) fn set_last_message(text: String) {
    *LAST_MESSAGE.lock().unwrap_or_else(PoisonError::into_inner) = text.into();
}

/// Installs the handler of a signal, unless the signal was ignored when the process started.
fn handle(signal: libc::c_int) -> Result<()> {
    // SAFETY: both structs are plain data for which zero is valid, and live during the calls. The handler only writes to a pipe.
    let installed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut old: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigemptyset(&raw mut action.sa_mask);
        let queried = libc::sigaction(signal, std::ptr::null(), &raw mut old);
        if queried == 0 && old.sa_sigaction == libc::SIG_IGN {
            return Ok(());
        }
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    };
    if installed != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot watch for signals");
    }
    Ok(())
}

/// Wakes the thread that waits for signals.
extern "C" fn on_signal(signal: libc::c_int) {
    let byte = signal as u8;
    // SAFETY: write is safe in a signal handler, the pointer leads to one byte, and errno is restored for the interrupted code.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        libc::write(WAKE.load(Ordering::Acquire), (&raw const byte).cast(), 1);
        *errno = saved;
    }
}

fn wait_for_signals(mut pipe: std::io::PipeReader) {
    let mut signal = [0];
    if pipe.read_exact(&mut signal).is_err() {
        return;
    }
    let is_orderly = INTERRUPTED.get().is_some_and(|interrupted| {
        interrupted.send_replace(true);
        interrupted.receiver_count() > 0
    });
    if is_orderly {
        // Ready at the second signal.
        wait_until_ready(pipe.as_raw_fd(), libc::POLLIN, GRACE);
    }
    end_process();
}

/// Prints the last message and ends the process.
fn end_process() -> ! {
    let message = LAST_MESSAGE.lock().unwrap_or_else(PoisonError::into_inner);
    write_stderr_unless_blocked(message.as_bytes(), MESSAGE_WAIT);
    // SAFETY: ends the process. Destructors could wait for what the command waits for; everything that must be kept is durable.
    unsafe { libc::_exit(libc::c_int::from(EXIT_CODE)) }
}
