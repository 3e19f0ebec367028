//! `warp_per_row`: threads of a warp share the row that one thread computes.

use tree_sitter::Node;

use super::effects::Effects;
use super::element_uses::{is_apart, memory_uses, uses_one_element};
use super::memory::{WriteTarget, write_target};
use super::nodes::{is_field, operator_of};
use super::row_threads::RowThreads;
use super::scope::Scope;
use super::shared_loops::{Lanes, SharedLoop, find_shared_loops, is_in_loops};
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::kernel::syntax::{contains, descendants, line_of};

/// Gives each row to 32, 16 or 8 lanes of a warp. They share the iterations of its loops, and combine their sums by shuffles.
///
/// ```text
/// int row = blockIdx.x * 128 + threadIdx.x;
/// if (row >= rows) return;
/// float sum = 0.0f;
/// for (int i = 0; i < columns; i++) sum += x[row * columns + i];
/// output[row] = sum;
/// ```
/// becomes
/// ```text
/// int row = (blockIdx.x * 128 + threadIdx.x) / 32;
/// const int lane = threadIdx.x % 32;
/// if (row >= rows) return;
/// float sum = 0.0f;
/// float sum_lane = 0;
/// for (int i = lane; i < columns; i += 32) sum_lane += x[row * columns + i];
/// #pragma unroll
/// for (int offset = 16; offset > 0; offset /= 2) sum_lane += __shfl_xor_sync(0xffffffffu, sum_lane, offset);
/// sum += sum_lane;
/// if (lane == 0) output[row] = sum;
/// ```
///
/// Legal if the thread's number is used for nothing but the row, and surplus threads return first. Every loop that is long must be
/// shared, or contain a shared one. A shared loop changes nothing from outside but accumulators and elements whose index grows
/// by one; these are accessed by the same index everywhere, so that no lane needs what another has written. Any other store is to
/// memory that the function does not read, and is left to the first lane. All else is computed by each lane alike. With fewer than 32
/// lanes, no shared loop may be inside other code, where the rows of a warp may part.
///
/// Faster because adjacent threads read adjacent elements, and because there are 32 times as many threads.
pub(super) struct WarpPerRow;

/// The threads of a warp.
const WARP: i64 = 32;

/// Numbers of lanes to try.
const LANES: [i64; 3] = [WARP, 16, 8];

impl Transformation for WarpPerRow {
    fn caveat(&self) -> Option<&'static str> {
        Some("sums in another order")
    }

    fn name(&self) -> &'static str {
        "warp_per_row"
    }

    fn weight(&self) -> f64 {
        4.0
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        (subject.functions().into_iter())
            .filter(|function| function.is_global)
            .flat_map(|function| {
                let scope = Scope::new(subject, function);
                let shared = LANES.iter().map(|lanes| share_rows(&scope, *lanes));
                shared.flatten().collect::<Vec<_>>()
            })
            .collect()
    }
}

fn share_rows(scope: &Scope<'_, '_>, count: i64) -> Option<RewriteSite> {
    let rows = RowThreads::of(scope)?;
    if Effects::of(scope, scope.function.body).is_opaque {
        return None;
    }
    let mut loops = Vec::new();
    find_shared_loops(scope, scope.function.body, count, &mut loops)?;
    if count < WARP && !loops.iter().all(|shared| is_reached_by_warp(scope, shared)) {
        return None;
    }
    let stores = lone_stores(scope, &loops)?;
    let first = loops.first()?.counting_loop.node.start_byte();
    let is_guarded =
        (stores.iter().map(Node::start_byte).chain([first])).all(|start| rows.guard_end <= start);
    if !is_guarded || !lanes_keep_to_themselves(scope, &loops, &stores) {
        return None;
    }
    let lanes = Lanes {
        count,
        lane: scope.subject.fresh_name("lane"),
        offset: scope.subject.fresh_name("offset"),
    };
    let mut edits = rows.share(scope, count, &lanes.lane)?;
    for shared in &loops {
        edits = edits.merged_with(&shared.rewritten(scope, &lanes)?);
    }
    for store in &stores {
        edits.insert(store.start_byte(), format!("if ({} == 0) ", lanes.lane));
    }
    Some(RewriteSite {
        label: format!(
            "{} x{count}",
            scope.subject.syntax.function_name(&scope.function)
        ),
        line: line_of(rows.declaration),
        edits,
    })
}

/// Whether all rows of a warp reach a shared loop together: a shuffle names all lanes of the warp.
fn is_reached_by_warp(scope: &Scope<'_, '_>, shared: &SharedLoop<'_, '_>) -> bool {
    let around = shared.counting_loop.node.parent();
    around.is_some_and(|around| around.id() == scope.function.body.id())
}

