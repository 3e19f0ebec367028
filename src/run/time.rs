//! Times as the journals write them: RFC 3339, UTC, milliseconds, always 24 characters, so that they sort as text.

use std::time::SystemTime;

/// The present, in milliseconds since 1970.
pub(crate) fn now_milliseconds() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| {
        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
    })
}

/// `2026-01-31T12:00:00.000Z`.
pub(crate) fn timestamp(milliseconds: u64) -> String {
    let (days, rest) = (milliseconds / 86_400_000, milliseconds % 86_400_000);
    let (year, month, day) = date(days);
    let (seconds, fraction) = (rest / 1000, rest % 1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{fraction:03}Z")
}

/// A moment as a name for a folder: `20261121-053901`.
pub(crate) fn compact_timestamp(milliseconds: u64) -> String {
    let kept = |letter: &char| letter.is_ascii_digit() || *letter == 'T';
    timestamp(milliseconds)
        .chars()
        .take(19)
        .filter(kept)
        .collect::<String>()
        .replace('T', "-")
}

/// The inverse of `timestamp`; `None` for anything else.
pub(crate) fn parse_timestamp(text: &str) -> Option<u64> {
    let shape = |(index, byte): (usize, &u8)| match index {
        4 | 7 => *byte == b'-',
        10 => *byte == b'T',
        13 | 16 => *byte == b':',
        19 => *byte == b'.',
        23 => *byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    if text.len() != 24 || !text.as_bytes().iter().enumerate().all(shape) {
        return None;
    }
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let days = days(year, month, day)?;
    let seconds = (number(11, 13)? * 60 + number(14, 16)?) * 60 + number(17, 19)?;
    Some(days * 86_400_000 + seconds * 1000 + number(20, 23)?)
}

/// Year, month and day of a day counted from 1970. Years are taken to begin in March, so that the leap day comes last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Days from 1970 to a date; `None` for one before it, or one that does not exist.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let march_year = if month <= 2 {
        year.checked_sub(1)?
    } else {
        year
    };
    let march_month = (month + 9) % 12;
    let day_of_year = (153 * march_month + 2) / 5 + day.checked_sub(1)?;
    let in_era = march_year % 400;
    let day_of_era = in_era * 365 + in_era / 4 - in_era / 100 + day_of_year;
    let days = (march_year / 400 * 146_097 + day_of_era).checked_sub(719_468)?;
    (date(days) == (year, month, day)).then_some(days)
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
    fn invalid_timestamps_are_refused() {
        for text in [
            "",
            "2024-03-01",
            "2024-02-30T00:00:00.000Z",
            "2024-13-01T00:00:00.000Z",
            "1969-12-31T00:00:00.000Z",
            "2024-03-01T00:00:00.000+",
            "2024-03-0éT00:00:00.00Z",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }
}
