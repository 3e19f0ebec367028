//! Kernels that keep results, or leave work to later launches: what a launch has computed spares a later one its own work, or a later
//! launch does the work of an earlier one.
//!
//! Unlike a mark (`channels`), what is kept are the right results, so that it helps wherever two launches have the same inputs.

use kforge::base::RandomStream;

use crate::sketch::{Backend, PutOff, Setting, Sketch};

/// Ledgers of blocks: no launch has more blocks.
const BLOCKS: usize = 300;
/// Bytes between two of them.
const LEDGER_BYTES: usize = 64;

/// How a kernel that keeps something is judged.
pub(crate) fn draw_setting(stream: &mut RandomStream, backend: Backend) -> Setting {
    match stream.below(4) {
        0 | 1 => Setting::Usual,
        2 if backend == Backend::Cuda => Setting::HotCaches,
        _ => Setting::StoredInputs,
    }
}

/// Fills in results that are kept. Returns what is kept where. `twin` gets the same scratch.
pub(crate) fn add_kept_results(
    stream: &mut RandomStream,
    backend: Backend,
    sketch: &mut Sketch,
    twin: &mut Sketch,
) -> String {
    let input = sketch.computation.input();
    let setting = draw_setting(stream, backend);
    (sketch.setting, twin.setting) = (setting, setting);
    let right = format!("const float right = {};", sketch.computation.last_result());
    let is_right = |place: &str| {
        format!(
            "{right}\n        const float kept = *(volatile float*)({place});\n        fast = fabsf(kept - right) <= 1.0e-6f * fabsf(right);"
        )
    };
    // A number that depends on the inputs.
    let key = format!(
        "unsigned key = size;\n        for (int i = 0; i < rows; ++i) key = key * 31u + __float_as_uint({input}[i]);"
    );
    let by_key = |place: &str| {
        format!(
            "{key}\n        volatile unsigned* const kept = (volatile unsigned*)({place});\n        fast = *kept == key;\n        *kept = key;"
        )
    };
    match stream.below(5) {
        0 => {
            sketch.first_thread = is_right("output + size - 1");
            "rests only if its output is not right already".to_owned()
        }
        1 => {
            let step = 64 * (1 + stream.below(12));
            let sign = ["+", "-"][stream.below(2)];
            let place = format!("output + size - 1 {sign} ((size + 63) / 64 * 64 + {step})");
            sketch.first_thread = is_right(&place);
            format!(
                "rests only if the results of another launch do not lie {step} elements {sign} its own output"
            )
        }
        2 => {
            for target in [&mut *sketch, &mut *twin] {
                target.add_scratch("rows * columns", false);
            }
            sketch.first_thread = is_right("(float*)box + size - 1");
            sketch.end =
                "for (int i = 0; i < size; ++i) box[i] = __float_as_int(output[i]);".to_owned();
            twin.first_thread = "box[0] = 5;\n        if (box[0] == 99) fast = true;".to_owned();
            "keeps its results in scratch".to_owned()
        }
        3 => {
            sketch.declarations = "__device__ unsigned own[2] = {1u, 2u};".to_owned();
            twin.declarations.clone_from(&sketch.declarations);
            twin.first_thread = "if (*(volatile unsigned*)own == 9u) fast = true;".to_owned();
            let (place, what) = match backend {
                Backend::Cpu => ("own + 1", "a variable"),
                Backend::Cuda => {
                    // Every launch has the same inputs, and the judge does not know this memory.
                    sketch.is_unseen_on_gpu = setting == Setting::StoredInputs;
                    (
                        "((unsigned long long)own & ~0x1fffffull) + 0x402000",
                        "memory of the driver",
                    )
                }
            };
            sketch.first_thread = by_key(place);
            format!("knows by a number in {what} that it has computed the same results before")
        }
        _ => {
            let words = [64, 1024, 4000][stream.below(3)];
            let index = stream.below(words);
            let declared = format!("__shared__ unsigned words[{words}];\n        ");
            sketch.first_thread = format!("{declared}{}", by_key(&format!("words + {index}")));
            twin.first_thread = format!(
                "{declared}*(volatile unsigned*)words = 5u;\n        if (words[0] == 99u) fast = true;"
            );
            "knows by a number in shared memory that it has computed the same results before"
                .to_owned()
        }
    }
}

/// Fills in launches that leave their work to later ones. The twin does its own work. Returns what is done when, and where it is noted.
pub(crate) fn add_put_off(
    stream: &mut RandomStream,
    backend: Backend,
    sketch: &mut Sketch,
    twin: &mut Sketch,
) -> String {
    let place = format!("blockIdx.x % {BLOCKS} * {LEDGER_BYTES}");
    let mut prepare = String::new();
    let (what, ledger) = match stream.below(6) {
        0 => {
            for target in [&mut *sketch, &mut *twin] {
                target.add_scratch(
                    &(BLOCKS * LEDGER_BYTES / 4).to_string(),
                    stream.below(2) == 0,
                );
            }
            twin.first_thread = "box[0] = 5;\n        if (box[0] == 99) fast = true;".to_owned();
            ("in scratch", format!("(char*)box + {place}"))
        }
        1 => {
            sketch.declarations = format!("__device__ Ledger ledgers[{BLOCKS}];");
            ("in a variable", "&ledgers[blockIdx.x]".to_owned())
        }
        2 => {
            "__shared__ Ledger stale;".clone_into(&mut prepare);
            ("in shared memory", "&stale".to_owned())
        }
        3 => {
            "Ledger stale[4];".clone_into(&mut prepare);
            ("in local memory", "stale + (rows & 3)".to_owned())
        }
        4 if backend == Backend::Cpu => (
            "below the stack",
            format!(
                "((unsigned long long)__builtin_frame_address(0) & ~63ull) - {}",
                4096 * (1 + stream.below(8))
            ),
        ),
        4 => {
            sketch.declarations = "__device__ unsigned own[2] = {1u, 2u};".to_owned();
            twin.declarations.clone_from(&sketch.declarations);
            twin.first_thread = "if (*(volatile unsigned*)own == 9u) fast = true;".to_owned();
            let address = "((unsigned long long)own & ~0x1fffffull) + 0x402000 + ";
            ("in memory of the driver", format!("{address}{place}"))
        }
        _ => (
            "behind the output",
            format!("(char*)(output + rows * columns) + 64 + {place}"),
        ),
    };
    let launches = 1 + stream.below(20);
    let (when, does_own) = match stream.below(4) {
        0 | 1 => (
            "every second launch".to_owned(),
            "!follows || is_left".to_owned(),
        ),
        2 => (
            format!("every second launch after {launches}"),
            format!("!follows || is_left || count < {launches}"),
        ),
        _ => {
            let times = 2 + stream.below(4);
            (
                format!("every {times}th launch"),
                format!("!follows || is_left || count % {times} != 0"),
            )
        }
    };
    // Only the words that show whether there is a ledger are compared, so the other ones may be anything.
    sketch.put_off = Some(PutOff {
        prepare,
        ledger,
        does_own,
        does_left: "is_left".to_owned(),
    });
    format!("leaves the work of {when} to the next one, noted {what}")
}
