//! `kforge bench kernelbench`: judges a kernel for each problem of a level, and keeps what was judged, so that the command can be repeated.
//!
//! Each search, judgement and timing is a kforge process of its own, with the arguments that a person would give: a problem that fails ends
//! nothing but itself. `kernelbench_results` makes the files of results. Judges nothing itself.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use indexmap::IndexMap;

use super::exit::{self, Exit};
use super::import_kernelbench::import_problems;
use super::import_report::Report;
use super::kernelbench_problems::{Problem, ProblemArgs};
use super::kernelbench_results::{Judged, Results};
use super::output::{Format, print, print_json, print_json_lines};
use crate::base::{Digest, Failure, files};
use crate::task::DRAFT_MARK;
use crate::verdict::{BaselineTable, Status, Verdict};

/// Arguments of `kforge bench kernelbench`.
#[derive(Debug, clap::Args)]
pub(super) struct KernelBenchArgs {
    #[command(flatten)]
    problems: ProblemArgs,
    /// Folder with the kernels, `level_L_problem_P_sample_0_kernel.cu`. Default: `kernels/TASK/best.cu`, else `naive.cu`.
    #[arg(long, value_name = "DIR")]
    kernels: Option<PathBuf>,
    /// Search for a kernel of each problem first, with this many steps.
    #[arg(long, value_name = "NUMBER", conflicts_with = "kernels")]
    steps: Option<u64>,
    /// Run config of the searches.
    #[arg(long, value_name = "FILE", requires = "steps")]
    config: Option<String>,
    /// Baseline over which speedups count: `eager` or `torch.compile`.
    #[arg(long, value_name = "NAME", default_value = "eager", value_parser = ["eager", "torch.compile"])]
    baseline: String,
    /// Folder of the results. What it has is not judged again. Default: `outputs/kernelbench-levelL`.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Device that judges. `auto` is `cuda` if a GPU and NVRTC are found.
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = ["auto", "cpu", "cuda"])]
    backend: String,
    /// Timing budget for each kernel, in seconds. Default: the profile's.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const NOTE: &str = "\
Problems that are no tasks yet are imported. A kernel is correct if
`kforge eval` finds nothing wrong with it, which is stricter than KernelBench.
Its speedup is measured in pairs with the problem's PyTorch code, as
`kforge baselines` does.

Writes eval_results.json, baseline_time_torch.json and fast_p.json, after each
problem. Repeat the command to continue; a kernel that has changed is judged
again.";

pub(super) fn help() -> String {
    exit::help(
        NOTE,
        &[
            (
                "kforge bench kernelbench KernelBench --level 1 --kernels my_kernels",
                "kernels in a folder",
            ),
            (
                "kforge bench kernelbench KernelBench --level 2 --problem 3 --steps 200",
                "a search, and then its best kernel",
            ),
        ],
        exit::BENCH_CODES,
    )
}

/// Why the command ends before its end.
enum Stop {
    Exit(Exit),
    Error(anyhow::Error),
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Error(error)
    }
}

/// What the arguments mean.
struct Bench<'a> {
    arguments: &'a KernelBenchArgs,
    level: u32,
    output: PathBuf,
}

pub(super) fn run(arguments: &KernelBenchArgs) -> anyhow::Result<Exit> {
    let problems = arguments.problems.find()?;
    let level = arguments.problems.level.ok_or_else(|| {
        Failure::usage("a level of a checkout is judged, and a file is named")
            .hint("name the folder of the checkout, and `--level`")
    })?;
    let folder = format!("outputs/kernelbench-level{level}");
    let output = arguments.output.clone().unwrap_or_else(|| folder.into());
    let bench = Bench {
        arguments,
        level,
        output,
    };
    let refused = bench.import(&problems)?;
    let mut results = Results::new(level, &arguments.baseline);
    for problem in &problems {
        let judged = match refused.get(&problem.name) {
            Some(reason) => Ok(Judged::without_kernel(reason.clone())),
            None => bench.judge(problem),
        };
        let judged = match judged {
            Ok(judged) => judged,
            Err(Stop::Exit(exit)) => return Ok(exit),
            Err(Stop::Error(error)) => return Err(error),
        };
        if arguments.format == Format::Human {
            print(&results.line(problem, &judged))?;
        }
        results.add(problem, judged);
        results.write(&bench.output)?;
    }
    match arguments.format {
        Format::Human => print(&results.describe(&bench.output))?,
        Format::Json => print_json(&results.fast_p())?,
        Format::Jsonl => print_json_lines([results.fast_p()])?,
    }
    Ok(Exit::Done)
}

