//! Memory that a forked child does not get.
//!
//! A candidate's process is forked from the judge. Every page that both have is entered into the child's tables, and copied or
//! protected when the judge writes to it again. Large buffers of the judge are kept out of that, and out of the child's sight.

/// Zeroed pages, left out of every child.
pub(super) struct PrivatePages {
    address: *mut u8,
    bytes: usize,
}

impl PrivatePages {
    /// At least one byte.
    pub(super) fn new(bytes: usize) -> std::io::Result<Self> {
        let bytes = bytes.max(1);
        // SAFETY: new memory at an address that the system chooses; the result is checked below.
        let address = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0)
        };
        if address == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: exactly the mapping from above. If the system refuses, children get the pages, which only takes time.
        unsafe { libc::madvise(address, bytes, libc::MADV_DONTFORK) };
        Ok(Self {
            address: address.cast(),
            bytes,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping has this size, is initialised, and lives as long as self.
        unsafe { std::slice::from_raw_parts(self.address, self.bytes) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and self is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.bytes) }
    }
}

impl Drop for PrivatePages {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what was mapped, once.
        unsafe {
            libc::munmap(self.address.cast(), self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn child_does_not_get_the_pages() {
        let mut pages = PrivatePages::new(10_000).unwrap();
        pages.bytes_mut().fill(7);
        let mapping = format!("{:x}-", pages.bytes().as_ptr() as usize);
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&mapping));
        let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
        assert!(flags.split_whitespace().any(|flag| flag == "dc"), "{flags}");
        assert_eq!(pages.len(), 10_000);
        assert!(pages.bytes().iter().all(|byte| *byte == 7));
    }
}
