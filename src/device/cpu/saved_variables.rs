//! What a candidate could remember between launches: the variables of its own file, looked at and put back from outside.
//!
//! Where they lie is read from the executable as the linker wrote it, before the candidate runs; their memory is read and
//! written by the judge while the process is stopped. The process is asked for nothing.

use std::path::Path;

use anyhow::{Context, bail};

/// The sections that `runtime/state.ld` makes.
const STATE_SECTIONS: [&str; 2] = ["kforge_unit_data", "kforge_unit_bss"];
/// How much is read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Where a file's variables lie in the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct VariableTable {
    /// First address and length of what may be written.
    ranges: Vec<(u64, usize)>,
    /// Address, size and name of each that has a name, by address.
    symbols: Vec<(u64, u64, String)>,
}

/// The variables as they were before the first launch.
pub(super) struct SavedVariables {
    variables: VariableTable,
    original: Vec<Vec<u8>>,
}

impl SavedVariables {
    /// Looks at a stopped process. `None` where this system does not let one process look into another.
    pub(super) fn open(executable: &Path, process: libc::pid_t) -> anyhow::Result<Option<Self>> {
        let bytes = std::fs::read(executable)
            .with_context(|| format!("failed to read `{}`", executable.display()))?;
        let variables = VariableTable::read_elf(&bytes)
            .with_context(|| format!("`{}` is no executable", executable.display()))?;
        let mut image = Vec::new();
        for (address, length) in &variables.ranges {
            let mut memory = vec![0; *length];
            match transfer(process, *address, &mut memory, TransferDirection::Read) {
                Ok(()) => image.push(memory),
                Err(error) if is_forbidden(&error) => return Ok(None),
                Err(error) => {
                    return Err(error).context("failed to read the variables of a candidate");
                }
            }
        }
        Ok(Some(Self {
            variables,
            original: image,
        }))
    }

    /// Puts back what has changed, and names the first variable of it.
    pub(super) fn restore(&mut self, process: libc::pid_t) -> anyhow::Result<Option<String>> {
        let mut changed = None;
        let mut piece = vec![0; CHUNK_BYTES];
        for ((address, _), image) in self.variables.ranges.iter().zip(&mut self.original) {
            for (index, image) in image.chunks_mut(CHUNK_BYTES).enumerate() {
                let address = address + (index * CHUNK_BYTES) as u64;
                let piece = &mut piece[..image.len()];
                transfer(process, address, piece, TransferDirection::Read)
                    .context("failed to read the variables of a candidate")?;
                if piece == image {
                    continue;
                }
                let differs = piece
                    .iter()
                    .zip(&*image)
                    .position(|(one, other)| one != other);
                changed.get_or_insert(address + differs.unwrap_or_default() as u64);
                transfer(process, address, image, TransferDirection::Write)
                    .context("failed to put the variables of a candidate back")?;
            }
        }
        Ok(changed.map(|address| self.variables.name_at(address)))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TransferDirection {
    Read,
    Write,
}

fn transfer(
    process: libc::pid_t,
    address: u64,
    memory: &mut [u8],
    direction: TransferDirection,
) -> std::io::Result<()> {
    if memory.is_empty() {
        return Ok(());
    }
    let here = libc::iovec {
        iov_base: memory.as_mut_ptr().cast(),
        iov_len: memory.len(),
    };
    let there = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: memory.len(),
    };
    // SAFETY: `here` is this side's own memory, borrowed for as long as the call takes; `there` is only another's.
    let moved = unsafe {
        match direction {
            TransferDirection::Read => {
                libc::process_vm_readv(process, &raw const here, 1, &raw const there, 1, 0)
            }
            TransferDirection::Write => {
                libc::process_vm_writev(process, &raw const here, 1, &raw const there, 1, 0)
            }
        }
    };
    match usize::try_from(moved) {
        Ok(moved) if moved == memory.len() => Ok(()),
        // A part: the rest is not there, though the executable says so.
        Ok(_) => Err(std::io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(std::io::Error::last_os_error()),
    }
}

fn is_forbidden(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS))
}

