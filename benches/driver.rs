//! Speed of the driver itself: proposer and judge return at once, and every durable write is included.
//!
//!     cargo bench --bench driver              1,000 steps
//!     cargo bench --bench driver -- 100000    100,000 steps
//!     cargo bench --bench driver -- 1000 4    1,000 steps with 4 kernels in flight instead of 64
//!
//! Prints steps per second, the peak resident memory of the process, and the time to resume the finished run.

#[path = "../tests/suite/driver/scripted.rs"]
mod scripted;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kforge::driver;
use scripted::{ScriptedProposer, judges, options, run_until};

/// Environment variable of the process that only resumes: the run directory.
const RESUME: &str = "KFORGE_BENCH_RESUME";

/// Default number of kernels in flight. The window is twice that.
const IN_FLIGHT: u64 = 64;

fn main() -> Result<()> {
    // `cargo bench` adds a flag of its own, which is not a number.
    let mut numbers = std::env::args()
        .skip(1)
        .filter_map(|word| word.parse().ok());
    let steps: u64 = numbers.next().unwrap_or(1000);
    let in_flight = numbers.next().unwrap_or(IN_FLIGHT);
    if let Some(directory) = std::env::var_os(RESUME) {
        let seconds = run_steps(Path::new(&directory), steps, in_flight)?;
        print_line(&format!(
            "resumed {steps} steps in {seconds:.2} s, {}",
            peak_memory()?
        ));
        return Ok(());
    }
    let root = scratch_folder()?;
    let directory = root.path().join("run");
    let seconds = run_steps(&directory, steps, in_flight)?;
    print_line(&format!(
        "{steps} steps, {in_flight} in flight, in {seconds:.2} s: {:.0} steps/s, {}",
        steps as f64 / seconds,
        peak_memory()?
    ));
    let status = Command::new(std::env::current_exe()?)
        .args([steps, in_flight].map(|number| number.to_string()))
        .env(RESUME, &directory)
        .status()?;
    ensure!(status.success(), "the resumed run failed");
    Ok(())
}

/// A folder inside the build folder. The system's temporary folder may be in memory, where a sync costs nothing.
fn scratch_folder() -> Result<tempfile::TempDir> {
    let folder: PathBuf = std::env::current_exe()?
        .parent()
        .context("the program has no folder")?
        .to_owned();
    Ok(tempfile::tempdir_in(folder)?)
}

fn run_steps(directory: &Path, steps: u64, in_flight: u64) -> Result<f64> {
    let mut options = options(directory, &["softmax"], steps);
    options.in_flight = usize::try_from(in_flight)?;
    options.record.window = 2 * in_flight;
    let proposer = ScriptedProposer { always_new: true };
    let start = Instant::now();
    let ended = run_until(
        options,
        proposer,
        &judges(Duration::ZERO),
        driver::never_interrupted,
    )?;
    let progress = &ended.tasks.first().context("no task was run")?.progress;
    ensure!(
        progress.steps == steps,
        "{} steps were made",
        progress.steps
    );
    let best = progress.best.context("nothing passed")?;
    print_line(&format!(
        "  {} judged, {} passed, {} cells, best {:.2}",
        progress.judged, progress.passed, progress.cells, best.speedup.geomean
    ));
    Ok(start.elapsed().as_secs_f64())
}

/// Peak resident memory of the process.
fn peak_memory() -> Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes: f64 = line
        .context("`/proc/self/status` has no `VmHWM`")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?;
    Ok(format!("{:.0} MB peak memory", kilobytes / 1000.0))
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its results")]
fn print_line(line: &str) {
    println!("{line}");
}
