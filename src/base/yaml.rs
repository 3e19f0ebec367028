//! Reads the YAML of configs, kernel headers and prompt templates. An error shows the file, and where the parser knows them the
//! line and a caret; for an unknown key it shows the nearest valid key.
//!
//! Knows no format; the types that are read define the keys. Values are checked elsewhere; `with_location` adds file and line to
//! such a failure. Lines and columns count from 1, columns in characters.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_yaml::{Error, Location};

use super::failure::Failure;
use super::text::did_you_mean;

/// The most parser events that aliases may expand to: a few lines of nested aliases can expand to millions.
const MAX_ALIAS_EVENTS: usize = 10_000;

/// Parses one document. `origin` names it in errors: a path, or `--set`.
pub fn read<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T, Failure> {
    read_with_line(text, origin, 0)
}

/// Like [`read`], for a text that starts after `lines_before` lines of its file.
pub(crate) fn read_with_line<T: DeserializeOwned>(
    text: &str,
    origin: &str,
    lines_before: u32,
) -> Result<T, Failure> {
    read_with_options(text, origin, lines_before, options())
}

/// Like [`read`], for the header of a kernel file, which starts after `lines_before` lines. Only `true` and `false` are truth values
/// there, because `y` and `n` are names.
pub(crate) fn read_header<T: DeserializeOwned>(
    text: &str,
    lines_before: u32,
) -> Result<T, Failure> {
    let mut options = options();
    options.strict_booleans = true;
    read_with_options(text, "kernel", lines_before, options)
}

fn read_with_options<T: DeserializeOwned>(
    text: &str,
    origin: &str,
    lines_before: u32,
    options: serde_yaml::Options,
) -> Result<T, Failure> {
    // YAML ends a line at a lone carriage return and editors do not, so all later line numbers would be wrong.
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
            "{origin}:{line}:{column}: a carriage return without a line feed"
        ))
        .hint("end lines with a line feed, or with a carriage return and a line feed"));
    }
    serde_yaml::from_str_with_options(text, options)
        .map_err(|error| to_failure(&error, text, origin, lines_before))
}

/// Like [`read`], for a text that is not in a file, such as the value of `--set`: errors name the origin only.
pub fn read_inline<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T, Failure> {
    parse(text).map_err(|error: Error| {
        let (message, hint) = describe_error(&error);
        with_hint(Failure::usage(format!("{origin}: {message}")), hint)
    })
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_yaml::from_str_with_options(text, options())
}

fn options() -> serde_yaml::Options {
    let mut options = serde_yaml::Options::default();
    options.alias_limits.max_total_replayed_events = MAX_ALIAS_EVENTS;
    options
}

/// Adds a location to a failure about an invalid value: that of the value of the first key in backticks that the text has. Keys are
/// dotted paths, such as `search.window`.
pub(crate) fn with_location(failure: Failure, text: &str, origin: &str) -> Failure {
    let quoted = failure.message.split('`').skip(1).step_by(2);
    // A message may have the value after the key: `steps: 0`.
    let keys = quoted.map(|text| text.split(':').next().unwrap_or_default());
    let location = keys.into_iter().find_map(|key| {
        let path: Vec<&str> = key.split('.').collect();
        let found =
            serde_yaml::with_deserializer_from_str_with_options(text, options(), |reader| {
                FailAtKey(&path).deserialize(reader)
            });
        found.err()?.location().filter(|_| !path.is_empty())
    });
    let message = with_excerpt(&failure.message, location, text, origin, 0);
    Failure { message, ..failure }
}

/// The 1-based line of a key in a YAML or JSON document, or that of the longest start of its path that is there. `key` is the path,
/// joined by dots.
pub(crate) fn line_of(text: &str, key: &str) -> Option<usize> {
    // JSON may be indented by tabs, YAML may not. YAML ends a line at a carriage return, editors do not.
    let text = text.replace(['\t', '\r'], " ");
    let path: Vec<&str> = key.split('.').filter(|part| !part.is_empty()).collect();
    (1..=path.len()).rev().find_map(|length| {
        let target = FailAtKey(&path[..length]);
        let found =
            serde_yaml::with_deserializer_from_str_with_options(&text, options(), |reader| {
                target.deserialize(reader)
            });
        let location = found.err().filter(is_at_key)?.location()?;
        usize::try_from(location.line()).ok()
    })
}

