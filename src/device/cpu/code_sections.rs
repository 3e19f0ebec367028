//! Finds what a kernel puts into sections where it does not belong: data among code, anything in a section of the runtime, and code that runs
//! before the first launch.
//!
//! Data in a section of code can be called: instructions that no C++ compiler writes, so that a kernel needs no inline assembly to use
//! registers that nothing resets. Code in the runtime's section of rest would pass for a thread that waits. What runs before the first launch
//! runs outside the clock, some of it before the process has given up its system calls. Reads object files only.

use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolFlags, SymbolKind};

use crate::device::Refusal;
use crate::verdict::Status;

/// The beginning of the names of the runtime's sections.
const OF_RUNTIME: &str = "kforge";
/// The section of the shared variables that kforge itself declares (`runtime/runtime.h`). The runtime only calls what is there during a launch.
const SHARED_VARIABLES: &str = "kforge_shared";
/// The beginnings of the names of sections whose code, or the functions to which they point, run when a process starts or ends.
const AT_START_OR_END: [&str; 9] = [
    ".preinit_array",
    ".init",
    ".fini",
    ".ctors",
    ".dtors",
    "__mod_init",
    "__mod_term",
    "__init_offsets",
    ".interp",
];
/// The type of a symbol whose function the loader calls to learn an address.
const STT_GNU_IFUNC: u8 = 10;

/// The refusal of a compiled kernel that runs code before its first launch, or after the last one. The instrumented builds have constructors
/// of the compiler.
pub(super) fn refuse_early_code(object: &[u8]) -> anyhow::Result<Option<Refusal>> {
    let file = object::File::parse(object)?;
    for section in file.sections() {
        let name = section.name()?;
        if section.size() > 0 && AT_START_OR_END.iter().any(|start| name.starts_with(start)) {
            return Ok(Some(Refusal::new(
                Status::CompileError,
                "a variable is initialised at run time, or a function is a constructor or destructor: no kernel runs then. Give the variable a constant value",
            )));
        }
    }
    for symbol in file.symbols() {
        if let SymbolFlags::Elf { st_info, .. } = symbol.flags()
            && st_info & 15 == STT_GNU_IFUNC
        {
            return Ok(Some(rejected(&format!(
                "`{}` is chosen when the program starts (`ifunc`)",
                symbol.name()?
            ))));
        }
    }
    Ok(None)
}

/// The refusal of a compiled kernel with a section that is not its own, or with data among code.
pub(super) fn refuse_sections(object: &[u8]) -> anyhow::Result<Option<Refusal>> {
    let file = object::File::parse(object)?;
    for section in file.sections() {
        let name = section.name()?;
        if name.starts_with(OF_RUNTIME) && name != SHARED_VARIABLES {
            return Ok(Some(rejected(&format!(
                "the section `{name}`: names that begin with `{OF_RUNTIME}` are kforge's own"
            ))));
        }
    }
    for symbol in file.symbols() {
        if symbol.kind() != SymbolKind::Data {
            continue;
        }
        let Some(index) = symbol.section_index() else {
            continue;
        };
        let section = file.section_by_index(index)?;
        if section.kind() == SectionKind::Text {
            return Ok(Some(rejected(&format!(
                "`{}` is data in the section `{}`, which is for code",
                symbol.name()?,
                section.name()?
            ))));
        }
    }
    Ok(None)
}

fn rejected(reason: &str) -> Refusal {
    Refusal::new(Status::Rejected, reason)
}