/// The statements `p[…] = value;` outside shared loops. `None` if memory is changed there in another way.
fn lone_stores<'t>(scope: &Scope<'t, '_>, loops: &[SharedLoop<'t, '_>]) -> Option<Vec<Node<'t>>> {
    let mut stores = Vec::new();
    for node in descendants(scope.function.body) {
        let changed = match node.kind() {
            "assignment_expression" => node.child_by_field_name("left"),
            "update_expression" => node.child_by_field_name("argument"),
            _ => None,
        };
        let Some(changed) = changed.filter(|_| !is_in_loops(loops, node)) else {
            continue;
        };
        if let WriteTarget::Memory(_) = write_target(scope, changed) {
            let statement = node.parent()?;
            let is_lone = operator_of(node) == "="
                && changed.kind() == "subscript_expression"
                && statement.kind() == "expression_statement"
                && statement.parent()?.kind() == "compound_statement";
            stores.push(Some(statement).filter(|_| is_lone)?);
        }
    }
    Some(stores)
}

/// Whether no lane reads or overwrites what another lane writes.
fn lanes_keep_to_themselves<'t>(
    scope: &Scope<'t, '_>,
    loops: &[SharedLoop<'t, '_>],
    stores: &[Node<'t>],
) -> bool {
    let body = scope.function.body;
    let effects = Effects::of(scope, body);
    let counting: Vec<_> = loops.iter().map(|shared| shared.counting_loop).collect();
    effects.stored.iter().all(|stored| {
        let Some(root) = stored.filter(|root| scope.unshadowed_parameter(root).is_some()) else {
            return false;
        };
        is_apart(scope, root)
            && (uses_memory_once(scope, root, stores) || uses_one_element(scope, root, &counting))
    })
}

