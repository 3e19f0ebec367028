//! What a program's file says about its variables: the sections in memory, the names at addresses, the code where threads rest.
//!
//! Reads the file only, before the candidate runs.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::Context;
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SegmentFlags};

use super::process_memory::PAGE_BYTES;

/// The sections that `runtime/state.ld` creates for the candidate's variables.
const UNIT_SECTIONS: [&str; 2] = ["kforge_unit_data", "kforge_unit_bss"];
/// The section of `runtime/rest.h`.
const REST_SECTION: &str = "kforge_rest";
/// The flag of a segment that can be written to.
const PF_W: u32 = 2;
/// Number of programs whose symbols are kept: the oracle, the baseline and a candidate, each with a few sets of tunable values.
const MAX_CACHED_PROGRAMS: usize = 16;

/// The variables of a program.
#[derive(Clone, Debug, Default)]
pub(super) struct ProgramSymbols {
    /// The pages of the segments that the program can write to.
    pub(super) writable_pages: Vec<Range<u64>>,
    /// The code where threads are while the process is stopped.
    pub(super) rest: Range<u64>,
    /// The candidate's sections.
    units: Vec<Range<u64>>,
    /// All sections that occupy memory.
    sections: Vec<Range<u64>>,
    /// The candidate's variables, sorted by address.
    variables: Vec<Variable>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Variable {
    address: u64,
    bytes: u64,
    name: String,
}

/// The symbols of the latest programs: a program is started many times, and its file never changes.
#[derive(Default)]
pub(super) struct SymbolCache(VecDeque<(PathBuf, Rc<ProgramSymbols>)>);

impl SymbolCache {
    /// The symbols of a program, read from its file if it is new.
    pub(super) fn symbols_of(&mut self, program: &Path) -> anyhow::Result<Rc<ProgramSymbols>> {
        let known = self.0.iter().find(|(path, _)| path == program);
        if let Some((_, symbols)) = known {
            return Ok(Rc::clone(symbols));
        }
        let symbols = Rc::new(ProgramSymbols::read_file(program)?);
        if self.0.len() >= MAX_CACHED_PROGRAMS {
            self.0.pop_front();
        }
        (self.0).push_back((program.to_owned(), Rc::clone(&symbols)));
        Ok(symbols)
    }
}

impl ProgramSymbols {
    pub(super) fn read_elf(file: &[u8]) -> anyhow::Result<Self> {
        let file = object::File::parse(file)?;
        let mut symbols = Self::default();
        for segment in file.segments() {
            let SegmentFlags::Elf { p_flags } = segment.flags() else {
                continue;
            };
            if p_flags & PF_W != 0 {
                let end = segment.address() + segment.size();
                let start = segment.address() / PAGE_BYTES * PAGE_BYTES;
                (symbols.writable_pages).push(start..end.next_multiple_of(PAGE_BYTES));
            }
        }
        for section in file.sections() {
            let range = section.address()..section.address().saturating_add(section.size());
            // Thread-local sections have addresses of their own kind.
            let is_thread_local = matches!(section.name()?, ".tbss" | ".tdata");
            if range.start == 0 || range.is_empty() || is_thread_local {
                continue;
            }
            if UNIT_SECTIONS.contains(&section.name()?) {
                symbols.units.push(range.clone());
            } else if section.name()? == REST_SECTION {
                symbols.rest = range.clone();
            }
            symbols.sections.push(range);
        }
        for symbol in file.symbols() {
            if symbol.size() > 0 && symbols.is_of_unit(symbol.address()) {
                symbols.variables.push(Variable {
                    address: symbol.address(),
                    bytes: symbol.size(),
                    name: unmangled_name(symbol.name()?),
                });
            }
        }
        symbols.variables.sort();
        Ok(symbols)
    }

    fn read_file(path: &Path) -> anyhow::Result<Self> {
        let file =
            std::fs::read(path).with_context(|| format!("failed to read `{}`", path.display()))?;
        let symbols = Self::read_elf(&file);
        symbols.with_context(|| format!("`{}` is not a valid executable", path.display()))
    }

    fn is_of_unit(&self, address: u64) -> bool {
        self.units.iter().any(|range| range.contains(&address))
    }

    /// What a kernel has changed at an address of the program. `None` for variables of the runtime and of the C library, which
    /// change by themselves.
    pub(super) fn describe(&self, address: u64) -> Option<String> {
        if self.is_of_unit(address) {
            let contains = |variable: &&Variable| {
                (variable.address..variable.address + variable.bytes).contains(&address)
            };
            let variable = self.variables.iter().find(contains);
            return Some(match variable {
                Some(variable) => format!("`{}`", variable.name),
                None => "memory between its variables".to_owned(),
            });
        }
        let is_in = |ranges: &[Range<u64>]| ranges.iter().any(|range| range.contains(&address));
        let is_free = is_in(&self.writable_pages) && !is_in(&self.sections);
        is_free.then(|| "memory behind its variables".to_owned())
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
        assert_eq!(ProgramSymbols::read_elf(&program).unwrap().units, []);
        for length in [0, 5, 6, 0x3f, 100, program.len() / 2] {
            assert!(
                ProgramSymbols::read_elf(&program[..length]).is_err(),
                "{length}"
            );
        }
    }
}
