//! What a profiler and a device's sanitizer say of a kernel, in a few lines: what bounds it, and why something was not looked at.
//!
//! Pure: from a verdict to text.

use crate::verdict::{Counters, DeviceSanitizer, LaunchCounters, Verdict};

/// From this share of what a part can sustain on, that part is what a kernel waits for.
const BUSY_PERCENT: f64 = 60.0;
/// The most warnings of a sanitizer that are told.
const MAX_WARNINGS: usize = 4;
/// The most launches that are told.
const MAX_LAUNCHES: usize = 2;
/// The most letters of a function's name.
const MAX_NAME_CHARS: usize = 40;

/// Lines for a verdict; none where nothing was looked at.
pub(super) fn profiling_text(verdict: &Verdict) -> String {
    let Some(evidence) = &verdict.evidence else {
        return String::new();
    };
    let mut text = String::new();
    if let Some(counters) = &evidence.counters {
        text += &counters_text(counters);
    }
    if let Some(looked) = &evidence.device_sanitizer {
        text += &sanitizer_text(looked);
    }
    text
}

fn counters_text(counters: &Counters) -> String {
    if let Some(reason) = &counters.skipped {
        return format!("  counters: skipped: {reason}\n");
    }
    let tier = counters.tier.as_deref().unwrap_or_default();
    let mut longest: Vec<&LaunchCounters> = counters.launches.iter().collect();
    // The longest first: that is where the time goes.
    longest.sort_by(|one, other| {
        let time = |launch: &LaunchCounters| launch.duration_us.unwrap_or(0.0);
        time(other).total_cmp(&time(one))
    });
    let mut text = String::new();
    for launch in longest.iter().take(MAX_LAUNCHES) {
        text += &format!(
            "  counters ({tier}): {}`{}`: {}\n",
            match launch.workload.as_str() {
                "" => String::new(),
                workload => format!("{workload}, "),
            },
            short_name(&launch.kernel),
            bottleneck(launch)
        );
    }
    let more = counters.launches.len().saturating_sub(MAX_LAUNCHES);
    if more > 0 {
        text += &format!("  counters: {more} shorter launches are in the verdict\n");
    }
    if let Some(report) = &counters.report {
        text += &format!("  counters: the tool's report: {report}\n");
    }
    text
}

/// The name without its parameters.
fn short_name(kernel: &str) -> String {
    let end = kernel.find("(const").or_else(|| kernel.rfind('('));
    let name = end.map_or(kernel, |end| &kernel[..end]);
    let name = name.strip_prefix("void ").unwrap_or(name);
    match name.chars().count() > MAX_NAME_CHARS {
        true => name
            .chars()
            .take(MAX_NAME_CHARS)
            .chain("…".chars())
            .collect(),
        false => name.to_owned(),
    }
}

/// What bounds a launch, in words.
fn bottleneck(launch: &LaunchCounters) -> String {
    let (Some(memory), Some(sm)) = (launch.memory_percent, launch.sm_percent) else {
        return "the tool gave no throughput".to_owned();
    };
    let dram = launch
        .dram_percent
        .map_or_else(String::new, |dram| format!(" (DRAM {dram:.0} %)"));
    let shares = format!("memory {memory:.0} % of peak{dram}, SM {sm:.0} %");
    let why = match (memory, sm) {
        _ if memory < BUSY_PERCENT && sm < BUSY_PERCENT => match longest_stall(launch) {
            Some((what, percent)) => {
                format!("bound by latency: warps wait {percent:.0} % of their time {what}")
            }
            None => "bound by latency".to_owned(),
        },
        _ if memory >= sm => "bound by memory".to_owned(),
        _ => "bound by the multiprocessors".to_owned(),
    };
    format!("{shares}: {why}")
}

/// What warps wait for most, if they do for long.
fn longest_stall(launch: &LaunchCounters) -> Option<(&'static str, f64)> {
    let waits = [
        ("for memory", launch.waits_for_memory_percent),
        (
            "for shared memory or special functions",
            launch.waits_for_shared_percent,
        ),
        ("at barriers", launch.waits_at_barrier_percent),
    ];
    let waits = waits
        .into_iter()
        .filter_map(|(what, percent)| Some((what, percent?)));
    let most = waits.max_by(|one, other| one.1.total_cmp(&other.1))?;
    (most.1 >= 10.0).then_some(most)
}

fn sanitizer_text(looked: &DeviceSanitizer) -> String {
    let mut text = String::new();
    if !looked.clean.is_empty() {
        let tool = looked.tool.as_deref().unwrap_or_default();
        let clean = looked.clean.join(", ");
        text += &format!("  device sanitizer ({tool}): nothing found by {clean}\n");
    }
    for warning in looked.warnings.iter().take(MAX_WARNINGS) {
        text += &format!("  device sanitizer: warns: {warning}\n");
    }
    let more = looked.warnings.len().saturating_sub(MAX_WARNINGS);
    if more > 0 {
        text += &format!("  device sanitizer: warns of {more} more\n");
    }
    for reason in &looked.skipped {
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
            "the tool gave no throughput"
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
        assert!(text.contains("1 shorter"), "{text}");
    }

    #[test]
    fn skipped_tools_take_one_line_each() {
        let skipped = Counters {
            skipped: Some("no `ncu`".to_owned()),
            ..Counters::default()
        };
        assert_eq!(counters_text(&skipped), "  counters: skipped: no `ncu`\n");
        let looked = DeviceSanitizer {
            tool: Some("compute-sanitizer 2025.3".to_owned()),
            clean: vec!["memcheck".to_owned(), "synccheck".to_owned()],
            skipped: vec!["racecheck: x".to_owned()],
            warnings: ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec(),
            ..DeviceSanitizer::default()
        };
        assert_eq!(
            sanitizer_text(&looked),
            "  device sanitizer (compute-sanitizer 2025.3): nothing found by memcheck, synccheck\n  device sanitizer: warns: a\n  device sanitizer: warns: b\n  device sanitizer: warns: c\n  device sanitizer: warns: d\n  device sanitizer: warns of 1 more\n  device sanitizer: skipped: racecheck: x\n"
        );
    }
}
