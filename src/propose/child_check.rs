//! Applies edits to a parent and checks the child, for all of kforge's own operators.
//!
//! A child must parse, fit its task, and keep its names: every declaration outside the edits is still there, every name outside them means
//! what it meant, and every name inside them is declared. A child that fails is dropped before it is compiled. Knows nothing about types
//! and values: each transformation checks those itself.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use indexmap::IndexMap;

use super::identity::syntax_identity;
use super::names::{NameDeclaration, NameUse, SourceNames};
use super::source_edits::SourceEdits;
use crate::base::Digest;
use crate::kernel::Kernel;
use crate::kernel::syntax::Syntax;
use crate::task::Task;

/// Names that edits of kforge's own may bring in, and that CUDA declares without a header.
const BUILT_IN_NAMES: [&str; 30] = [
    "reinterpret_cast",
    "threadIdx",
    "blockIdx",
    "blockDim",
    "gridDim",
    "float2",
    "float4",
    "uint2",
    "uint4",
    "fmaf",
    "rsqrtf",
    "__ldg",
    "__ldcs",
    "__stcs",
    "__fdividef",
    "__syncthreads",
    "__shfl_xor_sync",
    "__expf",
    "__exp10f",
    "__logf",
    "__log2f",
    "__log10f",
    "__powf",
    "__sinf",
    "__cosf",
    "__tanf",
    "fmaxf",
    "fminf",
    "max",
    "min",
];

/// A parent and its names.
pub(super) struct ParentNames<'s> {
    source: &'s str,
    names: SourceNames<'s>,
    /// Names that the parent uses and does not declare.
    undeclared: HashSet<&'s str>,
    /// Lines such as `#include <cuda_fp16.h>` and `using namespace …`, on which undeclared names may depend.
    imports: HashSet<&'s str>,
}

/// A child that passed all checks.
#[derive(Debug)]
pub(super) struct CheckedChild {
    pub source: String,
    pub identity: Digest,
}

/// Where each byte outside the edits is in the child.
struct PositionMap {
    /// The bytes of the parent that an edit replaces, and those that replace them in the child. In order.
    replaced: Vec<(Range<usize>, Range<usize>)>,
}

impl<'s> ParentNames<'s> {
    pub(super) fn of(syntax: &Syntax<'s>, task: &Task) -> Self {
        let names = SourceNames::of(syntax);
        let kernel = Kernel::parse(syntax.source(), &task.definition);
        // A tunable is declared in the header.
        let is_tunable = |name: &str| {
            (kernel.as_ref()).is_ok_and(|kernel| kernel.header.tunables.contains_key(name))
        };
        let undeclared = names
            .uses
            .iter()
            .filter(|used| used.declaration.is_none() && !is_tunable(used.name))
            .map(|used| used.name)
            .collect();
        let imports = syntax
            .source()
            .lines()
            .map(str::trim)
            .filter(|line| {
                ["#include", "using ", "namespace "]
                    .iter()
                    .any(|head| line.starts_with(head))
            })
            .collect();
        Self {
            source: syntax.source(),
            names,
            undeclared,
            imports,
        }
    }

    /// The child that the edits make; `None` if a check fails. `other`: the parent from which the edits take their text.
    pub(super) fn child(
        &self,
        edits: &SourceEdits,
        other: Option<&ParentNames<'_>>,
        task: &Task,
    ) -> Option<CheckedChild> {
        let source = edits.apply(self.source)?;
        let syntax = Syntax::parse(&source);
        if !syntax.is_sound() {
            return None;
        }
        let kernel = Kernel::parse(&source, &task.definition).ok()?;
        let child = SourceNames::of(&syntax);
        let check = Check {
            parent: self,
            other,
            child: &child,
            map: PositionMap::of(edits),
            tunables: &kernel.header.tunables,
            task,
        };
        if !check.passes() {
            return None;
        }
        let identity = syntax_identity(&syntax);
        Some(CheckedChild { source, identity })
    }
}

/// The comparison of a child with its parents.
struct Check<'c, 'p, 's> {
    parent: &'c ParentNames<'p>,
    other: Option<&'c ParentNames<'c>>,
    child: &'c SourceNames<'s>,
    map: PositionMap,
    tunables: &'c IndexMap<String, Vec<i64>>,
    task: &'c Task,
}

