//! The children of kforge's own operators compile, and compute what their parents compute.
//!
//! By default a sample is compiled, and nothing is run. `KFORGE_TEST_CHILDREN=N` compiles up to N children of every kernel, and
//! `KFORGE_TEST_AGREEMENT=N` runs up to N children of every kernel and transformation; each prints a table, with `--nocapture`.
//! `KFORGE_TEST_CORPUS=1` adds the shipped kernels, the judge's fixtures and the examples in prompts to the kernels of
//! `tests/fixtures/operators`. `KFORGE_TEST_KERNEL` chooses kernels by a part of their names, `KFORGE_TEST_SHOW` prints children that
//! fail, and `KFORGE_TEST_FOLDER` receives the compiled children as files, for another compiler, such as
//! `kforge eval TASK FOLDER/TASK/*.cu --compile-only`. `benches/results/operators.md` has the measurements.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kforge::device::cpu::CpuDevice;
use kforge::device::{
    BufferContent, Build, Compile, Compiled, Device, Edge, LaunchOutcome, Opened, Poison, Program,
    Purpose,
};
use kforge::event::{Brief, Operator};
use kforge::kernel::plan::{BufferRole, TranslationUnit};
use kforge::kernel::{DeviceLimits, Kernel, LaunchTarget, Scalars};
use kforge::propose::mutate;
use kforge::propose::{BriefOutcome, Parent, propose};
use kforge::task::{Distribution, DistributionKind, Task, TaskFiles};

use crate::program::{fixture, root};

/// The seed of all briefs.
const SEED: u64 = 1;

/// Children of every kernel that are compiled by default.
const SAMPLE: usize = 1;

/// Children that two transformations made, and children of two parents, for every kernel in a full sweep.
const COMBINED: u64 = 12;

/// A kernel of the corpus.
struct CorpusKernel {
    name: String,
    task: usize,
    source: String,
}

/// Kernels of many styles, and their tasks.
struct Corpus {
    tasks: Vec<Task>,
    kernels: Vec<CorpusKernel>,
    /// Holds the tasks of the examples in the prompts.
    _folder: tempfile::TempDir,
}

impl Corpus {
    /// `is_whole`: also the shipped kernels, the fixtures of the judge and the examples in prompts.
    fn read(is_whole: bool) -> Self {
        let mut corpus = Self {
            tasks: Vec::new(),
            kernels: Vec::new(),
            _folder: tempfile::tempdir().unwrap(),
        };
        for task in ["softmax", "rmsnorm"] {
            for file in files(&fixture("operators").join(task)) {
                corpus.add(task, &file);
            }
        }
        if is_whole {
            for folder in files(&root().join("kernels")) {
                for file in files(&folder)
                    .iter()
                    .filter(|file| file.extension().is_some_and(|ending| ending == "cu"))
                {
                    corpus.add(folder.file_name().unwrap().to_str().unwrap(), file);
                }
            }
            let table = std::fs::read_to_string(fixture("kernels/expected.tsv")).unwrap();
            for row in table.lines().filter(|row| !row.starts_with('#')) {
                let cells: Vec<_> = row.split('\t').map(str::trim).collect();
                if let [file, task, ..] = cells[..] {
                    corpus.add(task, &fixture("kernels").join(file));
                }
            }
            corpus.add_examples();
        }
        corpus
    }

    fn add(&mut self, task: &str, file: &Path) {
        let known = self.tasks.iter().position(|known| known.name == task);
        let task = known.unwrap_or_else(|| {
            self.tasks
                .push(TaskFiles::find(task).unwrap().load().unwrap());
            self.tasks.len() - 1
        });
        let task_name = &self.tasks[task].name;
        let file_name = file.file_name().unwrap().to_str().unwrap();
        self.kernels.push(CorpusKernel {
            name: format!("{task_name}/{file_name}"),
            task,
            source: std::fs::read_to_string(file).unwrap(),
        });
    }

