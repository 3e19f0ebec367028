//! Compute Sanitizer: its four checks, its arguments, and its log as findings.
//!
//! Runs nothing. Reports about the harness kernels or about calls on the host are not findings; warnings are returned separately.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::verdict::Status;

/// The program.
pub(crate) const NAME: &str = "compute-sanitizer";

/// The checks in the order in which they are run, the most severe first.
pub(crate) const CHECKS: [&str; 4] = ["memcheck", "racecheck", "initcheck", "synccheck"];

/// The prefix of every line that the tool writes.
const LINE_PREFIX: &str = "=========";
/// Limit for the text of a finding, in characters.
const MAX_FINDING_CHARS: usize = 4096;

/// A finding of the tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SanitizerFinding {
    pub status: Status,
    /// The first line.
    pub title: String,
    /// Line of the kernel file, counted from 1.
    pub line: Option<u32>,
    pub block: Option<[u32; 3]>,
    pub thread: Option<[u32; 3]>,
    /// All lines, without stack frames of the host.
    pub text: String,
}

/// A parsed log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SanitizerLog {
    /// Findings about the kernel, in the tool's order.
    pub findings: Vec<SanitizerFinding>,
    /// Warnings about the kernel, at most one for each line of the kernel file.
    pub warnings: Vec<String>,
    /// Whether the log has a summary. Without one, nothing is known.
    pub complete: bool,
    /// Why the tool checked nothing, in one line.
    pub failure: Option<String>,
}

/// Why a check is meaningless for a kernel with these features. `fact` returns a feature by name.
pub(crate) fn skip_reason(check: &str, fact: impl Fn(&str) -> f64) -> Option<String> {
    let uses = |names: &[&str]| names.iter().any(|name| fact(name) > 0.0);
    let copies = ["tensor_copies", "bulk_copies"];
    match check {
        "racecheck" if uses(&copies) || uses(&["wgmma"]) => {
            Some("it does not track accesses of bulk copies and wgmma to shared memory".to_owned())
        }
        "initcheck" if uses(&copies) => Some("it does not track writes of bulk copies".to_owned()),
        _ => None,
    }
}

/// The arguments before the checked program.
pub(crate) fn arguments(check: &str, log: &Path) -> Vec<OsString> {
    super::os_strings([
        OsStr::new("--tool"),
        OsStr::new(check),
        OsStr::new("--target-processes"),
        OsStr::new("application-only"),
        OsStr::new("--print-limit"),
        OsStr::new("50"),
        OsStr::new("--log-file"),
        log.as_os_str(),
    ])
}

/// Parses a log. `kernels`: the kernel expressions of the header.
pub(crate) fn parse_log(log: &str, kernels: &[String]) -> SanitizerLog {
    let names: Vec<&str> = kernels.iter().map(|name| base_name(name)).collect();
    let mut read = SanitizerLog::default();
    let mut block: Vec<&str> = Vec::new();
    for line in log.lines() {
        let Some(said) = line.strip_prefix(LINE_PREFIX) else {
            continue;
        };
        let begins = said
            .strip_prefix(' ')
            .is_some_and(|rest| rest.starts_with(|letter: char| !letter.is_whitespace()));
        if begins {
            read.add_block(&block, &names);
            block.clear();
        }
        if !said.trim().is_empty() {
            block.push(said.trim());
        }
    }
    read.add_block(&block, &names);
    read
}

impl SanitizerLog {
    fn add_block(&mut self, block: &[&str], names: &[&str]) {
        let Some(title) = block.first() else { return };
        let lower = title.to_lowercase();
        if lower.contains("summary:") {
            self.complete = true;
            return;
        }
        let trouble = [
            "not supported",
            "unsupported",
            "no attachable process",
            "terminated before first instrumented",
            "internal sanitizer error",
            "out of memory",
            "insufficient driver",
            "unable to",
        ];
        if is_warning(&lower) {
            let line = line_of(&block.join("\n"));
            let warning = line.map(|line| format!("line {line}: {}", describe_race(title)));
            if let Some(warning) = warning.filter(|warning| !self.warnings.contains(warning)) {
                self.warnings.push(warning);
            }
            return;
        }
        let Some(status) = status_of(&lower, block) else {
            if trouble.iter().any(|words| lower.contains(words)) {
                self.failure.get_or_insert_with(|| truncated(title, 300));
            }
            return;
        };
        let of_device = block.iter().filter(|line| !is_host_frame(line));
        let of_device: Vec<&str> = of_device.copied().collect();
        let words = of_device.join("\n");
        let line = line_of(&words);
        if line.is_none() && !names.iter().any(|name| mentions_function(&words, name)) {
            return;
        }
        self.findings.push(SanitizerFinding {
            status,
            title: truncated(title, 300),
            line,
            thread: parse_triple(&words, "thread ("),
            block: parse_triple(&words, "block ("),
            text: truncated(&words, MAX_FINDING_CHARS),
        });
    }
}