/// Whether the memory is used by nothing but the left sides of lone stores.
fn uses_memory_once(scope: &Scope<'_, '_>, root: &str, stores: &[Node<'_>]) -> bool {
    memory_uses(scope, root).into_iter().all(|used| {
        let element = used.parent();
        element.is_some_and(|element| {
            is_field(element, "argument", used)
                && element.parent().is_some_and(|assignment| {
                    is_field(assignment, "left", element)
                        && stores.iter().any(|store| contains(*store, assignment))
                })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    const ROW: &str =
        "    int row = blockIdx.x * 128 + threadIdx.x;\n    if (row >= rows) return;\n";

    fn with_row(rest: &str) -> String {
        format!("{ROW}{rest}")
    }

    #[test]
    fn lanes_share_loops_and_combine_their_sums() {
        let body = with_row(
            "    const float* in = x + row * columns;\n    float* out = output + row * columns;\n    float largest = in[0];\n    for (int i = 1; i < columns; ++i) largest = fmaxf(largest, in[i]);\n    float sum = 0.0f;\n#pragma unroll 4\n    for (int i = 0; i < columns; i++) {\n        out[i] = expf(in[i] - largest);\n        sum += out[i];\n    }\n    for (int i = 0; i < columns; i++) out[i] /= sum;\n",
        );
        insta::assert_snapshot!(changes(&WarpPerRow, &body, "softmax x32"), @r#"
        -     grid: ceil_div(rows, 128)
        -     block: 128
        -     args: x, output, rows, columns
        - */
        - __global__ void softmax(const float* x, float* output, int rows, int columns) {
        -     int row = blockIdx.x * 128 + threadIdx.x;
        -     if (row >= rows) return;
        -     const float* in = x + row * columns;
        -     float* out = output + row * columns;
        -     float largest = in[0];
        -     for (int i = 1; i < columns; ++i) largest = fmaxf(largest, in[i]);
        -     float sum = 0.0f;
        - #pragma unroll 4
        -     for (int i = 0; i < columns; i++) {
        -         out[i] = expf(in[i] - largest);
        -         sum += out[i];
        -     }
        -     for (int i = 0; i < columns; i++) out[i] /= sum;
        +     grid: ceil_div(32 * rows, 128)
        +     block: 128
        +     args: x, output, rows, columns
        + */
        + __global__ void softmax(const float* x, float* output, int rows, int columns) {
        +     int row = (blockIdx.x * 128 + threadIdx.x) / 32;
        +     const int lane = threadIdx.x % 32;
        +     if (row >= rows) return;
        +     const float* in = x + row * columns;
        +     float* out = output + row * columns;
        +     float largest = in[0];
        +     for (int i = 1 + lane; i < columns; i += 32) largest = fmaxf(largest, in[i]);
        + #pragma unroll
        +     for (int offset = 16; offset > 0; offset /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
        +     float sum = 0.0f;
        +     float sum_lane = 0;
        + #pragma unroll 4
        +     for (int i = lane; i < columns; i += 32) {
        +         out[i] = expf(in[i] - largest);
        +         sum_lane += out[i];
        +     }
        + #pragma unroll
        +     for (int offset = 16; offset > 0; offset /= 2) sum_lane += __shfl_xor_sync(0xffffffffu, sum_lane, offset);
        +     sum += sum_lane;
        +     for (int i = lane; i < columns; i += 32) out[i] /= sum;
        "#);
    }

    #[test]
    fn the_first_lane_stores_what_all_lanes_have() {
        let body = with_row(
            "    float sum = 0.0f, squares = 0.0f;\n    for (int i = 0; i < 64; i++) {\n        sum += x[row * 64 + i];\n        squares += x[row * 64 + i] * x[row * 64 + i];\n    }\n    output[row] = sum / sqrtf(squares);\n",
        );
        insta::assert_snapshot!(changes(&WarpPerRow, &body, "softmax x32"), @r#"
        -     grid: ceil_div(rows, 128)
        -     block: 128
        -     args: x, output, rows, columns
        - */
        - __global__ void softmax(const float* x, float* output, int rows, int columns) {
        -     int row = blockIdx.x * 128 + threadIdx.x;
        -     if (row >= rows) return;
        -     float sum = 0.0f, squares = 0.0f;
        -     for (int i = 0; i < 64; i++) {
        -         sum += x[row * 64 + i];
        -         squares += x[row * 64 + i] * x[row * 64 + i];
        -     }
        -     output[row] = sum / sqrtf(squares);
        +     grid: ceil_div(32 * rows, 128)
        +     block: 128
        +     args: x, output, rows, columns
        + */
        + __global__ void softmax(const float* x, float* output, int rows, int columns) {
        +     int row = (blockIdx.x * 128 + threadIdx.x) / 32;
        +     const int lane = threadIdx.x % 32;
        +     if (row >= rows) return;
        +     float sum = 0.0f, squares = 0.0f;
        +     float sum_lane = 0;
        +     float squares_lane = 0;
        +     for (int i = lane; i < 64; i += 32) {
        +         sum_lane += x[row * 64 + i];
        +         squares_lane += x[row * 64 + i] * x[row * 64 + i];
        +     }
        + #pragma unroll
        +     for (int offset = 16; offset > 0; offset /= 2) {
        +         sum_lane += __shfl_xor_sync(0xffffffffu, sum_lane, offset);
        +         squares_lane += __shfl_xor_sync(0xffffffffu, squares_lane, offset);
        +     }
        +     sum += sum_lane;
        +     squares += squares_lane;
        +     if (lane == 0) output[row] = sum / sqrtf(squares);
        "#);
    }

    #[test]
    fn loops_inside_a_loop_of_all_lanes_are_shared() {
        let body = with_row(
            "    float* own = output + row * 64;\n    for (int i = 0; i < 64; i++) own[i] = x[i];\n    for (int turn = 0; turn < columns; turn++) {\n        float sum = 0.0f;\n        for (int i = 0; i < 64; i++) sum += own[i] * x[turn];\n        for (int i = 0; i < 64; i++) own[i] += sum;\n    }\n",
        );
        assert_eq!(site_labels(&WarpPerRow, &body), "softmax x32 (line 9)\n");
        let alone = with_row("    for (int i = 0; i < 16; i++) output[row * 16 + i] = x[i];\n");
        insta::assert_snapshot!(site_labels(&WarpPerRow, &alone), @r#"
        softmax x16 (line 9)
        softmax x8 (line 9)
        "#);
    }

    #[test]
    fn rows_whose_lanes_would_need_each_other_are_left_alone() {
        let sum = "    float sum = 0.0f;\n    for (int i = 0; i < columns; i++) sum += x[row * columns + i];\n";
        assert_ne!(site_labels(&WarpPerRow, &with_row(sum)), "");
        for rest in [
            // Nothing to share.
            "    output[row] = x[row];\n",
            // The first lane stores what another one reads.
            &format!("{sum}    output[row] = sum;\n    output[row + 1] = output[row];\n"),
            &format!("{sum}    output[row] += sum;\n"),
            // An iteration needs the one before it.
            "    float last = 0.0f;\n    for (int i = 0; i < columns; i++) { last = last * 0.5f + x[i]; output[row * columns + i] = last; }\n",
            // Another lane has written the element.
            "    float* out = output + row * columns;\n    for (int i = 0; i < columns; i++) out[i] = x[i];\n    for (int i = 1; i < columns; i++) out[i] += 1.0f;\n",
            "    float* out = output + row * columns;\n    for (int i = 0; i < columns; i++) out[i] = x[i];\n    for (int i = 0; i < columns; i++) out[i] += out[columns - 1];\n",
            "    for (int turn = 0; turn < rows; turn++) {\n        const int base = turn * 3;\n        for (int i = 0; i < columns; i++) output[base + i] += x[i];\n    }\n",
            // The thread's number is used elsewhere.
            &format!("{sum}    output[row] = sum + threadIdx.x;\n"),
            // A second loop is long and not shared.
            &format!(
                "{sum}    float parts[64];\n    for (int i = 0; i < 64; i++) parts[i] = x[i];\n    output[row] = sum + parts[0];\n"
            ),
            // Lanes would leave at different times.
            "    float sum = 0.0f;\n    for (int i = 0; i < columns; i++) { if (x[i] < 0.0f) break; sum += x[i]; }\n    output[row] = sum;\n",
            &format!("{sum}    if (sum > 1.0f) return;\n    output[row] = sum;\n"),
        ] {
            assert_eq!(site_labels(&WarpPerRow, &with_row(rest)), "", "{rest}");
        }
        let unguarded = format!("    int row = blockIdx.x * 128 + threadIdx.x;\n{sum}");
        assert_eq!(site_labels(&WarpPerRow, &unguarded), "");
    }
}
