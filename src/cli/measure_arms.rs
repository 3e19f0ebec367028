//! `kforge compare --measure`: the best kernels of two arms, measured on this machine.
//!
//! Finds the kernels and opens workers; `driver::side_by_side` measures. Changes nothing in a run.

use anyhow::Context;

use super::execute::{build_pools, require_machine};
use super::recorded::judging_config;
use crate::base::{Digest, Failure};
use crate::config::{self, ResolvedConfig};
use crate::device::cpu;
use crate::driver::{self, side_by_side};
use crate::history::{Difference, RunHistory};
use crate::page::{MeasuredKernel, Measurement};
use crate::report::Spinner;
use crate::run::{self, BestOfRun, RunDirectory};
use crate::task::{Task, TaskFiles};
use crate::worker::{EvaluatorFactory, WorkerPools};

/// Measures the best kernels of both arms of each difference. `None` if a signal came. `settings`: assignments of `--set`.
///
/// # Errors
/// A device, a task or an oracle that does not work.
pub(super) fn measure_arms(
    arms: &[Vec<RunHistory>],
    differences: &[Difference],
    settings: &[String],
) -> anyhow::Result<Option<Vec<Measurement>>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let measured = runtime.block_on(async {
        let mut interrupt = driver::watch_signals()?;
        let mut measured = Vec::new();
        for difference in differences {
            let pair = [difference.first, difference.second].map(|arm| arms[arm].as_slice());
            let one = tokio::select! {
                one = measure(&difference.task, pair, settings) => one?,
                _ = interrupt.wait_for(|is_interrupted| *is_interrupted) => return Ok(None),
            };
            measured.push(one);
        }
        anyhow::Ok(Some(measured))
    });
    runtime.shutdown_background();
    measured
}

async fn measure(
    name: &str,
    arms: [&[RunHistory]; 2],
    settings: &[String],
) -> anyhow::Result<Measurement> {
    let first = fastest_run(arms[0], name).context("an arm has no run")?;
    let config = judging_config(&first.record, &first.directory)?;
    let config = config::apply_overrides(&config, settings)?;
    let resolved = config::resolve(&config, "compare", "")?;
    require_machine(&resolved)?;
    let pools = build_pools(&resolved);
    let task = resolved.tasks.iter().find(|(_, task)| task.name == name);
    let Some((_, task)): Option<&(TaskFiles, Task)> = task else {
        let message = format!("the task `{name}` is not found");
        return Err(Failure::usage(message)
            .hint("run the command in the folder where the runs were started")
            .into());
    };
    let mut kernels = Vec::new();
    for arm in arms {
        kernels.push(best_of(arm, name, Digest::of(task.baseline().1))?);
    }
    let device = device_name(&resolved);
    let [Some(one), Some(other)] = &kernels[..] else {
        let missing = kernels.iter().position(Option::is_none).unwrap_or(0);
        return Ok(Measurement::without_kernel(device, missing));
    };
    measure_pair(&pools, task, device, [one, other]).await
}

/// The best kernel of an arm, and where it is.
struct ArmKernel {
    run: String,
    best: BestOfRun,
}

async fn measure_pair(
    pools: &WorkerPools,
    task: &Task,
    device: String,
    kernels: [&ArmKernel; 2],
) -> anyhow::Result<Measurement> {
    let [one, other] = kernels.map(|kernel| kernel.best.source.as_str());
    let measured = |index: usize, verdict: &crate::verdict::Verdict| MeasuredKernel {
        run: kernels[index].run.clone(),
        step: kernels[index].best.step,
        status: verdict.status.to_string(),
        reason: verdict.reason.clone(),
        speedup: verdict.speedup.filter(|_| verdict.passed()),
    };
    let spinner = Spinner::new();
    spinner.set_message(&format!("{}: measuring the best kernels", task.name));
    let evaluator = pools.open(task.clone().into()).await?;
    let found = side_by_side(evaluator.as_ref(), [one, other]).await?;
    Ok(Measurement {
        device,
        kernels: (0..2)
            .map(|index| measured(index, &found.verdicts[index]))
            .collect(),
        is_same_kernel: one == other,
        ratio: found.duel.map(|duel| duel.ratio),
        ci95: found.duel.map(|duel| duel.ci95),
        missing: None,
    })
}

/// The run of an arm with the fastest confirmed kernel; without one, the first that has the task.
fn fastest_run<'a>(arm: &'a [RunHistory], name: &str) -> Option<&'a RunHistory> {
    let speedup = |run: &RunHistory| {
        let task = run.tasks.iter().find(|task| task.name == name)?;
        Some(task.best().map_or(0.0, |(.., speedup)| speedup.geomean))
    };
    let mut runs: Vec<_> = arm
        .iter()
        .filter_map(|run| Some((run, speedup(run)?)))
        .collect();
    // Stable: of equals the first.
    runs.sort_by(|one, other| other.1.total_cmp(&one.1));
    runs.first().map(|(run, _)| *run)
}

fn best_of(arm: &[RunHistory], name: &str, baseline: Digest) -> anyhow::Result<Option<ArmKernel>> {
    let Some(run) = fastest_run(arm, name) else {
        return Ok(None);
    };
    let best = run::best_kernel(&RunDirectory::new(&run.directory), name, baseline)?;
    Ok(best.map(|best| ArmKernel {
        run: run.directory.display().to_string(),
        best,
    }))
}

fn device_name(resolved: &ResolvedConfig) -> String {
    let gpu = resolved.gpus.first().cloned();
    gpu.unwrap_or_else(cpu::identity).name
}
