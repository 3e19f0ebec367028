//! Lines of a compiler's output, as they may be shown: without folders of this machine, and with a length limit.

/// The most bytes of a compiler's log that are kept.
pub(super) const MAX_LOG_BYTES: usize = 4096;
/// Longest line that is shown. Some lines contain whole template types.
pub(super) const MAX_LINE_BYTES: usize = 600;

/// Replaces every absolute path by its last component.
pub(super) fn strip_directories(line: &str) -> String {
    let mut result = String::with_capacity(line.len());
    let ends = |letter: char| {
        letter.is_whitespace() || matches!(letter, ':' | ',' | ';' | ')' | '\'' | '"' | '`' | '>')
    };
    let mut rest = line;
    while let Some(start) = rest.find('/') {
        let is_path_start = rest[..start].chars().next_back().is_none_or(|before| {
            before.is_whitespace() || matches!(before, '\'' | '"' | '`' | '(' | '<')
        });
        let path = &rest[start..];
        let is_operator = ["//", "/*", "/="]
            .iter()
            .any(|other| path.starts_with(other));
        // Only the start of a path is scanned to its end, and then consumed, so a line of slashes takes linear time.
        let length = if is_path_start && !is_operator {
            path.find(ends).unwrap_or(path.len())
        } else {
            0
        };
        if length > 1 {
            result.push_str(&rest[..start]);
            result.push_str(path[..length].rsplit('/').next().unwrap_or_default());
            rest = &rest[start + length..];
        } else {
            result.push_str(&rest[..=start]);
            rest = &rest[start + 1..];
        }
    }
    result + rest
}

pub(super) fn truncate_line(line: &str) -> &str {
    if line.len() <= MAX_LINE_BYTES {
        return line;
    }
    let mut end = MAX_LINE_BYTES;
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    &line[..end]
}
