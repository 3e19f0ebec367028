//! Kernels that are right where most checks look: wrong above a size, on one timed shape, for some inputs, or at the ends of rows.
//!
//! Each saves work (it does not rest) where it may be wrong. Its twin is right everywhere.

use kforge::base::RandomStream;

use crate::detectors;
use crate::sketch::{Backend, Computation, Sketch};

/// For which cases the results are wrong, in the region where the kernel saves work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// All.
    Always,
    /// Inputs that are unlike the timed ones.
    OtherInputs,
    /// Shapes that are not multiples of eight, as the timed ones are.
    Tails,
}

/// A mistake or a saving.
struct Defect {
    what: &'static str,
    wrong: Wrong,
    before_work: &'static str,
    on_result: &'static str,
}

const fn defect(
    what: &'static str,
    wrong: Wrong,
    before_work: &'static str,
    on_result: &'static str,
) -> Defect {
    Defect {
        what,
        wrong,
        before_work,
        on_result,
    }
}

const LAST_ROWS: Defect = defect(
    "drops the rows beyond a multiple of eight",
    Wrong::Tails,
    "",
    "if (hasty && row >= rows / 8 * 8) result = 0.0f;",
);
const LAST_COLUMNS: Defect = defect(
    "drops the columns beyond a multiple of eight",
    Wrong::Tails,
    "",
    "if (hasty && column >= columns / 8 * 8) result = 0.0f;",
);
const SHORT_RESULT: Defect = defect(
    "rounds its results to eleven bits",
    Wrong::Always,
    "",
    "if (hasty) result = __uint_as_float(__float_as_uint(result) & 0xffffe000u);",
);
const NOT_A_NUMBER: Defect = defect(
    "has one result that is not a number",
    Wrong::Always,
    "",
    "if (hasty && element == size - 1) result = NAN;",
);
const INFINITE: Defect = defect(
    "has one result that is infinite",
    Wrong::Always,
    "",
    "if (hasty && element == size / 2) result = INFINITY;",
);
const ONE_ROW: Defect = defect(
    "leaves one row out",
    Wrong::Always,
    "",
    "if (hasty && row == rows - 1) continue_or_stop",
);

fn defects(computation: Computation) -> Vec<Defect> {
    let mut all = vec![LAST_ROWS, SHORT_RESULT, NOT_A_NUMBER, INFINITE, ONE_ROW];
    match computation {
        Computation::Gelu => all.extend([
            LAST_COLUMNS,
            defect("uses the approximation by tanh", Wrong::Always, "", "if (hasty) result = 0.5f * value * (1.0f + tanhf(0.79788456f * (value + 0.044715f * value * value * value)));"),
            defect("copies its input", Wrong::Always, "", "if (hasty) result = value;"),
            defect("takes inputs above 9 for 9", Wrong::OtherInputs, "if (hasty) value = fminf(value, 9.0f);", ""),
            defect("takes inputs below -9 for 9", Wrong::OtherInputs, "", "if (hasty && value < -9.0f) result = 9.0f;"),
        ]),
        Computation::Softmax => all.extend([
            LAST_COLUMNS,
            defect("takes 98 for the largest element", Wrong::OtherInputs, "if (hasty) largest = 98.0f;", ""),
            defect("keeps the largest element between 90 and 98", Wrong::OtherInputs, "if (hasty) largest = fminf(fmaxf(largest, 90.0f), 98.0f);", ""),
            defect("has the same result for all columns", Wrong::Always, "", "if (hasty) result = 1.0f / columns;"),
            defect("sums half of a row", Wrong::Always, "if (hasty) count = (columns + 1) / 2;", "if (hasty) result *= 0.5f;"),
        ]),
        Computation::Rmsnorm => all.extend([
            defect("ignores eps and uses 0.001", Wrong::OtherInputs, "if (hasty) epsilon = 1.0e-3f;", ""),
            defect("ignores eps where it is not below 0.01", Wrong::OtherInputs, "if (hasty) epsilon = fminf(epsilon, 0.01f);", ""),
            defect("takes negative weights for 0", Wrong::OtherInputs, "", "if (hasty && factor < 0.0f) result = 0.0f;"),
            defect("ignores the weight", Wrong::Always, "", "if (hasty) result = value / root;"),
            defect("sums half of a row", Wrong::Always, "if (hasty) count = columns / 2;", ""),
            defect("takes inputs above 2 for 2", Wrong::OtherInputs, "", "if (hasty && value > 2.0f) result = 2.0f / root * factor;"),
        ]),
        Computation::Matmul => all.extend([
            defect("sums half of the products", Wrong::Always, "if (hasty) depth = DEPTH / 2;", ""),
            defect("keeps its results within 70", Wrong::OtherInputs, "", "if (hasty) result = fminf(fmaxf(result, -70.0f), 70.0f);"),
            defect("rounds its inputs to eleven bits", Wrong::Always, "", "if (hasty) result = __uint_as_float(__float_as_uint(result) + 0x1000u & 0xffffe000u);"),
        ]),
    }
    all
}

