//! The templates of exported files. None escapes its values: they are code, and `string` makes a literal of a text.
//!
//! A template that does not fit its values is an error of kforge.

use anyhow::{Context, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;

/// Renders a template.
pub(super) fn render(name: &str, text: &str, values: impl Serialize) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.add_filter("string", |text: String| quoted(&text));
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    // Only custom delimiters can be invalid; these are the default ones.
    environment.set_syntax(syntax.build().unwrap_or_default());
    let values = Value::from(Serde(&values));
    let mut text = environment
        .render_named_str(name, text, values)
        .with_context(|| format!("the template {name} does not fit its values"))?;
    // The last line break of a template is dropped.
    text.push('\n');
    Ok(text)
}

/// A string literal that C, Python and Rust read as the same text.
pub(super) fn quoted(text: &str) -> String {
    let mut literal = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => literal.push_str("\\\""),
            '\\' => literal.push_str("\\\\"),
            '\n' => literal.push_str("\\n"),
            '\t' => literal.push_str("\\t"),
            letter if letter.is_control() => literal.push(' '),
            letter => literal.push(letter),
        }
    }
    literal.push('"');
    literal
}

/// Lines as comments. A line cannot end its comment, or continue it.
pub(super) fn comment(lines: &[String], mark: &str) -> String {
    let plain = |line: &String| {
        let line = line.replace("*/", "* /").replace(['\n', '\r'], " ");
        format!("{mark} {}", line.trim_end_matches(['\\', ' ']))
    };
    lines.iter().map(plain).collect::<Vec<_>>().join("\n")
}
