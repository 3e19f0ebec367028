//! A task from what another tool's problem or kernel, or a function, takes and gives.
//!
//! Writes texts and no files. Knows no format: `cli` asks Python what a problem is, and `kernel_tuner` reads T1 files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::definition::Definition;
use super::draft::{AxisSpec, FileNames, Signature, TensorSpec, guess};
use super::files::TaskFiles;
use super::settings::Tolerance;
use super::stored_tensor::NamedTensors;
use crate::base::Failure;

/// A problem of another tool.
pub(crate) struct ForeignTask {
    pub(crate) name: String,
    /// Where it is from, in one line.
    pub(crate) origin: String,
    pub(crate) inputs: Vec<ForeignInput>,
    pub(crate) outputs: Vec<ForeignOutput>,
    /// The axes that vary or are computed. All others are numbers in the shapes.
    pub(crate) axes: IndexMap<String, AxisSpec>,
    /// Ranges of the sizes of hidden shapes, as `task.yaml` has them.
    pub(crate) hidden: Map<String, Value>,
    /// Other values of inputs, by the name of the regime, as `task.yaml` has them.
    pub(crate) regimes: Map<String, Value>,
    /// Outputs that overwrite an input, and that input.
    pub(crate) in_place: IndexMap<String, String>,
    /// The text of `naive.cu`; `None`: it is a draft.
    pub(crate) kernel: Option<String>,
    pub(crate) oracle: ForeignOracle,
    /// The reference as prompts show it. `None`: the text of an oracle in Python.
    pub(crate) reference: Option<String>,
    /// The text of `baselines.py`.
    pub(crate) baselines: Option<String>,
}

/// The text of an oracle.
pub(crate) enum ForeignOracle {
    Python(String),
    Kernel(String),
}

impl ForeignOracle {
    /// The name of its file, and its text.
    fn file(&self) -> (&'static str, &str) {
        match self {
            Self::Python(text) => ("oracle.py", text),
            Self::Kernel(text) => ("oracle.cu", text),
        }
    }
}

/// The files of a task, by name.
pub(crate) struct ForeignFiles {
    /// Those of `tasks/NAME`.
    pub(crate) task: Vec<(String, String)>,
    /// Those of `kernels/NAME`.
    pub(crate) kernels: Vec<(String, String)>,
}

impl ForeignFiles {
    /// How many workloads the task has.
    pub(crate) fn workloads(&self) -> usize {
        let is_workloads = |file: &&(String, String)| file.0 == "workloads.jsonl";
        let file = self.task.iter().find(is_workloads);
        file.map_or(0, |(_, text)| text.lines().count())
    }
}

/// An input, and how to draw it. A scalar has its value in `tensor`.
pub(crate) struct ForeignInput {
    pub(crate) name: String,
    pub(crate) tensor: TensorSpec,
    /// As `task.yaml` has it.
    pub(crate) distribution: Option<Value>,
}

/// An output, and how exact a kernel must be.
pub(crate) struct ForeignOutput {
    pub(crate) name: String,
    pub(crate) tensor: TensorSpec,
    pub(crate) tolerance: Tolerance,
}

impl ForeignTask {
    /// The files of the task.
    ///
    /// # Errors
    /// If the task would not be valid.
    pub(crate) fn files(&self) -> Result<ForeignFiles, Failure> {
        let inputs = self.inputs.iter();
        let signature = Signature {
            inputs: inputs
                .map(|input| (input.name.clone(), input.tensor.clone()))
                .collect(),
            outputs: (self.outputs.iter())
                .map(|output| (output.name.clone(), output.tensor.clone()))
                .collect(),
            axes: self.axes.clone(),
            reference: match (&self.reference, &self.oracle) {
                (Some(text), _) | (None, ForeignOracle::Python(text)) => text.clone(),
                (None, ForeignOracle::Kernel(_)) => String::new(),
            },
        };
        let (oracle_name, oracle) = self.oracle.file();
        let (definition_text, choices) = signature.definition(&self.name)?;
        let definition = Definition::parse(&definition_text, "definition.json")?;
        let names = FileNames {
            definition: "definition.json",
            workloads: "workloads.jsonl",
            oracle: oracle_name,
        };
        let guesses = guess(&definition, &definition_text, &names, &choices, true);
        let files = ForeignFiles {
            task: vec![
                ("definition.json".to_owned(), definition_text + "\n"),
                ("workloads.jsonl".to_owned(), guesses.workloads),
                ("task.yaml".to_owned(), self.settings(&names)),
                (oracle_name.to_owned(), oracle.to_owned()),
            ],
            kernels: [
                Some((
                    "naive.cu".to_owned(),
                    self.kernel.clone().unwrap_or(guesses.kernel),
                )),
                (self.baselines.clone()).map(|text| ("baselines.py".to_owned(), text)),
            ]
            .into_iter()
            .flatten()
            .collect(),
        };
        self.check(&files)?;
        Ok(files)
    }

