//! Reading YAML that a person wrote: every error shows the file, the line, and for an unknown key the nearest valid one.

use serde::de::DeserializeOwned;
use serde_yaml::Error;

use super::failure::Failure;
use super::text::did_you_mean;

/// How many values aliases may stand for in all: a few lines that repeat each other can stand for millions.
const MOST_REPEATED: usize = 10_000;

/// Parses one document. `origin` names it in errors: a path, or `--set`.
pub fn read<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T, Failure> {
    read_with_line(text, origin, 0)
}

/// As [`read`], for a text that begins `lines_before` lines into its file.
pub fn read_with_line<T: DeserializeOwned>(
    text: &str,
    origin: &str,
    lines_before: u32,
) -> Result<T, Failure> {
    // YAML ends a line at it and nothing else does: no line or place behind it would be the one that an editor shows.
    let mut returns = text.match_indices('\r').map(|(at, _)| at);
    if let Some(at) = returns.find(|at| !text[at + 1..].starts_with('\n')) {
        let before = &text[..at];
        let line = before.matches('\n').count() + 1 + lines_before as usize;
        let column = before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        return Err(Failure::usage(format!(
            "{origin}:{line}:{column}: a carriage return within a line"
        ))
        .hint("end lines with a line feed, or with a carriage return and a line feed"));
    }
    parse(text).map_err(|error| failure(&error, text, origin, lines_before))
}

/// As [`read`], for a text that nobody typed as it is, such as an assignment put in its place: errors name the origin alone.
pub fn read_inline<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T, Failure> {
    parse(text).map_err(|error: Error| {
        let (message, hint) = words(&error);
        with_hint(Failure::usage(format!("{origin}: {message}")), hint)
    })
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    let mut options = serde_yaml::Options::default();
    options.alias_limits.max_total_replayed_events = MOST_REPEATED;
    serde_yaml::from_str_with_options(text, options)
}

fn failure(error: &Error, text: &str, origin: &str, lines_before: u32) -> Failure {
    let (message, hint) = words(error);
    let failure = match error.location() {
        Some(location) => {
            let line = usize::try_from(location.line()).unwrap_or(0);
            let shown = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
            let column = usize::try_from(location.column()).unwrap_or(1);
            let number = line + lines_before as usize;
            let caret = " ".repeat(column.saturating_sub(1));
            Failure::usage(format!(
                "{origin}:{number}:{column}: {message}\n  {number} | {shown}\n  {} | {caret}^",
                " ".repeat(number.to_string().len())
            ))
        }
        None => Failure::usage(format!("{origin}: {message}")),
    };
    with_hint(failure, hint)
}

fn with_hint(failure: Failure, hint: Option<String>) -> Failure {
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// What was wrong, and what was probably meant.
fn words(error: &Error) -> (String, Option<String>) {
    let (message, hint) = match error.without_snippet() {
        Error::SerdeUnknownField {
            field, expected, ..
        } => (
            format!("unknown key `{field}`"),
            did_you_mean(field, expected.iter().copied()),
        ),
        Error::SerdeUnknownVariant {
            variant, expected, ..
        } => (
            format!("unknown value `{variant}`"),
            did_you_mean(variant, expected.iter().copied()),
        ),
        Error::DuplicateMappingKey { key, .. } => (
            match key {
                Some(key) => format!("the key `{key}` stands here twice"),
                None => "a key stands here twice".to_owned(),
            },
            "keep one of the two".to_owned(),
        ),
        Error::SerdeMissingField { field, .. } => return (format!("`{field}` is missing"), None),
        other => return (plain(other), None),
    };
    (message, Some(hint))
}

/// The error's own words on one line, without the position that the caller shows, and without the parser's own terms.
fn plain(error: &Error) -> String {
    match error {
        Error::Unexpected { expected, .. } => return format!("expected {}", kind(expected)),
        Error::InvalidScalar { ty, .. } => return format!("expected {}", kind(ty)),
        Error::InvalidBooleanStrict { .. } => return format!("expected {}", kind("bool")),
        Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. } => {
            return "expected a single word".to_owned();
        }
        Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. } => {
            return format!("expected {}", kind(expected));
        }
        _ => {}
    }
    let rendered = error.to_string();
    let first = rendered.lines().next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    match (first.strip_prefix("line "), first.split_once(": ")) {
        (Some(_), Some((_, rest))) => rest,
        _ => first
            .split_once(" at line ")
            .map_or(first, |(before, _)| before),
    }
    .to_owned()
}

