//! `vectorize_lanes`: neighbouring elements are loaded and stored together in a loop whose iterations threads share.

use tree_sitter::Node;

use super::accumulator::find_accumulators;
use super::effects::Effects;
use super::element_uses::{is_apart, uses_one_element};
use super::indices::Alignment;
use super::loops::CountingLoop;
use super::nodes::{is_innermost, operands};
use super::scope::Scope;
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use super::vector_accesses::AccessFinder;
use super::vectorize::{MAX_BODY_NODES, WIDTHS, widened_loop};
use crate::kernel::syntax::{contains, descendants};

/// Gives each thread several neighbouring iterations instead of single ones, and loads and stores their elements as vectors.
///
/// ```text
/// for (int i = threadIdx.x; i < HIDDEN_SIZE; i += 128) sum += __bfloat162float(x[i]);
/// ```
/// becomes
/// ```text
/// for (int i = threadIdx.x * 8; i < HIDDEN_SIZE; i += 128 * 8) {
///     alignas(16) __nv_bfloat16 x_wide[8];
///     reinterpret_cast<uint4*>(x_wide)[0] = reinterpret_cast<const uint4*>(&x[i])[0];
/// #pragma unroll
///     for (int lane = 0; lane < 8; ++lane) sum += __bfloat162float(x_wide[lane]);
/// }
/// ```
///
/// Legal if the loop starts at the number of the thread and steps by the number of threads, its bound is a multiple of the width,
/// and an iteration changes nothing from outside but accumulators, elements that no other code accesses, and shared memory before
/// a barrier. Elements that several loops access move together. What accumulators are used for afterwards must not depend on which
/// thread added which element, which the judge checks.
///
/// Faster because a warp loads 512 bytes with one instruction instead of 64 or 128.
pub(super) struct VectorizeLanes;

impl Transformation for VectorizeLanes {
    fn caveat(&self) -> Option<&'static str> {
        Some("assumes that the threads' results are combined")
    }

    fn name(&self) -> &'static str {
        "vectorize_lanes"
    }

    fn weight(&self) -> f64 {
        3.0
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites: Vec<RewriteSite> = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            let loops: Vec<_> = (CountingLoop::all_in(&scope).into_iter())
                .filter(|counting_loop| can_move_iterations(&scope, counting_loop))
                .collect();
            for width in WIDTHS {
                let wide: Vec<_> = (loops.iter())
                    .filter_map(|one| Some((*one, widen(&scope, one, width)?)))
                    .collect();
                let alone = (wide.iter())
                    .filter(|(one, _)| keeps_elements(&scope, &[*one]))
                    .map(|(_, site)| site.clone());
                sites.extend(alone);
                let (all, each): (Vec<_>, Vec<_>) = wide.into_iter().unzip();
                if keeps_elements(&scope, &all) {
                    sites.extend(RewriteSite::combined(&each, format!("all loops x{width}")));
                }
            }
        }
        sites
    }
}

/// Whether any thread may run any iteration.
fn can_move_iterations(scope: &Scope<'_, '_>, counting_loop: &CountingLoop<'_, '_>) -> bool {
    let body = counting_loop.body;
    let effects = Effects::of(scope, body);
    let accumulators = find_accumulators(scope, counting_loop);
    let may_change = |name: &&str| {
        let declared: Vec<_> = (scope.declarations.iter())
            .filter(|declaration| declaration.name == *name)
            .collect();
        accumulators.iter().any(|own| own.name == *name)
            || declared
                .iter()
                .all(|declaration| contains(body, declaration.identifier))
            || declared.iter().all(|declaration| declaration.is_shared)
                && ends_at_barrier(scope, counting_loop.node, name)
    };
    counting_loop.is_in_block(scope)
        && is_innermost(body)
        && body.descendant_count() <= MAX_BODY_NODES
        && !effects.jumps
        && !effects.is_opaque
        && effects.assigned.iter().all(may_change)
        && starts_at_thread(scope, counting_loop)
}

