//! How the judge's own kernels address a buffer that exists in several copies. The layout is that of `numerics.cu`: change both.

use cudarc::driver::sys::CUdeviceptr;

use crate::task::DType;

/// Length of `Addresses::of_copy` in `numerics.cu`.
const MAX_ADDRESSES: usize = 257;
/// Length of `Copies::numbers` in `numerics.cu`.
const MAX_NUMBERED_COPIES: usize = 16;

/// All or some copies of a buffer, as a table of addresses on the device.
#[derive(Clone, Copy, Debug)]
pub(super) struct BufferCopies {
    /// The address of `copies` device pointers, one for each copy. The bound kernel owns the table and keeps it as long as it lives.
    pub(super) table: CUdeviceptr,
    /// Number of copies.
    pub(super) copies: u32,
    pub(super) dtype: DType,
    /// Elements of one copy.
    pub(super) elements: u64,
}

impl BufferCopies {
    /// The size of one copy, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.elements * self.dtype.bytes()
    }
}

/// The addresses of all copies of a buffer as an argument of a kernel. Same layout as `Addresses` in `numerics.cu`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct CopyAddresses([CUdeviceptr; MAX_ADDRESSES]);

impl CopyAddresses {
    pub(super) fn of_one(address: CUdeviceptr) -> Self {
        let mut all = [0; MAX_ADDRESSES];
        all[0] = address;
        Self(all)
    }

    /// `None` if there are more than fit.
    pub(super) fn new(addresses: &[CUdeviceptr]) -> Option<Self> {
        let mut all = [0; MAX_ADDRESSES];
        all.get_mut(..addresses.len())?.copy_from_slice(addresses);
        Some(Self(all))
    }
}

/// All or one of the copies of a buffer for a kernel that overwrites them, without the judge's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct FilledCopies {
    pub(super) copies: BufferCopies,
    pub(super) addresses: CopyAddresses,
    pub(super) numbers: CopyNumbers,
}

/// The number of each copy of a bound kernel's buffers, from which its inputs are drawn (`seed_of_copy` in `numerics.cu`). Without
/// numbers, copy i has number i. Same layout as `Copies` in `numerics.cu`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct CopyNumbers {
    /// Number of entries in `numbers` that count; 0 without numbers.
    count: u32,
    numbers: [u32; MAX_NUMBERED_COPIES],
}

impl CopyNumbers {
    pub(super) const MAX: usize = MAX_NUMBERED_COPIES;

    /// `numbers`: one for each copy. The caller checks that there are at most `MAX`; any more are left out.
    pub(super) fn new(numbers: &[u32]) -> Self {
        let mut copies = Self {
            count: numbers.len().min(Self::MAX) as u32,
            ..Self::default()
        };
        for (slot, number) in copies.numbers.iter_mut().zip(numbers) {
            *slot = *number;
        }
        copies
    }
}