/// A parser's name for a kind of value, as a person would call it.
fn kind(name: &str) -> &str {
    match name {
        "f32" | "f64" | "floating point" => "a number",
        "bool" | "boolean" => "`true` or `false`",
        "sequence start" | "a sequence" => "a list, such as `[a, b]`",
        "mapping start" | "a map" => "keys with values, such as `key: value`",
        "scalar" | "string" | "string scalar" => "a single value",
        name if name.starts_with("struct ") => "keys with values, such as `key: value`",
        name if name
            .strip_prefix(['u', 'i'])
            .is_some_and(|bits| bits == "size" || bits.parse::<u32>().is_ok()) =>
        {
            "a whole number"
        }
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[expect(dead_code, reason = "only its errors are looked at")]
        steps: u64,
    }

    fn error(text: &str) -> String {
        read::<Sample>(text, "run.yaml").unwrap_err().to_string()
    }

    #[test]
    fn names_the_line_and_the_nearest_key() {
        insta::assert_snapshot!(error("# a run\nstep: 4\n"), @r"
        run.yaml:2:1: unknown key `step`
          2 | step: 4
            | ^

        hint: did you mean `steps`?
        ");
        insta::assert_snapshot!(error("steps: many\n"), @r"
        run.yaml:1:8: expected a whole number
          1 | steps: many
            |        ^
        ");
        insta::assert_snapshot!(error("- a\n"), @r"
        run.yaml:1:1: expected keys with values, such as `key: value`
          1 | - a
            | ^
        ");
    }

    #[test]
    fn says_what_was_expected_in_a_persons_words() {
        #[derive(Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Kinds {
            number: f64,
            flag: bool,
            names: Vec<String>,
            choice: Choice,
        }
        #[derive(Debug, Default, Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Choice {
            #[default]
            Auto,
            Cpu,
        }
        for (text, words) in [
            ("number: lots", "expected a number"),
            ("flag: maybe", "expected `true` or `false`"),
            ("names: one", "expected a list, such as `[a, b]`"),
            ("choice: [auto]", "expected a single word"),
            (
                "choice: cpy",
                "unknown value `cpy`\n\nhint: did you mean `cpu`?",
            ),
            (
                "flag: true\nflag: false",
                "the key `flag` stands here twice\n\nhint: keep one of the two",
            ),
        ] {
            let message = read_inline::<Kinds>(text, "here").unwrap_err().to_string();
            assert_eq!(message, format!("here: {words}"));
        }
    }

    #[test]
    fn aliases_cannot_stand_for_millions() {
        let mut text = "a: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for level in 1..7 {
            let list = vec![format!("*a{}", level - 1); 10].join(", ");
            text += &format!("a{level}: &a{level} [{list}]\n");
        }
        let begun = std::time::Instant::now();
        let message = read::<serde_json::Value>(&text, "run.yaml")
            .unwrap_err()
            .message;
        assert!(message.contains("alias"), "{message}");
        assert!(begun.elapsed().as_secs() < 2);
        assert!(read::<serde_json::Value>(text.split("a3:").next().unwrap(), "run.yaml").is_ok());
    }

    #[test]
    fn lines_are_those_of_an_editor() {
        assert!(read::<Sample>("# a\r\nsteps: 1\r\n", "run.yaml").is_ok());
        let message = error("# a\n\rsteps: 1\r");
        assert!(
            message.starts_with("run.yaml:2:1: a carriage return within a line\n\nhint: "),
            "{message}"
        );
    }

    #[test]
    fn refuses_nonsense_without_panicking() {
        for text in [
            "{}",
            "steps: [1\n",
            "",
            "steps: 1\nsteps: 2\n",
            "a: &a [*a]\n",
            "\u{0}",
            "steps: -1",
        ] {
            assert!(error(text).starts_with("run.yaml:"), "{text:?}");
        }
    }
}
