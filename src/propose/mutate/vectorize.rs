//! `vectorize`: neighbouring elements are loaded and stored together, up to 16 bytes per instruction.

use super::effects::Effects;
use super::loops::CountingLoop;
use super::nodes::is_innermost;
use super::scope::Scope;
use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use super::vector_accesses::{AccessFinder, VectorAccess};
use crate::kernel::syntax::line_of;
use crate::propose::code_layout::indent_following_lines;

/// Loads and stores the elements of several iterations as vectors.
///
/// ```text
/// for (int i = 0; i < 64; i++) output[i] = 2.0f * x[i];
/// ```
/// becomes
/// ```text
/// for (int i = 0; i < 64; i += 4) {
///     alignas(16) float x_wide[4];
///     reinterpret_cast<float4*>(x_wide)[0] = reinterpret_cast<const float4*>(&x[i])[0];
///     alignas(16) float output_wide[4];
/// #pragma unroll
///     for (int lane = 0; lane < 4; ++lane) output_wide[lane] = 2.0f * x_wide[lane];
///     reinterpret_cast<float4*>(&output[i])[0] = reinterpret_cast<float4*>(output_wide)[0];
/// }
/// ```
///
/// Legal for an innermost counting loop with step 1 and a trip count that is a multiple of the width, if the body has no
/// opaque effects. The elements must be consecutive and aligned, and no other access may overlap them if one of the two writes.
///
/// Faster because fewer and wider memory instructions move the same bytes. Compilers keep the small arrays in registers.
pub(super) struct Vectorize;

/// Numbers of elements per iteration to try.
pub(super) const WIDTHS: [i64; 3] = [2, 4, 8];

/// Maximum size of a body, in syntax nodes. Longer ones are not rewritten, to keep the kernel readable.
pub(super) const MAX_BODY_NODES: usize = 400;

/// The widest load or store of a GPU, in bytes.
const MAX_VECTOR_BYTES: i64 = 16;

impl Transformation for Vectorize {
    fn name(&self) -> &'static str {
        "vectorize"
    }

    fn weight(&self) -> f64 {
        2.0
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut sites: Vec<RewriteSite> = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            let loops: Vec<_> = CountingLoop::all_in(&scope)
                .into_iter()
                .filter(|counting_loop| can_be_widened(&scope, counting_loop))
                .collect();
            for width in WIDTHS {
                let each: Vec<_> = loops
                    .iter()
                    .filter_map(|counting_loop| vectorize_loop(&scope, counting_loop, width))
                    .collect();
                let all = RewriteSite::combined(&each, format!("all loops x{width}"));
                sites.extend(each);
                sites.extend(all);
            }
        }
        sites
    }
}

fn can_be_widened(scope: &Scope<'_, '_>, counting_loop: &CountingLoop<'_, '_>) -> bool {
    let effects = Effects::of(scope, counting_loop.body);
    counting_loop.is_in_block(scope)
        && is_innermost(counting_loop.body)
        && counting_loop.step_text(scope) == "1"
        && counting_loop.body.descendant_count() <= MAX_BODY_NODES
        && !effects.jumps
        && !effects.is_opaque
}

fn vectorize_loop<'t, 'a>(
    scope: &Scope<'t, 'a>,
    counting_loop: &CountingLoop<'t, 'a>,
    width: i64,
) -> Option<RewriteSite> {
    let starts_aligned = scope
        .subject
        .constant_value(counting_loop.start)
        .is_some_and(|start| start % width == 0);
    if !starts_aligned || !counting_loop.has_trip_multiple_of(scope, width) {
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
        scope.text(counting_loop.start),
        scope.text(counting_loop.bound),
        &width.to_string(),
    );
    widened_loop(&finder, &accesses, &head)
}

