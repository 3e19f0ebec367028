//! Words and names that the project no longer uses. Plain English and the field's own terms replace them; ARCHITECTURE.md has the
//! glossary.

/// Phrases of the old style, in lower case. A phrase matches whole words, over line ends too.
const PHRASES: [&str; 37] = [
    "anew",
    "among so many",
    "beyond doubt",
    "by all that",
    "came of it",
    "comes to its end",
    "for good",
    "for want of",
    "from any instant",
    "give way",
    "gives way",
    "how manieth",
    "in force",
    "in need",
    "is no address",
    "its like",
    "looked into",
    "mend",
    "mended",
    "mending",
    "mends",
    "right from wrong",
    "say more on standard error",
    "somebody",
    "stands here twice",
    "stays one",
    "strangers",
    "take up again",
    "taken up again",
    "takes up again",
    "that is known of",
    "that nobody does",
    "twice for everything",
    "what became of",
    "who asks",
    "whoever",
    "whom",
];

/// Identifiers that were renamed. A name matches as a whole identifier, in any text.
const OLD_NAMES: [&str; 17] = [
    "Askable",
    "Chronicle",
    "CpuArm",
    "CudaArm",
    "Doubted",
    "Fared",
    "Looker",
    "Spoilt",
    "back_after",
    "barren",
    "begin_anew",
    "give_way",
    "is_patient",
    "put_down",
    "stand_for",
    "standings",
    "take_up",
];

/// Types that were renamed and whose old names are ordinary words: only their definitions are looked for.
const OLD_TYPES: [&str; 12] = [
    "Arguments",
    "Arm",
    "Asking",
    "Author",
    "Held",
    "Kept",
    "Looks",
    "Own",
    "Place",
    "Quiet",
    "Sending",
    "Trouble",
];

/// Prefixes of constants that were renamed: `MAX_` and `MIN_` replace them.
const OLD_PREFIXES: [&str; 2] = ["MOST_", "LEAST_"];

/// Old names that a file may have: those of a renamed config key, where the new key is named too.
const EXCEPTIONS: [(&str, &str); 3] = [
    ("CHANGELOG.md", "back_after"),
    ("src/base/text.rs", "back_after"),
    ("src/config/overrides.rs", "back_after"),
];

/// Every use of an old name or phrase in a text, as `FILE:LINE: …`.
pub(crate) fn violations(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut definitions = line
            .split(' ')
            .skip_while(|word| !is_type_keyword(word))
            .skip(1);
        let defined = definitions.next().unwrap_or_default();
        let name = defined
            .split(|letter: char| !letter.is_alphanumeric())
            .next();
        if let Some(name) = name.filter(|name| path.ends_with(".rs") && OLD_TYPES.contains(name)) {
            found.push(format!(
                "{path}:{}: a type with the old name `{name}`",
                index + 1
            ));
        }
    }
    for (line, name) in names(text) {
        let is_old =
            OLD_NAMES.contains(&name) || OLD_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if is_old && !EXCEPTIONS.contains(&(path, name)) {
            found.push(format!("{path}:{line}: the old name `{name}`"));
        }
    }
    let words = words(text);
    for phrase in PHRASES {
        let phrase_words: Vec<&str> = phrase.split(' ').collect();
        for window in words.windows(phrase_words.len()) {
            if window
                .iter()
                .map(|(_, word)| word.as_str())
                .eq(phrase_words.iter().copied())
            {
                found.push(format!("{path}:{}: the phrase \"{phrase}\"", window[0].0));
            }
        }
    }
    found
}

fn is_type_keyword(word: &str) -> bool {
    ["struct", "enum", "trait", "type"].contains(&word)
}

/// The identifiers of a text, each with its line.
fn names(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().flat_map(|(index, line)| {
        let is_separator = |letter: char| !letter.is_alphanumeric() && letter != '_';
        let names = line.split(is_separator).filter(|name| !name.is_empty());
        names.map(move |name| (index + 1, name))
    })
}

/// The words of a text in lower case, each with its line. Comment marks and quotes between words are dropped; other punctuation
/// ends a phrase.
fn words(text: &str) -> Vec<(usize, String)> {
    let mut words = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line
            .trim_start()
            .trim_start_matches(['/', '!', '#', '*', ' ']);
        for part in line.split_whitespace() {
            // A JSON key is part of a file format and keeps its name.
            if part.starts_with(['"', '{']) && part.ends_with("\":") {
                words.push((index + 1, String::new()));
                continue;
            }
            let word = part.trim_start_matches(['"', '`', '(', '*', '_']);
            let end =
                word.trim_end_matches(['"', '`', ')', '*', '_', ',', '.', ';', ':', '?', '!']);
            words.push((index + 1, end.to_lowercase()));
            if end.len() < word.len() && word.ends_with(['.', ';', ':', '?', '!', ',']) {
                words.push((index + 1, String::new()));
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_and_names_are_found_as_whole_words() {
        let text = "/// It is closed for\n/// good, and `barren`.\nconst MOST_STEPS: u64 = 1;\n";
        assert_eq!(
            violations("a.rs", text),
            [
                "a.rs:2: the old name `barren`",
                "a.rs:3: the old name `MOST_STEPS`",
                "a.rs:1: the phrase \"for good\"",
            ]
        );
        let text = "pub struct Arm<'a> {}\nlet arm = Arm;\n";
        assert_eq!(
            violations("a.rs", text),
            ["a.rs:1: a type with the old name `Arm`"]
        );
        let text = "A recommendation for. Good ones: a barrenness, armless ALMOST_ALL.";
        assert_eq!(violations("a.md", text), [""; 0]);
        assert_eq!(violations("src/base/text.rs", "back_after"), [""; 0]);
    }
}
