//! The placement of a kernel's buffers: for a check, each buffer alone between unmapped addresses; for timing, many copies at random
//! addresses of one region, and a second one for scratch. Every mapped byte that belongs to no buffer is in a guard zone.
//!
//! Allocates through `memory`. Writes no data and launches nothing.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::sys::CUdeviceptr;

use super::buffer_copies::BufferCopies;
use super::gpu::{DriverError, Gpu};
use super::judge_memory::{JudgeBuffer, JudgeMemory};
use super::memory::{Access, PlainAllocation, Region};
use crate::base::{RandomStream, random};
use crate::device::{Edge, Purpose};
use crate::kernel::plan::{BufferRole, LaunchPlan};

/// Alignment of a buffer's address.
const ALIGNMENT: u64 = 256;
/// Alignment of a buffer that ends at unmapped memory: no access of a thread is wider.
const MIN_ALIGNMENT: u64 = 16;
/// Longest guard zone: one thread block checks it.
const MAX_ZONE_BYTES: u64 = 64 << 10;
/// Least distance between buffers that share a region.
const MIN_GAP_BYTES: u64 = 512;
/// Limit for the scratch of all copies together, unless one copy alone needs more.
const MAX_SCRATCH_BYTES: u64 = 6 << 30;

/// Same layout as `Zone` in `numerics.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct GuardZone {
    start: CUdeviceptr,
    bytes: u64,
    /// Distance from the data to the nearest byte of the zone.
    distance: u64,
    buffer: u32,
    /// 1 if the zone is after the buffer, 0 if it is before.
    behind: u32,
}

/// The placement of some buffers of a kernel, in all copies.
pub(super) struct Layout {
    /// Unique in this process.
    pub(super) id: u64,
    regions: Vec<Region>,
    _allocations: Vec<PlainAllocation>,
    /// By buffer and copy: addresses for the judge.
    addresses: Vec<Vec<CUdeviceptr>>,
    /// By buffer and copy: addresses for the kernel, which must not write to inputs.
    kernel_addresses: Vec<Vec<CUdeviceptr>>,
    tables: JudgeBuffer,
    zones: GuardZones,
    pub(super) copies: u32,
    /// Whether it belongs to one of the two kernels that are timed.
    pub(super) is_timed: bool,
}

/// All memory of a layout's regions that belongs to no buffer.
pub(super) struct GuardZones {
    list: JudgeBuffer,
    pub(super) count: u32,
    /// What the zones hold depends on this secret. It is never in memory that a kernel can read.
    pub(super) key: u64,
}

impl GuardZones {
    pub(super) fn list_address(&self) -> CUdeviceptr {
        self.list.address()
    }
}

impl Layout {
    /// Places the buffers with these indices. Zones and tables have the plan's indices.
    pub(super) fn new(
        judge: &Rc<JudgeMemory>,
        plan: &LaunchPlan,
        which: &[usize],
        purpose: Purpose,
    ) -> Result<Self, DriverError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut builder = LayoutBuilder::new(judge.gpu(), plan);
        let copies = match purpose {
            Purpose::Check { edge } => {
                for buffer in which {
                    builder.place_alone(*buffer, edge)?;
                }
                1
            }
            Purpose::Time { copies, .. } | Purpose::Expect { copies } => {
                builder.place_copies(which, copies.max(1))?;
                copies.max(1) as u32
            }
            Purpose::Probe => {
                for buffer in which {
                    builder.place_exactly(*buffer)?;
                }
                1
            }
        };
        // A buffer that is placed elsewhere has a row of zeros, so that rows have the plan's indices.
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
            tables: judge.allocate_with(&table)?,
            zones: GuardZones {
                list: judge.allocate_with(&builder.zones)?,
                count: builder.zones.len() as u32,
                key: random::fresh_seed(),
            },
            regions: builder.regions,
            _allocations: builder.allocations,
            addresses: builder.addresses,
            kernel_addresses: builder.kernel_addresses,
            copies,
            is_timed: matches!(purpose, Purpose::Time { .. }),
        })
    }

    pub(super) fn is_hidden(&self) -> bool {
        self.regions.iter().all(Region::is_hidden)
    }

    /// Hides the buffers from kernels, or shows them. Nothing that uses them may be running.
    pub(super) fn set_access(&self, access: Access) -> Result<(), DriverError> {
        let mut regions = self.regions.iter();
        regions.try_for_each(|region| region.set_access(access))
    }

    /// All copies of a buffer.
    pub(super) fn buffer_copies(&self, plan: &LaunchPlan, buffer: usize) -> BufferCopies {
        BufferCopies {
            table: self.tables.address() + buffer as u64 * u64::from(self.copies) * 8,
            copies: self.copies,
            dtype: plan.buffers[buffer].dtype,
            elements: plan.buffers[buffer].elements(),
        }
    }

    pub(super) fn address(&self, buffer: usize, copy: u32) -> CUdeviceptr {
        self.addresses[buffer][(copy % self.copies) as usize]
    }

    pub(super) fn address_for_kernel(&self, buffer: usize, copy: u32) -> CUdeviceptr {
        self.kernel_addresses[buffer][(copy % self.copies) as usize]
    }
}

