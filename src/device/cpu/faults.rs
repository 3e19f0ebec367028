//! Turns the end of a candidate's process into a refusal: a status, a reason and evidence.
//!
//! The status follows from how the process ended, which the judge observed itself. The record that the process left in the
//! control page only adds text and evidence, because a candidate could have written it. `memory_locations` describes addresses.

use std::path::Path;
use std::time::Duration;

use super::control_page::{
    ACCESS_ATOMIC, ACCESS_SHARED, ACCESS_WRITE, ControlFault, ControlPage, FAULT_EXIT_CODE,
    FaultKind, SEED_ABSENT_BIT,
};
use super::layout::BufferLayout;
use super::line_table::LineTable;
use super::memory_locations::{Element, describe_near_buffer, find_element};
use super::process::ProcessEnd;
use crate::device::sandbox::system_call_name;
use crate::device::{Build, Refusal};
use crate::verdict::{Evidence, OtherAccess, Status};

/// A process that ended or was killed, with what is known about it.
pub(super) struct ProcessFailure<'a> {
    pub(super) end: ProcessEnd,
    pub(super) control: &'a ControlPage,
    pub(super) layouts: &'a [BufferLayout],
    /// What the process printed; untrusted and capped.
    pub(super) printed: String,
    pub(super) build: Build,
    pub(super) executable: &'a Path,
    /// What it was doing, such as `the launch`.
    pub(super) activity: &'a str,
    pub(super) deadline: Duration,
}

/// The refusal for a process that failed.
pub(super) fn fault_refusal(failure: &ProcessFailure<'_>) -> Refusal {
    let mut report = FaultReport::new(failure);
    let (status, reason) = match failure.end {
        ProcessEnd::Signaled(signal) => report.signal(signal),
        ProcessEnd::Exited(FAULT_EXIT_CODE) => report.detected_fault(),
        ProcessEnd::Exited(code) => {
            let activity = failure.activity;
            let reason = format!("the process exited with code {code} during {activity}");
            (Status::Crashed, reason)
        }
        ProcessEnd::Stopped | ProcessEnd::TimedOut => {
            let (activity, seconds) = (failure.activity, failure.deadline.as_secs_f64());
            let reason = format!("{activity} did not end within {seconds:.1} s");
            (Status::TimedOut, reason)
        }
    };
    let is_refused = matches!(status, Status::Unsupported | Status::Rejected);
    if is_refused && let Some(line) = report.evidence.line {
        // As for a refusal by the compiler: which thread reached the line does not matter.
        return Refusal::at_line(status, line, reason);
    }
    let reason = report.with_position(reason);
    Refusal {
        status,
        reason,
        evidence: Box::new(report.evidence),
    }
}

/// A report under construction.
struct FaultReport<'a> {
    failure: &'a ProcessFailure<'a>,
    record: &'a ControlFault,
    lines: LineTable,
    /// The message of the record, on one line.
    message: String,
    evidence: Evidence,
}

impl<'a> FaultReport<'a> {
    fn new(failure: &'a ProcessFailure<'a>) -> Self {
        let record = &failure.control.fault;
        let lines = LineTable::open(failure.executable);
        let build = failure.build;
        let mut evidence = Evidence {
            log: Some(failure.printed.clone()).filter(|text| !text.is_empty()),
            build: (build != Build::Fast).then(|| build.name().to_owned()),
            schedule: (build == Build::Race).then_some(failure.control.seed & !SEED_ABSENT_BIT),
            ..Evidence::default()
        };
        if record.is_present() {
            let line = (record.line > 0).then_some(record.line);
            evidence.line = line.or_else(|| lines.line_of(record.site));
            evidence.block = Some(record.block);
            evidence.thread = Some(record.thread);
        }
        Self {
            failure,
            record,
            lines,
            message: plain_message(record),
            evidence,
        }
    }

