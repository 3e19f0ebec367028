//! The parts of this device that only process text, for the fuzzer. Nothing is compiled and nothing runs.

use crate::device::Refusal;
use crate::kernel::plan::TranslationUnit;

/// The C++ text of a translation unit.
pub fn translation_unit(unit: &TranslationUnit) -> String {
    super::source::generate_cpp(unit)
}

/// A refusal if the source is not supported or not accepted.
pub fn refuse(unit: &TranslationUnit) -> Option<Refusal> {
    super::source_checks::refuse_unit(unit)
}

/// The refusal for a compiler's output.
pub fn compile_error(output: &str) -> Refusal {
    super::diagnostics::compile_error(output)
}
