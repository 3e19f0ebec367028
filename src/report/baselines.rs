//! A table of baselines as text: how fast each is, and how a kernel compares with it. Pure.

use super::text::{TERMINAL_WIDTH, wrap};
use crate::verdict::{BaselineEntry, BaselineTable, Speedup};

/// The result in words, then all baselines, then the times on each workload.
pub(crate) fn describe_baselines(table: &BaselineTable) -> String {
    let device = &table.device.name;
    let (task, profile, cache) = (&table.task, &table.profile, &table.cache);
    let mut text = wrap(&baselines_headline(table), TERMINAL_WIDTH, 0);
    text += &format!("\n{task} on {device}, {cache} caches, profile {profile}\n\n");
    text += &format!(
        "  {:<34}  {:<8}  {:>10}  {:>10}  {:<15}\n",
        "baseline", "launch", "its speed", "the kernel", "95 % interval"
    );
    for entry in &table.entries {
        let launch = entry.launch.as_deref().unwrap_or(&entry.kind);
        let Some(kernel) = entry.kernel_speedup else {
            let reason = entry.reason.as_deref().unwrap_or("not measured");
            text += &format!("  {:<34}  {reason}\n", entry.label());
            continue;
        };
        let own = entry
            .speedup
            .map_or("-".to_owned(), |own| times(own.geomean));
        let [low, high] = kernel.ci95;
        text += &format!(
            "  {:<34}  {launch:<8}  {own:>10}  {:>10}  [{low:.3}, {high:.3}]\n",
            entry.label(),
            times(kernel.geomean),
        );
        if let Some(deviation) = &entry.deviation {
            text += &format!("    outside the tolerance: {}\n", deviation.in_words());
        }
    }
    text += "\nits speed: over the task's baseline; the kernel: its speedup over this one\n";
    text + &workload_table(table)
}

/// `rows.cu: 19.3x over naive.cu, 1.16x over flash-linear-attention 0.6.0`, and whether a baseline is faster. One that is faster outside the
/// tolerance comes last.
pub(crate) fn baselines_headline(table: &BaselineTable) -> String {
    let kernel = &table.kernel.name;
    let first = table.entries.first();
    let strongest = table.strongest();
    let over = |entry: &BaselineEntry| {
        let speedup = entry.kernel_speedup?;
        Some(format!("{} over {}", times(speedup.geomean), entry.label()))
    };
    let mut parts: Vec<String> = first.and_then(over).into_iter().collect();
    if let Some(strongest) =
        strongest.filter(|one| Some(one.name.as_str()) != first.map(|first| first.name.as_str()))
    {
        parts.extend(over(strongest));
    }
    let is_slower =
        |entry: &&BaselineEntry| entry.kernel_speedup.is_some_and(|one| one.is_slower());
    let faster = strongest.filter(is_slower).map(|entry| entry.label());
    if let Some(outside) = table.faster_outside() {
        let words = outside
            .outside
            .map_or_else(String::new, |one| one.in_words());
        let speedup = times(outside.speedup.geomean);
        parts.push(format!(
            "but {} {words}: {speedup} over it",
            outside.label()
        ));
    }
    match (parts.is_empty(), faster) {
        (true, _) => format!("{kernel}: nothing was measured"),
        (false, Some(faster)) => {
            format!("{kernel} is slower than {faster}: {}", parts.join(", "))
        }
        (false, None) => format!("{kernel}: {}", parts.join(", ")),
    }
}

fn times(speedup: f64) -> String {
    format!("{speedup:.2}x")
}

/// The median times of the kernel and of each baseline.
fn workload_table(table: &BaselineTable) -> String {
    let measured: Vec<&BaselineEntry> = (table.entries.iter())
        .filter(|entry| !entry.workloads.is_empty())
        .collect();
    let Some(first) = measured.first() else {
        return String::new();
    };
    let mut text = "\nmedian times in microseconds\n\n".to_owned();
    for workload in &first.workloads {
        text += &format!("  {}\n", workload.id);
        text += &format!(
            "    {:<34}  {:>12.2}\n",
            table.kernel.name, workload.kernel_us
        );
        for entry in &measured {
            let Some(one) = entry.workloads.iter().find(|one| one.id == workload.id) else {
                continue;
            };
            let speedup = Speedup {
                geomean: one.kernel_speedup,
                ci95: one.ci95,
            };
            let [low, high] = speedup.ci95;
            let mark = one.deviation.map_or("", |_| "  outside the tolerance");
            text += &format!(
                "    {:<34}  {:>12.2}  {:>9} [{low:.3}, {high:.3}]{mark}\n",
                entry.label(),
                one.baseline_us,
                times(speedup.geomean),
            );
        }
    }
    text
}
