//! Finds the code blocks of a reply: fenced ones of any length and mark, indented, nested or unclosed, and kernels without a fence.
//!
//! Follows C++ comments and literals, so that a fence in a kernel's comment does not end the kernel. Never decides which block
//! is the kernel: `code` does.

use crate::kernel::lexer::CodeLines;

/// A code block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReplyBlock {
    /// The first word after the opening fence, in lower case.
    pub(super) language: String,
    pub(super) text: String,
    /// Whether the block has an end. An open block may be cut off.
    pub(super) closed: bool,
    /// Whether a closing fence ends it. Otherwise only its braces say that it is complete.
    pub(super) has_end_fence: bool,
}

/// A line of backticks or tildes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fence<'t> {
    mark: u8,
    length: usize,
    indentation: usize,
    /// The text after the marks.
    info: &'t str,
}

/// Maximum number of fences in one comment of a kernel. A comment with more counts as never closed.
const MAX_FENCES_IN_COMMENT: usize = 8;

/// Languages with which a kernel may be labelled.
const CODE_LANGUAGES: [&str; 12] = [
    "cuda", "cu", "cpp", "c++", "c", "cc", "cxx", "h", "hpp", "metal", "msl", "cuda-cpp",
];

/// Whether the text starts with the header comment of a kernel file.
pub(super) fn starts_with_header(text: &str) -> bool {
    text.trim_start()
        .strip_prefix("/*")
        .is_some_and(|rest| rest.trim_start_matches([' ', '\t']).starts_with("kforge"))
}

/// All blocks, in order.
pub(super) fn find_blocks(text: &str) -> Vec<ReplyBlock> {
    let lines: Vec<&str> = text.split('\n').collect();
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        if let Some(fence) = opening_fence(lines[at]) {
            at = read_fenced_block(&lines, at, fence, &mut blocks);
        } else if starts_with_header(lines[at]) {
            at = read_bare_kernel(&lines, at, &mut blocks);
        } else {
            at += 1;
        }
    }
    blocks
}

/// Reads the block after the opening fence in line `at`. Returns the line to continue with.
fn read_fenced_block(
    lines: &[&str],
    at: usize,
    fence: Fence<'_>,
    blocks: &mut Vec<ReplyBlock>,
) -> usize {
    // Some models write the header right after the fence.
    let (label, on_fence) = match fence.info.find("/*") {
        Some(code) if starts_with_header(&fence.info[code..]) => {
            (&fence.info[..code], Some(&fence.info[code..]))
        }
        _ => (fence.info, None),
    };
    let language = label
        .trim()
        .trim_start_matches(['{', '.'])
        .split([' ', '\t', ',', ':', '{', '}', '='])
        .next()
        .unwrap_or_default()
        .to_lowercase();
    let end = find_end(lines, at + 1, &fence, &language);
    let text_up_to = |to: usize| {
        let rest = lines[at + 1..to]
            .iter()
            .map(|line| strip_indentation(line, fence.indentation));
        let all: Vec<_> = on_fence.into_iter().chain(rest).collect();
        let mut text = all.join("\n");
        text.push('\n');
        text
    };
    let (text, has_end_fence, next) = match end {
        BlockEnd::Closed(to) => (text_up_to(to), true, to + 1),
        BlockEnd::Reopened(to) => (text_up_to(to), false, to),
        BlockEnd::AfterCode(to) => {
            let last = strip_indentation(lines[to], fence.indentation);
            let last = last.trim_end().trim_end_matches(fence.mark as char);
            (format!("{}{last}\n", text_up_to(to)), true, to + 1)
        }
        BlockEnd::Missing => {
            let count = code_line_count(&lines[at + 1..]);
            (text_up_to(at + 1 + count), false, lines.len())
        }
    };
    // Models forget the last fence: then a whole kernel is complete.
    let closed = has_end_fence || matches!(end, BlockEnd::Missing) && is_whole_kernel(&text);
    // Such as Markdown that contains the kernel's own block.
    let only_wraps_another =
        matches!(end, BlockEnd::Reopened(_)) && !CODE_LANGUAGES.contains(&language.as_str());
    // An empty block without an end is the closing fence of something else.
    if !only_wraps_another && (closed || !text.trim().is_empty()) {
        blocks.push(ReplyBlock {
            language,
            text,
            closed,
            has_end_fence,
        });
    }
    next
}

