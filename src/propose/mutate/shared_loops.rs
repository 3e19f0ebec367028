//! The loops of a row that several lanes of a warp can share, and how they do: with 32 lanes, each takes every 32nd iteration.
//!
//! Looks at one loop at a time. Whether lanes need each other's memory is decided in `warp_per_row`.

use tree_sitter::Node;

use super::accumulator::{Accumulator, AccumulatorOperation, find_accumulators};
use super::effects::Effects;
use super::loops::CountingLoop;
use super::scope::Scope;
use crate::kernel::syntax::{contains, descendants};
use crate::propose::source_edits::SourceEdits;

/// Statements that repeat others.
const LOOPS: [&str; 4] = [
    "for_statement",
    "while_statement",
    "do_statement",
    "for_range_loop",
];

/// The lanes that share a row, and the names of new variables.
pub(super) struct Lanes {
    /// A power of two, at most 32.
    pub count: i64,
    pub lane: String,
    pub offset: String,
}

/// A loop whose iterations the lanes share.
pub(super) struct SharedLoop<'t, 'a> {
    pub counting_loop: CountingLoop<'t, 'a>,
    accumulators: Vec<Accumulator<'t, 'a>>,
}

/// Adds the outermost loops in `region` that can be shared. `None` if a long one cannot be shared and has no shared one inside.
pub(super) fn find_shared_loops<'t, 'a>(
    scope: &Scope<'t, 'a>,
    region: Node<'t>,
    lanes: i64,
    found: &mut Vec<SharedLoop<'t, 'a>>,
) -> Option<()> {
    let mut walk = descendants(region);
    while let Some(node) = walk.next() {
        if node.id() == region.id() || !LOOPS.contains(&node.kind()) {
            continue;
        }
        walk.skip_children();
        let counting_loop = CountingLoop::of(scope, node);
        let trips = counting_loop.and_then(|counting_loop| counting_loop.trip_count(scope));
        let is_long = trips.is_none_or(|trips| trips >= lanes);
        let shared = counting_loop.filter(|_| is_long);
        match shared.and_then(|counting_loop| SharedLoop::of(scope, counting_loop)) {
            Some(shared) => found.push(shared),
            None => {
                let before = found.len();
                find_shared_loops(scope, node, lanes, found)?;
                if is_long && found.len() == before {
                    return None;
                }
            }
        }
    }
    Some(())
}

impl<'t, 'a> SharedLoop<'t, 'a> {
    /// `None` if an iteration changes a variable that another one or the code after the loop uses, except accumulators.
    fn of(scope: &Scope<'t, 'a>, counting_loop: CountingLoop<'t, 'a>) -> Option<Self> {
        let body = counting_loop.body;
        let effects = Effects::of(scope, body);
        if effects.jumps || effects.is_opaque || !counting_loop.is_in_block(scope) {
            return None;
        }
        let accumulators = find_accumulators(scope, &counting_loop);
        let is_own = |name: &&str| {
            accumulators.iter().any(|own| own.name == *name)
                || (scope.declarations.iter())
                    .filter(|declaration| declaration.name == *name)
                    .all(|declaration| contains(body, declaration.identifier))
        };
        let keeps_variables = effects.assigned.iter().all(is_own);
        let stores_elements = effects.stored.iter().all(Option::is_some);
        (keeps_variables && stores_elements).then_some(Self {
            counting_loop,
            accumulators,
        })
    }

    /// Edits that give every lane its iterations, and combine the accumulators after the loop.
    pub(super) fn rewritten(&self, scope: &Scope<'t, 'a>, lanes: &Lanes) -> Option<SourceEdits> {
        let counting_loop = &self.counting_loop;
        let indent = counting_loop.indent(scope);
        let mut inner = SourceEdits::new();
        let (mut before, mut combined, mut after) = (String::new(), Vec::new(), String::new());
        for Accumulator {
            name,
            type_name,
            combination,
            uses,
        } in &self.accumulators
        {
            match combination {
                AccumulatorOperation::Sum => {
                    let own = scope.subject.fresh_name(&format!("{name}_lane"));
                    for used in uses {
                        inner.replace(used.byte_range(), own.as_str());
                    }
                    before += &format!("{indent}{type_name} {own} = 0;\n");
                    combined.push(format!("{own} += {};", shuffled(&own, lanes)));
                    after += &format!("\n{indent}{name} += {own};");
                }
                // Every lane starts from the same value, which changes no maximum.
                AccumulatorOperation::Function(function) => {
                    combined.push(format!(
                        "{name} = {function}({name}, {});",
                        shuffled(name, lanes)
                    ));
                }
            }
        }
        let body = inner.apply_within(scope.subject.source(), counting_loop.body.byte_range())?;
        let text = format!(
            "{before}{pragma}{indent}{head} {body}{combine}{after}",
            pragma = counting_loop.pragma_line(scope),
            head = self.head(scope, lanes),
            combine = combine(&combined, indent, lanes),
        );
        Some(counting_loop.replace_with(scope, &text))
    }

    /// `for (int i = lane; i < columns; i += 32)`.
    fn head(&self, scope: &Scope<'t, 'a>, lanes: &Lanes) -> String {
        let counting_loop = &self.counting_loop;
        let (start, step) = (
            scope.text(counting_loop.start),
            counting_loop.step_text(scope),
        );
        let own = match step {
            "1" => lanes.lane.clone(),
            _ => format!("{} * {}", lanes.lane, in_parentheses(step)),
        };
        let start = match start {
            "0" => own,
            _ => format!("{} + {own}", in_parentheses(start)),
        };
        let step = match step {
            "1" => lanes.count.to_string(),
            _ => format!("{} * {}", lanes.count, in_parentheses(step)),
        };
        counting_loop.header_with(&start, scope.text(counting_loop.bound), &step)
    }
}

fn shuffled(name: &str, lanes: &Lanes) -> String {
    format!("__shfl_xor_sync(0xffffffffu, {name}, {})", lanes.offset)
}

/// The loop that combines the lanes' values.
fn combine(statements: &[String], indent: &str, lanes: &Lanes) -> String {
    let offset = &lanes.offset;
    let head = format!(
        "\n#pragma unroll\n{indent}for (int {offset} = {}; {offset} > 0; {offset} /= 2)",
        lanes.count / 2
    );
    match statements {
        [] => String::new(),
        [only] => format!("{head} {only}"),
        several => {
            let lines: String = (several.iter())
                .map(|statement| format!("{indent}    {statement}\n"))
                .collect();
            format!("{head} {{\n{lines}{indent}}}")
        }
    }
}

fn in_parentheses(text: &str) -> String {
    let is_word = (text.chars()).all(|letter| letter.is_alphanumeric() || "_.".contains(letter));
    if is_word {
        text.to_owned()
    } else {
        format!("({text})")
    }
}

pub(super) fn is_in_loops(loops: &[SharedLoop<'_, '_>], node: Node<'_>) -> bool {
    (loops.iter()).any(|shared| contains(shared.counting_loop.body, node))
}
