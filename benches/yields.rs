//! Measures the yield of each transformation of `mutate` over the shipped tasks: how many children it makes, how many pass,
//! and how many are faster than their parent. A child counts as faster if the 95 % interval of a paired duel is above 1.
//!
//!     cargo bench --bench yields                          24 children of each starting kernel, all tasks
//!     cargo bench --bench yields -- CHILDREN [TASK]… [TRANSFORMATION]…
//!                                                         at most CHILDREN, only of the named tasks and transformations
//!     cargo bench --bench yields -- write=FOLDER […]      writes each child to FOLDER/TASK and judges none, for
//!                                                         `kforge eval TASK FOLDER/TASK/*.cu` on any device

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::collections::BTreeMap;
use std::path::Path;

use kforge::device::cpu::CpuDevice;
use kforge::device::{Cache, Device};
use kforge::eval::{DuelPurpose, Judge, JudgeOptions};
use kforge::kernel::DeviceLimits;
use kforge::propose::mutate::{self, Child};
use kforge::task::{Task, TaskFiles, embedded_names};

/// Children of each starting kernel, unless the command line says otherwise.
const DEFAULT_CHILDREN: usize = 24;

/// The seed of the order of children.
const SEED: u64 = 1;

/// What one transformation gained.
#[derive(Default)]
struct TransformationYield {
    children: usize,
    passed: usize,
    faster: usize,
    /// The largest speedup over a parent.
    best: f64,
    /// The task and the parent of `best`.
    best_parent: String,
}

type Yields = BTreeMap<String, TransformationYield>;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let children = arguments
        .iter()
        .find_map(|argument| argument.parse().ok())
        .unwrap_or(DEFAULT_CHILDREN);
    let (names, transformations) = selection(&arguments);
    if let Some(folder) = arguments
        .iter()
        .find_map(|argument| argument.strip_prefix("write="))
    {
        return write_children(Path::new(folder), &names, &transformations);
    }
    let device = CpuDevice::new()?;
    let limits = DeviceLimits {
        sm_count: i64::from(device.identity().cores.unwrap_or(1)),
        max_shared_bytes: 232_448,
    };
    let mut yields = Yields::new();
    for name in names {
        let task = TaskFiles::find(name)?.load()?;
        let options = JudgeOptions {
            profile: task.settings.profiles["quick"].clone(),
            launch_seconds: 10.0,
            thorough: false,
            cache: Cache::Cold,
        };
        let mut judge = Judge::new(&device, &task, options, limits)?;
        for (file, source) in task.starting_kernels() {
            let parent = format!("{name}/{file}");
            for child in chosen_children(&task, source, &transformations).take(children) {
                let verdict = judge.judge(file, &child.source, None)?;
                let entry = yields.entry(child.transformation.to_owned()).or_default();
                entry.children += 1;
                if !verdict.passed() {
                    let reason = verdict.reason.unwrap_or_default();
                    println!("{parent}: {}: {} {reason}", child.detail, verdict.status);
                    continue;
                }
                entry.passed += 1;
                let Some(duel) = judge.duel(&child.source, source, DuelPurpose::Report)? else {
                    continue;
                };
                println!(
                    "{parent}: {}: {:.3}x [{:.3}, {:.3}] over its parent",
                    child.detail, duel.ratio, duel.ci95[0], duel.ci95[1]
                );
                if duel.ci95[0] > 1.0 {
                    entry.faster += 1;
                    if duel.ratio > entry.best {
                        entry.best = duel.ratio;
                        entry.best_parent.clone_from(&parent);
                    }
                }
            }
        }
    }
    print_table(&yields);
    Ok(())
}

/// The tasks and the transformations that the command line names; all tasks if it names none.
fn selection(arguments: &[String]) -> (Vec<&'static str>, Vec<String>) {
    let all = embedded_names();
    let is_task = |argument: &&String| all.contains(&argument.as_str());
    let is_word = |argument: &&String| {
        let is_name = |letter: char| letter.is_ascii_lowercase() || letter == '_';
        argument.chars().all(is_name)
    };
    let (tasks, words): (Vec<_>, Vec<_>) = arguments.iter().filter(is_word).partition(is_task);
    let is_chosen = |name: &&str| tasks.is_empty() || tasks.iter().any(|task| task == name);
    let chosen = all.iter().copied().filter(is_chosen).collect();
    (chosen, words.into_iter().cloned().collect())
}

/// The kernels that one of the transformations makes from a kernel; all transformations if there are none.
fn chosen_children<'a>(
    task: &'a Task,
    source: &'a str,
    transformations: &'a [String],
) -> impl Iterator<Item = Child> + 'a {
    mutate::children(source, task, SEED).filter(|child| {
        let is_child = |name: &String| name == child.transformation;
        transformations.is_empty() || transformations.iter().any(is_child)
    })
}

/// Writes the children of all starting kernels, each kernel with its transformation and a number in its name, and the starting
/// kernels themselves.
fn write_children(folder: &Path, names: &[&str], transformations: &[String]) -> anyhow::Result<()> {
    for name in names {
        let task = TaskFiles::find(name)?.load()?;
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        for (file, source) in task.starting_kernels() {
            let stem = file.trim_end_matches(".cu");
            std::fs::write(folder.join(file), source)?;
            for (index, child) in chosen_children(&task, source, transformations).enumerate() {
                let file = format!("{stem}-{}-{index}.cu", child.transformation);
                println!("{name}/{file}: {}", child.detail);
                std::fs::write(folder.join(file), child.source)?;
            }
        }
    }
    Ok(())
}

fn print_table(yields: &Yields) {
    println!(
        "\n{:<20} {:>8} {:>6} {:>6}  best over its parent",
        "transformation", "children", "passed", "faster"
    );
    for (transformation, entry) in yields {
        let best = if entry.faster > 0 {
            format!("{:.2}x, {}", entry.best, entry.best_parent)
        } else {
            String::new()
        };
        println!(
            "{transformation:<20} {:>8} {:>6} {:>6}  {best}",
            entry.children, entry.passed, entry.faster
        );
    }
}
