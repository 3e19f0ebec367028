//! The parts of this device that only process text, for the fuzzer. Nothing is compiled and nothing runs.

use crate::device::Refusal;
use crate::kernel::plan::TranslationUnit;

/// The C++ text of a translation unit.
pub fn translation_unit(unit: &TranslationUnit) -> String {
    let checked = super::source_checks::check_source(&unit.source);
    super::source::generate_cpp(unit, &checked, "")
}

/// The refusals that count if the compiler reaches their lines or fails there.
pub fn possible_refusals(unit: &TranslationUnit) -> Vec<Refusal> {
    let checked = super::source_checks::check_source(&unit.source);
    let mut refusals = checked.edits.refusals().to_vec();
    refusals.extend(super::source_checks::refuse_arguments(unit));
    refusals.extend(checked.empty_headers);
    refusals.extend(
        checked
            .suspect_words
            .into_iter()
            .map(|suspect| suspect.refusal),
    );
    refusals
}

/// The refusal for a compiler's output about a translation unit.
pub fn compile_error(unit: &TranslationUnit, output: &str) -> Refusal {
    let checked = super::source_checks::check_source(&unit.source);
    let explained = super::explain::explain(unit, &checked, output);
    explained.unwrap_or_else(|| super::diagnostics::compile_error(output))
}

/// The refusal for a preprocessed text, if any.
pub fn check_expansion(text: &str) -> Option<Refusal> {
    super::expansion::check_expansion(text)
}
