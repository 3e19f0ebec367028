//! Reads and writes the memory of a stopped process from outside: its mappings, resident pages, contents, and stack pointers.
//!
//! Uses `/proc` and `process_vm_readv`, and runs no code in the process. Does not know what the memory is for. An error means that the
//! system does not allow one process to read another, or that the process has ended.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::device::aligned::AlignedBytes;

pub(super) const PAGE_BYTES: u64 = 4096;
/// Bits of an entry of `/proc/PID/pagemap`: the page is in memory; or it is in memory, in swap space, or a guard.
const PAGE_IS_PRESENT: u64 = 1 << 63;
const PAGE_HAS_MEMORY: u64 = PAGE_IS_PRESENT | 1 << 62;
/// Entries of `/proc/PID/pagemap` that are looked at together, and those of a part of them.
const BLOCK_ENTRIES: usize = 512;
const PART_ENTRIES: usize = 32;
/// How often the position of a thread is read until the system reports the thread as stopped.
const POSITION_ATTEMPTS: usize = 100;
/// The most ranges that one `process_vm_writev` takes.
const MAX_RANGES_PER_CALL: usize = 1024;

/// A mapping that the process can write to and that no other process shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PrivateMapping {
    pub(super) range: Range<u64>,
    /// Whether it maps a file.
    pub(super) has_file: bool,
    /// The name that the system shows, such as `[heap]`; may be empty.
    pub(super) name: String,
}

/// Consecutive pages that are all in memory, or that are all swapped pages or guard pages: the system reports these two alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResidentPages {
    pub(super) range: Range<u64>,
    /// In memory.
    pub(super) is_present: bool,
}

/// A write: an address in the process, and the bytes for it.
pub(super) struct Part<'m> {
    pub(super) address: u64,
    pub(super) bytes: &'m [u8],
}

/// Whether entries of `/proc/PID/pagemap` are all the same and say that there is no memory. Most of a stack has none, and one
/// comparison finds out.
fn is_without_memory(entries: &[u64]) -> bool {
    entries[1..] == entries[..entries.len() - 1] && entries[0] & PAGE_HAS_MEMORY == 0
}

/// The pages that have memory, from the entries of `/proc/PID/pagemap` for the pages from `start` on.
fn resident_pages_of(entries: &[u64], start: u64) -> Vec<ResidentPages> {
    let mut resident = Vec::new();
    let mut address = start;
    for block in entries.chunks(BLOCK_ENTRIES) {
        if is_without_memory(block) {
            address += block.len() as u64 * PAGE_BYTES;
            continue;
        }
        for part in block.chunks(PART_ENTRIES) {
            if !is_without_memory(part) {
                add_pages(&mut resident, part, address);
            }
            address += part.len() as u64 * PAGE_BYTES;
        }
    }
    resident
}

/// Adds the pages that have memory, from the entries for the pages from `start` on.
fn add_pages(resident: &mut Vec<ResidentPages>, entries: &[u64], start: u64) {
    let mut address = start;
    for entry in entries {
        let end = address + PAGE_BYTES;
        if *entry & PAGE_HAS_MEMORY != 0 {
            let is_present = *entry & PAGE_IS_PRESENT != 0;
            match resident.last_mut() {
                Some(last) if last.range.end == address && last.is_present == is_present => {
                    last.range.end = end;
                }
                _ => resident.push(ResidentPages {
                    range: address..end,
                    is_present,
                }),
            }
        }
        address = end;
    }
}

/// A stopped process.
pub(super) struct ProcessMemory {
    process: libc::pid_t,
    page_map: File,
    sizes: File,
    threads: Vec<ThreadFile>,
}

struct ThreadFile {
    /// `/proc/PID/task/TID/syscall`, which ends with the stack pointer and the instruction's address.
    position: File,
    /// Its stack pointer at the first stop.
    stack_pointer: u64,
}

impl ProcessMemory {
    /// Opens the files about a process and its threads in `/proc`. Keeps the stack pointers of this moment, for `is_at_rest`.
    pub(super) fn open(process: libc::pid_t) -> io::Result<Self> {
        let path = |name: &str| format!("/proc/{process}/{name}");
        let mut threads = Vec::new();
        for task in std::fs::read_dir(path("task"))? {
            let position = File::open(task?.path().join("syscall"))?;
            let (stack_pointer, _) = read_position(&position)?;
            threads.push(ThreadFile {
                position,
                stack_pointer,
            });
        }
        Ok(Self {
            process,
            page_map: File::open(path("pagemap"))?,
            sizes: File::open(path("statm"))?,
            threads,
        })
    }

