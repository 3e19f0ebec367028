//! What a process died of, in words and as a status.
//!
//! The status follows from how the process ended, which the judge saw itself; the record that it left only adds words.

use std::time::Duration;

use super::arm::Place;
use super::control::{Control, ControlFault, FAULT_EXIT_CODE, GUARD_BYTES};
use super::process::{Ended, Process};
use super::sandbox::name_of_call;
use crate::device::Refusal;
use crate::verdict::{Evidence, Status};

/// A refusal from how a process ended during what it was doing under its deadline.
pub(super) fn fault(
    control: &Control,
    places: &[Place],
    ended: Ended,
    process: &mut Process,
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
    let position = format!(
        "block ({}, {}, {}), thread ({}, {}, {})",
        record.block[0],
        record.block[1],
        record.block[2],
        record.thread[0],
        record.thread[1],
        record.thread[2]
    );
    let because = |text: &str| {
        if message.is_empty() {
            text.to_owned()
        } else {
            format!("{text}: {message}")
        }
    };
    let (status, reason) = match ended {
        Ended::Signaled(signal) => {
            let buffer = is_memory_fault(signal)
                .then(|| nearest(control, places, record.address))
                .flatten();
            match (buffer, record.kind) {
                (Some(words), _) => (Status::OutOfBounds, words),
                (None, 6) if is_memory_fault(signal) => {
                    (Status::OutOfBounds, because("shared memory"))
                }
                _ if signal == libc::SIGSYS => (Status::Crashed, refused_call(record)),
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
        Ended::Exited(FAULT_EXIT_CODE) => match record.kind {
            2 => (Status::SyncError, message.clone()),
            4 => (Status::LimitExceeded, message.clone()),
            _ => (Status::Crashed, because("the process ended itself")),
        },
        Ended::Exited(code) => (
            Status::Crashed,
            format!("the process exited with code {code} during {what}"),
        ),
        Ended::Stopped | Ended::TimedOut => (
            Status::TimedOut,
            format!("{what} did not end within {:.1} s", deadline.as_secs_f64()),
        ),
    };
    let reason = if record.kind == 0 {
        reason
    } else {
        format!("{reason}; {position}")
    };
    Refusal {
        status,
        reason,
        evidence: Evidence {
            log: said(process),
            ..Evidence::default()
        },
    }
}

/// Which buffer an address lies beside, in words. The child says where it put its buffers; all sizes are the judge's own.
fn nearest(control: &Control, places: &[Place], address: u64) -> Option<String> {
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
                "an access {} bytes before the start of `{name}`",
                start - address
            ))
        } else if address >= end && address - end < behind {
            Some(format!(
                "an access {} bytes past the end of `{name}`",
                address - end
            ))
        } else {
            None
        }
    })
}

/// What a process asked of the system that is not open to it. The call did not happen; its number is the process's own word.
fn refused_call(record: &ControlFault) -> String {
    let name = (record.kind != 0).then(|| name_of_call(record.address));
    match name.flatten() {
        Some(name) => format!("the system call `{name}` is not open to a kernel"),
        None => "a system call that is not open to a kernel".to_owned(),
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

fn said(process: &mut Process) -> Option<String> {
    Some(process.printed()).filter(|text| !text.is_empty())
}
