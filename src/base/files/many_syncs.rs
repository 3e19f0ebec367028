//! Syncs of many files at once.
//!
//! A file system combines syncs that arrive at the same time into one write of its own journal, so 30 of them take little longer
//! than one. Linux's asynchronous I/O starts them all with one system call and without threads. Where it is missing, the syncs
//! follow each other, which is slower and just as safe. Writes and renames nothing.

use std::fs::File;
use std::io;

/// What to sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SyncKind {
    /// Contents and length.
    Data,
    /// The names in a folder.
    Names,
}

/// Syncs all files, even if one of them fails.
///
/// # Errors
/// The index of the first file that failed, and why.
pub(super) fn sync_many(files: &[File], kind: SyncKind) -> Result<(), (usize, io::Error)> {
    let mut results: Vec<Option<io::Result<()>>> = files.iter().map(|_| None).collect();
    // A single sync would gain nothing from it.
    #[cfg(target_os = "linux")]
    if files.len() > 1 {
        asynchronous::sync(files, kind, &mut results);
    }
    let mut first_error = None;
    for (index, (file, result)) in files.iter().zip(results).enumerate() {
        let result = result.unwrap_or_else(|| match kind {
            SyncKind::Data => file.sync_data(),
            SyncKind::Names => file.sync_all(),
        });
        if let Err(error) = result {
            // Some network file systems cannot sync a folder, because every change of names is durable at once.
            if kind == SyncKind::Names && error.kind() == io::ErrorKind::InvalidInput {
                continue;
            }
            first_error.get_or_insert((index, error));
        }
    }
    first_error.map_or(Ok(()), Err)
}

#[cfg(target_os = "linux")]
mod asynchronous {
    use std::ffi::c_long;
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd;
    use std::sync::{LazyLock, Mutex, PoisonError};

    use super::SyncKind;

    /// The most syncs at the same time.
    const MAX_SYNCS: usize = 256;

    /// `struct iocb` of `linux/aio_abi.h`, version 1.
    #[repr(C)]
    #[derive(Default)]
    struct SyncRequest {
        /// The index of the file. Linux copies it into the request's result.
        data: u64,
        key_and_flags: u64,
        operation: u16,
        priority: i16,
        descriptor: u32,
        buffer: u64,
        bytes: u64,
        offset: i64,
        reserved: u64,
        flags: u32,
        event_descriptor: u32,
    }

    /// `struct io_event`.
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct SyncResult {
        data: u64,
        request: u64,
        /// 0, or a negative error number.
        result: i64,
        result2: i64,
    }

    /// `IOCB_CMD_FSYNC` and `IOCB_CMD_FDSYNC`.
    const SYNC_ALL: u16 = 2;
    const SYNC_DATA: u16 = 3;

    /// Linux's queue for this process, or `None` if it has no asynchronous I/O. Linux removes it when the process ends.
    static QUEUE: LazyLock<Option<Mutex<u64>>> = LazyLock::new(|| {
        let mut queue: u64 = 0;
        // SAFETY: Linux writes one `aio_context_t`, which has the size of a pointer, into `queue`.
        let result =
            unsafe { libc::syscall(libc::SYS_io_setup, MAX_SYNCS as c_long, &raw mut queue) };
        (result == 0).then(|| Mutex::new(queue))
    });

    /// Syncs the files that Linux accepts, and stores their results. A result that stays `None`: this file was not synced.
    pub(super) fn sync(files: &[File], kind: SyncKind, results: &mut [Option<io::Result<()>>]) {
        let Some(queue) = &*QUEUE else { return };
        let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        for (files, results) in files.chunks(MAX_SYNCS).zip(results.chunks_mut(MAX_SYNCS)) {
            let accepted = submit(*queue, files, kind);
            collect(*queue, accepted, results);
        }
    }

    /// Submits the files in order. Returns how many of them Linux has accepted.
    fn submit(queue: u64, files: &[File], kind: SyncKind) -> usize {
        let operation = match kind {
            SyncKind::Data => SYNC_DATA,
            SyncKind::Names => SYNC_ALL,
        };
        let request = |(index, file): (usize, &File)| SyncRequest {
            data: index as u64,
            operation,
            descriptor: file.as_raw_fd().cast_unsigned(),
            ..SyncRequest::default()
        };
        let mut requests: Vec<SyncRequest> = files.iter().enumerate().map(request).collect();
        let pointers: Vec<*mut SyncRequest> =
            requests.iter_mut().map(|one| &raw mut *one).collect();
        let mut accepted = 0;
        while accepted < pointers.len() {
            let rest = &pointers[accepted..];
            // SAFETY: Linux reads `rest.len()` pointers to complete requests before it returns, and none of them later. The
            // requests name no memory.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_io_submit,
                    queue,
                    rest.len() as c_long,
                    rest.as_ptr(),
                )
            };
            match usize::try_from(result) {
                Ok(count @ 1..) => accepted += count,
                _ => break,
            }
        }
        accepted
    }

    /// Waits for accepted requests. A request that Linux does not report counts as failed.
    fn collect(queue: u64, accepted: usize, results: &mut [Option<io::Result<()>>]) {
        let mut events = vec![SyncResult::default(); accepted];
        let mut left = accepted;
        while left > 0 {
            let count = left as c_long;
            let no_timeout = std::ptr::null::<libc::timespec>();
            // SAFETY: Linux writes up to `left` events, and `events` has room for them.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    queue,
                    count,
                    count,
                    events.as_mut_ptr(),
                    no_timeout,
                )
            };
            let Ok(count) = usize::try_from(result) else {
                if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                // Linux reports a failed write only once: syncing these files again could hide that data is lost.
                for result in results[..accepted].iter_mut().filter(|one| one.is_none()) {
                    *result = Some(Err(io::Error::from_raw_os_error(libc::EIO)));
                }
                return;
            };
            for event in &events[..count] {
                let error = i32::try_from(-event.result).unwrap_or(libc::EIO);
                results[event.data as usize] = Some(match error {
                    0 => Ok(()),
                    _ => Err(io::Error::from_raw_os_error(error)),
                });
            }
            left -= count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_are_synced_and_the_first_failure_is_named() {
        let folder = tempfile::tempdir().unwrap();
        // More than fit into the queue at once.
        let mut files: Vec<_> = (0..300)
            .map(|index| File::create(folder.path().join(format!("{index}"))).unwrap())
            .collect();
        sync_many(&files, SyncKind::Data).unwrap();
        sync_many(&[], SyncKind::Data).unwrap();
        let folders: Vec<_> = (0..3).map(|_| File::open(folder.path()).unwrap()).collect();
        sync_many(&folders, SyncKind::Names).unwrap();
        // A pipe cannot be synced.
        for index in [290, 7] {
            files[index] = std::os::fd::OwnedFd::from(std::io::pipe().unwrap().1).into();
        }
        let (index, error) = sync_many(&files, SyncKind::Data).unwrap_err();
        assert_eq!(index, 7);
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
