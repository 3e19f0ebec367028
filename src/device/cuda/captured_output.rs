//! Captures what kernels print. The driver writes it to standard output, which is redirected to a file in memory.
//!
//! The text is untrusted and capped. Never touches standard error.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd};

use anyhow::Context;

/// Limit for the output that one call returns.
const MAX_CAPTURED_BYTES: u64 = 4096;
/// Size of the file. A few bytes of device code can make the driver print without end.
const FILE_BYTES: u64 = 16 << 20;

/// The captured standard output of this process.
pub(super) struct CapturedOutput {
    file: File,
}

impl CapturedOutput {
    /// Starts capturing. From now on nothing that this process prints reaches the real standard output.
    pub(super) fn start() -> anyhow::Result<Self> {
        let file =
            create_capped_file().context("failed to create a file for the output of kernels")?;
        // SAFETY: both descriptors are open.
        if unsafe { libc::dup2(file.as_raw_fd(), libc::STDOUT_FILENO) } < 0 {
            return Err(std::io::Error::last_os_error())
                .context("failed to redirect standard output");
        }
        Ok(Self { file })
    }

    /// The output since the last call; `None` if there was none.
    pub(super) fn take(&self) -> Option<String> {
        let mut file = &self.file;
        let mut bytes = Vec::new();
        // Standard output is the same file description, so this is its write position.
        let printed = file.stream_position().ok()?;
        let read = (file.seek(SeekFrom::Start(0))).and_then(|_| {
            file.take(printed.min(MAX_CAPTURED_BYTES))
                .read_to_end(&mut bytes)
        });
        let rewound = file.seek(SeekFrom::Start(0));
        // SAFETY: the descriptor is open; the call gives its memory back and leaves its size.
        unsafe {
            let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            libc::fallocate(self.file.as_raw_fd(), how, 0, FILE_BYTES as libc::off_t);
        }
        read.and(rewound).ok()?;
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Creates a file in memory that cannot grow: writes beyond its end fail.
fn create_capped_file() -> std::io::Result<File> {
    // SAFETY: a constant name; the returned file is the only owner of the descriptor.
    let file = unsafe {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        let descriptor = libc::memfd_create(c"printed".as_ptr(), flags);
        if descriptor < 0 {
            return Err(std::io::Error::last_os_error());
        }
        File::from_raw_fd(descriptor)
    };
    file.set_len(FILE_BYTES)?;
    // SAFETY: the descriptor is open.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_GROW) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn output_is_returned_once_and_capped() {
        let printed = CapturedOutput {
            file: create_capped_file().unwrap(),
        };
        let mut output = printed.file.try_clone().unwrap();
        assert_eq!(printed.take(), None);
        output.write_all(b"first").unwrap();
        assert_eq!(printed.take().as_deref(), Some("first"));
        assert_eq!(printed.take(), None);
        output.write_all(b"2nd").unwrap();
        assert_eq!(printed.take().as_deref(), Some("2nd"));
        let flood = vec![b'x'; 1 << 20];
        let written = (0..32).take_while(|_| output.write_all(&flood).is_ok());
        assert_eq!(written.count() as u64, FILE_BYTES >> 20);
        let kept = printed.take().unwrap();
        assert_eq!(kept.len() as u64, MAX_CAPTURED_BYTES);
        output.write_all(b"third").unwrap();
        assert_eq!(printed.take().as_deref(), Some("third"));
    }
}
