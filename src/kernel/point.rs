//! Tunable points: the point and the space of a kernel, its family, and kernels with another point.
//!
//! Another point is set by editing the header's text. Everything else in the file stays the same, byte for byte.

use std::ops::Range;

use indexmap::IndexMap;
use serde_yaml::Spanned;

use super::Kernel;
use super::header_lists::list_items;
use super::header_ranges::{replacement_value, value_range};
use super::header_yaml::read_header_yaml;
use super::tunables::read_tunable;
use super::yaml_values::ListYaml;
use crate::base::Digest;

impl Kernel {
    /// The tunable values where no variant applies: the first of every list.
    pub fn point(&self) -> IndexMap<String, i64> {
        self.header
            .tunables
            .iter()
            .filter_map(|(name, values)| Some((name.clone(), *values.first()?)))
            .collect()
    }

    /// The declared space: every tunable with its values in ascending order, so that it is the same for a whole family.
    pub fn space(&self) -> IndexMap<String, Vec<i64>> {
        let sorted = |values: &[i64]| {
            let mut values = values.to_vec();
            values.sort_unstable();
            values
        };
        self.header
            .tunables
            .iter()
            .map(|(name, values)| (name.clone(), sorted(values)))
            .collect()
    }

    /// The hash of the family: the same for all kernels that differ only in their point.
    pub fn family(&self) -> Digest {
        Digest::of(self.at_lowest_point())
    }

    /// The file of the family's member with the lowest values, or its own if no other point can be written into it.
    pub(super) fn at_lowest_point(&self) -> String {
        let lowest = self
            .space()
            .into_iter()
            .filter_map(|(name, values)| Some((name, *values.first()?)))
            .collect();
        with_point(self, &lowest).unwrap_or_else(|| self.text.clone())
    }
}

/// The kernel file with another point: each value is moved to the front of its tunable's list, and the others follow in ascending
/// order.
///
/// A list in another form becomes `[…]` on one line. `None` if a name is not a tunable, if a value is not in its list, or if a list
/// is shared by two tunables.
pub fn with_point(kernel: &Kernel, point: &IndexMap<String, i64>) -> Option<String> {
    let mut edits = Vec::new();
    let mut expected = kernel.header.tunables.clone();
    for (name, value) in point {
        let values = kernel.header.tunables.get(name)?;
        let range = list_range(kernel, name)?;
        let mut others: Vec<_> = values
            .iter()
            .copied()
            .filter(|other| other != value)
            .collect();
        if others.len() == values.len() {
            return None;
        }
        others.sort_unstable();
        let values: Vec<_> = std::iter::once(*value).chain(others).collect();
        let list: Vec<_> = values.iter().map(i64::to_string).collect();
        let list = list.join(", ");
        expected.insert(name.clone(), values);
        let mut value = replacement_value(&kernel.text, &range, &format!("[{list}]"));
        // All later lines keep their numbers.
        value.extend(kernel.text[range.clone()].matches('\n'));
        edits.push((range, value));
    }
    // From the last to the first, so that earlier ranges stay valid.
    edits.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
    let mut text = kernel.text.clone();
    for (range, list) in edits {
        text.replace_range(range, &list);
    }
    // A header may be written in a form that the edits do not expect.
    (listed_tunables(&text)? == expected).then_some(text)
}

/// The values of the tunables of a kernel file, as its header lists them.
fn listed_tunables(text: &str) -> Option<IndexMap<String, Vec<i64>>> {
    let (yaml, _) = read_header_yaml(text).ok()?;
    let tunables = yaml.tunables.into_iter().flatten();
    let values = |(name, list): (String, Spanned<ListYaml>)| {
        let items = list_items(&list, &name).ok()?;
        let (values, _) = read_tunable(&name, &items).ok()?;
        Some((name, values))
    };
    tunables.map(values).collect()
}

/// The byte range of a tunable's list in the file.
fn list_range(kernel: &Kernel, name: &str) -> Option<Range<usize>> {
    let location = kernel.header.tunable_locations.get(name)?;
    // A YAML alias has the location of its anchor: two tunables that share a list cannot have two values.
    let locations = kernel.header.tunable_locations.values();
    if locations.filter(|other| *other == location).count() > 1 {
        return None;
    }
    let (line, column) = *location;
    let line_start = match line {
        0 | 1 => 0,
        _ => kernel.text.match_indices('\n').nth(line as usize - 2)?.0 + 1,
    };
    let line_text = kernel.text[line_start..].lines().next()?;
    let in_line = line_text.char_indices().nth(column as usize - 1)?.0;
    value_range(&kernel.text, line_start + in_line)
}
