//! What a process died of, in words and as a status.
//!
//! The status follows from how the process ended, which the judge saw itself; the record that it left only adds words.

use std::path::Path;
use std::time::Duration;

use super::bound_kernel::BufferLayout;
use super::control_page::{
    ACCESS_ATOMIC, ACCESS_SHARED, ACCESS_WRITE, ControlFault, ControlPage, FAULT_EXIT_CODE,
    GUARD_BYTES,
};
use super::line_table::LineTable;
use super::process::{KernelProcess, ProcessEnd};
use crate::device::sandbox::system_call_name;
use crate::device::{Build, Refusal};
use crate::verdict::{Evidence, OtherAccess, Status};

/// A refusal from how a process ended during what it was doing under its deadline.
pub(super) fn fault_refusal(
    control: &ControlPage,
    places: &[BufferLayout],
    ended: ProcessEnd,
    process: &mut KernelProcess,
    (build, executable): (Build, &Path),
    (what, deadline): (&str, Duration),
) -> Refusal {
    let record = &control.fault;
    let length = record
        .message
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(record.message.len());
    // The candidate could have written this: one line, nothing that moves a terminal's cursor.
    let is_plain = |letter: char| letter == ' ' || letter.is_ascii_graphic();
    let message =
        String::from_utf8_lossy(&record.message[..length]).replace(|letter| !is_plain(letter), " ");
    let because = |text: &str| {
        if message.is_empty() {
            text.to_owned()
        } else {
            format!("{text}: {message}")
        }
    };
    let lines = LineTable::open(executable);
    let mut evidence = Evidence {
        log: printed_output(process),
        build: (build != Build::Fast).then(|| build.name().to_owned()),
        schedule: (build == Build::Race).then_some(control.seed),
        ..Evidence::default()
    };
    if record.kind != 0 {
        evidence.line = (record.line > 0)
            .then_some(record.line)
            .or_else(|| lines.line_of(record.site));
        evidence.block = Some(record.block);
        evidence.thread = Some(record.thread);
    }
    let (status, reason) = match ended {
        ProcessEnd::Signaled(signal) => {
            let buffer = is_memory_fault(signal)
                .then(|| describe_nearest_buffer(control, places, record.address))
                .flatten();
            // What can be read and still faults was written: only inputs are mapped so.
            let input = (buffer.is_none() && is_memory_fault(signal))
                .then(|| locate_element(control, places, record.address, &mut evidence))
                .flatten();
            match (buffer, record.kind) {
                (Some(words), _) => (Status::OutOfBounds, format!("an access {words}")),
                (None, _) if input.is_some() => (
                    Status::InputMutated,
                    format!("a write of the input {}", input.unwrap_or_default()),
                ),
                (None, 6) if is_memory_fault(signal) => {
                    (Status::OutOfBounds, because("shared memory"))
                }
                _ if signal == libc::SIGSYS => (Status::Crashed, describe_refused_call(record)),
                _ => (
                    match signal {
                        // What the kernel does to a process that takes too much memory or writes too much.
                        libc::SIGKILL | libc::SIGXFSZ => Status::LimitExceeded,
                        _ => Status::Crashed,
                    },
                    because(&format!(
                        "died of signal {signal} ({})",
                        signal_name(signal)
                    )),
                ),
            }
        }
        ProcessEnd::Exited(FAULT_EXIT_CODE) => match record.kind {
            2 => {
                // Others of the same warp wait elsewhere.
                evidence.other = lines.line_of(record.other_site).map(|line| OtherAccess {
                    line: Some(line),
                    access: "wait".to_owned(),
                    ..OtherAccess::default()
                });
                (Status::SyncError, message.clone())
            }
            4 => (Status::LimitExceeded, message.clone()),
            7 => {
                let words = describe_nearest_buffer(control, places, record.address);
                let words = words.map(|words| format!("{} {words}", describe_access(record)));
                (Status::OutOfBounds, words.unwrap_or(message.clone()))
            }
            8 => (Status::Misaligned, message.clone()),
            9 => {
                let words = locate_element(control, places, record.address, &mut evidence);
                let words = words.map(|words| format!("{message}: {words}"));
                (Status::UninitializedRead, words.unwrap_or(message.clone()))
            }
            10 => (
                Status::Race,
                describe_race(control, places, &lines, &message, &mut evidence),
            ),
            11 => (Status::UndefinedBehavior, message.clone()),
            12 => {
                let words = locate_element(control, places, record.address, &mut evidence);
                let words =
                    words.map(|words| format!("{} of the input {words}", describe_access(record)));
                (Status::InputMutated, words.unwrap_or(message.clone()))
            }
            _ => (Status::Crashed, because("the process ended itself")),
        },
        ProcessEnd::Exited(code) => (
            Status::Crashed,
            format!("the process exited with code {code} during {what}"),
        ),
        ProcessEnd::Stopped | ProcessEnd::TimedOut => (
            Status::TimedOut,
            format!("{what} did not end within {:.1} s", deadline.as_secs_f64()),
        ),
    };
    let line = evidence.line.filter(|_| build != Build::Fast);
    let line = line
        .map(|line| format!("line {line}: "))
        .unwrap_or_default();
    let reason = if record.kind == 0 {
        reason
    } else {
        format!(
            "{line}{reason}; {}",
            describe_position(record.block, record.thread)
        )
    };
    Refusal {
        status,
        reason,
        evidence: Box::new(evidence),
    }
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

fn describe_access(record: &ControlFault) -> String {
    let kind = match access_kind(record.flags) {
        "atomic" => "an atomic operation",
        "write" => "a write",
        _ => "a read",
    };
    format!("{kind} of {} bytes", record.bytes)
}

/// Both sides of a race, in words and as evidence.
fn describe_race(
    control: &ControlPage,
    places: &[BufferLayout],
    lines: &LineTable,
    message: &str,
    evidence: &mut Evidence,
) -> String {
    let record = &control.fault;
    let other = OtherAccess {
        line: lines.line_of(record.other_site),
        block: record.other_block,
        thread: record.other_thread,
        access: access_kind(record.other_flags).to_owned(),
    };
    let place = locate_element(control, places, record.address, evidence).unwrap_or_else(|| {
        if record.flags & ACCESS_SHARED != 0 {
            "of shared memory".to_owned()
        } else {
            "of a variable of the kernel".to_owned()
        }
    });
    let values = if record.other_value == 0 && record.value == 0 {
        String::new()
    } else {
        let words = describe_values(record);
        evidence.found = Some(words.clone());
        format!(" ({words})")
    };
    let line = other
        .line
        .map(|line| format!(" at line {line}"))
        .unwrap_or_default();
    let article = if other.access == "atomic" {
        "an atomic operation"
    } else {
        &format!("a {}", other.access)
    };
    let reason = format!(
        "{message} {place}{values} is not ordered after {article}{line} by {}",
        describe_position(other.block, other.thread)
    );
    evidence.other = Some(other);
    reason
}

/// The value before a write and after it, as bits and, where they are four bytes, as a number.
fn describe_values(record: &ControlFault) -> String {
    let one = |value: u64| {
        let digits = (record.bytes.clamp(1, 8) * 2) as usize;
        match record.bytes {
            4 => format!("0x{value:08x} = {:e}", f32::from_bits(value as u32)),
            _ => format!("0x{value:0digits$x}"),
        }
    };
    if record.flags & ACCESS_WRITE != 0
        && record.flags & ACCESS_ATOMIC == 0
        && record.other_value != 0
    {
        format!("{} became {}", one(record.value), one(record.other_value))
    } else {
        format!("found {}", one(record.value))
    }
}

/// The element of a buffer that an address is of, in words; its name and index become evidence.
fn locate_element(
    control: &ControlPage,
    places: &[BufferLayout],
    address: u64,
    evidence: &mut Evidence,
) -> Option<String> {
    let slots = control.buffers.iter();
    let (place, offset) = places.iter().zip(slots).find_map(|(place, slot)| {
        let offset = address.checked_sub(slot.address)?;
        (offset < place.data.len() as u64).then_some((place, offset))
    })?;
    let index = offset / place.dtype.bytes();
    evidence.tensor = Some(place.name.clone());
    evidence.index = Some(index);
    Some(format!("`{}` at element {index}", place.name))
}

/// Which buffer an address lies beside, in words. The child says where it put its buffers; all sizes are the judge's own.
fn describe_nearest_buffer(
    control: &ControlPage,
    places: &[BufferLayout],
    address: u64,
) -> Option<String> {
    let slots = control.buffers.iter();
    places.iter().zip(slots).find_map(|(place, slot)| {
        let bytes = place.data.len() as u64;
        let ahead = (place.data.start - place.mapping.start) as u64 + GUARD_BYTES;
        let behind = (place.mapping.end - place.data.end) as u64 + GUARD_BYTES;
        let name = &place.name;
        let start = slot.address;
        let end = start.checked_add(bytes)?;
        if address < start && start - address <= ahead {
            Some(format!(
                "{} bytes before the start of `{name}`",
                start - address
            ))
        } else if address >= end && address - end < behind {
            Some(format!("{} bytes past the end of `{name}`", address - end))
        } else {
            None
        }
    })
}

/// What a process asked of the system that is not open to it. The call did not happen; its number is the process's own word.
fn describe_refused_call(record: &ControlFault) -> String {
    let name = (record.kind != 0).then(|| system_call_name(record.address));
    match name.flatten() {
        Some(name) => format!("the system call `{name}` is not allowed in a kernel"),
        None => "a system call that is not allowed in a kernel".to_owned(),
    }
}

fn is_memory_fault(signal: i32) -> bool {
    signal == libc::SIGSEGV || signal == libc::SIGBUS
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGSEGV => "segmentation fault",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "arithmetic fault",
        libc::SIGILL => "illegal instruction",
        libc::SIGABRT => "aborted",
        libc::SIGTRAP => "trap",
        libc::SIGSYS => "a refused system call",
        libc::SIGKILL => "killed: too much memory?",
        libc::SIGXFSZ => "too much output",
        _ => "signal",
    }
}

fn printed_output(process: &KernelProcess) -> Option<String> {
    Some(process.printed()).filter(|text| !text.is_empty())
}
