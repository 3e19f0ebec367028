//! The time to judge a changed kernel in the quick profile, by stage: completely, and against the fastest starting kernel of the task.
//!
//! Run it with `cargo bench --bench judge` on an idle machine; on a busy one the ratios count. `KFORGE_BENCH_TASK` names another task than
//! `gdn_decode`, `KFORGE_BENCH_CANDIDATES` another number of candidates for each starting kernel, `KFORGE_BENCH_SECONDS` another timing
//! budget of a workload, for a machine that is too busy for the profile's. Every candidate is new to the compiler's cache. The one-time
//! work of a run (oracle, baseline, precompiled header) is done before the clock starts, and printed separately. The parts at the end are
//! the means of complete judgements, as `kforge eval --timings` prints them for one.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::collections::BTreeMap;
use std::time::Instant;

use kforge::device::cpu::CpuDevice;
use kforge::device::{Cache, Device};
use kforge::eval::{Judge, JudgeOptions};
use kforge::kernel::DeviceLimits;
use kforge::search::Incumbents;
use kforge::task::TaskFiles;
use kforge::verdict::Verdict;

/// Seconds of the stages: compile, check, inspect, measure, and all together.
type Stages = [f64; 5];

fn main() -> anyhow::Result<()> {
    let name = std::env::var("KFORGE_BENCH_TASK").unwrap_or_else(|_| "gdn_decode".to_owned());
    let number = std::env::var("KFORGE_BENCH_CANDIDATES").ok();
    let candidates: usize = number.map_or(Ok(8), |number| number.parse())?;
    let task = TaskFiles::find(&name)?.load()?;
    let device = CpuDevice::new()?;
    let cores = device.identity().cores.unwrap_or(1);
    let mut profile = task.settings.profiles["quick"].clone();
    if let Ok(seconds) = std::env::var("KFORGE_BENCH_SECONDS") {
        profile.seconds = seconds.parse()?;
    }
    let options = JudgeOptions {
        profile,
        launch_seconds: 20.0,
        thorough: false,
        cache: Cache::Cold,
    };
    let machine = DeviceLimits {
        sm_count: i64::from(cores),
        max_shared_bytes: 232_448,
    };
    let started = Instant::now();
    let mut judge = Judge::new(&device, &task, options, machine)?;
    println!(
        "{name}, {} on {cores} cores; oracle and baseline ready in {:.2} s",
        device.identity().name,
        started.elapsed().as_secs_f64()
    );
    let mut bar: f64 = 0.0;
    for (file, text) in task.starting_kernels() {
        let (verdict, _) = judge_once(&mut judge, file, text, None)?;
        bar = bar.max(verdict.speedup.map_or(0.0, |speedup| speedup.ci95[0]));
    }
    anyhow::ensure!(
        bar > 0.0,
        "no starting kernel could be timed: the machine is too busy"
    );
    let incumbents = incumbents(bar)?;
    println!(
        "bar {bar:.3}x\n{:<16} {:>9} {:>9} {:>9} {:>9} {:>9}  verdict",
        "kernel", "compile s", "check s", "inspect s", "measure s", "total s"
    );
    let mut parts = BTreeMap::<String, f64>::new();
    let mut judged = 0.0;
    for (file, text) in task.starting_kernels() {
        let mut sums = [Stages::default(); 2];
        for _ in 0..candidates {
            // In turns, so that both meet the same load of the machine.
            for (sum, incumbents) in sums.iter_mut().zip([None, Some(&incumbents)]) {
                let (verdict, stages) = judge_once(&mut judge, file, text, incumbents)?;
                print_row(file, &stages, &describe(&verdict));
                if incumbents.is_none() {
                    judged += 1.0;
                    for (part, seconds) in verdict.seconds.parts {
                        *parts.entry(part).or_default() += seconds;
                    }
                }
                for (sum, seconds) in sum.iter_mut().zip(stages) {
                    *sum += seconds;
                }
            }
        }
        let mean = |sum: Stages| sum.map(|seconds| seconds / candidates.max(1) as f64);
        let [complete, racing] = sums.map(mean);
        print_row("  complete", &complete, "mean");
        let share = racing[4] / complete[4];
        print_row(
            "  racing",
            &racing,
            &format!("mean; {share:.2} of the time"),
        );
    }
    print_parts(parts, judged);
    Ok(())
}

fn print_parts(parts: BTreeMap<String, f64>, judged: f64) {
    println!("\n{:<28} {:>9}", "part", "mean s");
    let mut parts: Vec<_> = parts.into_iter().collect();
    parts.sort_by(|(_, first), (_, second)| second.total_cmp(first));
    for (part, seconds) in parts {
        println!("{part:<28} {:>9.4}", seconds / judged);
    }
}

/// Judges a kernel that no cache knows.
fn judge_once(
    judge: &mut Judge<'_>,
    file: &str,
    text: &str,
    incumbents: Option<&Incumbents>,
) -> anyhow::Result<(Verdict, Stages)> {
    let salt = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_nanos();
    let changed = format!("{text}\n// {salt}\n");
    let started = Instant::now();
    let verdict = match incumbents {
        Some(incumbents) => judge.judge_racing(file, &changed, incumbents)?,
        None => judge.judge(file, &changed, None)?,
    };
    let total = started.elapsed().as_secs_f64();
    let seconds = &verdict.seconds;
    let stages = [
        seconds.compile,
        seconds.check,
        seconds.inspect,
        seconds.measure,
        total,
    ];
    Ok((verdict, stages))
}

/// Incumbents of a single kind.
fn incumbents(bar: f64) -> anyhow::Result<Incumbents> {
    let text = format!(r#"{{"axes": [], "by_bins": [[[], {bar}]], "best": {bar}}}"#);
    Ok(serde_json::from_str(&text)?)
}

fn describe(verdict: &Verdict) -> String {
    let speedup = verdict.speedup.map_or(String::new(), |speedup| {
        let [low, high] = speedup.ci95;
        format!(" {:.3}x [{low:.3}, {high:.3}]", speedup.geomean)
    });
    let look = verdict.dismissal.map_or(String::new(), |dismissal| {
        format!(", look {} of {}", dismissal.look, dismissal.looks)
    });
    let reason = verdict.reason.as_deref().unwrap_or_default();
    format!("{}{speedup}{look} {reason}", verdict.status)
}

fn print_row(name: &str, stages: &Stages, text: &str) {
    let seconds = stages.map(|seconds| format!("{seconds:>9.3}")).join(" ");
    println!("{name:<16} {seconds}  {}", text.trim_end());
}
