//! Tasks from T1 files, the input format of Kernel Tuner: a kernel, its configuration space, and its arguments.
//!
//! `space` reads tunables and conditions, `arguments` the arguments, `kernel` writes kernel files. Reads and writes no file.

mod arguments;
mod kernel;
mod python_list;
mod results;
mod space;

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::foreign::{ForeignOracle, ForeignOutput, ForeignTask};
use super::settings::Tolerance;
use super::{DType, usual_tolerance};
use crate::base::Failure;
use arguments::{Argument, Role};
use kernel::KernelText;
use python_list::plain;
pub(crate) use results::fastest_configuration;
use space::Space;

/// The parts of a T1 file that say what is computed and tuned. Others, such as the search, are kforge's own affair.
#[derive(Deserialize)]
struct T1 {
    #[serde(rename = "ConfigurationSpace")]
    space: space::ConfigurationSpace,
    #[serde(rename = "KernelSpecification")]
    kernel: KernelSpecification,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KernelSpecification {
    language: String,
    kernel_name: String,
    kernel_file: String,
    #[serde(default)]
    problem_size: Option<Value>,
    #[serde(default)]
    global_size_type: Option<String>,
    #[serde(default)]
    global_size: Option<Sizes>,
    #[serde(default)]
    local_size: Option<Sizes>,
    #[serde(default)]
    grid_div_x: Option<Vec<Value>>,
    #[serde(default)]
    grid_div_y: Option<Vec<Value>>,
    #[serde(default)]
    grid_div_z: Option<Vec<Value>>,
    #[serde(default)]
    shared_memory: Option<Value>,
    #[serde(default)]
    arguments: Vec<arguments::T1Argument>,
}

/// Sizes of a launch, as Python expressions.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Sizes {
    x: Value,
    #[serde(default)]
    y: Option<Value>,
    #[serde(default)]
    z: Option<Value>,
}

/// A T1 file that was read.
pub(crate) struct TuningProblem {
    /// For messages.
    origin: String,
    kernel: KernelSpecification,
    space: Space,
}

/// What else the user gives for a task.
pub(crate) struct TuningTask<'t> {
    pub(crate) name: &'t str,
    /// The text of the kernel's file.
    pub(crate) source: &'t str,
    /// The text of an oracle in Python. Without it the kernel in its first configuration is the oracle.
    pub(crate) oracle: Option<String>,
    /// Values to begin with, by the names of the T1 file.
    pub(crate) first: Option<Map<String, Value>>,
}

impl TuningProblem {
    /// Reads a T1 file.
    ///
    /// # Errors
    /// If it is not one, or has what kforge cannot tune.
    pub(crate) fn parse(text: &str, origin: &str) -> Result<Self, Failure> {
        let t1: T1 = serde_json::from_str(text).map_err(|error| {
            Failure::usage(format!("{origin}: {error}"))
                .hint("a T1 file has `ConfigurationSpace` and `KernelSpecification`")
        })?;
        if t1.kernel.language != "CUDA" {
            return Err(Failure::usage(format!(
                "{origin}: `Language` is `{}`, and kforge knows CUDA",
                t1.kernel.language
            )));
        }
        Ok(Self {
            space: Space::read(&t1.space, origin)?,
            origin: origin.to_owned(),
            kernel: t1.kernel,
        })
    }

    /// The name of the kernel's function.
    pub(crate) fn kernel_name(&self) -> &str {
        &self.kernel.kernel_name
    }

    /// The path of the kernel's file, as the T1 file has it.
    pub(crate) fn kernel_file(&self) -> &str {
        &self.kernel.kernel_file
    }

