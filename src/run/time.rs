//! Timestamps of the journals: RFC 3339 in UTC with milliseconds, always 24 characters, so that they sort as text.
//!
//! Reads the system clock and nothing else.

use std::time::SystemTime;

use jiff::Timestamp;

/// Current time in milliseconds since 1970.
pub(crate) fn now_milliseconds() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| {
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Formats milliseconds since 1970 as `2026-01-31T12:00:00.000Z`. Times after the year 9999 become its last instant.
pub(crate) fn timestamp(milliseconds: u64) -> String {
    format!("{:.3}", instant(milliseconds))
}

/// Formats milliseconds since 1970 as part of a folder name: `20261121-053901`.
pub(crate) fn compact_timestamp(milliseconds: u64) -> String {
    instant(milliseconds).strftime("%Y%m%d-%H%M%S").to_string()
}

/// Reads the output of `timestamp`. `None` for any other text, other spellings of RFC 3339 included.
pub(crate) fn parse_timestamp(text: &str) -> Option<u64> {
    let instant: Timestamp = text.parse().ok()?;
    let milliseconds = u64::try_from(instant.as_millisecond()).ok()?;
    (timestamp(milliseconds) == text).then_some(milliseconds)
}

fn instant(milliseconds: u64) -> Timestamp {
    let milliseconds = i64::try_from(milliseconds).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_round_trip() {
        for (instant, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_200_123, "2024-03-01T00:00:00.123Z"),
            (4_102_444_799_999, "2099-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(timestamp(instant), text);
            assert_eq!(parse_timestamp(text), Some(instant));
        }
        for day in 0..200_000 {
            let instant = day * 86_400_000 + 1;
            assert_eq!(parse_timestamp(&timestamp(instant)), Some(instant));
        }
    }

    #[test]
    fn folder_names_have_seconds_and_no_separators() {
        assert_eq!(compact_timestamp(1_709_251_200_123), "20240301-000000");
    }

    #[test]
    fn invalid_timestamps_are_refused() {
        for text in [
            "",
            "2024-03-01",
            "2024-02-30T00:00:00.000Z",
            "2024-13-01T00:00:00.000Z",
            "1969-12-31T00:00:00.000Z",
            "2024-03-01T00:00:00.000+",
            "2024-03-0éT00:00:00.00Z",
            "2024-03-01 00:00:00.000Z",
            "2024-03-01T00:00:00.000+00:00",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }
}
