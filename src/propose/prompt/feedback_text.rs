//! A verdict in sentences: the status, the speed against the baseline, what limits it, and the compiler's and profiler's facts.
//!
//! Every number is from the verdict or follows from the task and the measured device rates; nothing is guessed.

use std::fmt::Write;

use super::fault_text::describe_fault;
use super::feedback::{AccessFeedback, Feedback, WorkloadFeedback};
use super::input::PromptInput;
use super::numbers::{
    describe_speedup, format_interval_end, format_percent, format_si, format_significant,
};
use super::quote::{code_span, one_line};
use crate::base::expression::Expression;
use crate::device::DeviceFacts;
use crate::task::{Task, Workload};
use crate::verdict::{LaunchCounters, Resources, Status};

/// Below this share of the roofline neither memory nor arithmetic limits a kernel, whichever of the two its floor comes from.
const BOUND_SHARE: f64 = 0.3;
/// Such a workload below this time is latency-bound: most of its time is the launch and a few dependent loads.
const LATENCY_BOUND_US: f64 = 5.0;

/// The meaning of a status, for the author of the kernel.
pub(super) fn status_meaning(status: Status) -> &'static str {
    match status {
        // Never sent to a model; the match must be complete.
        Status::HarnessError => "not judged",
        Status::Rejected => "the header or the source was refused before compilation",
        Status::Unsupported => "this device cannot run it",
        Status::CompileError => "it does not compile",
        Status::CompileTimeout => {
            "it takes too long to compile: use less unrolling and fewer templates"
        }
        Status::LaunchError => {
            "the launch was refused: a size in the header exceeds what the device allows"
        }
        Status::LimitExceeded => "it uses more memory, output or threads than allowed",
        Status::OutOfBounds => "it reads or writes outside its buffers",
        Status::Misaligned => "a wide access is not aligned to its size",
        Status::UninitializedRead => "it reads memory that was never written",
        Status::Race => {
            "two threads access the same memory without synchronization, and one of them writes"
        }
        Status::SyncError => {
            "not all threads that a barrier or a warp-wide operation waits for reach it"
        }
        Status::UndefinedBehavior => "it has undefined behavior in C++",
        Status::Crashed => "it crashed",
        Status::TimedOut => "it did not finish in time",
        Status::InputMutated => "it writes to an input",
        Status::OutputUnwritten => "it leaves elements of an output unwritten",
        Status::Nondeterministic => {
            "the same inputs gave a correct result once and a wrong one once"
        }
        Status::WrongOutput => "its results are outside the tolerance",
        Status::Stateful => "it keeps state from one launch to the next",
        Status::Suspicious => {
            "it is faster than the hardware can move the data, so it does not compute the task"
        }
        Status::Inconclusive => {
            "it is correct, but its times vary too much to compare with the baseline"
        }
        Status::Passed => "correct and timed",
    }
}

/// All feedback on a judged kernel: a sentence and a list. `source` is the kernel's text.
pub(super) fn describe_feedback(
    feedback: &Feedback,
    source: &str,
    input: &PromptInput<'_>,
) -> String {
    let mut text = format!(
        "`{}`: {}.",
        feedback.status,
        status_meaning(feedback.status)
    );
    if let Some([estimate, low, high]) = feedback.speedup {
        let _ = write!(
            text,
            " Speedup over the baseline `{}`: {}x ({}), 95 % interval {} to {}, over all workloads.",
            input.baseline,
            format_significant(estimate),
            describe_speedup(estimate, "the baseline's"),
            format_interval_end(low),
            format_interval_end(high)
        );
        if estimate <= 1.0 {
            text.push_str(" It must exceed 1.0x.");
        }
    }
    text.push('\n');
    for workload in &feedback.workloads {
        let _ = writeln!(text, "- {}", describe_workload(workload, input));
    }
    if feedback.more_workloads > 0 {
        let _ = writeln!(
            text,
            "- {} more workloads are between these",
            feedback.more_workloads
        );
    }
    if let Some(facts) = describe_resources(&feedback.resources) {
        let _ = writeln!(text, "- compiler: {facts}");
    }
    if feedback.serialized {
        text.push_str("- assembler: `wgmma` products run one after the other, with a wait after each. Usual causes: too few registers for the tiles, or registers of products in flight that other code uses\n");
    }
    for note in &feedback.notes {
        let _ = writeln!(text, "- header: {}", one_line(note, 300));
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
            "- largest error: {} of the tolerance",
            format_percent((1.0 - margin).max(0.0))
        );
    }
    if !feedback.passed() {
        describe_fault(feedback, source, input.task, &mut text);
    }
    text
}

