//! One kernel in its own process with its own memory: the judge fills, launches and looks; the process only computes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};

use super::control::{
    ARGUMENT_BUFFER, ARGUMENT_BYTES, BUFFER_ZERO, Control, ControlArgument, ControlLaunch,
    FAULT_EXIT_CODE, GUARD_BYTES, MAGIC, MAX_ARGUMENTS, MAX_BUFFERS, MAX_LAUNCHES, VERSION,
};
use super::process::{Ended, Process, SharedMemory};
use crate::base::Digest;
use crate::device::{Answer, Arm, Content, Launched, Opened, Question, Refusal, numerics};
use crate::kernel::plan::{Argument, Plan, Role};
use crate::task::{DType, Distribution};
use crate::verdict::{Evidence, Status};

const PAGE: usize = 4096;
/// Bytes before and behind every buffer's data that a kernel must leave alone; the data starts at a multiple of 256.
const CANARY: usize = 256;
/// How long a process may take to start, map its memory and stop.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// The most memory that the values kept for other arms may take.
const KEPT_BYTES: usize = 256 << 20;

/// Where one buffer lies in the shared memory.
struct Place {
    name: String,
    dtype: DType,
    /// Length of the last axis.
    row: u64,
    mapping: std::ops::Range<usize>,
    data: std::ops::Range<usize>,
}

/// An arm on the CPU.
pub(super) struct CpuArm {
    memory: SharedMemory,
    process: Process,
    places: Vec<Place>,
    kept: Rc<RefCell<Kept>>,
}

/// Values that were drawn before: other arms ask for the same.
#[derive(Default)]
pub(super) struct Kept {
    values: VecDeque<(Digest, Rc<[u8]>)>,
    bytes: usize,
}

impl CpuArm {
    pub(super) fn open(
        executable: &Path,
        plan: &Plan,
        threads: u32,
        folder: &Path,
        kept: Rc<RefCell<Kept>>,
    ) -> anyhow::Result<Opened> {
        if let Some(refusal) = too_many(plan) {
            return Ok(Opened::Refused(refusal));
        }
        let (places, bytes) = places(plan);
        let mut memory = SharedMemory::new(bytes)?;
        write_control(&mut memory, plan, &places, threads);
        for place in &places {
            renew_canaries(&mut memory, place);
        }
        let (mut process, ended) = Process::spawn(executable, &memory, folder, START_DEADLINE)?;
        match ended {
            Ended::Stopped => Ok(Opened::Ready(Box::new(Self {
                memory,
                process,
                places,
                kept,
            }))),
            Ended::TimedOut => bail!(
                "a candidate's process was not ready within {} s",
                START_DEADLINE.as_secs()
            ),
            other => {
                // Constructors run before the first stop; what they do is the candidate's own.
                let refusal = fault(&memory, &places, other, &mut process);
                if control(&memory).fault.kind == 5 {
                    bail!("{}", refusal.reason)
                }
                Ok(Opened::Refused(refusal))
            }
        }
    }
}

impl Arm for CpuArm {
    fn write(&mut self, buffer: usize, content: &Content<'_>) -> anyhow::Result<()> {
        let place = self.places.get(buffer).context("no such buffer")?;
        let memory = &mut self.memory.bytes_mut()[place.data.clone()];
        match content {
            Content::Random { distribution, seed } => {
                let values = self.kept.borrow_mut().values(place, distribution, *seed);
                memory.copy_from_slice(&values);
            }
            Content::Poison(pattern) => numerics::poison(place.dtype, memory, *pattern),
        }
        renew_canaries(&mut self.memory, place);
        Ok(())
    }

    fn launch(&mut self, deadline: Duration) -> anyhow::Result<Launched> {
        match self.process.run(deadline)? {
            (Ended::Stopped, time) => Ok(Launched::Finished { time }),
            (Ended::TimedOut, _) => {
                let evidence = Evidence {
                    log: said(&mut self.process),
                    ..Evidence::default()
                };
                let reason = format!(
                    "the launch did not end within {:.1} s",
                    deadline.as_secs_f64()
                );
                Ok(Launched::Fault(Refusal {
                    status: Status::TimedOut,
                    reason,
                    evidence,
                }))
            }
            (ended, _) => Ok(Launched::Fault(fault(
                &self.memory,
                &self.places,
                ended,
                &mut self.process,
            ))),
        }
    }

