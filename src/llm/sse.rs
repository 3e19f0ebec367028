//! A parser for server-sent events that arrive in arbitrary chunks.
//!
//! Keeps only the unfinished event. Event names are ignored: the protocols repeat them in the data.

use std::ops::ControlFlow;

/// The bytes that have arrived and are not a complete event yet.
#[derive(Debug, Default)]
pub(super) struct EventParser {
    /// The unfinished line.
    line: Vec<u8>,
    /// The data of the unfinished event.
    data: Vec<u8>,
    has_data: bool,
    /// Whether the last byte was a carriage return: a line feed right after it belongs to the same line end.
    after_return: bool,
    /// Whether a line has ended: a byte order mark is allowed only before the first line.
    past_first_line: bool,
}

impl EventParser {
    /// Takes the next bytes, and calls `each` with the data of every event that they complete. Stops when `each` breaks.
    pub(super) fn feed<B>(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(&str) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        while !bytes.is_empty() {
            if self.after_return && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                self.after_return = false;
                continue;
            }
            self.after_return = false;
            let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                self.line.extend_from_slice(bytes);
                break;
            };
            let (line, rest) = bytes.split_at(end);
            self.after_return = rest[0] == b'\r';
            bytes = &rest[1..];
            if self.line.is_empty() {
                self.end_line(line, &mut each)?;
            } else {
                self.line.extend_from_slice(line);
                let whole = std::mem::take(&mut self.line);
                let flow = self.end_line(&whole, &mut each);
                self.line = whole;
                self.line.clear();
                flow?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Ends the stream: an event without its closing empty line counts as complete.
    pub(super) fn finish<B>(
        &mut self,
        mut each: impl FnMut(&str) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.end_line(&line, &mut each)?;
        }
        self.end_line(b"", &mut each)
    }

    fn end_line<B>(
        &mut self,
        line: &[u8],
        each: &mut impl FnMut(&str) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let line = if self.past_first_line {
            line
        } else {
            line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
        };
        self.past_first_line = true;
        if line.is_empty() {
            if !std::mem::take(&mut self.has_data) {
                return ControlFlow::Continue(());
            }
            let flow = each(&String::from_utf8_lossy(&self.data));
            self.data.clear();
            return flow;
        }
        // llama.cpp reports an error in a field of its own.
        if let Some(error) = line.strip_prefix(b"error:") {
            let error = error.trim_ascii_start();
            if error.starts_with(b"{") && !self.has_data {
                self.data = [b"{\"error\": ", error, b"}"].concat();
                self.has_data = true;
            }
            return ControlFlow::Continue(());
        }
        let Some(value) = line.strip_prefix(b"data") else {
            return ControlFlow::Continue(());
        };
        let value = match value {
            [] => value,
            [b':', b' ', value @ ..] | [b':', value @ ..] => value,
            // Another field whose name starts with `data`.
            _ => return ControlFlow::Continue(()),
        };
        if self.has_data {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
        self.has_data = true;
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_pieces(pieces: &[&[u8]]) -> Vec<String> {
        let mut events = EventParser::default();
        let mut found = Vec::new();
        let mut each = |data: &str| {
            found.push(data.to_owned());
            ControlFlow::<()>::Continue(())
        };
        for piece in pieces {
            assert!(events.feed(piece, &mut each).is_continue());
        }
        assert!(events.finish(&mut each).is_continue());
        found
    }

    const STREAM: &str = "\u{feff}event: a\ndata: {\"x\": \"ü\"}\n\n: ping\r\n\r\ndata:one\r\ndata: two\r\rdatabase: no\nid: 7\n\ndata\n\ndata: last";

    #[test]
    fn events_do_not_depend_on_chunk_boundaries() {
        let expected = ["{\"x\": \"ü\"}", "one\ntwo", "", "last"];
        let bytes = STREAM.as_bytes();
        assert_eq!(parse_pieces(&[bytes]), expected);
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(
                    parse_pieces(&pieces),
                    expected,
                    "cut at {first} and {second}"
                );
            }
        }
        let single: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(parse_pieces(&single), expected);
    }

    #[test]
    fn error_field_is_an_event() {
        let events = parse_pieces(&[b"data: 1\n\nerror: {\"code\": 500}\n\n"]);
        assert_eq!(events, ["1", "{\"error\": {\"code\": 500}}"]);
    }

    #[test]
    fn break_stops_parsing() {
        let mut events = EventParser::default();
        let flow = events.feed(b"data: 1\n\ndata: 2\n\n", |data| {
            ControlFlow::Break(data.to_owned())
        });
        assert_eq!(flow, ControlFlow::Break("1".to_owned()));
    }
}
