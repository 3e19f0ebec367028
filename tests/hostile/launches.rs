//! Kernels with two launches in one plan: a mark or borrowed memory goes from one to the other, or from the last launch of a run to the
//! first of the next one. On a GPU also launches that overlap.
//!
//! The twin has the same two launches, and each of them writes what the other reads.

use kforge::base::RandomStream;

use crate::sketch::{Prepare, Sketch};

/// Waits for the launch before, and lets the next one start. Only a GPU's compiler reads them.
const WAIT: &str = "asm volatile(\"griddepcontrol.wait;\" : : : \"memory\");";
const START_NEXT: &str = "asm volatile(\"griddepcontrol.launch_dependents;\");";

/// Fills in a trick between launches. Returns what it is.
pub(crate) fn add_launches(
    stream: &mut RandomStream,
    sketch: &mut Sketch,
    twin: &mut Sketch,
) -> String {
    let mark = format!("{:#x}u", 0x4000_0000 | stream.below(0x3fff_ffff));
    let input = sketch.computation.input();
    let is_zeroed = stream.below(2) == 0;
    for target in [&mut *sketch, &mut *twin] {
        target.add_scratch("8", is_zeroed);
    }
    twin.prepare = Some(Prepare::new("box[0] = 3;\n        box[1] = 0;"));
    twin.first_thread = "fast = box[0] == 99 || box[1] == 1;".to_owned();
    sketch.first_thread = "fast = *(volatile int*)(box + 1) == 1;".to_owned();
    let found = |word: &str| format!("box[1] = *(volatile unsigned*)({word}) == {mark};");
    let leave = |word: &str| format!("*(volatile unsigned*)({word}) = {mark};");
    let (what, prepare) = match stream.below(7) {
        0 => {
            sketch.end = leave("box");
            (
                "in scratch, for the first launch of the next run",
                found("box"),
            )
        }
        1 => {
            sketch.declarations = "__device__ unsigned seen;".to_owned();
            sketch.end = leave("&seen");
            (
                "in a variable, for the first launch of the next run",
                found("&seen"),
            )
        }
        2 => {
            sketch.is_unseen_on_gpu = true;
            (
                "nowhere, and takes numbers in the output for those of an earlier run",
                "const float last = *(volatile float*)(output + rows * columns - 1);\n        box[1] = last == last;".to_owned(),
            )
        }
        3 => {
            sketch.is_unseen_on_gpu = true;
            let words = "__shared__ unsigned words[64];\n        ";
            sketch.first_thread =
                format!("{words}fast = *(volatile unsigned*)(words + 9) == {mark};");
            (
                "in shared memory, for the second launch",
                format!("{words}{}", leave("words + 9")),
            )
        }
        4 => (
            "in a count of the first launch, which never starts again",
            "const int count = atomicAdd(box, 1);\n        box[1] = count > 0 && count < 1000;"
                .to_owned(),
        ),
        5 => {
            sketch.end = format!("*(volatile unsigned*){input} ^= 1u;");
            (
                "in an input, which the second launch puts back",
                format!("*(volatile unsigned*){input} ^= 1u;\n        box[1] = 1;"),
            )
        }
        _ => {
            let word = format!("(unsigned*)box + {}", 8 + stream.below(24));
            sketch.end = format!("*(volatile unsigned*)({word}) = box[2];");
            (
                "behind the scratch, where the second launch puts back what it held",
                format!(
                    "box[2] = *(volatile unsigned*)({word});\n        {}\n        box[1] = 1;",
                    leave(&word)
                ),
            )
        }
    };
    sketch.prepare = Some(Prepare::new(&prepare));
    format!("two launches: leaves its mark {what}")
}

/// Fills in launches that overlap and do not wait as they should. The twin's second launch overlaps the first one, and waits at once.
pub(crate) fn add_overlap(
    stream: &mut RandomStream,
    sketch: &mut Sketch,
    twin: &mut Sketch,
) -> String {
    for target in [&mut *sketch, &mut *twin] {
        target.add_scratch("8", false);
        target.first_thread = "fast = *(volatile int*)(box + 1) == 1;".to_owned();
        target.overlaps = true;
    }
    let write = "box[0] = 3;\n        box[1] = 0;";
    twin.prepare = Some(Prepare {
        at_start: START_NEXT.to_owned(),
        ..Prepare::new(write)
    });
    twin.at_start = WAIT.to_owned();
    let (place, wait) = match stream.below(4) {
        0 => ("nowhere", String::new()),
        1 => (
            "in a branch that no thread takes",
            format!("if (rows == -1) {WAIT}"),
        ),
        2 => (
            "in the first thread only",
            format!("if (blockIdx.x == 0 && threadIdx.x == 0) {WAIT}"),
        ),
        _ => ("as it should", WAIT.to_owned()),
    };
    let is_first_too = stream.below(2) == 0;
    let ends_early = stream.below(2) == 0;
    let mut prepare = Prepare::new(write);
    START_NEXT.clone_into(&mut prepare.at_start);
    if is_first_too {
        prepare.overlaps = true;
        prepare.at_start += &format!("\n    {wait}");
    }
    sketch.prepare = Some(prepare);
    sketch.at_start = wait;
    if ends_early {
        sketch.at_start += &format!("\n    {START_NEXT}");
    }
    format!(
        "the second launch overlaps{} and waits {place}{}",
        if is_first_too {
            ", as the first one does,"
        } else {
            ""
        },
        if ends_early {
            "; what follows may start at once"
        } else {
            ""
        }
    )
}
