//! A note of kforge at the top of a kernel file that it writes for people: a comment in the YAML of the header.
//!
//! The file stays a valid kernel. The note changes its hash, so code that reads such a file as a kernel of a run removes the note first.

use std::borrow::Cow;

use super::header_comment::{find_header, has_star_lines};

/// How the note starts, and what follows the text.
const UNCONFIRMED: &str = "# UNCONFIRMED: ";
const SIGNATURE: &str = " (kforge, step ";

/// The source with a note as the first line of its header: that its figure is not confirmed, and from which step it is. `note` is one
/// line. A source without a header is returned as it is.
pub(crate) fn with_note<'s>(source: &'s str, note: &str, step: u64) -> Cow<'s, str> {
    let Ok(header) = find_header(source) else {
        return Cow::Borrowed(source);
    };
    let (head, body) = source.split_at(header.body.start);
    let star = if has_star_lines(&source[header.body]) {
        " * "
    } else {
        ""
    };
    Cow::Owned(format!(
        "{head}{star}{UNCONFIRMED}{note}{SIGNATURE}{step})\n{body}"
    ))
}

/// The source without the note that [`with_note`] has added.
pub(crate) fn without_note(source: &str) -> Cow<'_, str> {
    let Ok(header) = find_header(source) else {
        return Cow::Borrowed(source);
    };
    let (head, body) = source.split_at(header.body.start);
    match body.split_once('\n') {
        Some((first, rest)) if is_note(first) => Cow::Owned(format!("{head}{rest}")),
        _ => Cow::Borrowed(source),
    }
}

fn is_note(line: &str) -> bool {
    line.trim_start_matches(" * ").starts_with(UNCONFIRMED) && line.contains(SIGNATURE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Digest;
    use crate::kernel::Kernel;
    use crate::task::TaskFiles;

    const NOTE: &str = "~2.39x in the search, not measured again";

    #[test]
    fn every_shipped_kernel_stays_valid_and_gets_its_hash_back() {
        let tasks = ["softmax", "gdn_decode", "matmul", "attention_fp16"];
        for name in tasks {
            let task = TaskFiles::find(name).unwrap().load().unwrap();
            for (file, source) in task.starting_kernels() {
                let noted = with_note(source, NOTE, 7);
                let second = noted.lines().nth(1).unwrap();
                assert_eq!(
                    second,
                    "# UNCONFIRMED: ~2.39x in the search, not measured again (kforge, step 7)"
                );
                let [before, after] =
                    [source, &*noted].map(|text| Kernel::parse(text, &task.definition).unwrap());
                assert_eq!(
                    before.header.launches[0].kernel,
                    after.header.launches[0].kernel
                );
                assert_eq!(before.point(), after.point());
                assert_eq!(
                    Digest::of(&*without_note(&noted)),
                    Digest::of(source),
                    "{file}"
                );
                assert_eq!(without_note(source), source);
            }
        }
    }

    #[test]
    fn headers_of_any_form_take_a_note() {
        let task = TaskFiles::find("softmax").unwrap().load().unwrap();
        let launch = [
            "launch:",
            "  - kernel: k",
            "    grid: rows",
            "    block: 1",
            "    args: x, output, columns",
        ];
        let code = "__global__ void k(const float* x, float* output, int columns) {}\n";
        let stars = format!("/** kforge\n * {}\n */\n{code}", launch.join("\n * "));
        let indented = format!("\n/* kforge\n  {}\n*/\n{code}", launch.join("\n  "));
        let windows = format!("/* kforge\r\n{}\r\n*/\r\n{code}", launch.join("\r\n"));
        for source in [stars, indented, windows] {
            let noted = with_note(&source, NOTE, 7);
            assert!(noted.contains(NOTE));
            let kernel = Kernel::parse(&noted, &task.definition).unwrap();
            assert_eq!(kernel.header.launches.len(), 1, "{noted}");
            assert_eq!(without_note(&noted), source);
        }
        assert_eq!(with_note("int x;\n", NOTE, 7), "int x;\n");
    }
}
