//! Memory of the device: pieces that are mapped with nothing on either side, so that whoever leaves them faults.

use std::rc::Rc;

use cudarc::driver::sys::{self, CUdeviceptr};

use super::card::{DriverError, Gpu, allocation_properties, call};

/// A mapped piece of device memory. Before and behind it lies address space that is reserved and never mapped.
pub(super) struct Region {
    card: Rc<Gpu>,
    handle: sys::CUmemGenericAllocationHandle,
    writable: Mapping,
    /// The same memory at another address, where a write faults.
    readable: Option<Mapping>,
    bytes: u64,
}

#[derive(Clone, Copy)]
struct Mapping {
    reserved: CUdeviceptr,
    start: CUdeviceptr,
}

impl Region {
    /// At least so many bytes. `alias`: mapped a second time, read-only.
    pub(super) fn new(card: &Rc<Gpu>, bytes: u64, alias: bool) -> Result<Self, DriverError> {
        let bytes = bytes.max(1).next_multiple_of(card.granularity);
        let properties = allocation_properties(card.device);
        let mut handle = 0;
        call!(cuMemCreate(
            &raw mut handle,
            bytes as usize,
            &raw const properties,
            0
        ))?;
        let mapped = Self::map(card, handle, bytes, true).and_then(|writable| {
            let readable = alias
                .then(|| Self::map(card, handle, bytes, false))
                .transpose()?;
            Ok((writable, readable))
        });
        match mapped {
            Ok((writable, readable)) => Ok(Self {
                card: Rc::clone(card),
                handle,
                writable,
                readable,
                bytes,
            }),
            Err(error) => {
                let _ = call!(cuMemRelease(handle));
                Err(error)
            }
        }
    }

    fn map(
        card: &Gpu,
        handle: sys::CUmemGenericAllocationHandle,
        bytes: u64,
        writable: bool,
    ) -> Result<Mapping, DriverError> {
        let mut reserved = 0;
        let whole = (bytes + 2 * card.granularity) as usize;
        call!(cuMemAddressReserve(&raw mut reserved, whole, 0, 0, 0))?;
        let start = reserved + card.granularity;
        call!(cuMemMap(start, bytes as usize, 0, handle, 0))?;
        let flags = match writable {
            true => sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
            false => sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READ,
        };
        let access = sys::CUmemAccessDesc {
            location: allocation_properties(card.device).location,
            flags,
        };
        call!(cuMemSetAccess(start, bytes as usize, &raw const access, 1))?;
        Ok(Mapping { reserved, start })
    }

    /// Where it begins for the judge, who may write.
    pub(super) fn start(&self) -> CUdeviceptr {
        self.writable.start
    }

    /// Where it begins for a kernel that must only read it; the same as `start` where there is no alias.
    pub(super) fn read_only_start(&self) -> CUdeviceptr {
        self.readable.unwrap_or(self.writable).start
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.card.is_broken() {
            return;
        }
        let bytes = self.bytes as usize;
        let whole = bytes + 2 * self.card.granularity as usize;
        for window in [Some(self.writable), self.readable].into_iter().flatten() {
            let _ = call!(cuMemUnmap(window.start, bytes));
            let _ = call!(cuMemAddressFree(window.reserved, whole));
        }
        let _ = call!(cuMemRelease(self.handle));
    }
}

/// A small piece of memory for the judge's own tables and answers.
pub(super) struct DeviceBuffer {
    card: Rc<Gpu>,
    address: CUdeviceptr,
    bytes: usize,
}

impl DeviceBuffer {
    pub(super) fn new(card: &Rc<Gpu>, bytes: usize) -> Result<Self, DriverError> {
        Self::with_exact_size(card, bytes.max(16))
    }

    /// Not a byte more than is asked for, as far as the driver's books go.
    pub(super) fn with_exact_size(card: &Rc<Gpu>, bytes: usize) -> Result<Self, DriverError> {
        let mut address = 0;
        call!(cuMemAlloc_v2(&raw mut address, bytes.max(1)))?;
        Ok(Self {
            card: Rc::clone(card),
            address,
            bytes: bytes.max(1),
        })
    }

    /// A table that holds these values.
    pub(super) fn from_slice<T: Copy>(card: &Rc<Gpu>, values: &[T]) -> Result<Self, DriverError> {
        let table = Self::new(card, size_of_val(values))?;
        copy_to_device(card, table.address, values)?;
        Ok(table)
    }

    pub(super) fn address(&self) -> CUdeviceptr {
        self.address
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if !self.card.is_broken() {
            let _ = call!(cuMemFree_v2(self.address));
        }
    }
}

/// Copies device memory into a slice, and waits for it.
pub(super) fn copy_to_host<T: Copy>(
    card: &Gpu,
    from: CUdeviceptr,
    into: &mut [T],
) -> Result<(), DriverError> {
    call!(cuMemcpyDtoHAsync_v2(
        into.as_mut_ptr().cast(),
        from,
        size_of_val(into),
        card.stream
    ))?;
    card.synchronize()
}

/// Copies a slice into device memory, behind what is queued already. Pageable memory is read before this returns.
pub(super) fn copy_to_device<T: Copy>(
    card: &Gpu,
    into: CUdeviceptr,
    from: &[T],
) -> Result<(), DriverError> {
    if from.is_empty() {
        return Ok(());
    }
    call!(cuMemcpyHtoDAsync_v2(
        into,
        from.as_ptr().cast(),
        size_of_val(from),
        card.stream
    ))
}

/// Sets so many bytes to 0, behind what is queued already.
pub(super) fn zero_memory(card: &Gpu, start: CUdeviceptr, bytes: usize) -> Result<(), DriverError> {
    call!(cuMemsetD8Async(start, 0, bytes, card.stream))
}
