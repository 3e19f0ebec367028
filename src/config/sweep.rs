//! Sweeps: `--set` with several values for a key, and the runs that all combinations of them make.
//!
//! `KEY=A,B` has two values and `KEY=0..4` five. The text after `=` is read as what stands between the brackets of a YAML list, so a
//! value that is itself a list keeps its own brackets: `KEY=[1, 2]` is one value, `KEY=[1],[1, 2]` are two. Pure.

use indexmap::IndexMap;
use serde_json::Value;

use super::Config;
use super::overrides::apply_value;
use crate::base::{Failure, yaml};

/// The most runs of a sweep.
pub(crate) const MAX_RUNS: usize = 500;

/// The longest text of a value in the name of a run, in characters.
const MAX_VALUE_CHARS: usize = 40;

/// The longest name of a run, in bytes. File systems allow 255.
const MAX_NAME_BYTES: usize = 200;

/// A key with several values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VariedKey {
    key: String,
    values: Vec<Value>,
}

/// One combination of the values of all varied keys.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SweepPoint {
    /// The name of its run, such as `search.strategy=random,seed=3`. It is a folder's name.
    pub(crate) name: String,
    /// The text of each value, as the name has it.
    pub(crate) texts: IndexMap<String, String>,
    values: Vec<(String, Value)>,
}

/// Splits assignments of `--set` into those with one value, which are left as they are, and the keys with several.
///
/// # Errors
/// A usage failure for a key that is varied and set again, a value that is named twice, and a range that is empty or too long.
pub(crate) fn split_assignments(
    assignments: &[String],
) -> Result<(Vec<String>, Vec<VariedKey>), Failure> {
    let mut fixed = Vec::new();
    let mut varied: Vec<VariedKey> = Vec::new();
    for assignment in assignments {
        match varied_key(assignment)? {
            Some(key) => varied.push(key),
            None => fixed.push(assignment.clone()),
        }
    }
    for (index, one) in varied.iter().enumerate() {
        let is_same = |other: &VariedKey| other.key == one.key;
        let is_set = fixed
            .iter()
            .any(|text| text.split('=').next() == Some(&one.key));
        if is_set || varied[..index].iter().any(is_same) {
            let message = format!("`--set`: `{}` has several values and is set twice", one.key);
            return Err(Failure::usage(message).hint("name all of its values in one `--set`"));
        }
        if one.key == "output" {
            return Err(Failure::usage(
                "`--set output=…`: the runs of a sweep have one folder, so `output` has one value",
            )
            .hint("each run gets a folder in it, named after its values"));
        }
    }
    Ok((fixed, varied))
}

/// The key of an assignment and its values. `None` if it has one value, or cannot be read: then the error is that of the one value.
fn varied_key(assignment: &str) -> Result<Option<VariedKey>, Failure> {
    let Some((key, text)) = assignment.split_once('=') else {
        return Ok(None);
    };
    let Ok(items) = yaml::read_inline::<Vec<Value>>(&format!("[{text}]"), "") else {
        return Ok(None);
    };
    let origin = format!("`--set {assignment}`");
    let may_have_ranges = !text.contains(['"', '\'']);
    let mut values: Vec<Value> = Vec::new();
    let mut is_varied = items.len() > 1;
    for item in items {
        let range = item.as_str().and_then(range_ends);
        match range.filter(|_| may_have_ranges) {
            Some(ends) => {
                is_varied = true;
                values.extend(range_values(ends).map_err(|text| {
                    Failure::usage(format!("{origin}: {text}"))
                        .hint("a range has both ends: `seed=0..4` are 5 values")
                })?);
            }
            None => values.push(item),
        }
    }
    for (index, value) in values.iter().enumerate() {
        if is_varied && values[..index].contains(value) {
            let text = value_text(value);
            return Err(
                Failure::usage(format!("{origin}: the value `{text}` is named twice"))
                    .hint("for several runs with equal settings vary the seed: `--set seed=0..4`"),
            );
        }
    }
    Ok(is_varied.then(|| VariedKey {
        key: key.to_owned(),
        values,
    }))
}

