//! A block of lines at the bottom of a terminal that is drawn again in place.
//!
//! Makes text with escape codes and writes nothing. The cursor stays visible, below the block, at the start of a line, so a process that
//! is killed leaves the terminal in order.

use console::measure_text_width;

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TerminalSize {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

/// What is on the terminal now.
#[derive(Debug, Default)]
pub(crate) struct TerminalBlock {
    /// The width of each line.
    widths: Vec<usize>,
}

impl TerminalBlock {
    /// The text that removes the block. `columns`: those of the terminal now.
    pub(crate) fn clear(&mut self, columns: usize) -> String {
        if self.widths.is_empty() {
            return String::new();
        }
        self.return_to_start(columns) + "\x1b[J"
    }

    /// The text that draws lines in the place of the block, below `above`: whole lines that stay on the terminal. No line may be as wide as
    /// the terminal.
    pub(crate) fn draw(&mut self, above: &str, lines: &[String], columns: usize) -> String {
        let mut text = if above.is_empty() {
            // Some terminals save what they erase, so the lines are written over the old ones.
            self.return_to_start(columns)
        } else {
            self.clear(columns) + above
        };
        for line in lines {
            text += line;
            text += "\x1b[K\n";
        }
        text += "\x1b[J";
        self.widths = lines.iter().map(|line| measure_text_width(line)).collect();
        text
    }

    /// The text that moves the cursor to the start of the block. A terminal that became narrower has wrapped the lines.
    fn return_to_start(&mut self, columns: usize) -> String {
        let columns = columns.max(1);
        let widths = self.widths.drain(..);
        let rows = widths.map(|width| width.div_ceil(columns).max(1));
        match rows.sum::<usize>() {
            0 => "\r".to_owned(),
            rows => format!("\r\x1b[{rows}A"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A terminal that knows what a block uses, and wraps its lines again when its width changes.
    struct Screen {
        lines: Vec<Vec<char>>,
        row: usize,
        column: usize,
    }

    impl Screen {
        fn new() -> Self {
            Self {
                lines: vec![Vec::new()],
                row: 0,
                column: 0,
            }
        }

        fn write(&mut self, text: &str) {
            let mut rest = text;
            while let Some(letter) = rest.chars().next() {
                match rest.strip_prefix("\x1b[") {
                    Some(code) => {
                        let end = code.find(|letter: char| letter.is_ascii_alphabetic());
                        let (number, after) = code.split_at(end.unwrap());
                        self.obey(&after[..1], number);
                        rest = &after[1..];
                    }
                    None => {
                        self.put(letter);
                        rest = &rest[letter.len_utf8()..];
                    }
                }
            }
        }

        fn obey(&mut self, code: &str, number: &str) {
            match code {
                "A" => self.row = self.row.saturating_sub(number.parse().unwrap()),
                "K" => self.lines[self.row].truncate(self.column),
                "J" => {
                    self.lines[self.row].truncate(self.column);
                    self.lines.truncate(self.row + 1);
                }
                other => panic!("unknown code {other}"),
            }
        }

        fn put(&mut self, letter: char) {
            match letter {
                '\r' => self.column = 0,
                '\n' => {
                    self.row += 1;
                    self.column = 0;
                    if self.row == self.lines.len() {
                        self.lines.push(Vec::new());
                    }
                }
                letter => {
                    let line = &mut self.lines[self.row];
                    line.resize(line.len().max(self.column + 1), ' ');
                    line[self.column] = letter;
                    self.column += 1;
                }
            }
        }

        fn resize(&mut self, columns: usize) {
            let wrapped = self.lines.iter().flat_map(|line| {
                let rows = line.chunks(columns).map(<[char]>::to_vec);
                let rows: Vec<_> = rows.collect();
                if rows.is_empty() {
                    vec![Vec::new()]
                } else {
                    rows
                }
            });
            self.lines = wrapped.collect();
            self.row = self.lines.len() - 1;
        }

        fn text(&self) -> Vec<String> {
            self.lines
                .iter()
                .map(|line| line.iter().collect())
                .collect()
        }
    }

    fn lines(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn block_is_replaced_in_place_and_other_lines_stay_above_it() {
        let (mut screen, mut block) = (Screen::new(), TerminalBlock::default());
        screen.write("$ kforge\n");
        screen.write(&block.draw("", &lines(&["one", "two", "three"]), 80));
        screen.write(&block.draw("warning\n", &lines(&["four"]), 80));
        assert_eq!(screen.text(), ["$ kforge", "warning", "four", ""]);
        screen.write(&block.clear(80));
        assert_eq!(screen.text(), ["$ kforge", "warning", ""]);
        assert_eq!(block.clear(80), "", "it is gone already");
    }

    #[test]
    fn nothing_is_left_of_a_block_after_a_resize() {
        for narrow in [7, 20, 40, 79, 120] {
            let (mut screen, mut block) = (Screen::new(), TerminalBlock::default());
            let wide = "x".repeat(79);
            screen.write(&block.draw("before\n", &lines(&[&wide, "", "y", &wide]), 80));
            screen.resize(narrow);
            screen.write(&block.draw("", &lines(&["z"]), narrow));
            assert_eq!(screen.text(), ["before", "z", ""], "{narrow} columns");
        }
    }
}
