//! Restores the memory of a candidate's process after every launch, and reports what the kernel left there.
//!
//! The memory is saved at the process's first stop. At every later stop each writable page gets that content back: variables, stacks,
//! shared memory, the heap, the runtime's own state. Pages that were not resident at the first stop are filled with zeros. So every
//! launch starts with the same memory, whatever the kernel did. A changed variable of the candidate, or a change in memory that
//! belongs to nothing, is a finding. All this happens from outside, while the process is stopped; it runs no code in the process.

use std::io;
use std::ops::Range;
use std::rc::Rc;

use anyhow::Context;

use super::process_memory::{PAGE_BYTES, Part, PrivateMapping, ProcessMemory, ResidentPages};
use super::program_symbols::ProgramSymbols;
use crate::base::Failure;

/// The most bytes that are compared or cleared at a time.
const MAX_PART_BYTES: u64 = 1 << 20;
/// Bytes that are compared at once in the search for a changed one.
const LINE_BYTES: usize = 64;

/// What a launch left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leftover {
    /// Nothing that a kernel could use.
    Nothing,
    /// A change, which is undone: the name of a variable, or a kind of memory.
    Change(String),
    /// Something that cannot be undone. The process must not be used again.
    Lasting(String),
}

/// The memory of a process at its first stop.
pub(super) struct SavedMemory {
    memory: ProcessMemory,
    symbols: Rc<ProgramSymbols>,
    areas: Vec<SavedArea>,
    /// The number of pages in all mappings.
    mapped_pages: u64,
    /// All mappings, to find a new mapping that leaves the number of pages the same. `None` if the process cannot change its mappings.
    mappings: Option<Vec<PrivateMapping>>,
    /// The content of pages that were not saved.
    zeros: Vec<u8>,
}

/// A mapping, and its content at the first stop.
struct SavedArea {
    range: Range<u64>,
    /// Whether the candidate's variables are in it. Only then are its pages compared before they are restored.
    is_program: bool,
    /// The pages that were resident at the first stop. All others were zero.
    saved: Vec<SavedPages>,
    /// The ranges of `saved`, and guard pages. Sorted.
    known: Vec<Range<u64>>,
}

/// Consecutive pages with their content.
struct SavedPages {
    address: u64,
    contents: Vec<u8>,
}

impl SavedArea {
    fn save(
        memory: &ProcessMemory,
        symbols: &ProgramSymbols,
        mapping: &PrivateMapping,
    ) -> io::Result<Self> {
        let range = mapping.range.clone();
        // A page that maps a file has the file's content even while it is not resident.
        let resident = if mapping.has_file {
            vec![ResidentPages {
                range: range.clone(),
                is_present: true,
            }]
        } else {
            memory.resident_pages(&range)?
        };
        let mut saved = Vec::new();
        for pages in &resident {
            if !pages.is_present && !memory.is_readable(pages.range.start)? {
                continue;
            }
            let mut contents = vec![0; (pages.range.end - pages.range.start) as usize];
            memory.read(pages.range.start, &mut contents)?;
            saved.push(SavedPages {
                address: pages.range.start,
                contents,
            });
        }
        let overlaps = |pages: &Range<u64>| pages.start < range.end && range.start < pages.end;
        Ok(Self {
            is_program: symbols.writable_pages.iter().any(overlaps),
            range,
            saved,
            known: resident.into_iter().map(|pages| pages.range).collect(),
        })
    }
}

impl SavedMemory {
    /// Saves the memory of a process at its first stop. `maps_are_fixed`: the sandbox lets the process change no mapping.
    ///
    /// # Errors
    /// `Failure::environment` if the system does not let this process look at the memory of another.
    pub(super) fn open(
        symbols: Rc<ProgramSymbols>,
        process: libc::pid_t,
        maps_are_fixed: bool,
    ) -> anyhow::Result<Self> {
        Self::save(symbols, process, maps_are_fixed).map_err(|error| {
            let message =
                format!("failed to read the memory of a candidate's process: {error}");
            Failure::environment(message)
                .hint("kforge must see what a kernel leaves behind: in a container, allow `process_vm_readv` and `/proc`, or add the capability SYS_PTRACE")
                .into()
        })
    }

