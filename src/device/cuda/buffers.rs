//! The judge's access to the buffers of a kernel on a GPU: write, read, hash, compare, and check guard zones.
//!
//! The work is done by the harness kernels on the GPU. Never launches the candidate.

use std::any::Any;
use std::rc::Rc;

use anyhow::{Context, bail};
use cudarc::driver::sys::CUdeviceptr;

use super::bound_kernel::CudaBoundKernel;
use super::buffer_copies::{BufferCopies, CopyAddresses, CopyNumbers, FilledCopies};
use super::layout::Layout;
use super::memory::{Access, copy_to_device, copy_to_host};
use crate::device::aligned::AlignedBytes;
use crate::device::{
    BufferAccess, BufferChecks, BufferContent, DeviceValues, ExpectedOutput, ExpectedValues,
    Mismatch, OutputComparison, Poison, PoisonCount, numerics,
};
use crate::task::{DType, Tolerance};

impl BufferAccess for CudaBoundKernel {
    fn write(&mut self, buffer: usize, content: &BufferContent<'_>) -> anyhow::Result<()> {
        let copies = self.buffer_copies(buffer)?;
        let harness = &self.context.harness;
        match content {
            BufferContent::Random { distribution, seed } => {
                let row = self.plan.buffers[buffer].shape.last().copied().unwrap_or(1);
                let filled = self.filled_copies(buffer, copies)?;
                harness.fill(filled, row, distribution, *seed)
            }
            BufferContent::Values(values) => self.write_values(buffer, copies, values),
            BufferContent::Bytes(bytes) => self.write_bytes(buffer, &copies, bytes),
            BufferContent::Poison(pattern) => {
                harness.poison(self.filled_copies(buffer, copies)?, *pattern)
            }
        }
    }

    fn hash(&self, buffer: usize) -> anyhow::Result<u64> {
        self.ensure_usable()?;
        let copies = self.buffer_copies(buffer)?;
        Ok(numerics::combine_hashes(
            &self.context.harness.hash(copies)?,
        ))
    }

    fn hash_copies(&self, buffer: usize, copies: &[u32]) -> anyhow::Result<u64> {
        self.ensure_usable()?;
        let copies = self.selected_copies(0, buffer, copies)?;
        Ok(numerics::combine_hashes(
            &self.context.harness.hash(copies)?,
        ))
    }

    /// Waits for the GPU once, not once for each buffer.
    fn hash_all(&self, buffers: &[usize], copies: Option<&[u32]>) -> anyhow::Result<Vec<u64>> {
        self.ensure_usable()?;
        let harness = &self.context.harness;
        let count = copies.map_or(self.memory.copies() as usize, <[u32]>::len);
        let mut queued = harness.begin_hashes(buffers.len() * count)?;
        for buffer in buffers {
            // The stream's order lets all buffers use one selection table.
            let selected = match copies {
                Some(copies) => self.selected_copies(0, *buffer, copies)?,
                None => self.buffer_copies(*buffer)?,
            };
            harness.queue_hashes(&mut queued, selected)?;
        }
        let hashes = harness.read_hashes(queued)?;
        Ok(hashes
            .chunks(count.max(1))
            .map(numerics::combine_hashes)
            .collect())
    }

    fn values(&self, buffer: usize) -> anyhow::Result<Vec<f64>> {
        let dtype = self.buffer_copies(buffer)?.dtype;
        Ok(numerics::values(
            dtype,
            self.read_first_copy(buffer)?.as_slice(),
        ))
    }

    fn bytes(&self, buffer: usize) -> anyhow::Result<Vec<u8>> {
        Ok(self.read_first_copy(buffer)?.as_slice().to_vec())
    }
}

impl BufferChecks for CudaBoundKernel {
    fn guard_damage(&self, buffer: usize) -> anyhow::Result<Option<i64>> {
        self.ensure_usable()?;
        let mut checked = self.guard_damage.borrow_mut();
        let damage = match checked.as_ref() {
            Some(damage) => damage,
            None => checked.insert(self.check_guard_zones()?),
        };
        Ok(damage.get(buffer).copied().flatten())
    }

    fn unwritten(&self, buffer: usize, poison: Poison) -> anyhow::Result<PoisonCount> {
        self.count_poison(buffer, poison, true)
    }

    fn written_in_idle_copies(&self, buffer: usize, poison: Poison) -> anyhow::Result<PoisonCount> {
        self.count_poison(buffer, poison, false)
    }