/// Whether a loop starts at a number below its step that differs between the threads that share it.
fn starts_at_thread(scope: &Scope<'_, '_>, counting_loop: &CountingLoop<'_, '_>) -> bool {
    let Some(step) = counting_loop.step else {
        return false;
    };
    let start = counting_loop.start;
    if scope.text(start) == "threadIdx.x" {
        return scope.text(step) == "blockDim.x" || is_block_width(scope, step);
    }
    let declaration = (scope.lookup_node(start)).filter(|declaration| {
        start.kind() == "identifier"
            && declaration.parameter_index.is_none()
            && !declaration.is_reference
            && !scope.assigns_variable(scope.function.body, declaration.name)
    });
    let lanes = declaration
        .and_then(|declaration| operands(declaration.initializer?, "%"))
        .filter(|(thread, _)| scope.text(*thread) == "threadIdx.x");
    lanes.is_some_and(|(_, lanes)| {
        (scope.subject).holds_at_all_points(&|evaluate| Some(evaluate(lanes)? == evaluate(step)?))
    })
}

/// Whether an expression is the first size of the blocks of every launch.
fn is_block_width(scope: &Scope<'_, '_>, step: Node<'_>) -> bool {
    let subject = scope.subject;
    let launches = subject.launches_of(&scope.function);
    let has_width = |launch: &usize| {
        let width = &subject.header.launches[*launch].block[0].expression;
        let widths = subject.at_all_points(&|value_of| width.evaluate(value_of).ok());
        let steps = subject.values_at_all_points(step);
        widths.is_some() && widths == steps
    };
    !launches.is_empty() && launches.iter().all(has_width)
}

/// Whether a barrier follows a loop before anything uses the shared array that it fills.
fn ends_at_barrier(scope: &Scope<'_, '_>, filling: Node<'_>, array: &str) -> bool {
    let following = std::iter::successors(filling.next_named_sibling(), Node::next_named_sibling);
    for statement in following {
        if scope.text(statement).starts_with("__syncthreads(") {
            return true;
        }
        let uses_array = descendants(statement)
            .any(|node| node.kind() == "identifier" && scope.text(node) == array);
        if uses_array {
            return false;
        }
    }
    false
}

/// Whether all accesses to memory that the loops write are theirs, by one index.
fn keeps_elements(scope: &Scope<'_, '_>, loops: &[CountingLoop<'_, '_>]) -> bool {
    (loops.iter()).all(|one| {
        (Effects::of(scope, one.body).stored.iter()).all(|stored| {
            stored.is_some_and(|root| is_apart(scope, root) && uses_one_element(scope, root, loops))
        })
    })
}

/// The site that widens a loop; `None` if no access fits, or if threads would be left without work.
fn widen<'t, 'a>(
    scope: &Scope<'t, 'a>,
    counting_loop: &CountingLoop<'t, 'a>,
    width: i64,
) -> Option<RewriteSite> {
    let step = counting_loop.step?;
    let alignment = Alignment {
        scope,
        variable: "",
        width,
    };
    let subject = scope.subject;
    let is_unknown = |node: Node<'t>| subject.values_at_all_points(node).is_none();
    let leaves_no_thread_idle = is_unknown(counting_loop.bound)
        || is_unknown(step)
        || subject.holds_at_all_points(&|evaluate| {
            let vectors = evaluate(step)?.checked_mul(width)?;
            Some(vectors > 0 && evaluate(counting_loop.bound)? >= vectors)
        });
    if !alignment.is_multiple(counting_loop.bound) || !leaves_no_thread_idle {
        return None;
    }
    let finder = AccessFinder {
        scope,
        counting_loop,
        width,
    };
    let accesses = finder.vector_accesses();
    if accesses.is_empty() {
        return None;
    }
    let head = counting_loop.header_with(
        &format!("{} * {width}", scope.text(counting_loop.start)),
        scope.text(counting_loop.bound),
        &format!("{} * {width}", in_parentheses(scope.text(step))),
    );
    widened_loop(&finder, &accesses, &head)
}