/// The site that serves accesses by vectors in a loop. `head`: its new `for (…)`.
pub(super) fn widened_loop(
    finder: &AccessFinder<'_, '_, '_>,
    accesses: &[VectorAccess<'_, '_>],
    head: &str,
) -> Option<RewriteSite> {
    let counting_loop = finder.counting_loop;
    let pointers: Vec<_> = accesses.iter().map(|access| access.pointer).collect();
    let text = widen_loop(finder, accesses, head)?;
    Some(RewriteSite {
        label: format!("{} x{}", pointers.join(", "), finder.width),
        line: line_of(counting_loop.node),
        edits: counting_loop.replace_with(finder.scope, &text),
    })
}

/// The loop over vectors: wide loads, the body once per lane, then wide stores.
fn widen_loop(
    finder: &AccessFinder<'_, '_, '_>,
    accesses: &[VectorAccess<'_, '_>],
    head: &str,
) -> Option<String> {
    let AccessFinder {
        scope,
        counting_loop,
        width,
    } = *finder;
    let subject = scope.subject;
    let indent = counting_loop.indent(scope);
    let lane = subject.fresh_name("lane");
    let mut edits =
        counting_loop.replace_variable(scope, &format!("{} + {lane}", counting_loop.variable));
    let mut statements = WideStatements::default();
    for (position, access) in accesses.iter().enumerate() {
        let earlier = accesses[..position]
            .iter()
            .filter(|other| other.pointer == access.pointer)
            .count();
        let name = subject.fresh_name(&match earlier {
            0 => format!("{}_wide", access.pointer),
            _ => format!("{}_wide_{}", access.pointer, earlier + 1),
        });
        // The whole element is replaced, and with it its index.
        for member in &access.members {
            edits = edits.without_range(&member.byte_range());
            edits.replace(member.byte_range(), format!("{name}[{lane}]"));
        }
        statements.add(access, &name, scope.text(access.index), width);
    }
    let joined = |lines: &[String], before: &str, after: &str| {
        lines
            .iter()
            .map(|line| format!("{before}{indent}    {line}{after}"))
            .collect::<String>()
    };
    let loads = joined(&statements.loads, "", "\n");
    let stores = joined(&statements.stores, "\n", "");
    let body = indent_following_lines(&counting_loop.body_text(scope, &edits)?);
    Some(format!(
        "{pragma}{indent}{head} {{\n{loads}#pragma unroll\n{indent}    for (int {lane} = 0; {lane} < {width}; ++{lane}) {{\n{indent}        {body}\n{indent}    }}{stores}\n{indent}}}",
        pragma = counting_loop.pragma_line(scope),
    ))
}

/// The wide loads and stores around a body.
#[derive(Default)]
struct WideStatements {
    loads: Vec<String>,
    stores: Vec<String>,
}

