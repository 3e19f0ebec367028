//! The options of this program. Everything else belongs to `cargo test`.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::sketch::Backend;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Judge `count` kernels from seed `first` on.
    Judge { first: u64, count: usize },
    /// Print one line for each of these kernels.
    List { first: u64, count: usize },
    /// Print the hostile kernel of a seed, or its twin.
    Print { seed: u64, twin: bool },
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) task: Task,
    pub(crate) backend: Backend,
    /// Programs that judge at once.
    pub(crate) programs: usize,
    /// When the program ends, whatever is under way, with a table of what it has judged. The last part is for comparisons.
    pub(crate) limit: Option<Duration>,
    /// Only kernels of this part.
    pub(crate) part: Option<String>,
    /// Further arguments of `kforge eval`, such as `--cache hot`.
    pub(crate) eval: Vec<String>,
}

/// Programs that share one GPU, each with three workers. More contexts on one GPU slow each other down.
const PROGRAMS_ON_A_GPU: usize = 2;

impl Options {
    /// `None` if no argument is an option of this program.
    pub(crate) fn parse(arguments: &[String]) -> Option<Result<Self, String>> {
        let own = ["--count", "--seed", "--print", "--list"];
        arguments
            .iter()
            .any(|argument| own.contains(&argument.as_str()))
            .then(|| Self::parse_own(arguments))
    }

    fn parse_own(arguments: &[String]) -> Result<Self, String> {
        let (mut count, mut first, mut backend) = (1, 0, Backend::Cpu);
        let (mut list, mut print, mut twin) = (false, false, false);
        let (mut programs, mut part, mut limit, mut eval) = (None, None, None, Vec::new());
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .ok_or(format!("`{argument}` needs a value"))
            };
            match argument.as_str() {
                "--count" => count = number(value()?)?,
                "--first" => first = number(value()?)?,
                "--seed" => (first, count) = (number(value()?)?, 1),
                "--print" => (first, print) = (number(value()?)?, true),
                "--list" => (count, list) = (number(value()?)?, true),
                "--programs" => programs = Some(number(value()?)?),
                "--limit" => limit = Some(Duration::from_secs(number(value()?)?)),
                "--part" => part = Some(value()?.clone()),
                "--twin" => twin = true,
                "--eval" => eval.extend(value()?.split_whitespace().map(str::to_owned)),
                "--backend" => {
                    backend = match value()?.as_str() {
                        "cpu" => Backend::Cpu,
                        "cuda" => Backend::Cuda,
                        other => return Err(format!("`{other}` is no backend: `cpu` or `cuda`")),
                    };
                }
                // Of `cargo test`.
                "--nocapture" | "--quiet" => {}
                other => return Err(format!("unknown option `{other}`")),
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let default = match backend {
            Backend::Cpu => cores,
            Backend::Cuda => PROGRAMS_ON_A_GPU,
        };
        let task = match (print, list) {
            (true, _) => Task::Print { seed: first, twin },
            (_, true) => Task::List { first, count },
            _ => Task::Judge { first, count },
        };
        Ok(Self {
            task,
            backend,
            programs: programs.unwrap_or(default).max(1),
            limit,
            part,
            eval,
        })
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}
