//! How many points `autotune` needs to find the fastest one of a recorded space: the real search on the cache files of `spaces/recorded`.
//!
//!     cargo bench --bench autotune                            100 seeds, 600 points each; one JSON line for each search
//!     cargo bench --bench autotune -- --unconstrained         points that violate a constraint may be tried, and fail
//!     cargo bench --bench autotune -- --in-flight 8           eight points are tried at once
//!     cargo bench --bench autotune -- --seeds 20 --budget 200
//!     cargo bench --bench autotune -- --spaces FILE           the spaces of a list, instead of those of the repository
//!
//! A list is `[{"name": "...", "path": "cache file, relative to the list", "constraints": ["X % Y == 0"]}]`. It serves cache files of others: a
//! point that such a file lacks violates a constraint.
//!
//! Each search starts from a point that works, drawn by its seed. Every point that is judged counts, also one that fails. Times are those of
//! the file, without noise. What a step takes the search itself is printed on standard error. `tuners.py` makes a table of the lines and of
//! those of Kernel Tuner.

#[expect(dead_code, unused_imports, reason = "the search bench uses the rest")]
#[path = "search/simulation/mod.rs"]
mod simulation;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indexmap::IndexMap;
use kforge::base::{Digest, RandomStream};
use kforge::event::{Brief, Event, Judged, Operator, Proposed};
use kforge::kernel::{Kernel, KnownLimits};
use kforge::search::{OperatorWeights, Search, SearchSettings};
use kforge::task::TaskFiles;
use kforge::verdict::{Speedup, Status, Timing};
use serde_json::{Value, json};
use simulation::kernel_tuner;
use simulation::landscape::Truth;
use simulation::space::Invalidity;
use simulation::verdicts::{Figures, verdict};

/// Shared memory of a block of an H200, in bytes.
const MAX_SHARED_BYTES: i64 = 232_448;

struct Arguments {
    seeds: u64,
    budget: usize,
    in_flight: u64,
    constrained: bool,
    list: Option<PathBuf>,
}

/// A recorded space whose points are integers.
struct Space {
    name: String,
    tunables: IndexMap<String, Vec<i64>>,
    constraints: Vec<String>,
    /// Milliseconds, or why there are none.
    times: HashMap<Vec<i64>, Result<f64, Invalidity>>,
    /// The points that work, in the order of the file.
    valid: Vec<Vec<i64>>,
    optimum: f64,
}

/// What the search itself took.
#[derive(Default)]
struct Cost {
    steps: u32,
    total: Duration,
    largest: Duration,
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let spaces = match &arguments.list {
        Some(list) => listed(list, arguments.constrained)?,
        None => recorded(arguments.constrained)?,
    };
    for space in spaces {
        let mut cost = Cost::default();
        for seed in 0..arguments.seeds {
            print_line(&search(&space, seed, &arguments, &mut cost));
        }
        report_cost(&space, &cost);
    }
    Ok(())
}

/// The spaces of the repository.
fn recorded(constrained: bool) -> Result<Vec<Space>> {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/spaces/recorded");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&recorded)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.sort();
    let spaces = paths.iter().map(|path| {
        let text = std::fs::read_to_string(path)?;
        let constraints = if constrained {
            constraints(&serde_json::from_str(&text)?)?
        } else {
            Vec::new()
        };
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Space::read(&name, &text, constraints)
    });
    spaces.collect()
}

/// The spaces of a list.
fn listed(list: &Path, constrained: bool) -> Result<Vec<Space>> {
    let entries: Value = serde_json::from_str(&std::fs::read_to_string(list)?)?;
    let entries = entries.as_array().context("the list is no array")?;
    let folder = list.parent().unwrap_or(Path::new(""));
    let spaces = entries.iter().map(|entry| {
        let name = entry["name"].as_str().context("a space has no `name`")?;
        let path = entry["path"].as_str().context("a space has no `path`")?;
        let path = folder.join(path);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let constraints = match (&entry["constraints"], constrained) {
            (Value::Array(texts), true) => {
                let texts = texts.iter().map(|text| text.as_str().map(str::to_owned));
                texts
                    .collect::<Option<_>>()
                    .context("a constraint is not a text")?
            }
            _ => Vec::new(),
        };
        Space::read(name, &text, constraints)
    });
    spaces.collect()
}