    /// For a process that died from a signal.
    fn signal(&mut self, signal: i32) -> (Status, String) {
        let is_memory_fault = signal == libc::SIGSEGV || signal == libc::SIGBUS;
        if is_memory_fault {
            if let Some(location) = self.describe_near_buffer() {
                return (Status::OutOfBounds, format!("an access {location}"));
            }
            // Only inputs are mapped read-only, so a fault within a buffer is a write to an input.
            if let Some(element) = self.locate_element() {
                return (
                    Status::InputMutated,
                    format!("a write of the input {element}"),
                );
            }
            if self.record.fault_kind() == Some(FaultKind::SharedBounds) {
                return (Status::OutOfBounds, self.with_message("shared memory"));
            }
        }
        if signal == libc::SIGSYS {
            return (Status::Crashed, describe_refused_call(self.record));
        }
        let status = match signal {
            // The kernel sends these to a process that uses too much memory or writes too much.
            libc::SIGKILL | libc::SIGXFSZ => Status::LimitExceeded,
            _ => Status::Crashed,
        };
        let text = format!("died of signal {signal} ({})", signal_name(signal));
        (status, self.with_message(&text))
    }

    /// For a process that detected a fault itself.
    fn detected_fault(&mut self) -> (Status, String) {
        let message = self.message.clone();
        match self.record.fault_kind() {
            Some(FaultKind::SyncError) => {
                // Other threads may wait at a second place.
                let line = self.lines.line_of(self.record.other_site);
                self.evidence.other = line.map(|line| OtherAccess {
                    line: Some(line),
                    access: "wait".to_owned(),
                    ..OtherAccess::default()
                });
                (Status::SyncError, message)
            }
            Some(FaultKind::LimitExceeded) => (Status::LimitExceeded, message),
            Some(FaultKind::OutOfBounds) => {
                let access = describe_access(self.record);
                let location = self.describe_near_buffer();
                let reason = location.map(|location| format!("{access} {location}"));
                (Status::OutOfBounds, reason.unwrap_or(message))
            }
            Some(FaultKind::Misaligned) => (Status::Misaligned, message),
            Some(FaultKind::UninitializedRead) => {
                let element = self.locate_element();
                let reason = element.map(|element| format!("{message}: {element}"));
                (Status::UninitializedRead, reason.unwrap_or(message))
            }
            Some(FaultKind::Race) => (Status::Race, self.race()),
            Some(FaultKind::UndefinedBehavior) => (Status::UndefinedBehavior, message),
            Some(FaultKind::InputMutated) => {
                let access = describe_access(self.record);
                let element = self.locate_element();
                let reason = element.map(|element| format!("{access} of the input {element}"));
                (Status::InputMutated, reason.unwrap_or(message))
            }
            Some(FaultKind::Unsupported) => (Status::Unsupported, message),
            Some(FaultKind::Rejected) => (Status::Rejected, message),
            _ => (
                Status::Crashed,
                self.with_message("the process ended itself"),
            ),
        }
    }

    /// Both sides of a race, as text and as evidence.
    fn race(&mut self) -> String {
        let record = self.record;
        let other = OtherAccess {
            line: self.lines.line_of(record.other_site),
            block: record.other_block,
            thread: record.other_thread,
            access: access_kind(record.other_flags).to_owned(),
        };
        let location = self.locate_element().unwrap_or_else(|| {
            let is_shared = record.flags & ACCESS_SHARED != 0;
            let location = if is_shared {
                "of shared memory"
            } else {
                "of a variable of the kernel"
            };
            location.to_owned()
        });
        let values = if record.other_value == 0 && record.value == 0 {
            String::new()
        } else {
            let values = describe_values(record);
            self.evidence.found = Some(values.clone());
            format!(" ({values})")
        };
        let line = other.line.map(|line| format!(" at line {line}"));
        let reason = format!(
            "{} {location}{values} is not ordered after {}{} by {}",
            self.message,
            access_phrase(record.other_flags),
            line.unwrap_or_default(),
            describe_position(other.block, other.thread),
        );
        self.evidence.other = Some(other);
        reason
    }

