//! Feedback in sentences: how fast against what and what bounds it, what is wrong and where, what a child brought.
//!
//! Numbers are those of the verdict; nothing is guessed.

use std::fmt::Write;

use super::PromptInput;
use super::feedback::{AccessFeedback, FaultLocation, Feedback, WorkloadFeedback};
use super::quote::{code_span, fenced_block, one_line};
use crate::base::expression::Expression;
use crate::device::DeviceFacts;
use crate::event::{Failed, FailedReason};
use crate::task::{Task, Workload};
use crate::verdict::{LaunchCounters, Resources, Status};

/// A difference that is not told of a single workload.
const MIN_REPORTED_CHANGE: f64 = 0.02;
/// The most lines of source that are shown for a compiler's log.
const MAX_QUOTED_LINES: usize = 4;

/// What a status means to whoever wrote the kernel.
pub(super) fn status_meaning(status: Status) -> &'static str {
    match status {
        // Never told; a name is needed for completeness.
        Status::HarnessError => "it was not judged",
        Status::Rejected => "the header or the source was refused before it was compiled",
        Status::Unsupported => "this device cannot run it",
        Status::CompileError => "it does not compile",
        Status::CompileTimeout => "compiling it takes too long: less unrolling, fewer templates",
        Status::LaunchError => {
            "the launch was refused: a size in the header is beyond what the device allows"
        }
        Status::LimitExceeded => "it wants more memory, output or threads than it may have",
        Status::OutOfBounds => "it reads or writes outside of its buffers",
        Status::Misaligned => "a wide access is not aligned to its own size",
        Status::UninitializedRead => "it reads memory that nothing has written",
        Status::Race => {
            "two threads touch the same memory, one of them writes, and nothing orders them"
        }
        Status::SyncError => {
            "a barrier or a warp-wide operation is not reached by all threads that it waits for"
        }
        Status::UndefinedBehavior => "it does what C++ leaves undefined",
        Status::Crashed => "it faulted",
        Status::TimedOut => "it did not end in time",
        Status::InputMutated => "it writes to an input",
        Status::OutputUnwritten => "elements of an output are never written",
        Status::Nondeterministic => "the same inputs give once a right and once a wrong result",
        Status::WrongOutput => "its results are outside the tolerance",
        Status::Stateful => "it keeps something from one launch to the next",
        Status::Suspicious => {
            "it is faster than the hardware can move the data: it does not compute what is asked"
        }
        Status::Inconclusive => {
            "it is correct, but its times vary too much to be told apart from the baseline's"
        }
        Status::Passed => "it is correct, and was measured",
    }
}

/// `0.85x the baseline's speed (15 % slower)`.
pub(super) fn describe_speedup(speedup: f64) -> String {
    let percent = (speedup - 1.0) * 100.0;
    let difference = match percent {
        percent if percent.abs() < 0.5 => "as fast".to_owned(),
        percent if percent < 0.0 => format!("{:.0} % slower", -percent),
        percent => format!("{percent:.0} % faster"),
    };
    format!("{}x ({difference})", format_significant(speedup))
}

