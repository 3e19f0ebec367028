//! Where in C++ one is, line by line: within a comment, within a literal, how many braces deep. Never fails.

/// The state behind the lines that were read.
#[derive(Clone, Debug, Default)]
pub(super) struct Lexer {
    within: Within,
    /// Braces that are open, outside comments and literals.
    pub(super) depth: i64,
    /// Whether `/*` stood within a comment in the last line: a sign that the comment was never closed.
    pub(super) nested_comment: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
enum Within {
    #[default]
    Code,
    Comment,
    /// A raw literal, and what ends it.
    Raw(String),
}

impl Lexer {
    /// Whether the next line begins within a comment or a raw literal.
    pub(super) fn is_within(&self) -> bool {
        self.within != Within::Code
    }

    /// Whether the next line begins within a comment.
    pub(super) fn is_comment(&self) -> bool {
        self.within == Within::Comment
    }

    pub(super) fn line(&mut self, line: &str) {
        self.nested_comment = false;
        let mut rest = line;
        while !rest.is_empty() {
            rest = match &self.within {
                Within::Code => self.code(rest),
                Within::Comment => match rest.find("*/") {
                    Some(end) => {
                        self.nested_comment |= rest[..end].contains("/*");
                        self.within = Within::Code;
                        &rest[end + 2..]
                    }
                    None => {
                        self.nested_comment |= rest.contains("/*");
                        ""
                    }
                },
                Within::Raw(close) => match rest.find(close.as_str()) {
                    Some(end) => {
                        let behind = end + close.len();
                        self.within = Within::Code;
                        &rest[behind..]
                    }
                    None => "",
                },
            };
        }
    }

    /// Reads on to the next comment or literal, and gives what is behind its beginning, or behind it where it ends at once.
    fn code<'t>(&mut self, text: &'t str) -> &'t str {
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            match (bytes[at], bytes.get(at + 1)) {
                (b'/', Some(b'/')) => return "",
                (b'/', Some(b'*')) => {
                    self.within = Within::Comment;
                    return &text[at + 2..];
                }
                (b'R', Some(b'"')) if at == 0 || !is_word(bytes[at - 1]) => {
                    let rest = &text[at + 2..];
                    if let Some(open) = rest.find('(').filter(|open| *open <= 16) {
                        self.within = Within::Raw(format!("){}\"", &rest[..open]));
                        return &rest[open + 1..];
                    }
                    at += 1;
                }
                // A digit's separator, as in 1'000, is no literal.
                (quote @ (b'"' | b'\''), _)
                    if quote == b'"' || at == 0 || !bytes[at - 1].is_ascii_digit() =>
                {
                    at = after_literal(bytes, at);
                }
                (b'{', _) => {
                    self.depth += 1;
                    at += 1;
                }
                (b'}', _) => {
                    self.depth -= 1;
                    at += 1;
                }
                _ => at += 1,
            }
        }
        ""
    }
}

/// Behind a literal that begins here, or the end of the line where it has none.
fn after_literal(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == bytes[start] => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(text: &str) -> Lexer {
        let mut lexer = Lexer::default();
        text.lines().for_each(|line| lexer.line(line));
        lexer
    }

    #[test]
    fn comments_and_literals_hide_what_they_hold() {
        assert!(behind("int x; /* begins").is_within());
        assert!(!behind("int x; /* begins\nand ends */ int y;").is_within());
        assert!(!behind("const char* s = \"/*\"; // /*").is_within());
        assert!(behind("auto s = R\"x(\n)\" \"").is_within());
        assert!(!behind("auto s = R\"x(\n)x\";").is_within());
        assert_eq!(behind("if (a) { /* } */ '{'; \"}\"").depth, 1);
        assert_eq!(behind("x = 1'000; { y = 'a'; }").depth, 0);
        assert_eq!(behind("\"unclosed {\n}").depth, -1);
    }
}
