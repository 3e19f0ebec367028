//! The tokens of a Rust source, as far as the house rules need them: identifiers, `::` and punctuation, each with its line.
//!
//! Comments, literals and everything under `#[cfg(test)]` are left out. Never fails: the compiler has already accepted the file.

/// One token. `text` is an identifier, `::`, or one character of punctuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub text: String,
    /// Counted from 1.
    pub line: usize,
}

impl Token {
    pub(crate) fn is(&self, text: &str) -> bool {
        self.text == text
    }

    pub(crate) fn is_name(&self) -> bool {
        self.text.starts_with(is_name_start)
    }
}

fn is_name_start(letter: char) -> bool {
    letter.is_alphabetic() || letter == '_'
}

fn is_name_part(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// The tokens of a source, tests included.
pub(crate) fn all_tokens(source: &str) -> Vec<Token> {
    let letters: Vec<char> = source.chars().collect();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < letters.len() {
        let end = token_end(&letters, at);
        let text: String = letters[at..end].iter().collect();
        let is_token = text.starts_with(|first: char| {
            !first.is_whitespace() && !first.is_ascii_digit() && !"\"'/".contains(first)
        }) || text == "/";
        let is_literal = text.len() > 1 && text.ends_with(['"', '#']) && !text.starts_with('#');
        if is_token && !is_literal {
            tokens.push(Token {
                text: text.trim_start_matches("r#").to_owned(),
                line,
            });
        }
        line += text.matches('\n').count();
        at = end;
    }
    tokens
}

/// The end of the token, comment, literal or white space that starts here.
fn token_end(letters: &[char], at: usize) -> usize {
    let next = |offset: usize| letters.get(at + offset).copied().unwrap_or('\0');
    match letters[at] {
        '/' if next(1) == '/' => find(letters, at, |rest| rest[0] == '\n').unwrap_or(letters.len()),
        '/' if next(1) == '*' => find(letters, at + 2, |rest| rest.starts_with(&['*', '/']))
            .map_or(letters.len(), |end| end + 2),
        '"' => end_of_string(letters, at),
        // The third letter of an escape may be a quote itself.
        '\'' if next(1) == '\\' => {
            find(letters, at + 3, |rest| rest[0] == '\'').map_or(letters.len(), |end| end + 1)
        }
        '\'' if next(2) == '\'' => {
            find(letters, at + 2, |rest| rest[0] == '\'').map_or(letters.len(), |end| end + 1)
        }
        // A lifetime: `'a` is no identifier of an item.
        '\'' => name_end(letters, at + 1),
        'r' | 'b' | 'c' if literal_prefix(letters, at).is_some() => {
            literal_prefix(letters, at).unwrap_or(at + 1)
        }
        ':' if next(1) == ':' => at + 2,
        letter if is_name_part(letter) => name_end(letters, at),
        _ => at + 1,
    }
}

/// The end of a literal with a prefix: `r"…"`, `r#"…"#`, `b"…"`, `b'…'`; `None` for anything else, such as `r#type`.
fn literal_prefix(letters: &[char], at: usize) -> Option<usize> {
    let mut quote = at;
    while matches!(letters.get(quote), Some('r' | 'b' | 'c')) && quote < at + 2 {
        quote += 1;
    }
    let is_raw = letters[at..quote].contains(&'r');
    let hashes = letters[quote..]
        .iter()
        .take_while(|letter| **letter == '#')
        .count();
    match letters.get(quote + hashes)? {
        '"' if is_raw => {
            let mut close = vec!['"'];
            close.resize(hashes + 1, '#');
            let body = quote + hashes + 1;
            Some(
                find(letters, body, |rest| rest.starts_with(&close))
                    .map_or(letters.len(), |end| end + close.len()),
            )
        }
        '"' if hashes == 0 => Some(end_of_string(letters, quote)),
        '\'' if hashes == 0 && letters[at] == 'b' => {
            find(letters, quote + 2, |rest| rest[0] == '\'').map(|end| end + 1)
        }
        _ => None,
    }
}

fn end_of_string(letters: &[char], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < letters.len() && letters[at] != '"' {
        at += if letters[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(letters.len())
}

fn name_end(letters: &[char], at: usize) -> usize {
    let length = letters[at..]
        .iter()
        .take_while(|letter| is_name_part(**letter))
        .count();
    at + length.max(1)
}

fn find(letters: &[char], from: usize, matches: impl Fn(&[char]) -> bool) -> Option<usize> {
    (from..letters.len()).find(|at| matches(&letters[*at..]))
}

/// The tokens without the items that are compiled for tests only.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let all = all_tokens(source);
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < all.len() {
        if starts_with(&all[at..], &["#", "[", "cfg", "(", "test", ")", "]"]) {
            at = item_end(&all, at + 7);
        } else {
            kept.push(all[at].clone());
            at += 1;
        }
    }
    kept
}

pub(crate) fn starts_with(tokens: &[Token], texts: &[&str]) -> bool {
    tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(token, text)| token.is(text))
}

/// Behind the item that starts here: its `;`, or its closing brace.
fn item_end(tokens: &[Token], start: usize) -> usize {
    let mut depth = 0;
    for (offset, token) in tokens[start..].iter().enumerate() {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 && matches!(token.text.as_str(), ";" | "}") {
            return start + offset + 1;
        }
    }
    tokens.len()
}

/// The index of the bracket that closes the one at `open`.
pub(crate) fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    tokens.len().saturating_sub(1)
}
