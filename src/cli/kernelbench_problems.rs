//! The problems of a KernelBench checkout, and the names of their tasks. Reads the names of files only.

use std::path::{Path, PathBuf};

use super::python_script::PythonLimit;
use crate::base::Failure;

/// Arguments that name problems.
#[derive(Debug, clap::Args)]
pub(super) struct ProblemArgs {
    /// File of a problem, or a checkout of KernelBench.
    #[arg(value_name = "FILE|CHECKOUT")]
    pub(super) source: PathBuf,
    /// Level of the problems in a checkout.
    #[arg(long, value_name = "NUMBER")]
    pub(super) level: Option<u32>,
    /// Number of a problem of the level. Repeatable. Default: all.
    #[arg(long, value_name = "NUMBER", requires = "level")]
    problem: Vec<u32>,
    /// Precision that the model and its inputs are cast to.
    #[arg(long, value_name = "NAME", default_value = "fp32", value_parser = ["fp32", "fp16", "bf16"])]
    pub(super) precision: String,
    #[command(flatten)]
    pub(super) limit: PythonLimit,
}

/// A problem.
pub(super) struct Problem {
    /// Of its task.
    pub(super) name: String,
    /// The number at the start of the file's name.
    pub(super) number: Option<u32>,
    pub(super) file: PathBuf,
}

impl ProblemArgs {
    /// The problems that are named, by number.
    ///
    /// # Errors
    /// If there is no such file, level or problem.
    pub(super) fn find(&self) -> Result<Vec<Problem>, Failure> {
        find_problems(self)
    }
}

fn find_problems(arguments: &ProblemArgs) -> Result<Vec<Problem>, Failure> {
    let source = &arguments.source;
    if source.is_file() {
        if arguments.level.is_some() {
            return Err(
                Failure::usage("`--level` is for a checkout, and a file is named")
                    .hint("leave `--level` out, or name the folder of the checkout"),
            );
        }
        return Ok(vec![problem(source, arguments)]);
    }
    let level = arguments.level.ok_or_else(|| {
        let message = if source.is_dir() {
            format!("`{}` is a folder: which level?", source.display())
        } else {
            format!("no such file or folder: `{}`", source.display())
        };
        Failure::usage(message).hint("for example `--level 1 --problem 23`")
    })?;
    let folders =
        ["KernelBench", "."].map(|inner| source.join(inner).join(format!("level{level}")));
    let folder = folders
        .iter()
        .find(|folder| folder.is_dir())
        .ok_or_else(|| {
            Failure::usage(format!(
                "`{}` has no folder `level{level}`",
                source.display()
            ))
            .hint("a checkout of KernelBench has `KernelBench/level1` to `level4`")
        })?;
    let numbered = numbered_files(folder);
    let has = |number: &u32| numbered.iter().any(|(known, _)| known == number);
    if let Some(missing) = arguments.problem.iter().find(|number| !has(number)) {
        return Err(
            Failure::usage(format!("`{}` has no problem {missing}", folder.display()))
                .hint("the file of a problem starts with its number, as in `23_Softmax.py`"),
        );
    }
    let wanted = |number: &u32| arguments.problem.is_empty() || arguments.problem.contains(number);
    let chosen = numbered.iter().filter(|(number, _)| wanted(number));
    Ok(chosen.map(|(_, file)| problem(file, arguments)).collect())
}

/// The problems in the folder of a level, sorted by number.
fn numbered_files(folder: &Path) -> Vec<(u32, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path());
    let is_python = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "py");
    let mut numbered: Vec<(u32, PathBuf)> = files
        .filter(is_python)
        .filter_map(|file| Some((number_of(&file)?, file)))
        .collect();
    numbered.sort();
    numbered
}

/// 23 of `23_Softmax.py`.
fn number_of(file: &Path) -> Option<u32> {
    file.file_stem()?.to_str()?.split('_').next()?.parse().ok()
}

/// The name has the level, if the file is in the folder of a level, and the precision, if it is not fp32.
fn problem(file: &Path, arguments: &ProblemArgs) -> Problem {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let plain = stem.chars().map(|letter| match letter {
        letter if letter.is_ascii_alphanumeric() => letter,
        _ => '_',
    });
    let plain: String = plain.collect();
    let absolute = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let folder = absolute.parent().and_then(Path::file_name);
    let level = folder.and_then(|name| name.to_str()?.strip_prefix("level"));
    let suffix = match arguments.precision.as_str() {
        "fp32" => String::new(),
        other => format!("_{other}"),
    };
    Problem {
        name: format!("kb{}_{plain}{suffix}", level.unwrap_or_default()),
        number: number_of(file),
        file: file.to_owned(),
    }
}