/// Reads a kernel without an opening fence, up to a closing fence or the end. Returns the line to continue with.
///
/// Such a kernel may still have a closing fence, which ends it.
fn read_bare_kernel(lines: &[&str], at: usize, blocks: &mut Vec<ReplyBlock>) -> usize {
    let fence = Fence {
        mark: b'`',
        length: 3,
        indentation: 0,
        info: "",
    };
    let end = find_end(lines, at, &fence, "cuda");
    let (to, next) = match end {
        BlockEnd::Closed(to) | BlockEnd::AfterCode(to) => (to, to + 1),
        BlockEnd::Reopened(to) => (to, to),
        BlockEnd::Missing => (lines.len(), lines.len()),
    };
    let has_fence = matches!(end, BlockEnd::Closed(_) | BlockEnd::AfterCode(_));
    let mut kept = lines[at..to].to_vec();
    match end {
        BlockEnd::AfterCode(to) => kept.push(lines[to].trim_end().trim_end_matches('`')),
        _ if !has_fence => kept.truncate(code_line_count(&kept)),
        _ => {}
    }
    let mut text = kept.join("\n");
    text.push('\n');
    blocks.push(ReplyBlock {
        language: String::new(),
        closed: has_fence || has_no_open_brace(&text),
        text,
        has_end_fence: has_fence,
    });
    next
}

/// Whether every brace, comment and literal that the text opens is closed.
fn has_no_open_brace(text: &str) -> bool {
    let mut code_lines = CodeLines::default();
    text.lines().for_each(|line| code_lines.read(line));
    code_lines.brace_depth() <= 0 && !code_lines.is_within()
}

/// Whether a text without an end fence is a whole kernel: its braces are closed, and every kernel that its header launches is there.
fn is_whole_kernel(text: &str) -> bool {
    let (header, body) = match text.split_once("*/") {
        Some((header, body)) if starts_with_header(text) => (header, body),
        _ => ("", text),
    };
    let defines = |name: &str| {
        let mut places = body.match_indices(name);
        places.any(|(at, _)| body[at + name.len()..].trim_start().starts_with('('))
    };
    text.contains('}') && has_no_open_brace(text) && launched_kernels(header).all(defines)
}

/// The names after `kernel:` in a header.
fn launched_kernels(header: &str) -> impl Iterator<Item = &str> {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    header.split("kernel:").skip(1).map(move |rest| {
        let rest = rest.trim_start_matches([' ', '"', '\'']);
        let end = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
        &rest[..end]
    })
}

/// The number of lines before the prose that follows a kernel: lines after the last closing brace without any sign of code.
fn code_line_count(lines: &[&str]) -> usize {
    let ends_code = |line: &&str| {
        let line = line.trim_end();
        line == "}" || line == "};" || line.starts_with("} //") || line.starts_with("#endif")
    };
    let Some(last) = lines.iter().rposition(ends_code) else {
        return lines.len();
    };
    let is_prose =
        |line: &&str| !line.contains(['{', '}', ';', '#']) && !line.trim_start().starts_with("//");
    if lines[last + 1..].iter().all(is_prose) {
        last + 1
    } else {
        lines.len()
    }
}

/// How a block ends, and in which line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockEnd {
    Closed(usize),
    /// Another block starts first.
    Reopened(usize),
    /// The fence follows code on the same line.
    AfterCode(usize),
    Missing,
}

/// The end of a block whose text starts at line `from`.
fn find_end(lines: &[&str], from: usize, fence: &Fence<'_>, language: &str) -> BlockEnd {
    let is_code = language.is_empty() || CODE_LANGUAGES.contains(&language);
    let found = is_code
        .then(|| end_outside_comments(lines, from, fence))
        .flatten()
        .or_else(|| first_end(lines, from, fence));
    found.unwrap_or_else(|| {
        end_after_code(lines, from, fence).map_or(BlockEnd::Missing, BlockEnd::AfterCode)
    })
}