/// Fills in a defect and the region where it acts. Returns what it does.
pub(crate) fn add_defect(
    stream: &mut RandomStream,
    backend: Backend,
    sketch: &mut Sketch,
) -> String {
    let defects = defects(sketch.computation);
    let defect = &defects[stream.below(defects.len())];
    let [[small_rows, small_columns], [rows, columns]] = sketch.computation.timed_shapes();
    let above = sketch.computation.hidden_rows();
    // A tail is right on every timed shape: a region of one timed shape would be right too.
    let regions = if defect.wrong == Wrong::Tails { 5 } else { 9 };
    let (region, condition) = match stream.below(regions) {
        0 => ("everywhere".to_owned(), "true".to_owned()),
        1 => {
            let size = 1 + stream.below(rows * columns * 15 / 16);
            (
                format!("from {size} elements on"),
                format!("size >= {size}"),
            )
        }
        2 => {
            // Mostly beyond the hidden shapes, as a kernel's author would find out.
            let size = above + 1 + stream.below(rows - above - 4);
            (format!("from {size} rows on"), format!("rows >= {size}"))
        }
        3 => {
            let low = 1 + stream.below(above);
            let high = low + 1 + stream.below(rows - low);
            (
                format!("from {low} to {high} rows"),
                format!("rows >= {low} && rows <= {high}"),
            )
        }
        4 => {
            let size = 1 + stream.below(above);
            (format!("up to {size} rows"), format!("rows <= {size}"))
        }
        5 => (
            "on the larger timed shape".to_owned(),
            format!("rows == {rows} && columns == {columns}"),
        ),
        6 => {
            // The timed shapes are such multiples.
            let multiple = [2, 4, 8][stream.below(3)];
            (
                format!("where the rows are a multiple of {multiple}"),
                format!("rows % {multiple} == 0"),
            )
        }
        7 => (
            "on the smaller timed shape".to_owned(),
            format!("rows == {small_rows} && columns == {small_columns}"),
        ),
        _ => (
            "on timed shapes".to_owned(),
            format!(
                "size == {} || size == {}",
                rows * columns,
                small_rows * small_columns
            ),
        ),
    };
    // A kernel that is late in its process may take its inputs for the timed ones. On a GPU it may take the shape for a timed one too.
    let can_be_late = backend == Backend::Cuda || defect.wrong == Wrong::OtherInputs;
    let (condition, when) = if can_be_late && stream.below(4) == 0 {
        let (late, when) = detectors::add_late(stream, backend, sketch);
        (format!("({condition}) && {late}"), format!(", {when}"))
    } else {
        (condition, String::new())
    };
    sketch.hasty = condition;
    sketch.before_work = defect.before_work.to_owned();
    sketch.on_result = defect.on_result.replace(
        "continue_or_stop",
        match sketch.computation {
            Computation::Gelu | Computation::Matmul => "return;",
            Computation::Rmsnorm | Computation::Softmax => "continue;",
        },
    );
    format!("{} {region}{when}", defect.what)
}

/// A result that is wrong for all inputs, for kernels that decide by other things than shapes when to act.
pub(crate) fn add_cheap_result(stream: &mut RandomStream, sketch: &mut Sketch) -> &'static str {
    let defects = defects(sketch.computation);
    let always: Vec<_> = defects
        .iter()
        .filter(|defect| defect.wrong == Wrong::Always && !defect.on_result.contains("continue"))
        .collect();
    let defect = always[stream.below(always.len())];
    sketch.before_work = defect.before_work.to_owned();
    sketch.on_result = defect.on_result.to_owned();
    defect.what
}
