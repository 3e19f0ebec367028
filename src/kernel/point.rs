//! Putting tunable values in force by editing the header's text, everything else byte for byte as it was.

use std::ops::Range;

use indexmap::IndexMap;

use super::Kernel;

/// The kernel file with these values in force: each first in its tunable's list, the others behind it in ascending order.
/// `None` where a name is no tunable, a value is not in its list, or a list is not its own and written as `[…]` on one line.
pub fn with_point(kernel: &Kernel, point: &IndexMap<String, i64>) -> Option<String> {
    let mut edits = Vec::new();
    for (name, value) in point {
        let values = kernel.header.tunables.get(name)?;
        let place = list_range(kernel, name)?;
        let mut others: Vec<_> = values
            .iter()
            .copied()
            .filter(|other| other != value)
            .collect();
        if others.len() == values.len() {
            return None;
        }
        others.sort_unstable();
        let list = std::iter::once(*value)
            .chain(others)
            .map(|value| value.to_string())
            .collect::<Vec<_>>()
            .join(", ");
        edits.push((place, format!("[{list}]")));
    }
    // From the back, so that earlier places stay true.
    edits.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
    let mut text = kernel.text.clone();
    for (place, list) in edits {
        text.replace_range(place, &list);
    }
    Some(text)
}

/// Where a tunable's list stands in the file, brackets included.
fn list_range(kernel: &Kernel, name: &str) -> Option<Range<usize>> {
    let place = kernel.header.tunable_locations.get(name)?;
    // An alias stands where its anchor does: two tunables with one list cannot have two values.
    let places = kernel.header.tunable_locations.values();
    if places.filter(|other| *other == place).count() > 1 {
        return None;
    }
    let (line, column) = *place;
    let line_start = match line {
        0 | 1 => 0,
        _ => kernel.text.match_indices('\n').nth(line as usize - 2)?.0 + 1,
    };
    let line_text = kernel.text[line_start..].lines().next()?;
    let in_line = line_text.char_indices().nth(column as usize - 1)?.0;
    let length = line_text[in_line..]
        .starts_with('[')
        .then(|| line_text[in_line..].find(']'))??;
    Some(line_start + in_line..line_start + in_line + length + 1)
}
