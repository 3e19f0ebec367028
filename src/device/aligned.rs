//! Host memory that is aligned for every dtype, as bytes.

/// Zeroed bytes, aligned to 8: the alignment that `numerics` needs.
pub(super) struct AlignedBytes {
    words: Vec<u64>,
    bytes: usize,
}

impl AlignedBytes {
    pub(super) fn zeroed(bytes: usize) -> Self {
        Self {
            words: vec![0; bytes.div_ceil(8)],
            bytes,
        }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: the words' memory, which has at least `bytes` bytes; every byte of an integer is a valid `u8`.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast::<u8>(), self.bytes) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above; every bit pattern is a valid `u64`, and the memory is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast::<u8>(), self.bytes) }
    }

    /// The bytes as integers; bytes beyond the end are 0.
    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    /// The first 8 bytes as an integer; bytes beyond the end are 0. 0 if there are none.
    pub(super) fn first_word(&self) -> u64 {
        self.words.first().copied().unwrap_or_default()
    }
}
