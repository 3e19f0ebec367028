//! The JSON Schema (draft-07) of a run config, for editors. Made from the tables in `keys` and the defaults of [`Config`].
//!
//! The parser is stricter than the schema about values that depend on each other. The schema is stricter in one thing: where text is
//! meant, a number or truth value needs quotes. The tests try values of every type on every key. Validates nothing itself.

use serde_json::{Map, Value, json};

use super::Config;
use super::keys::{
    CONFIG_KEYS, KeyDescription, MODEL_KEYS, PRICE_KEYS, descriptions, feature_meanings,
};
use crate::llm::ProviderName;

/// The schema of a run config.
///
/// # Panics
/// Never: a table with a type that has no schema fails the tests.
pub(crate) fn config_schema() -> Value {
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    let mut root = object(Map::new());
    for description in descriptions(CONFIG_KEYS) {
        let mut value = value_schema(&description);
        let path = description.key.split('.');
        let default = path.fold(&defaults, |value, part| &value[part]);
        if default.is_null() {
            allow_null(&mut value);
        } else {
            value["default"] = default.clone();
        }
        insert(&mut root, description.key, value);
    }
    root["properties"]["llm"]["properties"]["models"]["anyOf"] = models();
    let mut schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "kforge run config",
    });
    if let (Value::Object(schema), Value::Object(root)) = (&mut schema, root) {
        schema.extend(root);
    }
    schema
}

