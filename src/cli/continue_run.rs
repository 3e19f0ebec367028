//! Continues a run from what its directory records.
//!
//! Reads `run.yaml` and the copies of warm starts in the directory, never the config file that the run started with.

use std::path::PathBuf;
use std::time::Duration;

use super::execute::execute;
use super::exit::Exit;
use super::recorded::recorded_config;
use super::run_args::{RunArgs, RunStart};
use crate::base::Failure;
use crate::config::{self, Config};
use crate::driver;
use crate::run::{RunDirectory, RunRecord};

/// Flags that apply only where a run is continued.
#[derive(Debug, clap::Args)]
pub(super) struct ResumeFlags {
    /// Continue although the task, the config, kforge or the device has changed.
    #[arg(long)]
    pub(super) accept_changes: bool,
}

/// Continues the run in a directory. `apply_flags` changes the recorded config.
pub(super) fn resume_run(
    directory: PathBuf,
    flags: &ResumeFlags,
    run_args: &RunArgs,
    apply_flags: impl Fn(Config) -> Result<Config, Failure>,
) -> anyhow::Result<Exit> {
    let run_directory = RunDirectory::new(&directory);
    let record = RunRecord::read(&run_directory)?;
    let warm_starts = config::recorded_warm_starts(&run_directory, &record)?;
    let recorded = recorded_config(&record, &directory)?;
    let mut extended = recorded.clone();
    if let Some(seconds) = run_args.budget_seconds {
        let worked = driver::worked_time(&run_directory, &record)?;
        extended.budget.seconds = Some(longer(recorded.budget.seconds, worked, seconds));
    }
    if let Some(seconds) = run_args.budget_device_seconds {
        let held = driver::device_time(&run_directory, &record)?;
        let budget = recorded.budget.device_seconds;
        extended.budget.device_seconds = Some(longer(budget, held, seconds));
    }
    let mut config = apply_flags(extended)?;
    let adds_time = run_args.budget_seconds.is_some() || run_args.budget_device_seconds.is_some();
    let raises_limit = adds_time || raises_limit(&recorded, &config);
    config::check_from_unchanged(&record.config, &config.from)?;
    config::check_lessons_unchanged(&record.config, &config.llm.lessons)?;
    config.output = Some(directory);
    let kept = config::Recorded {
        warm_starts,
        lessons: config::recorded_lessons(&record),
        order: record.order,
    };
    let resolved = config::resolve_for_resume(&config, kept)?;
    let start = RunStart::Resume {
        accept_changes: flags.accept_changes,
        raises_limit,
    };
    execute(resolved, start, run_args)
}

/// A budget of seconds with more added: to the budget, or to what was spent if that is more.
pub(super) fn longer(budget: Option<f64>, spent: Duration, more: f64) -> f64 {
    let seconds = budget.unwrap_or(0.0).max(spent.as_secs_f64()) + more;
    // More than the largest budget is as good as no limit.
    seconds.min(config::MAX_SECONDS)
}

/// Whether a config allows more than the recorded one, the number of steps aside. Another target of a workload, of the roofline or of the
/// tasks may be a higher one.
fn raises_limit(recorded: &Config, now: &Config) -> bool {
    let (before, after) = (&recorded.search, &now.search);
    if before.targets != after.targets
        || before.target_roofline != after.target_roofline
        || before.target_tasks != after.target_tasks
        || before.stop_when_unlikely != after.stop_when_unlikely
    {
        return true;
    }
    // Without a limit everything is allowed.
    let limit = |limit: Option<f64>| limit.unwrap_or(f64::INFINITY);
    let count = |count: Option<u64>| limit(count.map(|count| count as f64));
    [
        (limit(recorded.budget.seconds), limit(now.budget.seconds)),
        (
            limit(recorded.budget.device_seconds),
            limit(now.budget.device_seconds),
        ),
        (recorded.budget.confirm_share, now.budget.confirm_share),
        (limit(recorded.budget.usd), limit(now.budget.usd)),
        (count(recorded.budget.tokens), count(now.budget.tokens)),
        (count(recorded.search.patience), count(now.search.patience)),
        (
            limit(recorded.search.target_speedup),
            limit(now.search.target_speedup),
        ),
    ]
    .iter()
    .any(|(recorded, now)| now > recorded)
}