impl Space {
    fn read(name: &str, text: &str, constraints: Vec<String>) -> Result<Self> {
        let recorded = kernel_tuner::read(text)?;
        let integers = |values: &Vec<Value>| -> Result<Vec<i64>> {
            let integers = values.iter().map(Value::as_i64);
            integers
                .collect::<Option<_>>()
                .context("a value is no integer")
        };
        let tunables = recorded.tunables.iter();
        let tunables: IndexMap<String, Vec<i64>> = tunables
            .map(|(name, values)| Ok((name.clone(), integers(values)?)))
            .collect::<Result<_>>()?;
        let mut times = HashMap::new();
        let mut valid = Vec::new();
        for point in &recorded.points {
            let indices = point.indices.iter().zip(tunables.values());
            let values: Vec<i64> = indices
                .map(|(index, values)| values[usize::from(*index)])
                .collect();
            if point.time.is_ok() {
                valid.push(values.clone());
            }
            times.insert(values, point.time);
        }
        let all = times.values().filter_map(|time| time.as_ref().ok());
        let optimum = all.copied().fold(f64::INFINITY, f64::min);
        ensure!(optimum.is_finite(), "no point works");
        Ok(Self {
            name: name.to_owned(),
            tunables,
            constraints,
            times,
            valid,
            optimum,
        })
    }

    fn point(&self, values: &[i64]) -> IndexMap<String, i64> {
        let names = self.tunables.keys().cloned();
        names.zip(values.iter().copied()).collect()
    }
}

/// The rules of the recorded kernel, as the driver makes them.
fn constraints(file: &Value) -> Result<Vec<String>> {
    let text = |value: &Value| value.as_str().map(str::to_owned).context("not a text");
    let task = TaskFiles::find(&text(&file["kforge"]["task"])?)?.load()?;
    let kernel = format!("benches/spaces/{}.cu", text(&file["kernel_name"])?);
    let kernel = Path::new(env!("CARGO_MANIFEST_DIR")).join(kernel);
    let kernel = Kernel::parse(&std::fs::read_to_string(kernel)?, &task.definition)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let timed = file["kforge"]["workloads"].as_array();
    let timed = timed.context("no `workloads`")?;
    let workloads = task.workloads.iter();
    let bindings: Vec<_> = workloads
        .filter(|workload| timed.iter().any(|id| *id == workload.id))
        .map(|workload| &workload.binding)
        .collect();
    let limits = KnownLimits {
        sm_count: None,
        max_shared_bytes: Some(MAX_SHARED_BYTES),
    };
    Ok(kernel.point_rules(&bindings, limits).texts())
}

/// One search, as a line for `tuners.py`.
fn search(space: &Space, seed: u64, arguments: &Arguments, cost: &mut Cost) -> Value {
    let settings = SearchSettings {
        features: IndexMap::new(),
        operators: OperatorWeights {
            autotune: 1.0,
            mutate: 0.0,
            recombine: 0.0,
            propose: 0.0,
            edit: 0.0,
            crossover: 0.0,
            repair: 0.0,
        },
        ..SearchSettings::default()
    };
    let window = arguments.in_flight;
    let mut search = Search::new(&settings, seed, window, u64::MAX, &["start".to_owned()]);
    let start = RandomStream::new(seed, "autotune bench", 0).below(space.valid.len());
    let start = space.point(&space.valid[start]);
    let (mut evaluations, mut best, mut improvements) = (0, f64::INFINITY, Vec::new());
    let mut running = VecDeque::new();
    let mut next = 1;
    while evaluations < arguments.budget {
        let began = Instant::now();
        while let Some(brief) = search.ask(next) {
            search.tell(&Event::Asked(brief.clone()));
            running.push_back(brief);
            next += 1;
        }
        let took = began.elapsed();
        let Some(brief) = running.pop_front() else {
            break;
        };
        let point = match brief.operator {
            Operator::Start => Some(start.clone()),
            _ => brief.point.clone(),
        };
        // The search has nothing left to try.
        let Some(point) = point else { break };
        evaluations += 1;
        let values: Vec<i64> = point.values().copied().collect();
        let time = space.times.get(&values).copied();
        let time = time.unwrap_or(Err(Invalidity::Constraints));
        if let Some(time) = time.ok().filter(|time| *time < best) {
            best = time;
            improvements.push(json!([evaluations, time]));
        }
        let events = [
            proposed(&brief, space, point),
            judged(brief.step, space, time),
        ];
        let began = Instant::now();
        for event in &events {
            search.tell(event);
        }
        cost.add(took + began.elapsed());
    }
    let in_flight = match window {
        1 => String::new(),
        count => format!(", {count} in flight"),
    };
    json!({
        "space": space.name,
        "constrained": arguments.constrained,
        "strategy": format!("**kforge autotune**{in_flight}"),
        "seed": seed,
        "optimum": space.optimum,
        "evaluations": evaluations,
        "budget": arguments.budget,
        "improvements": improvements,
    })
}

