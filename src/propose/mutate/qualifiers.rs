//! `inlining`: qualifiers of device functions.

use super::subject::Subject;
use super::transformation::{RewriteSite, Transformation};
use crate::kernel::syntax::{FunctionNode, children, descendants, line_of};
use crate::propose::source_edits::SourceEdits;

/// Marks a device function to be inlined always or never.
///
/// ```text
/// __device__ float f(float a)  ->  __device__ __forceinline__ float f(float a)
/// ```
///
/// Always legal: inlining does not change results. Offers `__forceinline__` and `__noinline__`.
///
/// Inlining saves the call and exposes more to the optimizer; a call saves registers and instruction cache.
pub(super) struct Inlining;

/// Qualifiers that the inlining qualifiers replace.
const INLINE_QUALIFIERS: [&str; 4] = ["inline", "__forceinline__", "__noinline__", "__inline__"];

impl Transformation for Inlining {
    fn name(&self) -> &'static str {
        "inlining"
    }

    fn weight(&self) -> f64 {
        0.5
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        subject
            .functions()
            .iter()
            .filter(|function| !function.is_global)
            .flat_map(|function| set_inlining(subject, function))
            .collect()
    }
}

/// The inlining qualifiers that a device function does not have yet.
fn set_inlining(subject: &Subject<'_>, function: &FunctionNode<'_>) -> Vec<RewriteSite> {
    let qualifiers: Vec<_> = children(function.node)
        .take_while(|child| child.id() != function.declarator.id())
        .collect();
    let Some(device) = qualifiers
        .iter()
        .find(|qualifier| subject.text(**qualifier) == "__device__")
    else {
        return Vec::new();
    };
    // A function that calls itself cannot be inlined.
    let name = subject.syntax.function_name(function);
    let is_recursive = descendants(function.body)
        .any(|node| node.child_count() == 0 && subject.text(node) == name);
    if is_recursive {
        return Vec::new();
    }
    let current: Vec<_> = qualifiers
        .iter()
        .filter(|qualifier| INLINE_QUALIFIERS.contains(&subject.text(**qualifier)))
        .collect();
    let mut sites = Vec::new();
    for wanted in ["__forceinline__", "__noinline__"] {
        if current
            .iter()
            .any(|qualifier| subject.text(**qualifier) == wanted)
        {
            continue;
        }
        let mut edits = SourceEdits::new();
        edits.insert(device.end_byte(), format!(" {wanted}"));
        for qualifier in &current {
            // With the space after it.
            let has_space = subject.source()[qualifier.end_byte()..].starts_with(' ');
            let end = qualifier.end_byte() + usize::from(has_space);
            edits.replace(qualifier.start_byte()..end, "");
        }
        sites.push(RewriteSite {
            label: format!("{} {wanted}", subject.syntax.function_name(function)),
            line: line_of(function.node),
            edits,
        });
    }
    sites
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes_in_source, kernel};
    use super::*;

    #[test]
    fn device_functions_get_inline_qualifiers() {
        let source = kernel("    output[0] = twice(x[0]);\n").replace(
            "__global__",
            "__device__ inline float twice(float a) { return a + a; }\n__global__",
        );
        insta::assert_snapshot!(changes_in_source(&Inlining, &source, "twice __force"), @r#"
        - __device__ inline float twice(float a) { return a + a; }
        + __device__ __forceinline__ float twice(float a) { return a + a; }
        "#);
        insta::assert_snapshot!(changes_in_source(&Inlining, &source, "twice __noinline__"), @r#"
        - __device__ inline float twice(float a) { return a + a; }
        + __device__ __noinline__ float twice(float a) { return a + a; }
        "#);
    }
}
