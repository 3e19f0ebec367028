//! `kforge prompt`: prints the prompt that a model would be sent.
//!
//! Uses `propose::prompt` as a run does. Sends nothing and needs no key.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::json;

use super::contenders::times_to_beat;
use super::exit::{self, Exit};
use super::output::{Format, print, print_json, print_json_lines};
use crate::base::{Failure, files, yaml};
use crate::config::{self, BackendChoice, Config};
use crate::device::DeviceFacts;
use crate::event::Operator;
use crate::propose::prompt::{
    Feedback, KernelLabel, Prompt, PromptInput, ShownKernel, Templates, TimesToBeat,
    estimate_tokens, render,
};
use crate::report;
use crate::task::{Task, TaskFiles};
use crate::verdict::{DeviceIdentity, Verdict};

/// Arguments of `kforge prompt`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct PromptArgs {
    /// Name or folder of the task.
    task: String,
    /// Run config that decides the backend and the profile.
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
    /// What the model is asked to do.
    #[arg(long, value_enum, default_value_t)]
    operator: RequestedOperator,
    /// Kernel to work on. Repeatable. Default: as many of the task's starting kernels as the operator needs.
    #[arg(long = "kernel", value_name = "FILE")]
    kernels: Vec<PathBuf>,
    /// Another kernel to show, the most important first. Repeatable.
    #[arg(long, value_name = "FILE")]
    context: Vec<PathBuf>,
    /// Verdicts of these kernels from `kforge eval --format json`, to show as feedback.
    #[arg(long, value_name = "FILE")]
    verdicts: Option<PathBuf>,
    /// Strategy card to include; `list` prints all.
    #[arg(long, value_name = "NAME")]
    card: Option<String>,
    /// Folder whose templates replace built-in ones of the same name.
    #[arg(long, value_name = "DIR")]
    prompts: Option<PathBuf>,
    /// Device to write for. Default: what the config's `backend` selects on this machine.
    #[arg(long, value_name = "NAME", value_parser = ["auto", "cpu", "cuda", "metal"])]
    backend: Option<String>,
    /// Architecture to write for, if it is not this machine's, e.g. `sm_90`.
    #[arg(long, value_name = "NAME")]
    arch: Option<String>,
    /// Maximum tokens of the prompt, estimated.
    #[arg(long, value_name = "TOKENS", default_value_t = 100_000)]
    tokens: u64,
    /// Maximum number of edits in a reply.
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    edits: usize,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const NOTE: &str = "\
The prompt goes to standard output, a table of its parts to standard error.
Tokens are an estimate: bytes / 3.5.";

fn help() -> String {
    exit::help(
        NOTE,
        &[
            (
                "kforge prompt gdn_decode --arch sm_90 > prompt.md",
                "the first request of a run",
            ),
            (
                "kforge prompt softmax --operator edit --kernel mine.cu --verdicts v.json",
                "an edit of your kernel, with feedback",
            ),
            ("kforge prompt softmax --card list", "all strategy cards"),
        ],
        exit::READ_CODES,
    )
}

/// The operators that ask a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum RequestedOperator {
    #[default]
    Propose,
    Edit,
    Crossover,
    Repair,
}

impl RequestedOperator {
    fn operator(self) -> Operator {
        match self {
            RequestedOperator::Propose => Operator::Propose,
            RequestedOperator::Edit => Operator::Edit,
            RequestedOperator::Crossover => Operator::Crossover,
            RequestedOperator::Repair => Operator::Repair,
        }
    }

    /// How many starting kernels to use where no kernel is named.
    fn parent_count(self) -> usize {
        match self {
            RequestedOperator::Propose => 0,
            RequestedOperator::Edit | RequestedOperator::Repair => 1,
            RequestedOperator::Crossover => 2,
        }
    }
}

/// A kernel file, with feedback if there is a verdict of it.
struct PromptKernel {
    name: String,
    source: String,
    feedback: Option<Feedback>,
}

