//! The fastest configuration of a T4 file, the results format of the auto-tuning community.

use serde_json::{Map, Value};

use crate::base::Failure;

/// The fastest correct configuration: the least value of the first objective.
///
/// # Errors
/// If the text is no T4 file, or no result of it is correct.
pub(crate) fn fastest_configuration(
    text: &str,
    origin: &str,
) -> Result<Map<String, Value>, Failure> {
    let root: Value =
        serde_json::from_str(text).map_err(|error| Failure::usage(format!("{origin}: {error}")))?;
    let results = root["results"].as_array().ok_or_else(|| {
        Failure::usage(format!("{origin}: there is no list `results`"))
            .hint("a T4 file has `schema_version` and `results`")
    })?;
    let measured = results.iter().filter_map(|result| {
        let configuration = result["configuration"].as_object()?;
        Some((value_of(result)?, configuration))
    });
    let fastest = measured.min_by(|one, other| one.0.total_cmp(&other.0));
    fastest
        .map(|(_, configuration)| configuration.clone())
        .ok_or_else(|| {
            Failure::usage(format!("{origin}: no result is correct and has a value"))
                .hint("results of T4 have `invalidity`, `objectives` and `measurements`")
        })
}

/// The first objective of a correct result.
fn value_of(result: &Value) -> Option<f64> {
    let invalidity = result["invalidity"].as_str().unwrap_or("correct");
    let objective = result["objectives"].as_array()?.first()?;
    let measurements = result["measurements"].as_array()?.iter();
    let mut found = measurements.filter(|one| one["name"] == *objective);
    let value = found.next()?["value"].as_f64()?;
    (invalidity == "correct").then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_fastest_correct_result_is_found() {
        let result = |size: u32, invalidity: &str, time: Value| {
            json!({"configuration": {"block": size}, "invalidity": invalidity, "objectives": ["time"],
                "measurements": [{"name": "other", "value": 0.0}, {"name": "time", "value": time}]})
        };
        let results = json!({"schema_version": "1.0.0", "results": [
            result(16, "correct", json!(3.0)),
            result(32, "runtime", json!(1.0)),
            result(64, "correct", json!(2.0)),
            result(128, "constraints", json!("")),
        ]});
        let found = fastest_configuration(&results.to_string(), "t4.json").unwrap();
        assert_eq!(found["block"], 64);
        let none = json!({"results": []}).to_string();
        let failure = fastest_configuration(&none, "t4.json").unwrap_err();
        assert!(failure.to_string().contains("no result is correct"));
        assert!(fastest_configuration("{}", "t4.json").is_err());
    }
}
