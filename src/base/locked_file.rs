//! A file whose lock ends with the value that owns it.
//!
//! Takes no lock itself: see `lock_wait` for waiting.

use std::fs::File;
use std::ops::Deref;

/// Unlocks its file when it is dropped, if the file is locked.
///
/// Closing the file would not be enough. A child process has all open files of its parent until it starts its program, and a lock
/// lasts until the last of them is closed. While another thread starts a child, the lock would outlive its owner by milliseconds, on a
/// busy machine by more.
#[derive(Debug)]
pub(crate) struct LockedFile(pub(crate) File);

impl Deref for LockedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // On a file system without locks there is nothing to unlock.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn lock_ends_although_a_child_process_has_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = LockedFile(File::create(&path).unwrap());
        lock.try_lock().unwrap();
        let (mut forked, report) = std::io::pipe().unwrap();
        let child = std::thread::spawn(move || {
            let mut command = Command::new("true");
            // SAFETY: these calls are safe after a fork.
            unsafe {
                command.pre_exec(move || {
                    (&report).write_all(&libc::getpid().to_ne_bytes())?;
                    libc::sleep(600);
                    Ok(())
                });
            }
            command.status()
        });
        let mut process = [0; 4];
        forked.read_exact(&mut process).unwrap();
        drop(lock);
        let result = File::open(&path).unwrap().try_lock();
        // SAFETY: the child's number. It has not ended, so the number is still its own.
        unsafe { libc::kill(i32::from_ne_bytes(process), libc::SIGKILL) };
        let _ = child.join();
        result.unwrap();
    }
}
