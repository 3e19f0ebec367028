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
use crate::base::RandomStream;
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
        let mut layout = LayoutBuilder {
            regions: Vec::new(),
            allocations: Vec::new(),
            addresses: vec![Vec::new(); plan.buffers.len()],
            for_kernel: vec![Vec::new(); plan.buffers.len()],
            zones: Vec::new(),
        };
        let copies = match purpose {
            Purpose::Check { edge } => {
                for buffer in which {
                    layout.place_alone(gpu, plan, *buffer, edge)?;
                }
                1
            }
            Purpose::Time { copies, .. } => {
                let mut stream = RandomStream::new(crate::base::random::fresh_seed(), "places", 0);
                let copies = copies.max(1);
                let regions = copies.min(MAX_REGIONS);
                for region in 0..regions {
                    // Spreads the copies as evenly as possible.
                    let own = (region + 1) * copies / regions - region * copies / regions;
                    if !which.is_empty() {
                        layout.place_copies(gpu, plan, (which, own), &mut stream)?;
                    }
                }
                copies as u32
            }
            Purpose::Probe => {
                for buffer in which {
                    layout.place_exactly(gpu, plan, *buffer)?;
                }
                1
            }
        };
        let mut order: Vec<u32> = (0..copies).collect();
        RandomStream::new(crate::base::random::fresh_seed(), "copies", 0).shuffle(&mut order);
        let of_buffer = |places: &Vec<CUdeviceptr>| match places.is_empty() {
            true => vec![0; copies as usize],
            false => places.clone(),
        };
        let flat: Vec<CUdeviceptr> = layout.addresses.iter().flat_map(of_buffer).collect();
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            tables: DeviceBuffer::from_slice(gpu, &flat)?,
            zones: DeviceBuffer::from_slice(gpu, &layout.zones)?,
            zone_count: layout.zones.len() as u32,
            _regions: layout.regions,
            _allocations: layout.allocations,
            addresses: layout.addresses,
            kernel_addresses: layout.for_kernel,
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
        match self.is_scratch[buffer] {
            true => &self.scratch,
            false => &self.data,
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

struct LayoutBuilder {
    regions: Vec<Region>,
    allocations: Vec<DeviceBuffer>,
    addresses: Vec<Vec<CUdeviceptr>>,
    for_kernel: Vec<Vec<CUdeviceptr>>,
    zones: Vec<GuardZone>,
}

impl LayoutBuilder {
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
    fn place_alone(
        &mut self,
        gpu: &Rc<Gpu>,
        plan: &Plan,
        buffer: usize,
        edge: Edge,
    ) -> Result<(), DriverError> {
        let bytes = plan.buffers[buffer].bytes();
        let region = Region::new(gpu, bytes, plan.buffers[buffer].role == BufferRole::Input)?;
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
        self.for_kernel[buffer].push(region.read_only_start() + offset);
        self.regions.push(region);
        Ok(())
    }

    /// Places a buffer in its own allocation of exactly its size, which a sanitizer can check best.
    fn place_exactly(
        &mut self,
        gpu: &Rc<Gpu>,
        plan: &Plan,
        buffer: usize,
    ) -> Result<(), DriverError> {
        let allocation = DeviceBuffer::with_exact_size(gpu, plan.buffers[buffer].bytes() as usize)?;
        self.addresses[buffer].push(allocation.address());
        self.for_kernel[buffer].push(allocation.address());
        self.allocations.push(allocation);
        Ok(())
    }

    /// Places several copies of all buffers in one region, each copy in a random order.
    fn place_copies(
        &mut self,
        gpu: &Rc<Gpu>,
        plan: &Plan,
        (which, copies): (&[usize], usize),
        stream: &mut RandomStream,
    ) -> Result<(), DriverError> {
        let mut at = stream.below(16) as u64 * ALIGNMENT;
        let mut offsets = Vec::new();
        for _ in 0..copies {
            let mut order = which.to_vec();
            stream.shuffle(&mut order);
            for buffer in order {
                at += SHARED_REGION_ZONE_BYTES;
                offsets.push((buffer, at));
                let bytes = plan.buffers[buffer].bytes();
                at = (at + bytes + SHARED_REGION_ZONE_BYTES).next_multiple_of(ALIGNMENT);
                at += stream.below(4) as u64 * ALIGNMENT;
            }
        }
        let region = Region::new(gpu, at, false)?;
        for (buffer, offset) in offsets {
            let start = region.start() + offset;
            let bytes = plan.buffers[buffer].bytes();
            self.add_zone(
                start - SHARED_REGION_ZONE_BYTES,
                SHARED_REGION_ZONE_BYTES,
                buffer,
                false,
            );
            self.add_zone(start + bytes, SHARED_REGION_ZONE_BYTES, buffer, true);
            self.addresses[buffer].push(start);
            self.for_kernel[buffer].push(start);
        }
        self.regions.push(region);
        Ok(())
    }
}