impl Bench<'_> {
    /// Imports the problems that are no tasks. Returns why others cannot be, by name.
    fn import(&self, problems: &[Problem]) -> anyhow::Result<IndexMap<String, String>> {
        let is_new = |problem: &&Problem| !task_folder(problem).join("task.yaml").is_file();
        let new: Vec<&Problem> = problems.iter().filter(is_new).collect();
        if new.is_empty() {
            return Ok(IndexMap::new());
        }
        // Prints what goes wrong, and no list.
        let mut report = Report::new(Format::Json);
        import_problems(new, &self.arguments.problems, &mut report)?;
        Ok(report.errors())
    }

    /// What is known about the kernel of a problem; judges it unless that was done.
    fn judge(&self, problem: &Problem) -> Result<Judged, Stop> {
        if self.arguments.steps.is_some()
            && let Some(reason) = self.search(problem)?
        {
            return Ok(Judged::without_kernel(reason));
        }
        let Some((path, text)) = self.kernel(problem)? else {
            return Ok(Judged::without_kernel("there is no kernel".to_owned()));
        };
        let number = problem.number.unwrap_or_default();
        let file = format!("level_{}_problem_{number}_sample_0.json", self.level);
        let file = self.output.join("samples").join(file);
        let blank = Judged {
            kernel: Some(path.display().to_string()),
            source: Some(Digest::of(&text)),
            backend: self.arguments.backend.clone(),
            precision: self.arguments.problems.precision.clone(),
            baseline: self.arguments.baseline.clone(),
            ..Judged::default()
        };
        if let Some(known) = read_known(&file).filter(|known| known.is_of(&blank)) {
            return Ok(known);
        }
        let judged = self.judge_now(problem, &path, blank)?;
        files::create_folder_durably(files::parent_folder(&file))?;
        let text = serde_json::to_string_pretty(&judged).context("failed to write a result")?;
        files::replace_durably(&file, format!("{text}\n").as_bytes())?;
        Ok(judged)
    }

    /// Searches for a kernel, or continues the search. Returns why there is none, if the search failed.
    fn search(&self, problem: &Problem) -> Result<Option<String>, Stop> {
        let folder = self.run_folder(problem).display().to_string();
        let steps = self.arguments.steps.unwrap_or_default().to_string();
        let is_begun = self.run_folder(problem).join("run.yaml").is_file();
        // A run that has made its steps has nothing to do, and ends at once.
        let start = if is_begun {
            vec!["resume", &folder]
        } else {
            vec!["evolve", &problem.name, "--output", &folder]
        };
        let limits = ["--steps", &steps];
        let device = ["--backend", self.arguments.backend.as_str()];
        let device = if is_begun { &[][..] } else { &device };
        let config = self.arguments.config.iter();
        let config = config.flat_map(|config| ["--config", config.as_str()]);
        let config: Vec<_> = config.filter(|_| !is_begun).collect();
        let ended = kforge(&[&start[..], &limits, device, &config].concat())?;
        Ok(match ended.code {
            Exit::DONE | Exit::NO_RESULT => None,
            code => Some(format!("the search ended with code {code}")),
        })
    }

    fn run_folder(&self, problem: &Problem) -> PathBuf {
        self.output.join("runs").join(&problem.name)
    }

    /// The kernel of a problem and its text.
    fn kernel(&self, problem: &Problem) -> anyhow::Result<Option<(PathBuf, String)>> {
        let own = Path::new("kernels").join(&problem.name);
        let number = problem.number.unwrap_or_default();
        let paths = match &self.arguments.kernels {
            Some(folder) => {
                let file = format!("level_{}_problem_{number}_sample_0_kernel.cu", self.level);
                vec![folder.join(file)]
            }
            None if self.arguments.steps.is_some() => {
                let run = self.run_folder(problem).join(&problem.name);
                vec![run.join("best.cu"), own.join("naive.cu")]
            }
            None => vec![own.join("best.cu"), own.join("naive.cu")],
        };
        for path in paths.into_iter().filter(|path| path.is_file()) {
            let text = files::read(&path)?;
            if !text.contains(DRAFT_MARK) {
                return Ok(Some((path, text)));
            }
        }
        Ok(None)
    }

    /// Judges a kernel, and times a correct one against PyTorch.
    fn judge_now(
        &self,
        problem: &Problem,
        kernel: &Path,
        mut judged: Judged,
    ) -> Result<Judged, Stop> {
        let kernel = kernel.display().to_string();
        let seconds = self.arguments.seconds.map(|seconds| seconds.to_string());
        let seconds = seconds.iter();
        let seconds: Vec<&str> = seconds.flat_map(|one| ["--seconds", one]).collect();
        let common = ["--backend", &self.arguments.backend, "--format", "json"];
        let eval = ["eval", problem.name.as_str(), &kernel];
        let ended = kforge(&[&eval[..], &common, &seconds].concat())?;
        let verdicts: Vec<Verdict> = serde_json::from_str(&ended.output).unwrap_or_default();
        judged.verdict = verdicts.into_iter().next().map(Box::new);
        let status = judged.verdict.as_ref().map(|verdict| verdict.status);
        if matches!(status, None | Some(Status::HarnessError)) {
            judged.error = Some(format!("`kforge eval` ended with code {}", ended.code));
        }
        // A machine that is too busy says nothing about correctness.
        if !matches!(status, Some(Status::Passed | Status::Inconclusive)) {
            return Ok(judged);
        }
        let baseline = self.arguments.baseline.as_str();
        let baselines = ["baselines", problem.name.as_str(), &kernel, "--print-only"];
        let only = ["--only", baseline];
        let ended = kforge(&[&baselines[..], &only, &common, &seconds].concat())?;
        judged.table = serde_json::from_str::<BaselineTable>(&ended.output).ok();
        if judged.table.is_none() {
            judged.error = Some(format!("`kforge baselines` ended with code {}", ended.code));
        }
        Ok(judged)
    }
}

