//! Turns NVRTC's log into diagnostics about the kernel file: with its line numbers, without folders of this machine, and without
//! messages about the code and the options that kforge added.
//!
//! The text stays untrusted: a candidate controls much of it. Compiles nothing: `compiler` does.

use crate::device::Refusal;
use crate::device::compiler_log::{MAX_LOG_BYTES, strip_directories, truncate_line};
use crate::verdict::{Evidence, Status};

const KERNEL: &str = "kernel.cu";
/// Prefixes of lines that concern code added by kforge, or that say nothing.
const NOISE_PREFIXES: &[&str] = &[
    "__nv_name_map",
    "Compilation terminated",
    "Remark:",
    "ptxas info",
    "ptxas         .",
    "\"kernel.cu\":",
    "ptxas fatal   : Ptx assembly aborted",
];

/// NVRTC's advice about its options, which the kernel's author cannot change.
const OPTION_ADVICE: &str = " Consider using -default-device";
/// Names in the checks that kforge appends to the kernel file.
const CHECK_MARKERS: &[&str] = &["kforge_check_"];

/// A refusal from NVRTC's log: the first error with its line, and all messages about the kernel.
pub(super) fn compile_error(log: &str, last_line: u32) -> Refusal {
    let shown = error_messages(log);
    let (line, message) = first_error(&shown).unwrap_or_else(|| {
        // The log complains only about names that the header uses, or about nothing.
        let message = log
            .lines()
            .find_map(|line| Some(line.split_once(" error: ")?.1));
        (None, message.unwrap_or("the compiler failed").to_owned())
    });
    let at_end = shown.starts_with("At end of source");
    let line = line.or(at_end.then_some(last_line));
    let message = truncate_line(&message).to_owned();
    Refusal {
        status: Status::CompileError,
        reason: match line {
            Some(line) => format!("line {line}: {message}"),
            None => message,
        },
        evidence: Box::new(Evidence {
            line,
            log: Some(shown),
            ..Evidence::default()
        }),
    }
}

/// The warnings about a kernel that compiles.
pub(super) fn warnings(log: &str) -> String {
    select_messages(log, |head| head.contains(": warning"))
}

fn error_messages(log: &str) -> String {
    select_messages(log, |head| {
        let is_count = head.contains(" detected in the compilation of ");
        !is_count
            && !head.contains(": warning")
            && !NOISE_PREFIXES.iter().any(|noise| head.starts_with(noise))
    })
}

