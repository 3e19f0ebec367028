//! The time to judge a changed `gdn_decode` kernel in the quick profile, by stage.
//!
//! Run it with `cargo bench --bench judge` on an idle machine. Every candidate is new to the compiler's cache. The one-time work of a
//! run (oracle, baseline, precompiled header) is done before the clock starts, and printed separately.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::time::Instant;

use kforge::device::cpu::CpuDevice;
use kforge::device::{Cache, Device};
use kforge::eval::{Judge, JudgeOptions};
use kforge::kernel::DeviceLimits;
use kforge::task::TaskFiles;

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
    for (file, text) in task.starting_kernels() {
        for candidate in 0..CANDIDATES {
            let salt = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_nanos();
            let changed = format!("{text}\n// {salt} {candidate}\n");
            let started = Instant::now();
            let verdict = judge.judge(file, &changed, None)?;
            let total = started.elapsed().as_secs_f64();
            let seconds = &verdict.seconds;
            let speedup = verdict.speedup.map_or(String::new(), |speedup| {
                format!(
                    " {:.3}x [{:.3}, {:.3}]",
                    speedup.geomean, speedup.ci95[0], speedup.ci95[1]
                )
            });
            println!(
                "{file:<14} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {total:>9.3}  {}{speedup}{}",
                seconds.compile,
                seconds.check,
                seconds.inspect,
                seconds.measure,
                verdict.status,
                verdict
                    .reason
                    .map_or(String::new(), |reason| format!(" {reason}"))
            );
        }
    }
    Ok(())
}