fn is_warning(title: &str) -> bool {
    title.starts_with("warning: race reported")
        || (title.starts_with("warning: potential") && title.contains("hazard"))
}

/// `a read races`, from `Warning: Race reported between Read access at ...`.
fn describe_race(title: &str) -> String {
    let kind = title.split(" access").next().unwrap_or(title);
    let kind = kind.split_whitespace().next_back().unwrap_or("place");
    format!("a {} races", truncated(&kind.to_lowercase(), 20))
}

fn is_host_frame(line: &str) -> bool {
    line.starts_with("Saved host backtrace") || line.contains("Host Frame")
}

fn status_of(title: &str, block: &[&str]) -> Option<Status> {
    let says = |words: &str| block.iter().any(|line| line.to_lowercase().contains(words));
    let is_access = title.starts_with("invalid __") || title.starts_with("misaligned");
    Some(match title {
        _ if is_access && says("misaligned") => Status::Misaligned,
        _ if is_access => Status::OutOfBounds,
        _ if title.starts_with("uninitialized __") => Status::UninitializedRead,
        _ if title.starts_with("error: race reported") => Status::Race,
        _ if title.starts_with("error: potential") && title.contains("hazard") => Status::Race,
        _ if title.starts_with("barrier error") => Status::SyncError,
        _ => return None,
    })
}

/// `rows` for `mine::rows<4>`.
fn base_name(expression: &str) -> &str {
    let bare = expression.split('<').next().unwrap_or(expression);
    bare.rsplit("::").next().unwrap_or(bare).trim()
}

/// The first line of the kernel file that the text names.
fn line_of(words: &str) -> Option<u32> {
    words.match_indices("kernel.cu:").find_map(|(at, name)| {
        let digits: String = (words[at + name.len()..].chars())
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse().ok().filter(|line| *line > 0)
    })
}

/// Whether the text mentions a function of this name.
fn mentions_function(words: &str, name: &str) -> bool {
    let in_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    !name.is_empty()
        && words.match_indices(name).any(|(at, _)| {
            let before = words[..at].chars().next_back();
            let behind = words[at + name.len()..].chars().next();
            !before.is_some_and(in_name) && matches!(behind, Some('(' | '<' | '+'))
        })
}

/// The three numbers after `before`.
fn parse_triple(text: &str, before: &str) -> Option<[u32; 3]> {
    let inside = text.split(before).nth(1)?.split(')').next()?;
    let mut numbers = inside.split(',').map(|number| number.trim().parse().ok());
    let triple = [numbers.next()??, numbers.next()??, numbers.next()??];
    numbers.next().is_none().then_some(triple)
}