fn proposed(brief: &Brief, space: &Space, point: IndexMap<String, i64>) -> Event {
    Event::Proposed(Proposed {
        step: brief.step,
        kernel: Digest::of(brief.step.to_le_bytes()),
        form: None,
        operator: brief.operator,
        parents: brief.parents.clone(),
        detail: String::new(),
        family: Digest::of(&space.name),
        point,
        space: space.tunables.clone(),
        constraints: space.constraints.clone(),
        expected: None,
        edits: Default::default(),
        shingles: None,
        tried: None,
    })
}

fn judged(step: u64, space: &Space, time: Result<f64, Invalidity>) -> Event {
    let status = match time {
        Ok(_) => Status::Passed,
        Err(Invalidity::Constraints) => Status::Rejected,
        Err(Invalidity::Compile) => Status::CompileError,
        Err(Invalidity::Runtime) => Status::LaunchError,
        Err(Invalidity::Timeout) => Status::TimedOut,
        Err(Invalidity::Correctness) => Status::WrongOutput,
    };
    let geomean = time.map_or(0.0, |time| space.optimum / time);
    let truth = Truth {
        status,
        speedup: geomean,
        features: IndexMap::new(),
        code: Digest::of(step.to_le_bytes()),
        recorded: None,
    };
    let figures = time.is_ok().then_some(Figures {
        speedup: Speedup {
            geomean,
            ci95: [geomean; 2],
        },
        timing: Timing::Full,
    });
    let verdict = verdict(&truth, figures);
    Event::Judged(Judged { step, verdict })
}

impl Cost {
    fn add(&mut self, took: Duration) {
        self.steps += 1;
        self.total += took;
        self.largest = self.largest.max(took);
    }
}

#[expect(clippy::print_stderr, reason = "a benchmark prints its results")]
fn report_cost(space: &Space, cost: &Cost) {
    let mean = cost.total.as_secs_f64() / f64::from(cost.steps.max(1));
    eprintln!(
        "{}: a step takes the search {:.0} us on average, {:.1} ms at most",
        space.name,
        mean * 1e6,
        cost.largest.as_secs_f64() * 1e3
    );
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its results")]
fn print_line(line: &Value) {
    println!("{line}");
}

fn arguments() -> Result<Arguments> {
    let mut found = Arguments {
        seeds: 100,
        budget: 600,
        in_flight: 1,
        constrained: true,
        list: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("`{word}` needs a value"))
        };
        let mut number = || -> Result<u64> {
            value()?
                .parse()
                .with_context(|| format!("`{word}`: not a number"))
        };
        match word.as_str() {
            // `cargo bench` adds it.
            "--bench" => {}
            "--seeds" => found.seeds = number()?,
            "--budget" => found.budget = number()? as usize,
            "--in-flight" => found.in_flight = number()?.max(1),
            "--unconstrained" => found.constrained = false,
            "--spaces" => found.list = Some(value()?.into()),
            _ => bail!("unknown argument `{word}`\nhint: see the head of `benches/autotune.rs`"),
        }
    }
    Ok(found)
}
