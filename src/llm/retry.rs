//! When to send a turned-away request again: what a server's headers say, and the default backoff.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::HeaderMap;

use crate::base::{RandomStream, random};

/// A longer delay is cut to this many seconds. It exceeds any patience.
const MAX_WAIT_SECONDS: f64 = 7.0 * 24.0 * 3600.0;

/// The delay of `retry-after-ms`, else of `retry-after`, in seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |text: &str| {
        let value: f64 = text.parse().ok()?;
        (value >= 0.0).then(|| value.min(MAX_WAIT_SECONDS * 1000.0))
    };
    if let Some(milliseconds) = text("retry-after-ms").and_then(number) {
        return Some(Duration::from_secs_f64(
            (milliseconds / 1000.0).min(MAX_WAIT_SECONDS),
        ));
    }
    let after = text("retry-after")?;
    if let Some(seconds) = number(after) {
        return Some(Duration::from_secs_f64(seconds.min(MAX_WAIT_SECONDS)));
    }
    let date = UNIX_EPOCH + Duration::from_secs(parse_http_date(after)?);
    Some(date.duration_since(now).unwrap_or_default())
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

/// Seconds since 1970 of a date as HTTP writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn parse_http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_, rest) = text.split_once(", ")?;
    let [day, month, year, time, zone] = rest.split_whitespace().collect::<Vec<_>>()[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let mut clock = time.split(':').map(|part| part.parse::<u64>().ok());
    let (hours, minutes, seconds) = (clock.next()??, clock.next()??, clock.next()??);
    let is_in_range = (1..=31).contains(&day)
        && (1970..=9999).contains(&year)
        && hours < 24
        && minutes < 60
        && seconds <= 60;
    if zone != "GMT" || !is_in_range {
        return None;
    }
    // Days of the proleptic Gregorian calendar, with years that start in March.
    let (year, month) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

#[cfg(test)]
mod tests {
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
            after(&[("retry-after", "Thu, 01 Jan 2026 00:00:00 GMT")]),
            Some(983_113_823.0)
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
