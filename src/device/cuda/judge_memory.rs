//! The judge's own device memory: address tables, guard zone lists, results. It is hidden while a candidate runs.
//!
//! All of it lies in a few regions, because hiding costs the same for a region of any size. Knows nothing of its contents.

use std::cell::RefCell;
use std::rc::Rc;

use cudarc::driver::sys::CUdeviceptr;

use super::gpu::{DriverError, Gpu};
use super::memory::{Access, Region, copy_to_device};

/// Size of a region, unless one allocation needs more.
const REGION_BYTES: u64 = 32 << 20;
/// Alignment of every allocation.
const ALIGNMENT: u64 = 256;

/// Device memory that only the judge uses.
pub(super) struct JudgeMemory {
    gpu: Rc<Gpu>,
    regions: RefCell<Vec<SharedRegion>>,
}

/// A region and its allocations as (offset, bytes), in order.
struct SharedRegion {
    region: Region,
    allocations: Vec<(u64, u64)>,
}

impl SharedRegion {
    /// The first gap that is large enough.
    fn find_gap(&self, bytes: u64) -> Option<u64> {
        let mut end = 0;
        for (offset, length) in &self.allocations {
            if offset - end >= bytes {
                return Some(end);
            }
            end = offset + length;
        }
        (self.region.bytes() - end >= bytes).then_some(end)
    }

    fn insert(&mut self, offset: u64, bytes: u64) -> CUdeviceptr {
        let at = (self.allocations).partition_point(|(other, _)| *other < offset);
        self.allocations.insert(at, (offset, bytes));
        self.region.start() + offset
    }
}

impl JudgeMemory {
    pub(super) fn new(gpu: &Rc<Gpu>) -> Self {
        Self {
            gpu: Rc::clone(gpu),
            regions: RefCell::default(),
        }
    }

    pub(super) fn gpu(&self) -> &Rc<Gpu> {
        &self.gpu
    }

    /// Allocates memory with unknown contents.
    pub(super) fn allocate(self: &Rc<Self>, bytes: usize) -> Result<JudgeBuffer, DriverError> {
        let wanted = (bytes as u64).max(1).next_multiple_of(ALIGNMENT);
        let mut regions = self.regions.borrow_mut();
        let found = regions
            .iter_mut()
            .find_map(|region| Some((region.find_gap(wanted)?, region)));
        let address = match found {
            Some((offset, region)) => region.insert(offset, wanted),
            None => {
                let region = Region::new(&self.gpu, wanted.max(REGION_BYTES), false)?;
                let mut shared = SharedRegion {
                    region,
                    allocations: Vec::new(),
                };
                let address = shared.insert(0, wanted);
                regions.push(shared);
                address
            }
        };
        Ok(JudgeBuffer {
            memory: Rc::clone(self),
            address,
            bytes,
        })
    }

    /// Allocates memory that holds these values. Shows all of the judge's memory.
    pub(super) fn allocate_with<T: Copy>(
        self: &Rc<Self>,
        values: &[T],
    ) -> Result<JudgeBuffer, DriverError> {
        let buffer = self.allocate(size_of_val(values))?;
        self.set_access(Access::Writable)?;
        copy_to_device(&self.gpu, buffer.address, values)?;
        Ok(buffer)
    }

    /// Hides all of the judge's memory from kernels, or shows it. Nothing that uses it may be running.
    pub(super) fn set_access(&self, access: Access) -> Result<(), DriverError> {
        let regions = self.regions.borrow();
        regions
            .iter()
            .try_for_each(|shared| shared.region.set_access(access))
    }

    fn free(&self, address: CUdeviceptr) {
        for shared in self.regions.borrow_mut().iter_mut() {
            let start = shared.region.start();
            (shared.allocations).retain(|(offset, _)| start + offset != address);
        }
    }
}

/// An allocation of the judge.
pub(super) struct JudgeBuffer {
    memory: Rc<JudgeMemory>,
    address: CUdeviceptr,
    bytes: usize,
}

impl JudgeBuffer {
    pub(super) fn address(&self) -> CUdeviceptr {
        self.address
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for JudgeBuffer {
    fn drop(&mut self) {
        self.memory.free(self.address);
    }
}
