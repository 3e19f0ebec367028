//! `unroll`: how often a loop's body is written out.

use super::scope::Scope;
use super::{Place, Subject, Transformation};
use crate::kernel::syntax::{descendants, line_of};
use crate::propose::edit::{Edits, line_start};

use super::loops::{Loop, pragma_of};

pub(super) struct Unroll;

/// Bodies with more nodes than these are long enough as they are.
const LONGEST: usize = 600;

impl Transformation for Unroll {
    fn name(&self) -> &'static str {
        "unroll"
    }

    fn places(&self, subject: &Subject<'_>) -> Vec<Place> {
        let mut places = Vec::new();
        for function in subject.functions() {
            let scope = Scope::new(subject, function);
            for node in descendants(function.body).filter(|node| node.kind() == "for_statement") {
                if node.descendant_count() > LONGEST {
                    continue;
                }
                let pragma = pragma_of(&scope, node);
                let now = pragma.map(|pragma| subject.text(pragma).trim());
                let trips = Loop::of(&scope, node).and_then(|found| found.trips(&scope));
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
                    let mut edits = Edits::new();
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
                    places.push(Place {
                        what,
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
    use super::super::testing::{changes, labels};
    use super::*;

    const BODY: &str = "    for (int i = 0; i < columns; ++i) output[i] = x[i];\n#pragma unroll 4\n    for (int i = 0; i < 16; ++i) output[i] += 1.0f;\n";

    #[test]
    fn pragmas_are_added_changed_and_taken_away() {
        insta::assert_snapshot!(labels(&Unroll, BODY), @r#"
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