    fn expected_output(&self, buffer: usize) -> anyhow::Result<ExpectedOutput> {
        self.ensure_usable()?;
        let copies = self.buffer_copies(buffer)?;
        let first_not_finite = match copies.dtype {
            DType::Float64 => {
                let counts = self.context.harness.not_finite(copies)?;
                counts.into_iter().find_map(|count| count.first)
            }
            _ => None,
        };
        let addresses = (0..self.memory.copies())
            .map(|copy| self.memory.address(buffer, copy))
            .collect();
        let owner: Rc<dyn Any> = Rc::clone(&self.memory.data) as Rc<dyn Any>;
        Ok(ExpectedOutput {
            values: ExpectedValues::OnDevice(DeviceValues {
                dtype: copies.dtype,
                elements: copies.elements,
                addresses,
                owner,
            }),
            first_not_finite,
        })
    }

    fn compare(
        &self,
        buffer: usize,
        copies: &[u32],
        expected: &ExpectedValues,
        tolerance: Tolerance,
    ) -> anyhow::Result<OutputComparison> {
        self.ensure_usable()?;
        match expected {
            ExpectedValues::OnDevice(expected) => {
                self.compare_on_device(buffer, copies, expected, tolerance)
            }
            ExpectedValues::Host(expected) => {
                let dtype = self.buffer_copies(buffer)?.dtype;
                let found = self.read_first_copy(buffer)?;
                Ok(numerics::compare(
                    dtype,
                    found.as_slice(),
                    expected,
                    tolerance,
                ))
            }
        }
    }
}

impl CudaBoundKernel {
    fn buffer_copies(&self, buffer: usize) -> anyhow::Result<BufferCopies> {
        if buffer >= self.plan.buffers.len() {
            bail!("no such buffer: {buffer}");
        }
        self.memory.show()?;
        Ok(self.memory.buffer_copies(&self.plan, buffer))
    }

    fn filled_copies(&self, buffer: usize, copies: BufferCopies) -> anyhow::Result<FilledCopies> {
        let addresses: Vec<CUdeviceptr> = (0..copies.copies)
            .map(|copy| self.memory.address(buffer, copy))
            .collect();
        let addresses = CopyAddresses::new(&addresses);
        Ok(FilledCopies {
            copies,
            addresses: addresses.context("a buffer has more copies than can be filled at once")?,
            numbers: self.copy_numbers,
        })
    }

    /// One copy of a buffer, to be overwritten.
    pub(super) fn filled_copy(&self, buffer: usize, copy: u32) -> FilledCopies {
        let copies = self.memory.buffer_copies(&self.plan, buffer);
        FilledCopies {
            copies: BufferCopies {
                copies: 1,
                ..copies
            },
            addresses: CopyAddresses::of_one(self.memory.address(buffer, copy)),
            numbers: CopyNumbers::default(),
        }
    }

    /// Some copies of a buffer. Uses one of the two selection tables.
    fn selected_copies(
        &self,
        table: usize,
        buffer: usize,
        copies: &[u32],
    ) -> anyhow::Result<BufferCopies> {
        let all = self.buffer_copies(buffer)?;
        let addresses: Vec<CUdeviceptr> = (copies.iter())
            .map(|copy| self.memory.address(buffer, *copy))
            .collect();
        self.upload_addresses(table, &addresses)?;
        Ok(BufferCopies {
            table: self.selection_tables[table].address(),
            copies: copies.len() as u32,
            ..all
        })
    }

    fn upload_addresses(&self, table: usize, addresses: &[CUdeviceptr]) -> anyhow::Result<()> {
        let table = &self.selection_tables[table];
        if size_of_val(addresses) > table.bytes() {
            bail!("{} copies are selected, more than exist", addresses.len());
        }
        self.context.judge_memory.set_access(Access::Writable)?;
        Ok(copy_to_device(
            &self.context.gpu,
            table.address(),
            addresses,
        )?)
    }

    fn write_values(
        &self,
        buffer: usize,
        copies: BufferCopies,
        values: &[f64],
    ) -> anyhow::Result<()> {
        let mut stored = AlignedBytes::zeroed(values.len() * copies.dtype.bytes() as usize);
        if stored.as_slice().len() as u64 != copies.bytes() {
            bail!(
                "{} values for a buffer of {} elements",
                values.len(),
                copies.elements
            );
        }
        numerics::store(copies.dtype, values, stored.as_mut_slice());
        self.write_bytes(buffer, &copies, stored.as_slice())
    }

    /// Writes the same bytes to all copies.
    fn write_bytes(
        &self,
        buffer: usize,
        copies: &BufferCopies,
        bytes: &[u8],
    ) -> anyhow::Result<()> {
        if bytes.len() as u64 != copies.bytes() {
            bail!(
                "{} bytes for a buffer of {} bytes",
                bytes.len(),
                copies.bytes()
            );
        }
        for copy in 0..copies.copies {
            let address = self.memory.address(buffer, copy);
            copy_to_device(&self.context.gpu, address, bytes)?;
        }
        Ok(())
    }

