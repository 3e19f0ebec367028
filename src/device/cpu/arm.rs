//! One kernel in its own process with its own memory: the judge fills, launches and looks; the process only computes.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};

use super::control::{
    ACCESS_ATOMIC, ACCESS_SHARED, ACCESS_WRITE, ARGUMENT_BUFFER, ARGUMENT_BYTES, BUFFER_READ_ONLY,
    BUFFER_UNWRITTEN, BUFFER_ZERO, Control, ControlArgument, ControlLaunch, FAULT_PROTOCOL, MAGIC,
    MAX_ARGUMENTS, MAX_BUFFERS, MAX_LAUNCHES, MAX_SITES, VERSION,
};
use super::faults::fault;
use super::kept::Kept;
use super::lines::Lines;
use super::process::{Ended, Process, SharedMemory};
use super::state::State;
use crate::device::{
    self, AccessSite, Answer, Arm, Build, Content, Expected, Launched, Opened, Program, Question,
    Refusal, numerics,
};
use crate::kernel::plan::{Argument, Plan, Role};
use crate::task::DType;
use crate::verdict::Status;

/// Bytes before and behind every buffer's data that a kernel must leave alone; the data starts at a multiple of 256.
const CANARY: usize = 256;
/// How long a process may take to start, map its memory and stop.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// Where one buffer lies in the shared memory.
pub(super) struct Place {
    pub(super) name: String,
    pub(super) dtype: DType,
    /// Length of the last axis.
    row: u64,
    pub(super) mapping: std::ops::Range<usize>,
    pub(super) data: std::ops::Range<usize>,
}

/// An arm on the CPU.
pub(super) struct CpuArm {
    memory: SharedMemory,
    process: Process,
    places: Vec<Place>,
    executable: PathBuf,
    build: Build,
    kept: Rc<RefCell<Kept>>,
    /// `None`: this system does not let the judge look.
    state: Option<State>,
    launches: u64,
    /// The first variable that a launch has changed.
    changed: Option<(String, u64)>,
}

