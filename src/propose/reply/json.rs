//! Parses JSON as models write it: with comments, trailing commas, other quotes, bare words, line breaks in strings.
//!
//! Valid JSON is parsed strictly; only what fails is parsed leniently. Stops at the end of the object and ignores what follows.

use serde_json::{Map, Value};

/// The longest object that is parsed leniently.
pub(super) const MAX_LENIENT_BYTES: usize = 128 * 1024;
/// The first key must start within this distance of its brace. Every brace of a reply is tried, so this bounds the cost of each.
const MAX_BYTES_BEFORE_KEY: usize = 400;
/// The deepest nesting of values.
const MAX_JSON_DEPTH: usize = 32;

/// Where parsing failed, and why.
#[derive(Debug)]
pub(super) struct JsonError {
    /// The line, counted from 0 at the start of the object.
    pub(super) line: usize,
    pub(super) reason: String,
}

/// Whether the text may start with an object that has a key. Cheap enough for every brace of a kernel.
pub(super) fn may_start_object(text: &str) -> bool {
    let mut reader = LenientReader::with_limit(text, MAX_BYTES_BEFORE_KEY);
    reader.take('{')
        && reader.skip_space_and_comments().is_ok()
        && match reader.peek() {
            Some(quote) if closing_quotes(quote).is_some() => true,
            Some(letter) if is_word(letter) => {
                reader.word();
                reader.skip_space_and_comments().is_ok()
                    && reader.peek() == Some(':')
                    && !reader.rest().starts_with("::")
            }
            _ => false,
        }
}

/// The object that starts the text, and its length in bytes.
pub(super) fn parse_object(text: &str) -> Result<(Value, usize), JsonError> {
    let mut strict = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    if let Some(Ok(value @ Value::Object(_))) = strict.next() {
        return Ok((value, strict.byte_offset()));
    }
    let mut reader = LenientReader::with_limit(text, MAX_LENIENT_BYTES);
    match reader.value(0) {
        Ok(value) => Ok((value, reader.at)),
        Err(reason) => Err(JsonError {
            line: text[..reader.at].matches('\n').count(),
            reason,
        }),
    }
}

/// All texts within a value, in order.
pub(super) fn texts_of(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(values) => values.iter().flat_map(texts_of).collect(),
        Value::Object(fields) => fields.values().flat_map(texts_of).collect(),
        _ => Vec::new(),
    }
}

const UNEXPECTED_END: &str = "the text ends inside the object";

struct LenientReader<'t> {
    text: &'t str,
    at: usize,
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// The quotes that close a string opened by `open`; `None` if `open` is not a quote.
fn closing_quotes(open: char) -> Option<&'static [char]> {
    match open {
        '"' => Some(&['"']),
        '\'' => Some(&['\'']),
        '“' | '”' | '„' => Some(&['“', '”']),
        '‘' | '’' => Some(&['’', '‘']),
        _ => None,
    }
}