    fn read_first_copy(&self, buffer: usize) -> anyhow::Result<AlignedBytes> {
        self.ensure_usable()?;
        let mut memory = AlignedBytes::zeroed(self.buffer_copies(buffer)?.bytes() as usize);
        let address = self.memory.address(buffer, 0);
        copy_to_host(&self.context.gpu, address, memory.as_mut_slice())?;
        Ok(memory)
    }

    fn read_element(&self, dtype: DType, start: CUdeviceptr, index: u64) -> anyhow::Result<f64> {
        let mut element = AlignedBytes::zeroed(dtype.bytes() as usize);
        let address = start + index * dtype.bytes();
        copy_to_host(&self.context.gpu, address, element.as_mut_slice())?;
        Ok(numerics::values(dtype, element.as_slice())[0])
    }

    /// For each buffer, the damage to its guard zones that is nearest to its data.
    fn check_guard_zones(&self) -> anyhow::Result<Vec<Option<i64>>> {
        self.memory.show()?;
        let mut nearest = vec![None; self.plan.buffers.len()];
        for zones in self.memory.zones() {
            let damage = (self.context.harness).check_guard_zones(zones, nearest.len())?;
            for (known, found) in nearest.iter_mut().zip(damage) {
                *known = known.or(found);
            }
        }
        Ok(nearest)
    }

    /// `launched`: in the copies that were launched, counts the elements that still hold their poison. Otherwise: in all copies
    /// that no run has used, counts the elements that no longer hold it.
    fn count_poison(
        &self,
        buffer: usize,
        poison: Poison,
        launched: bool,
    ) -> anyhow::Result<PoisonCount> {
        self.ensure_usable()?;
        let copies = self.buffer_copies(buffer)?;
        let harness = &self.context.harness;
        let counts = harness.count_poison(copies, poison, self.copy_numbers, launched)?;
        // There may be fewer copies of scratch than of the data.
        let used = |copy: u32| {
            let mut used = self.launched_copies.iter();
            used.any(|data| data % copies.copies == copy)
        };
        let mut total = PoisonCount::default();
        for (copy, count) in (0u32..).zip(counts) {
            if used(copy) == launched {
                total.count += count.count;
                total.first = total.first.or(count.first);
            }
        }
        Ok(total)
    }

    fn compare_on_device(
        &self,
        buffer: usize,
        copies: &[u32],
        expected: &DeviceValues,
        tolerance: Tolerance,
    ) -> anyhow::Result<OutputComparison> {
        if expected.addresses.len() != copies.len() {
            bail!(
                "{} copies are compared with {} expected ones",
                copies.len(),
                expected.addresses.len()
            );
        }
        if let Some(layout) = expected.owner.downcast_ref::<Layout>() {
            layout.set_access(Access::Writable)?;
        }
        let found = self.selected_copies(0, buffer, copies)?;
        self.upload_addresses(1, &expected.addresses)?;
        let right = BufferCopies {
            table: self.selection_tables[1].address(),
            copies: found.copies,
            dtype: expected.dtype,
            elements: expected.elements,
        };
        let comparisons = self.context.harness.compare(found, right, tolerance)?;
        let failed = (comparisons.iter()).position(|comparison| comparison.failed > 0);
        let mut whole = merge_comparisons(&comparisons);
        // The harness kernels return only the index of the first mismatch.
        if let (Some(copy), Some(first)) = (failed, &mut whole.first) {
            let address = self.memory.address(buffer, copies[copy]);
            *first = Mismatch {
                index: first.index,
                expected: self.read_element(
                    expected.dtype,
                    expected.addresses[copy],
                    first.index,
                )?,
                found: self.read_element(found.dtype, address, first.index)?,
            };
        }
        Ok(whole)
    }
}

/// Merges the comparisons of several copies, as if they were one tensor.
fn merge_comparisons(comparisons: &[OutputComparison]) -> OutputComparison {
    let largest = |of: fn(&OutputComparison) -> f64| comparisons.iter().map(of).fold(0.0, f64::max);
    let mean: f64 = comparisons.iter().map(|one| one.mean_abs_error).sum();
    OutputComparison {
        elements: comparisons.iter().map(|one| one.elements).sum(),
        failed: comparisons.iter().map(|one| one.failed).sum(),
        first: comparisons.iter().find_map(|one| one.first),
        max_abs_error: largest(|one| one.max_abs_error),
        max_rel_error: largest(|one| one.max_rel_error),
        mean_abs_error: mean / comparisons.len().max(1) as f64,
        worst_ratio: largest(|one| one.worst_ratio),
    }
}
