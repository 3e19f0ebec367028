//! What Python says about a function: its inputs, outputs, hidden shapes, regimes, and a naive kernel.
//!
//! The scripts `torch_function.py` and `gpu_mode.py` print it.

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::python_script::{Answer, PythonLimit, PythonScript, module_is_missing};
use crate::base::Failure;
use crate::device::find_python;
use crate::task::{
    AxisSpec, DType, ForeignInput, ForeignOutput, TensorSpec, Tolerance, usual_tolerance,
};

/// The answer of a script.
#[derive(Deserialize)]
pub(super) struct DescribedFunction {
    error: Option<String>,
    missing_module: Option<String>,
    #[serde(default)]
    inputs: Vec<DescribedTensor>,
    /// For each input its name, if it is passed by it.
    #[serde(default)]
    pub(super) by_name: Vec<Option<String>>,
    #[serde(default)]
    outputs: Vec<DescribedTensor>,
    /// Expressions of axes that only outputs have.
    #[serde(default)]
    axes: IndexMap<String, String>,
    /// Axes that the script has found.
    #[serde(default)]
    given_axes: IndexMap<String, GivenAxis>,
    #[serde(default)]
    pub(super) hidden: Map<String, Value>,
    #[serde(default)]
    pub(super) regimes: Map<String, Value>,
    /// Whether it computes in double precision.
    #[serde(default)]
    pub(super) is_exact: bool,
    pub(super) kernel: Option<String>,
    #[serde(default)]
    pub(super) notes: Vec<String>,
    /// Tolerances of the function's own test, and the root mean squares of its outputs.
    rtol: Option<f64>,
    atol: Option<f64>,
    #[serde(default)]
    scales: Vec<f64>,
    /// Texts for an oracle, by the words that they replace.
    #[serde(default)]
    pub(super) texts: IndexMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum GivenAxis {
    Sizes(Vec<i64>),
    Expression(String),
}

#[derive(Deserialize)]
struct DescribedTensor {
    name: String,
    dtype: String,
    shape: Option<Vec<String>>,
    value: Option<f64>,
    distribution: Option<Value>,
}

impl DescribedTensor {
    fn spec(&self) -> TensorSpec {
        TensorSpec {
            dtype: self.dtype.clone(),
            shape: self.shape.clone(),
            value: self.value,
        }
    }
}

impl DescribedFunction {
    /// Runs a script with a request. `user` needs Python, and `place` is the code, both for messages.
    ///
    /// # Errors
    /// If there is no Python or no PyTorch, the function cannot be a task, or it does not end within the limit.
    pub(super) fn ask(
        script: &str,
        request: &Value,
        (user, place): (&str, &str),
        limit: PythonLimit,
    ) -> anyhow::Result<Self> {
        let python = find_python(user)?;
        let mut running = PythonScript::start(&python, script, [request.to_string()], limit)?;
        let answer = match running.next()? {
            Answer::TimedOut => return Err(limit.exceeded(&place).into()),
            Answer::Line(line) => serde_json::from_str(&line).ok(),
            Answer::Ended => None,
        };
        let described: Self = answer.ok_or_else(|| {
            let last = running.last_words();
            let last = if last.is_empty() {
                last
            } else {
                format!(": {last}")
            };
            Failure::usage(format!("{place}: Python ended without an answer{last}"))
                .hint("call it with Python yourself: it ends Python, crashes, or needs more memory")
        })?;
        match (described.missing_module.as_deref(), &described.error) {
            (Some("torch"), _) => Err(Failure::environment(format!(
                "`{}` has no PyTorch, which {user} needs",
                python.display()
            ))
            .hint(format!(
                "install it with `{} -m pip install torch`, or set `KFORGE_PYTHON` to an interpreter that has it",
                python.display()
            ))
            .into()),
            (Some(module), _) => Err(module_is_missing(place, module, &python).into()),
            (None, Some(error)) => Err(Failure::usage(format!("{place}: {error}")).into()),
            (None, None) => Ok(described),
        }
    }

    pub(super) fn foreign_inputs(&self) -> Vec<ForeignInput> {
        let inputs = self.inputs.iter().map(|input| ForeignInput {
            name: input.name.clone(),
            tensor: input.spec(),
            distribution: input.distribution.clone(),
        });
        inputs.collect()
    }

    /// The outputs. Tolerances: those given, else those of the function's own test, else the usual ones.
    pub(super) fn foreign_outputs(
        &self,
        rtol: Option<f64>,
        atol_rms: Option<f64>,
    ) -> Result<Vec<ForeignOutput>, Failure> {
        let mut outputs = Vec::new();
        for (index, output) in self.outputs.iter().enumerate() {
            let usual = DType::named(&output.dtype).map(usual_tolerance);
            let usual = usual.map_err(|hint| {
                let dtype = &output.dtype;
                Failure::usage(format!(
                    "the output `{}` is {dtype}, which kforge does not know",
                    output.name
                ))
                .hint(hint)
            })?;
            let factor = if self.is_exact { 1.0 } else { 2.0 };
            let scale = self.scales.get(index).filter(|scale| **scale > 0.0);
            let own = self
                .atol
                .zip(scale)
                .map(|(atol, scale)| rounded(atol / scale));
            outputs.push(ForeignOutput {
                name: output.name.clone(),
                tensor: output.spec(),
                tolerance: Tolerance {
                    rtol: rtol.or(self.rtol).unwrap_or(factor * usual.rtol),
                    atol_rms: atol_rms.or(own).unwrap_or(factor * usual.atol_rms),
                },
            });
        }
        Ok(outputs)
    }

    /// The axes that the script has added.
    pub(super) fn new_axes(&self) -> IndexMap<String, AxisSpec> {
        let given = self.given_axes.iter().map(|(name, axis)| {
            let spec = match axis {
                GivenAxis::Sizes(sizes) => AxisSpec::Variable(sizes.clone()),
                GivenAxis::Expression(text) => AxisSpec::Expression(text.clone()),
            };
            (name.clone(), spec)
        });
        let of_outputs = self.axes.iter();
        let of_outputs =
            of_outputs.map(|(name, text)| (name.clone(), AxisSpec::Expression(text.clone())));
        given.chain(of_outputs).collect()
    }

    /// What a person should know: what the function gives, and the script's notes.
    pub(super) fn all_notes(&self) -> Vec<String> {
        let shape = |tensor: &DescribedTensor| {
            let axes = tensor.shape.as_ref().map(|axes| axes.join(", "));
            let axes = axes.unwrap_or_default();
            format!("{} {}[{axes}]", tensor.name, tensor.dtype)
        };
        let outputs: Vec<_> = self.outputs.iter().map(shape).collect();
        let mut notes = vec![format!("gives {}", outputs.join(", "))];
        notes.extend(self.notes.clone());
        notes
    }
}

/// The number with two digits.
fn rounded(value: f64) -> f64 {
    format!("{value:.1e}").parse().unwrap_or(value)
}