/// The placement of all buffers of a kernel: inputs and outputs, which two timed kernels can swap, and the kernel's own scratch.
pub(super) struct KernelMemory {
    pub(super) data: Rc<Layout>,
    scratch: Rc<Layout>,
    is_scratch: Vec<bool>,
}

impl KernelMemory {
    pub(super) fn new(
        judge: &Rc<JudgeMemory>,
        plan: &LaunchPlan,
        purpose: Purpose,
    ) -> Result<Self, DriverError> {
        let is_scratch: Vec<bool> = (plan.buffers.iter())
            .map(|buffer| matches!(buffer.role, BufferRole::Scratch { .. }))
            .collect();
        let buffers = |scratch: bool| -> Vec<usize> {
            (0..plan.buffers.len())
                .filter(|buffer| is_scratch[*buffer] == scratch)
                .collect()
        };
        let (data, scratch) = (buffers(false), buffers(true));
        let scratch_bytes: u64 = (scratch.iter())
            .map(|buffer| plan.buffers[*buffer].bytes())
            .sum();
        Ok(Self {
            data: Rc::new(Layout::new(judge, plan, &data, purpose)?),
            scratch: Rc::new(Layout::new(
                judge,
                plan,
                &scratch,
                scratch_purpose(purpose, scratch_bytes),
            )?),
            is_scratch,
        })
    }

    /// The placement of the data and of the scratch.
    pub(super) fn layouts(&self) -> [&Rc<Layout>; 2] {
        [&self.data, &self.scratch]
    }

    /// Shows all buffers to kernels.
    pub(super) fn show(&self) -> Result<(), DriverError> {
        let mut layouts = self.layouts().into_iter();
        layouts.try_for_each(|layout| layout.set_access(Access::Writable))
    }

    pub(super) fn copies(&self) -> u32 {
        self.data.copies
    }

    fn layout_of(&self, buffer: usize) -> &Layout {
        if self.is_scratch[buffer] {
            &self.scratch
        } else {
            &self.data
        }
    }

    pub(super) fn buffer_copies(&self, plan: &LaunchPlan, buffer: usize) -> BufferCopies {
        self.layout_of(buffer).buffer_copies(plan, buffer)
    }

    pub(super) fn address(&self, buffer: usize, copy: u32) -> CUdeviceptr {
        self.layout_of(buffer).address(buffer, copy)
    }

    pub(super) fn address_for_kernel(&self, buffer: usize, copy: u32) -> CUdeviceptr {
        self.layout_of(buffer).address_for_kernel(buffer, copy)
    }

    /// The guard zones around the data and around the scratch.
    pub(super) fn zones(&self) -> impl Iterator<Item = &GuardZones> {
        let both = self.layouts().into_iter().map(|layout| &layout.zones);
        both.filter(|zones| zones.count > 0)
    }

    /// Whether both kernels have the same inputs and outputs, so that each can use the other's. A plan's scratch follows them.
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

/// How scratch is placed. A kernel with much scratch gets fewer copies of it, and as many copies of the data as any other.
fn scratch_purpose(purpose: Purpose, bytes: u64) -> Purpose {
    let most = (MAX_SCRATCH_BYTES / bytes.max(1)).max(1) as usize;
    match purpose {
        Purpose::Time { copies, cache } => Purpose::Time {
            copies: copies.min(most),
            cache,
        },
        Purpose::Expect { copies } => Purpose::Expect {
            copies: copies.min(most),
        },
        other => other,
    }
}

/// A layout while its buffers are being placed.
struct LayoutBuilder<'a> {
    gpu: &'a Rc<Gpu>,
    plan: &'a LaunchPlan,
    regions: Vec<Region>,
    allocations: Vec<PlainAllocation>,
    addresses: Vec<Vec<CUdeviceptr>>,
    kernel_addresses: Vec<Vec<CUdeviceptr>>,
    zones: Vec<GuardZone>,
}

/// A buffer's place in a region, as offsets.
#[derive(Clone, Copy)]
struct Placed {
    buffer: usize,
    start: u64,
    end: u64,
}

