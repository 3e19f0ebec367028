//! Simulated searches: which strategy and which settings find the fastest kernel, on landscapes whose optimum is known.
//!
//!     cargo bench --bench search                          the suite with 20 seeds
//!     cargo bench --bench search -- --seeds 100 --write   with 100 seeds; writes `benches/results/search.md`
//!     cargo bench --bench search -- --scenario trap       one scenario
//!     cargo bench --bench search -- --row exploration     only rows whose name has this in it, and the first
//!     cargo bench --bench search -- --ask-cost            only what one step takes the search itself
//!     cargo bench --bench search -- --recorded FILE       searches on a recorded space: a cache file of Kernel Tuner, or T4
//!     cargo bench --bench search -- --convert FILE        writes it as the other of the two formats to standard output
//!
//! Needs no device and no compiler. `benches/search.py` is something else: it runs real searches of whole programs.
//! `benches/search/README.md` describes the landscapes.

mod ask_cost;
mod scenarios;
mod simulation;
mod statistics;
mod suite;
mod tables;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use scenarios::{Entry, Scenario, ablations, controls, default_entry, recorded, scenarios};
use simulation::landscape::Landscape;
use simulation::recorded::Recorded;
use simulation::space::RecordedSpace;
use simulation::{kernel_tuner, t4};

const DEFAULT_SEEDS: u64 = 20;

/// The candidates at which the cost of a step is measured.
const ASK_COST_CANDIDATES: [u64; 2] = [1_000, 100_000];

#[derive(Default)]
struct Arguments {
    seeds: Option<u64>,
    scenario: Option<String>,
    row: Option<String>,
    recorded: Vec<PathBuf>,
    convert: Option<PathBuf>,
    write: bool,
    only_ask_cost: bool,
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    if let Some(path) = &arguments.convert {
        let text = convert(path)?;
        print_text(&text);
        return Ok(());
    }
    let mut report = String::new();
    if !arguments.only_ask_cost {
        report += &suite_report(&arguments)?;
    }
    if arguments.scenario.is_none() && arguments.recorded.is_empty() {
        report += &ask_cost_report();
    }
    print_text(&report);
    if arguments.write {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results/search.md");
        std::fs::write(path, format!("{HEAD}{report}"))?;
    }
    Ok(())
}

/// The head of the written report.
const HEAD: &str = include_str!("report_head.md");

/// The tables of the scenarios that were asked for.
fn suite_report(arguments: &Arguments) -> Result<String> {
    let seeds = arguments.seeds.unwrap_or(DEFAULT_SEEDS);
    let mut report = String::new();
    let (began, mut searches) = (Instant::now(), 0);
    for scenario in chosen_scenarios(arguments)? {
        let is_tuning = scenario.operators.mutate == 0.0;
        let is_wanted = |entry: &Entry| {
            let row = arguments.row.as_ref();
            row.is_none_or(|row| entry.name.contains(row.as_str()))
        };
        let mut entries = vec![default_entry()];
        entries.extend(controls().into_iter().filter(is_wanted));
        let strategies = entries.len();
        if !is_tuning {
            entries.extend(ablations().into_iter().filter(is_wanted));
        }
        let rows = suite::run(&scenario, &entries, seeds);
        searches += entries.len() as u64 * seeds;
        let (compared, changed) = rows.split_at(strategies);
        report += &format!("\n## {}\n\n", scenario.name);
        if is_tuning {
            report += &tables::tuning_table(&scenario, &compared.iter().collect::<Vec<_>>());
            continue;
        }
        report += &tables::table(&scenario, &compared.iter().collect::<Vec<_>>());
        report += "\nOne setting changed:\n\n";
        let changed = compared[..1].iter().chain(changed);
        report += &tables::table(&scenario, &changed.collect::<Vec<_>>());
    }
    let seconds = began.elapsed().as_secs_f64();
    print_text(&format!(
        "{searches} searches in {seconds:.1} s: {:.0} a minute\n",
        60.0 * searches as f64 / seconds
    ));
    Ok(report)
}

fn chosen_scenarios(arguments: &Arguments) -> Result<Vec<Scenario>> {
    if !arguments.recorded.is_empty() {
        let paths = arguments.recorded.iter();
        return paths.map(|path| recorded_scenario(path)).collect();
    }
    let mut all = scenarios();
    if let Some(name) = &arguments.scenario {
        let names: Vec<_> = all.iter().map(|one| format!("`{}`", one.name)).collect();
        all.retain(|one| one.name == *name);
        if all.is_empty() {
            bail!(
                "unknown scenario `{name}`\nhint: one of {}",
                names.join(", ")
            );
        }
    }
    Ok(all)
}

fn recorded_scenario(path: &Path) -> Result<Scenario> {
    let space = read_space(path)?;
    let name = path.display().to_string();
    // Found out here, so that it cannot fail for a seed.
    Recorded::new(&space, 0)?;
    Ok(recorded(&name, move |seed| {
        let landscape = Recorded::new(&space, seed).expect("it has a valid point");
        Box::new(landscape) as Box<dyn Landscape>
    }))
}

fn read_space(path: &Path) -> Result<RecordedSpace> {
    let text = read_text(path)?;
    let space = if is_t4(&text) {
        t4::read(&text)
    } else {
        kernel_tuner::read(&text)
    };
    space.with_context(|| format!("`{}`", path.display()))
}

/// A file, compressed by gzip if its name says so.
fn read_text(path: &Path) -> Result<String> {
    let read = || {
        let bytes = std::fs::read(path)?;
        let mut text = String::new();
        if path.extension().is_some_and(|extension| extension == "gz") {
            GzDecoder::new(&bytes[..]).read_to_string(&mut text)?;
        } else {
            (&bytes[..]).read_to_string(&mut text)?;
        }
        std::io::Result::Ok(text)
    };
    read().with_context(|| format!("cannot read `{}`", path.display()))
}

fn is_t4(text: &str) -> bool {
    text.contains("\"results\"") && text.contains("\"invalidity\"")
}

fn convert(path: &Path) -> Result<String> {
    let space = read_space(path)?;
    if is_t4(&read_text(path)?) {
        kernel_tuner::write(&space)
    } else {
        t4::write(&space)
    }
}

fn ask_cost_report() -> String {
    let mut report = "\n## What a step takes the search\n\nOne ask and everything that is told about one step; mean of 1,000 steps.\n\n\
                      | candidates before | elites | a step |\n| --- | --- | --- |\n"
        .to_owned();
    for cost in ASK_COST_CANDIDATES.map(ask_cost::measure) {
        report += &format!(
            "| {} | {} | {:.0} us |\n",
            cost.candidates,
            cost.cells,
            cost.step.as_secs_f64() * 1e6
        );
    }
    report
}

fn arguments() -> Result<Arguments> {
    let mut found = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("`{word}` needs a value"))
        };
        match word.as_str() {
            // `cargo bench` adds it.
            "--bench" => {}
            "--seeds" => found.seeds = Some(value()?.parse().context("`--seeds`: not a number")?),
            "--scenario" => found.scenario = Some(value()?),
            "--row" => found.row = Some(value()?),
            "--recorded" => found.recorded.push(value()?.into()),
            "--convert" => found.convert = Some(value()?.into()),
            "--write" => found.write = true,
            "--ask-cost" => found.only_ask_cost = true,
            _ => bail!("unknown argument `{word}`\nhint: see the head of `benches/search/main.rs`"),
        }
    }
    Ok(found)
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its results")]
fn print_text(text: &str) {
    print!("{text}");
}
