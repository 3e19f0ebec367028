//! The templates of the page, with its style and script. Values are escaped by default.
//!
//! A template that does not fit its values is an error of kforge.

use anyhow::{Context, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;

use crate::base::Digest;

const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/script.js");

/// The templates by name. A name that ends in `.html` turns escaping on.
const TEMPLATES: [(&str, &str); 4] = [
    ("frame.html", include_str!("assets/frame.html")),
    ("page.html", include_str!("assets/page.html")),
    ("task.html", include_str!("assets/task.html")),
    ("index.html", include_str!("assets/index.html")),
];

/// Renders a template. `data`: what the script reads; it becomes part of the page as text.
pub(super) fn render(
    name: &str,
    view: &impl Serialize,
    data: &serde_json::Value,
) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    // Only custom delimiters can be invalid; these are the default ones.
    environment.set_syntax(syntax.build().unwrap_or_default());
    for (name, text) in TEMPLATES {
        environment
            .add_template(name, text)
            .with_context(|| format!("the template {name} is wrong"))?;
    }
    let data = script_json(data);
    // Only a script with this number runs. A text in the page cannot know it, because it depends on all texts.
    let nonce = Digest::of(&data).to_string();
    let context = minijinja::context! {
        view => Value::from(Serde(view)),
        data => Value::from_safe_string(data),
        style => Value::from_safe_string(STYLE.to_owned()),
        script => Value::from_safe_string(SCRIPT.to_owned()),
        nonce => nonce,
        version => env!("CARGO_PKG_VERSION"),
    };
    let template = environment.get_template(name)?;
    template
        .render(context)
        .with_context(|| format!("the template {name} does not fit its values"))
}

/// JSON that can stand in a `script` element: no text in it ends the element or begins a comment.
fn script_json(value: &serde_json::Value) -> String {
    let mut text = String::new();
    for letter in value.to_string().chars() {
        match letter {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_a_script_element() {
        let value = serde_json::json!({"a": "</script><!--<img onerror=x>&amp;\u{2028}"});
        let text = script_json(&value);
        assert!(!text.contains(['<', '>', '&', '\u{2028}']), "{text}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
    }
}