impl<'t> LenientReader<'t> {
    /// A reader of the first `max` bytes.
    fn with_limit(text: &'t str, max: usize) -> Self {
        let mut end = text.len().min(max);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self {
            text: &text[..end],
            at: 0,
        }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Skips `wanted` if it is next.
    fn take(&mut self, wanted: char) -> bool {
        let is_there = self.peek() == Some(wanted);
        if is_there {
            self.at += wanted.len_utf8();
        }
        is_there
    }

    fn skip_space_and_comments(&mut self) -> Result<(), String> {
        loop {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start().len();
            let rest = self.rest();
            if rest.starts_with("//") || rest.starts_with('#') {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                let end = rest.find("*/").ok_or("a comment has no end")?;
                self.at += end + 2;
            } else {
                return Ok(());
            }
        }
    }

    fn word(&mut self) -> &'t str {
        let rest = self.rest();
        let length = rest
            .find(|letter| !is_word(letter) && letter != '-')
            .unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        self.skip_space_and_comments()?;
        if depth > MAX_JSON_DEPTH {
            return Err(format!("values nest deeper than {MAX_JSON_DEPTH}"));
        }
        match self.peek() {
            Some('{') => self.object(depth),
            Some('[') => self.array(depth),
            Some(quote) if closing_quotes(quote).is_some() => self.string().map(Value::String),
            Some(_) => Ok(self.bare_value()),
            None => Err(UNEXPECTED_END.to_owned()),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, String> {
        self.take('{');
        let mut members = Map::new();
        loop {
            self.skip_space_and_comments()?;
            if self.take('}') {
                return Ok(Value::Object(members));
            }
            let key = match self.peek() {
                Some(quote) if closing_quotes(quote).is_some() => self.string()?,
                Some(letter) if is_word(letter) => self.word().to_owned(),
                Some(other) => return Err(format!("expected a key, found `{other}`")),
                None => return Err(UNEXPECTED_END.to_owned()),
            };
            self.skip_space_and_comments()?;
            if !self.take(':') {
                return Err(format!(
                    "expected `:` after the key `{}`",
                    shorten_key(&key)
                ));
            }
            let value = self.value(depth + 1)?;
            members.insert(key, value);
            self.separator('}')?;
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, String> {
        self.take('[');
        let mut values = Vec::new();
        loop {
            self.skip_space_and_comments()?;
            if self.take(']') {
                return Ok(Value::Array(values));
            }
            let before = self.at;
            values.push(self.value(depth + 1)?);
            self.separator(']')?;
            if self.at == before {
                return Err("expected a value".to_owned());
            }
        }
    }

    /// Skips a comma. It may be missing before `close` and at the end of a line.
    fn separator(&mut self, close: char) -> Result<(), String> {
        let before = self.at;
        self.skip_space_and_comments()?;
        if self.take(',') || self.peek() == Some(close) {
            return Ok(());
        }
        if self.at < self.text.len() && self.text[before..self.at].contains('\n') {
            return Ok(());
        }
        match self.peek() {
            Some(other) => Err(format!("expected `,` or `{close}`, found `{other}`")),
            None => Err(UNEXPECTED_END.to_owned()),
        }
    }

    fn string(&mut self) -> Result<String, String> {
        let open = self.peek().unwrap_or('"');
        let closes = closing_quotes(open).unwrap_or(&['"']);
        self.at += open.len_utf8();
        let mut text = String::new();
        let mut letters = self.rest().char_indices();
        while let Some((offset, letter)) = letters.next() {
            match letter {
                '\\' => {
                    if !read_escape(&mut letters, &mut text) {
                        break;
                    }
                }
                letter if closes.contains(&letter) => {
                    if ends_string(letters.as_str()) {
                        self.at += offset + letter.len_utf8();
                        return Ok(text);
                    }
                    text.push(letter);
                }
                '\n' => {
                    // A fence or a comment on the next line shows that the string was never closed.
                    let line = letters.as_str().trim_start_matches([' ', '\t']);
                    if ["```", "~~~", "/*"]
                        .iter()
                        .any(|mark| line.starts_with(mark))
                    {
                        break;
                    }
                    text.push('\n');
                }
                other => text.push(other),
            }
        }
        Err("a string has no end".to_owned())
    }

    /// A number, a word of JSON or Python, or any other text up to the end of the value.
    fn bare_value(&mut self) -> Value {
        let rest = self.rest();
        let length = rest.find([',', '\n', '}', ']']).unwrap_or(rest.len());
        let line = &rest[..length];
        let length = line.find("//").unwrap_or(length);
        self.at += length;
        let word = rest[..length].trim();
        match word {
            "true" | "True" => Value::Bool(true),
            "false" | "False" => Value::Bool(false),
            "null" | "None" | "undefined" | "" => Value::Null,
            _ => word
                .trim_start_matches('+')
                .parse::<f64>()
                .ok()
                .and_then(serde_json::Number::from_f64)
                .map_or_else(|| Value::String(word.to_owned()), Value::Number),
        }
    }
}

/// Adds the character of an escape sequence, after its backslash. An unknown sequence is kept as it is. False at the end of the
/// text.
fn read_escape(letters: &mut std::str::CharIndices<'_>, text: &mut String) -> bool {
    match letters.next() {
        Some((_, 'n')) => text.push('\n'),
        Some((_, 't')) => text.push('\t'),
        Some((_, 'r')) => text.push('\r'),
        Some((_, 'u')) => {
            let code = letters.as_str().get(..4);
            let code = code.and_then(|code| u32::from_str_radix(code, 16).ok());
            match code.and_then(char::from_u32) {
                Some(letter) => {
                    text.push(letter);
                    letters.nth(3);
                }
                None => text.push_str("\\u"),
            }
        }
        Some((_, quoted @ ('"' | '\\' | '/' | '\''))) => text.push(quoted),
        Some((_, other)) => text.extend(['\\', other]),
        None => return false,
    }
    true
}

/// Whether a quote ends its string: what follows is what may follow a key or a value.
fn ends_string(after: &str) -> bool {
    let rest = after.trim_start_matches([' ', '\t']);
    let next = rest.trim_start().chars().next();
    matches!(next, None | Some(',' | ':' | '}' | ']' | '/' | '#')) || rest.starts_with('\n')
}

fn shorten_key(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn strict_and_lenient_json_are_read() {
        let (value, length) = parse_object("{\"a\": [1, \"x\"]} and more").unwrap();
        assert_eq!((value, length), (json!({"a": [1, "x"]}), 15));
        let text = "{ // why\n 'a': 1, b: -20%, \"c\": \"say \"no\" twice\", /* so */ \"d\": [1, 2,],\n \"e\": True\n \"f\": \"two\nlines\",}";
        let (value, _) = parse_object(text).unwrap();
        assert_eq!(
            value,
            json!({"a": 1.0, "b": "-20%", "c": "say \"no\" twice", "d": [1.0, 2.0], "e": true, "f": "two\nlines"})
        );
        assert_eq!(parse_object("{“a”: “b”}").unwrap().0, json!({"a": "b"}));
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(parse_object("{\"a\": 1,\n \"b\": ").unwrap_err().line, 1);
        assert!(parse_object("{\"a\": \"never\n```\n").is_err());
    }

    #[test]
    fn deep_nesting_is_an_error() {
        assert!(parse_object(&"{\"a\":".repeat(100_000)).is_err());
        assert!(parse_object(&"{a:[".repeat(100_000)).is_err());
    }

    #[test]
    fn code_braces_do_not_start_objects() {
        assert!(!may_start_object("{\n    int x = 1;"));
        assert!(!may_start_object("{ std::min(a, b); }"));
        assert!(!may_start_object("{}"));
        assert!(may_start_object("{ \"a\""));
        assert!(may_start_object("{bottleneck: 1}"));
    }
}