fn task_folder(problem: &Problem) -> PathBuf {
    Path::new("tasks").join(&problem.name)
}

/// A result of an earlier command; one that cannot be read is judged again.
fn read_known(file: &Path) -> Option<Judged> {
    serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()
}

/// How another kforge process has ended.
struct Ended {
    code: i32,
    output: String,
}

/// Runs another kforge process. Its progress and errors go to this one's standard error.
///
/// # Errors
/// [`Stop`] if it was interrupted, or if every other one would fail in the same way.
fn kforge(arguments: &[&str]) -> Result<Ended, Stop> {
    let program = std::env::current_exe().context("failed to find kforge's own program file")?;
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn();
    let child = child.context("failed to start another kforge process")?;
    let output = child.wait_with_output();
    let output = output.context("failed to read the results of another kforge process")?;
    let command = format!("kforge {}", arguments.join(" "));
    match output.status.code() {
        Some(Exit::INTERRUPTED) => Err(Stop::Exit(Exit::Interrupted)),
        Some(Exit::WAITING) => Err(Stop::Exit(Exit::Waiting)),
        Some(Exit::STOPPED) => Err(Stop::Exit(Exit::Stopped)),
        Some(Exit::ENVIRONMENT) => Err(Stop::Error(
            Failure::environment(format!("`{command}` cannot work here"))
                .hint("its error is above; repeat this command to continue")
                .into(),
        )),
        code => Ok(Ended {
            // Without a code it was killed.
            code: code.unwrap_or(-1),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
        }),
    }
}
