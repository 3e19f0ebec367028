//! The definition of a task from a short description: `x:float16[rows,columns]`, `rows=64,1024`, `eps:float32=1e-5`.
//!
//! Writes the JSON that `draft_task` reads, which reports names and dtypes that are wrong. Knows no command line.

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use crate::base::Failure;
use crate::base::text::quote_list;

/// What a task takes and gives, in the order of the kernel's arguments.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Signature {
    pub(crate) inputs: IndexMap<String, TensorSpec>,
    pub(crate) outputs: IndexMap<String, TensorSpec>,
    pub(crate) axes: IndexMap<String, AxisSpec>,
    /// Python text of the computation; may be empty.
    pub(crate) reference: String,
}

/// The dtype and shape of one tensor, or a scalar with its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorSpec {
    pub(crate) dtype: String,
    /// Names or sizes of axes, outermost first. `None`: a scalar, which kernels take by value.
    pub(crate) shape: Option<Vec<String>>,
    /// The usual value of a scalar.
    pub(crate) value: Option<f64>,
}

/// What is known about an axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AxisSpec {
    /// The sizes that are timed, one for each workload. Empty: kforge chooses.
    Variable(Vec<i64>),
    Constant(i64),
    Expression(String),
}

/// What the user chose for the files of a draft; everything else is guessed.
#[derive(Clone, Debug, Default)]
pub(crate) struct DraftChoices {
    /// The timed sizes of variable axes.
    pub(super) sizes: IndexMap<String, Vec<i64>>,
    /// The values of scalars.
    pub(super) scalars: IndexMap<String, Value>,
}