/// The line whose last brace closes all open ones and is followed by the fence.
fn end_after_code(lines: &[&str], from: usize, fence: &Fence<'_>) -> Option<usize> {
    let mut code_lines = CodeLines::default();
    for (at, line) in lines.iter().enumerate().skip(from) {
        let line = line.trim_end();
        let code = line.trim_end_matches(fence.mark as char);
        code_lines.read(code);
        let is_fence = line.len() - code.len() >= fence.length && code.trim_end().ends_with('}');
        if is_fence && code_lines.brace_depth() <= 0 && !code_lines.is_within() {
            return Some(at);
        }
    }
    None
}

/// The first fence outside comments and literals that ends the block.
///
/// `None` if there is none, or if a comment seems never to be closed.
fn end_outside_comments(lines: &[&str], from: usize, fence: &Fence<'_>) -> Option<BlockEnd> {
    let mut code_lines = CodeLines::default();
    let mut skipped = 0;
    for (at, line) in lines.iter().enumerate().skip(from) {
        let found = end_at_line(line, fence, at);
        if !code_lines.is_within() {
            if found.is_some() {
                return found;
            }
            skipped = 0;
        } else if found.is_some() {
            skipped += 1;
        }
        let was_comment = code_lines.is_comment();
        code_lines.read(line);
        let opens_again = code_lines.has_nested_comment() && skipped > 0;
        // Fences in a comment come in pairs.
        let has_single_fence = skipped % 2 == 1 && was_comment && !code_lines.is_within();
        if opens_again || has_single_fence || skipped > MAX_FENCES_IN_COMMENT {
            return None;
        }
    }
    None
}

/// The first fence that ends the block, comments or not.
fn first_end(lines: &[&str], from: usize, fence: &Fence<'_>) -> Option<BlockEnd> {
    lines
        .iter()
        .enumerate()
        .skip(from)
        .find_map(|(at, line)| end_at_line(line, fence, at))
}

/// Whether line `at` ends the block that `open` started, and how.
fn end_at_line(line: &str, open: &Fence<'_>, at: usize) -> Option<BlockEnd> {
    // A shorter fence is text of the longer one's block.
    let fence =
        parse_fence(line).filter(|fence| fence.mark == open.mark && fence.length >= open.length)?;
    if fence.info.is_empty() {
        return Some(BlockEnd::Closed(at));
    }
    let is_label = !fence.info.contains([' ', '\t']) || CODE_LANGUAGES.contains(&fence.info);
    is_label.then_some(BlockEnd::Reopened(at))
}

/// A fence at the start of a line, indented or not.
fn parse_fence(line: &str) -> Option<Fence<'_>> {
    let text = line.trim_start_matches([' ', '\t']);
    let mark = *text.as_bytes().first()?;
    if mark != b'`' && mark != b'~' {
        return None;
    }
    let length = text.bytes().take_while(|byte| *byte == mark).count();
    let info = text[length..].trim();
    (length >= 3 && !info.contains(mark as char)).then_some(Fence {
        mark,
        length,
        indentation: line.len() - text.len(),
        info,
    })
}

/// A fence that opens a block: at the start of a line, or after prose if the name of a language follows.
fn opening_fence(line: &str) -> Option<Fence<'_>> {
    parse_fence(line).or_else(|| {
        let (prose, info) = line.rsplit_once("```")?;
        let info = info.trim();
        (CODE_LANGUAGES.contains(&info) && !prose.contains("```")).then_some(Fence {
            mark: b'`',
            length: 3,
            indentation: 0,
            info,
        })
    })
}

/// The line without the indentation of its fence. A line that is indented less loses all of its indentation.
fn strip_indentation(line: &str, max: usize) -> &str {
    let own = line.len() - line.trim_start_matches([' ', '\t']).len();
    &line[own.min(max)..]
}
