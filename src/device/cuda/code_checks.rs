//! Checks of a compiled kernel: its PTX has no forbidden constructs, and its entries take what the header passes.
//!
//! The checks in `source` compare types, but a source can defeat them. These checks cannot be defeated by the source.

use super::{ptx, source, source_checks};
use crate::device::refusal::Refusal;
use crate::kernel::plan::{EntryPoint, TranslationUnit};
use crate::verdict::Status;

/// Checks the compiled code: no forbidden constructs, and entries that take what the header passes. `names`: of the entries.
pub(super) fn check_ptx(
    ptx: &str,
    unit: &TranslationUnit,
    names: &[String],
) -> Result<(), Refusal> {
    if let Some((reason, words)) = ptx::find_forbidden(ptx) {
        let line = source_checks::first_line_with(&unit.source, words);
        return Err(match line {
            Some(line) => Refusal::at_line(Status::Rejected, line, reason),
            None => Refusal::new(Status::Rejected, reason),
        });
    }
    for (entry, name) in unit.entry_points.iter().zip(names) {
        if let Some(reason) = argument_size_mismatch(ptx, entry, name) {
            return Err(Refusal::at_line(Status::CompileError, entry.line, reason));
        }
    }
    Ok(())
}

/// Why the arguments of the machine code differ from those that the launch passes. The driver would read beyond them.
fn argument_size_mismatch(ptx: &str, entry: &EntryPoint, name: &str) -> Option<String> {
    let expression = &entry.expression;
    let Some(taken) = ptx::parameter_sizes(ptx, name) else {
        return Some(format!(
            "`{expression}` is not a kernel: the compiled code has no such entry"
        ));
    };
    let passed = source::argument_sizes(entry);
    let fits = taken.len() == passed.len()
        && taken
            .iter()
            .zip(&passed)
            .all(|(taken, (least, greatest))| (least..=greatest).contains(&taken));
    (!fits).then(|| {
        let passed: Vec<_> = passed.iter().map(|(_, greatest)| greatest).collect();
        format!("`{expression}` takes arguments of {taken:?} bytes, the header passes {passed:?}")
    })
}