    /// How many tunables and conditions there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.space.tunables.len(), self.space.conditions.len())
    }

    /// The task of the problem.
    ///
    /// # Errors
    /// If a part of the problem cannot be expressed.
    pub(crate) fn task(&self, wanted: TuningTask<'_>) -> Result<ForeignTask, Failure> {
        self.check_shared_memory(wanted.source)?;
        let arguments = self.arguments()?;
        let mut space = self.space.clone();
        space.put_first(wanted.first.as_ref(), &self.origin)?;
        let text = KernelText {
            origin: &self.origin,
            name: self.kernel_name(),
            source: wanted.source,
            space: &space,
            arguments: &arguments,
            block: self.block(),
            grid: self.grid()?,
        };
        let has_own_oracle = wanted.oracle.is_some();
        let oracle = match wanted.oracle {
            Some(text) => ForeignOracle::Python(text),
            None => ForeignOracle::Kernel(text.oracle()?),
        };
        // An oracle that computes in a narrow type rounds as the kernels do. For wide types the usual tolerance is many roundings, and twice that
        // would let inputs pass that were rounded to a narrow type.
        let factor = |dtype: DType| match dtype {
            DType::Float64 | DType::Float32 => 1.0,
            _ if has_own_oracle => 1.0,
            _ => 2.0,
        };
        let outputs = arguments.iter().filter_map(|argument| {
            let name = argument.output_name()?;
            let usual = usual_tolerance(argument.dtype);
            let factor = factor(argument.dtype);
            Some(ForeignOutput {
                name,
                tensor: argument.tensor(),
                tolerance: Tolerance {
                    rtol: factor * usual.rtol,
                    atol_rms: factor * usual.atol_rms,
                },
            })
        });
        let pairs = arguments
            .iter()
            .filter(|argument| argument.role == Role::InPlace);
        Ok(ForeignTask {
            name: wanted.name.to_owned(),
            origin: format!("The kernel `{}` of {}.", self.kernel_name(), self.origin),
            inputs: arguments.iter().filter_map(Argument::input).collect(),
            outputs: outputs.collect(),
            axes: IndexMap::new(),
            hidden: Map::new(),
            regimes: regimes(&arguments),
            in_place: pairs
                .filter_map(|argument| Some((argument.output_name()?, argument.name.clone())))
                .collect(),
            kernel: Some(text.kernel()?),
            oracle,
            reference: None,
            baselines: None,
        })
    }

    /// Refuses dynamic shared memory. Files also have the size of arrays whose length the kernel says itself, which needs nothing.
    fn check_shared_memory(&self, source: &str) -> Result<(), Failure> {
        let bytes = self.kernel.shared_memory.as_ref();
        let has_bytes = bytes.is_some_and(|bytes| !bytes.is_null() && bytes != &Value::from(0));
        let words: Vec<&str> = source.split_whitespace().collect();
        let is_dynamic = words
            .windows(2)
            .any(|pair| pair == ["extern", "__shared__"]);
        if !has_bytes || !is_dynamic {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "{}: `SharedMemory` is not 0: kforge cannot know how a kernel uses dynamic shared memory",
            self.origin
        ))
        .hint("set it to 0, import, and add `shared` to the launch in the header of `naive.cu`"))
    }

    fn arguments(&self) -> Result<Vec<Argument>, Failure> {
        let sizes = self.problem_sizes()?;
        let arguments: Result<Vec<_>, _> = (self.kernel.arguments.iter().enumerate())
            .map(|(index, argument)| {
                let place = format!("{}: KernelSpecification.Arguments[{index}]", self.origin);
                Argument::read(argument, index, &sizes, &self.space)
                    .map_err(|message| Failure::usage(format!("{place}: {message}")))
            })
            .collect();
        let arguments = arguments?;
        if !arguments
            .iter()
            .any(|argument| argument.output_name().is_some())
        {
            return Err(Failure::usage(format!(
                "{}: no argument is written: kforge has nothing to compare",
                self.origin
            ))
            .hint("set the `AccessType` of the outputs to `WriteOnly` or `ReadWrite`"));
        }
        Ok(arguments)
    }

    /// `ProblemSize`: a number or a list of them.
    fn problem_sizes(&self) -> Result<Vec<i64>, Failure> {
        let wrong = || {
            Failure::usage(format!(
                "{}: `ProblemSize` is not a list of whole numbers",
                self.origin
            ))
        };
        match &self.kernel.problem_size {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(sizes)) => sizes
                .iter()
                .map(|size| size.as_i64().ok_or_else(wrong))
                .collect(),
            Some(size) => Ok(vec![size.as_i64().ok_or_else(wrong)?]),
        }
    }

    /// The sizes of a block, as Python expressions: `LocalSize`, or the tunables that Kernel Tuner takes by their names.
    fn block(&self) -> Vec<String> {
        if let Some(sizes) = &self.kernel.local_size {
            return sizes.texts();
        }
        let size = |axis: &str| {
            let name = format!("block_size_{axis}");
            if self.space.has(&name) {
                name
            } else {
                "1".to_owned()
            }
        };
        ["x", "y", "z"].map(size).to_vec()
    }

    /// The numbers of blocks, as expressions of kforge over the names of the T1 file.
    fn grid(&self) -> Result<Vec<String>, Failure> {
        let problem = self.problem_sizes()?;
        if !problem.is_empty() {
            let kernel = &self.kernel;
            let divisors = [&kernel.grid_div_x, &kernel.grid_div_y, &kernel.grid_div_z];
            let blocks = problem.iter().zip(divisors).enumerate();
            return Ok(blocks
                .map(|(axis, (size, divisors))| self.blocks(axis, *size, divisors.as_deref()))
                .collect());
        }
        let Some(sizes) = &self.kernel.global_size else {
            return Err(Failure::usage(format!(
                "{}: neither `ProblemSize` nor `GlobalSize` says how many blocks there are",
                self.origin
            )));
        };
        let counts = sizes.texts();
        let is_in_blocks = self.kernel.global_size_type.as_deref() == Some("CUDA");
        if is_in_blocks {
            return Ok(counts);
        }
        let pairs = counts.iter().zip(self.block());
        Ok(pairs
            .map(|(threads, block)| format!("ceil_div({threads}, {block})"))
            .collect())
    }

    /// The blocks along an axis of the problem, as Kernel Tuner computes them.
    fn blocks(&self, axis: usize, size: i64, divisors: Option<&[Value]>) -> String {
        let texts: Vec<String> = divisors.unwrap_or_default().iter().map(plain).collect();
        let usual = format!("block_size_{}", ["x", "y", "z"][axis]);
        let texts = match texts.is_empty() {
            true if self.space.has(&usual) => vec![usual],
            _ => texts,
        };
        if texts.is_empty() {
            return size.to_string();
        }
        let texts: Vec<_> = texts
            .iter()
            .map(|text| {
                if text.contains(' ') {
                    format!("({text})")
                } else {
                    text.clone()
                }
            })
            .collect();
        format!("ceil_div({size}, {})", texts.join(" * "))
    }
}

impl Sizes {
    fn texts(&self) -> Vec<String> {
        let one = Value::from(1);
        let sizes = [
            &self.x,
            self.y.as_ref().unwrap_or(&one),
            self.z.as_ref().unwrap_or(&one),
        ];
        sizes.map(plain).to_vec()
    }
}

/// Other values of the inputs, for checks: those that `task.yaml` has for random ones by default do not reach constants.
fn regimes(arguments: &[Argument]) -> Map<String, Value> {
    let mut regimes = Map::new();
    for (name, change) in arguments::REGIMES {
        let inputs: Map<String, Value> = (arguments.iter())
            .filter_map(|argument| Some((argument.name.clone(), argument.changed(change)?)))
            .collect();
        if !inputs.is_empty() {
            regimes.insert(name.to_owned(), Value::Object(inputs));
        }
    }
    regimes
}
