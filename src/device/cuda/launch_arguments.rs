//! The last check before the driver: a launch has the memory that its compiled function reads as arguments.
//!
//! The driver gets one address for each argument, without sizes, and reads what the cubin says. So what is passed is compared with the
//! cubin, for every launch of a plan, whatever was checked before. Launches nothing.

use crate::device::refusal::Refusal;
use crate::device::{CompiledEntry, CompiledParameter};
use crate::kernel::plan::{Argument, Launch};
use crate::verdict::Status;

/// Bytes of a pointer, and of the memory of every number that a launch passes.
pub(super) const WORD_BYTES: u32 = 8;
/// Bytes of a `CUtensorMap`.
pub(super) const TENSOR_MAP_BYTES: u32 = 128;

/// Checks the arguments of a launch.
///
/// # Errors
/// A refusal, if the function reads more arguments or larger ones than the launch passes.
pub(super) fn check_arguments(launch: &Launch, entry: &CompiledEntry) -> Result<(), Refusal> {
    let (passed, taken) = (launch.arguments.len(), entry.parameters.len());
    let is_too_large = |(argument, parameter): (&Argument, &CompiledParameter)| match argument {
        Argument::TensorMap(_) => parameter.bytes != TENSOR_MAP_BYTES,
        _ => parameter.bytes > WORD_BYTES,
    };
    let mut pairs = launch.arguments.iter().zip(&entry.parameters);
    let too_large = pairs.position(is_too_large);
    let reason = if passed != taken {
        format!(
            "`{}` takes {taken} arguments, the launch passes {passed}",
            entry.name
        )
    } else if let Some(index) = too_large {
        let bytes = entry.parameters[index].bytes;
        format!(
            "argument {} of `{}` has {bytes} bytes",
            index + 1,
            entry.name
        )
    } else {
        return Ok(());
    };
    Err(Refusal::new(Status::LaunchError, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::ParameterKind;

    #[test]
    fn a_launch_passes_all_that_the_function_reads() {
        let launch = |arguments: &[Argument]| Launch {
            entry_point: 0,
            grid: [1, 1, 1],
            block: [1, 1, 1],
            shared: 0,
            cluster: None,
            cooperative: false,
            overlap: false,
            arguments: arguments.to_vec(),
        };
        let entry = |bytes: &[u32]| CompiledEntry {
            name: "k".to_owned(),
            parameters: bytes
                .iter()
                .map(|bytes| CompiledParameter {
                    kind: ParameterKind::Other,
                    bytes: *bytes,
                })
                .collect(),
            waits: false,
            keeps_lines: false,
        };
        let fits = |arguments: &[Argument], bytes: &[u32]| {
            check_arguments(&launch(arguments), &entry(bytes)).is_ok()
        };
        let (buffer, map) = (Argument::Buffer(0), Argument::TensorMap(0));
        assert!(fits(&[buffer, Argument::I64(1), map], &[8, 4, 128]));
        assert!(fits(&[], &[]));
        for (arguments, bytes) in [
            (&[buffer][..], &[8, 8][..]),
            (&[buffer, buffer], &[8]),
            (&[buffer], &[16]),
            (&[buffer], &[128]),
            (&[map], &[8]),
            (&[map], &[256]),
        ] {
            assert!(!fits(arguments, bytes), "{bytes:?}");
        }
    }
}
