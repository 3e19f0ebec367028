//! Chooses the workloads, hidden ranges and distributions of a draft, from the names and constraints of a definition.
//!
//! FlashInfer-Bench definitions say little about values: offsets and indices are recognised by their names and by constraints such
//! as `len_indptr == batch_size + 1`. What is guessed is marked in task.yaml.

use indexmap::IndexMap;
use serde_json::{Value, json};

use super::signature::DraftChoices;
use crate::base::expression::Expression;
use crate::task::Binding;
use crate::task::defaults::traffic;
use crate::task::definition::{Definition, Tensor};
use crate::task::dtype::DType;
use crate::task::settings::Tolerance;

/// The most elements of all tensors of a workload.
const MAX_ELEMENTS: u64 = 1 << 24;
/// Sizes of a variable axis in the three workloads.
const SIZES: [i64; 3] = [5, 32, 128];

/// The names of a task's files, as `task.yaml` has them.
pub(crate) struct FileNames<'n> {
    pub(crate) definition: &'n str,
    pub(crate) workloads: &'n str,
    /// A file, or `reference`.
    pub(crate) oracle: &'n str,
}

impl FileNames<'_> {
    /// The lines of `task.yaml` that name them. A name may have any letters.
    pub(crate) fn lines(&self) -> String {
        let quoted = |name: &str| serde_json::to_string(name).unwrap_or_default();
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._/-".contains(letter);
        let shown = |name: &str| match name.chars().all(is_plain) {
            true => name.to_owned(),
            false => quoted(name),
        };
        format!(
            "definition: {}\nworkloads: {}\noracle: {}\n",
            shown(self.definition),
            shown(self.workloads),
            shown(self.oracle)
        )
    }
}

/// The choices for a definition.
pub(super) struct DraftInputs<'d> {
    definition: &'d Definition,
    choices: &'d DraftChoices,
    /// Variable axes that follow from others.
    derived: IndexMap<String, Expression>,
    /// Inputs that hold offsets, and the axis whose size is their total.
    offsets: IndexMap<String, String>,
}

impl<'d> DraftInputs<'d> {
    /// `text`: the definition's JSON, which may have constraints.
    pub(super) fn new(definition: &'d Definition, text: &str, choices: &'d DraftChoices) -> Self {
        let mut plan = Self {
            definition,
            choices,
            derived: IndexMap::new(),
            offsets: IndexMap::new(),
        };
        let root: Value = serde_json::from_str(text).unwrap_or_default();
        let constraints = root.get("constraints").and_then(Value::as_array);
        for constraint in constraints.into_iter().flatten().filter_map(Value::as_str) {
            plan.add_constraint(constraint);
        }
        plan
    }

    /// `AXIS == EXPRESSION of axes`, or `AXIS == OFFSETS[-1].item()`.
    fn add_constraint(&mut self, constraint: &str) {
        let Some((left, right)) = constraint.split_once("==") else {
            return;
        };
        let (axis, value) = (left.trim(), right.trim());
        if !self.definition.variables().any(|known| known == axis) {
            return;
        }
        if let Some((input, _)) = value.split_once("[-1]") {
            let tensor = self.definition.inputs.get(input.trim());
            if tensor.is_some_and(is_index_row) {
                self.offsets
                    .insert(input.trim().to_owned(), axis.to_owned());
            }
            return;
        }
        let Ok(size) = Expression::parse(value) else {
            return;
        };
        let is_usable = |name: &str| {
            name != axis
                && self.definition.axes.contains_key(name)
                && !self.derived.contains_key(name)
        };
        if size.names().iter().all(|(name, _)| is_usable(name)) {
            self.derived.insert(axis.to_owned(), size);
        }
    }

    /// The axis whose size is the total of an input with offsets.
    fn total_of(&self, name: &str, tensor: &Tensor) -> Option<String> {
        if let Some(axis) = self.offsets.get(name) {
            return Some(axis.clone());
        }
        let is_offsets = ["indptr", "cu_seqlens", "offsets", "cu_seq"]
            .iter()
            .any(|part| name.contains(part));
        if !is_offsets || !is_index_row(tensor) {
            return None;
        }
        let own = tensor.shape.iter().flatten().next();
        let mut variables = self.definition.variables();
        let total = variables
            .find(|axis| Some(*axis) != own.map(String::as_str) && axis.starts_with("total"));
        total.map(str::to_owned)
    }

