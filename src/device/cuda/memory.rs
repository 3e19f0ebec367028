//! Device memory: mapped regions with unmapped addresses on both sides, so that an access outside them faults; plain
//! allocations; and copies to and from the host.
//!
//! Never decides the placement of buffers: `layout` does.

use std::rc::Rc;

use cudarc::driver::sys::{self, CUdeviceptr};

use super::gpu::{DriverError, Gpu, allocation_properties, call};

/// A mapped region of device memory. The addresses before and after it are reserved and never mapped.
pub(super) struct Region {
    gpu: Rc<Gpu>,
    handle: sys::CUmemGenericAllocationHandle,
    writable: Mapping,
    /// The same memory at another address, where writes fault.
    readable: Option<Mapping>,
    bytes: u64,
}

#[derive(Clone, Copy)]
struct Mapping {
    reserved: CUdeviceptr,
    start: CUdeviceptr,
}

impl Region {
    /// Maps at least `bytes` bytes. `alias`: map them a second time, read-only.
    pub(super) fn new(gpu: &Rc<Gpu>, bytes: u64, alias: bool) -> Result<Self, DriverError> {
        let bytes = bytes.max(1).next_multiple_of(gpu.granularity);
        let properties = allocation_properties(gpu.device);
        let mut handle = 0;
        call!(cuMemCreate(
            &raw mut handle,
            bytes as usize,
            &raw const properties,
            0
        ))?;
        let mapped = Self::map(gpu, handle, bytes, true).and_then(|writable| {
            let readable = alias
                .then(|| Self::map(gpu, handle, bytes, false))
                .transpose()?;
            Ok((writable, readable))
        });
        match mapped {
            Ok((writable, readable)) => Ok(Self {
                gpu: Rc::clone(gpu),
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
        gpu: &Gpu,
        handle: sys::CUmemGenericAllocationHandle,
        bytes: u64,
        writable: bool,
    ) -> Result<Mapping, DriverError> {
        let mut reserved = 0;
        let whole = (bytes + 2 * gpu.granularity) as usize;
        call!(cuMemAddressReserve(&raw mut reserved, whole, 0, 0, 0))?;
        let start = reserved + gpu.granularity;
        call!(cuMemMap(start, bytes as usize, 0, handle, 0))?;
        let flags = if writable {
            sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        } else {
            sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READ
        };
        let access = sys::CUmemAccessDesc {
            location: allocation_properties(gpu.device).location,
            flags,
        };
        call!(cuMemSetAccess(start, bytes as usize, &raw const access, 1))?;
        Ok(Mapping { reserved, start })
    }

    /// The start address with write access, for the judge.
    pub(super) fn start(&self) -> CUdeviceptr {
        self.writable.start
    }

    /// The start address for a kernel that must not write; equal to `start` if there is no alias.
    pub(super) fn read_only_start(&self) -> CUdeviceptr {
        self.readable.unwrap_or(self.writable).start
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.gpu.is_broken() {
            return;
        }
        let bytes = self.bytes as usize;
        let whole = bytes + 2 * self.gpu.granularity as usize;
        for window in [Some(self.writable), self.readable].into_iter().flatten() {
            let _ = call!(cuMemUnmap(window.start, bytes));
            let _ = call!(cuMemAddressFree(window.reserved, whole));
        }
        let _ = call!(cuMemRelease(self.handle));
    }
}

/// A plain allocation, mostly for the judge's tables and results.
pub(super) struct DeviceBuffer {
    gpu: Rc<Gpu>,
    address: CUdeviceptr,
    bytes: usize,
}

impl DeviceBuffer {
    pub(super) fn new(gpu: &Rc<Gpu>, bytes: usize) -> Result<Self, DriverError> {
        Self::with_exact_size(gpu, bytes.max(16))
    }

    /// Allocates exactly this size, so that a sanitizer knows the real end of a buffer.
    pub(super) fn with_exact_size(gpu: &Rc<Gpu>, bytes: usize) -> Result<Self, DriverError> {
        let mut address = 0;
        call!(cuMemAlloc_v2(&raw mut address, bytes.max(1)))?;
        Ok(Self {
            gpu: Rc::clone(gpu),
            address,
            bytes: bytes.max(1),
        })
    }

    /// A buffer that holds these values.
    pub(super) fn from_slice<T: Copy>(gpu: &Rc<Gpu>, values: &[T]) -> Result<Self, DriverError> {
        let table = Self::new(gpu, size_of_val(values))?;
        copy_to_device(gpu, table.address, values)?;
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
        if !self.gpu.is_broken() {
            let _ = call!(cuMemFree_v2(self.address));
        }
    }
}

/// Copies device memory into a slice, and waits until it is done.
pub(super) fn copy_to_host<T: Copy>(
    gpu: &Gpu,
    from: CUdeviceptr,
    into: &mut [T],
) -> Result<(), DriverError> {
    call!(cuMemcpyDtoHAsync_v2(
        into.as_mut_ptr().cast(),
        from,
        size_of_val(into),
        gpu.stream
    ))?;
    gpu.synchronize()
}

/// Queues a copy of a slice into device memory. The driver reads pageable host memory before this returns.
pub(super) fn copy_to_device<T: Copy>(
    gpu: &Gpu,
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
        gpu.stream
    ))
}

/// Queues setting `bytes` bytes to 0.
pub(super) fn zero_memory(gpu: &Gpu, start: CUdeviceptr, bytes: usize) -> Result<(), DriverError> {
    call!(cuMemsetD8Async(start, 0, bytes, gpu.stream))
}
