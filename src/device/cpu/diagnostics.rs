//! Turns the compiler's output into a refusal: the kernel file's own lines, without folders of this machine or headers of the
//! runtime.
//!
//! The text stays untrusted, because a candidate chooses much of it. Compiles nothing.

use crate::device::Refusal;
use crate::device::compiler_log::{MAX_LOG_BYTES, strip_directories, truncate_line};
use crate::verdict::{Evidence, Status};

/// The name under which the compiler knows the kernel file.
pub(super) const KERNEL_FILE: &str = "kernel.cu";

/// The refusal for a compiler's output: the first error with its line, and the messages about the kernel file as its log.
pub(super) fn compile_error(output: &str) -> Refusal {
    let mut log = String::new();
    // Excerpts are indented and belong to the message before them.
    let mut is_about_kernel = true;
    for line in output.lines() {
        let line = strip_directories(line);
        if !line.starts_with(' ') {
            is_about_kernel = is_shown(&line);
        }
        if !is_about_kernel {
            continue;
        }
        let line = truncate_line(&line);
        if log.len() + line.len() > MAX_LOG_BYTES {
            log.push_str("…\n");
            break;
        }
        log.push_str(line);
        log.push('\n');
    }
    let (line, message) = first_error(output);
    // A message may be empty, or consist of a folder only.
    let message = match message.trim() {
        "" => "the compiler failed",
        message => truncate_line(message),
    };
    Refusal {
        status: Status::CompileError,
        reason: match line {
            Some(line) => format!("line {line}: {message}"),
            None => message.to_owned(),
        },
        evidence: Box::new(Evidence {
            line,
            log: Some(log),
            ..Evidence::default()
        }),
    }
}

/// Whether to show a line: messages about the kernel file, and errors anywhere, but not the include chain through the runtime's
/// headers.
fn is_shown(line: &str) -> bool {
    let is_noise = line.starts_with("In file included")
        || line.starts_with("compilation terminated")
        || line.starts_with("collect2:");
    line.starts_with(KERNEL_FILE)
        || (!is_noise && (error_message(line).is_some() || !is_header(line)))
}

/// Whether a line is about a header of the runtime or of the system.
fn is_header(line: &str) -> bool {
    let name = line.split(':').next().unwrap_or_default();
    name.ends_with(".h") || name.ends_with(".hpp") || name.starts_with("from ")
}

/// The first error with everything that the compiler says about it.
pub(super) struct ErrorBlock {
    pub(super) message: String,
    /// The lines of the kernel file that it names.
    pub(super) lines: Vec<u32>,
    /// The message, its notes and the quoted lines of source.
    pub(super) text: String,
}

/// The first error of a compiler's output.
pub(super) fn first_error_block(output: &str) -> Option<ErrorBlock> {
    let lines: Vec<_> = output.lines().collect();
    let at = (lines.iter()).position(|line| error_message(line).is_some())?;
    // The lines before an error in a header say what led to it.
    let is_context = |line: &&&str| {
        error_message(line).is_none() && !line.contains(": note: ") && !line.contains(" warning: ")
    };
    let before = lines[..at].iter().rev().take_while(is_context).count();
    let notes = lines[at + 1..].iter();
    let after = notes
        .take_while(|line| error_message(line).is_none())
        .count();
    let own = &lines[at..=at + after];
    let context = &lines[at - before..at];
    let mut named: Vec<_> = own.iter().filter_map(|line| kernel_line(line)).collect();
    if named.is_empty() {
        named.extend(context.iter().rev().find_map(|line| kernel_line(line)));
    }
    Some(ErrorBlock {
        message: error_message(lines[at]).unwrap_or_default().to_owned(),
        lines: named,
        text: own.join("\n"),
    })
}

/// The line of the first error in the kernel file, and its message.
fn first_error(output: &str) -> (Option<u32>, String) {
    let lines: Vec<_> = output.lines().collect();
    let at = lines.iter().position(|line| error_message(line).is_some());
    let Some(at) = at else {
        return (
            None,
            linker_error(&lines).unwrap_or_else(|| "the compiler failed".to_owned()),
        );
    };
    let message = error_message(lines[at]).unwrap_or_default();
    if message.starts_with("ld returned") || message.starts_with("linker command failed") {
        return (
            None,
            linker_error(&lines).unwrap_or_else(|| strip_directories(message)),
        );
    }
    // For an error in a header, gcc names the line of the kernel before the error, clang after it.
    let line = kernel_line(lines[at])
        .or_else(|| lines[..at].iter().rev().find_map(|line| kernel_line(line)))
        .or_else(|| {
            lines[at + 1..]
                .iter()
                .take_while(|line| error_message(line).is_none())
                .find_map(|line| kernel_line(line))
        });
    let message = message
        .strip_prefix("static assertion failed: ")
        .or_else(|| message.strip_prefix("static assertion failed due to requirement "))
        .unwrap_or(message);
    (line, strip_directories(message))
}