/// Whether an error is that of [`FailAtKey`], and not one of the document.
fn is_at_key(error: &Error) -> bool {
    error.to_string().contains(AT_KEY)
}

const AT_KEY: &str = "kforge looks for this key";

/// A visitor that fails at the value of the key with this path. The parser's error then has the location of the value.
#[derive(Clone, Copy)]
struct FailAtKey<'p>(&'p [&'p str]);

impl<'de> DeserializeSeed<'de> for FailAtKey<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        match self.0 {
            [] => Err(D::Error::custom(AT_KEY)),
            _ => reader.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for FailAtKey<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match self.0.split_first() {
                Some((first, rest)) if *first == key => map.next_value_seed(FailAtKey(rest))?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

fn to_failure(error: &Error, text: &str, origin: &str, lines_before: u32) -> Failure {
    let (message, hint) = describe_error(error);
    let message = with_excerpt(&message, error.location(), text, origin, lines_before);
    with_hint(Failure::usage(message), hint)
}

/// A message with its location, the line, and a caret.
fn with_excerpt(
    message: &str,
    location: Option<Location>,
    text: &str,
    origin: &str,
    lines_before: u32,
) -> String {
    let Some(location) = location else {
        return format!("{origin}: {message}");
    };
    let line = usize::try_from(location.line()).unwrap_or(0);
    let excerpt = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let column = usize::try_from(location.column()).unwrap_or(1);
    let number = line + lines_before as usize;
    let caret = " ".repeat(column.saturating_sub(1));
    format!(
        "{origin}:{number}:{column}: {message}\n  {number} | {excerpt}\n  {} | {caret}^",
        " ".repeat(number.to_string().len())
    )
}

fn with_hint(failure: Failure, hint: Option<String>) -> Failure {
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// What is wrong, and a hint if a name is close or a key is a duplicate.
fn describe_error(error: &Error) -> (String, Option<String>) {
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
                Some(key) => format!("duplicate key `{key}`"),
                None => "duplicate key".to_owned(),
            },
            "remove one of the two".to_owned(),
        ),
        Error::SerdeMissingField { field, .. } => return (format!("`{field}` is missing"), None),
        other => {
            let message = parser_message(other);
            return match message.contains("tabs disallowed") {
                true => (
                    "a tab cannot indent a line of YAML".to_owned(),
                    Some("indent with spaces".to_owned()),
                ),
                false => (message, None),
            };
        }
    };
    (message, Some(hint))
}

/// The parser's message on one line, without the location, which the caller shows, and without the parser's own terms.
fn parser_message(error: &Error) -> String {
    match error {
        Error::Unexpected { expected, .. } => {
            return format!("expected {}", describe_kind(expected));
        }
        Error::InvalidScalar { ty, .. } => return format!("expected {}", describe_kind(ty)),
        Error::InvalidBooleanStrict { .. } => return format!("expected {}", describe_kind("bool")),
        Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. } => {
            return "expected one of the allowed names".to_owned();
        }
        Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. } => {
            return format!("expected {}", describe_kind(expected));
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

/// Plain English for the parser's name of a kind of value.
pub(super) fn describe_kind(name: &str) -> &str {
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
    use crate::base::cpu_time::thread_cpu_time;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[expect(dead_code, reason = "the tests read its errors only")]
        steps: u64,
    }

    fn error(text: &str) -> String {
        read::<Sample>(text, "run.yaml").unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_line_and_the_nearest_key() {
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
        let of_tab = error("steps:\n\tmore: 1\n");
        assert!(of_tab.starts_with("run.yaml:2:"), "{of_tab}");
        assert!(of_tab.contains(": a tab cannot indent a line of YAML\n"));
        assert!(of_tab.ends_with("hint: indent with spaces"), "{of_tab}");
        insta::assert_snapshot!(error("- a\n"), @r"
        run.yaml:1:1: expected keys with values, such as `key: value`
          1 | - a
            | ^
        ");
    }

    #[test]
    fn an_invalid_value_is_shown_with_its_location() {
        let placed = |message: &str, text: &str| {
            super::with_location(Failure::usage(message).hint("fix it"), text, "run.yaml")
                .to_string()
        };
        insta::assert_snapshot!(placed("`eval.in_flight`: expected 1 to 64", "# a run\nsteps: 1\neval:\n  cache: hot\n  in_flight: 0\n"), @r"
        run.yaml:5:14: `eval.in_flight`: expected 1 to 64
          5 |   in_flight: 0
            |              ^

        hint: fix it
        ");
        insta::assert_snapshot!(placed("unknown feature `warp` in `search.features`", "eval: {in_flight: 0}\nsearch: {seed: 1, features: {warp: []}}\n"), @r"
        run.yaml:2:29: unknown feature `warp` in `search.features`
          2 | search: {seed: 1, features: {warp: []}}
            |                             ^

        hint: fix it
        ");
        for text in [
            "steps: 1\n",
            "eval: 3\n",
            "- a\n",
            "",
            "eval: {in_flight: [",
        ] {
            let message = placed("`eval.in_flight: 0`: too few", text);
            assert!(message.starts_with("run.yaml"), "{text}: {message}");
        }
        // A key that is not in the text has no location.
        let message = placed("`eval.in_flight: 0`: too few", "eval: {cache: hot}\n");
        assert!(message.starts_with("run.yaml: `eval"), "{message}");
        assert!(placed("`steps: 0`: too few", "steps: 0\n").starts_with("run.yaml:1:8: "));
    }

    #[test]
    fn keys_are_found_in_yaml_and_json() {
        let yaml = "# a task\na: 1\nb:\n  c: {d: 2}\n  e: 3\n";
        let json =
            "{\n\t\"a\": \"x\\ny\",\n\t\"b\": {\"c\": {\n\t\t\"d\": 2},\n\t\t\"e\": null}}\n";
        for (text, key, line) in [
            (yaml, "a", Some(2)),
            (yaml, "b.c.d", Some(4)),
            (yaml, "b.e", Some(5)),
            (yaml, "b.c.x", Some(4)),
            (yaml, "x", None),
            (json, "a", Some(2)),
            (json, "b.c.d", Some(4)),
            (json, "b.e", Some(5)),
            ("{\"a\": [", "b", None),
        ] {
            assert_eq!(line_of(text, key), line, "{key} in {text}");
        }
    }

    #[test]
    fn expected_kinds_are_named_in_plain_english() {
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
        for (text, expected) in [
            ("number: lots", "expected a number"),
            ("flag: maybe", "expected `true` or `false`"),
            ("names: one", "expected a list, such as `[a, b]`"),
            ("choice: [auto]", "expected one of the allowed names"),
            (
                "choice: cpy",
                "unknown value `cpy`\n\nhint: did you mean `cpu`?",
            ),
            (
                "flag: true\nflag: false",
                "duplicate key `flag`\n\nhint: remove one of the two",
            ),
        ] {
            let message = read_inline::<Kinds>(text, "here").unwrap_err().to_string();
            assert_eq!(message, format!("here: {expected}"));
        }
    }

    #[test]
    fn alias_expansion_is_limited() {
        let mut text = "a: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for level in 1..7 {
            let list = vec![format!("*a{}", level - 1); 10].join(", ");
            text += &format!("a{level}: &a{level} [{list}]\n");
        }
        let started = thread_cpu_time();
        let message = read::<serde_json::Value>(&text, "run.yaml")
            .unwrap_err()
            .message;
        assert!(message.contains("alias"), "{message}");
        assert!((thread_cpu_time() - started).as_secs() < 2);
        assert!(read::<serde_json::Value>(text.split("a3:").next().unwrap(), "run.yaml").is_ok());
    }

    #[test]
    fn a_carriage_return_within_a_line_is_refused() {
        assert!(read::<Sample>("# a\r\nsteps: 1\r\n", "run.yaml").is_ok());
        let message = error("# a\n\rsteps: 1\r");
        assert!(
            message.starts_with("run.yaml:2:1: a carriage return without a line feed\n\nhint: "),
            "{message}"
        );
    }

    #[test]
    fn malformed_documents_are_refused_without_a_panic() {
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