/// Selects the messages whose first line is `wanted`, each with its excerpt, up to `MAX_LOG_BYTES` bytes.
fn select_messages(log: &str, wanted: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    let mut is_wanted = false;
    let mut is_caret_of_check = false;
    for line in log.lines() {
        let line = line.trim_end_matches('\r');
        if line.trim().is_empty() {
            continue;
        }
        // Excerpts, carets and template instantiation traces are indented.
        if !line.starts_with("  ") {
            is_wanted = wanted(line.trim_start());
        }
        if !is_wanted {
            continue;
        }
        // Excerpts of the launch checks are not lines of the kernel file.
        if std::mem::take(&mut is_caret_of_check) && line.trim() == "^" {
            continue;
        }
        if line.starts_with("  ") && CHECK_MARKERS.iter().any(|check| line.contains(check)) {
            is_caret_of_check = true;
            continue;
        }
        let line = line.split(OPTION_ADVICE).next().unwrap_or_default();
        let line = strip_directories(line);
        let line = truncate_line(&line);
        if text.len() + line.len() > MAX_LOG_BYTES {
            text.push_str("…\n");
            break;
        }
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// The first error with everything that NVRTC says about it.
pub(super) struct ErrorBlock {
    pub(super) message: String,
    /// The line of the kernel file that it names; empty for an error in a header.
    pub(super) lines: Vec<u32>,
    /// The message with its excerpt, without folders of this machine.
    pub(super) text: String,
}

/// The first error of a log.
pub(super) fn first_error_block(log: &str) -> Option<ErrorBlock> {
    let shown = error_messages(log);
    let (line, message) = first_error(&shown)?;
    let at = shown.lines().position(|line| error_text(line).is_some())?;
    let mut lines = shown.lines().skip(at);
    let first = lines.next()?;
    let rest = lines.take_while(|line| line.starts_with("  "));
    let text: Vec<_> = std::iter::once(first).chain(rest).collect();
    Some(ErrorBlock {
        message,
        lines: line.into_iter().collect(),
        text: text.join("\n"),
    })
}

/// The first error: its line in the kernel file and its text.
fn first_error(shown: &str) -> Option<(Option<u32>, String)> {
    let lines: Vec<_> = shown.lines().collect();
    let at = lines.iter().position(|line| error_text(line).is_some())?;
    let message = error_text(lines[at])?;
    let trace = lines[at + 1..]
        .iter()
        .take_while(|line| line.starts_with("  "));
    let line =
        kernel_line(lines[at]).or_else(|| trace.filter_map(|line| instantiation_line(line)).last());
    // The assembler's line numbers refer to PTX, so only the compiler's are used.
    let message = message
        .strip_prefix("static assertion failed with \"")
        .map_or(message, |message| message.trim_end_matches('"'));
    Some((line, message.to_owned()))
}

fn error_text(line: &str) -> Option<&str> {
    if line.starts_with("  ") {
        return None;
    }
    let markers = [
        " error: ",
        "catastrophic error: ",
        "error   : ",
        "fatal   : ",
        "error : ",
    ];
    let found = markers
        .iter()
        .find_map(|marker| Some(line.split_once(marker)?.1));
    found.map(str::trim)
}

fn kernel_line(line: &str) -> Option<u32> {
    let rest = line.strip_prefix(KERNEL)?.strip_prefix('(')?;
    rest.split(')').next()?.parse().ok()
}

/// The line in a trace such as `detected during … at line 12`, with or without `of "kernel.cu"`.
fn instantiation_line(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once("at line ")?;
    let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
    let after = rest[digits.len()..].trim();
    let is_kernel_file = !after.starts_with("of ") || after.contains(KERNEL);
    digits.parse().ok().filter(|_| is_kernel_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_keeps_its_line_and_caret_only() {
        let log = "kernel.cu(1): warning #177-D: variable \"A\" was declared but never referenced\n  constexpr int A = 1;\n                ^\n\nRemark: The warnings can be suppressed with \"-diag-suppress <warning-number>\"\n\nkernel.cu(12): error: identifier \"x\" is undefined\n      x = 1;\n      ^\n\n__nv_name_map(2): error: identifier \"k\" is undefined\n  #pragma nv_mangled_name k\n                          ^\n\n2 errors detected in the compilation of \"kernel.cu\".\n";
        let refusal = compile_error(log, 99);
        assert_eq!(refusal.reason, "line 12: identifier \"x\" is undefined");
        assert_eq!(refusal.evidence.line, Some(12));
        assert_eq!(
            refusal.evidence.log.as_deref(),
            Some("kernel.cu(12): error: identifier \"x\" is undefined\n      x = 1;\n      ^\n")
        );
        assert!(warnings(log).starts_with("kernel.cu(1): warning"));
    }

    #[test]
    fn header_error_names_the_kernel_line_and_no_folder() {
        let log = "/opt/cuda/include/cuda_fp16.hpp(77): error: no operator \"+\"\n  return a + b;\n           ^\n          detected during:\n            instantiation of \"f\" at line 9\n            instantiation of \"void g<T>() [with T=int]\" at line 31 of \"kernel.cu\"\n\n1 error detected in the compilation of \"kernel.cu\".\n";
        let refusal = compile_error(log, 99);
        assert_eq!(refusal.evidence.line, Some(31));
        assert!(!refusal.evidence.log.unwrap().contains("/opt"));
    }

    #[test]
    fn assembler_errors_are_reported() {
        let log = "ptxas info    : 0 bytes gmem\nptxas application ptx input, line 25; error   : Unknown modifier '.bar'\nptxas fatal   : Ptx assembly aborted due to errors\n";
        assert_eq!(compile_error(log, 99).reason, "Unknown modifier '.bar'");
        let log = "ptxas info    : Used 4 registers\n ptxas error   : Entry function 'k' uses too much shared data (0x61a80 bytes, 0xc000 max)\n";
        assert!(
            compile_error(log, 99)
                .reason
                .starts_with("Entry function 'k' uses")
        );
        assert_eq!(compile_error("", 1).reason, "the compiler failed");
    }

    #[test]
    fn log_and_reason_are_capped() {
        let line = "kernel.cu(1): error: é".to_owned() + &"é".repeat(100_000);
        let refusal = compile_error(&format!("{line}\n").repeat(20), 1);
        assert!(refusal.evidence.log.unwrap().len() < MAX_LOG_BYTES + 10);
        assert!(refusal.reason.len() < 700);
    }
}
