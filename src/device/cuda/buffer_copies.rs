//! How the harness kernels address a buffer that exists in several copies.

use cudarc::driver::sys::CUdeviceptr;

use crate::task::DType;

/// Length of `Copies::numbers` in `numerics.cu`.
const MAX_NAMED_COPIES: usize = 16;

/// All or some copies of a buffer, as a table of addresses on the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct BufferCopies {
    /// The address of the table.
    pub(super) table: CUdeviceptr,
    pub(super) copies: u32,
    pub(super) dtype: DType,
    /// Elements of one copy.
    pub(super) elements: u64,
}

impl BufferCopies {
    /// The size of one copy.
    pub(super) fn bytes(&self) -> u64 {
        self.elements * self.dtype.bytes()
    }
}

/// The numbers of a kernel's copies; by default they are 0, 1, 2, …. Same layout as `Copies` in `numerics.cu`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct CopyNumbers {
    named: u32,
    numbers: [u32; MAX_NAMED_COPIES],
}

impl CopyNumbers {
    pub(super) const MAX_COPIES: usize = MAX_NAMED_COPIES;

    /// Takes at most `MAX_COPIES` numbers.
    pub(super) fn named(numbers: &[u32]) -> Self {
        let mut copies = Self {
            named: numbers.len().min(MAX_NAMED_COPIES) as u32,
            ..Self::default()
        };
        for (slot, number) in copies.numbers.iter_mut().zip(numbers) {
            *slot = *number;
        }
        copies
    }
}
