//! JSON as models write it: with comments, trailing commas, other quotes, bare words, line breaks in strings.
//!
//! Strict JSON is read as such; only what is not is read leniently. An object ends where it ends: what follows is not looked at.

use serde_json::{Map, Value};

/// The longest object that is read.
const MAX_BYTES: usize = 128 * 1024;
/// How far from its brace a first key may end: every brace of a reply is asked, so this bounds what each costs.
const MAX_BYTES_BEFORE_KEY: usize = 400;
/// How deep values may nest.
const MAX_DEPTH: usize = 32;

/// Whether an object with a first key may begin here: cheap, so that it can be asked at every brace of a kernel.
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

/// The object that begins the text, and its length; else what is wrong, and on which line counted from 0.
pub(super) fn parse_object(text: &str) -> Result<(Value, usize), (usize, String)> {
    let mut strict = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    if let Some(Ok(value @ Value::Object(_))) = strict.next() {
        return Ok((value, strict.byte_offset()));
    }
    let mut reader = LenientReader::new(text);
    match reader.value(0) {
        Ok(value) => Ok((value, reader.at)),
        Err(fault) => {
            let line = text[..reader.at].matches('\n').count();
            Err((line, fault))
        }
    }
}

struct LenientReader<'t> {
    text: &'t str,
    at: usize,
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// What closes a string that is opened by this.
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
    fn new(text: &'t str) -> Self {
        Self::with_limit(text, MAX_BYTES)
    }

    fn with_limit(text: &'t str, most: usize) -> Self {
        let mut end = text.len().min(most);
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

    fn take(&mut self, wanted: char) -> bool {
        let is_there = self.peek() == Some(wanted);
        if is_there {
            self.at += wanted.len_utf8();
        }
        is_there
    }

    /// Passes white space and comments.
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
        if depth > MAX_DEPTH {
            return Err("it nests too deeply".to_owned());
        }
        match self.peek() {
            Some('{') => self.object(depth),
            Some('[') => self.array(depth),
            Some(quote) if closing_quotes(quote).is_some() => self.string().map(Value::String),
            Some(_) => Ok(self.bare_value()),
            None => Err("it ends before its end".to_owned()),
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
                None => return Err("it ends before its end".to_owned()),
            };
            self.skip_space_and_comments()?;
            if !self.take(':') {
                return Err(format!(
                    "expected `:` behind the key `{}`",
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

    /// A comma, the end, or a line break, behind which the comma may be missing.
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
            None => Err("it ends before its end".to_owned()),
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
                '\\' => match letters.next() {
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
                    None => break,
                },
                letter if closes.contains(&letter) => {
                    let behind = letters.as_str();
                    if ends_string(behind) {
                        self.at += offset + letter.len_utf8();
                        return Ok(text);
                    }
                    text.push(letter);
                }
                '\n' => {
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

    /// A number, a word of JSON or of Python, or any other text up to the end of the value.
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

/// Whether a quote before this text ends its string: what follows is what may follow a key or a value.
fn ends_string(behind: &str) -> bool {
    let rest = behind.trim_start_matches([' ', '\t']);
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
        assert_eq!(parse_object("{\"a\": 1,\n \"b\": ").unwrap_err().0, 1);
        assert!(parse_object("{\"a\": \"never\n```\n").is_err());
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
