//! What a profiler and a device sanitizer found about a kernel, in a few lines: its bottleneck, and why a tool did not run.
//!
//! Pure: from a verdict to text.

use super::text::pluralize;
use crate::verdict::{Counters, DeviceSanitizer, LaunchCounters, Verdict};

/// A part of the GPU that works at this share of its peak or more is the bottleneck.
const BUSY_PERCENT: f64 = 60.0;

/// Minimum share of the active warps' time at which a stall reason is named.
const MIN_STALL_PERCENT: f64 = 10.0;

/// Maximum number of sanitizer warnings to show.
const MAX_WARNINGS: usize = 4;

/// Maximum number of launches to show.
const MAX_LISTED_LAUNCHES: usize = 2;

/// Longest function name to show, in characters.
const MAX_NAME_CHARS: usize = 40;

/// The lines about both tools. Empty if neither was requested.
pub(super) fn profiling_text(verdict: &Verdict) -> String {
    let Some(evidence) = &verdict.evidence else {
        return String::new();
    };
    let counters = evidence.counters.as_ref().map(counters_text);
    let sanitizer = evidence.device_sanitizer.as_ref().map(sanitizer_text);
    counters.unwrap_or_default() + &sanitizer.unwrap_or_default()
}

fn counters_text(counters: &Counters) -> String {
    if let Some(reason) = &counters.skipped {
        return format!("  counters: skipped: {reason}\n");
    }
    let tier = counters.tier.as_deref().unwrap_or_default();
    let duration = |launch: &LaunchCounters| launch.duration_us.unwrap_or(0.0);
    let mut longest: Vec<&LaunchCounters> = counters.launches.iter().collect();
    longest.sort_by(|one, other| duration(other).total_cmp(&duration(one)));
    let mut text = String::new();
    for launch in longest.iter().take(MAX_LISTED_LAUNCHES) {
        let workload = match launch.workload.as_str() {
            "" => String::new(),
            workload => format!("{workload}, "),
        };
        let name = short_name(&launch.kernel);
        text += &format!(
            "  counters ({tier}): {workload}`{name}`: {}\n",
            bottleneck(launch)
        );
    }
    let more = counters.launches.len().saturating_sub(MAX_LISTED_LAUNCHES);
    if more > 0 {
        text += &format!("  counters: {more} more, shorter: see the verdict\n");
    }
    if let Some(report) = &counters.report {
        text += &format!("  counters: report of the profiler: {report}\n");
    }
    text
}

/// A function's name without return type and parameters, cut to `MAX_NAME_CHARS`.
fn short_name(kernel: &str) -> String {
    let end = kernel.find("(const").or_else(|| kernel.rfind('('));
    let name = end.map_or(kernel, |end| &kernel[..end]);
    let name = name.strip_prefix("void ").unwrap_or(name);
    if name.chars().count() > MAX_NAME_CHARS {
        name.chars()
            .take(MAX_NAME_CHARS)
            .chain("…".chars())
            .collect()
    } else {
        name.to_owned()
    }
}

/// Throughput of a launch, and what bounds it.
fn bottleneck(launch: &LaunchCounters) -> String {
    let (Some(memory), Some(sm)) = (launch.memory_percent, launch.sm_percent) else {
        return "the profiler reported no throughput".to_owned();
    };
    let dram = launch
        .dram_percent
        .map_or_else(String::new, |dram| format!(" (DRAM {dram:.0} %)"));
    let bound = if memory < BUSY_PERCENT && sm < BUSY_PERCENT {
        match longest_stall(launch) {
            Some((reason, percent)) => {
                format!("bound by latency: warps wait {percent:.0} % of their time {reason}")
            }
            None => "bound by latency".to_owned(),
        }
    } else if memory >= sm {
        "bound by memory".to_owned()
    } else {
        "bound by the multiprocessors".to_owned()
    };
    format!("memory {memory:.0} % of peak{dram}, SM {sm:.0} %: {bound}")
}

