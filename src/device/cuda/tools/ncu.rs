//! Nsight Compute (`ncu`): its metrics and arguments, and its report as numbers.
//!
//! Runs nothing. A number that the report lacks stays `None`.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::verdict::LaunchCounters;

/// The program.
pub(crate) const NAME: &str = "ncu";

/// Selects the field that receives a metric.
type CounterField = fn(&mut LaunchCounters) -> &mut Option<f64>;

/// The requested metrics and their fields. The last one is a substitute (see `drop_unknown_metrics`).
const METRICS: [(&str, CounterField); 15] = [
    ("gpu__time_duration.sum", |to| &mut to.duration_us),
    ("sm__throughput.avg.pct_of_peak_sustained_elapsed", |to| {
        &mut to.sm_percent
    }),
    (
        "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed",
        |to| &mut to.memory_percent,
    ),
    ("dram__throughput.avg.pct_of_peak_sustained_elapsed", |to| {
        &mut to.dram_percent
    }),
    ("dram__bytes_read.sum", |to| &mut to.dram_read_bytes),
    ("dram__bytes_write.sum", |to| &mut to.dram_written_bytes),
    ("l1tex__t_sector_hit_rate.pct", |to| &mut to.l1_hit_percent),
    ("lts__t_sector_hit_rate.pct", |to| &mut to.l2_hit_percent),
    ("sm__warps_active.avg.pct_of_peak_sustained_active", |to| {
        &mut to.active_warps_percent
    }),
    (
        "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
        |to| &mut to.tensor_percent,
    ),
    (
        "smsp__warp_issue_stalled_long_scoreboard_per_warp_active.pct",
        |to| &mut to.waits_for_memory_percent,
    ),
    (
        "smsp__warp_issue_stalled_short_scoreboard_per_warp_active.pct",
        |to| &mut to.waits_for_shared_percent,
    ),
    (
        "smsp__warp_issue_stalled_barrier_per_warp_active.pct",
        |to| &mut to.waits_at_barrier_percent,
    ),
    ("launch__registers_per_thread", |to| &mut to.registers),
    // The name on GPUs that count several tensor units.
    (
        "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active",
        |to| &mut to.tensor_percent,
    ),
];

/// The metrics of the first run: all but the substitute.
pub(crate) fn initial_metrics() -> Vec<&'static str> {
    let names = METRICS.iter().map(|(name, _)| *name);
    names.take(METRICS.len() - 1).collect()
}