    fn inspect(&self, buffer: usize, question: &Question<'_>) -> anyhow::Result<Answer> {
        let place = self.places.get(buffer).context("no such buffer")?;
        let memory = &self.memory.bytes()[place.data.clone()];
        Ok(match question {
            Question::Hash => Answer::Hash(numerics::hash(memory)),
            Question::Guards => Answer::Guards(damage(self.memory.bytes(), place)),
            Question::Values => Answer::Values(numerics::values(place.dtype, memory)),
            Question::Bytes => Answer::Bytes(memory.to_vec()),
            Question::Compare {
                expected,
                tolerance,
            } => {
                if expected.len() as u64 * place.dtype.bytes() != memory.len() as u64 {
                    bail!(
                        "`{}` has another size than what it is compared with",
                        place.name
                    );
                }
                Answer::Comparison(numerics::compare(place.dtype, memory, expected, *tolerance))
            }
            Question::Unwritten(pattern) => {
                let (count, first) = numerics::unwritten(place.dtype, memory, *pattern);
                Answer::Unwritten { count, first }
            }
        })
    }
}

impl Kept {
    fn values(&mut self, place: &Place, distribution: &Distribution, seed: u64) -> Rc<[u8]> {
        let description = format!(
            "{distribution:?} {:?} {} {}",
            place.dtype,
            place.row,
            place.data.len()
        );
        let key = Digest::of_parts([description.as_bytes(), &seed.to_le_bytes()]);
        if let Some((_, values)) = self.values.iter().find(|(known, _)| *known == key) {
            return Rc::clone(values);
        }
        // Eight-byte words, so that elements of every type are aligned.
        let mut words = vec![0u64; place.data.len().div_ceil(8)];
        // SAFETY: the words' own memory, seen as bytes; every bit pattern is valid for both.
        let memory = unsafe {
            std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u8>(), place.data.len())
        };
        numerics::fill(place.dtype, memory, place.row, distribution, seed);
        let values: Rc<[u8]> = Rc::from(&*memory);
        self.bytes += values.len();
        self.values.push_back((key, Rc::clone(&values)));
        while self.bytes > KEPT_BYTES {
            let Some((_, oldest)) = self.values.pop_front() else {
                break;
            };
            self.bytes -= oldest.len();
        }
        values
    }
}

fn too_many(plan: &Plan) -> Option<Refusal> {
    let arguments = plan
        .launches
        .iter()
        .map(|launch| launch.arguments.len())
        .sum::<usize>();
    let limits = [
        ("buffers", plan.buffers.len(), MAX_BUFFERS),
        ("launches", plan.launches.len(), MAX_LAUNCHES),
        ("arguments", arguments, MAX_ARGUMENTS),
    ];
    let (name, found, most) = limits.into_iter().find(|(_, found, most)| found > most)?;
    Some(Refusal {
        status: Status::LimitExceeded,
        reason: format!("{found} {name}: this backend takes at most {most}"),
        evidence: Evidence::default(),
    })
}

/// Where everything lies behind the control page, and how much memory that takes.
fn places(plan: &Plan) -> (Vec<Place>, usize) {
    let mut next = size_of::<Control>().next_multiple_of(PAGE);
    let mut places = Vec::new();
    for buffer in &plan.buffers {
        let bytes = buffer.bytes() as usize;
        let mapped = (CANARY + bytes + CANARY).next_multiple_of(PAGE);
        places.push(Place {
            name: buffer.name.clone(),
            dtype: buffer.dtype,
            row: buffer.shape.last().copied().unwrap_or(1),
            mapping: next..next + mapped,
            data: next + CANARY..next + CANARY + bytes,
        });
        next += mapped;
    }
    (places, next)
}

fn control(memory: &SharedMemory) -> &Control {
    // SAFETY: the memory begins page-aligned with a control page that is as long as the struct, whose fields are all plain
    // integers; the child is stopped or dead whenever this is looked at.
    unsafe { &*memory.bytes().as_ptr().cast::<Control>() }
}

fn control_mut(memory: &mut SharedMemory) -> &mut Control {
    // SAFETY: as above, and the memory is borrowed exclusively.
    unsafe { &mut *memory.bytes_mut().as_mut_ptr().cast::<Control>() }
}

