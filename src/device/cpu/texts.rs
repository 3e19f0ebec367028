//! The pure part of this device, for the fuzzer: texts in, texts out. Nothing is compiled, nothing runs.

use crate::device::Refusal;
use crate::kernel::plan::TranslationUnit;

/// The C++ text of a unit.
pub fn translation_unit(unit: &TranslationUnit) -> String {
    super::source::generate_cpp(unit)
}

/// Whether a source is beyond this device.
pub fn refuse(unit: &TranslationUnit) -> Option<Refusal> {
    super::source_checks::refuse_unit(unit)
}

/// What a compiler's output says about a candidate.
pub fn compile_error(output: &str) -> Refusal {
    super::diagnostics::compile_error(output)
}