    fn settings(&self, names: &FileNames<'_>) -> String {
        let mut text = format!("# {}\n", self.origin);
        text += &names.lines();
        text += "baselines: {naive: naive.cu}\nstart: [naive.cu]\n";
        text += "# An element x passes if |x - r| <= atol_rms * rms(r) + rtol * |r|, where r is the oracle's value.\ntolerance:\n";
        for output in &self.outputs {
            let Tolerance { rtol, atol_rms } = output.tolerance;
            let name = &output.name;
            text += &format!("  {name}: {{rtol: {rtol:?}, atol_rms: {atol_rms:?}}}\n");
        }
        if self.outputs.iter().any(hides_precision) {
            text += "# Float32 outputs with this tolerance may be rounded to bfloat16, so lower precision cannot be told.\nprecision: unchecked\n";
        }
        text += "# How inputs are drawn.\ninputs:\n";
        for input in &self.inputs {
            if let Some(distribution) = &input.distribution {
                text += &format!("  {}: {distribution}\n", input.name);
            }
        }
        // Only a person knows what other values a whole number may have.
        let is_fixed = |input: &&ForeignInput| {
            let is_constant = |drawn: &Value| drawn.get("value").is_some();
            let is_float = input.tensor.dtype.contains("float");
            let is_scalar = input.tensor.shape.is_none();
            !is_float && (is_scalar || input.distribution.as_ref().is_some_and(is_constant))
        };
        let fixed: Vec<_> = self.inputs.iter().filter(is_fixed).collect();
        if !fixed.is_empty() {
            let names: Vec<_> = fixed.iter().map(|input| input.name.as_str()).collect();
            text += &format!("fixed: [{}]\n", names.join(", "));
        }
        if !self.hidden.is_empty() {
            text += "# Candidates are also checked on shapes that nobody names.\nhidden:\n";
            for (axis, range) in &self.hidden {
                text += &format!("  {axis}: {range}\n");
            }
        }
        if !self.in_place.is_empty() {
            text += "# The output may use the memory of the input.\nin_place:\n";
            for (output, input) in &self.in_place {
                text += &format!("  {output}: {input}\n");
            }
        }
        text += "# Candidates are checked on these inputs too.\n";
        text + &format!("regimes: {}\n", json!(self.regimes))
    }

    /// Reads the files back as a task.
    fn check(&self, files: &ForeignFiles) -> Result<(), Failure> {
        let map = |files: &[(String, String)]| -> BTreeMap<String, String> {
            files.iter().cloned().collect()
        };
        let task = TaskFiles {
            name: self.name.clone(),
            origin: format!("tasks/{}", self.name),
            files: map(&files.task),
            kernels: map(&files.kernels[..1]),
            tensors: NamedTensors::new(),
            baseline: None,
            baseline_tables: Vec::new(),
            place: None,
            kernels_folder: PathBuf::new(),
        };
        task.load().map(|_| ())
    }
}

/// Whether a float32 output may be rounded to bfloat16: then its tolerance cannot detect lower precision.
fn hides_precision(output: &ForeignOutput) -> bool {
    /// The largest relative error of rounding to bfloat16.
    const ROUNDING: f64 = 1.0 / 512.0;
    matches!(output.tensor.dtype.as_str(), "float32" | "float64")
        && output.tolerance.rtol >= ROUNDING
}
