//! Device memory: mapped regions with unmapped addresses on both sides, so that an access outside them faults; and copies to and
//! from the host.
//!
//! A region can be hidden: until it is shown again, every access by a kernel faults. Never decides the placement of buffers, or
//! what is hidden when: `layout` and `gpu_context` do.

use std::cell::Cell;
use std::rc::Rc;

use cudarc::driver::sys::{self, CUdeviceptr};

use super::gpu::{DriverError, Gpu, allocation_properties, call};

/// What kernels may do with mapped memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Every access faults. The contents remain.
    Hidden,
    Readable,
    Writable,
}

impl Access {
    fn flags(self) -> sys::CUmemAccess_flags {
        match self {
            Self::Hidden => sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_NONE,
            Self::Readable => sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READ,
            Self::Writable => sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        }
    }
}

/// A mapped region of device memory. The addresses before and after it are reserved and never mapped.
pub(super) struct Region {
    gpu: Rc<Gpu>,
    handle: sys::CUmemGenericAllocationHandle,
    main: Mapping,
    /// The same memory at another address, where writes fault.
    alias: Option<Mapping>,
    bytes: u64,
}

struct Mapping {
    reserved: CUdeviceptr,
    start: CUdeviceptr,
    access: Cell<Access>,
}

impl Region {
    /// Maps at least `bytes` bytes. `alias`: maps them a second time, read-only.
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
        let mapped = Self::map(gpu, handle, bytes, Access::Writable).and_then(|main| {
            let alias = alias
                .then(|| Self::map(gpu, handle, bytes, Access::Readable))
                .transpose()?;
            Ok((main, alias))
        });
        match mapped {
            Ok((main, alias)) => Ok(Self {
                gpu: Rc::clone(gpu),
                handle,
                main,
                alias,
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
        access: Access,
    ) -> Result<Mapping, DriverError> {
        let mut reserved = 0;
        let whole = (bytes + 2 * gpu.granularity) as usize;
        call!(cuMemAddressReserve(&raw mut reserved, whole, 0, 0, 0))?;
        let start = reserved + gpu.granularity;
        call!(cuMemMap(start, bytes as usize, 0, handle, 0))?;
        let mapping = Mapping {
            reserved,
            start,
            access: Cell::new(Access::Hidden),
        };
        mapping.set_access(gpu, bytes, access)?;
        Ok(mapping)
    }

    /// Changes what kernels may do with the region. Nothing that uses it may be running: a change takes effect at once.
    pub(super) fn set_access(&self, access: Access) -> Result<(), DriverError> {
        self.main.set_access(&self.gpu, self.bytes, access)?;
        if let Some(alias) = &self.alias {
            let access = match access {
                Access::Hidden => Access::Hidden,
                Access::Readable | Access::Writable => Access::Readable,
            };
            alias.set_access(&self.gpu, self.bytes, access)?;
        }
        Ok(())
    }

    pub(super) fn is_hidden(&self) -> bool {
        self.main.access.get() == Access::Hidden
    }

    /// The start address with write access, for the judge.
    pub(super) fn start(&self) -> CUdeviceptr {
        self.main.start
    }

    /// The start address for a kernel that must not write; equal to `start` if there is no alias.
    pub(super) fn read_only_start(&self) -> CUdeviceptr {
        self.alias.as_ref().unwrap_or(&self.main).start
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Mapping {
    /// Costs about 4 us to hide and 50 to 150 us to show a region of any size (H200), and nothing if there is no change.
    fn set_access(&self, gpu: &Gpu, bytes: u64, access: Access) -> Result<(), DriverError> {
        if self.access.get() == access {
            return Ok(());
        }
        let descriptor = sys::CUmemAccessDesc {
            location: allocation_properties(gpu.device).location,
            flags: access.flags(),
        };
        call!(cuMemSetAccess(
            self.start,
            bytes as usize,
            &raw const descriptor,
            1
        ))?;
        self.access.set(access);
        Ok(())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.gpu.is_broken() {
            return;
        }
        let bytes = self.bytes as usize;
        let whole = bytes + 2 * self.gpu.granularity as usize;
        for mapping in [Some(&self.main), self.alias.as_ref()]
            .into_iter()
            .flatten()
        {
            let _ = call!(cuMemUnmap(mapping.start, bytes));
            let _ = call!(cuMemAddressFree(mapping.reserved, whole));
        }
        let _ = call!(cuMemRelease(self.handle));
    }
}

/// A plain allocation of exactly the size that was asked for, which a sanitizer can check best.
pub(super) struct PlainAllocation {
    gpu: Rc<Gpu>,
    address: CUdeviceptr,
}

impl PlainAllocation {
    pub(super) fn new(gpu: &Rc<Gpu>, bytes: usize) -> Result<Self, DriverError> {
        let mut address = 0;
        call!(cuMemAlloc_v2(&raw mut address, bytes.max(1)))?;
        Ok(Self {
            gpu: Rc::clone(gpu),
            address,
        })
    }

    pub(super) fn address(&self) -> CUdeviceptr {
        self.address
    }
}

impl Drop for PlainAllocation {
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

/// Queues filling `bytes` bytes with 0.
pub(super) fn zero_memory(gpu: &Gpu, start: CUdeviceptr, bytes: usize) -> Result<(), DriverError> {
    call!(cuMemsetD8Async(start, 0, bytes, gpu.stream))
}
