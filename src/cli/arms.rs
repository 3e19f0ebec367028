//! Which runs an argument means: a run directory, a sweep, the runs of a sweep with some values, or several of these.
//!
//! Names of runs in a sweep have commas, and so has a list of runs. What exists as it is written is never split.

use std::path::{Path, PathBuf};

use crate::base::Failure;
use crate::run::{RunDirectory, SweepDirectory, SweepRecord, SweepRun};

/// Some runs, and what the user calls them.
pub(super) struct NamedArm {
    pub(super) name: String,
    pub(super) directories: Vec<PathBuf>,
}

/// The arms that arguments name. A single argument that is a sweep has one arm for each combination of its values but the seed.
///
/// # Errors
/// A usage failure if an argument names no run.
pub(super) fn find_arms(arguments: &[String]) -> anyhow::Result<Vec<NamedArm>> {
    if let [only] = arguments {
        let sweep = SweepDirectory::new(only);
        if sweep.exists() {
            return arms_of_sweep(&sweep);
        }
    }
    let arms = arguments.iter().map(|argument| {
        Ok(NamedArm {
            name: argument.clone(),
            directories: runs_of_arm(argument)?,
        })
    });
    arms.collect()
}

fn arms_of_sweep(sweep: &SweepDirectory) -> anyhow::Result<Vec<NamedArm>> {
    let record = SweepRecord::read(sweep)?;
    let arms = record.arms().into_iter();
    let arms = arms.map(|(name, runs)| NamedArm {
        name,
        directories: started(sweep, runs),
    });
    Ok(arms.filter(|arm| !arm.directories.is_empty()).collect())
}

/// The directories of those runs that have started. Says how many have not.
fn started<'a>(
    sweep: &SweepDirectory,
    runs: impl IntoIterator<Item = &'a SweepRun>,
) -> Vec<PathBuf> {
    let runs = runs.into_iter().map(|run| sweep.run(run));
    let (started, open): (Vec<_>, Vec<_>) = runs.partition(|run| run.record().is_file());
    if let Some(run) = open.first() {
        tracing::warn!(
            "{} of {} runs have not started, such as `{}`",
            open.len(),
            open.len() + started.len(),
            run.root().display()
        );
    }
    let roots = started.iter().map(|run| run.root().to_owned());
    roots.collect()
}

/// The run directories that a path means: itself, or the runs of the sweep that have started.
pub(super) fn runs_in(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let sweep = SweepDirectory::new(path);
    if !sweep.exists() {
        return Ok(vec![path.to_owned()]);
    }
    let record = SweepRecord::read(&sweep)?;
    let runs = started(&sweep, &record.runs);
    if runs.is_empty() {
        let message = format!("no run of the sweep `{}` has started", path.display());
        return Err(Failure::usage(message)
            .hint("`kforge resume` starts them")
            .into());
    }
    Ok(runs)
}

/// The runs of one argument, which is a list with commas.
fn runs_of_arm(argument: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut directories = Vec::new();
    let mut rest = argument.trim_matches(',');
    while !rest.is_empty() {
        // The longest beginning that names something: names of runs have commas too.
        let ends = rest.match_indices(',').map(|(at, _)| at);
        let mut ends: Vec<usize> = ends.chain([rest.len()]).collect();
        ends.reverse();
        let mut found = None;
        for end in &ends {
            if let Some(runs) = named_runs(&rest[..*end])? {
                found = Some((*end, runs));
                break;
            }
        }
        let Some((end, runs)) = found else {
            let shortest = ends.last().map_or(rest, |end| &rest[..*end]);
            return Err(Failure::usage(format!(
                "`{shortest}` is not a run directory: it has no run.yaml"
            ))
            .hint("name a directory under `outputs/`; `kforge runs` lists them")
            .into());
        };
        directories.extend(runs);
        rest = rest[end..].trim_start_matches(',');
    }
    Ok(directories)
}

/// The runs that a path without a list means: a run, a sweep, or `SWEEP/KEY=VALUE,…`. `None` if it means none.
fn named_runs(text: &str) -> anyhow::Result<Option<Vec<PathBuf>>> {
    let path = Path::new(text);
    if RunDirectory::new(path).record().is_file() {
        return Ok(Some(vec![path.to_owned()]));
    }
    if SweepDirectory::new(path).exists() {
        return runs_in(path).map(Some);
    }
    let (Some(parent), Some(values)) = (path.parent(), path.file_name()) else {
        return Ok(None);
    };
    let sweep = SweepDirectory::new(parent);
    let Some(values) = values.to_str().filter(|_| sweep.exists()) else {
        return Ok(None);
    };
    let record = SweepRecord::read(&sweep)?;
    let runs = record.runs.iter();
    let runs: Vec<_> = runs
        .filter(|run| run.has_values(values) == Some(true))
        .collect();
    let runs = started(&sweep, runs);
    Ok((!runs.is_empty()).then_some(runs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// A sweep of four runs, and a run outside it.
    fn folder() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let sweep = SweepDirectory::new(root.path().join("s"));
        let run = |name: &str| {
            let values = name.split(',').filter_map(|part| part.split_once('='));
            let values = values.map(|(key, value)| (key.to_owned(), value.to_owned()));
            SweepRun {
                name: name.to_owned(),
                values: values.collect(),
                config: Value::Null,
            }
        };
        let names = ["a=1,seed=0", "a=1,seed=1", "a=2,seed=0", "a=2,seed=1"];
        let runs = names.map(run).to_vec();
        for name in names
            .map(|name| format!("s/{name}"))
            .iter()
            .chain(["r,1".to_owned()].iter())
        {
            std::fs::create_dir_all(root.path().join(name)).unwrap();
            std::fs::write(root.path().join(name).join("run.yaml"), "").unwrap();
        }
        SweepRecord::new(runs).write(&sweep).unwrap();
        root
    }

    #[test]
    fn arms_are_runs_sweeps_and_selections() {
        let root = folder();
        let path = |name: &str| root.path().join(name).display().to_string();
        let count = |text: &str| runs_of_arm(text).unwrap().len();
        assert_eq!(count(&path("r,1")), 1);
        assert_eq!(count(&path("s")), 4);
        assert_eq!(count(&path("s/a=1")), 2);
        assert_eq!(count(&path("s/seed=1,a=2")), 1);
        assert_eq!(count(&path("s/a=1,seed=1")), 1);
        let listed = ["s/a=1,seed=0", "r,1", "s/a=2"].map(path).join(",");
        assert_eq!(count(&listed), 4);
        let arms = find_arms(&[path("s")]).unwrap();
        let arms: Vec<_> = arms
            .iter()
            .map(|arm| (arm.name.as_str(), arm.directories.len()))
            .collect();
        assert_eq!(arms, [("a=1", 2), ("a=2", 2)]);
        for wrong in ["x", "s/a=3", "s/b=1", "r"] {
            let error = runs_of_arm(&path(wrong)).unwrap_err().to_string();
            assert!(error.contains("is not a run directory"), "{wrong}: {error}");
        }
    }
}
