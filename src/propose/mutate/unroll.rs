//! `unroll`: how often a loop's body is written out.

use super::scope::Scope;
use super::{RewriteSite, Subject, Transformation};
use crate::kernel::syntax::{descendants, line_of};
use crate::propose::source_edits::{SourceEdits, line_start};

use super::loops::{CountingLoop, unroll_pragma_before};

pub(super) struct Unroll;

/// Bodies with more nodes than these are long enough as they are.
const MAX_LOOP_NODES: usize = 600;

impl Transformation for Unroll {
    fn name(&self) -> &'static str {
        "unroll"
    }

    fn sites(&self, subject: &Subject<'_>) -> Vec<RewriteSite> {
        let mut places = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for node in descendants(function.body).filter(|node| node.kind() == "for_statement") {
                if node.descendant_count() > MAX_LOOP_NODES {
                    continue;
                }
                let pragma = unroll_pragma_before(&scope, node);
                let now = pragma.map(|pragma| subject.text(pragma).trim());
                let trips =
                    CountingLoop::of(&scope, node).and_then(|found| found.trip_count(&scope));
                let mut wishes: Vec<Option<String>> = [2, 4, 8]
                    .iter()
                    .filter(|count| trips.is_none_or(|trips| trips > **count))
                    .map(|count| Some(format!("#pragma unroll {count}")))
                    .collect();
                // All of it only where that is short.
                if trips.is_some_and(|trips| (2..=64).contains(&trips)) {
                    wishes.push(Some("#pragma unroll".to_owned()));
                }
                if now.is_some() {
                    wishes.push(Some("#pragma unroll 1".to_owned()));
                    wishes.push(None);
                }
                for wish in wishes.into_iter().filter(|wish| wish.as_deref() != now) {
                    let mut edits = SourceEdits::new();
                    match (pragma, &wish) {
                        (Some(pragma), Some(wish)) => {
                            edits.replace(pragma.byte_range(), format!("{wish}\n"))
                        }
                        (Some(pragma), None) => edits.replace(pragma.byte_range(), ""),
                        (None, Some(wish)) => edits.insert(
                            line_start(subject.source(), node.start_byte()),
                            format!("{wish}\n"),
                        ),
                        (None, None) => continue,
                    };
                    let what = match &wish {
                        Some(wish) => wish.trim_start_matches("#pragma unroll").trim().to_owned(),
                        None => "not said".to_owned(),
                    };
                    let what = if what.is_empty() {
                        "all".to_owned()
                    } else {
                        what
                    };
                    places.push(RewriteSite {
                        label: what,
                        line: line_of(node),
                        edits,
                    });
                }
            }
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{changes, site_labels};
    use super::*;

    const BODY: &str = "    for (int i = 0; i < columns; ++i) output[i] = x[i];\n#pragma unroll 4\n    for (int i = 0; i < 16; ++i) output[i] += 1.0f;\n";

    #[test]
    fn unroll_pragmas_are_added_changed_and_removed() {
        insta::assert_snapshot!(site_labels(&Unroll, BODY), @r#"
        2 (line 9)
        4 (line 9)
        8 (line 9)
        2 (line 11)
        8 (line 11)
        all (line 11)
        1 (line 11)
        not said (line 11)
        "#);
        insta::assert_snapshot!(changes(&Unroll, BODY, "2 (line 9)"), @r#"+ #pragma unroll 2"#);
        insta::assert_snapshot!(changes(&Unroll, BODY, "not said"), @r#"- #pragma unroll 4"#);
    }
}
