//! Small helps for messages: the nearest valid name, lists for people.

/// The candidate nearest to what was typed, if it is near enough to be what was meant.
pub(crate) fn nearest_name<'a>(
    typed: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| {
            (
                edit_distance(&typed.to_lowercase(), &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| {
            *distance
                <= candidate
                    .chars()
                    .count()
                    .max(typed.chars().count())
                    .div_ceil(2)
                    .min(4)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `` `a`, `b` and `c` ``; `nothing` where there is none.
pub(crate) fn quote_list(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let quoted: Vec<_> = names
        .into_iter()
        .map(|name| format!("`{}`", name.as_ref()))
        .collect();
    match quoted.split_last() {
        None => "nothing".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// A hint that names what was probably meant, and otherwise all there is.
pub(crate) fn did_you_mean<'a>(
    typed: &str,
    candidates: impl IntoIterator<Item = &'a str> + Clone,
) -> String {
    match nearest_name(typed, candidates.clone()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => match candidates.clone().into_iter().count() {
            1 => format!("there is only {}", quote_list(candidates)),
            _ => format!("there are {}", quote_list(candidates)),
        },
    }
}

/// Levenshtein's distance with transpositions of neighbours counted as one, over at most the first 64 letters.
fn edit_distance(left: &str, right: &str) -> usize {
    let left: Vec<_> = left.chars().take(64).collect();
    let right: Vec<_> = right.chars().take(64).collect();
    let mut rows = vec![vec![0; right.len() + 1]; left.len() + 1];
    for (row, cells) in rows.iter_mut().enumerate() {
        cells[0] = row;
    }
    for (column, cell) in rows[0].iter_mut().enumerate() {
        *cell = column;
    }
    for row in 1..=left.len() {
        for column in 1..=right.len() {
            let substitution = usize::from(left[row - 1] != right[column - 1]);
            let mut best = (rows[row - 1][column] + 1)
                .min(rows[row][column - 1] + 1)
                .min(rows[row - 1][column - 1] + substitution);
            if row > 1
                && column > 1
                && left[row - 1] == right[column - 2]
                && left[row - 2] == right[column - 1]
            {
                best = best.min(rows[row - 2][column - 2] + 1);
            }
            rows[row][column] = best;
        }
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_corrects_a_typo() {
        let keys = ["steps", "seed", "search", "exploration"];
        assert_eq!(nearest_name("stpes", keys), Some("steps"));
        assert_eq!(nearest_name("explortion", keys), Some("exploration"));
        assert_eq!(nearest_name("zzzzzzzzz", keys), None);
        assert_eq!(did_you_mean("sed", keys), "did you mean `seed`?");
        assert_eq!(quote_list(["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
