//! The page about the keys of a run config (`docs/configuration.md`), made from `keys`. Compiled for tests only.
//!
//! The tests fail where a key is missing in `keys`, no longer exists, or where the page is out of date.

use serde_json::Value;

use super::Config;
use super::keys::{
    CONFIG_KEYS, KeyDescription, MODEL_KEYS, PRICE_KEYS, descriptions, feature_meanings,
};

const INTRODUCTION: &str = "\
# Configuration

A run config is a YAML file. Every key has a default, so a config names only what differs:

```yaml
tasks: [gdn_decode]
steps: 200
search:
  exploration: 0.2
budget:
  seconds: 80
```

A name such as `gdn_decode.yaml` is looked for as given, in `config/` of the working folder, and among the configs built into kforge.
An unknown key is an error that names the nearest key. A flag wins over the environment (`KFORGE_CONFIG`, `KFORGE_OUTPUT`,
`KFORGE_BACKEND`), which wins over the file; `--set KEY=VALUE` wins over all, and several values make a [sweep](sweeps.md). `--dry-run` prints the resolved config.

An editor with a YAML language server completes and checks a config whose first line names the schema. `kforge schema` prints the schema
of this page, and `kforge schema task` that of `task.yaml`:

```yaml
# yaml-language-server: $schema=config.schema.json
```

The tables of this page are generated from the code.
";

/// The default of a key, as YAML on one line.
fn default_text(description: &KeyDescription, defaults: &Value) -> String {
    let path = description.key.split('.');
    let value = path.fold(defaults, |value, part| &value[part]);
    match value {
        Value::Null => description.unset.to_owned(),
        value => format!("`{}`", inline(value)),
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => {
            let text = number.to_string();
            text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(map) => {
            let pairs = map
                .iter()
                .map(|(key, value)| format!("{key}: {}", inline(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn rows(table: &'static str, default: impl Fn(&KeyDescription) -> String) -> String {
    let row = |description: &KeyDescription| {
        let KeyDescription {
            key, kind, meaning, ..
        } = description;
        format!(
            "| `{key}` | {kind} | {} | {meaning} |\n",
            default(description)
        )
    };
    let head = "| key | type | default | meaning |\n| --- | --- | --- | --- |\n";
    head.to_owned() + &descriptions(table).iter().map(row).collect::<String>()
}

/// The whole of `docs/configuration.md`.
fn page() -> String {
    let defaults = serde_json::to_value(Config::default()).unwrap();
    let config = rows(CONFIG_KEYS, |description| {
        default_text(description, &defaults)
    });
    let unset = |description: &KeyDescription| description.unset.to_owned();
    let features = feature_meanings().into_iter();
    let features = features.map(|(name, meaning)| format!("| `{name}` | {meaning} |\n"));
    format!(
        "{INTRODUCTION}\n## Keys\n\n{config}\n## Models\n\nKeys of a model in `llm.models`. A setting that the provider does not take is an error.\n\n{}\nKeys of `price`, in dollars per million tokens:\n\n{}\n## Features\n\nAxes for `search.features`:\n\n| feature | meaning |\n| --- | --- |\n{}",
        rows(MODEL_KEYS, unset),
        rows(PRICE_KEYS, unset),
        features.collect::<String>()
    )
}

/// The dotted keys of a config, without those that the user names.
fn dotted_keys(prefix: &str, value: &Value, keys: &mut Vec<String>) {
    let Value::Object(map) = value else {
        keys.push(prefix.to_owned());
        return;
    };
    if ["search.features", "search.targets"].contains(&prefix) {
        keys.push(prefix.to_owned());
        return;
    }
    for (name, value) in map {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        dotted_keys(&key, value, keys);
    }
}

/// The fields that serde lists in its error about an unknown one, which `model` must have.
fn accepted_fields(model: Value) -> Vec<String> {
    let error = serde_json::from_value::<crate::llm::ModelSettings>(model).unwrap_err();
    let message = error.to_string();
    let (_, listed) = message.split_once("expected one of ").unwrap();
    let names = listed.split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

fn names(table: &'static str) -> Vec<&'static str> {
    let described = descriptions(table).into_iter();
    described.map(|description| description.key).collect()
}

#[test]
fn every_config_key_is_described_once() {
    let mut keys = Vec::new();
    let defaults = serde_json::to_value(Config::default()).unwrap();
    dotted_keys("", &defaults, &mut keys);
    let (mut expected, mut described) = (keys, names(CONFIG_KEYS));
    expected.sort_unstable();
    described.sort_unstable();
    assert_eq!(described, expected);
}

#[test]
fn every_key_of_a_model_and_its_price_is_described() {
    let model = serde_json::json!({"provider": "openai", "unknown": 1});
    assert_eq!(names(MODEL_KEYS), accepted_fields(model));
    let price = serde_json::json!({"input": 1, "output": 1, "unknown": 1});
    let model = serde_json::json!({"provider": "openai", "price": price});
    assert_eq!(names(PRICE_KEYS), accepted_fields(model));
}

#[test]
fn every_feature_is_described() {
    let described: Vec<_> = feature_meanings().iter().map(|(name, _)| *name).collect();
    assert_eq!(described, crate::search::FEATURES);
}

#[test]
fn key_with_a_null_default_says_what_applies() {
    let defaults = serde_json::to_value(Config::default()).unwrap();
    for description in descriptions(CONFIG_KEYS) {
        let default = default_text(&description, &defaults);
        assert!(!default.is_empty(), "`{}` has no default", description.key);
    }
}

/// With `KFORGE_UPDATE_DOCS=1` the page is written instead of compared.
#[test]
fn the_configuration_page_is_up_to_date() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    if std::env::var_os("KFORGE_UPDATE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page(),
        "docs/configuration.md is not what the code says: run `KFORGE_UPDATE_DOCS=1 cargo test --lib configuration_page`"
    );
}
