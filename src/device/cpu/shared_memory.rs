//! Anonymous memory that the judge shares with a candidate's process. It starts with the control page.
//!
//! The judge reads and writes it only while the process is stopped or dead. Nothing here knows what the buffers contain.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, bail};

use super::control_page::ControlPage;

/// A mapped and sealed memory file.
pub(super) struct SharedMemory {
    descriptor: OwnedFd,
    address: *mut u8,
    bytes: usize,
}

// SAFETY: on this side the mapping belongs to this value alone, and is reached only through &self and &mut self.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    /// Allocates at least the control page.
    pub(super) fn new(bytes: usize) -> anyhow::Result<Self> {
        if bytes < size_of::<ControlPage>() {
            bail!("{bytes} bytes of shared memory are less than the control page");
        }
        let last_error = std::io::Error::last_os_error;
        // SAFETY: the name is a valid string; the descriptor is checked and has no other owner.
        let descriptor = unsafe {
            let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
            let descriptor = libc::memfd_create(c"".as_ptr(), flags);
            if descriptor < 0 {
                return Err(last_error()).context("failed to create shared memory");
            }
            OwnedFd::from_raw_fd(descriptor)
        };
        let file = descriptor.as_raw_fd();
        // SAFETY: plain numbers.
        if unsafe { libc::ftruncate(file, bytes as libc::off_t) } != 0 {
            return Err(last_error())
                .with_context(|| format!("failed to allocate {bytes} bytes of shared memory"));
        }
        // SAFETY: maps a whole file at an address that the system chooses; the result is checked below.
        let address = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
            libc::mmap(std::ptr::null_mut(), bytes, protection, flags, file, 0)
        };
        if address == libc::MAP_FAILED {
            return Err(last_error())
                .with_context(|| format!("failed to map {bytes} bytes of shared memory"));
        }
        let memory = Self {
            descriptor,
            address: address.cast(),
            bytes,
        };
        // Without seals, the process could shrink the file and make the judge die from SIGBUS.
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: plain numbers.
        if unsafe { libc::fcntl(file, libc::F_ADD_SEALS, seals) } != 0 {
            return Err(last_error()).context("failed to seal shared memory");
        }
        Ok(memory)
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    /// Only while the process is stopped or dead.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping has this size and lives as long as self; nothing else writes while the process is stopped.
        unsafe { std::slice::from_raw_parts(self.address, self.bytes) }
    }

    /// Only while the process is stopped or dead.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and self is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.bytes) }
    }
}

impl SharedMemory {
    /// Only while the process is stopped or dead.
    pub(super) fn control(&self) -> &ControlPage {
        // SAFETY: the mapping is page-aligned and at least as long as the struct, whose fields are all plain integers.
        unsafe { &*self.bytes().as_ptr().cast::<ControlPage>() }
    }

    /// Only while the process is stopped or dead.
    pub(super) fn control_mut(&mut self) -> &mut ControlPage {
        // SAFETY: as above, and self is borrowed exclusively.
        unsafe { &mut *self.bytes_mut().as_mut_ptr().cast::<ControlPage>() }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what was mapped, once.
        unsafe {
            libc::munmap(self.address.cast(), self.bytes);
        }
    }
}
