//! When to send a turned-away request again: what a server's headers and error messages say, and the default backoff.

use std::time::{Duration, SystemTime};

use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::header::HeaderMap;
use serde_json::Value;

use crate::base::{RandomStream, random};

/// A longer delay is cut to this many seconds. It exceeds any patience.
const MAX_WAIT_SECONDS: f64 = 14.0 * 24.0 * 3600.0;

/// The delay of `retry-after-ms`, else of `retry-after`, in seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |text: &str| {
        let value: f64 = text.parse().ok()?;
        (value >= 0.0).then(|| value.min(MAX_WAIT_SECONDS * 1000.0))
    };
    if let Some(milliseconds) = text("retry-after-ms").and_then(number) {
        return Some(limit_wait(milliseconds / 1000.0));
    }
    let after = text("retry-after")?;
    if let Some(seconds) = number(after) {
        return Some(limit_wait(seconds));
    }
    let until = parse_http_date(after)?.duration_since(now);
    Some(limit_wait(until.unwrap_or_default().as_secs_f64()))
}

/// The delay that the body of an error names: a field such as `retry_after`, a header that a router quotes, or a phrase such as
/// `try again in 6.2s`.
pub(super) fn retry_after_in_body(
    body: &Value,
    message: &str,
    now: SystemTime,
) -> Option<Duration> {
    let mut found = None;
    visit_fields(body, 0, &mut |name, value| {
        found = found.or_else(|| delay_of_field(name, value, now));
    });
    found.or_else(|| delay_in_text(message))
}

/// How deep fields of an error are looked for.
const MAX_CAUSES: usize = 6;

fn visit_fields(value: &Value, depth: usize, each: &mut impl FnMut(&str, &Value)) {
    if depth > MAX_CAUSES {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                each(name, value);
                visit_fields(value, depth + 1, each);
            }
        }
        Value::Array(values) => values
            .iter()
            .for_each(|value| visit_fields(value, depth + 1, each)),
        _ => {}
    }
}

fn delay_of_field(name: &str, value: &Value, now: SystemTime) -> Option<Duration> {
    let name = name.to_lowercase().replace(['-', '_'], "");
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let number = number.filter(|number| *number >= 0.0);
    match name.as_str() {
        "retryafterms" => Some(limit_wait(number? / 1000.0)),
        "retryafter" | "retryafterseconds" | "retryin" | "retrydelay" => match number {
            Some(seconds) => Some(limit_wait(seconds)),
            // Google writes `"34s"`.
            None => parse_duration(value.as_str()?),
        },
        // OpenRouter writes milliseconds since 1970.
        "xratelimitreset" => {
            let number = number.filter(|number| *number > 1e9)?;
            let seconds = if number > 1e11 {
                number / 1000.0
            } else {
                number
            };
            let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            Some(limit_wait((seconds - now.as_secs_f64()).max(0.0)))
        }
        _ => None,
    }
}

/// The delay that an English message names: `Please try again in 1m6.4s`, `retry after 30 seconds`.
fn delay_in_text(message: &str) -> Option<Duration> {
    const PHRASES: [&str; 5] = [
        "try again in ",
        "retry in ",
        "retry after ",
        "again after ",
        "wait ",
    ];
    let message = message.to_lowercase();
    PHRASES.iter().find_map(|phrase| {
        let (_, rest) = message.split_once(phrase)?;
        parse_duration(rest)
    })
}

/// The duration at the start of a text: `34s`, `6.2 seconds`, `20ms`, `1m6.4s`, `2 minutes`, `1h`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim_start();
    let mut seconds = None;
    loop {
        let digits = rest
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .unwrap_or(rest.len());
        let Ok(number) = rest[..digits].trim_end_matches('.').parse::<f64>() else {
            break;
        };
        let after = rest[digits..].trim_start();
        let letters = after
            .find(|letter: char| !letter.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let unit = match &after[..letters] {
            "ms" | "millisecond" | "milliseconds" => 0.001,
            "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hour" | "hours" => 3600.0,
            _ => break,
        };
        seconds = Some(seconds.unwrap_or(0.0) + number * unit);
        rest = &after[letters..];
    }
    seconds.map(limit_wait)
}

fn limit_wait(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, MAX_WAIT_SECONDS))
}

