//! Numbers as text. Figures of the search have the mark `~` and two decimals; those of a confirmation have three and no mark.
//!
//! Pure.

use crate::verdict::Speedup;

/// `1.706x`, from a confirmation.
pub(super) fn confirmed(ratio: f64) -> String {
    format!("{ratio:.0$}x", decimals(ratio, 3))
}

/// `~1.83x`, from a search.
pub(super) fn provisional(ratio: f64) -> String {
    format!("~{ratio:.0$}x", decimals(ratio, 2))
}

/// `[1.633, 1.782]`
pub(super) fn confirmed_interval(ci95: [f64; 2]) -> String {
    interval(ci95, 3)
}

/// `[1.74, 1.91]`
pub(super) fn provisional_interval(ci95: [f64; 2]) -> String {
    interval(ci95, 2)
}

fn interval([low, high]: [f64; 2], digits: usize) -> String {
    let digits = decimals(high, digits);
    format!("[{low:.digits$}, {high:.digits$}]")
}

/// A figure with its interval.
pub(super) fn confirmed_speedup(speedup: &Speedup) -> String {
    format!(
        "{} {}",
        confirmed(speedup.geomean),
        confirmed_interval(speedup.ci95)
    )
}

/// A figure with its interval.
pub(super) fn provisional_speedup(speedup: &Speedup) -> String {
    format!(
        "{} {}",
        provisional(speedup.geomean),
        provisional_interval(speedup.ci95)
    )
}

/// Digits after the point: fewer for large numbers.
fn decimals(value: f64, digits: usize) -> usize {
    let fewer = [10.0, 100.0]
        .iter()
        .filter(|limit| value >= **limit)
        .count();
    digits.saturating_sub(fewer)
}

/// Microseconds as a time with three or four digits: `170.6 us`, `2.858 ms`, `1.20 s`.
pub(super) fn microseconds(us: f64) -> String {
    match us {
        us if us < 10.0 => format!("{us:.2} us"),
        us if us < 1000.0 => format!("{us:.1} us"),
        us if us < 1e6 => format!("{:.3} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// Seconds as a duration: `0.8 s`, `34 s`, `5 min`, `2 h 5 min`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round();
    match seconds {
        seconds if seconds < 10.0 => format!("{seconds:.1} s"),
        _ if whole < 120.0 => format!("{whole:.0} s"),
        seconds if seconds < 3600.0 => format!("{:.0} min", seconds / 60.0),
        seconds => {
            let minutes = (seconds / 60.0).round() as u64;
            format!("{} h {} min", minutes / 60, minutes % 60)
        }
    }
}

/// `$0.42`; more digits for small amounts.
pub(super) fn dollars(amount: f64) -> String {
    match amount {
        0.0 => "$0".to_owned(),
        amount if amount < 0.01 => format!("${amount:.4}"),
        amount => format!("${amount:.2}"),
    }
}

/// `12,345`
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share as a percentage: `93 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_say_how_sure_they_are() {
        assert_eq!(confirmed(1.7061), "1.706x");
        assert_eq!(confirmed(12.345), "12.35x");
        assert_eq!(provisional(1.8349), "~1.83x");
        assert_eq!(provisional(123.4), "~123x");
        assert_eq!(confirmed_interval([1.6333, 1.782]), "[1.633, 1.782]");
        assert_eq!(provisional_interval([9.5, 10.41]), "[9.5, 10.4]");
    }

    #[test]
    fn amounts_are_short() {
        assert_eq!(
            [4.1416, 170.57, 2858.1, 1.2e6].map(microseconds),
            ["4.14 us", "170.6 us", "2.858 ms", "1.20 s"]
        );
        assert_eq!(
            [0.84, 34.2, 300.0, 7500.0].map(duration),
            ["0.8 s", "34 s", "5 min", "2 h 5 min"]
        );
        assert_eq!([0.0, 0.0021, 1.5].map(dollars), ["$0", "$0.0021", "$1.50"]);
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
