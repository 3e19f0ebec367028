//! Numbers as prompts print them.

/// Three significant digits: `0.85`, `20.4`, `137`.
pub(super) fn format_significant(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// An end of an interval. It gets one more digit, so that the ends of a narrow interval differ.
pub(super) fn format_interval_end(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.3}")
    } else {
        format_significant(value)
    }
}

/// A share in percent: `7.6 %`, `30 %`.
pub(super) fn format_percent(share: f64) -> String {
    match share * 100.0 {
        percent if percent < 9.95 => format!("{percent:.1} %"),
        percent => format!("{percent:.0} %"),
    }
}

/// A value with an SI prefix: `3.10 TB`.
pub(super) fn format_si(value: f64, unit: &str) -> String {
    let prefixes = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let fits = prefixes.into_iter().find(|(size, _)| value.abs() >= *size);
    let (size, prefix) = fits.unwrap_or((1.0, ""));
    format!("{} {prefix}{unit}", format_significant(value / size))
}

/// A speedup in words: `14 % faster`, `equally fast`, or `takes 1.85x the baseline's time`, where `whose` is `the baseline's`.
///
/// A slowdown is given as time: "46 % slower" could mean 46 % less speed or 46 % more time.
pub(super) fn describe_speedup(speedup: f64, whose: &str) -> String {
    let percent = (speedup - 1.0) * 100.0;
    if percent.abs() < 0.5 {
        "equally fast".to_owned()
    } else if percent > 0.0 {
        format!("{percent:.0} % faster")
    } else {
        format!("takes {}x {whose} time", format_significant(1.0 / speedup))
    }
}
