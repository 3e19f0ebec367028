//! `--set key.path=value`: sets any key of a config from the shell. Values are checked as in a file.

use serde_json::Value;

use super::Config;
use crate::base::text::did_you_mean;
use crate::base::{Failure, yaml};

/// The config with all assignments applied, in order. Each is `KEY=VALUE`.
pub fn apply_overrides(config: &Config, assignments: &[String]) -> Result<Config, Failure> {
    let mut config = config.clone();
    for assignment in assignments {
        config = apply_override(&config, assignment)?;
    }
    Ok(config)
}

fn apply_override(config: &Config, assignment: &str) -> Result<Config, Failure> {
    let origin = format!("`--set {assignment}`");
    let fail = |message: String| Failure::usage(format!("{origin}: {message}"));
    let Some((key, value)) = assignment.split_once('=') else {
        return Err(fail("expected KEY=VALUE".to_owned())
            .hint("for example `--set search.exploration=0.5`"));
    };
    let value: Value = yaml::read_inline(value, &origin)?;
    apply_value(config, key, value, &origin)
}

/// The config with one key set. `origin`: the assignment, for errors.
pub(super) fn apply_value(
    config: &Config,
    key: &str,
    value: Value,
    origin: &str,
) -> Result<Config, Failure> {
    let fail = |message: String| Failure::usage(format!("{origin}: {message}"));
    let mut whole = serde_json::to_value(config).map_err(|error| fail(error.to_string()))?;
    let mut node = &mut whole;
    let parts: Vec<_> = key.split('.').collect();
    for (depth, part) in parts.iter().enumerate() {
        let Value::Object(map) = node else {
            return Err(fail(format!("`{}` has no keys", parts[..depth].join("."))));
        };
        // The user names the axes of the archive and the workloads with a target; all other keys exist already.
        let parents = &parts[..depth];
        let is_open = parents == ["search", "features"] || parents == ["search", "targets"];
        if !map.contains_key(*part) && !is_open {
            let known: Vec<String> = map.keys().cloned().collect();
            return Err(fail(format!("unknown key `{}`", parts[..=depth].join(".")))
                .hint(did_you_mean(part, known.iter().map(String::as_str))));
        }
        node = map.entry((*part).to_owned()).or_insert(Value::Null);
    }
    let is_scalar = !value.is_object() && !value.is_array();
    let keys: Vec<String> = match &*node {
        Value::Object(map) if is_scalar => map.keys().map(|one| format!("`{key}.{one}`")).collect(),
        _ => Vec::new(),
    };
    *node = value;
    // JSON is YAML, so the same reader gives the same messages.
    let read = yaml::read_inline(&whole.to_string(), origin);
    read.map_err(|failure| match keys.is_empty() {
        true => failure,
        false => fail(format!("`{key}` has keys of its own"))
            .hint(format!("set one of {}", keys.join(", "))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(assignment: &str) -> Result<Config, String> {
        apply_overrides(&Config::default(), &[assignment.to_owned()])
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn any_key_can_be_overridden() {
        assert_eq!(set("steps=7").unwrap().steps, 7);
        assert_eq!(
            set("tasks=[softmax, rmsnorm]").unwrap().tasks,
            ["softmax", "rmsnorm"]
        );
        assert_eq!(
            set("search.exploration=0.5").unwrap().search.exploration,
            0.5
        );
        assert_eq!(
            set("search.features.launches=[2, 4]")
                .unwrap()
                .search
                .features["launches"],
            [2.0, 4.0]
        );
        assert_eq!(
            set("search.targets.b1={microseconds: 12}")
                .unwrap()
                .search
                .targets["b1"]
                .microseconds,
            Some(12.0)
        );
        assert_eq!(set("budget.seconds=null").unwrap().budget.seconds, None);
    }

    #[test]
    fn times_are_positive_and_limited() {
        for key in ["budget.seconds", "eval.seconds", "eval.launch_seconds"] {
            assert!(set(&format!("{key}=60")).unwrap().check().is_ok());
            for value in ["1e300", ".inf", ".nan", "-1", "0"] {
                let config = set(&format!("{key}={value}"));
                let error = config.and_then(|config| config.check().map_err(|error| error.message));
                assert!(error.is_err(), "{key}={value}");
            }
        }
    }

    #[test]
    fn errors_name_the_assignment_and_the_nearest_key() {
        for (assignment, expected) in [
            ("steps", "expected KEY=VALUE"),
            (
                "stpes=3",
                "`--set stpes=3`: unknown key `stpes`\n\nhint: did you mean `steps`?",
            ),
            (
                "search.explortion=3",
                "unknown key `search.explortion`\n\nhint: did you mean `exploration`?",
            ),
            ("steps.more=3", "`steps` has no keys"),
            ("steps=many", "`--set steps=many`: expected a whole number"),
            ("steps=[1", "`--set steps=[1`: unclosed bracket"),
            ("search.exploration=", "expected a number"),
            ("search.features=[1]", "expected keys with values"),
            (
                "search.islands=3",
                "`search.islands` has keys of its own\n\nhint: set one of `search.islands.count`",
            ),
            ("search={explortion: 1}", "did you mean `exploration`?"),
            ("tasks=softmax", "expected a list"),
            ("llm.models=gpt", "expected `auto` or a list of models"),
            (
                "backend=cpx",
                "unknown value `cpx`\n\nhint: did you mean `cpu`?",
            ),
        ] {
            let error = set(assignment).unwrap_err();
            assert!(error.contains(expected), "{assignment}: {error}");
        }
    }

    #[test]
    fn a_renamed_key_is_an_error_that_names_the_new_key() {
        for (section, old, new) in [
            ("search", "back_after", "restart_after"),
            ("llm", "edits", "max_edits"),
        ] {
            let hint = format!("hint: it was renamed to `{new}`");
            let error = set(&format!("{section}.{old}=2")).unwrap_err();
            assert!(
                error.contains(&format!("unknown key `{section}.{old}`")),
                "{error}"
            );
            assert!(error.ends_with(&hint), "{error}");
            let text = format!("{section}:\n  {old}: 2\n");
            let error = yaml::read::<Config>(&text, "run.yaml")
                .unwrap_err()
                .to_string();
            let place = format!("run.yaml:2:3: unknown key `{old}`");
            assert!(
                error.starts_with(&place) && error.ends_with(&hint),
                "{error}"
            );
        }
    }
}
