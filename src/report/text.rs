//! Small pieces of text that several reports share.

use std::io::IsTerminal;

use crate::verdict::DeviceIdentity;

/// A count with its noun: `1 cell`, `2 cells`. The plural is the noun with an `s`.
pub(crate) fn pluralize(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Every line of a text, indented by `spaces` and ended by a newline.
pub(super) fn indent(text: &str, spaces: usize) -> String {
    text.lines()
        .map(|line| format!("{:spaces$}{line}\n", ""))
        .collect()
}

/// Wraps a text to lines of at most `width` columns, including the indent of `spaces` spaces. Every line ends with a newline. A word
/// that is wider than a line, such as a path, stays whole.
pub(crate) fn wrap(text: &str, width: usize, spaces: usize) -> String {
    let options = textwrap::Options::new(width.saturating_sub(spaces))
        .break_words(false)
        .word_separator(textwrap::WordSeparator::AsciiSpace)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .wrap_algorithm(textwrap::WrapAlgorithm::FirstFit);
    let lines = textwrap::wrap(text, options);
    lines
        .iter()
        .map(|line| format!("{:spaces$}{line}\n", ""))
        .collect()
}

/// Like `wrap`, but the first line keeps the indent that the text has, and the others are indented by `spaces` more.
pub(crate) fn wrap_after_first(text: &str, width: usize, spaces: usize) -> String {
    let words = text.trim_start();
    let indent = text.len() - words.len();
    let wrapped = wrap(words, width, indent);
    let Some((first, _)) = wrapped.split_once('\n') else {
        return wrapped;
    };
    let rest = words[first.trim_start().len()..].trim_start();
    match rest {
        "" => wrapped,
        rest => format!("{first}\n{}", wrap(rest, width, indent + spaces)),
    }
}

/// The width to which messages are wrapped on a terminal: that of the narrowest common one.
pub(crate) const TERMINAL_WIDTH: usize = 80;

/// `34 s`, `2 min 05 s`, `1 h 04 min`.
pub(crate) fn duration_text(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// A message for standard error, ended by a newline. On a terminal its lines are wrapped at spaces, and keep their indent: a terminal
/// would break them within words.
pub(crate) fn message_for_stderr(text: &str) -> String {
    if !std::io::stderr().is_terminal() {
        return format!("{text}\n");
    }
    let columns = console::Term::stderr().size_checked();
    let columns = columns.map_or(TERMINAL_WIDTH, |(_, columns)| usize::from(columns));
    let width = columns.min(TERMINAL_WIDTH);
    let wrapped = text.lines().map(|line| {
        let words = line.trim_start();
        match words {
            "" => "\n".to_owned(),
            _ => wrap(words, width, line.len() - words.len()),
        }
    });
    wrapped.collect()
}

/// A line that names the device that times were measured on. A device with `cores` is a CPU; its line warns that CPU times do not
/// rank kernels for a GPU.
pub(super) fn device_note(device: &DeviceIdentity) -> String {
    match device.cores {
        Some(cores) => format!(
            "  CPU times on {} ({}): they rank kernels for this CPU, not for a GPU\n",
            pluralize(u64::from(cores), "core"),
            device.name
        ),
        None => format!("  measured on {}\n", device.name),
    }
}
