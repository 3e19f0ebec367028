//! Text for messages: suggestions for mistyped names, lists of names, white space, quoting for a shell, estimates of tokens.
//!
//! Pure functions. Never prints.

use std::path::Path;

/// Renamed config keys: the old name and the new name.
const RENAMED_KEYS: [(&str, &str); 2] = [("back_after", "restart_after"), ("edits", "max_edits")];

/// Number of letters that are compared. The rest of a longer name is ignored, to bound the cost.
const MAX_COMPARED: usize = 64;

/// The valid name that is nearest to the typed one, ignoring case. `None` if none is near enough to be a typo.
///
/// Near enough: an optimal string alignment distance (insertions, deletions, substitutions and swaps of neighbours) of at most 4,
/// and at most half the length of the longer name, rounded up.
pub(crate) fn nearest_name<'a>(
    typed: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let comparable =
        |name: &str| -> String { name.to_lowercase().chars().take(MAX_COMPARED).collect() };
    let typed_letters = typed.chars().count();
    let distances = names.into_iter().map(|name| {
        let distance = strsim::osa_distance(&comparable(typed), &comparable(name));
        (distance, name)
    });
    distances
        .filter(|(distance, name)| {
            let longer = name.chars().count().max(typed_letters);
            *distance <= longer.div_ceil(2).min(4)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// `` `a`, `b` and `c` ``; `nothing` for an empty list.
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

/// A hint for an unknown name: its new name if it was renamed, else the nearest valid name, else all valid names, each once.
pub(crate) fn did_you_mean<'a>(
    typed: &str,
    names: impl IntoIterator<Item = &'a str> + Clone,
) -> String {
    let renamed = RENAMED_KEYS.iter().find(|(old, _)| *old == typed);
    if let Some((_, new)) = renamed
        && names.clone().into_iter().any(|name| name == *new)
    {
        return format!("it was renamed to `{new}`");
    }
    if let Some(name) = nearest_name(typed, names.clone()) {
        return format!("did you mean `{name}`?");
    }
    let mut unique: Vec<&str> = Vec::new();
    for name in names {
        if !unique.contains(&name) {
            unique.push(name);
        }
    }
    match unique.len() {
        1 => format!("there is only {}", quote_list(unique)),
        _ => format!("there are {}", quote_list(unique)),
    }
}

/// The text on one line: every stretch of white space becomes one space, and none is left at the ends.
pub(crate) fn collapse_white_space(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A path that can be pasted into a shell.
pub(crate) fn shell_quote(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+=:,@%".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Tokens estimated from bytes: bytes / 3.5, rounded up. Device code has fewer bytes per token than prose.
pub(crate) fn estimate_tokens(bytes: u64) -> u64 {
    let tokens = (u128::from(bytes) * 2).div_ceil(7);
    u64::try_from(tokens).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_corrects_a_typo() {
        let keys = ["steps", "seed", "search", "exploration"];
        assert_eq!(nearest_name("stpes", keys), Some("steps"));
        assert_eq!(nearest_name("explortion", keys), Some("exploration"));
        assert_eq!(nearest_name("STEPS", keys), Some("steps"));
        assert_eq!(nearest_name("zzzzzzzzz", keys), None);
    }

    #[test]
    fn a_hint_suggests_a_name_or_lists_each_name_once() {
        let keys = ["steps", "seed", "seed"];
        assert_eq!(did_you_mean("sed", keys), "did you mean `seed`?");
        assert_eq!(
            did_you_mean("zzzzzzzzz", keys),
            "there are `steps` and `seed`"
        );
        assert_eq!(
            did_you_mean("zzzzzzzzz", ["seed"; 2]),
            "there is only `seed`"
        );
    }

    #[test]
    fn a_hint_names_the_new_name_of_a_renamed_key() {
        let keys = ["repairs", "restart_after"];
        assert_eq!(
            did_you_mean("back_after", keys),
            "it was renamed to `restart_after`"
        );
        // Another section never had the key.
        assert_eq!(did_you_mean("edits", ["seed"]), "there is only `seed`");
    }

    #[test]
    fn lists_and_white_space_are_written_for_one_line() {
        assert_eq!(quote_list(["a", "b", "c"]), "`a`, `b` and `c`");
        assert_eq!(quote_list([""; 0]), "nothing");
        assert_eq!(collapse_white_space("  a\t b\n\nc "), "a b c");
    }

    #[test]
    fn shell_quote_protects_spaces_and_quotes() {
        assert_eq!(shell_quote(Path::new("outputs/a-1")), "outputs/a-1");
        assert_eq!(shell_quote(Path::new("my runs/it's")), r"'my runs/it'\''s'");
    }
}