pub(super) fn run(arguments: PromptArgs) -> anyhow::Result<Exit> {
    let templates = match &arguments.prompts {
        Some(folder) => Templates::with_folder(folder)?,
        None => Templates::embedded()?,
    };
    let task = TaskFiles::find(&arguments.task)?.load()?;
    let mut config = match &arguments.config {
        Some(file) => {
            let (text, origin) = config::find_config(file)?;
            yaml::read(&text, &origin)?
        }
        None => Config::default(),
    };
    let PromptTarget {
        backend,
        device,
        profile,
        to_beat,
    } = resolve_target(&arguments, &mut config)?;
    if arguments.card.as_deref() == Some("list") {
        return print_cards(&templates, (&backend, &task), arguments.format);
    }
    let reader = KernelReader {
        verdicts: read_verdicts(&arguments, &task)?,
        task: &task,
    };
    let parents = reader.parents(&arguments)?;
    let context = reader.read_all(&arguments.context)?;
    let parents_shown = as_shown(&parents, 1, KernelLabel::Parent);
    let context_shown = as_shown(&context, parents.len() as u64 + 1, KernelLabel::Elite);
    let baselines = task.settings.baselines.keys();
    let request = PromptInput {
        operator: arguments.operator.operator(),
        task: &task,
        profile: &profile,
        backend: &backend,
        device: &device,
        baseline: baselines.map(String::as_str).next().unwrap_or_default(),
        parents: &parents_shown,
        context: &context_shown,
        history: &[],
        card: arguments.card.as_deref(),
        to_beat: to_beat.as_ref(),
        lessons: None,
        max_edits: arguments.edits,
        budget_tokens: arguments.tokens,
        missed: None,
    };
    let prompt = render(&request, &templates)?;
    let facts = || {
        json!({
            "version": prompt.version,
            "tokens": prompt.estimated_tokens(),
            "bytes": prompt.bytes(),
            "system": prompt.system,
            "sections": prompt.sections,
            "left_out": prompt.left_out,
        })
    };
    match arguments.format {
        Format::Human => {
            print(&prompt.document())?;
            print_token_table(&prompt, parents.iter().chain(&context));
        }
        Format::Json => print_json(&facts())?,
        Format::Jsonl => print_json_lines([facts()])?,
    }
    Ok(Exit::Done)
}

/// The strategy cards of a backend that a task has a use for.
fn print_cards(
    templates: &Templates,
    (backend, task): (&str, &Task),
    format: Format,
) -> anyhow::Result<Exit> {
    let cards = templates.cards_for(backend, task);
    let facts = cards.map(|card| json!({"name": card.name, "when": card.when}));
    match format {
        Format::Human => {
            let lines = templates.cards_for(backend, task).map(|card| {
                let line = format!("{:<18} {}", card.name, card.when);
                report::wrap_after_first(&line, report::TERMINAL_WIDTH, 19)
            });
            print(&lines.collect::<String>())?;
        }
        Format::Json => print_json(&facts.collect::<Vec<_>>())?,
        Format::Jsonl => print_json_lines(facts)?,
    }
    Ok(Exit::Done)
}

/// Reads kernel files and looks up their verdicts.
struct KernelReader<'a> {
    verdicts: Vec<Verdict>,
    task: &'a Task,
}

impl KernelReader<'_> {
    fn feedback(&self, name: &str) -> Option<Feedback> {
        let mut verdicts = self.verdicts.iter();
        let verdict = verdicts.find(|verdict| verdict.kernel == name)?;
        Feedback::from_verdict(verdict, self.task)
    }

    fn read_all(&self, paths: &[PathBuf]) -> anyhow::Result<Vec<PromptKernel>> {
        let kernels = paths.iter().map(|path| {
            let name = path.display().to_string();
            Ok(PromptKernel {
                source: files::read(path)?,
                feedback: self.feedback(&name),
                name,
            })
        });
        kernels.collect()
    }

    /// The named kernels, else as many starting kernels as the operator needs.
    fn parents(&self, arguments: &PromptArgs) -> anyhow::Result<Vec<PromptKernel>> {
        let needed = arguments.operator.parent_count();
        let mut parents = self.read_all(&arguments.kernels)?;
        if parents.is_empty() {
            let starts = self.task.starting_kernels().take(needed);
            parents.extend(starts.map(|(name, source)| PromptKernel {
                name: name.to_owned(),
                source: source.to_owned(),
                feedback: self.feedback(name),
            }));
        }
        if parents.len() < needed {
            return Err(Failure::usage(format!(
                "this operator works on {needed} kernels, and {} are named",
                parents.len()
            ))
            .hint("name kernels: `--kernel FILE --kernel FILE`")
            .into());
        }
        Ok(parents)
    }
}

/// The kernels as a prompt shows them, with step numbers from `first`.
fn as_shown(files: &[PromptKernel], first: u64, label: KernelLabel) -> Vec<ShownKernel<'_>> {
    let numbered = files.iter().zip(first..);
    numbered
        .map(|(file, step)| ShownKernel {
            step,
            operator: Operator::Start,
            source: &file.source,
            feedback: file.feedback.as_ref(),
            label,
        })
        .collect()
}