/// Whether the server asks for a retry, in the header `x-should-retry`.
pub(super) fn should_retry(headers: &HeaderMap) -> Option<bool> {
    match headers.get("x-should-retry")?.to_str().ok()?.trim() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// Half a second, doubled with every try up to 8 s, less up to a quarter at random, so that requests that failed together are not
/// resent together.
pub(super) fn backoff(tries: u32) -> Duration {
    let whole = 0.5 * f64::from(1 << tries.saturating_sub(1).min(4));
    let jitter = RandomStream::new(random::fresh_seed(), "backoff", 0).uniform();
    Duration::from_secs_f64(whole * (1.0 - 0.25 * jitter))
}

/// A date as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`. A wrong day of the week is ignored.
fn parse_http_date(text: &str) -> Option<SystemTime> {
    let parser = DateTimeParser::new().relaxed_weekday(true);
    let date = parser.parse_timestamp(text).ok()?;
    Some(SystemTime::from(date))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use serde_json::json;

    use super::*;

    fn after(pairs: &[(&'static str, &'static str)]) -> Option<f64> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        retry_after(&headers, now).map(|wait| wait.as_secs_f64())
    }

    #[test]
    fn retry_after_is_read_in_all_its_forms() {
        assert_eq!(after(&[("retry-after", "7")]), Some(7.0));
        assert_eq!(after(&[("retry-after", "0.5")]), Some(0.5));
        assert_eq!(
            after(&[("retry-after-ms", "250"), ("retry-after", "7")]),
            Some(0.25)
        );
        assert_eq!(
            after(&[("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT")]),
            Some(10.0)
        );
        assert_eq!(
            after(&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]),
            Some(0.0)
        );
        assert_eq!(
            after(&[("retry-after", "Mon, 07 Nov 1994 08:49:37 GMT")]),
            Some(86_400.0)
        );
        assert_eq!(
            after(&[("retry-after", "Fri, 31 Dec 9998 23:59:59 GMT")]),
            Some(MAX_WAIT_SECONDS)
        );
        for odd in [
            "",
            "soon",
            "-1",
            "NaN",
            "Sun, 06 Foo 1994 08:49:47 GMT",
            "Sun, 99 Nov 1994 08:49:47 GMT",
            ", a b c d",
        ] {
            assert_eq!(after(&[("retry-after", odd)]), None, "{odd}");
        }
        assert_eq!(after(&[("retry-after", "1e300")]), Some(MAX_WAIT_SECONDS));
        assert_eq!(after(&[]), None);
    }

    #[test]
    fn retry_after_is_read_from_bodies() {
        let now = UNIX_EPOCH + Duration::from_secs(1_741_305_500);
        for (body, message, expected) in [
            (json!({"error": {"retry_after": 7}}), "", Some(7.0)),
            (json!({"retry_after_ms": "250"}), "", Some(0.25)),
            (
                json!({"error": {"details": [{"@type": "RetryInfo", "retryDelay": "34.5s"}]}}),
                "",
                Some(34.5),
            ),
            (
                json!({"error": {"metadata": {"headers": {"X-RateLimit-Reset": "1741305600000"}}}}),
                "",
                Some(100.0),
            ),
            (
                json!({}),
                "Rate limit reached. Please try again in 1m6.5s. See the docs.",
                Some(66.5),
            ),
            (json!({}), "Please retry in 20ms.", Some(0.02)),
            (json!({}), "Retry after 30 seconds", Some(30.0)),
            (json!({}), "please wait 2 minutes", Some(120.0)),
            (json!({}), "try again in a while", None),
            (json!({"retry_after": -1}), "wait for it", None),
            (json!({"retry_after": null}), "", None),
        ] {
            let after = retry_after_in_body(&body, message, now);
            let expected = expected.map(Duration::from_secs_f64);
            assert_eq!(after, expected, "{body} {message}");
        }
    }

    #[test]
    fn backoff_doubles_up_to_eight_seconds() {
        for (tries, whole) in [
            (1, 0.5),
            (2, 1.0),
            (3, 2.0),
            (4, 4.0),
            (5, 8.0),
            (6, 8.0),
            (1000, 8.0),
        ] {
            let wait = backoff(tries).as_secs_f64();
            assert!((0.75 * whole..=whole).contains(&wait), "{tries}: {wait}");
        }
    }
}