/// An object with these keys and no others.
fn object(properties: Map<String, Value>) -> Value {
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

/// Adds the schema of a dotted key, and those of the sections that contain it.
fn insert(section: &mut Value, key: &str, value: Value) {
    let properties = &mut section["properties"];
    match key.split_once('.') {
        None => properties[key] = value,
        Some((name, rest)) => {
            if properties[name].is_null() {
                properties[name] = object(Map::new());
            }
            insert(&mut properties[name], rest, value);
        }
    }
}

/// `null` stands for the default.
fn allow_null(value: &mut Value) {
    if let Some(name) = value["type"].as_str() {
        value["type"] = json!([name, "null"]);
    }
}

/// What may be written for a key, from the type in its description.
fn value_schema(description: &KeyDescription) -> Value {
    let (kind, range) = match description.kind.split_once(", ") {
        Some((kind, range)) if !kind.starts_with('`') => (kind, range),
        _ => (description.kind, ""),
    };
    let mut value = match (description.key, kind) {
        ("provider", _) => json!({"enum": ProviderName::ALL.map(|(name, _)| name)}),
        // Seeds that a double cannot hold are strings.
        ("seed", _) => {
            json!({"type": ["integer", "string", "null"], "minimum": 0, "pattern": "^[0-9]+$"})
        }
        ("price", _) => price(),
        ("extra", _) => json!({"type": "object"}),
        ("search.features", _) => features(),
        ("search.targets", _) => {
            let mut target = object(positive_numbers(&["speedup", "microseconds"]));
            target["minProperties"] = json!(1);
            json!({"type": "object", "additionalProperties": target})
        }
        ("search.target_tasks", _) => {
            let mut target = object(positive_numbers(&["speedup", "share"]));
            target["required"] = json!(["speedup", "share"]);
            target
        }
        ("eval.devices", _) => json!({"anyOf": [
            {"const": "all"},
            {"type": "array", "items": {"type": ["integer", "string"]}},
        ]}),
        // The caller adds what a model may be.
        ("llm.models", _) => json!({}),
        (_, "boolean") => json!({"type": "boolean"}),
        (_, "integer" | "number") => number(kind, range),
        (_, "list of names" | "list of texts" | "list of paths" | "list") => strings(),
        (_, "text" | "path" | "URL" | "name" | "`auto` or a name") => json!({"type": "string"}),
        (_, "map") => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        (_, choices) => {
            let names = choices.split(", ").map(|name| name.trim_matches('`'));
            json!({"enum": names.collect::<Vec<_>>()})
        }
    };
    let mut text = plain(description.meaning);
    if !description.unset.is_empty() && !description.unset.starts_with("required") {
        text += &format!(" Default: {}.", description.unset);
    }
    value["description"] = text.into();
    value
}

/// A number within a range such as `0 to 1`, `up to 3600` or `below 1`. No number of a config is negative.
fn number(kind: &str, range: &str) -> Value {
    let mut value = json!({"type": kind, "minimum": 0});
    let bound = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    if let Some(high) = range.strip_prefix("below ") {
        value["exclusiveMaximum"] = bound(high);
    } else if let Some(high) = range.strip_prefix("up to ") {
        value["maximum"] = bound(high);
    } else if let Some((low, high)) = range.split_once(" to ") {
        value["minimum"] = bound(low);
        value["maximum"] = bound(high);
    }
    value
}

/// Members that are numbers above 0.
fn positive_numbers(names: &[&str]) -> Map<String, Value> {
    let number = json!({"type": "number", "exclusiveMinimum": 0});
    let members = names.iter();
    members
        .map(|name| ((*name).to_owned(), number.clone()))
        .collect()
}

fn strings() -> Value {
    json!({"type": "array", "items": {"type": "string"}})
}

fn features() -> Value {
    let edges = json!({"type": "array", "items": {"type": "number"}});
    let names = feature_meanings().into_iter().map(|(name, meaning)| {
        let mut value = edges.clone();
        value["description"] = plain(meaning).into();
        (name.to_owned(), value)
    });
    object(names.collect())
}

/// `auto`, or a list of names and maps.
fn models() -> Value {
    let mut model = object(members(MODEL_KEYS));
    model["required"] = json!(["provider"]);
    let providers = ProviderName::ALL.map(|(name, _)| name).join("|");
    let name = json!({"type": "string", "pattern": format!("^({providers})(/|$)")});
    json!([
        {"const": "auto"},
        {"type": "array", "items": {"anyOf": [name, model]}},
    ])
}

fn price() -> Value {
    let mut price = object(members(PRICE_KEYS));
    price["required"] = json!(["input", "output"]);
    price
}

fn members(table: &'static str) -> Map<String, Value> {
    let lines = descriptions(table).into_iter();
    lines
        .map(|line| (line.key.to_owned(), value_schema(&line)))
        .collect()
}

/// A meaning without links, because an editor shows it as text.
fn plain(meaning: &str) -> String {
    let mut text = String::new();
    let mut rest = meaning;
    while let Some((before, after)) = rest.split_once('[') {
        let Some((name, after_link)) = after
            .split_once("](")
            .and_then(|(name, link)| Some((name, link.split_once(')')?.1)))
            .filter(|(name, _)| !name.contains(']'))
        else {
            text += before;
            text.push('[');
            rest = after;
            continue;
        };
        text += before;
        text += name;
        rest = after_link;
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::yaml;

    /// Values of every type. Texts that read as a number or truth value are left out: YAML has them without quotes.
    fn samples() -> Vec<Value> {
        serde_json::from_str(
            r#"[null, true, 7, 0, -1, 0.5, 1.5, "zzz", "auto", "all", [], ["zzz"], [7], [[7]], {}, {"zzz": 1}, {"zzz": "x"}]"#,
        )
        .unwrap()
    }

    fn is_valid(schema: &Value, instance: &Value) -> bool {
        let mut schemas = boon::Schemas::new();
        let mut compiler = boon::Compiler::new();
        compiler
            .add_resource("config.json", schema.clone())
            .unwrap();
        let index = compiler.compile("config.json", &mut schemas).unwrap();
        schemas.validate(instance, index).is_ok()
    }

    /// Whether the parser takes a config. JSON is YAML.
    fn is_parsed(config: &Value) -> Result<(), String> {
        let config: Config = yaml::read_inline(&config.to_string(), "test")
            .map_err(|failure| failure.to_string())?;
        config.check().map_err(|failure| failure.to_string())
    }

    fn nested(key: &str, value: Value) -> Value {
        let parts = key.rsplit('.');
        parts.fold(value, |value, part| json!({part: value}))
    }

    /// The sample with quotes around numbers and truth values: where the parser expects text it takes them without, and the schema
    /// does not.
    fn quoted(sample: &Value) -> Value {
        match sample {
            Value::Array(items) => items.iter().map(quoted).collect(),
            Value::Object(map) => {
                let quoted = map.iter().map(|(key, value)| (key.clone(), quoted(value)));
                Value::Object(quoted.collect())
            }
            other => Value::String(other.to_string()),
        }
    }

    /// Tries every sample on every key.
    fn compare(place: impl Fn(&str, Value) -> Value, keys: Vec<KeyDescription>, of: &str) {
        let schema = config_schema();
        let mut schemas = boon::Schemas::new();
        let mut compiler = boon::Compiler::new();
        compiler.add_resource("config.json", schema).unwrap();
        let index = compiler.compile("config.json", &mut schemas).unwrap();
        let mut wrong = Vec::new();
        for description in keys {
            let mut accepted = 0;
            for sample in samples() {
                let config = place(description.key, sample.clone());
                let is_valid = schemas.validate(&config, index).is_ok();
                accepted += usize::from(is_valid);
                let parsed = is_parsed(&config);
                // The schema does not know what depends on a value: 0 where only more makes sense, names of features.
                let error = parsed.as_ref().err();
                let is_wrong_type = error.is_some_and(|error| error.starts_with("test: "));
                let is_too_strict = parsed.is_ok()
                    && !is_valid
                    && !sample.is_null()
                    && schemas
                        .validate(&place(description.key, quoted(&sample)), index)
                        .is_err();
                if is_too_strict || is_wrong_type && is_valid {
                    wrong.push(format!(
                        "{of}{} = {sample}: schema {is_valid}, parser {parsed:?}",
                        description.key
                    ));
                }
            }
            assert!(accepted < samples().len(), "{of}{}", description.key);
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn schema_and_parser_agree_on_the_type_of_every_key() {
        compare(nested, descriptions(CONFIG_KEYS), "");
    }

    #[test]
    fn schema_and_parser_agree_on_the_type_of_every_key_of_a_model() {
        let model = |key: &str, value: Value| {
            let mut model = json!({"provider": "openai", "model": "m"});
            model[key] = value;
            nested("llm.models", json!([model]))
        };
        compare(model, descriptions(MODEL_KEYS), "model ");
        let price = |key: &str, value: Value| {
            let mut price = json!({"input": 1, "output": 1});
            price[key] = value;
            model("price", price)
        };
        compare(price, descriptions(PRICE_KEYS), "price ");
    }

    /// Numbers just outside a range of the schema are wrong for the parser too, and the ends of the range are not.
    #[test]
    fn ranges_are_those_of_the_parser() {
        let mut tried = 0;
        for description in descriptions(CONFIG_KEYS) {
            let value = value_schema(&description);
            let is_integer = value["type"] == "integer";
            let step = if is_integer { 1.0 } else { 0.001 };
            let number = |value: f64| {
                if is_integer {
                    json!(value as i64)
                } else {
                    json!(value)
                }
            };
            if let Some(low) = value["minimum"].as_f64() {
                let below = nested(description.key, number(low - step));
                assert!(is_parsed(&below).is_err(), "{below}");
            }
            for (bound, inside) in [("maximum", 0.0), ("exclusiveMaximum", -step)] {
                let Some(high) = value[bound].as_f64() else {
                    continue;
                };
                tried += 1;
                let above = nested(description.key, number(high + step));
                assert!(is_parsed(&above).is_err(), "{above}");
                let within = nested(description.key, number(high + inside));
                assert!(is_parsed(&within).is_ok(), "{within}");
            }
        }
        assert!(tried > 10);
    }

    #[test]
    fn choices_are_those_of_the_parser() {
        for description in descriptions(CONFIG_KEYS) {
            let value = value_schema(&description);
            let names = value["enum"].as_array().cloned().unwrap_or_default();
            for name in &names {
                let config = nested(description.key, name.clone());
                assert!(is_parsed(&config).is_ok(), "{config}");
            }
            if names.is_empty() {
                continue;
            }
            // Serde's own error lists every variant.
            let config = nested(description.key, json!("zzz"));
            let error = serde_json::from_value::<Config>(config).unwrap_err();
            let error = error.to_string();
            let (_, listed) = error.split_once("expected ").unwrap();
            let expected: Vec<_> = listed.split('`').skip(1).step_by(2).collect();
            assert_eq!(names, expected, "{}", description.key);
        }
    }

    #[test]
    fn every_shipped_config_is_valid_and_one_with_a_mistake_is_not() {
        let schema = config_schema();
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            count += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            let second = text.lines().nth(1).unwrap();
            assert_eq!(
                second, "# yaml-language-server: $schema=../docs/schema/config.json",
                "{path:?}"
            );
            let mut config: Value = yaml::read(&text, "config").unwrap();
            assert!(is_valid(&schema, &config), "{path:?}");
            config["stpes"] = json!(3);
            assert!(!is_valid(&schema, &config), "{path:?}");
        }
        assert!(count >= 10);
    }

    #[test]
    fn links_become_text() {
        assert_eq!(plain("a [b](#c) [d] e"), "a b [d] e");
    }
}
