//! The placement of a kernel's buffers: for a check, each buffer between unmapped addresses; for timing, many copies at random
//! addresses.
//!
//! Allocates through `memory`. Writes no data and launches nothing.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::sys::CUdeviceptr;

use super::buffer_copies::BufferCopies;
use super::gpu::{DriverError, Gpu};
use super::memory::{DeviceBuffer, Region};
use crate::base::{RandomStream, random};
use crate::device::{Edge, Purpose};
use crate::kernel::plan::{BufferRole, Plan};

/// Alignment of a buffer's address.
const ALIGNMENT: u64 = 256;
/// Alignment of a buffer that ends at unmapped memory: no access of a thread is wider.
const MIN_ALIGNMENT: u64 = 16;
/// Longest guard zone.
const MAX_ZONE_BYTES: u64 = 64 << 10;
/// Number of regions over which the copies for timing are spread.
const MAX_REGIONS: usize = 16;
/// Length of the guard zones between buffers that share a region.
const SHARED_REGION_ZONE_BYTES: u64 = 256;

/// Same layout as `Zone` in `numerics.cu`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct GuardZone {
    start: CUdeviceptr,
    bytes: u64,
    buffer: u32,
    behind: u32,
}

/// The placement of some buffers of a kernel, in all copies.
pub(super) struct Layout {
    /// Unique in this process.
    pub(super) id: u64,
    _regions: Vec<Region>,
    _allocations: Vec<DeviceBuffer>,
    /// By buffer and copy: addresses for the judge.
    addresses: Vec<Vec<CUdeviceptr>>,
    /// By buffer and copy: addresses for the kernel, which must not write to inputs.
    kernel_addresses: Vec<Vec<CUdeviceptr>>,
    tables: DeviceBuffer,
    zones: DeviceBuffer,
    zone_count: u32,
    pub(super) copies: u32,
    /// The order in which launches use the copies. It belongs to the memory, so both kernels that use it meet the same addresses
    /// in the same order.
    pub(super) order: Vec<u32>,
}

impl Layout {
    /// Places the buffers with these indices. Zones and tables use the indices of the plan.
    pub(super) fn new(
        gpu: &Rc<Gpu>,
        plan: &Plan,
        which: &[usize],
        purpose: Purpose,
    ) -> Result<Self, DriverError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut builder = LayoutBuilder::new(gpu, plan);
        let copies = match purpose {
            Purpose::Check { edge } => {
                for buffer in which {
                    builder.place_alone(*buffer, edge)?;
                }
                1
            }
            Purpose::Time { copies, .. } => {
                builder.spread_copies(which, copies.max(1))?;
                copies.max(1) as u32
            }
            Purpose::Probe => {
                for buffer in which {
                    builder.place_exactly(*buffer)?;
                }
                1
            }
        };
        let mut order: Vec<u32> = (0..copies).collect();
        RandomStream::new(random::fresh_seed(), "copies", 0).shuffle(&mut order);
        // A buffer of the other part has no address here.
        let table_row = |addresses: &Vec<CUdeviceptr>| {
            if addresses.is_empty() {
                vec![0; copies as usize]
            } else {
                addresses.clone()
            }
        };
        let table: Vec<CUdeviceptr> = builder.addresses.iter().flat_map(table_row).collect();
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            tables: DeviceBuffer::from_slice(gpu, &table)?,
            zones: DeviceBuffer::from_slice(gpu, &builder.zones)?,
            zone_count: builder.zones.len() as u32,
            _regions: builder.regions,
            _allocations: builder.allocations,
            addresses: builder.addresses,
            kernel_addresses: builder.kernel_addresses,
            order,
            copies,
        })
    }

    /// All copies of a buffer.
    pub(super) fn buffer_copies(&self, plan: &Plan, buffer: usize) -> BufferCopies {
        BufferCopies {
            table: self.tables.address() + buffer as u64 * u64::from(self.copies) * 8,
            copies: self.copies,
            dtype: plan.buffers[buffer].dtype,
            elements: plan.buffers[buffer].elements(),
        }
    }

    pub(super) fn address(&self, buffer: usize, copy: u32) -> CUdeviceptr {
        self.addresses[buffer][copy as usize]
    }

    pub(super) fn address_for_kernel(&self, buffer: usize, copy: u32) -> CUdeviceptr {
        self.kernel_addresses[buffer][copy as usize]
    }

    pub(super) fn zones(&self) -> (CUdeviceptr, u32) {
        (self.zones.address(), self.zone_count)
    }
}

/// The placement of all buffers of a kernel: inputs and outputs, which two timed kernels can swap, and the kernel's own scratch.
pub(super) struct KernelMemory {
    pub(super) data: Rc<Layout>,
    scratch: Rc<Layout>,
    is_scratch: Vec<bool>,
}

impl KernelMemory {
    pub(super) fn new(gpu: &Rc<Gpu>, plan: &Plan, purpose: Purpose) -> Result<Self, DriverError> {
        let is_scratch: Vec<bool> = (plan.buffers.iter())
            .map(|buffer| matches!(buffer.role, BufferRole::Scratch { .. }))
            .collect();
        let of = |scratch: bool| -> Vec<usize> {
            (0..plan.buffers.len())
                .filter(|buffer| is_scratch[*buffer] == scratch)
                .collect()
        };
        Ok(Self {
            data: Rc::new(Layout::new(gpu, plan, &of(false), purpose)?),
            scratch: Rc::new(Layout::new(gpu, plan, &of(true), purpose)?),
            is_scratch,
        })
    }

    pub(super) fn copies(&self) -> u32 {
        self.data.copies
    }

    fn of(&self, buffer: usize) -> &Layout {
        if self.is_scratch[buffer] {
            &self.scratch
        } else {
            &self.data
        }
    }