impl WideStatements {
    /// Adds the array `name` for an access with the given index, its loads and its stores.
    fn add(&mut self, access: &VectorAccess<'_, '_>, name: &str, index: &str, width: i64) {
        let (pointer, type_name) = (access.pointer, access.type_name);
        let total = width * access.bytes;
        let vector_bytes = total.min(MAX_VECTOR_BYTES);
        let vector = match (vector_bytes, type_name) {
            (16, "float") => "float4",
            (8, "float") => "float2",
            (16, _) => "uint4",
            (8, _) => "uint2",
            _ => "unsigned",
        };
        let condition = access
            .guard
            .as_ref()
            .map_or(String::new(), |guard| format!("if ({guard}) "));
        let qualifier = if access.is_const { "const " } else { "" };
        self.loads.push(format!(
            "alignas({vector_bytes}) {type_name} {name}[{width}];"
        ));
        for part in 0..(total + MAX_VECTOR_BYTES - 1) / MAX_VECTOR_BYTES {
            let local = format!("reinterpret_cast<{vector}*>({name})[{part}]");
            let remote = |qualifier: &str| {
                format!("reinterpret_cast<{qualifier}{vector}*>(&{pointer}[{index}])[{part}]")
            };
            if access.is_read {
                self.loads
                    .push(format!("{condition}{local} = {};", remote(qualifier)));
            }
            if access.is_written {
                self.stores.push(format!("{} = {local};", remote("")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    #[test]
    fn elements_are_loaded_and_stored_as_vectors() {
        let body = "    const int row = blockIdx.x;\n    float sum = 0.0f;\n    for (int i = 0; i < 64; i++) {\n        const float value = x == nullptr ? 0.0f : x[row * 64 + i];\n        output[row * 64 + i] = value * i;\n        sum += output[row * 64 + i];\n    }\n";
        insta::assert_snapshot!(site_labels(&Vectorize, body), @r#"
        x, output x2 (line 11)
        x, output x4 (line 11)
        x, output x8 (line 11)
        "#);
        insta::assert_snapshot!(changes(&Vectorize, body, "x, output x4"), @r#"
        -     for (int i = 0; i < 64; i++) {
        -         const float value = x == nullptr ? 0.0f : x[row * 64 + i];
        -         output[row * 64 + i] = value * i;
        -         sum += output[row * 64 + i];
        +     for (int i = 0; i < 64; i += 4) {
        +         alignas(16) float x_wide[4];
        +         if (x != nullptr) reinterpret_cast<float4*>(x_wide)[0] = reinterpret_cast<const float4*>(&x[row * 64 + i])[0];
        +         alignas(16) float output_wide[4];
        + #pragma unroll
        +         for (int lane = 0; lane < 4; ++lane) {
        +             const float value = x == nullptr ? 0.0f : x_wide[lane];
        +             output_wide[lane] = value * (i + lane);
        +             sum += output_wide[lane];
        +         }
        +         reinterpret_cast<float4*>(&output[row * 64 + i])[0] = reinterpret_cast<float4*>(output_wide)[0];
        "#);
    }

    #[test]
    fn updated_elements_are_loaded_and_stored_back() {
        let body = "    float* out = output + blockIdx.x * 64;\n#pragma unroll 2\n    for (int i = 0; i < 64; i++) out[i] *= 2.0f;\n";
        insta::assert_snapshot!(changes(&Vectorize, body, "out x8"), @r#"
        -     for (int i = 0; i < 64; i++) out[i] *= 2.0f;
        +     for (int i = 0; i < 64; i += 8) {
        +         alignas(16) float out_wide[8];
        +         reinterpret_cast<float4*>(out_wide)[0] = reinterpret_cast<float4*>(&out[i])[0];
        +         reinterpret_cast<float4*>(out_wide)[1] = reinterpret_cast<float4*>(&out[i])[1];
        + #pragma unroll
        +         for (int lane = 0; lane < 8; ++lane) {
        +             out_wide[lane] *= 2.0f;
        +         }
        +         reinterpret_cast<float4*>(&out[i])[0] = reinterpret_cast<float4*>(out_wide)[0];
        +         reinterpret_cast<float4*>(&out[i])[1] = reinterpret_cast<float4*>(out_wide)[1];
        +     }
        "#);
    }

    #[test]
    fn element_on_both_sides_of_an_assignment_is_loaded() {
        for (statements, is_loaded) in [
            ("out[i] = out[i] * 2.0f;", true),
            ("out[i] = 2.0f; out[i] = out[i] + 1.0f;", false),
        ] {
            let body = format!(
                "    float* out = output + blockIdx.x * 64;\n    for (int i = 0; i < 64; i++) {{ {statements} }}\n"
            );
            let changed = changes(&Vectorize, &body, "out x4");
            assert_eq!(changed.contains("(out_wide)[0] = "), is_loaded, "{changed}");
        }
    }

    #[test]
    fn unaligned_or_aliased_accesses_are_not_vectorized() {
        for body in [
            "    for (int i = 0; i < 64; i++) output[i + 1] = x[columns + i];\n",
            "    for (int i = 0; i < columns; i++) output[i] = x[i];\n",
            "    for (int i = 0; i < 64; i++) output[2 * i] = x[64 - i];\n",
            "    for (int i = 1; i < 65; i++) output[i] = 0.0f;\n",
            "    for (int i = 0; i < 64; i++) output[i] = output[64 - i];\n",
            "    for (int i = 0; i < 64; i++) { if (rows > i) output[i] = 0.0f; }\n",
        ] {
            assert_eq!(site_labels(&Vectorize, body), "", "{body}");
        }
    }
}