impl TensorSpec {
    /// Reads `NAME:DTYPE[AXIS,AXIS]`.
    pub(crate) fn parse_tensor(text: &str) -> Result<(String, Self), Failure> {
        let wrong = || {
            Failure::usage(format!("`{text}` does not describe a tensor"))
                .hint("write NAME:DTYPE[AXIS,AXIS], for example `x:float16[rows,columns]`; `[]` is one element")
        };
        let (name, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (dtype, axes) = rest.trim().split_once('[').ok_or_else(wrong)?;
        let axes = axes.strip_suffix(']').ok_or_else(wrong)?;
        let axes = axes.split(',').map(str::trim);
        let shape: Vec<_> = axes
            .filter(|axis| !axis.is_empty())
            .map(str::to_owned)
            .collect();
        let spec = Self {
            dtype: dtype.trim().to_owned(),
            shape: Some(shape),
            value: None,
        };
        Ok((name.trim().to_owned(), spec))
    }

    /// Reads `NAME:DTYPE` or `NAME:DTYPE=VALUE`.
    pub(crate) fn parse_scalar(text: &str) -> Result<(String, Self), Failure> {
        let wrong = || {
            Failure::usage(format!("`{text}` does not describe a scalar"))
                .hint("write NAME:DTYPE=VALUE, for example `eps:float32=1e-5`")
        };
        let (name, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (dtype, value) = match rest.split_once('=') {
            Some((dtype, value)) => (dtype, Some(value.trim().parse().map_err(|_| wrong())?)),
            None => (rest, None),
        };
        if dtype.contains('[') {
            return Err(wrong());
        }
        let spec = Self {
            dtype: dtype.trim().to_owned(),
            shape: None,
            value,
        };
        Ok((name.trim().to_owned(), spec))
    }
}

impl AxisSpec {
    /// Reads `NAME`, `NAME=const:SIZE`, `NAME=SIZE,SIZE` or `NAME=EXPRESSION`.
    pub(crate) fn parse(text: &str) -> Result<(String, Self), Failure> {
        let Some((name, value)) = text.split_once('=') else {
            return Ok((text.trim().to_owned(), Self::Variable(Vec::new())));
        };
        let value = value.trim();
        let size = |text: &str| text.trim().parse::<i64>().ok().filter(|size| *size > 0);
        let wrong = || {
            Failure::usage(format!("`{text}` does not describe an axis"))
                .hint("write NAME=64,1024 for the sizes that are timed, NAME=const:512 for one size that never changes, or NAME=EXPRESSION of other axes")
        };
        let axis = if let Some(constant) = value.strip_prefix("const:") {
            Self::Constant(size(constant).ok_or_else(wrong)?)
        } else if let Some(sizes) = value.split(',').map(size).collect() {
            Self::Variable(sizes)
        } else if value.contains(|letter: char| letter.is_ascii_alphabetic()) {
            Self::Expression(value.to_owned())
        } else {
            return Err(wrong());
        };
        Ok((name.trim().to_owned(), axis))
    }
}

impl Signature {
    /// The axes of all shapes that nothing describes, in the order of their appearance. Sizes are left out.
    pub(crate) fn undescribed_axes(&self) -> Vec<String> {
        let mut axes: Vec<String> = Vec::new();
        for name in self.shapes().flatten() {
            let is_size = name.parse::<i64>().is_ok();
            if !is_size && !self.axes.contains_key(name) && !axes.contains(name) {
                axes.push(name.clone());
            }
        }
        axes
    }

    fn shapes(&self) -> impl Iterator<Item = &Vec<String>> {
        let tensors = self.inputs.values().chain(self.outputs.values());
        tensors.filter_map(|tensor| tensor.shape.as_ref())
    }

    /// The text of `definition.json`, and what the draft needs besides.
    ///
    /// # Errors
    /// If there is no output, an axis is in no shape, or the timed sizes of axes differ in number.
    pub(crate) fn definition(&self, name: &str) -> Result<(String, DraftChoices), Failure> {
        self.check()?;
        let mut axes = Map::new();
        let mut choices = DraftChoices::default();
        for axis in self.shapes().flatten() {
            if let Ok(size) = axis.parse::<i64>() {
                let constant = json!({"type": "const", "value": size});
                axes.insert(constant_name(axis), constant);
            }
        }
        for (axis, spec) in &self.axes {
            let value = match spec {
                AxisSpec::Variable(sizes) => {
                    if !sizes.is_empty() {
                        choices.sizes.insert(axis.clone(), sizes.clone());
                    }
                    json!({"type": "var"})
                }
                AxisSpec::Constant(size) => json!({"type": "const", "value": size}),
                AxisSpec::Expression(text) => json!({"type": "expr", "expression": text}),
            };
            axes.insert(axis.clone(), value);
        }
        for axis in self.undescribed_axes() {
            axes.insert(axis, json!({"type": "var"}));
        }
        for (input, spec) in &self.inputs {
            if let Some(value) = spec.value {
                let is_whole = value.fract() == 0.0 && value.abs() < 1e15;
                let is_integer = is_whole && !spec.dtype.contains("float");
                let value = if is_integer {
                    json!(value as i64)
                } else {
                    json!(value)
                };
                choices.scalars.insert(input.clone(), value);
            }
        }
        let mut definition = json!({
            "name": name,
            "op_type": "custom",
            "axes": axes,
            "inputs": tensors(&self.inputs),
            "outputs": tensors(&self.outputs),
        });
        if !self.reference.is_empty() {
            definition["reference"] = self.reference.as_str().into();
        }
        let text = serde_json::to_string_pretty(&definition)
            .map_err(|error| Failure::usage(error.to_string()))?;
        Ok((text, choices))
    }

    fn check(&self) -> Result<(), Failure> {
        if self.outputs.is_empty() {
            return Err(Failure::usage("the task has no output")
                .hint("for example `--output 'y:float16[rows,columns]'`"));
        }
        let shapes: Vec<_> = self.shapes().flatten().collect();
        let expressions = || {
            self.axes.values().filter_map(|axis| match axis {
                AxisSpec::Expression(text) => Some(text),
                _ => None,
            })
        };
        for axis in self.axes.keys() {
            let is_used = shapes.contains(&axis) || expressions().any(|text| text.contains(axis));
            if !is_used {
                let known: Vec<_> = shapes.iter().map(|name| name.as_str()).collect();
                return Err(Failure::usage(format!("no shape has the axis `{axis}`"))
                    .hint(format!("the shapes have {}", quote_list(known))));
            }
        }
        let counts = self.axes.iter().filter_map(|(name, axis)| match axis {
            AxisSpec::Variable(sizes) if sizes.len() > 1 => Some((name, sizes.len())),
            _ => None,
        });
        let counts: Vec<_> = counts.collect();
        if let Some(pair) = counts.windows(2).find(|pair| pair[0].1 != pair[1].1) {
            let ((one, first), (other, second)) = (pair[0], pair[1]);
            return Err(Failure::usage(format!(
                "`{one}` has {first} timed sizes, and `{other}` has {second}"
            ))
            .hint("each workload takes one size of every axis: give the same number, or one"));
        }
        Ok(())
    }
}

/// The name of an axis that is only a number.
fn constant_name(size: &str) -> String {
    format!("size_{size}")
}

fn tensors(specs: &IndexMap<String, TensorSpec>) -> Value {
    let tensors = specs.iter().map(|(name, spec)| {
        let shape = spec.shape.as_ref().map(|axes| {
            let named = axes.iter().map(|axis| match axis.parse::<i64>() {
                Ok(_) => constant_name(axis),
                Err(_) => axis.clone(),
            });
            named.collect::<Vec<_>>()
        });
        (name.clone(), json!({"shape": shape, "dtype": spec.dtype}))
    });
    Value::Object(tensors.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::draft::draft_from_signature;

    fn signature() -> Signature {
        Signature {
            inputs: IndexMap::from([
                TensorSpec::parse_tensor("x: float16[rows, 128]").unwrap(),
                TensorSpec::parse_scalar("eps:float32=1e-5").unwrap(),
            ]),
            outputs: IndexMap::from([TensorSpec::parse_tensor("y:float32[rows]").unwrap()]),
            axes: IndexMap::from([AxisSpec::parse("rows=16,100").unwrap()]),
            reference: String::new(),
        }
    }

    #[test]
    fn a_signature_becomes_a_draft_with_the_chosen_sizes_and_values() {
        let draft = draft_from_signature("mine", &signature()).unwrap();
        let file = |name: &str| {
            let found = draft.files.iter().find(|(file, _)| *file == name);
            found.unwrap().1.clone()
        };
        let workloads = file("workloads.jsonl");
        assert_eq!(workloads.lines().count(), 2);
        assert!(workloads.contains(r#""axes":{"rows":16}"#), "{workloads}");
        assert!(workloads.contains(r#""axes":{"rows":100}"#));
        assert!(workloads.contains(r#""value":0.00001"#) || workloads.contains("1e-5"));
        assert!(file("definition.json").contains("\"size_128\""));
        assert!(file("oracle.cu").contains("double* y"));
        assert!(file("naive.cu").contains("const __half* x, float eps, float* y, int rows"));
    }

    #[test]
    fn axes_are_variable_constant_or_computed() {
        for (text, expected) in [
            ("n", AxisSpec::Variable(vec![])),
            ("n=64", AxisSpec::Variable(vec![64])),
            ("n=64,128", AxisSpec::Variable(vec![64, 128])),
            ("n=const:512", AxisSpec::Constant(512)),
            ("n=m // 2", AxisSpec::Expression("m // 2".to_owned())),
        ] {
            assert_eq!(AxisSpec::parse(text).unwrap(), ("n".to_owned(), expected));
        }
    }

    #[test]
    fn wrong_descriptions_name_the_text_and_the_form() {
        for text in ["x", "x:float16", "x:float16[rows", "float16[rows]"] {
            let failure = TensorSpec::parse_tensor(text).unwrap_err().to_string();
            assert!(failure.contains(text) && failure.contains("x:float16[rows,columns]"));
        }
        for text in ["eps", "eps:float32=x", "eps:float32[n]"] {
            assert!(TensorSpec::parse_scalar(text).is_err(), "{text}");
        }
        for text in ["n=0", "n=-1,2", "n=const:x", "n="] {
            assert!(AxisSpec::parse(text).is_err(), "{text}");
        }
        let mut wrong = signature();
        wrong
            .axes
            .insert("columns".to_owned(), AxisSpec::Constant(1));
        let failure = wrong.definition("mine").unwrap_err().to_string();
        assert!(
            failure.contains("no shape has the axis `columns`"),
            "{failure}"
        );
        wrong = signature();
        wrong.outputs.clear();
        assert!(wrong.definition("mine").is_err());
    }
}
