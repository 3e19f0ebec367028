//! What statements do to the code around them, as far as names show: a run of statements may replace another only if both do the
//! same.
//!
//! Compares names and counts, never values: equal names of two kernels are assumed to mean the same.

use std::collections::{BTreeMap, BTreeSet};

use tree_sitter::Node;

use crate::kernel::syntax::{Syntax, descendants};
use crate::propose::names::declared_identifiers;

/// What some statements change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    /// Variables that they assign.
    assigned: BTreeSet<String>,
    /// How often they store to the memory of each parameter, as written.
    stores: BTreeMap<String, usize>,
    /// Barriers, atomic operations and other calls between threads.
    exchanges: usize,
    returns: usize,
    /// Names that they declare themselves.
    declared: BTreeSet<String>,
}

impl Interface {
    /// `parameters`: the parameters of the function.
    pub(super) fn of(syntax: &Syntax<'_>, statements: &[Node<'_>], parameters: &[&str]) -> Self {
        let mut interface = Self::default();
        let mut wide_stores = BTreeSet::new();
        for node in statements
            .iter()
            .flat_map(|statement| descendants(*statement))
        {
            match node.kind() {
                "declaration" | "for_range_loop" => {
                    let mut cursor = node.walk();
                    for name in node
                        .children_by_field_name("declarator", &mut cursor)
                        .flat_map(declared_identifiers)
                    {
                        interface.declared.insert(syntax.text(name).to_owned());
                    }
                }
                "assignment_expression" | "update_expression" => {
                    let target = node
                        .child_by_field_name("left")
                        .or_else(|| node.child_by_field_name("argument"));
                    if let Some(target) = target {
                        interface.add_target(syntax, target, parameters, &mut wide_stores);
                    }
                }
                "call_expression" => {
                    let called = node
                        .child_by_field_name("function")
                        .map_or("", |function| syntax.text(function));
                    if called == "__stcs" {
                        interface.add_target(syntax, node, parameters, &mut wide_stores);
                    }
                    let is_exchange = ["sync", "atomic", "shfl", "ballot"]
                        .iter()
                        .any(|part| called.contains(part));
                    interface.exchanges += usize::from(is_exchange);
                }
                "return_statement" => interface.returns += 1,
                _ => {}
            }
        }
        for root in wide_stores {
            *interface.stores.entry(root).or_default() += 1;
        }
        interface
    }

    fn add_target(
        &mut self,
        syntax: &Syntax<'_>,
        target: Node<'_>,
        parameters: &[&str],
        wide_stores: &mut BTreeSet<String>,
    ) {
        let names: Vec<_> = descendants(target)
            .filter(|node| node.kind() == "identifier")
            .map(|node| syntax.text(node))
            .collect();
        let mut names = names.into_iter();
        if target.kind() == "identifier" || target.kind() == "field_expression" {
            self.assigned.extend(names.next().map(str::to_owned));
        } else if let Some(root) = names.clone().find(|name| parameters.contains(name)) {
            if syntax.text(target).starts_with("reinterpret_cast") {
                // A vector may take several stores.
                wide_stores.insert(root.to_owned());
            } else {
                *self.stores.entry(root.to_owned()).or_default() += 1;
            }
        } else {
            self.assigned.extend(
                names
                    .find(|name| *name != "reinterpret_cast")
                    .map(str::to_owned),
            );
        }
    }

    /// The interface of both.
    pub(super) fn joined_with(mut self, other: &Self) -> Self {
        self.assigned.extend(other.assigned.iter().cloned());
        self.declared.extend(other.declared.iter().cloned());
        for (root, count) in &other.stores {
            *self.stores.entry(root.clone()).or_default() += count;
        }
        self.exchanges += other.exchanges;
        self.returns += other.returns;
        self
    }

    /// Whether statements with this interface may replace those with another.
    pub(super) fn can_replace(&self, other: &Self) -> bool {
        let assigned = |interface: &Self| -> BTreeSet<String> {
            interface
                .assigned
                .difference(&interface.declared)
                .cloned()
                .collect()
        };
        assigned(self) == assigned(other)
            && self.stores == other.stores
            && self.exchanges == other.exchanges
            && self.returns == other.returns
    }
}