/// The ends of `0..4`.
fn range_ends(text: &str) -> Option<(u64, u64)> {
    let (low, high) = text.split_once("..")?;
    let number = |text: &str| {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| text.parse().ok()).flatten()
    };
    Some((number(low)?, number(high)?))
}

fn range_values((low, high): (u64, u64)) -> Result<impl Iterator<Item = Value>, String> {
    if high < low {
        return Err(format!("the range `{low}..{high}` is empty"));
    }
    if high - low >= MAX_RUNS as u64 {
        return Err(format!(
            "the range `{low}..{high}` has more than {MAX_RUNS} values, the most runs of a sweep"
        ));
    }
    Ok((low..=high).map(Value::from))
}

/// All combinations of the values, the last key varying fastest.
///
/// # Errors
/// A usage failure for more than [`MAX_RUNS`].
pub(crate) fn sweep_points(varied: &[VariedKey]) -> Result<Vec<SweepPoint>, Failure> {
    let counts = varied.iter().map(|key| key.values.len());
    let count = counts.fold(1, usize::saturating_mul);
    if count > MAX_RUNS {
        let parts = varied
            .iter()
            .map(|key| format!("{} of `{}`", key.values.len(), key.key));
        let parts = parts.collect::<Vec<_>>().join(" times ");
        return Err(Failure::usage(format!(
            "the sweep would have {count} runs ({parts}); {MAX_RUNS} are allowed"
        ))
        .hint("name fewer values, or make several sweeps"));
    }
    let mut points: Vec<SweepPoint> = Vec::new();
    for number in 0..count {
        let mut rest = number;
        let mut values: Vec<(String, Value)> = Vec::new();
        for key in varied.iter().rev() {
            let value = key.values[rest % key.values.len()].clone();
            rest /= key.values.len();
            values.push((key.key.clone(), value));
        }
        values.reverse();
        let texts: IndexMap<_, _> = values
            .iter()
            .map(|(key, value)| (name_text(key), name_text(&value_text(value))))
            .collect();
        let parts = texts.iter().map(|(key, text)| format!("{key}={text}"));
        let mut name = parts.collect::<Vec<_>>().join(",");
        let is_taken = |name: &str| points.iter().any(|other| other.name == name);
        if name.len() > MAX_NAME_BYTES || is_taken(&name) {
            name = format!("run-{}", number + 1);
        }
        points.push(SweepPoint {
            name,
            texts,
            values,
        });
    }
    Ok(points)
}

impl SweepPoint {
    /// The config with this combination of values.
    ///
    /// # Errors
    /// A usage failure that names the key and the value.
    pub(crate) fn apply(&self, config: &Config) -> Result<Config, Failure> {
        let mut config = config.clone();
        for (key, value) in &self.values {
            let origin = format!("`--set {key}={}`", value_text(value));
            config = apply_value(&config, key, value.clone(), &origin)?;
        }
        config.check().map_err(|failure| Failure {
            message: format!("in the run `{}`: {}", self.name, failure.message),
            ..failure
        })?;
        Ok(config)
    }

    pub(crate) fn varies(&self, key: &str) -> bool {
        self.values.iter().any(|(varied, _)| varied == key)
    }
}

/// A value as the user writes it.
fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items = items.iter().map(value_text).collect::<Vec<_>>();
            format!("[{}]", items.join(","))
        }
        other => other.to_string(),
    }
}