/// The message of a line that reports an error.
fn error_message(line: &str) -> Option<&str> {
    if line.starts_with(' ') {
        return None;
    }
    ["fatal error: ", "error: ", "Error: "]
        .iter()
        .find_map(|word| Some(line.split_once(word)?.1.trim()))
}

/// The line number of a message about the kernel file.
fn kernel_line(line: &str) -> Option<u32> {
    line.strip_prefix(KERNEL_FILE)?
        .strip_prefix(':')?
        .split(':')
        .next()?
        .parse()
        .ok()
}

/// The linker's message about an undefined or duplicate symbol.
fn linker_error(lines: &[&str]) -> Option<String> {
    lines.iter().find_map(|line| {
        let start = ["undefined reference to", "multiple definition of"]
            .iter()
            .find_map(|words| line.find(words))?;
        Some(strip_directories(&line[start..]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::cpu_time::thread_cpu_time;

    #[test]
    fn error_in_the_kernel_keeps_its_excerpt() {
        let output = "kernel.cu: In function 'void f(const float*, float*, int)':\nkernel.cu:5:10: error: 'undeclared' was not declared in this scope\n    5 |   s[0] = a / undeclared;\n      |          ^~~~~~~~~~\nkernel.cu:6:1: error: another\n";
        let refusal = compile_error(output);
        assert_eq!(refusal.evidence.line, Some(5));
        assert_eq!(
            refusal.reason,
            "line 5: 'undeclared' was not declared in this scope"
        );
        assert_eq!(refusal.evidence.log.as_deref(), Some(output));
    }

    #[test]
    fn error_in_a_header_names_the_kernel_line() {
        let gcc = "/home/me/.cache/kforge/building-x/entry.h: In instantiation of 'struct kforge::argument<2, float*, double*>':\n/home/me/.cache/kforge/building-x/entry.h:107:45:   required from 'struct kforge::Check<2>'\nkernel.cu:3:1:   required from here\n/home/me/.cache/kforge/building-x/entry.h:81:40: error: static assertion failed: argument 2: another type\n/home/me/.cache/kforge/building-x/entry.h:86:77: note: in expansion of macro 'A'\n   86 |  A\n";
        let refusal = compile_error(gcc);
        assert_eq!(refusal.evidence.line, Some(3));
        assert_eq!(refusal.reason, "line 3: argument 2: another type");
        let log = refusal.evidence.log.unwrap();
        assert_eq!(
            log,
            "kernel.cu:3:1:   required from here\nentry.h:81:40: error: static assertion failed: argument 2: another type\n"
        );
        let clang = "In file included from unit.cpp:1:\n/c/entry.h:81:5: error: no member\nkernel.cu:4:2: note: in instantiation\n2 errors generated.\n";
        assert_eq!(compile_error(clang).evidence.line, Some(4));
    }

    #[test]
    fn linker_and_assembler_messages_have_no_folders() {
        let refusal = compile_error(
            "/usr/bin/ld: unit.o: in function `f(int)':\nunit.cpp:(.text+0x5): undefined reference to `g(int)'\ncollect2: error: ld returned 1 exit status\n",
        );
        assert_eq!(refusal.reason, "undefined reference to `g(int)'");
        assert!(!refusal.evidence.log.unwrap().contains("/usr"));
        let refusal = compile_error(
            "/tmp/candidate-x/ccABC.s: Assembler messages:\n/tmp/candidate-x/ccABC.s:12: Error: no such instruction: `ldmatrix'\n",
        );
        assert_eq!(refusal.reason, "no such instruction: `ldmatrix'");
        assert!(!refusal.evidence.log.unwrap().contains("/tmp"));
        assert_eq!(compile_error("").reason, "the compiler failed");
        assert_eq!(compile_error("error: ").reason, "the compiler failed");
        assert_eq!(
            compile_error("kernel.cu:2:1: error: /a/").reason,
            "line 2: the compiler failed"
        );
    }

    #[test]
    fn log_is_capped() {
        let output = "kernel.cu:1:1: error: é".to_owned() + &"é".repeat(100_000);
        let refusal = compile_error(&format!("{output}\n").repeat(20));
        assert!(refusal.evidence.log.unwrap().len() < MAX_LOG_BYTES + 10);
        assert!(refusal.reason.len() < crate::device::compiler_log::MAX_LINE_BYTES + 20);
    }

    #[test]
    fn long_lines_do_not_take_quadratic_time() {
        let started = thread_cpu_time();
        for piece in ["/", "/*", "(//", "</=", "'/*"] {
            compile_error(&piece.repeat(200_000));
        }
        assert!((thread_cpu_time() - started).as_secs() < 5);
    }

    #[test]
    fn only_paths_are_shortened() {
        for (line, expected) in [
            ("  a = b / c; // d /* e */", "  a = b / c; // d /* e */"),
            ("x '/a/b/c.h:3'", "x 'c.h:3'"),
            ("/a/b", "b"),
            ("a/b/c.h", "a/b/c.h"),
            ("x /= 2", "x /= 2"),
        ] {
            assert_eq!(strip_directories(line), expected);
        }
    }
}
