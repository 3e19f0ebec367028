//! Finds what a kernel puts into sections where it does not belong: data among code, and anything in a section of the runtime.
//!
//! Data in a section of code can be called: instructions that no C++ compiler writes, so that a kernel needs no inline assembly to use
//! registers that nothing resets. Code in the runtime's section of rest would pass for a thread that waits. Reads object files only.

use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};

use crate::device::Refusal;
use crate::verdict::Status;

/// The beginning of the names of the runtime's sections.
const OF_RUNTIME: &str = "kforge";

/// The refusal of a compiled kernel with such a section.
pub(super) fn refuse_sections(object: &[u8]) -> anyhow::Result<Option<Refusal>> {
    let file = object::File::parse(object)?;
    for section in file.sections() {
        let name = section.name()?;
        if name.starts_with(OF_RUNTIME) {
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
