//! Speed of the driver itself: proposer and judge return at once, and every durable write is included.
//!
//!     cargo bench --bench driver              1,000 steps
//!     cargo bench --bench driver -- 100000    100,000 steps
//!     cargo bench --bench driver -- 1000 4    1,000 steps with 4 kernels in flight instead of 64
//!     cargo bench --bench driver -- 100000 64 29000
//!                                             verdicts of 29,000 bytes, as on a GPU (9,000: as on the CPU) instead of small ones
//!
//! Prints steps per second over all steps and for each tenth of them, the peak resident memory of the process, the size of the
//! journal, and the time and memory to write the report of the finished run and to resume it.
//!
//! The run is written to a folder inside the build folder and removed afterwards: 100,000 steps of 29,000 bytes need 9 GB.

#[path = "../tests/suite/driver/scripted.rs"]
#[expect(dead_code, reason = "tests use the rest")]
mod scripted;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kforge::driver;
use kforge::event::Event;
use kforge::report::{Observer, Progress};
use kforge::search::SearchUpdate;
use scripted::{ScriptedJudge, ScriptedJudges, ScriptedProposer, options, run_observed};

/// Environment variable of the process that only resumes: the run directory.
const RESUME: &str = "KFORGE_BENCH_RESUME";

/// Default number of kernels in flight. The window is twice that.
const IN_FLIGHT: u64 = 64;

/// The size of a benchmark.
#[derive(Clone, Copy)]
struct Size {
    steps: u64,
    in_flight: u64,
    /// 0: small verdicts.
    verdict_bytes: u64,
}

fn main() -> Result<()> {
    // `cargo bench` adds a flag of its own, which is not a number.
    let mut numbers = std::env::args()
        .skip(1)
        .filter_map(|word| word.parse().ok());
    let size = Size {
        steps: numbers.next().unwrap_or(1000),
        in_flight: numbers.next().unwrap_or(IN_FLIGHT),
        verdict_bytes: numbers.next().unwrap_or(0),
    };
    let steps = size.steps;
    if let Some(directory) = std::env::var_os(RESUME) {
        let mut tenths = Tenths::new(steps);
        let seconds = run_steps(Path::new(&directory), size, &mut tenths)?;
        print_line(&format!(
            "resumed {steps} steps in {seconds:.2} s, {}",
            peak_memory()?
        ));
        return Ok(());
    }
    let root = scratch_folder()?;
    let directory = root.path().join("run");
    let mut tenths = Tenths::new(steps);
    let seconds = run_steps(&directory, size, &mut tenths)?;
    print_line(&format!(
        "{steps} steps, {} in flight, in {seconds:.2} s: {:.0} steps/s, {}",
        size.in_flight,
        steps as f64 / seconds,
        peak_memory()?
    ));
    print_line(&tenths.table());
    let journal = std::fs::metadata(directory.join("softmax/events.jsonl"))?.len();
    print_line(&format!("  journal: {:.1} MB", journal as f64 / 1e6));
    write_report(&directory)?;
    let numbers = [steps, size.in_flight, size.verdict_bytes];
    let status = Command::new(std::env::current_exe()?)
        .args(numbers.map(|number| number.to_string()))
        .env(RESUME, &directory)
        .status()?;
    ensure!(status.success(), "the resumed run failed");
    Ok(())
}

/// Measures the speed of each tenth of the steps.
struct Tenths {
    steps: u64,
    /// When each tenth was complete, after the start.
    ends: Vec<Instant>,
}

impl Tenths {
    fn new(steps: u64) -> Self {
        Self {
            steps,
            ends: vec![Instant::now()],
        }
    }

    fn table(&self) -> String {
        let tenth = self.steps as f64 / 10.0;
        let speeds = self.ends.windows(2).map(|ends| {
            let seconds = (ends[1] - ends[0]).as_secs_f64();
            format!("{:.0}", tenth / seconds)
        });
        let speeds: Vec<_> = speeds.collect();
        format!("  steps/s of each tenth: {}", speeds.join(" "))
    }
}

impl Observer for Tenths {
    fn event(&mut self, _event: &Event, _updates: &[SearchUpdate], progress: &Progress) {
        let tenth = progress.steps * 10 / self.steps.max(1);
        while (self.ends.len() as u64) <= tenth {
            self.ends.push(Instant::now());
        }
    }
}

/// A folder inside the build folder. The system's temporary folder may be in memory, where a sync costs nothing.
fn scratch_folder() -> Result<tempfile::TempDir> {
    let folder: PathBuf = std::env::current_exe()?
        .parent()
        .context("the program has no folder")?
        .to_owned();
    Ok(tempfile::tempdir_in(folder)?)
}

fn run_steps(directory: &Path, size: Size, tenths: &mut Tenths) -> Result<f64> {
    let Size {
        steps, in_flight, ..
    } = size;
    let verdict_bytes = usize::try_from(size.verdict_bytes)?;
    let judges = ScriptedJudges(Box::new(move |_| {
        Ok(ScriptedJudge {
            verdict_bytes,
            ..ScriptedJudge::default()
        })
    }));
    let mut options = options(directory, &["softmax"], steps);
    options.in_flight = usize::try_from(in_flight)?;
    options.record.window = 2 * in_flight;
    let proposer = ScriptedProposer { always_new: true };
    let start = Instant::now();
    let ended = run_observed(
        options,
        proposer,
        &judges,
        tenths,
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

/// Measures `kforge report`. The first child process of this one: the system keeps the memory of the largest child alone.
fn write_report(directory: &Path) -> Result<()> {
    let start = Instant::now();
    let status = Command::new(env!("CARGO_BIN_EXE_kforge"))
        .arg("report")
        .arg(directory)
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "the report failed");
    let seconds = start.elapsed().as_secs_f64();
    // SAFETY: zeros are a valid value of plain numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is valid to write to.
    ensure!(unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) } == 0);
    let page = std::fs::metadata(directory.join("report.html"))?.len();
    print_line(&format!(
        "  report: {seconds:.2} s, {:.0} MB peak memory, a page of {:.1} MB",
        usage.ru_maxrss as f64 / 1000.0,
        page as f64 / 1e6
    ));
    Ok(())
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