impl CpuArm {
    pub(super) fn open(
        program: &Program,
        plan: &Plan,
        threads: u32,
        folder: &Path,
        trial: &Path,
        kept: Rc<RefCell<Kept>>,
    ) -> anyhow::Result<Opened> {
        if let Some(refusal) = too_many(plan).or_else(|| too_large(plan)) {
            return Ok(Opened::Refused(refusal));
        }
        let (places, bytes) = places(plan);
        let mut memory = SharedMemory::new(bytes)?;
        write_control(&mut memory, plan, &places, threads);
        control_mut(&mut memory).seed = program.schedule;
        for place in &places {
            renew_canaries(&mut memory, place);
        }
        let (executable, build) = (program.image.clone(), program.build);
        let extra = inspection_bytes(build, plan);
        let (mut process, ended) = Process::spawn(
            &executable,
            &memory,
            folder,
            (threads, extra),
            START_DEADLINE,
        )?;
        match ended {
            Ended::Stopped => Ok(Opened::Ready(Box::new(Self {
                state: State::open(&executable, process.id())?,
                launches: 0,
                changed: None,
                memory,
                process,
                places,
                executable,
                build,
                kept,
            }))),
            other => {
                // Constructors run before the first stop; what they do is the candidate's own.
                let during = ("the start of the process", START_DEADLINE);
                let program = (build, executable.as_path());
                let refusal = fault(
                    control(&memory),
                    &places,
                    other,
                    &mut process,
                    program,
                    during,
                );
                // The record says that the machine lacks something, and may lie: a program that does nothing must find so too.
                if control(&memory).fault.kind == FAULT_PROTOCOL {
                    let mut memory = SharedMemory::new(bytes)?;
                    write_control(&mut memory, plan, &places, threads);
                    let memory_of_its_own = (threads, extra);
                    let (_, ended) =
                        Process::spawn(trial, &memory, folder, memory_of_its_own, START_DEADLINE)?;
                    if ended != Ended::Stopped {
                        bail!("{}", refusal.reason)
                    }
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
                let mut kept = self.kept.borrow_mut();
                memory.copy_from_slice(kept.values(
                    place.dtype,
                    memory.len(),
                    place.row,
                    distribution,
                    *seed,
                ));
            }
            Content::Values(values) => {
                if values.len() as u64 * place.dtype.bytes() != memory.len() as u64 {
                    bail!(
                        "`{}` has another size than what is to be written",
                        place.name
                    );
                }
                numerics::store(place.dtype, values, memory);
            }
            Content::Poison(pattern) => numerics::poison(place.dtype, memory, *pattern),
        }
        renew_canaries(&mut self.memory, place);
        Ok(())
    }

    fn launch(&mut self, deadline: Duration) -> anyhow::Result<Launched> {
        match self.process.run(deadline)? {
            (Ended::Stopped, time) => {
                self.launches += 1;
                if let Some(state) = &mut self.state
                    && let Some(variable) = state.restore(self.process.id())?
                {
                    self.changed.get_or_insert((variable, self.launches));
                }
                Ok(Launched::Finished { time })
            }
            (ended, _) => Ok(Launched::Fault(fault(
                control(&self.memory),
                &self.places,
                ended,
                &mut self.process,
                (self.build, &self.executable),
                ("the launch", deadline),
            ))),
        }
    }

    fn inspect(&self, buffer: usize, question: &Question<'_>) -> anyhow::Result<Answer> {
        let place = self.places.get(buffer).context("no such buffer")?;
        let memory = &self.memory.bytes()[place.data.clone()];
        Ok(match question {
            Question::Hash | Question::HashOf(_) => Answer::Hash(numerics::hash(memory)),
            Question::Guards => Answer::Guards(damage(self.memory.bytes(), place)),
            Question::Values => Answer::Values(numerics::values(place.dtype, memory)),
            Question::Bytes => Answer::Bytes(memory.to_vec()),
            Question::Printed => Answer::Printed(self.process.printed()),
            Question::Expected => {
                let values = numerics::values(place.dtype, memory);
                let not_finite = values.iter().position(|value| !value.is_finite());
                Answer::Expected {
                    expected: Expected::Host(values),
                    not_finite: not_finite.map(|index| index as u64),
                }
            }
            Question::Compare {
                expected,
                tolerance,
                ..
            } => {
                let Expected::Host(expected) = expected else {
                    bail!("values on another device cannot be compared with here");
                };
                if expected.len() as u64 * place.dtype.bytes() != memory.len() as u64 {
                    bail!(
                        "`{}` has another size than what it is compared with",
                        place.name
                    );
                }
                Answer::Comparison(numerics::compare(place.dtype, memory, expected, *tolerance))
            }
            Question::Accesses => Answer::Accesses(accesses(
                control(&self.memory),
                &Lines::of(&self.executable),
            )),
            Question::Remembered => Answer::Remembered(match (&self.changed, &self.state) {
                (Some((variable, launch)), _) => device::Remembered::Changed {
                    variable: variable.clone(),
                    launch: *launch,
                },
                (None, Some(_)) => device::Remembered::Nothing,
                (None, None) => device::Remembered::Unknown,
            }),
            // There is one copy, and every launch uses it.
            Question::Untouched(_) => Answer::Unwritten {
                count: 0,
                first: None,
            },
            Question::Unwritten(pattern) => {
                let (count, first) = numerics::unwritten(place.dtype, memory, *pattern);
                Answer::Unwritten { count, first }
            }
        })
    }
}

/// Memory beyond its own that a build needs to look into a kernel: of every buffer sixteen times as much for the latest accesses.
fn inspection_bytes(build: Build, plan: &Plan) -> u64 {
    let bytes: u64 = plan.buffers.iter().map(|buffer| buffer.bytes()).sum();
    match build {
        Build::Fast => 0,
        Build::Bounds => 1 << 30,
        Build::Race => (2 << 30) + 20 * bytes,
    }
}

/// What the process counted: untrusted, so that every number may be anything.
fn accesses(control: &Control, lines: &Lines) -> Vec<AccessSite> {
    let count = (control.site_count as usize).min(MAX_SITES);
    let scale = control.threads_total as f64 / control.threads_seen.max(1) as f64;
    let sites = control.sites[..count].iter();
    sites
        .map(|site| AccessSite {
            line: lines.at(site.site),
            writes: site.flags & ACCESS_WRITE != 0,
            atomic: site.flags & ACCESS_ATOMIC != 0,
            shared: site.flags & ACCESS_SHARED != 0,
            bytes: site.bytes,
            lanes: site.lanes as f64 * scale,
            requests: site.requests,
            sectors: site.sectors,
            sectors_least: site.sectors_least,
            strided: site.strided,
            lanes_seen: site.lanes_seen,
        })
        .collect()
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
        evidence: Box::default(),
    })
}