    /// Variable axes that have a size of their own.
    fn free_axes(&self) -> impl Iterator<Item = &'d str> {
        let derived = &self.derived;
        (self.definition.variables()).filter(|axis| !derived.contains_key(*axis))
    }

    /// The size of an axis in one of the workloads. A size that the user chose is not divided.
    fn size(&self, axis: &str, index: usize, divisor: i64) -> i64 {
        match self.choices.sizes.get(axis).map(Vec::as_slice) {
            Some([.., last]) => {
                let sizes = &self.choices.sizes[axis];
                sizes.get(index).copied().unwrap_or(*last)
            }
            _ => (usual_size(axis, index.min(SIZES.len() - 1)) / divisor).max(1),
        }
    }

    /// As many as the user chose sizes, else three.
    fn workload_count(&self) -> usize {
        let chosen = self.choices.sizes.values().map(Vec::len).max();
        chosen.filter(|count| *count > 1).unwrap_or(SIZES.len())
    }

    /// The value of a scalar.
    fn scalar(&self, name: &str, dtype: DType) -> Value {
        let chosen = self.choices.scalars.get(name);
        chosen.cloned().unwrap_or_else(|| scalar_value(name, dtype))
    }

    /// The sizes of the variable axes of a workload. Sizes are halved until the tensors fit.
    fn sizes(&self, index: usize) -> IndexMap<String, i64> {
        let mut divisor = 1;
        loop {
            let mut sizes: IndexMap<String, i64> = (self.free_axes())
                .map(|axis| (axis.to_owned(), self.size(axis, index, divisor)))
                .collect();
            for (axis, size) in &self.derived {
                let constant = |name: &str| self.definition.axes.get(name)?.value;
                let value = size.evaluate(&|name| sizes.get(name).copied().or(constant(name)));
                sizes.insert(axis.clone(), value.unwrap_or(1).max(1));
            }
            let is_smallest = divisor > SIZES[2] * 8;
            let fits = |binding: Binding| self.elements(&binding) <= MAX_ELEMENTS;
            if is_smallest || self.definition.bind(&sizes).is_ok_and(fits) {
                return sizes;
            }
            divisor *= 2;
        }
    }

    fn elements(&self, binding: &Binding) -> u64 {
        let tensors = self
            .definition
            .inputs
            .values()
            .chain(self.definition.outputs.values());
        let sizes = tensors.map(|tensor| match binding.shape(tensor) {
            Ok(shape) => shape.iter().product::<u64>(),
            Err(_) => u64::MAX,
        });
        sizes.fold(0, u64::saturating_add)
    }

    /// The lines of `workloads.jsonl`, each with other sizes.
    pub(super) fn workloads(&self) -> String {
        let mut all: Vec<IndexMap<String, i64>> = Vec::new();
        for index in 0..self.workload_count() {
            let sizes = self.sizes(index);
            if !all.contains(&sizes) {
                all.push(sizes);
            }
        }
        let mut text = String::new();
        for (index, sizes) in all.iter().enumerate() {
            let inputs: serde_json::Map<_, _> = (self.definition.inputs.iter())
                .map(|(name, tensor)| {
                    let source = match tensor.shape {
                        Some(_) => json!({"type": "random"}),
                        None => {
                            json!({"type": "scalar", "value": self.scalar(name, tensor.dtype)})
                        }
                    };
                    (name.clone(), source)
                })
                .collect();
            let line = json!({
                "definition": self.definition.name,
                "workload": {"uuid": format!("w{}", index + 1), "axes": sizes, "inputs": inputs},
            });
            text += &format!("{line}\n");
        }
        text
    }

    /// The text of `task.yaml`. Without `draws_inputs` it has neither hidden shapes nor regimes.
    pub(super) fn settings(&self, names: &FileNames<'_>, draws_inputs: bool) -> String {
        let mut text = String::new();
        let description = self.definition.description.as_deref().unwrap_or_default();
        let first = description.split_whitespace().collect::<Vec<_>>().join(" ");
        let first: String = first.chars().take(120).collect();
        if !first.is_empty() {
            text += &format!("# {first}\n");
        }
        text += &names.lines();
        text += "baselines: {naive: naive.cu}\nstart: [naive.cu]\n";
        text += "# For each output: an element x passes if |x - r| <= atol_rms * rms(r) + rtol * |r|, where r is the oracle's value and rms(r)\n# the root mean square of the output's elements that are not 0. These are usual bounds for the dtype.\ntolerance:\n";
        for (name, tensor) in &self.definition.outputs {
            let (rtol, atol_rms) = tolerance(tensor.dtype);
            text += &format!("  {name}: {{rtol: {rtol}, atol_rms: {atol_rms}}}\n");
        }
        text +=
            "# How inputs are drawn: guessed from names and constraints. Check each.\ninputs:\n";
        for (name, tensor) in &self.definition.inputs {
            text += &format!("  {name}: {}\n", self.distribution(name, tensor));
        }
        let integers = self.definition.inputs.iter();
        let integers = integers.filter(|(_, one)| one.shape.is_none() && !one.dtype.is_float());
        let integers: Vec<_> = integers.map(|(name, _)| name.as_str()).collect();
        if !integers.is_empty() {
            text += "# Inputs that never change, so a kernel may contain their values. Give the others regimes.\n";
            text += &format!("fixed: [{}]\n", integers.join(", "));
        }
        let free: Vec<_> = self.free_axes().collect();
        if !draws_inputs {
            text += "# The workloads give the inputs, and nothing says how to draw others: add `hidden` and `regimes` for hidden cases.\nregimes: {}\n";
        } else if !free.is_empty() {
            text += "# Candidates are also checked on shapes that nobody names: for each variable axis the smallest and largest size.\nhidden:\n";
            let sizes = self.sizes(1);
            for axis in free {
                text += &format!(
                    "  {axis}: [1, {}]\n",
                    sizes.get(axis).copied().unwrap_or(1).max(1)
                );
            }
        }
        if !self.derived.is_empty() {
            text += "derived:\n";
            for (axis, size) in &self.derived {
                text += &format!("  {axis}: {}\n", size.text());
            }
        }
        text += "# Least memory traffic of a workload, in axes. Add `flops` for the arithmetic.\n";
        text + &format!("bytes: \"{}\"\n", traffic(self.definition))
    }

    /// The distribution of an input, as YAML.
    fn distribution(&self, name: &str, tensor: &Tensor) -> String {
        if tensor.shape.is_none() {
            return format!("{{value: {}}}", self.scalar(name, tensor.dtype));
        }
        if tensor.dtype == DType::Bool {
            return "{uniform: [0, 1]}".to_owned();
        }
        if tensor.dtype.is_float() {
            let is_share = name.contains("prob") || name.ends_with("_p");
            return if is_share {
                "{uniform: [0.0, 1.0]}".to_owned()
            } else {
                "{normal: 1.0}".to_owned()
            };
        }
        if let Some(total) = self.total_of(name, tensor) {
            return format!("{{cumulative: {total}}}");
        }
        match self.indexed_axis(name, tensor) {
            Some(axis) => format!("{{uniform: [0, {axis}]}}  # indices from 0 to {axis} - 1"),
            None => "{uniform: [0, 1]}  # integers, both ends included".to_owned(),
        }
    }

    /// The axis that an input with indices most likely selects from.
    fn indexed_axis(&self, name: &str, tensor: &Tensor) -> Option<String> {
        let others = self
            .definition
            .inputs
            .iter()
            .filter(|(other, _)| *other != name);
        let data = others.filter(|(_, other)| other.dtype.is_float());
        let first_axes = data.filter_map(|(_, other)| other.shape.as_ref()?.first());
        let own: Vec<_> = tensor.shape.iter().flatten().collect();
        let mut candidates: Vec<_> = first_axes.collect();
        let is_pool = |axis: &str| {
            let words = ["page", "block", "pool", "slot", "cache", "expert", "vocab"];
            words.iter().any(|word| axis.contains(word))
        };
        candidates.sort_by_key(|axis| (!is_pool(axis), own.contains(axis)));
        candidates.first().map(|axis| (*axis).clone())
    }
}