fn in_parentheses(text: &str) -> String {
    let is_product =
        (text.chars()).all(|letter| letter.is_alphanumeric() || "_. *".contains(letter));
    if is_product {
        text.to_owned()
    } else {
        format!("({text})")
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    #[test]
    fn threads_load_and_store_vectors() {
        let body = "    for (int i = threadIdx.x; i < 4096; i += 128) output[i] = 2.0f * x[i];\n";
        insta::assert_snapshot!(site_labels(&VectorizeLanes, body), @r#"
        output, x x2 (line 9)
        output, x x4 (line 9)
        output, x x8 (line 9)
        "#);
        insta::assert_snapshot!(changes(&VectorizeLanes, body, "output, x x4"), @r#"
        -     for (int i = threadIdx.x; i < 4096; i += 128) output[i] = 2.0f * x[i];
        +     for (int i = threadIdx.x * 4; i < 4096; i += 128 * 4) {
        +         alignas(16) float output_wide[4];
        +         alignas(16) float x_wide[4];
        +         reinterpret_cast<float4*>(x_wide)[0] = reinterpret_cast<const float4*>(&x[i])[0];
        + #pragma unroll
        +         for (int lane = 0; lane < 4; ++lane) {
        +             output_wide[lane] = 2.0f * x_wide[lane];
        +         }
        +         reinterpret_cast<float4*>(&output[i])[0] = reinterpret_cast<float4*>(output_wide)[0];
        +     }
        "#);
    }

    #[test]
    fn lanes_of_a_warp_move_all_loops_of_an_element_together() {
        let body = "    const int lane = threadIdx.x % 32;\n    float* out = output + blockIdx.x * 256;\n    float sum = 0.0f;\n    for (int i = lane; i < 256; i += 32) { out[i] = x[i]; sum += x[i]; }\n    for (int i = lane; i < 256; i += 32) out[i] *= sum;\n";
        insta::assert_snapshot!(site_labels(&VectorizeLanes, body), @r#"
        all loops x2 (line 12)
        all loops x4 (line 12)
        all loops x8 (line 12)
        "#);
    }

    #[test]
    fn shared_memory_is_filled_before_a_barrier() {
        let fill = "    __shared__ float tile[1024];\n    for (int i = threadIdx.x; i < 1024; i += blockDim.x) tile[i] = x[i];\n";
        let read = "    output[threadIdx.x] = tile[threadIdx.x];\n";
        let labels = |body: &str| site_labels(&VectorizeLanes, body);
        assert_ne!(labels(&format!("{fill}    __syncthreads();\n{read}")), "");
        assert_eq!(labels(&format!("{fill}{read}    __syncthreads();\n")), "");
        assert_eq!(labels(&format!("{fill}{read}")), "");
    }

    #[test]
    fn elements_that_other_threads_access_are_left_alone() {
        for body in [
            // The thread reads what it wrote itself.
            "    for (int i = threadIdx.x; i < 4096; i += 128) output[i] = x[i];\n    output[threadIdx.x] += 1.0f;\n",
            "    float last = 0.0f;\n    for (int i = threadIdx.x; i < 4096; i += 128) last = x[i];\n    output[threadIdx.x] = last;\n",
            // The bound, the start or the step do not fit.
            "    for (int i = threadIdx.x; i < columns; i += 128) output[i] = x[i];\n",
            "    for (int i = threadIdx.x; i < 4096; i += 64) output[i] = x[i];\n",
            "    for (int i = threadIdx.x + 1; i < 4096; i += 128) output[i] = x[i];\n",
            "    for (int i = threadIdx.x; i < 128; i += 128) output[i] = x[i];\n",
            // The elements are not aligned.
            "    for (int i = threadIdx.x; i < 4096; i += 128) output[blockIdx.x * columns + i] = x[columns + i];\n",
        ] {
            assert_eq!(site_labels(&VectorizeLanes, body), "", "{body}");
        }
    }
}