/// The speedup of a workload from paired timings, the medians of both kernels, and what limits it.
fn describe_workload(workload: &WorkloadFeedback, input: &PromptInput<'_>) -> String {
    let mut text = format!(
        "{}: {}x ({}), median {} us, baseline's median {} us",
        code_span(&workload.id, 60),
        format_significant(workload.speedup),
        describe_speedup(workload.speedup, "the baseline's"),
        format_significant(workload.us),
        format_significant(workload.baseline_us)
    );
    let known = (input.task.workloads.iter()).find(|known| known.id == workload.id);
    if let Some(bound) = known.and_then(|known| describe_bound(known, workload.us, input)) {
        let _ = write!(text, "; {bound}");
    } else if let Some(roofline) = workload.roofline {
        let _ = write!(text, "; {} of the roofline", format_percent(roofline));
    }
    text
}

/// What limits a workload on this device, and how much of that limit it uses.
///
/// Counts all compulsory traffic. The verdict's floor counts less: it leaves out what the last-level cache could hold, so that no
/// correct kernel is called suspicious.
fn describe_bound(workload: &Workload, us: f64, input: &PromptInput<'_>) -> Option<String> {
    let device = input.device;
    let value_of = |name: &str| workload.binding.axes.get(name).copied();
    let amount = |expression: &Expression| {
        let value = expression.evaluate(&value_of).ok();
        value.map(|value| value as f64)
    };
    let (bytes, operations) = (amount(&input.task.bytes)?, amount(&input.task.flops)?);
    let (bandwidth, rate) = (device.bytes_a_second?, peak_rate(device, input.task)?);
    let (by_memory, by_arithmetic) = (bytes / bandwidth * 1e6, operations / rate * 1e6);
    let share = by_memory.max(by_arithmetic) / us;
    let (name, amount, peak, unit) = if by_memory >= by_arithmetic {
        ("memory", bytes, bandwidth, "B")
    } else {
        ("compute", operations, rate, "FLOP")
    };
    let bound = if share >= BOUND_SHARE {
        format!("{name}-bound")
    } else if us < LATENCY_BOUND_US {
        "latency-bound, too little work to fill the device".to_owned()
    } else {
        "far below it because of latency, the access pattern or too little parallelism".to_owned()
    };
    let per_second = format!("{unit}/s");
    Some(format!(
        "{} of the roofline, {bound}: {} of {} (at least {})",
        format_percent(share),
        format_si(amount / us * 1e6, &per_second),
        format_si(peak, &per_second),
        format_si(amount, unit)
    ))
}

/// The rate that the floor assumes, in operations per second: the tensor cores' if any tensor is narrower than float32.
fn peak_rate(device: &DeviceFacts, task: &Task) -> Option<f64> {
    let definition = &task.definition;
    let mut tensors = (definition.inputs.values()).chain(definition.outputs.values());
    if tensors.any(|tensor| tensor.dtype.is_float() && tensor.dtype.bytes() < 4) {
        device.tensor_a_second
    } else {
        device.float_a_second
    }
}

fn describe_resources(resources: &Resources) -> Option<String> {
    let mut facts = Vec::new();
    if let Some(registers) = resources.registers {
        facts.push(format!("{registers} registers per thread"));
    }
    match resources.spill_bytes {
        Some(0) => facts.push("no spills".to_owned()),
        Some(bytes) => facts.push(format!("{bytes} bytes spilled per thread")),
        None => {}
    }
    if let Some(bytes) = resources.shared_bytes {
        facts.push(format!("{bytes} bytes of shared memory per block"));
    }
    if let Some(occupancy) = resources.occupancy {
        facts.push(format!("occupancy {:.0} %", occupancy * 100.0));
    }
    (!facts.is_empty()).then(|| facts.join(", "))
}

fn describe_access(access: &AccessFeedback) -> String {
    let start = format!(
        "line {}: {} {} of {} bytes per thread",
        access.line,
        one_line(&access.space, 12),
        one_line(&access.access, 12),
        access.bytes
    );
    match (access.sectors, access.conflicts) {
        (Some(sectors), _) => format!(
            "{start} touches {} sectors of 32 bytes per warp; {} would suffice",
            format_significant(sectors),
            access.bytes.max(1)
        ),
        (None, Some(conflicts)) => format!(
            "{start} takes {}x the passes over the banks that it needs",
            format_significant(conflicts)
        ),
        (None, None) => start,
    }
}

/// A profiler's counters of one launch. Times under a profiler are not measurements and are left out.
fn describe_counters(launch: &LaunchCounters) -> Option<String> {
    let counters = [
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
    let known: Vec<_> = (counters.into_iter())
        .filter_map(|(name, value)| Some(format!("{name} {:.0} %", value?)))
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
