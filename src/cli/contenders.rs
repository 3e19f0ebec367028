//! What the best kernel of a run is timed against at its end, besides the task's baseline: the strongest baselines that work on this machine.
//!
//! From the tables of `kforge baselines` and the Python that is installed. Times nothing.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::base::Digest;
use crate::config::ResolvedConfig;
use crate::device::{Cache, cpu, has_pytorch};
use crate::propose::prompt::TimesToBeat;
use crate::task::{Task, TaskFiles};
use crate::verdict::{BaselineTable, JudgeFacts, Yardstick};
use crate::worker::Contenders;

/// The contenders of each task. A task without an entry has none that works here.
pub(super) fn contenders(
    resolved: &ResolvedConfig,
    yardsticks: &HashMap<String, Yardstick>,
) -> HashMap<String, Arc<Contenders>> {
    // Without confirmations there is no best kernel.
    if resolved.confirm_share == 0.0 {
        return HashMap::new();
    }
    let has_pytorch = LazyCell::new(has_pytorch);
    let tasks = resolved.tasks.iter();
    let found = tasks.filter_map(|(files, task)| {
        // Outputs that overwrite inputs cannot be given to Python.
        let has_python = task.settings.in_place.is_empty() && *has_pytorch;
        let python = files.python_baselines().ok().flatten();
        let yardstick = yardsticks.get(&task.name);
        let python = python.filter(|_| has_python);
        let mut found = of_task(resolved, (files, task), python, yardstick)?;
        if let Some(over) = yardstick {
            put_first(&mut found.order, &over.name);
        }
        Some((task.name.clone(), Arc::new(found)))
    });
    found.collect()
}

/// The table of the device that judges, for a task and the workloads of its profile.
pub(super) fn table_of(
    resolved: &ResolvedConfig,
    files: &TaskFiles,
    task: &Task,
) -> Option<BaselineTable> {
    let device = resolved.gpus.first().cloned().unwrap_or_else(cpu::identity);
    let baseline = Digest::of(task.baseline().1).to_string();
    let judge = JudgeFacts {
        task: &task.name,
        backend: &resolved.backend,
        device: &device.name,
        cache: match (resolved.gpus.is_empty(), resolved.cache) {
            (true, _) => "warm",
            (false, Cache::Cold) => "cold",
            (false, Cache::Hot) => "hot",
        },
        baseline: Some(&baseline),
    };
    let workloads = workload_ids(resolved, task);
    let mut tables = BaselineTable::read_all(&files.baseline_tables).into_iter();
    tables.find(|table| table.is_of(&judge) && table.covers(&workloads))
}

/// The times of the strongest known baseline on the workloads of the run. `None` if none is faster than the task's own.
pub(super) fn times_to_beat(
    resolved: &ResolvedConfig,
    files: &TaskFiles,
    task: &Task,
) -> Option<TimesToBeat> {
    let workloads = workload_ids(resolved, task);
    let table = table_of(resolved, files, task)?;
    let (entry, speedup) = table.fastest_on(&workloads).into_iter().next()?;
    let times = workloads.iter().filter_map(|workload| {
        let time = entry.on(workload)?.baseline_us;
        Some((workload.clone(), time))
    });
    (speedup.geomean > 1.0).then(|| TimesToBeat {
        label: entry.label(),
        microseconds: times.collect(),
    })
}

/// The ids of the workloads that the run times.
pub(super) fn workload_ids(resolved: &ResolvedConfig, task: &Task) -> Vec<String> {
    let profile = task.settings.profiles.get(&resolved.profile);
    let selected = profile.map_or_else(Vec::new, |profile| task.selected_workloads(profile));
    selected
        .into_iter()
        .map(|workload| workload.id.clone())
        .collect()
}

/// Moves the yardstick to the front, if it works here: the first that works is timed.
fn put_first(order: &mut Vec<String>, name: &str) {
    if let Some(index) = order.iter().position(|one| one == name) {
        let name = order.remove(index);
        order.insert(0, name);
    }
}

/// `None` if nothing that could be stronger than the task's baseline works here.
fn of_task(
    resolved: &ResolvedConfig,
    (files, task): (&TaskFiles, &Task),
    python: Option<[String; 2]>,
    yardstick: Option<&Yardstick>,
) -> Option<Contenders> {
    let workloads = workload_ids(resolved, task);
    let Some(table) = table_of(resolved, files, task) else {
        // Nothing is known, so all in Python are timed.
        return Some(Contenders {
            python: Some(python?),
            workloads,
            ..Contenders::default()
        });
    };
    let kernels: Vec<(String, String)> = (task.settings.baselines.values().skip(1))
        .filter_map(|baseline| {
            let source = task.kernels.get(&baseline.kernel)?;
            Some((baseline.kernel.clone(), source.clone()))
        })
        .collect();
    // What is surely slower than the task's baseline says nothing more, unless targets are over it.
    let fastest = table.fastest_on(&workloads).into_iter();
    let faster = fastest.filter(|(entry, speedup)| {
        !speedup.is_slower() || yardstick.is_some_and(|over| over.name == entry.name)
    });
    let is_kernel = |name: &str| kernels.iter().any(|(kernel, _)| kernel == name);
    let order: Vec<String> = faster
        .map(|(entry, _)| entry.name.clone())
        .filter(|name| python.is_some() || is_kernel(name))
        .collect();
    (!order.is_empty()).then_some(Contenders {
        python,
        kernels,
        order,
        workloads,
    })
}
