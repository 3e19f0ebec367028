//! Checks of a compiled kernel: its code has no forbidden constructs, and its entries take what the header passes.
//!
//! The checks after the source (`launch_checks`) compare types and give better messages. The checks here read the assembler's result, as
//! the driver does, so no source can change what they see. Runs nothing.

use super::argument_memory::find_argument_accesses;
use super::cubin::{CubinCode, CubinParameter};
use super::launch_arguments::{TENSOR_MAP_BYTES, WORD_BYTES};
use super::overlap::waits_for_previous_launch;
use super::ptx_rules::{ForbiddenCode, find_forbidden, refuse_symbol};
use super::source_checks;
use super::wire::CompileResponse;
use crate::device::refusal::{MANAGED_MEMORY, Refusal};
use crate::device::{CompiledEntry, CompiledParameter};
use crate::kernel::plan::{ArgumentType, EntryPoint, TranslationUnit};
use crate::verdict::Status;

/// Checks the compiled code of a kernel. Returns its entries, one for each launch.
///
/// # Errors
/// A refusal, if the code has a forbidden construct or takes other arguments than the header passes.
pub(super) fn check_code(
    response: &CompileResponse,
    unit: &TranslationUnit,
) -> Result<Vec<CompiledEntry>, Refusal> {
    let ptx = String::from_utf8_lossy(&response.ptx);
    let code = CubinCode::read(&response.cubin).unwrap_or_default();
    let forbidden = find_forbidden(&ptx).or_else(|| find_in_cubin(&code));
    if let Some(forbidden) = forbidden.or_else(|| find_argument_accesses(&ptx)) {
        return Err(rejected(unit, &forbidden));
    }
    let launches = unit.entry_points.iter().zip(&response.names);
    launches
        .map(|(entry, name)| {
            let Some(parameters) = code.parameters(name) else {
                let reason = format!(
                    "`{}` is not a kernel: the compiled code has no entry with such parameters",
                    entry.expression
                );
                return Err(Refusal::at_line(Status::CompileError, entry.line, reason));
            };
            if let Some(reason) = size_mismatch(entry, parameters) {
                return Err(Refusal::at_line(Status::CompileError, entry.line, reason));
            }
            Ok(compiled_entry(&ptx, name, parameters))
        })
        .collect()
}

/// The entries of kforge's own device code.
pub(super) fn harness_entries(response: &CompileResponse) -> Vec<CompiledEntry> {
    let entry = |name: &String| CompiledEntry {
        name: name.clone(),
        parameters: Vec::new(),
        waits: false,
        keeps_lines: false,
    };
    response.names.iter().map(entry).collect()
}

fn compiled_entry(ptx: &str, name: &str, parameters: &[CubinParameter]) -> CompiledEntry {
    // The PTX may be missing. Then no parameter is known to be a `float` or a `double`, and integers are passed as integers.
    let mut kinds = super::ptx::parameter_kinds(ptx, name).into_iter();
    let parameters = parameters.iter().map(|parameter| CompiledParameter {
        kind: kinds.next().unwrap_or_default(),
        bytes: parameter.bytes,
    });
    CompiledEntry {
        name: name.to_owned(),
        parameters: parameters.collect(),
        waits: waits_for_previous_launch(ptx, name),
        keeps_lines: super::ptx::may_keep_lines(ptx),
    }
}

fn rejected(unit: &TranslationUnit, forbidden: &ForbiddenCode) -> Refusal {
    match source_checks::first_line_with(&unit.source, forbidden.words) {
        Some(line) => Refusal::at_line(Status::Rejected, line, &forbidden.reason),
        None => Refusal::new(Status::Rejected, forbidden.reason.as_str()),
    }
}

/// Finds forbidden constructs in the assembler's result. `find_forbidden` finds the same in the PTX, with better reasons.
fn find_in_cubin(code: &CubinCode) -> Option<ForbiddenCode> {
    let mut missing = code.missing.iter();
    if let Some(forbidden) = missing.find_map(|name| refuse_symbol(name)) {
        return Some(forbidden);
    }
    let reason = if code.has_managed {
        MANAGED_MEMORY
    } else if code.has_textures {
        "textures, surfaces and samplers are not accepted"
    } else {
        return None;
    };
    Some(ForbiddenCode {
        reason: reason.to_owned(),
        words: &["__managed__", "asm", "__asm__", "__asm"],
    })
}

/// Why the machine code takes other arguments than the launch passes. The driver would read past the end of what is passed.
fn size_mismatch(entry: &EntryPoint, parameters: &[CubinParameter]) -> Option<String> {
    let taken: Vec<_> = parameters.iter().map(|parameter| parameter.bytes).collect();
    let passed: Vec<_> = entry.arguments.iter().map(argument_sizes).collect();
    let mut pairs = taken.iter().zip(&passed);
    let fits = taken.len() == passed.len()
        && pairs.all(|(taken, (least, greatest))| (least..=greatest).contains(&taken));
    (!fits).then(|| {
        let passed: Vec<_> = passed.iter().map(|(_, greatest)| greatest).collect();
        format!(
            "`{}` takes arguments of {taken:?} bytes, the header passes {passed:?}",
            entry.expression
        )
    })
}

/// The sizes in bytes that the parameter of an argument may have: the least and the greatest. The driver reads as many bytes as the
/// parameter has.
fn argument_sizes(argument: &ArgumentType) -> (u32, u32) {
    match argument {
        ArgumentType::Pointer(_) | ArgumentType::I64 | ArgumentType::Null => {
            (WORD_BYTES, WORD_BYTES)
        }
        ArgumentType::Scalar(dtype) => {
            let bytes = dtype.bytes() as u32;
            (bytes, bytes)
        }
        ArgumentType::I32 | ArgumentType::U32 => (4, 4),
        ArgumentType::Integer | ArgumentType::FloatConstant => (4, WORD_BYTES),
        ArgumentType::IntegerConstant(_) | ArgumentType::BoolConstant => (1, WORD_BYTES),
        ArgumentType::TensorMap => (TENSOR_MAP_BYTES, TENSOR_MAP_BYTES),
    }
}
