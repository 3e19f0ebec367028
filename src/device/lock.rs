//! The lock file of a device: its path, and the folder that all processes of a machine share.
//!
//! Takes no lock itself: `eval::TimingLock` does.

use std::path::PathBuf;

/// The file whose lock keeps other kforge processes away while a device is timed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockFile {
    pub path: PathBuf,
    /// Whether the device is the host. Then nothing else of kforge, compilers included, may run during a timed launch.
    pub is_host: bool,
}

/// The folder of lock files: the same one for all processes of the machine.
///
/// `/tmp` comes before `TMPDIR`, because batch systems give every job its own temporary folder: a lock there would not
/// exclude other jobs.
pub(super) fn lock_folder() -> PathBuf {
    // SAFETY: a constant string that ends in a zero.
    let is_writable = unsafe { libc::access(c"/tmp".as_ptr(), libc::W_OK | libc::X_OK) } == 0;
    if is_writable {
        "/tmp".into()
    } else {
        std::env::temp_dir()
    }
}