/// What a prompt is for.
struct PromptTarget {
    backend: String,
    device: DeviceFacts,
    profile: String,
    /// `None` if the device is not in this machine, or no faster baseline is known.
    to_beat: Option<TimesToBeat>,
}

fn resolve_target(arguments: &PromptArgs, config: &mut Config) -> anyhow::Result<PromptTarget> {
    let profile = |config: &Config, backend: &str| match (config.profile.0.as_str(), backend) {
        ("auto", "cpu") => "quick".to_owned(),
        ("auto", _) => "full".to_owned(),
        (named, _) => named.to_owned(),
    };
    let of_arch = |arch: &str| {
        DeviceFacts::for_device(&DeviceIdentity {
            arch: arch.to_owned(),
            ..DeviceIdentity::default()
        })
    };
    let elsewhere = |backend: &str, device: DeviceFacts, config: &Config| PromptTarget {
        backend: backend.to_owned(),
        device,
        profile: profile(config, backend),
        to_beat: None,
    };
    match (arguments.backend.as_deref(), arguments.arch.as_deref()) {
        (Some("metal"), arch) => {
            let facts = of_arch(arch.unwrap_or_default());
            return Ok(elsewhere("metal", facts, config));
        }
        // The GPU is not in this machine: only the vendor's figures are known. `sm_90a` names instructions of an `sm_90`, not another GPU.
        (None | Some("auto" | "cuda"), Some(arch)) => {
            let arch = arch.trim_end_matches(['a', 'f']);
            return Ok(elsewhere("cuda", of_arch(arch), config));
        }
        (Some("cpu"), _) => config.backend = BackendChoice::Cpu,
        (Some("cuda"), _) => config.backend = BackendChoice::Cuda,
        _ => {}
    }
    // The named task replaces the config's tasks.
    config.tasks = vec![arguments.task.clone()];
    let resolved = config::resolve(config, "prompt", "")?;
    let identity = match resolved.gpus.first() {
        Some(card) => card.clone(),
        None => DeviceIdentity {
            name: "a CPU".to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            cores: (std::thread::available_parallelism().ok())
                .and_then(|cores| u32::try_from(cores.get()).ok()),
            ..DeviceIdentity::default()
        },
    };
    let task = resolved.tasks.first();
    Ok(PromptTarget {
        to_beat: task.and_then(|(files, task)| times_to_beat(&resolved, files, task)),
        backend: resolved.backend,
        device: DeviceFacts::for_device(&identity),
        profile: resolved.profile,
    })
}

/// The verdicts of `--verdicts`; none where the flag is not given.
fn read_verdicts(arguments: &PromptArgs, task: &Task) -> anyhow::Result<Vec<Verdict>> {
    let Some(path) = &arguments.verdicts else {
        return Ok(Vec::new());
    };
    let text = files::read(path)?;
    let verdicts: Vec<Verdict> = serde_json::from_str(&text)
        .or_else(|_| serde_json::from_str(&text).map(|verdict| vec![verdict]))
        .map_err(|error| {
            Failure::usage(format!("`{}`: {error}", path.display()))
                .hint("verdicts are what `kforge eval --format json` prints")
        })?;
    let other = verdicts.iter().find(|verdict| verdict.task != task.name);
    if let Some(other) = other {
        return Err(Failure::usage(format!(
            "`{}`: a verdict of task `{}`, expected `{}`",
            path.display(),
            other.task,
            task.name
        ))
        .into());
    }
    Ok(verdicts)
}

/// Prints the tokens of each part on standard error.
fn print_token_table<'f>(prompt: &Prompt, files: impl Iterator<Item = &'f PromptKernel>) {
    if report::is_quiet() {
        return;
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    for (file, step) in files.zip(1..) {
        let judged = match file.feedback {
            Some(_) => "",
            None => " (not judged)",
        };
        let _ = writeln!(text, "step {step} is {}{judged}", file.name);
    }
    let _ = writeln!(text, "{:<12} {:>8}", "part", "tokens");
    let _ = writeln!(
        text,
        "{:<12} {:>8}",
        "system",
        estimate_tokens(&prompt.system)
    );
    for section in &prompt.sections {
        let stable = if section.stable { "" } else { "  changes" };
        let _ = writeln!(text, "{:<12} {:>8}{stable}", section.name, section.tokens);
    }
    let _ = writeln!(
        text,
        "{:<12} {:>8}  estimated from {} bytes; templates {}",
        "all",
        prompt.estimated_tokens(),
        prompt.bytes(),
        prompt.version
    );
    for left in &prompt.left_out {
        let _ = writeln!(text, "left out: {left}");
    }
    report::print_to_stderr(text);
}