/// Three digits that count.
pub(super) fn format_significant(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The end of an interval: narrow ones would have two equal ends.
fn format_interval_end(value: f64) -> String {
    match value < 10.0 {
        true => format!("{value:.3}"),
        false => format_significant(value),
    }
}

fn format_percent(share: f64) -> String {
    match share * 100.0 {
        percent if percent < 9.95 => format!("{percent:.1} %"),
        percent => format!("{percent:.0} %"),
    }
}

/// With a prefix of thousands: `3.10 TB`.
pub(super) fn format_si(value: f64, unit: &str) -> String {
    let prefixes = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let fits = prefixes.into_iter().find(|(size, _)| value.abs() >= *size);
    let (size, prefix) = fits.unwrap_or((1.0, ""));
    format!("{} {prefix}{unit}", format_significant(value / size))
}

/// All that is known of a kernel, a paragraph or a list: what a section says beneath its heading. `source` is its text.
pub(super) fn describe_feedback(
    feedback: &Feedback,
    source: &str,
    question: &PromptInput<'_>,
) -> String {
    let mut text = format!(
        "`{}`: {}.",
        feedback.status,
        status_meaning(feedback.status)
    );
    if let Some([estimate, low, high]) = feedback.speedup {
        let _ = write!(
            text,
            " {} of the baseline `{}` over all workloads (95 % interval {} to {}).",
            describe_speedup(estimate),
            question.baseline,
            format_interval_end(low),
            format_interval_end(high)
        );
        if estimate <= 1.0 {
            text.push_str(" It must beat 1.0x.");
        }
    }
    text.push('\n');
    for workload in &feedback.workloads {
        let _ = writeln!(text, "- {}", describe_workload(workload, question));
    }
    if feedback.more_workloads > 0 {
        let _ = writeln!(
            text,
            "- {} more workloads lie between these",
            feedback.more_workloads
        );
    }
    if let Some(facts) = describe_resources(&feedback.resources) {
        let _ = writeln!(text, "- compiler: {facts}");
    }
    for access in &feedback.accesses {
        let _ = writeln!(text, "- {}", describe_access(access));
    }
    for launch in &feedback.counters {
        if let Some(counters) = describe_counters(launch) {
            let _ = writeln!(text, "- {counters}");
        }
    }
    if let Some(margin) = feedback.margin {
        let _ = writeln!(
            text,
            "- error: at most {} of the tolerance",
            format_percent((1.0 - margin).max(0.0))
        );
    }
    if !feedback.passed() {
        describe_fault(feedback, source, question.task, &mut text);
    }
    text
}

/// `b4: 0.85x (15 % slower), 4.51 us against 3.83 us; 12 % of the roofline, memory-bound: 0.52 of 4.3 TB/s (2.3 MB at least)`.
fn describe_workload(workload: &WorkloadFeedback, question: &PromptInput<'_>) -> String {
    let mut text = format!(
        "{}: {}, {} us against {} us",
        code_span(&workload.id, 60),
        describe_speedup(workload.speedup),
        format_significant(workload.us),
        format_significant(workload.baseline_us)
    );
    let known = (question.task.workloads.iter()).find(|known| known.id == workload.id);
    if let Some(bound) = known.and_then(|known| describe_bound(known, workload.us, question)) {
        let _ = write!(text, "; {bound}");
    } else if let Some(roofline) = workload.roofline {
        let _ = write!(text, "; {} of the roofline", format_percent(roofline));
    }
    text
}

/// What bounds a workload on this device, and how much of that is used. Over the traffic that no kernel can avoid, all of it: the
/// verdict's own floor leaves out what the last-level cache could hold, since nobody may be accused wrongly.
fn describe_bound(workload: &Workload, us: f64, question: &PromptInput<'_>) -> Option<String> {
    let device = question.device;
    let value_of = |name: &str| workload.binding.axes.get(name).copied();
    let amount = |expression: &Expression| {
        expression
            .evaluate(&value_of)
            .ok()
            .map(|value| value as f64)
    };
    let (bytes, operations) = (amount(&question.task.bytes)?, amount(&question.task.flops)?);
    let (bandwidth, rate) = (device.bytes_a_second?, peak_rate(device, question.task)?);
    let (by_memory, by_arithmetic) = (bytes / bandwidth * 1e6, operations / rate * 1e6);
    let share = by_memory.max(by_arithmetic) / us;
    let (name, amount, peak, unit) = match by_memory >= by_arithmetic {
        true => ("memory", bytes, bandwidth, "B"),
        false => ("compute", operations, rate, "FLOP"),
    };
    let used = format!(
        "{} of {} ({} at least)",
        format_si(amount / us * 1e6, &format!("{unit}/s")),
        format_si(peak, &format!("{unit}/s")),
        format_si(amount, unit)
    );
    let share_text = format_percent(share);
    Some(match us < LATENCY_BOUND_US && share < LATENCY_BOUND_SHARE {
        true => format!(
            "{share_text} of the roofline: latency-bound, too little work to fill the device; {used}"
        ),
        false => format!("{share_text} of the roofline, {name}-bound: {used}"),
    })
}

/// Below this time and this share of the roofline, launching and the latency of a few dependent loads are most of it.
const LATENCY_BOUND_US: f64 = 5.0;
const LATENCY_BOUND_SHARE: f64 = 0.3;

/// Operations a second that the floor assumes: the tensor cores' where any tensor is narrower than float32.
fn peak_rate(device: &DeviceFacts, task: &Task) -> Option<f64> {
    let definition = &task.definition;
    let mut tensors = (definition.inputs.values()).chain(definition.outputs.values());
    match tensors.any(|tensor| tensor.dtype.is_float() && tensor.dtype.bytes() < 4) {
        true => device.tensor_a_second,
        false => device.float_a_second,
    }
}

fn describe_resources(resources: &Resources) -> Option<String> {
    let mut facts = Vec::new();
    if let Some(registers) = resources.registers {
        facts.push(format!("{registers} registers a thread"));
    }
    match resources.spill_bytes {
        Some(0) => facts.push("no spills".to_owned()),
        Some(bytes) => facts.push(format!("{bytes} bytes spilled a thread")),
        None => {}
    }
    if let Some(bytes) = resources.shared_bytes {
        facts.push(format!("{bytes} bytes of shared memory a block"));
    }
    if let Some(occupancy) = resources.occupancy {
        facts.push(format!("occupancy {:.0} %", occupancy * 100.0));
    }
    (!facts.is_empty()).then(|| facts.join(", "))
}

fn describe_access(access: &AccessFeedback) -> String {
    let (number, kind, space) = (access.line, &access.access, &access.space);
    let start = format!(
        "line {number}: {} {} of {} bytes a thread",
        one_line(space, 12),
        one_line(kind, 12),
        access.bytes
    );
    match (access.sectors, access.conflicts) {
        (Some(sectors), _) => format!(
            "{start} touches {} sectors of 32 bytes a warp, where {} would do",
            format_significant(sectors),
            access.bytes.max(1)
        ),
        (None, Some(conflicts)) => {
            format!(
                "{start} takes {} times the passes over the banks that it needs",
                format_significant(conflicts)
            )
        }
        (None, None) => start,
    }
}

/// What a profiler counted. Times under a profiler are no measurements, and are not told.
fn describe_counters(launch: &LaunchCounters) -> Option<String> {
    let parts = [
        ("multiprocessors busy", launch.sm_percent),
        ("memory system", launch.memory_percent),
        ("DRAM", launch.dram_percent),
        ("L1 hits", launch.l1_hit_percent),
        ("L2 hits", launch.l2_hit_percent),
        ("warps resident", launch.active_warps_percent),
        ("tensor cores", launch.tensor_percent),
        ("stalled on global memory", launch.waits_for_memory_percent),
        ("stalled on shared memory", launch.waits_for_shared_percent),
        ("stalled at barriers", launch.waits_at_barrier_percent),
    ];
    let known = parts
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    let known: Vec<_> = known
        .map(|(name, value)| format!("{name} {value:.0} %"))
        .collect();
    (!known.is_empty()).then(|| {
        format!(
            "counters, {} on {}: {}",
            code_span(&launch.kernel, 80),
            code_span(&launch.workload, 60),
            known.join(", ")
        )
    })
}

fn describe_fault(feedback: &Feedback, source: &str, task: &Task, text: &mut String) {
    if feedback.hidden {
        text.push_str("- it was found on a shape or on inputs that are not told: the kernel must hold for all\n");
    }
    let mut lines = Vec::new();
    if let Some(place) = &feedback.place {
        describe_location(place, task, text);
        lines.extend(place.line);
        lines.extend(place.other.as_ref().and_then(|(_, line)| *line));
    }
    if let Some(log) = &feedback.log {
        lines.extend(lines_named_in_log(log));
    }
    if let Some(reason) = feedback
        .reason
        .as_deref()
        .filter(|reason| !reason.trim().is_empty())
    {
        let _ = writeln!(text, "\nThe judge:\n{}", fenced_block(reason, "text"));
    }
    if let Some(log) = &feedback.log {
        let _ = writeln!(text, "\nThe log:\n{}", fenced_block(log, "text"));
    }
    let mut shown = Vec::new();
    for number in lines {
        if !shown.contains(&number) && shown.len() < MAX_QUOTED_LINES {
            shown.push(number);
        }
    }
    shown.sort_unstable();
    let quoted: Vec<_> = (shown.iter())
        .filter_map(|number| {
            let line = source
                .lines()
                .nth(usize::try_from(*number).ok()?.checked_sub(1)?)?;
            Some(format!(
                "{number}: {}",
                super::quote::truncate_chars(line, 200)
            ))
        })
        .collect();
    if !quoted.is_empty() {
        let _ = writeln!(
            text,
            "\nThe lines:\n{}",
            fenced_block(&quoted.join("\n"), "text")
        );
    }
}

fn describe_location(place: &FaultLocation, task: &Task, text: &mut String) {
    if let Some((tensor, found)) = place.tensor.as_deref().zip(place.found.as_deref()) {
        let at = place.index.map_or(String::new(), |index| {
            format_element_index(place, tensor, index, task)
        });
        let expected = place
            .expected
            .map_or("?".to_owned(), |value| format!("{value:.6e}"));
        let _ = writeln!(
            text,
            "- first wrong element: {}{at}: expected {expected}, found {}",
            code_span(tensor, 60),
            one_line(found, 32)
        );
    } else if let Some((tensor, index)) = place.tensor.as_deref().zip(place.index) {
        let _ = writeln!(
            text,
            "- first element: {}{}",
            code_span(tensor, 60),
            format_element_index(place, tensor, index, task)
        );
    }
    if let Some(workload) = &place.workload {
        let _ = writeln!(text, "- on workload {}", code_span(workload, 60));
    }
    if let Some(variable) = &place.variable {
        let _ = writeln!(text, "- variable {}", code_span(variable, 80));
    }
    let format_index = |[x, y, z]: [u32; 3]| format!("({x}, {y}, {z})");
    match (place.block, place.thread) {
        (Some(block), Some(thread)) => {
            let _ = writeln!(
                text,
                "- in block {}, thread {}",
                format_index(block),
                format_index(thread)
            );
        }
        (Some(block), None) => {
            let _ = writeln!(text, "- in block {}", format_index(block));
        }
        _ => {}
    }
    if let Some((other, at)) = &place.other {
        let at = at.map_or(String::new(), |line| format!(" in line {line}"));
        let _ = writeln!(text, "- against a {}{at}", one_line(other, 120));
    }
}

/// `[0, 3, 17] (flat 401)`, where the workload's shape is known.
fn format_element_index(place: &FaultLocation, tensor: &str, index: u64, task: &Task) -> String {
    let flat = format!("[flat {index}]");
    let definition = &task.definition;
    let shape = (definition.outputs.get(tensor)).or_else(|| definition.inputs.get(tensor));
    let workload =
        (task.workloads.iter()).find(|workload| Some(&workload.id) == place.workload.as_ref());
    let Some((tensor, workload)) = shape.zip(workload) else {
        return flat;
    };
    let Ok(shape) = workload.binding.shape(tensor) else {
        return flat;
    };
    let mut rest = index;
    let mut indices = Vec::new();
    for size in shape.iter().rev() {
        indices.push((rest % (*size).max(1)).to_string());
        rest /= (*size).max(1);
    }
    if rest > 0 || indices.is_empty() {
        return flat;
    }
    indices.reverse();
    format!("[{}]", indices.join(", "))
}

/// The kernel's lines that a compiler's log names: `kernel.cu:31:` or `kernel.cu(31)`.
fn lines_named_in_log(log: &str) -> Vec<u32> {
    let places = log
        .match_indices("kernel.cu")
        .filter_map(|(position, name)| {
            let rest = log[position + name.len()..].strip_prefix([':', '('])?;
            let digits = rest.len()
                - rest
                    .trim_start_matches(|digit: char| digit.is_ascii_digit())
                    .len();
            rest[..digits].parse().ok()
        });
    places.collect()
}

impl Feedback {
    /// What a child brought against its parent, in words.
    pub(crate) fn describe_change_from(&self, parent: &Feedback) -> String {
        match (self.speedup, parent.speedup) {
            (Some(child), Some(parent_speedup)) => {
                describe_speed_change(self, child, parent, parent_speedup)
            }
            (Some(child), None) => format!(
                "passes now (the parent: `{}`), {} of the baseline",
                parent.status,
                describe_speedup(child[0])
            ),
            (None, _) if self.status == parent.status => {
                format!("still `{}`: {}", self.status, status_meaning(self.status))
            }
            (None, Some(_)) => format!(
                "broke it, `{}`: {}",
                self.status,
                status_meaning(self.status)
            ),
            (None, None) => format!(
                "`{}` where the parent was `{}`: {}",
                self.status,
                parent.status,
                status_meaning(self.status)
            ),
        }
    }

    /// The same where there is no parent, or none that was judged.
    pub(crate) fn describe_outcome(&self) -> String {
        match self.speedup {
            Some([estimate, ..]) => {
                format!("passed, {} of the baseline", describe_speedup(estimate))
            }
            None => format!("`{}`: {}", self.status, status_meaning(self.status)),
        }
    }
}

fn describe_speed_change(
    child: &Feedback,
    now: [f64; 3],
    parent: &Feedback,
    before: [f64; 3],
) -> String {
    let ratio = now[0] / before[0];
    // Both against the same baseline, apart from each other: their errors add as independent ones do.
    let half = |[estimate, low, high]: [f64; 3]| (high - low) / 2.0 / estimate;
    let noise = half(now).hypot(half(before));
    let mut text = match (ratio - 1.0).abs() <= noise {
        true => format!(
            "no difference that could be measured (within {})",
            format_percent(noise)
        ),
        false => format!("{} of the parent's speed", describe_speedup(ratio)),
    };
    let mut each: Vec<_> = (child.workloads.iter())
        .filter_map(|workload| {
            let before = parent
                .workloads
                .iter()
                .find(|before| before.id == workload.id)?;
            let change = workload.speedup / before.speedup;
            let noise = (workload.half / workload.speedup).hypot(before.half / before.speedup);
            ((change - 1.0).abs() > noise.max(MIN_REPORTED_CHANGE))
                .then_some((change, &workload.id))
        })
        .collect();
    each.sort_by(|a, b| a.0.total_cmp(&b.0));
    let uneven = (each.first().zip(each.last()))
        .is_some_and(|((least, _), (most, _))| most / least > 1.0 + 2.0 * MIN_REPORTED_CHANGE);
    if uneven || (each.len() == 1 && child.workloads.len() > 1) {
        let describe_workload_change = |(change, id): &(f64, &String)| {
            format!("{} {:+.0} %", code_span(id, 60), (change - 1.0) * 100.0)
        };
        let ends: Vec<_> = match each.as_slice() {
            [first, .., last] => vec![
                describe_workload_change(last),
                describe_workload_change(first),
            ],
            ends => ends.iter().map(describe_workload_change).collect(),
        };
        let _ = write!(text, ", speed on {}", ends.join(", on "));
    }
    let _ = write!(text, "; now {} of the baseline", describe_speedup(now[0]));
    text
}

/// Why a step has no candidate, in words.
pub(crate) fn describe_failed_step(failed: &Failed) -> String {
    let text = match failed.reason {
        FailedReason::NoReply => "no reply came",
        FailedReason::Refused => "the model would not answer",
        FailedReason::Truncated => "the reply was cut off: it was too long",
        FailedReason::NoCode => "the reply held no kernel",
        FailedReason::EditMissed => "the edits had no place in the file",
        FailedReason::NoOp => "nothing was changed",
        FailedReason::Duplicate => match failed.of {
            Some(step) => return format!("the same code as step {step}"),
            None => "the same code as an earlier step",
        },
        FailedReason::HarnessError => "it was not judged",
    };
    text.to_owned()
}
