//! `kforge compare`: whether runs, or arms of several runs, differ, and which quantities of their candidates go together.
//!
//! `history` reads the runs and does the statistics; `--measure` times the best kernels again. Changes nothing in a run.

use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::arms::find_arms;
use super::exit::{self, Exit};
use super::measure_arms::measure_arms;
use super::output::{Format, print, print_json, print_json_lines};
use crate::base::Failure;
use crate::base::text::{nearest_name, quote_list};
use crate::history::{self, Correlation, Difference, RunHistory, STEP_QUANTITIES};
use crate::page::{self, Measurement};

/// Arguments of `kforge compare`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct CompareArgs {
    /// Two arms or more, of which the first is compared with each other one. An arm is a run directory, several separated by commas, or
    /// SWEEP/KEY=VALUE: the runs of a sweep with that value. A sweep alone has an arm for each combination of its values but the seed.
    #[arg(required = true, num_args = 1.., value_name = "DIR[,DIR…]")]
    arms: Vec<String>,
    /// Also time the fastest kernel of each arm on this machine, in pairs, in fresh processes.
    #[arg(long)]
    measure: bool,
    /// With --measure: set any key of the first run's config, e.g. `--set eval.seconds=3`. Repeatable.
    #[arg(long, value_name = "KEY=VALUE", requires = "measure")]
    set: Vec<String>,
    /// Rank correlation of two quantities of candidates, e.g. `expected,change` or `resources.registers,speedup`: a name from
    /// docs/reports.md, or the path of a number in a verdict. Instead of the differences; one arm is enough. Repeatable.
    #[arg(long, value_name = "X,Y", conflicts_with = "measure")]
    correlate: Vec<String>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const NOTE: &str = "\
One run each: whether their best kernels differ. Several runs each: whether
the arms differ. A ratio above 1 says that the second is faster.";

fn help() -> String {
    exit::help(
        NOTE,
        &[
            (
                "kforge compare outputs/monday outputs/tuesday --measure",
                "the best kernels of two runs, also timed side by side now",
            ),
            (
                "kforge compare a1,a2,a3 b1,b2,b3",
                "two settings with three seeds each",
            ),
            ("kforge compare outputs/sweep", "the settings of a sweep"),
        ],
        exit::COMPARE_CODES,
    )
}

/// A difference with the names of its arms.
#[derive(Serialize)]
struct NamedDifference<'a> {
    arms: [&'a str; 2],
    is_shown: bool,
    #[serde(flatten)]
    difference: &'a Difference,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<&'a Measurement>,
}

pub(super) fn run(arguments: CompareArgs) -> anyhow::Result<Exit> {
    let pairs = arguments.correlate.iter().map(|text| quantity_pair(text));
    let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
    let found = find_arms(&arguments.arms)?;
    let names: Vec<String> = found.iter().map(|arm| arm.name.clone()).collect();
    let arms = found.iter().map(|arm| {
        let runs = arm.directories.iter().map(|directory| read_run(directory));
        runs.collect::<anyhow::Result<Vec<_>>>()
    });
    let arms: Vec<Vec<RunHistory>> = arms.collect::<anyhow::Result<_>>()?;
    if pairs.is_empty() {
        compare(&arguments, &arms, &names)
    } else {
        correlate(&arms, &names, &pairs, arguments.format)
    }
}

fn compare(
    arguments: &CompareArgs,
    arms: &[Vec<RunHistory>],
    names: &[String],
) -> anyhow::Result<Exit> {
    if arms.len() < 2 {
        return Err(Failure::usage("there is only one arm to compare")
            .hint("name two runs or more, or a sweep that varies more than the seed")
            .into());
    }
    let borrowed: Vec<Vec<&RunHistory>> = arms.iter().map(|arm| arm.iter().collect()).collect();
    let differences = history::compare(&borrowed);
    if differences.is_empty() {
        return Err(Failure::usage("the runs have no task in common")
            .hint("`kforge runs` shows the task of each run")
            .into());
    }
    let measured = match arguments.measure {
        true => measure_arms(arms, &differences, &arguments.set)?,
        false => Some(Vec::new()),
    };
    let Some(measured) = measured else {
        return Ok(Exit::Interrupted);
    };
    let named: Vec<_> = differences
        .iter()
        .enumerate()
        .map(|(index, difference)| NamedDifference {
            arms: [difference.first, difference.second]
                .map(|arm| names.get(arm).map_or("", String::as_str)),
            is_shown: difference.is_shown(),
            difference,
            measured: measured.get(index),
        })
        .collect();
    match arguments.format {
        Format::Human => {
            let texts = named.iter().map(|one| {
                let measured = one.measured;
                let measured = measured.map(|found| page::measurement_text(found, one.arms));
                page::difference_text(one.difference, names) + &measured.unwrap_or_default()
            });
            print(&texts.collect::<Vec<_>>().join("\n"))?;
        }
        Format::Json => print_json(&named)?,
        Format::Jsonl => print_json_lines(named)?,
    }
    Ok(Exit::Done)
}

fn correlate(
    arms: &[Vec<RunHistory>],
    names: &[String],
    pairs: &[[String; 2]],
    format: Format,
) -> anyhow::Result<Exit> {
    let found = history::correlate(arms, pairs)?;
    for pair in pairs {
        let of_pair = |one: &&Correlation| one.quantities == *pair;
        if found.iter().filter(of_pair).all(|one| one.candidates == 0) {
            return Err(unknown_quantity(pair).into());
        }
    }
    match format {
        Format::Human => print(&page::correlation_text(&found, names))?,
        Format::Json | Format::Jsonl => {
            let named = found.iter().map(|one| {
                let mut value = serde_json::to_value(one)?;
                value["arm"] = json!(names.get(one.arm));
                Ok(value)
            });
            let named = named.collect::<serde_json::Result<Vec<_>>>()?;
            match format {
                Format::Json => print_json(&named)?,
                _ => print_json_lines(named)?,
            }
        }
    }
    Ok(Exit::Done)
}

/// `X,Y`.
fn quantity_pair(text: &str) -> Result<[String; 2], Failure> {
    match text.split(',').map(str::trim).collect::<Vec<_>>()[..] {
        [one, other] if !one.is_empty() && !other.is_empty() => Ok([one, other].map(str::to_owned)),
        _ => Err(Failure::usage(format!(
            "`--correlate {text}`: expected two quantities with a comma between them"
        ))
        .hint("for example `--correlate expected,change`")),
    }
}

/// The failure for a pair that no candidate has.
fn unknown_quantity([one, other]: &[String; 2]) -> Failure {
    let known = STEP_QUANTITIES.iter().map(|(name, _)| *name);
    let is_known = |name: &String| STEP_QUANTITIES.iter().any(|(known, _)| known == name);
    let wrong = [one, other].into_iter().find(|name| !is_known(name));
    let near = wrong.and_then(|name| nearest_name(name, known.clone()));
    let hint = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!(
            "there are {}, and paths of numbers in a verdict, such as `resources.registers`",
            quote_list(known)
        ),
    };
    Failure::usage(format!("no candidate has both `{one}` and `{other}`")).hint(hint)
}

fn read_run(directory: &Path) -> anyhow::Result<RunHistory> {
    let run = RunHistory::read(directory)?;
    for damage in &run.damage {
        tracing::warn!("{damage}; what comes before is compared");
    }
    Ok(run)
}