fn write_control(memory: &mut SharedMemory, plan: &Plan, places: &[Place], threads: u32) {
    let control = control_mut(memory);
    control.magic = MAGIC;
    control.version = VERSION;
    control.threads = threads;
    control.buffer_count = places.len() as u32;
    control.launch_count = plan.launches.len() as u32;
    for ((slot, place), buffer) in control.buffers.iter_mut().zip(places).zip(&plan.buffers) {
        slot.file_offset = place.mapping.start as u64;
        slot.mapped_bytes = place.mapping.len() as u64;
        slot.data_offset = (place.data.start - place.mapping.start) as u64;
        slot.data_bytes = place.data.len() as u64;
        slot.flags = if buffer.role == (Role::Scratch { zero: true }) {
            BUFFER_ZERO
        } else {
            0
        };
    }
    let mut next = 0;
    for (slot, launch) in control.launches.iter_mut().zip(&plan.launches) {
        *slot = ControlLaunch {
            entry: launch.entry as u32,
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared,
            first_argument: next as u32,
            argument_count: launch.arguments.len() as u32,
            flags: 0,
            reserved: 0,
        };
        for (slot, argument) in control.arguments[next..].iter_mut().zip(&launch.arguments) {
            *slot = match argument {
                Argument::Buffer(index) => ControlArgument {
                    kind: ARGUMENT_BUFFER,
                    buffer: *index as u32,
                    bytes: 0,
                },
                other => ControlArgument {
                    kind: ARGUMENT_BYTES,
                    buffer: 0,
                    bytes: raw(*other),
                },
            };
        }
        next += launch.arguments.len();
    }
    control.argument_count = next as u32;
}

/// An argument's value as the first bytes of a word.
fn raw(argument: Argument) -> u64 {
    match argument {
        Argument::Buffer(_) | Argument::Null => 0,
        Argument::I32(value) => u64::from(value as u32),
        Argument::U32(value) => u64::from(value),
        Argument::I64(value) => value as u64,
        Argument::Scalar(dtype, value) => {
            let mut word = 0u64;
            // SAFETY: a word's own memory, seen as bytes.
            let memory = unsafe {
                std::slice::from_raw_parts_mut((&raw mut word).cast::<u8>(), dtype.bytes() as usize)
            };
            let constant = Distribution {
                shape: crate::task::Shape::Value(value),
                normalize: None,
            };
            numerics::fill(dtype, memory, 1, &constant, 0);
            word
        }
    }
}

/// The byte that belongs at a place in a guard zone.
fn canary(position: usize) -> u8 {
    0xa5 ^ (position as u8).wrapping_mul(29)
}

fn zones(place: &Place) -> [std::ops::Range<usize>; 2] {
    [
        place.mapping.start..place.data.start,
        place.data.end..place.mapping.end,
    ]
}

fn renew_canaries(memory: &mut SharedMemory, place: &Place) {
    let bytes = memory.bytes_mut();
    for zone in zones(place) {
        for position in zone {
            bytes[position] = canary(position);
        }
    }
}

/// How far from the data the damage to a guard zone lies that is nearest to it.
fn damage(bytes: &[u8], place: &Place) -> Option<i64> {
    let [before, behind] = zones(place);
    let damaged = |position: &usize| bytes[*position] != canary(*position);
    let behind = behind
        .clone()
        .find(damaged)
        .map(|position| (position - place.data.end) as i64);
    behind.or_else(|| {
        before
            .rev()
            .find(damaged)
            .map(|position| position as i64 - place.data.start as i64)
    })
}

/// What a process died of. The status follows from how it ended; the record that it left only adds words.
fn fault(memory: &SharedMemory, places: &[Place], ended: Ended, process: &mut Process) -> Refusal {
    let record = &control(memory).fault;
    let length = record
        .message
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(record.message.len());
    let message = String::from_utf8_lossy(&record.message[..length]).into_owned();
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
            let buffer = places
                .iter()
                .zip(&control(memory).buffers)
                .find_map(|(place, slot)| {
                    let start = slot.address.checked_sub(slot.data_offset)?;
                    let near = start.saturating_sub(GUARD_BYTES)
                        ..start
                            .saturating_add(slot.mapped_bytes)
                            .saturating_add(GUARD_BYTES);
                    let offset = record.address.wrapping_sub(slot.address) as i64;
                    (is_memory_fault(signal) && near.contains(&record.address))
                        .then(|| (place.name.clone(), offset, place.data.len() as i64))
                });
            match (buffer, record.kind) {
                (Some((name, offset, bytes)), _) => {
                    let place = if offset < 0 {
                        format!("{} bytes before the start", -offset)
                    } else {
                        format!("{} bytes past the end", offset - bytes)
                    };
                    (
                        Status::OutOfBounds,
                        format!("an access {place} of `{name}`"),
                    )
                }
                (None, 6) if is_memory_fault(signal) => {
                    (Status::OutOfBounds, because("shared memory"))
                }
                _ => (
                    Status::Crashed,
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
            format!("the process exited with code {code} during a launch"),
        ),
        Ended::Stopped | Ended::TimedOut => (
            Status::TimedOut,
            "the process did not end in time".to_owned(),
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
        libc::SIGKILL => "killed",
        libc::SIGXFSZ => "too much output",
        _ => "signal",
    }
}

fn said(process: &mut Process) -> Option<String> {
    Some(process.printed()).filter(|text| !text.is_empty())
}