    /// The mappings that the process can write to and that no other process shares, by address.
    pub(super) fn private_mappings(&self) -> io::Result<Vec<PrivateMapping>> {
        let text = std::fs::read_to_string(format!("/proc/{}/maps", self.process))?;
        text.lines()
            .filter_map(|line| parse_mapping(line).transpose())
            .collect()
    }

    /// The number of pages in all mappings. It changes if a mapping is added, removed or resized.
    pub(super) fn mapped_pages(&self) -> io::Result<u64> {
        let mut text = [0; 128];
        let length = self.sizes.read_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(&text[..length]);
        let first = text.split_whitespace().next();
        first
            .and_then(|pages| pages.parse().ok())
            .ok_or_else(invalid)
    }

    /// The resident pages of a range.
    pub(super) fn resident_pages(&self, range: &Range<u64>) -> io::Result<Vec<ResidentPages>> {
        let pages = (range.end - range.start) / PAGE_BYTES;
        let mut entries = AlignedBytes::zeroed(pages as usize * 8);
        (self.page_map).read_exact_at(entries.as_mut_slice(), range.start / PAGE_BYTES * 8)?;
        Ok(resident_pages_of(entries.words(), range.start))
    }

    /// Whether an address can be read. A guard page cannot.
    pub(super) fn is_readable(&self, address: u64) -> io::Result<bool> {
        match self.read(address, &mut [0]) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether every thread is in `code`, with the stack pointer that it had at the first stop.
    pub(super) fn is_at_rest(&self, code: &Range<u64>) -> io::Result<bool> {
        for thread in &self.threads {
            let (stack_pointer, instruction) = read_position(&thread.position)?;
            if stack_pointer != thread.stack_pointer || !code.contains(&instruction) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads memory of the process.
    pub(super) fn read(&self, address: u64, memory: &mut [u8]) -> io::Result<()> {
        if memory.is_empty() {
            return Ok(());
        }
        let local = libc::iovec {
            iov_base: memory.as_mut_ptr().cast(),
            iov_len: memory.len(),
        };
        let remote = remote_range(address, memory.len());
        // SAFETY: `local` is memory of this process, borrowed for the duration of the call.
        let copied = unsafe {
            libc::process_vm_readv(self.process, &raw const local, 1, &raw const remote, 1, 0)
        };
        check_copied(copied, memory.len())
    }

    /// Writes memory of the process.
    pub(super) fn write(&self, parts: &[Part<'_>]) -> io::Result<()> {
        for parts in parts.chunks(MAX_RANGES_PER_CALL) {
            let local: Vec<_> = parts
                .iter()
                .map(|part| libc::iovec {
                    iov_base: part.bytes.as_ptr().cast_mut().cast(),
                    iov_len: part.bytes.len(),
                })
                .collect();
            let remote: Vec<_> = parts
                .iter()
                .map(|part| remote_range(part.address, part.bytes.len()))
                .collect();
            let total = parts.iter().map(|part| part.bytes.len()).sum();
            let count = parts.len() as libc::c_ulong;
            // SAFETY: the local ranges are borrowed for the duration of the call and only read.
            let copied = unsafe {
                libc::process_vm_writev(
                    self.process,
                    local.as_ptr(),
                    count,
                    remote.as_ptr(),
                    count,
                    0,
                )
            };
            check_copied(copied, total)?;
        }
        Ok(())
    }
}

fn remote_range(address: u64, bytes: usize) -> libc::iovec {
    libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: bytes,
    }
}

fn check_copied(copied: isize, expected: usize) -> io::Result<()> {
    match usize::try_from(copied) {
        Ok(copied) if copied == expected => Ok(()),
        // Part of the range is no longer mapped.
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

fn invalid() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// The stack pointer and the address of the next instruction of a stopped thread.
fn read_position(file: &File) -> io::Result<(u64, u64)> {
    for _ in 0..POSITION_ATTEMPTS {
        let mut text = [0; 256];
        let length = file.read_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(&text[..length]);
        let mut words = text.split_whitespace().rev();
        let mut hexadecimal = || {
            let digits = words.next()?.strip_prefix("0x")?;
            u64::from_str_radix(digits, 16).ok()
        };
        if let (Some(instruction), Some(stack_pointer)) = (hexadecimal(), hexadecimal()) {
            return Ok((stack_pointer, instruction));
        }
        // The system reports "running" until the thread has stopped.
        std::thread::yield_now();
    }
    Err(invalid())
}

/// Parses a line of `/proc/PID/maps`: `START-END rwxp OFFSET DEVICE INODE NAME`. `None` if the mapping is read-only or shared.
fn parse_mapping(line: &str) -> io::Result<Option<PrivateMapping>> {
    let mut words = line.split_whitespace();
    let mut next = || words.next().ok_or_else(invalid);
    let (range, access) = (next()?, next()?);
    let (_, _, inode) = (next()?, next()?, next()?);
    if access.get(1..2) != Some("w") || !access.ends_with('p') {
        return Ok(None);
    }
    let (start, end) = range.split_once('-').ok_or_else(invalid)?;
    let address = |digits| u64::from_str_radix(digits, 16).map_err(|_| invalid());
    Ok(Some(PrivateMapping {
        range: address(start)?..address(end)?,
        has_file: inode != "0",
        name: words.collect::<Vec<_>>().join(" "),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writable_private_mappings_are_found() {
        let lines = [
            "00400000-00401000 r--p 00000000 fe:00 77 /a program",
            "004c7000-004cd000 rw-p 000c6000 fe:00 77 /a program",
            "004cd000-004d4000 rw-p 00000000 00:00 0",
            "7fff0000-7fff1000 rw-s 00000000 00:01 5 /memfd: (deleted)",
            "7ffd1000-7ffd2000 rw-p 00000000 00:00 0                          [stack]",
        ];
        let found: Vec<_> = (lines.iter())
            .filter_map(|line| parse_mapping(line).unwrap())
            .map(|mapping| (mapping.range, mapping.has_file, mapping.name))
            .collect();
        assert_eq!(
            found,
            [
                (0x4c_7000..0x4c_d000, true, "/a program".to_owned()),
                (0x4c_d000..0x4d_4000, false, String::new()),
                (0x7ffd_1000..0x7ffd_2000, false, "[stack]".to_owned()),
            ]
        );
        for broken in ["", "x", "1-2 rw-p", "1 rw-p 0 0 0", "g-2 rw-p 0 0:0 0"] {
            assert!(parse_mapping(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn pages_with_memory_are_found_at_any_place() {
        const SOFT_DIRTY: u64 = 1 << 55;
        let pages = 3 * BLOCK_ENTRIES + 7;
        let last = BLOCK_ENTRIES - 1;
        let part = PART_ENTRIES;
        let cases: [&[usize]; 8] = [
            &[],
            &[0],
            &[last, last + 1],
            &[part - 1, part],
            &[part, 3 * part - 1, 3 * part],
            &[2 * BLOCK_ENTRIES],
            &[pages - 1],
            &[5, last, last + 1, 2 * BLOCK_ENTRIES - 1, pages - 1],
        ];
        for present in cases {
            for empty in [0, SOFT_DIRTY] {
                let entry = |page| match present.contains(&page) {
                    true => PAGE_IS_PRESENT | 77,
                    false => empty,
                };
                let entries: Vec<u64> = (0..pages).map(entry).collect();
                let start = 0x10_0000;
                let found = resident_pages_of(&entries, start);
                let found: Vec<u64> = (found.iter())
                    .flat_map(|pages| pages.range.clone().step_by(PAGE_BYTES as usize))
                    .collect();
                let expected: Vec<u64> = (present.iter())
                    .map(|page| start + *page as u64 * PAGE_BYTES)
                    .collect();
                assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn stopped_process_is_seen_and_changed_from_outside() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let id = child.id() as libc::pid_t;
        let mut status = 0;
        // SAFETY: a child of this process; `status` is valid to write to.
        unsafe {
            libc::kill(id, libc::SIGSTOP);
            libc::waitpid(id, &raw mut status, libc::WUNTRACED);
        }
        let memory = ProcessMemory::open(id).unwrap();
        let mappings = memory.private_mappings().unwrap();
        let stack = mappings.iter().find(|mapping| mapping.name == "[stack]");
        let range = stack.unwrap().range.clone();
        let pages = memory.resident_pages(&range).unwrap();
        let last = pages.last().unwrap();
        assert!(last.is_present && range.contains(&last.range.start));
        let address = last.range.end - 64;
        memory
            .write(&[Part {
                address,
                bytes: b"marked",
            }])
            .unwrap();
        let mut found = [0; 6];
        memory.read(address, &mut found).unwrap();
        assert_eq!(&found, b"marked");
        assert!(memory.is_readable(address).unwrap() && !memory.is_readable(8).unwrap());
        assert!(memory.is_at_rest(&(0..u64::MAX)).unwrap());
        assert!(!memory.is_at_rest(&(0..8)).unwrap());
        assert!(memory.mapped_pages().unwrap() > 10);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