    /// The examples in prompts, each with its own task.
    fn add_examples(&mut self) {
        for task in files(&fixture("examples/tasks")) {
            let name = task.file_name().unwrap().to_str().unwrap().to_owned();
            let kernel = root().join("prompts/cuda").join(format!("{name}.cu"));
            if !kernel.is_file() {
                continue;
            }
            let folder = self._folder.path().to_owned();
            let (tasks, kernels) = (
                folder.join("tasks").join(&name),
                folder.join("kernels").join(&name),
            );
            std::fs::create_dir_all(&tasks).unwrap();
            std::fs::create_dir_all(&kernels).unwrap();
            for file in files(&task) {
                std::fs::copy(&file, tasks.join(file.file_name().unwrap())).unwrap();
            }
            std::fs::copy(&kernel, kernels.join("example.cu")).unwrap();
            let Ok(task) = TaskFiles::find(tasks.to_str().unwrap()).and_then(|files| files.load())
            else {
                continue;
            };
            self.tasks.push(task);
            self.kernels.push(CorpusKernel {
                name: format!("prompts/{name}.cu"),
                task: self.tasks.len() - 1,
                source: std::fs::read_to_string(&kernel).unwrap(),
            });
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A child, and what made it.
struct TriedChild {
    transformation: String,
    detail: String,
    source: String,
}

/// Up to `count` children of a kernel: by single transformations, then `combined` by pairs and as many by `recombine`.
fn tried_children(task: &Task, source: &str, count: usize, combined: u64) -> Vec<TriedChild> {
    let singles: Vec<_> = mutate::children(source, task, SEED).take(count).collect();
    let mut tried: Vec<_> = singles
        .iter()
        .map(|child| TriedChild {
            transformation: child.transformation.to_owned(),
            detail: child.detail.clone(),
            source: child.source.clone(),
        })
        .collect();
    if combined == 0 || singles.len() < 2 {
        return tried;
    }
    let total = mutate::children(source, task, SEED).count() as u64;
    let mut seen = std::collections::HashSet::new();
    let mut add = |name: &str, operator: Operator, attempt: u64, parents: &[&str]| {
        if let Some(child) = proposed(operator, attempt, parents, task)
            && seen.insert(child.source.clone())
        {
            tried.push(TriedChild {
                transformation: name.to_owned(),
                ..child
            });
        }
    };
    for attempt in 0..combined {
        add(
            "two in sequence",
            Operator::Mutate,
            total + attempt,
            &[source],
        );
        let (first, second) = (
            attempt as usize * 7 % singles.len(),
            (attempt as usize * 5 + 1) % singles.len(),
        );
        if first != second {
            add(
                "recombine",
                Operator::Recombine,
                attempt % 4,
                &[&singles[first].source, &singles[second].source],
            );
        }
    }
    tried
}

/// The child of an attempt.
fn proposed(operator: Operator, attempt: u64, parents: &[&str], task: &Task) -> Option<TriedChild> {
    let brief: Brief = serde_json::from_value(serde_json::json!({
        "step": 1, "operator": operator, "parents": [1, 2], "seed": SEED, "attempt": attempt,
    }))
    .unwrap();
    let parents: Vec<_> = parents
        .iter()
        .map(|source| Parent {
            step: 1,
            source: (*source).into(),
        })
        .collect();
    match propose(&brief, &parents, task) {
        BriefOutcome::Candidate(child) => Some(TriedChild {
            transformation: String::new(),
            detail: child.detail,
            source: child.source,
        }),
        _ => None,
    }
}

/// Checks code with the system's compiler and a precompiled header of the runtime.
struct SyntaxChecker {
    folder: tempfile::TempDir,
    next: AtomicUsize,
}

const FLAGS: [&str; 8] = [
    "-std=gnu++17",
    "-O1",
    "-march=native",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-pie",
    "-w",
    "-fmax-errors=2",
];

impl SyntaxChecker {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = root().join("src/device/cpu/runtime");
        let header = folder.path().join("kforge_cuda.h");
        std::fs::write(
            &header,
            format!(
                "#pragma once\n#include \"{}/kforge_cuda.h\"\n",
                runtime.display()
            ),
        )
        .unwrap();
        let checker = Self {
            folder,
            next: AtomicUsize::new(0),
        };
        let output = checker
            .compiler()
            .arg("-x")
            .arg("c++-header")
            .arg(&header)
            .arg("-o")
            .arg(header.with_extension("h.gch"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        checker
    }

    fn compiler(&self) -> Command {
        let runtime = root().join("src/device/cpu/runtime");
        let mut command = Command::new("c++");
        command
            .args(FLAGS)
            .arg("-I")
            .arg(self.folder.path())
            .arg("-I")
            .arg(&runtime)
            .arg("-I")
            .arg(runtime.join("include"));
        command
    }

    /// The first errors of a kernel file; `None` if it compiles.
    fn errors(&self, task: &Task, source: &str) -> Option<String> {
        let kernel = match Kernel::parse(source, &task.definition) {
            Ok(kernel) => kernel,
            Err(error) => return Some(error.to_string()),
        };
        let unit = kernel.translation_unit(task, &kernel.point(), false);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let file = self.folder.path().join(format!("unit_{number}.cpp"));
        std::fs::write(&file, unit_text(&unit)).unwrap();
        let output = self
            .compiler()
            .arg("-fsyntax-only")
            .arg(&file)
            .output()
            .unwrap();
        std::fs::remove_file(&file).unwrap();
        (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A translation unit without launches. Variables in shared memory are ordinary ones.
fn unit_text(unit: &TranslationUnit) -> String {
    let mut text = String::from("#include \"kforge_cuda.h\"\n#define __shared__\n");
    for (name, value) in &unit.constants {
        let _ = writeln!(text, "constexpr int {name} = {value};");
    }
    for (name, value) in &unit.macros {
        let _ = writeln!(text, "#define {name} {value}");
    }
    let _ = writeln!(text, "# 1 \"kernel.cu\"\n{}\n", unit.source);
    // A template is compiled only where it is used.
    for (index, entry) in unit.entry_points.iter().enumerate() {
        let _ = writeln!(text, "auto* kforge_entry_{index} = &{};", entry.expression);
    }
    text
}

/// Runs `work` on every item, on all cores.
fn on_all_cores<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(item);
                }
            });
        }
    });
}

