//! What kernels print: the driver writes it to standard output, which is a file in memory here. Untrusted text, capped.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd};

use anyhow::Context;

/// The most that is kept of what was printed since it was last asked for.
const MOST_BYTES: usize = 4096;

/// Standard output of this process, caught.
pub(super) struct Printed {
    file: File,
}

impl Printed {
    /// From here on nothing of this process reaches standard output.
    pub(super) fn catch() -> anyhow::Result<Self> {
        // SAFETY: a constant name; the descriptor is owned by the returned file alone.
        let file = unsafe {
            let descriptor = libc::memfd_create(c"printed".as_ptr(), libc::MFD_CLOEXEC);
            if descriptor < 0 {
                return Err(std::io::Error::last_os_error())
                    .context("failed to make a place for what kernels print");
            }
            File::from_raw_fd(descriptor)
        };
        // SAFETY: both descriptors are open.
        if unsafe { libc::dup2(file.as_raw_fd(), libc::STDOUT_FILENO) } < 0 {
            return Err(std::io::Error::last_os_error())
                .context("failed to set standard output apart");
        }
        Ok(Self { file })
    }

    /// What was printed since the last time; `None` where nothing was.
    pub(super) fn take(&self) -> Option<String> {
        let mut file = &self.file;
        let mut bytes = Vec::new();
        let read = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| file.take(MOST_BYTES as u64).read_to_end(&mut bytes));
        let emptied = self
            .file
            .set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)));
        read.and(emptied).ok()?;
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }
}