impl<'a> LayoutBuilder<'a> {
    fn new(gpu: &'a Rc<Gpu>, plan: &'a LaunchPlan) -> Self {
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

    fn is_input(&self, buffer: usize) -> bool {
        self.plan.buffers[buffer].role == BufferRole::Input
    }

    /// Adds a region with these buffers, in the order of their places. Everything else in it becomes guard zones. The kernel gets
    /// addresses of inputs where a write faults.
    fn add_region(&mut self, region: Region, placed: &[Placed]) {
        for place in placed {
            let for_kernel = if self.is_input(place.buffer) {
                region.read_only_start()
            } else {
                region.start()
            };
            self.addresses[place.buffer].push(region.start() + place.start);
            self.kernel_addresses[place.buffer].push(for_kernel + place.start);
        }
        self.zones
            .extend(zones_around(placed, region.start(), region.bytes()));
        self.regions.push(region);
    }

    /// Places a buffer in its own region, at the region's start or end.
    fn place_alone(&mut self, buffer: usize, edge: Edge) -> Result<(), DriverError> {
        let bytes = self.plan.buffers[buffer].bytes();
        let region = Region::new(self.gpu, bytes, self.is_input(buffer))?;
        let start = match edge {
            Edge::Start => 0,
            Edge::End => (region.bytes() - bytes) / MIN_ALIGNMENT * MIN_ALIGNMENT,
        };
        let end = start + bytes;
        self.add_region(region, &[Placed { buffer, start, end }]);
        Ok(())
    }

    /// Places a buffer in its own allocation of exactly its size, which a sanitizer can check best.
    fn place_exactly(&mut self, buffer: usize) -> Result<(), DriverError> {
        let bytes = self.plan.buffers[buffer].bytes() as usize;
        let allocation = PlainAllocation::new(self.gpu, bytes)?;
        self.addresses[buffer].push(allocation.address());
        self.kernel_addresses[buffer].push(allocation.address());
        self.allocations.push(allocation);
        Ok(())
    }

    /// Places several copies of the buffers in one region, each copy in a random order at random distances. One region, because hiding
    /// and showing cost the same for a region of any size.
    fn place_copies(&mut self, which: &[usize], copies: usize) -> Result<(), DriverError> {
        if which.is_empty() {
            return Ok(());
        }
        let mut stream = RandomStream::new(random::fresh_seed(), "placement", 0);
        let mut end = stream.below(16) as u64 * ALIGNMENT;
        let mut placed = Vec::new();
        for _ in 0..copies {
            let mut order = which.to_vec();
            stream.shuffle(&mut order);
            for buffer in order {
                let gap = MIN_GAP_BYTES + stream.below(4) as u64 * ALIGNMENT;
                let start = (end + gap).next_multiple_of(ALIGNMENT);
                end = start + self.plan.buffers[buffer].bytes();
                placed.push(Placed { buffer, start, end });
            }
        }
        let has_inputs = which.iter().any(|buffer| self.is_input(*buffer));
        let region = Region::new(self.gpu, end + MIN_GAP_BYTES, has_inputs)?;
        self.add_region(region, &placed);
        Ok(())
    }
}

/// All bytes of a region before, between and after its buffers, as zones of limited length. Each belongs to the nearest buffer.
fn zones_around(placed: &[Placed], region: CUdeviceptr, bytes: u64) -> Vec<GuardZone> {
    let mut zones = Vec::new();
    let mut add = |from: u64, to: u64, buffer: usize, behind: bool| {
        let mut start = from;
        while start < to {
            let end = to.min(start + MAX_ZONE_BYTES);
            zones.push(GuardZone {
                start: region + start,
                bytes: end - start,
                distance: if behind { start - from } else { to - end },
                buffer: buffer as u32,
                behind: u32::from(behind),
            });
            start = end;
        }
    };
    let mut previous: Option<Placed> = None;
    for place in placed {
        let from = match previous {
            Some(previous) => {
                let middle = previous.end + (place.start - previous.end) / 2;
                add(previous.end, middle, previous.buffer, true);
                middle
            }
            None => 0,
        };
        add(from, place.start, place.buffer, false);
        previous = Some(*place);
    }
    if let Some(last) = previous {
        add(last.end, bytes, last.buffer, true);
    }
    zones
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_and_buffers_cover_a_region_without_overlap() {
        let placed = [(0, 768, 1003), (1, 2048, 2048), (0, 4096, 300_000)]
            .map(|(buffer, start, end)| Placed { buffer, start, end });
        let zones = zones_around(&placed, 1 << 21, 1 << 20);
        let mut covered: Vec<(u64, u64)> = (zones.iter())
            .map(|zone| (zone.start - (1 << 21), zone.bytes))
            .chain(
                placed
                    .iter()
                    .map(|place| (place.start, place.end - place.start)),
            )
            .collect();
        covered.sort_unstable();
        let end = covered.iter().fold(0, |end, (start, bytes)| {
            assert_eq!(*start, end);
            end + bytes
        });
        assert_eq!(end, 1 << 20);
        assert!(zones.iter().all(|zone| zone.bytes <= MAX_ZONE_BYTES));
        // The last byte of the region is this far behind the last buffer.
        let last = zones.iter().max_by_key(|zone| zone.start).unwrap();
        assert_eq!(last.distance + last.bytes, (1 << 20) - 300_000);
        assert_eq!((last.buffer, last.behind), (0, 1));
        let first = zones.iter().min_by_key(|zone| zone.start).unwrap();
        assert_eq!((first.buffer, first.behind, first.distance), (0, 0, 0));
    }
}