/// The metrics for another run, after a run that did not know some of `asked`. `None`: the run had another problem.
pub(crate) fn drop_unknown_metrics(asked: &[&'static str], log: &str) -> Option<Vec<&'static str>> {
    let complaints: Vec<_> = log
        .lines()
        .filter(|line| line.contains("Failed to find metric") || line.contains("nvalid metric"))
        .collect();
    let is_unknown = |name: &&str| complaints.iter().any(|line| line.contains(*name));
    let mut known: Vec<_> = (asked.iter().copied())
        .filter(|name| !is_unknown(name))
        .collect();
    if known.len() == asked.len() || known.is_empty() {
        return None;
    }
    let (substitute, _) = METRICS[METRICS.len() - 1];
    let lacks_tensor = !known.iter().any(|name| name.contains("pipe_tensor"));
    if lacks_tensor && !asked.contains(&substitute) {
        known.push(substitute);
    }
    Some(known)
}

/// The arguments before the profiled program: profile the launches between its marks, each separately, from flushed caches.
pub(crate) fn arguments(metrics: &[&str], report: &Path, log: &Path) -> Vec<OsString> {
    super::os_strings([
        OsStr::new("--target-processes"),
        OsStr::new("application-only"),
        OsStr::new("--profile-from-start"),
        OsStr::new("off"),
        OsStr::new("--replay-mode"),
        OsStr::new("kernel"),
        OsStr::new("--cache-control"),
        OsStr::new("all"),
        OsStr::new("--clock-control"),
        OsStr::new("none"),
        OsStr::new("--metrics"),
        OsStr::new(&metrics.join(",")),
        OsStr::new("--log-file"),
        log.as_os_str(),
        OsStr::new("-f"),
        OsStr::new("-o"),
        report.as_os_str(),
    ])
}

/// The arguments that print a report as CSV.
pub(crate) fn import_arguments(report: &Path) -> Vec<OsString> {
    super::os_strings([
        OsStr::new("--import"),
        report.as_os_str(),
        OsStr::new("--csv"),
        OsStr::new("--page"),
        OsStr::new("raw"),
        OsStr::new("--print-units"),
        OsStr::new("base"),
    ])
}

/// Why a run has no result, in one line, from the tool's output.
pub(crate) fn failure_reason(log: &str) -> String {
    if log.contains("ERR_NVGPUCTRPERM") {
        return "the driver does not allow this user to read counters (ERR_NVGPUCTRPERM): run as root (in a container with CAP_SYS_ADMIN), or load the driver with NVreg_RestrictProfilingToAdminUsers=0".to_owned();
    }
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines().find(|line| line.starts_with("==ERROR=="));
    let warning = lines().find(|line| line.starts_with("==WARNING=="));
    let said = error.or(warning).or_else(|| lines().next_back());
    let said = said.map(|line| {
        line.trim_start_matches("==ERROR==")
            .trim_start_matches("==WARNING==")
            .trim()
    });
    let said: String = said
        .unwrap_or("the tool printed nothing")
        .chars()
        .take(300)
        .collect();
    said
}

/// The launches of a CSV report, in order. The error says in one line what is missing.
pub(crate) fn parse_launches(csv: &str) -> Result<Vec<LaunchCounters>, String> {
    let mut rows = parse_csv(csv).into_iter();
    let header = rows
        .find(|row| row.first().is_some_and(|cell| cell == "ID"))
        .ok_or("the report contains no table")?;
    let column = |name: &str| header.iter().position(|cell| cell == name);
    let kernel = column("Kernel Name").ok_or("the report names no kernels")?;
    let rows: Vec<_> = rows.collect();
    // The row without an ID holds the units.
    let (units, rows): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .partition(|row| row.first().is_none_or(|id| id.trim().is_empty()));
    let unit = |place: usize| {
        units
            .first()
            .and_then(|row| row.get(place))
            .map(String::as_str)
    };
    let launches = rows.iter().map(|row| {
        let mut counters = LaunchCounters {
            kernel: row.get(kernel).cloned().unwrap_or_default(),
            ..LaunchCounters::default()
        };
        for (name, slot) in METRICS {
            let Some(place) = column(name) else { continue };
            let value = row.get(place).and_then(|cell| parse_number(cell));
            let value =
                value.map(|value| value * unit_scale(name, unit(place).unwrap_or_default()));
            let slot = slot(&mut counters);
            *slot = slot.or(value);
        }
        counters
    });
    let launches: Vec<_> = launches.collect();
    match launches.is_empty() {
        true => Err("the report contains no launch".to_owned()),
        false => Ok(launches),
    }
}

/// The factor from the tool's unit to kforge's: microseconds, bytes, percent.
fn unit_scale(metric: &str, unit: &str) -> f64 {
    let is_time = metric.starts_with("gpu__time");
    match unit.trim() {
        "ns" | "nsecond" if is_time => 1e-3,
        "ms" | "msecond" if is_time => 1e3,
        "s" | "second" if is_time => 1e6,
        "Kbyte" => 1e3,
        "Mbyte" => 1e6,
        "Gbyte" => 1e9,
        _ => 1.0,
    }
}

/// Parses a number such as `1,234.5`. `n/a` and `nan` give `None`.
fn parse_number(cell: &str) -> Option<f64> {
    let plain: String = cell
        .trim()
        .chars()
        .filter(|letter| *letter != ',')
        .collect();
    plain.parse().ok().filter(|value: &f64| value.is_finite())
}

/// Parses comma-separated values, quoted or not. Skips the tool's own messages (`==PROF==`).
fn parse_csv(text: &str) -> Vec<Vec<String>> {
    let mut records = Vec::new();
    let mut record = Vec::new();
    let mut cell = String::new();
    let mut quoted = false;
    let lines = text.lines().filter(|line| !line.starts_with("=="));
    for line in lines {
        let mut letters = line.trim_end_matches('\r').chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '"' if quoted && letters.peek() == Some(&'"') => {
                    letters.next();
                    cell.push('"');
                }
                '"' => quoted = !quoted,
                ',' if !quoted => record.push(std::mem::take(&mut cell)),
                letter => cell.push(letter),
            }
        }
        if quoted {
            cell.push(' ');
            continue;
        }
        record.push(std::mem::take(&mut cell));
        let record = std::mem::take(&mut record);
        if record.iter().any(|cell| !cell.is_empty()) {
            records.push(record);
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"==PROF== Connected to process 4711
"ID","Process ID","Process Name","Kernel Name","Context","Stream","Block Size","Grid Size","dram__bytes_read.sum","gpu__time_duration.sum","gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed","launch__registers_per_thread","sm__throughput.avg.pct_of_peak_sustained_elapsed","sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active"
"","","","","","","","","byte","ns","%","register/thread","%","%"
"0","4711","kforge","rows<(int)4>(const float *, float *)","1","13","(128, 1, 1)","(1,024, 1, 1)","268,435,456","1,234,500","81.25","40","23.5","n/a"
"1","4711","kforge","say ""hi""","1","13","(128, 1, 1)","(8, 1, 1)","12","900","0.5","16","nan","0"
"#;

    #[test]
    fn report_is_parsed_launch_by_launch() {
        let launches = parse_launches(REPORT).unwrap();
        assert_eq!(launches.len(), 2);
        let first = &launches[0];
        assert_eq!(first.kernel, "rows<(int)4>(const float *, float *)");
        assert_eq!(first.dram_read_bytes, Some(268_435_456.0));
        assert!((first.duration_us.unwrap() - 1234.5).abs() < 1e-9);
        assert_eq!(first.memory_percent, Some(81.25));
        assert_eq!(first.sm_percent, Some(23.5));
        assert_eq!(first.registers, Some(40.0));
        assert_eq!(first.tensor_percent, None);
        assert_eq!(first.dram_percent, None);
        assert_eq!(launches[1].kernel, "say \"hi\"");
        assert_eq!(launches[1].sm_percent, None);
        assert_eq!(launches[1].tensor_percent, Some(0.0));
    }

    #[test]
    fn malformed_report_names_what_is_missing() {
        for text in [
            "",
            "==ERROR== no\n",
            "\"ID\",\"x\"\n",
            "\"ID\",\"Kernel Name\"\n\"\",\"\"\n",
            "\"ID\",\"Kernel Name",
            "\"\"\"\"\"",
            ",,,\n\"ID",
        ] {
            let lack = parse_launches(text).unwrap_err();
            assert!(
                lack.starts_with("the report") && !lack.contains('\n'),
                "{text}: {lack}"
            );
        }
        // A row that ends early has fewer numbers, not a fault.
        let short = REPORT.lines().take(3).collect::<Vec<_>>().join("\n")
            + "\n\"7\",\"1\",\"kforge\",\"k\"\n";
        assert_eq!(parse_launches(&short).unwrap()[0].memory_percent, None);
    }

    #[test]
    fn other_units_are_converted() {
        assert_eq!(unit_scale("dram__bytes_read.sum", "Mbyte"), 1e6);
        assert_eq!(unit_scale("gpu__time_duration.sum", "us"), 1.0);
        assert_eq!(unit_scale("sm__throughput.avg", "%"), 1.0);
    }

    #[test]
    fn failure_reason_is_one_line() {
        let denied = "==PROF== Connected to process 7\n==ERROR== ERR_NVGPUCTRPERM - The user does not have permission\n";
        assert!(failure_reason(denied).contains("CAP_SYS_ADMIN"));
        let other = "==PROF== x\n==WARNING== w\n==ERROR== Cuda driver is not compatible with Nsight Compute.\n==PROF== y\n";
        assert_eq!(
            failure_reason(other),
            "Cuda driver is not compatible with Nsight Compute."
        );
        assert_eq!(
            failure_reason("==WARNING== No kernels were profiled.\n"),
            "No kernels were profiled."
        );
        assert_eq!(failure_reason(""), "the tool printed nothing");
        assert!(!failure_reason(denied).contains('\n'));
    }

    #[test]
    fn unknown_metric_is_replaced_by_its_substitute() {
        let asked = initial_metrics();
        assert_eq!(
            drop_unknown_metrics(&asked, "==ERROR== something else"),
            None
        );
        let log = "==ERROR== Failed to find metric sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active\n";
        let known = drop_unknown_metrics(&asked, log).unwrap();
        assert_eq!(known.len(), asked.len());
        assert!(
            known
                .iter()
                .any(|name| name.starts_with("sm__inst_executed_pipe_tensor"))
        );
        let both = format!(
            "{log}==ERROR== Failed to find metric sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active\n"
        );
        let known = drop_unknown_metrics(&known, &both).unwrap();
        assert_eq!(known.len(), asked.len() - 1);
    }
}
