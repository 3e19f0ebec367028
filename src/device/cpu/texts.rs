//! The pure part of this device, for the fuzzer: texts in, texts out. Nothing is compiled, nothing runs.

use crate::device::Refusal;
use crate::kernel::plan::Unit;

/// The C++ text of a unit.
pub fn translation_unit(unit: &Unit) -> String {
    super::source::translation_unit(unit)
}

/// Whether a source is beyond this device.
pub fn refuse(unit: &Unit) -> Option<Refusal> {
    super::refuse::refuse_unit(unit)
}

/// What a compiler's output says about a candidate.
pub fn compile_error(output: &str) -> Refusal {
    super::diagnostics::compile_error(output)
}