/// Whether a tensor is one row of integers.
fn is_index_row(tensor: &Tensor) -> bool {
    let is_integer = !tensor.dtype.is_float() && tensor.dtype != DType::Bool;
    is_integer && tensor.shape.as_ref().is_some_and(|axes| axes.len() == 1)
}

/// The size of a variable axis in one of the three workloads.
fn usual_size(axis: &str, index: usize) -> i64 {
    let is_large = ["total", "page", "indices", "seq_len", "kv_len", "tokens"]
        .iter()
        .any(|part| axis.contains(part));
    if is_large {
        SIZES[index] * 8
    } else {
        SIZES[index]
    }
}

/// The tolerance of a dtype, for an oracle in double precision.
pub(crate) fn usual_tolerance(dtype: DType) -> Tolerance {
    let (rtol, atol_rms) = tolerance(dtype);
    let number = |text: &str| text.parse().unwrap_or_default();
    Tolerance {
        rtol: number(rtol),
        atol_rms: number(atol_rms),
    }
}

/// `rtol` and `atol_rms` that suit a dtype: a few roundings.
fn tolerance(dtype: DType) -> (&'static str, &'static str) {
    match dtype {
        DType::Float64 => ("1.0e-9", "1.0e-10"),
        DType::Float32 => ("1.0e-4", "1.0e-5"),
        DType::Float16 => ("2.0e-3", "5.0e-4"),
        DType::BFloat16 => ("1.0e-2", "1.0e-3"),
        DType::Float8E4M3 | DType::Float8E5M2 => ("7.0e-2", "1.0e-2"),
        _ => ("0.0", "0.0"),
    }
}

fn scalar_value(name: &str, dtype: DType) -> Value {
    if !dtype.is_float() {
        return json!(1);
    }
    if name.contains("eps") {
        json!(0.001)
    } else if name.contains("scale") {
        json!(0.125)
    } else {
        json!(1.0)
    }
}
