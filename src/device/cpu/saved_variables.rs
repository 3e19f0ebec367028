//! Detects and undoes state that a candidate keeps between launches: changes to the variables of its file.
//!
//! The addresses are read from the executable before the candidate runs. The judge reads and writes the variables while the
//! process is stopped; the process itself is never asked. Memory that a candidate allocates is not covered.

use std::path::Path;

use anyhow::Context;
use object::{Object, ObjectSection, ObjectSymbol};

/// The sections that `runtime/state.ld` creates.
const STATE_SECTIONS: [&str; 2] = ["kforge_unit_data", "kforge_unit_bss"];
/// How much memory is compared at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// The addresses and names of a program's variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct VariableTable {
    /// First address and length of each range of writable memory.
    ranges: Vec<(u64, usize)>,
    /// Sorted by address.
    variables: Vec<SavedVariable>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SavedVariable {
    address: u64,
    bytes: u64,
    name: String,
}

/// The contents of a program's variables before the first launch.
pub(super) struct SavedVariables {
    table: VariableTable,
    /// One copy for each range of the table.
    contents: Vec<Vec<u8>>,
}

impl SavedVariables {
    /// Reads the variables of a stopped process. `None` if the system does not allow one process to read another's memory.
    pub(super) fn open(executable: &Path, process: libc::pid_t) -> anyhow::Result<Option<Self>> {
        let file = std::fs::read(executable)
            .with_context(|| format!("failed to read `{}`", executable.display()))?;
        let table = VariableTable::read_elf(&file)
            .with_context(|| format!("`{}` is not a valid executable", executable.display()))?;
        let mut contents = Vec::new();
        for (address, length) in &table.ranges {
            let mut memory = vec![0; *length];
            match transfer(process, *address, &mut memory, TransferDirection::Read) {
                Ok(()) => contents.push(memory),
                Err(error) if is_forbidden(&error) => return Ok(None),
                Err(error) => {
                    return Err(error).context("failed to read the variables of a candidate");
                }
            }
        }
        Ok(Some(Self { table, contents }))
    }

    /// Restores every changed variable of a stopped process. Returns the name of the first variable that had changed.
    pub(super) fn restore(&mut self, process: libc::pid_t) -> anyhow::Result<Option<String>> {
        let mut first_change = None;
        let mut current = vec![0; CHUNK_BYTES];
        for ((start, _), contents) in self.table.ranges.iter().zip(&mut self.contents) {
            for (index, saved) in contents.chunks_mut(CHUNK_BYTES).enumerate() {
                let address = start + (index * CHUNK_BYTES) as u64;
                let current = &mut current[..saved.len()];
                transfer(process, address, current, TransferDirection::Read)
                    .context("failed to read the variables of a candidate")?;
                if current == saved {
                    continue;
                }
                let mut pairs = current.iter().zip(&*saved);
                let offset = pairs.position(|(one, other)| one != other);
                first_change.get_or_insert(address + offset.unwrap_or_default() as u64);
                transfer(process, address, saved, TransferDirection::Write)
                    .context("failed to restore the variables of a candidate")?;
            }
        }
        Ok(first_change.map(|address| self.table.name_at(address)))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TransferDirection {
    Read,
    Write,
}

/// Copies memory between this process and another.
fn transfer(
    process: libc::pid_t,
    address: u64,
    memory: &mut [u8],
    direction: TransferDirection,
) -> std::io::Result<()> {
    if memory.is_empty() {
        return Ok(());
    }
    let local = libc::iovec {
        iov_base: memory.as_mut_ptr().cast(),
        iov_len: memory.len(),
    };
    let remote = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: memory.len(),
    };
    let (local, remote) = (&raw const local, &raw const remote);
    // SAFETY: `local` is memory of this process, borrowed for the duration of the call; `remote` is only read by the kernel.
    let copied = unsafe {
        match direction {
            TransferDirection::Read => libc::process_vm_readv(process, local, 1, remote, 1, 0),
            TransferDirection::Write => libc::process_vm_writev(process, local, 1, remote, 1, 0),
        }
    };
    match usize::try_from(copied) {
        Ok(copied) if copied == memory.len() => Ok(()),
        // Part of the range is not mapped, although the executable says so.
        Ok(_) => Err(std::io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(std::io::Error::last_os_error()),
    }
}

fn is_forbidden(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS))
}

impl VariableTable {
    /// The variables in the sections that `runtime/state.ld` creates.
    fn read_elf(file: &[u8]) -> anyhow::Result<Self> {
        let file = object::File::parse(file)?;
        let mut ranges = Vec::new();
        for section in file.sections() {
            if section.size() > 0 && STATE_SECTIONS.contains(&section.name()?) {
                ranges.push((section.address(), usize::try_from(section.size())?));
            }
        }
        let is_covered = |address: u64| {
            let covers =
                |(start, bytes): &(u64, usize)| (*start..start + *bytes as u64).contains(&address);
            ranges.iter().any(covers)
        };
        let mut variables = Vec::new();
        for symbol in file.symbols() {
            if symbol.size() > 0 && is_covered(symbol.address()) {
                variables.push(SavedVariable {
                    address: symbol.address(),
                    bytes: symbol.size(),
                    name: unmangled_name(symbol.name()?),
                });
            }
        }
        variables.sort();
        Ok(Self { ranges, variables })
    }

    fn name_at(&self, address: u64) -> String {
        let contains = |variable: &&SavedVariable| {
            (variable.address..variable.address + variable.bytes).contains(&address)
        };
        match self.variables.iter().find(contains) {
            Some(variable) => format!("`{}`", variable.name),
            None => "a variable without a name".to_owned(),
        }
    }
}

/// The name of a variable in the source, from the name in the object file: the last `LENGTH NAME` pair of a mangled name.
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