/// A text without what a path, a shell or a list of names would take for something else: `[2,4]` becomes `2+4`.
fn name_text(text: &str) -> String {
    let text = text.trim_matches(['[', ']']).replace(',', "+");
    let letters = text.chars().map(|letter| {
        let is_plain = letter.is_ascii_alphanumeric() || "._+-".contains(letter);
        if is_plain { letter } else { '-' }
    });
    letters.take(MAX_VALUE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varied(assignments: &[&str]) -> Result<Vec<VariedKey>, String> {
        let assignments: Vec<_> = assignments.iter().map(|text| (*text).to_owned()).collect();
        let (_, varied) = split_assignments(&assignments).map_err(|error| error.to_string())?;
        Ok(varied)
    }

    fn names(assignments: &[&str]) -> Vec<String> {
        let points = sweep_points(&varied(assignments).unwrap()).unwrap();
        points.into_iter().map(|point| point.name).collect()
    }

    #[test]
    fn lists_and_ranges_make_all_combinations() {
        assert_eq!(
            names(&["search.strategy=map_elites,random", "seed=3..4"]),
            [
                "search.strategy=map_elites,seed=3",
                "search.strategy=map_elites,seed=4",
                "search.strategy=random,seed=3",
                "search.strategy=random,seed=4",
            ]
        );
        assert_eq!(names(&["seed=0..1,7"]), ["seed=0", "seed=1", "seed=7"]);
        assert_eq!(names(&["steps=5..5"]), ["steps=5"]);
        assert_eq!(
            names(&["search.patience=10, null"]),
            ["search.patience=10", "search.patience=null"]
        );
    }

    #[test]
    fn value_that_is_a_list_is_one_value() {
        for one in [
            "steps=7",
            "tasks=[softmax, rmsnorm]",
            "search.features.launches=[2, 4]",
            "search={exploration: 0.5, window: 4}",
            "llm.models=[{provider: command, command: [sh, -c, 'cat, echo']}]",
            "output=\"a,b\"",
            "output='0..4'",
            "budget.seconds=null",
            "search.exploration=",
            "steps=[1",
            "steps",
        ] {
            assert_eq!(varied(&[one]).unwrap(), [], "{one}");
        }
        assert_eq!(
            names(&["search.features.launches=[2, 4],[8]"]),
            ["search.features.launches=2+4", "search.features.launches=8"]
        );
        let points =
            sweep_points(&varied(&["search.features.launches=[2, 4],[8]"]).unwrap()).unwrap();
        let config = points[0].apply(&Config::default()).unwrap();
        assert_eq!(config.search.features["launches"], [2.0, 4.0]);
    }

    #[test]
    fn names_are_plain_and_distinct() {
        assert_eq!(
            names(&["tasks=[a/b],[a-b],[../x y]"]),
            ["tasks=a-b", "run-2", "tasks=..-x-y"]
        );
        let long = "x".repeat(90);
        let keys: Vec<_> = (0..8).map(|n| format!("k{n}.{long}=1,2")).collect();
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        assert_eq!(names(&keys)[255], "run-256");
    }

    #[test]
    fn errors_name_the_key_and_the_value() {
        for (assignments, expected) in [
            (
                &["seed=4..0"][..],
                "`--set seed=4..0`: the range `4..0` is empty",
            ),
            (&["seed=0..9999999999"], "more than 500 values"),
            (&["seed=1,2,1"], "the value `1` is named twice"),
            (&["seed=0..3,2"], "the value `2` is named twice"),
            (
                &["seed=1,2", "seed=3"],
                "`seed` has several values and is set twice",
            ),
            (
                &["seed=1,2", "seed=3..4"],
                "`seed` has several values and is set twice",
            ),
            (&["output=a,b"], "`output` has one value"),
        ] {
            let error = varied(assignments).unwrap_err();
            assert!(error.contains(expected), "{assignments:?}: {error}");
        }
        let keys = varied(&["seed=0..99", "search.window=1..10"]).unwrap();
        let error = sweep_points(&keys).unwrap_err().to_string();
        assert!(
            error.starts_with("the sweep would have 1000 runs (100 of `seed` times 10 of `search.window`); 500 are allowed"),
            "{error}"
        );
        for (assignment, expected) in [
            (
                "search.strategy=random,beem",
                "`--set search.strategy=beem`: unknown value `beem`",
            ),
            (
                "serch.strategy=random,beam",
                "unknown key `serch`\n\nhint: did you mean `search`?",
            ),
            (
                "search.window=1,many",
                "`--set search.window=many`: expected a whole number",
            ),
            (
                "eval.in_flight=1,900",
                "in the run `eval.in_flight=900`: `eval.in_flight`: expected 1 to 64, found `900`",
            ),
        ] {
            let points = sweep_points(&varied(&[assignment]).unwrap()).unwrap();
            let applied: Result<Vec<_>, _> = points
                .iter()
                .map(|one| one.apply(&Config::default()))
                .collect();
            let error = applied.unwrap_err().to_string();
            assert!(error.contains(expected), "{assignment}: {error}");
        }
    }
}
