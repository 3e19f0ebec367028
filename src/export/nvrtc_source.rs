//! Device code for forms that compile with NVRTC when they run: the judged text, and the functions that its launches start.
//!
//! A form gets the names of these functions from NVRTC, so templates work. The text checks at compile time that each function takes
//! the bytes that its launch passes. Compiles nothing.

use std::fmt::Write;

use serde::Serialize;

use super::constant_types::NumberType;
use super::plan::HostPlan;
use super::refusal::refuse_line;
use super::view::PlanView;
use crate::base::Failure;
use crate::device::Refusal;
use crate::device::cuda::plain_source;
use crate::kernel::{ArgumentHeader, Constant, LaunchHeader};
use crate::task::DType;
use crate::verdict::Status;

const LAUNCHES: &str = include_str!("templates/launches.cuh");

/// The text in two parts; a form puts the tunables of a program between them.
#[derive(Serialize)]
pub(super) struct NvrtcSource {
    pub(super) before: String,
    pub(super) behind: String,
    pub(super) needs_headers: bool,
}

/// What launches of a form can do.
#[derive(Clone, Copy)]
pub(super) struct LaunchAbilities {
    /// The form's name.
    pub(super) form: &'static str,
    pub(super) clusters: bool,
    pub(super) overlap: bool,
    pub(super) tensor_maps: bool,
}

/// Makes the text. `constants`: the types of the launches' constants.
///
/// # Errors
/// A usage failure if NVRTC would not compile it without the judge's help, or the form cannot launch it.
pub(super) fn nvrtc_source(
    plan: &HostPlan<'_>,
    constants: &[Vec<NumberType>],
    abilities: LaunchAbilities,
) -> Result<NvrtcSource, Failure> {
    check_launches(plan, abilities)?;
    let unit = &plan.programs[plan.default_program].unit;
    let plain = plain_source(unit).map_err(|refusal| refused_source(&refusal))?;
    let mut behind = plain.behind;
    behind.push_str("#line 1 \"launches.cu\"\n");
    behind.push_str(LAUNCHES);
    let launches = plan.kernel.header.launches.iter().zip(constants);
    for (index, (launch, constants)) in launches.enumerate() {
        let arguments = launch.arguments.iter().zip(constants);
        let letters: Vec<_> = arguments
            .map(|(argument, kind)| format!("'{}'", letter(plan, argument, *kind)))
            .collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            behind,
            "constexpr auto launch_{index}() {{ return checked<{}>(&{}); }}",
            letters.join(", "),
            launch.kernel,
        );
    }
    behind.push_str("}\n");
    Ok(NvrtcSource {
        before: plain.before,
        behind,
        needs_headers: plain.needs_headers,
    })
}

/// The refusal of a source that needs the judge, or a library.
fn refused_source(refusal: &Refusal) -> Failure {
    let line = refusal.evidence.line.unwrap_or(1);
    // `refuse_line` names the line.
    let place = format!("line {line}: ");
    let reason = refusal.reason.trim_start_matches(&place);
    if refusal.status == Status::Unsupported {
        let header = reason.split(" is not").next().unwrap_or_default();
        let reason = format!("{header}: the form does not know where this library's headers are");
        return refuse_line(line, reason).hint("export `c`, and give nvcc their folder");
    }
    refuse_line(line, reason)
}

/// What a launch passes, as a letter of the template.
fn letter(plan: &HostPlan<'_>, argument: &ArgumentHeader, kind: NumberType) -> char {
    let of_dtype = |dtype: DType| match dtype {
        DType::Float32 => 'f',
        DType::Float64 => 'd',
        _ => 'w',
    };
    match argument {
        ArgumentHeader::Scalar(name) => {
            let tensor = plan.task.definition.inputs.get(name);
            tensor.map_or('w', |tensor| of_dtype(tensor.dtype))
        }
        ArgumentHeader::Float(dtype, _) => of_dtype(*dtype),
        ArgumentHeader::TensorMap(_) => 't',
        ArgumentHeader::Constant(Constant::Integer(_) | Constant::Float(_)) => match kind {
            NumberType::Float32 => 'f',
            NumberType::Float64 => 'd',
            NumberType::Word => 'w',
        },
        _ => 'w',
    }
}

fn check_launches(plan: &HostPlan<'_>, abilities: LaunchAbilities) -> Result<(), Failure> {
    let form = abilities.form;
    for launch in &plan.kernel.header.launches {
        let refused = |what: &str| {
            refuse_line(
                launch.line,
                format!("`{form}` launches no kernel with {what}"),
            )
            .hint("export `rust`, `c` or `torch`")
        };
        if !launch.cluster.is_empty() && !abilities.clusters {
            return Err(refused("a `cluster`"));
        }
        if launch.overlap && !abilities.overlap {
            return Err(refused("`overlap`"));
        }
        let mut arguments = launch.arguments.iter();
        let has_map = arguments.any(|argument| matches!(argument, ArgumentHeader::TensorMap(_)));
        if has_map && !abilities.tensor_maps {
            return Err(refused("a tensor map"));
        }
        if let Some(dtype) = small_scalar(plan, launch) {
            return Err(refused(&format!("a {dtype} by value")));
        }
    }
    Ok(())
}

/// An 8-bit floating-point type that a launch passes by value: host code has no such numbers.
fn small_scalar(plan: &HostPlan<'_>, launch: &LaunchHeader) -> Option<DType> {
    let dtypes = launch
        .arguments
        .iter()
        .filter_map(|argument| match argument {
            ArgumentHeader::Float(dtype, _) => Some(*dtype),
            ArgumentHeader::Scalar(name) => {
                let tensor = plan.task.definition.inputs.get(name)?;
                Some(tensor.dtype)
            }
            _ => None,
        });
    let mut dtypes = dtypes.into_iter();
    dtypes.find(|dtype| matches!(dtype, DType::Float8E4M3 | DType::Float8E5M2))
}

/// The options of NVRTC that give the judged code, without the architecture and the folders of headers.
pub(super) fn nvrtc_options(view: &PlanView) -> Vec<String> {
    let mut options = vec![
        "--std=c++17".to_owned(),
        "-default-device".to_owned(),
        "-diag-suppress=177,47".to_owned(),
    ];
    if view.fast_math {
        options.push("--use_fast_math".to_owned());
    }
    if let Some(registers) = view.max_registers {
        options.push(format!("--maxrregcount={registers}"));
    }
    options
}