impl VariableTable {
    /// Reads a little-endian ELF file of 64 bits.
    fn read_elf(file: &[u8]) -> anyhow::Result<Self> {
        if file.get(..6) != Some(b"\x7fELF\x02\x01".as_slice()) {
            bail!("not an ELF file of 64 bits");
        }
        let table = usize::try_from(read_integer(file, 0x28, 8)?)?;
        let size = usize::try_from(read_integer(file, 0x3a, 2)?)?;
        let count = usize::try_from(read_integer(file, 0x3c, 2)?)?;
        let names = usize::try_from(read_integer(file, 0x3e, 2)?)?;
        let section = |index: usize| ElfSection::read(file, table + index * size);
        let names = section(names)?;
        let mut variables = Self::default();
        let mut symbols = Vec::new();
        for index in 0..count {
            let found = section(index)?;
            if STATE_SECTIONS.contains(&read_name(file, names.offset + found.name)?)
                && found.bytes > 0
            {
                variables.ranges.push((found.address, found.bytes));
            }
            if found.kind == SYMBOL_TABLE {
                let strings = section(found.link)?;
                for place in (found.offset..found.offset + found.bytes).step_by(SYMBOL_BYTES) {
                    let name = usize::try_from(read_integer(file, place, 4)?)?;
                    let address = read_integer(file, place + 8, 8)?;
                    let length = read_integer(file, place + 16, 8)?;
                    symbols.push((address, length, strings.offset + name));
                }
            }
        }
        symbols.retain(|(address, length, _)| {
            let within =
                |(start, bytes): &(u64, usize)| (*start..start + *bytes as u64).contains(address);
            *length > 0 && variables.ranges.iter().any(within)
        });
        for (address, length, name) in symbols {
            let name = unmangled_name(read_name(file, name)?);
            variables.symbols.push((address, length, name));
        }
        variables.symbols.sort();
        Ok(variables)
    }

    fn name_at(&self, address: u64) -> String {
        let mut symbols = self.symbols.iter();
        let found = symbols.find(|(start, length, _)| (*start..start + length).contains(&address));
        found.map_or_else(
            || "a variable without a name".to_owned(),
            |(.., name)| format!("`{name}`"),
        )
    }
}

const SYMBOL_TABLE: u64 = 2;
const SYMBOL_BYTES: usize = 24;

struct ElfSection {
    name: usize,
    kind: u64,
    address: u64,
    offset: usize,
    bytes: usize,
    link: usize,
}

impl ElfSection {
    fn read(file: &[u8], place: usize) -> anyhow::Result<Self> {
        Ok(Self {
            name: usize::try_from(read_integer(file, place, 4)?)?,
            kind: read_integer(file, place + 4, 4)?,
            address: read_integer(file, place + 0x10, 8)?,
            offset: usize::try_from(read_integer(file, place + 0x18, 8)?)?,
            bytes: usize::try_from(read_integer(file, place + 0x20, 8)?)?,
            link: usize::try_from(read_integer(file, place + 0x28, 4)?)?,
        })
    }
}

fn read_integer(file: &[u8], place: usize, bytes: usize) -> anyhow::Result<u64> {
    let end = place.checked_add(bytes);
    let found = end
        .and_then(|end| file.get(place..end))
        .context("the file is cut short")?;
    Ok(found
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn read_name(file: &[u8], place: usize) -> anyhow::Result<&str> {
    let rest = file.get(place..).context("the file is cut short")?;
    let length = rest
        .iter()
        .position(|byte| *byte == 0)
        .context("a name has no end")?;
    Ok(std::str::from_utf8(&rest[..length])?)
}

/// A variable's own name within what the compiler calls it: the last `LENGTH NAME` of it.
fn unmangled_name(mangled: &str) -> String {
    let Some(rest) = mangled.strip_prefix("_Z") else {
        return mangled.to_owned();
    };
    let (mut rest, mut last) = (rest, None);
    while let Some(start) = rest.find(|letter: char| letter.is_ascii_digit()) {
        rest = &rest[start..];
        let digits = rest.len()
            - rest
                .trim_start_matches(|letter: char| letter.is_ascii_digit())
                .len();
        let length: usize = rest[..digits].parse().unwrap_or(0);
        rest = &rest[digits..];
        if let Some(name) = rest.get(..length).filter(|name| !name.is_empty()) {
            last = Some(name);
            rest = &rest[length..];
        }
    }
    last.unwrap_or(mangled).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mangled_names_give_source_names() {
        for (mangled, name) in [
            ("count", "count"),
            ("_ZL5count", "count"),
            ("_ZZ7softmaxPKfPfiiE4seen", "seen"),
            ("_ZN1SIiE5valueE", "value"),
            ("_Z", "_Z"),
            ("_Z99x", "_Z99x"),
        ] {
            assert_eq!(unmangled_name(mangled), name);
        }
    }

    #[test]
    fn truncated_file_is_an_error() {
        let program = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(VariableTable::read_elf(&program).unwrap().ranges, []);
        for length in [0, 5, 6, 0x3f, 100, program.len() / 2] {
            assert!(
                VariableTable::read_elf(&program[..length]).is_err(),
                "{length}"
            );
        }
    }
}