/// What became of the children of one transformation.
#[derive(Clone, Debug, Default)]
struct Counts {
    children: usize,
    good: usize,
    /// Bitwise equal to the parent's output.
    equal: usize,
}

#[expect(clippy::print_stdout, reason = "the table is the result of a sweep")]
fn print_table(counts: &BTreeMap<String, Counts>, kernels: usize, word: &str) {
    let mut all = Counts::default();
    println!("\n| transformation | children | {word} | bitwise equal |\n| --- | --- | --- | --- |");
    for (name, one) in counts {
        println!(
            "| {name} | {} | {} | {} |",
            one.children, one.good, one.equal
        );
        all.children += one.children;
        all.good += one.good;
        all.equal += one.equal;
    }
    let share = 100.0 * all.good as f64 / all.children.max(1) as f64;
    println!(
        "| all, of {kernels} kernels | {} | {} ({share:.2} %) | {} |",
        all.children, all.good, all.equal
    );
}

/// Whether the shipped kernels, the fixtures of the judge and the examples in prompts take part.
fn is_whole() -> bool {
    std::env::var_os("KFORGE_TEST_CORPUS").is_some()
}

fn number_of(variable: &str) -> Option<usize> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
#[expect(clippy::print_stdout, reason = "a sweep shows each failure")]
fn children_of_own_operators_compile() {
    let wanted = number_of("KFORGE_TEST_CHILDREN");
    let only = std::env::var("KFORGE_TEST_KERNEL").unwrap_or_default();
    let corpus = Corpus::read(is_whole());
    let checker = SyntaxChecker::new();
    let counts = Mutex::new(BTreeMap::<String, Counts>::new());
    let (wrong, kernels) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
    let written = AtomicUsize::new(0);
    let chosen: Vec<_> = corpus
        .kernels
        .iter()
        .filter(|kernel| kernel.name.contains(&only))
        .collect();
    on_all_cores(&chosen, |kernel| {
        let task = &corpus.tasks[kernel.task];
        if let Some(errors) = checker.errors(task, &kernel.source) {
            let is_own = !kernel.name.contains("kernels/") && wanted.is_none();
            assert!(!is_own, "{}: {errors}", kernel.name);
            println!(
                "{} is left out: {}",
                kernel.name,
                errors.lines().next().unwrap_or_default()
            );
            return;
        }
        kernels.fetch_add(1, Ordering::Relaxed);
        // The kernel on which every rewrite of a loop once dropped a declaration.
        let sample = if kernel.name.contains("double_on_one_line") {
            12
        } else {
            SAMPLE
        };
        let combined = wanted.map_or(0, |_| COMBINED);
        for child in tried_children(task, &kernel.source, wanted.unwrap_or(sample), combined) {
            let errors = checker.errors(task, &child.source);
            if let Some(folder) = std::env::var_os("KFORGE_TEST_FOLDER") {
                let folder = Path::new(&folder).join(&task.name);
                std::fs::create_dir_all(&folder).unwrap();
                let name = Path::new(&kernel.name)
                    .file_stem()
                    .unwrap()
                    .to_str()
                    .unwrap();
                let number = written.fetch_add(1, Ordering::Relaxed);
                std::fs::write(folder.join(format!("{name}_{number}.cu")), &child.source).unwrap();
            }
            let mut counts = counts.lock().unwrap();
            let entry = counts.entry(child.transformation.clone()).or_default();
            entry.children += 1;
            match errors {
                None => entry.good += 1,
                Some(errors) => {
                    let text = format!("{}: {}: {errors}", kernel.name, child.detail);
                    println!("{text}");
                    if std::env::var_os("KFORGE_TEST_SHOW").is_some() {
                        println!("{}", child.source);
                    }
                    wrong.lock().unwrap().push(text);
                }
            }
        }
    });
    let (counts, wrong) = (counts.into_inner().unwrap(), wrong.into_inner().unwrap());
    if wanted.is_some() {
        print_table(&counts, kernels.load(Ordering::Relaxed), "compile");
    }
    assert!(
        wrong.is_empty(),
        "{} children do not compile:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The outputs of one run of a kernel on the first workload of its task, by buffer name.
fn outputs(
    device: &CpuDevice,
    task: &Task,
    source: &str,
) -> Result<Vec<(String, Vec<f64>)>, String> {
    let kernel = Kernel::parse(source, &task.definition).map_err(|error| error.to_string())?;
    let limits = DeviceLimits {
        sm_count: 2,
        max_shared_bytes: 232_448,
    };
    let scalars: Scalars = (task.definition.inputs.keys())
        .map(|name| (name.clone(), 0.015_625))
        .collect();
    let workload = (task.workloads.iter())
        .min_by_key(|workload| workload.binding.axes.values().product::<i64>())
        .ok_or("no workload")?;
    let variant = kernel
        .variant_for(&workload.binding, &limits)
        .map_err(|error| error.to_string())?;
    let values = kernel.tunable_values(variant);
    let target = LaunchTarget {
        task,
        binding: &workload.binding,
        scalars: &scalars,
        limits: &limits,
        is_oracle: false,
    };
    let plan = kernel
        .launch_plan(&target, &values)
        .map_err(|error| error.to_string())?;
    let unit = kernel.translation_unit(task, &values, false);
    let program: Program = match device
        .compile(&unit, Build::Fast)
        .map_err(|error| error.to_string())?
    {
        Compiled::Ready(program) => program,
        Compiled::Refused(refusal) => {
            return Err(format!(
                "{} {}",
                refusal.reason,
                refusal.evidence.log.unwrap_or_default()
            ));
        }
    };
    let purpose = Purpose::Check { edge: Edge::End };
    let mut bound = match device
        .open(&program, &plan, purpose)
        .map_err(|error| error.to_string())?
    {
        Opened::Ready(bound) => bound,
        Opened::Refused(refusal) => return Err(refusal.reason),
    };
    let distribution = Distribution::new(DistributionKind::Uniform([0.5, 1.5]));
    for (index, buffer) in plan.buffers.iter().enumerate() {
        let content = match buffer.role {
            BufferRole::Input | BufferRole::InPlace => BufferContent::Random {
                distribution: &distribution,
                seed: 7,
            },
            BufferRole::Output | BufferRole::Scratch { zero: false } => {
                BufferContent::Poison(Poison::Nan)
            }
            BufferRole::Scratch { zero: true } => BufferContent::Values(&[]),
        };
        bound
            .write(index, &content)
            .map_err(|error| error.to_string())?;
    }
    match bound
        .launch(Duration::from_secs(60))
        .map_err(|error| error.to_string())?
    {
        LaunchOutcome::Finished { .. } => {}
        LaunchOutcome::Fault(refusal) => return Err(refusal.reason),
    }
    let values = plan.outputs.iter().map(|index| {
        let values = bound.values(*index).map_err(|error| error.to_string())?;
        Ok((plan.buffers[*index].name.clone(), values))
    });
    values.collect()
}

/// Whether two outputs are equal to the last bit, and whether they agree within the task's tolerance.
fn agreement(
    task: &Task,
    parent: &[(String, Vec<f64>)],
    child: &[(String, Vec<f64>)],
) -> (bool, bool) {
    let mut result = (true, true);
    for ((name, expected), (_, actual)) in parent.iter().zip(child) {
        let rms = (expected
            .iter()
            .filter(|value| value.is_finite())
            .map(|value| value * value)
            .sum::<f64>()
            / expected.len().max(1) as f64)
            .sqrt();
        let tolerance = &task.settings.tolerance[name];
        for (one, other) in expected.iter().zip(actual) {
            let is_equal = one.to_bits() == other.to_bits() || one.is_nan() && other.is_nan();
            result.0 &= is_equal;
            result.1 &= is_equal
                || (one - other).abs() <= tolerance.rtol * one.abs() + tolerance.atol_rms * rms;
        }
    }
    result
}

#[test]
#[expect(clippy::print_stdout, reason = "a sweep shows each failure")]
fn children_of_own_operators_agree_with_their_parents() {
    let Some(wanted) = number_of("KFORGE_TEST_AGREEMENT") else {
        return;
    };
    let only = std::env::var("KFORGE_TEST_KERNEL").unwrap_or_default();
    let corpus = Corpus::read(is_whole());
    let device = CpuDevice::new().unwrap();
    let mut counts = BTreeMap::<String, Counts>::new();
    let (mut wrong, mut kernels) = (Vec::new(), 0);
    for kernel in corpus
        .kernels
        .iter()
        .filter(|kernel| kernel.name.contains(&only))
    {
        let task = &corpus.tasks[kernel.task];
        let parent = match outputs(&device, task, &kernel.source) {
            Ok(parent) => parent,
            Err(reason) => {
                println!("{} is left out: {reason}", kernel.name);
                continue;
            }
        };
        kernels += 1;
        let mut of_kind = BTreeMap::<String, usize>::new();
        for child in tried_children(task, &kernel.source, usize::MAX, wanted as u64) {
            let tried = of_kind.entry(child.transformation.clone()).or_default();
            if *tried == wanted {
                continue;
            }
            *tried += 1;
            let entry = counts.entry(child.transformation.clone()).or_default();
            entry.children += 1;
            let result =
                outputs(&device, task, &child.source).map(|child| agreement(task, &parent, &child));
            let is_good = matches!(result, Ok((_, true)));
            entry.good += usize::from(is_good);
            entry.equal += usize::from(matches!(result, Ok((true, _))));
            if !is_good {
                println!("{}: {}: {result:?}", kernel.name, child.detail);
                if std::env::var_os("KFORGE_TEST_SHOW").is_some() {
                    println!("{}", child.source);
                }
                wrong.push(format!("{}: {}", kernel.name, child.detail));
            }
        }
    }
    print_table(&counts, kernels, "agree");
    assert!(
        wrong.is_empty(),
        "{} children disagree:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