/// All of it is really there while the arm lives: what the machine does not have must not be asked for.
fn too_large(plan: &Plan) -> Option<Refusal> {
    let bytes = plan.buffers.iter().try_fold(0u64, |sum, buffer| {
        let mut sizes = buffer.shape.iter();
        let elements = sizes.try_fold(1u64, |product, size| product.checked_mul(*size))?;
        sum.checked_add(elements.checked_mul(buffer.dtype.bytes())?)
    });
    let most = available_bytes() / 2;
    if bytes.is_some_and(|bytes| bytes <= most) {
        return None;
    }
    let asked = bytes.map_or("more memory than can be counted".to_owned(), |bytes| {
        format!("{} MiB of memory", bytes >> 20)
    });
    Some(Refusal {
        status: Status::LimitExceeded,
        reason: format!(
            "the buffers need {asked}: {} MiB are there for them",
            most >> 20
        ),
        evidence: Box::default(),
    })
}

/// Memory that could be had without swapping; plenty where the system does not say.
fn available_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes = text.lines().find_map(|line| {
        let rest = line.strip_prefix("MemAvailable:")?;
        rest.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    kibibytes.map_or(1 << 40, |kibibytes| kibibytes << 10)
}

/// Where everything lies behind the control page, and how much memory that takes.
fn places(plan: &Plan) -> (Vec<Place>, usize) {
    let page = page_bytes();
    let mut next = size_of::<Control>().next_multiple_of(page);
    let mut places = Vec::new();
    for buffer in &plan.buffers {
        let bytes = buffer.bytes() as usize;
        let mapped = (CANARY + bytes + CANARY).next_multiple_of(page);
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

fn page_bytes() -> usize {
    // SAFETY: no preconditions; a machine without an answer gives -1.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).map_or(1 << 16, |bytes| bytes.max(4096))
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
        slot.flags = match buffer.role {
            Role::Scratch { zero: true } => BUFFER_ZERO,
            Role::Scratch { zero: false } | Role::Output => BUFFER_UNWRITTEN,
            Role::Input => BUFFER_READ_ONLY,
            Role::InPlace => 0,
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
                    bytes: numerics::word_of(*other),
                },
            };
        }
        next += launch.arguments.len();
    }
    control.argument_count = next as u32;
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
        for (byte, position) in bytes[zone.clone()].iter_mut().zip(zone) {
            *byte = canary(position);
        }
    }
}

/// How far from the data the damage to a guard zone lies that is nearest to it.
fn damage(bytes: &[u8], place: &Place) -> Option<i64> {
    let [before, behind] = zones(place);
    let damaged = |(byte, position): &(&u8, usize)| **byte != canary(*position);
    let after = bytes[behind.clone()].iter().zip(behind).find(damaged);
    let ahead = || bytes[before.clone()].iter().zip(before).rev().find(damaged);
    match after {
        Some((_, position)) => Some((position - place.data.end) as i64),
        None => ahead().map(|(_, position)| position as i64 - place.data.start as i64),
    }
}