    /// A reason followed by the record's message, if there is one.
    fn with_message(&self, text: &str) -> String {
        if self.message.is_empty() {
            text.to_owned()
        } else {
            format!("{text}: {}", self.message)
        }
    }

    /// A reason with the source line and the thread, if the process left a record.
    fn with_position(&self, reason: String) -> String {
        if !self.record.is_present() {
            return reason;
        }
        // The fast build has no line table.
        let line = self.evidence.line;
        let line = line.filter(|_| self.failure.build != Build::Fast);
        let line = line.map(|line| format!("line {line}: "));
        let position = describe_position(self.record.block, self.record.thread);
        format!("{}{reason}; {position}", line.unwrap_or_default())
    }

    fn describe_near_buffer(&self) -> Option<String> {
        let failure = self.failure;
        describe_near_buffer(failure.control, failure.layouts, self.record.address)
    }

    /// The element at the record's address as text; its buffer and index become evidence.
    fn locate_element(&mut self) -> Option<String> {
        let failure = self.failure;
        let Element { buffer, index } =
            find_element(failure.control, failure.layouts, self.record.address)?;
        let text = format!("`{buffer}` at element {index}");
        self.evidence.tensor = Some(buffer.to_owned());
        self.evidence.index = Some(index);
        Some(text)
    }
}

/// The record's message on one line, without anything that moves a terminal's cursor: the candidate could have written it.
fn plain_message(record: &ControlFault) -> String {
    let bytes = &record.message;
    let length = bytes.iter().position(|byte| *byte == 0);
    let text = String::from_utf8_lossy(&bytes[..length.unwrap_or(bytes.len())]);
    let is_plain = |letter: char| letter == ' ' || letter.is_ascii_graphic();
    text.replace(|letter| !is_plain(letter), " ")
}

fn describe_position(block: [u32; 3], thread: [u32; 3]) -> String {
    let [[a, b, c], [x, y, z]] = [block, thread];
    format!("block ({a}, {b}, {c}), thread ({x}, {y}, {z})")
}

fn access_kind(flags: u32) -> &'static str {
    if flags & ACCESS_ATOMIC != 0 {
        "atomic"
    } else if flags & ACCESS_WRITE != 0 {
        "write"
    } else {
        "read"
    }
}

fn access_phrase(flags: u32) -> &'static str {
    match access_kind(flags) {
        "atomic" => "an atomic operation",
        "write" => "a write",
        _ => "a read",
    }
}

fn describe_access(record: &ControlFault) -> String {
    format!("{} of {} bytes", access_phrase(record.flags), record.bytes)
}

/// The values of a race: bits, and a number for four bytes. For two writes the values before and after the second one.
fn describe_values(record: &ControlFault) -> String {
    let describe = |value: u64| {
        let digits = (record.bytes.clamp(1, 8) * 2) as usize;
        match record.bytes {
            4 => format!("0x{value:08x} = {:e}", f32::from_bits(value as u32)),
            _ => format!("0x{value:0digits$x}"),
        }
    };
    let is_plain_write = record.flags & ACCESS_WRITE != 0 && record.flags & ACCESS_ATOMIC == 0;
    if is_plain_write && record.other_value != 0 {
        let (before, after) = (describe(record.value), describe(record.other_value));
        format!("{before} became {after}")
    } else {
        format!("found {}", describe(record.value))
    }
}

/// For a system call that is not allowed. The call did not happen; the process itself reports its number.
fn describe_refused_call(record: &ControlFault) -> String {
    let name = (record.is_present()).then(|| system_call_name(record.address));
    match name.flatten() {
        Some(name) => format!("the system call `{name}` is not allowed in a kernel"),
        None => "a system call that is not allowed in a kernel".to_owned(),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGSEGV => "segmentation fault",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "arithmetic fault",
        libc::SIGILL => "illegal instruction",
        libc::SIGABRT => "aborted",
        libc::SIGTRAP => "trap",
        libc::SIGSYS => "refused system call",
        libc::SIGKILL => "killed, probably for using too much memory",
        libc::SIGXFSZ => "too much output",
        _ => "signal",
    }
}