/// The most frequent stall reason of warps and its share of their time, if it matters.
fn longest_stall(launch: &LaunchCounters) -> Option<(&'static str, f64)> {
    let stalls = [
        ("for memory", launch.waits_for_memory_percent),
        (
            "for shared memory or special functions",
            launch.waits_for_shared_percent,
        ),
        ("at barriers", launch.waits_at_barrier_percent),
    ];
    let stalls = stalls
        .into_iter()
        .filter_map(|(reason, percent)| Some((reason, percent?)));
    let longest = stalls.max_by(|one, other| one.1.total_cmp(&other.1))?;
    (longest.1 >= MIN_STALL_PERCENT).then_some(longest)
}

fn sanitizer_text(sanitizer: &DeviceSanitizer) -> String {
    let mut text = String::new();
    if !sanitizer.clean.is_empty() {
        let tool = sanitizer.tool.as_deref().unwrap_or_default();
        let clean = sanitizer.clean.join(", ");
        text += &format!("  device sanitizer ({tool}): nothing found by {clean}\n");
    }
    for warning in sanitizer.warnings.iter().take(MAX_WARNINGS) {
        text += &format!("  device sanitizer: warning: {warning}\n");
    }
    let more = sanitizer.warnings.len().saturating_sub(MAX_WARNINGS);
    if more > 0 {
        let warnings = pluralize(more as u64, "more warning");
        text += &format!("  device sanitizer: {warnings}\n");
    }
    for reason in &sanitizer.skipped {
        text += &format!("  device sanitizer: skipped: {reason}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(memory: f64, sm: f64) -> LaunchCounters {
        LaunchCounters {
            workload: "b64".to_owned(),
            kernel: "void rows<(int)4>(const float *, float *)".to_owned(),
            memory_percent: Some(memory),
            sm_percent: Some(sm),
            ..LaunchCounters::default()
        }
    }

    #[test]
    fn counters_line_names_the_bottleneck() {
        let counters = Counters {
            tier: Some("ncu 2025.3".to_owned()),
            launches: vec![launch(81.4, 23.1)],
            ..Counters::default()
        };
        assert_eq!(
            counters_text(&counters),
            "  counters (ncu 2025.3): b64, `rows<(int)4>`: memory 81 % of peak, SM 23 %: bound by memory\n"
        );
        assert!(bottleneck(&launch(61.0, 90.0)).ends_with("bound by the multiprocessors"));
        let mut slow = launch(12.0, 9.0);
        assert!(bottleneck(&slow).ends_with("bound by latency"));
        slow.waits_at_barrier_percent = Some(70.2);
        slow.waits_for_memory_percent = Some(20.0);
        slow.dram_percent = Some(3.0);
        assert_eq!(
            bottleneck(&slow),
            "memory 12 % of peak (DRAM 3 %), SM 9 %: bound by latency: warps wait 70 % of their time at barriers"
        );
        assert_eq!(
            bottleneck(&LaunchCounters::default()),
            "the profiler reported no throughput"
        );
    }

    #[test]
    fn longest_launches_come_first() {
        let timed = |time| LaunchCounters {
            duration_us: Some(time),
            kernel: format!("k{time}"),
            ..launch(1.0, 1.0)
        };
        let text = counters_text(&Counters {
            launches: vec![timed(1.0), timed(3.0), timed(2.0)],
            ..Counters::default()
        });
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.lines().next().unwrap().contains("`k3`"), "{text}");
        assert!(text.contains("1 more, shorter"), "{text}");
    }

    #[test]
    fn skipped_tools_take_one_line_each() {
        let skipped = Counters {
            skipped: Some("no `ncu`".to_owned()),
            ..Counters::default()
        };
        assert_eq!(counters_text(&skipped), "  counters: skipped: no `ncu`\n");
        let sanitizer = DeviceSanitizer {
            tool: Some("compute-sanitizer 2025.3".to_owned()),
            clean: vec!["memcheck".to_owned(), "synccheck".to_owned()],
            skipped: vec!["racecheck: x".to_owned()],
            warnings: ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec(),
            ..DeviceSanitizer::default()
        };
        let lines = [
            "  device sanitizer (compute-sanitizer 2025.3): nothing found by memcheck, synccheck",
            "  device sanitizer: warning: a",
            "  device sanitizer: warning: b",
            "  device sanitizer: warning: c",
            "  device sanitizer: warning: d",
            "  device sanitizer: 1 more warning",
            "  device sanitizer: skipped: racecheck: x",
        ];
        assert_eq!(sanitizer_text(&sanitizer), lines.join("\n") + "\n");
    }
}
