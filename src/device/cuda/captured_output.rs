//! What kernels print: the driver writes it to standard output, which is a file in memory here. Untrusted text, capped.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd};

use anyhow::Context;

/// The most that is kept of what was printed since it was last asked for.
const MAX_BYTES: u64 = 4096;
/// The most that the file can hold: a few bytes of device code can ask the driver for letters without end.
const FILE_BYTES: u64 = 16 << 20;

/// Standard output of this process, caught.
pub(super) struct CapturedOutput {
    file: File,
}

impl CapturedOutput {
    /// From here on nothing of this process reaches standard output.
    pub(super) fn start() -> anyhow::Result<Self> {
        let file = create_capped_file().context("failed to make a place for what kernels print")?;
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
        // Standard output is the same file, at the same place in it.
        let printed = file.stream_position().ok()?;
        let read = (file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.take(printed.min(MAX_BYTES)).read_to_end(&mut bytes));
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

/// A file in memory that cannot grow: what is written behind its end fails.
fn create_capped_file() -> std::io::Result<File> {
    // SAFETY: a constant name; the descriptor is owned by the returned file alone.
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
        assert_eq!(kept.len() as u64, MAX_BYTES);
        output.write_all(b"third").unwrap();
        assert_eq!(printed.take().as_deref(), Some("third"));
    }
}
