//! Names and numbers in exported code.

use crate::base::expression::Language;

/// Words that are no names in C++ or Python, and names that the exported code uses itself.
const RESERVED: &[&str] = &[
    "and",
    "as",
    "asm",
    "assert",
    "async",
    "auto",
    "await",
    "bool",
    "box",
    "break",
    "case",
    "catch",
    "char",
    "class",
    "const",
    "constexpr",
    "continue",
    "crate",
    "def",
    "default",
    "del",
    "delete",
    "do",
    "double",
    "dyn",
    "elif",
    "else",
    "enum",
    "except",
    "explicit",
    "export",
    "extern",
    "false",
    "final",
    "finally",
    "float",
    "fn",
    "for",
    "friend",
    "from",
    "gen",
    "global",
    "goto",
    "if",
    "impl",
    "import",
    "in",
    "inline",
    "int",
    "is",
    "lambda",
    "let",
    "long",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "namespace",
    "new",
    "nonlocal",
    "not",
    "operator",
    "or",
    "override",
    "pass",
    "private",
    "protected",
    "pub",
    "public",
    "raise",
    "ref",
    "register",
    "return",
    "self",
    "short",
    "signed",
    "sizeof",
    "static",
    "stream",
    "struct",
    "super",
    "switch",
    "template",
    "this",
    "throw",
    "trait",
    "true",
    "try",
    "type",
    "typedef",
    "typename",
    "union",
    "unsafe",
    "unsigned",
    "use",
    "using",
    "virtual",
    "void",
    "volatile",
    "where",
    "while",
    "with",
    "yield",
];

/// Whether a word is no name.
pub(super) fn is_keyword(word: &str) -> bool {
    RESERVED.contains(&word)
}

/// A name of the task as an identifier in exported code.
pub(super) fn identifier(name: &str) -> String {
    if is_keyword(name) {
        format!("{name}_")
    } else {
        name.to_owned()
    }
}

/// A text as an identifier: letters, digits and underscores, with a letter in front.
pub(super) fn plain_name(text: &str) -> String {
    let plain = |letter: char| match letter {
        'A'..='Z' | 'a'..='z' | '0'..='9' => letter,
        _ => '_',
    };
    let name: String = text.chars().map(plain).collect();
    if name.starts_with(|first: char| first.is_ascii_alphabetic()) {
        identifier(&name)
    } else {
        format!("kernel_{name}")
    }
}

/// A double-precision constant. Reading it gives the same number.
pub(super) fn number(language: Language, value: f64) -> String {
    let special = match language {
        Language::Cpp => [
            "std::numeric_limits<double>::quiet_NaN()",
            "std::numeric_limits<double>::infinity()",
        ],
        Language::Python => ["float(\"nan\")", "float(\"inf\")"],
        Language::Rust => ["f64::NAN", "f64::INFINITY"],
    };
    if value.is_nan() {
        return special[0].to_owned();
    }
    if value.is_infinite() {
        let sign = if value < 0.0 { "-" } else { "" };
        return format!("{sign}{}", special[1]);
    }
    // The shortest text that reads back as the same number, with a point or an exponent.
    format!("{value:?}")
}