    fn save(
        symbols: Rc<ProgramSymbols>,
        process: libc::pid_t,
        maps_are_fixed: bool,
    ) -> io::Result<Self> {
        let memory = ProcessMemory::open(process)?;
        let mappings = memory.private_mappings()?;
        let areas = mappings
            .iter()
            .map(|mapping| SavedArea::save(&memory, &symbols, mapping))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            mapped_pages: memory.mapped_pages()?,
            memory,
            symbols,
            areas,
            mappings: (!maps_are_fixed).then_some(mappings),
            zeros: vec![0; MAX_PART_BYTES as usize],
        })
    }

    /// Restores the memory of the stopped process. Returns what the last launch left there.
    pub(super) fn restore(&self) -> anyhow::Result<Leftover> {
        self.try_restore()
            .context("failed to restore the memory of a candidate")
    }

    fn try_restore(&self) -> io::Result<Leftover> {
        if !self.memory.is_at_rest(&self.symbols.rest)? {
            let what = "a thread in the middle of its code";
            return Ok(Leftover::Lasting(what.to_owned()));
        }
        if self.memory.mapped_pages()? != self.mapped_pages || self.has_new_mappings()? {
            return Ok(Leftover::Lasting("memory that it mapped".to_owned()));
        }
        let mut first_change = None;
        for area in &self.areas {
            let change = self.restore_area(area)?;
            first_change = first_change.or(change);
        }
        Ok(first_change.map_or(Leftover::Nothing, Leftover::Change))
    }

    fn has_new_mappings(&self) -> io::Result<bool> {
        match &self.mappings {
            Some(mappings) => Ok(self.memory.private_mappings()? != *mappings),
            None => Ok(false),
        }
    }

    /// Restores one mapping. Returns the first change that only the kernel can have made: the runtime changes its own memory too.
    fn restore_area(&self, area: &SavedArea) -> io::Result<Option<String>> {
        let mut parts: Vec<Part<'_>> = Vec::new();
        for pages in &area.saved {
            parts.push(Part {
                address: pages.address,
                bytes: &pages.contents,
            });
        }
        let resident = self.memory.resident_pages(&area.range)?;
        for pages in without(&resident, &area.known) {
            let mut address = pages.start;
            while address < pages.end {
                let bytes = (pages.end - address).min(MAX_PART_BYTES);
                parts.push(Part {
                    address,
                    bytes: &self.zeros[..bytes as usize],
                });
                address += bytes;
            }
        }
        if !area.is_program {
            self.memory.write(&parts)?;
            return Ok(None);
        }
        let mut first_change = None;
        for part in &parts {
            let change = self.restore_compared(part)?;
            first_change = first_change.or(change);
        }
        Ok(first_change)
    }

    /// Restores the changed pages of a part. Returns the first change that only the kernel can have made.
    fn restore_compared(&self, part: &Part<'_>) -> io::Result<Option<String>> {
        let mut current = vec![0; part.bytes.len().min(MAX_PART_BYTES as usize)];
        let mut first_change = None;
        for (index, saved) in part.bytes.chunks(MAX_PART_BYTES as usize).enumerate() {
            let address = part.address + index as u64 * MAX_PART_BYTES;
            let current = &mut current[..saved.len()];
            self.memory.read(address, current)?;
            if current == saved {
                continue;
            }
            let mut changed = Vec::new();
            let pages = saved.chunks(PAGE_BYTES as usize);
            for (page, (saved, current)) in
                pages.zip(current.chunks(PAGE_BYTES as usize)).enumerate()
            {
                if saved == current {
                    continue;
                }
                let address = address + page as u64 * PAGE_BYTES;
                if first_change.is_none() {
                    first_change = changed_bytes(saved, current)
                        .find_map(|byte| self.symbols.describe(address + byte as u64));
                }
                changed.push(Part {
                    address,
                    bytes: saved,
                });
            }
            self.memory.write(&changed)?;
        }
        Ok(first_change)
    }
}

/// The positions of the bytes that differ. The runtime changes a few bytes of some pages in every launch, so equal lines are skipped
/// as a whole.
fn changed_bytes<'a>(saved: &'a [u8], current: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let lines = saved.chunks(LINE_BYTES).zip(current.chunks(LINE_BYTES));
    let changed = (lines.enumerate()).filter(|(_, (saved, current))| saved != current);
    changed.flat_map(|(line, (saved, current))| {
        let bytes = saved.iter().zip(current).enumerate();
        let changed = bytes.filter(|(_, (saved, current))| saved != current);
        changed.map(move |(byte, _)| line * LINE_BYTES + byte)
    })
}

/// The resident pages outside of the known ranges. Both lists are sorted.
fn without(resident: &[ResidentPages], known: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut rest = Vec::new();
    let mut known = known.iter().peekable();
    for pages in resident.iter().map(|pages| &pages.range) {
        let mut start = pages.start;
        while let Some(next) = known.peek() {
            if next.start >= pages.end {
                break;
            }
            if next.start > start {
                rest.push(start..next.start);
            }
            start = start.max(next.end);
            if next.end > pages.end {
                break;
            }
            known.next();
        }
        if start < pages.end {
            rest.push(start..pages.end);
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_were_saved_are_left_out() {
        let known = [2..4, 6..8, 20..30];
        for (resident, expected) in [
            (&[(0, 10)][..], &[(0, 2), (4, 6), (8, 10)][..]),
            (&[(2, 4), (6, 8)], &[]),
            (&[(3, 7)], &[(4, 6)]),
            (&[(0, 1), (9, 12), (25, 40)], &[(0, 1), (9, 12), (30, 40)]),
            (&[(20, 22), (24, 26), (28, 33)], &[(30, 33)]),
            (&[], &[]),
        ] {
            let expected: Vec<_> = (expected.iter()).map(|(start, end)| *start..*end).collect();
            let resident: Vec<_> = (resident.iter())
                .map(|(start, end)| ResidentPages {
                    range: *start..*end,
                    is_present: true,
                })
                .collect();
            assert_eq!(without(&resident, &known), expected, "{resident:?}");
        }
    }
}