impl<'p> Check<'_, 'p, '_> {
    fn passes(&self) -> bool {
        let declared: HashMap<usize, &NameDeclaration<'_>> = (self.child.declarations.iter())
            .map(|declaration| (declaration.at, declaration))
            .collect();
        let used: HashMap<usize, &NameUse<'_>> =
            self.child.uses.iter().map(|used| (used.at, used)).collect();
        let keeps_declarations = self.parent.names.declarations.iter().all(|old| {
            (self.map.in_child(old.at))
                .is_none_or(|at| declared.get(&at).is_some_and(|new| new.name == old.name))
        });
        keeps_declarations
            && self
                .parent
                .names
                .uses
                .iter()
                .all(|old| match self.map.in_child(old.at) {
                    None => true,
                    Some(at) => used
                        .get(&at)
                        .is_some_and(|new| self.means_the_same(old, new)),
                })
            && self
                .child
                .uses
                .iter()
                .all(|new| !self.map.is_new(new.at) || self.is_usable(new))
            && (self.child.declarations.iter())
                .all(|new| !self.map.is_new(new.at) || self.is_declarable(new))
    }

    /// Whether a use outside the edits refers to the same declaration as before, or to a new one of the same kind.
    fn means_the_same(&self, old: &NameUse<'p>, new: &NameUse<'_>) -> bool {
        let (Some(old_index), Some(new_index)) = (old.declaration, new.declaration) else {
            return old.name == new.name && old.declaration.is_none() && new.declaration.is_none();
        };
        let before = &self.parent.names.declarations[old_index];
        let after = &self.child.declarations[new_index];
        match self.map.in_child(before.at) {
            Some(at) => after.at == at,
            None => {
                self.map.is_new(after.at)
                    && self.child.signature(after) == self.parent.names.signature(before)
            }
        }
    }

    /// Whether a name inside an edit is declared, and as the kind of thing that the edit's author meant.
    fn is_usable(&self, new: &NameUse<'_>) -> bool {
        let Some(index) = new.declaration else {
            return self.is_known(new.name);
        };
        let declaration = &self.child.declarations[index];
        let is_new = self.map.is_new(declaration.at);
        if is_new && self.child.needs_capture(new, declaration) {
            return false;
        }
        let Some(other) = self.other.filter(|_| !is_new) else {
            return true;
        };
        let signature = self.child.signature(declaration);
        let mut meant = other.names.declarations_of(new.name);
        meant.any(|meant| other.names.signature(meant) == signature)
    }

    /// Whether a name without a declaration in the child comes from CUDA, the task or the header.
    fn is_known(&self, name: &str) -> bool {
        let is_constant = || {
            let mut axes = self.task.definition.axes.keys();
            axes.any(|axis| axis.to_uppercase() == name)
        };
        let is_imported = || {
            self.other.is_some_and(|other| {
                other.undeclared.contains(name)
                    && other.imports.is_subset(&self.parent.imports)
                    && self.parent.names.declarations_of(name).next().is_none()
            })
        };
        self.parent.undeclared.contains(name)
            || self.tunables.contains_key(name)
            || BUILT_IN_NAMES.contains(&name)
            || is_constant()
            || is_imported()
    }

    /// Whether a name may be declared where an edit declares it.
    fn is_declarable(&self, new: &NameDeclaration<'_>) -> bool {
        !self.child.is_declared_twice(new)
            && !self.child.may_be_jumped_over(new)
            && !self.tunables.contains_key(new.name)
    }
}

impl PositionMap {
    fn of(edits: &SourceEdits) -> Self {
        let mut replaced = Vec::new();
        let (mut parent_at, mut child_at) = (0, 0);
        for (range, text) in edits.sorted() {
            child_at += range.start - parent_at;
            replaced.push((range.clone(), child_at..child_at + text.len()));
            child_at += text.len();
            parent_at = range.end;
        }
        Self { replaced }
    }

    /// The place of a byte in the child; `None` if an edit replaces it.
    fn in_child(&self, at: usize) -> Option<usize> {
        let before = self.replaced.partition_point(|(old, _)| old.start <= at);
        let Some((old, new)) = before.checked_sub(1).map(|last| &self.replaced[last]) else {
            return Some(at);
        };
        (old.end <= at).then(|| new.end + (at - old.end))
    }

    /// Whether a byte of the child belongs to the text of an edit.
    fn is_new(&self, at: usize) -> bool {
        let before = self.replaced.partition_point(|(_, new)| new.start <= at);
        // Empty texts may share their place with the text before them.
        self.replaced[..before]
            .iter()
            .rev()
            .find(|(_, new)| !new.is_empty())
            .is_some_and(|(_, new)| new.contains(&at))
    }
}