fn truncated(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(log: &str) -> SanitizerFinding {
        let read = parse_log(log, &["mine::rows<4>".to_owned()]);
        assert_eq!(read.findings.len(), 1, "{read:?}");
        read.findings[0].clone()
    }

    #[test]
    fn out_of_bounds_and_misaligned_accesses_are_distinguished() {
        let log = "\
========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at void rows<(int)4>(const float *, float *)+0x150 in kernel.cu:12
=========     by thread (31,0,0) in block (7,2,0)
=========     Access at 0x7f0000001000 is out of bounds
=========     and is 1 bytes after the nearest allocation at 0x7f0000000000 of size 4,096 bytes
=========     Saved host backtrace up to driver entry point at kernel launch time
=========         Host Frame: cuLaunchKernelEx [0x1] in libcuda.so.1
=========
========= ERROR SUMMARY: 1 error
";
        let finding = read_one(log);
        assert_eq!(finding.status, Status::OutOfBounds);
        assert_eq!(finding.line, Some(12));
        assert_eq!(finding.thread, Some([31, 0, 0]));
        assert_eq!(finding.block, Some([7, 2, 0]));
        assert!(
            !finding.text.contains("Host Frame") && finding.text.contains("nearest allocation")
        );
        assert!(parse_log(log, &[]).complete);
        let misaligned = log.replace("is out of bounds", "is misaligned");
        assert_eq!(read_one(&misaligned).status, Status::Misaligned);
    }

    #[test]
    fn old_and_new_location_formats_are_parsed() {
        let log = "\
========= ERROR: Race reported between Read access at 0x6360 in /kernel.cu:23:rows(float const*)
=========     and Write access at 0x1fe0 in /kernel.cu:13:rows(float const*) [1088 hazards]
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
";
        let finding = read_one(log);
        assert_eq!((finding.status, finding.line), (Status::Race, Some(23)));
        assert!(finding.text.contains("1088 hazards"));
        let newer = "========= Error: Race reported between Write access at rows(float *)+0xa0 in kernel.cu:17\n=========     and Read access at rows(float *)+0xb0 in kernel.cu:19 [8 hazards]\n";
        assert_eq!(read_one(newer).line, Some(17));
        let warning = parse_log(&log.replace("ERROR: Race", "Warning: Race"), &[]);
        assert_eq!(warning.findings, []);
        assert_eq!(warning.warnings, ["line 23: a read races"]);
    }

    #[test]
    fn uninitialized_reads_and_barrier_errors_are_findings() {
        let log = "\
========= Uninitialized __global__ memory read of size 2 bytes
=========     at 0x150 in rows<4>(float*)
=========     by thread (1,0,0) in block (0,0,0)
=========     Address 0x7fc406200400
========= ERROR SUMMARY: 1 error
";
        let finding = read_one(log);
        assert_eq!(
            (finding.status, finding.line),
            (Status::UninitializedRead, None)
        );
        let log = "========= Barrier error detected. Divergent thread(s) in block.\n=========     at rows(float*)+0x30 in kernel.cu:9\n";
        assert_eq!(read_one(log).status, Status::SyncError);
    }

    #[test]
    fn errors_outside_the_kernel_are_ignored() {
        let log = "\
========= COMPUTE-SANITIZER
========= Host API memory access error at host access to 0x7f14c9e00200 of size 16 bytes
=========     Uninitialized access at 0x7f14c9e00200 on access by cuMemcpyDtoHAsync source
=========         Host Frame: rows(float*) in kernel.cu:1
========= Uninitialized __global__ memory read of size 8 bytes
=========     at hash(const unsigned long *)+0x10 in judge.cu:230
=========     by thread (0,0,0) in block (0,0,0)
========= Uninitialized __global__ memory read of size 8 bytes
=========     at narrows(float *)+0x10
========= Program hit CUDA_ERROR_NOT_READY (error 600) due to \"device not ready\" on CUDA API call to cuEventQuery.
========= LEAK SUMMARY: 0 bytes leaked in 0 allocations
========= ERROR SUMMARY: 4 errors
";
        let read = parse_log(log, &["rows<4>".to_owned()]);
        assert_eq!(read.findings, []);
        assert!(read.complete && read.failure.is_none());
    }

    #[test]
    fn tool_failure_is_reported() {
        let log = "========= COMPUTE-SANITIZER\n========= Error: Device not supported. Please refer to the \"Supported Devices\" section of the sanitizer documentation\n=========\n";
        let read = parse_log(log, &[]);
        assert!(!read.complete);
        assert!(read.failure.unwrap().contains("not supported"));
        for text in [
            "",
            "=========",
            "========= ",
            "no mark\n",
            "=========     alone\n",
        ] {
            assert_eq!(
                super::parse_log(text, &["k".to_owned()]),
                SanitizerLog::default(),
                "{text}"
            );
        }
    }

    #[test]
    fn checks_with_false_positives_are_skipped() {
        let bulk = |name: &str| f64::from(u8::from(name == "bulk_copies"));
        assert!(skip_reason("racecheck", bulk).is_some());
        assert!(skip_reason("initcheck", bulk).is_some());
        assert!(skip_reason("memcheck", bulk).is_none());
        assert!(skip_reason("racecheck", |_| 0.0).is_none());
    }
}
