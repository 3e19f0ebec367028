//! The time to judge a changed `gdn_decode` kernel in the quick profile, by stage and by part.
//!
//! Run it with `cargo bench --bench judge` on an idle machine. Every candidate is new to the compiler's cache. The one-time work of a
//! run (oracle, baseline, precompiled header) is done before the clock starts, and printed separately. The parts are the means over
//! all candidates, as `kforge eval --timings` prints them for one.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::collections::BTreeMap;
use std::time::Instant;

use kforge::device::cpu::CpuDevice;
use kforge::device::{Cache, Device};
use kforge::eval::{Judge, JudgeOptions};
use kforge::kernel::DeviceLimits;
use kforge::task::TaskFiles;
use kforge::verdict::Verdict;

const CANDIDATES: usize = 8;

fn main() -> anyhow::Result<()> {
    let task = TaskFiles::find("gdn_decode")?.load()?;
    let device = CpuDevice::new()?;
    let cores = device.identity().cores.unwrap_or(1);
    let options = JudgeOptions {
        profile: task.settings.profiles["quick"].clone(),
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
        "{} on {cores} cores; oracle and baseline ready in {:.2} s",
        device.identity().name,
        started.elapsed().as_secs_f64()
    );
    println!(
        "{:<14} {:>9} {:>9} {:>9} {:>9} {:>9}  verdict",
        "kernel", "compile s", "check s", "inspect s", "measure s", "total s"
    );
    let mut parts = BTreeMap::<String, f64>::new();
    let mut judged = 0.0;
    for (file, text) in task.starting_kernels() {
        for candidate in 0..CANDIDATES {
            let salt = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_nanos();
            let changed = format!("{text}\n// {salt} {candidate}\n");
            let started = Instant::now();
            let verdict = judge.judge(file, &changed, None)?;
            print_verdict(&verdict, started.elapsed().as_secs_f64());
            judged += 1.0;
            for (part, seconds) in verdict.seconds.parts {
                *parts.entry(part).or_default() += seconds;
            }
        }
    }
    println!("\n{:<28} {:>9}", "part", "mean s");
    let mut parts: Vec<_> = parts.into_iter().collect();
    parts.sort_by(|(_, first), (_, second)| second.total_cmp(first));
    for (part, seconds) in parts {
        println!("{part:<28} {:>9.4}", seconds / judged);
    }
    Ok(())
}

fn print_verdict(verdict: &Verdict, total: f64) {
    let seconds = &verdict.seconds;
    let speedup = verdict.speedup.as_ref().map_or(String::new(), |speedup| {
        format!(
            " {:.3}x [{:.3}, {:.3}]",
            speedup.geomean, speedup.ci95[0], speedup.ci95[1]
        )
    });
    println!(
        "{:<14} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {total:>9.3}  {}{speedup}{}",
        verdict.kernel,
        seconds.compile,
        seconds.check,
        seconds.inspect,
        seconds.measure,
        verdict.status,
        (verdict.reason.as_ref()).map_or(String::new(), |reason| format!(" {reason}"))
    );
}