    pub(super) fn buffer_copies(&self, plan: &Plan, buffer: usize) -> BufferCopies {
        self.of(buffer).buffer_copies(plan, buffer)
    }

    pub(super) fn address(&self, buffer: usize, copy: u32) -> CUdeviceptr {
        self.of(buffer).address(buffer, copy)
    }

    pub(super) fn address_for_kernel(&self, buffer: usize, copy: u32) -> CUdeviceptr {
        self.of(buffer).address_for_kernel(buffer, copy)
    }

    /// The guard zones of both parts: address and number.
    pub(super) fn zones(&self) -> impl Iterator<Item = (CUdeviceptr, u32)> {
        let both = [self.data.zones(), self.scratch.zones()];
        both.into_iter().filter(|(_, count)| *count > 0)
    }

    /// Whether both kernels have equal inputs and outputs, so that each can use the other's.
    pub(super) fn is_compatible_with(&self, other: &Self) -> bool {
        let data = |memory: &Self| -> usize {
            memory
                .is_scratch
                .iter()
                .take_while(|scratch| !**scratch)
                .count()
        };
        data(self) == data(other) && self.copies() == other.copies()
    }
}

/// A layout while its buffers are being placed.
struct LayoutBuilder<'a> {
    gpu: &'a Rc<Gpu>,
    plan: &'a Plan,
    regions: Vec<Region>,
    allocations: Vec<DeviceBuffer>,
    addresses: Vec<Vec<CUdeviceptr>>,
    kernel_addresses: Vec<Vec<CUdeviceptr>>,
    zones: Vec<GuardZone>,
}

impl<'a> LayoutBuilder<'a> {
    fn new(gpu: &'a Rc<Gpu>, plan: &'a Plan) -> Self {
        let empty = vec![Vec::new(); plan.buffers.len()];
        Self {
            gpu,
            plan,
            regions: Vec::new(),
            allocations: Vec::new(),
            addresses: empty.clone(),
            kernel_addresses: empty,
            zones: Vec::new(),
        }
    }

    fn add_zone(&mut self, start: CUdeviceptr, bytes: u64, buffer: usize, behind: bool) {
        if bytes > 0 {
            self.zones.push(GuardZone {
                start,
                bytes,
                buffer: buffer as u32,
                behind: u32::from(behind),
            });
        }
    }

    /// Places a buffer in its own region, at the region's start or end.
    fn place_alone(&mut self, buffer: usize, edge: Edge) -> Result<(), DriverError> {
        let bytes = self.plan.buffers[buffer].bytes();
        let is_input = self.plan.buffers[buffer].role == BufferRole::Input;
        let region = Region::new(self.gpu, bytes, is_input)?;
        let offset = match edge {
            Edge::Start => 0,
            Edge::End => (region.bytes() - bytes) / MIN_ALIGNMENT * MIN_ALIGNMENT,
        };
        let start = region.start() + offset;
        let before = offset.min(MAX_ZONE_BYTES);
        self.add_zone(start - before, before, buffer, false);
        let behind = (region.bytes() - offset - bytes).min(MAX_ZONE_BYTES);
        self.add_zone(start + bytes, behind, buffer, true);
        self.addresses[buffer].push(start);
        self.kernel_addresses[buffer].push(region.read_only_start() + offset);
        self.regions.push(region);
        Ok(())
    }

    /// Places a buffer in its own allocation of exactly its size, which a sanitizer can check best.
    fn place_exactly(&mut self, buffer: usize) -> Result<(), DriverError> {
        let bytes = self.plan.buffers[buffer].bytes() as usize;
        let allocation = DeviceBuffer::with_exact_size(self.gpu, bytes)?;
        self.addresses[buffer].push(allocation.address());
        self.kernel_addresses[buffer].push(allocation.address());
        self.allocations.push(allocation);
        Ok(())
    }

    /// Places copies of the buffers in several regions, as evenly as possible.
    fn spread_copies(&mut self, which: &[usize], copies: usize) -> Result<(), DriverError> {
        if which.is_empty() {
            return Ok(());
        }
        let mut stream = RandomStream::new(random::fresh_seed(), "placement", 0);
        let regions = copies.min(MAX_REGIONS);
        for region in 0..regions {
            let count = (region + 1) * copies / regions - region * copies / regions;
            self.place_copies(which, count, &mut stream)?;
        }
        Ok(())
    }

    /// Places several copies of the buffers in one region, each copy in a random order.
    fn place_copies(
        &mut self,
        which: &[usize],
        copies: usize,
        stream: &mut RandomStream,
    ) -> Result<(), DriverError> {
        let mut end = stream.below(16) as u64 * ALIGNMENT;
        let mut offsets = Vec::new();
        for _ in 0..copies {
            let mut order = which.to_vec();
            stream.shuffle(&mut order);
            for buffer in order {
                end += SHARED_REGION_ZONE_BYTES;
                offsets.push((buffer, end));
                let bytes = self.plan.buffers[buffer].bytes();
                end = (end + bytes + SHARED_REGION_ZONE_BYTES).next_multiple_of(ALIGNMENT);
                end += stream.below(4) as u64 * ALIGNMENT;
            }
        }
        let region = Region::new(self.gpu, end, false)?;
        for (buffer, offset) in offsets {
            let start = region.start() + offset;
            let bytes = self.plan.buffers[buffer].bytes();
            let zone = SHARED_REGION_ZONE_BYTES;
            self.add_zone(start - zone, zone, buffer, false);
            self.add_zone(start + bytes, zone, buffer, true);
            self.addresses[buffer].push(start);
            self.kernel_addresses[buffer].push(start);
        }
        self.regions.push(region);
        Ok(())
    }
}
