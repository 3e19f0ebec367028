//! The arguments of a kernel in a T1 file as inputs and outputs of a task.

use serde::Deserialize;
use serde_json::{Value, json};

use super::python_list::plain;
use super::space::Space;
use crate::base::expression::Expression;
use crate::task::DType;
use crate::task::draft::TensorSpec;
use crate::task::foreign::ForeignInput;

/// The names of regimes, and what each changes.
pub(super) const REGIMES: [(&str, Change); 5] = [
    ("scaled_up", Change::Scaled(4.0)),
    ("scaled_down", Change::Scaled(0.25)),
    ("shifted", Change::Shifted),
    ("zeros", Change::Modified("zeros", 0.5)),
    ("large_rows", Change::Modified("large_rows", 8.0)),
];

#[derive(Clone, Copy)]
pub(super) enum Change {
    Scaled(f64),
    Shifted,
    Modified(&'static str, f64),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct T1Argument {
    #[serde(default)]
    name: Option<String>,
    #[serde(rename = "Type")]
    kind: String,
    memory_type: String,
    #[serde(default)]
    mem_type: Option<String>,
    #[serde(default)]
    access_type: Option<String>,
    #[serde(default)]
    fill_type: Option<String>,
    /// A number, or its text.
    #[serde(default)]
    fill_value: Option<Value>,
    #[serde(default)]
    size: Option<Value>,
}

/// What a kernel does with an argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Role {
    Input,
    Output,
    /// An input that an output overwrites.
    InPlace,
    /// A whole number that is the same in every call.
    Constant(i64),
    /// A floating-point number by value.
    Scalar(f64),
}

pub(super) struct Argument {
    pub(super) name: String,
    pub(super) dtype: DType,
    /// Elements of `dtype`.
    elements: i64,
    pub(super) role: Role,
    /// Mean of the values, for an input that the T1 file fills with one value.
    constant: Option<f64>,
}

impl Argument {
    /// `index`: its place. `problem`: `ProblemSize`.
    pub(super) fn read(
        argument: &T1Argument,
        index: usize,
        problem: &[i64],
        space: &Space,
    ) -> Result<Self, String> {
        let (dtype, lanes) = element_type(&argument.kind)
            .ok_or_else(|| format!("kforge does not know the type `{}`", argument.kind))?;
        let name = argument.name.clone().unwrap_or(format!("argument_{index}"));
        if argument.mem_type.as_deref() == Some("Constant") {
            return Err(format!(
                "`{name}` is in constant memory, which kforge does not fill: make it a parameter of the kernel"
            ));
        }
        let fill = argument.fill_type.as_deref().unwrap_or("Random");
        let value = match &argument.fill_value {
            None | Some(Value::Null) => 0.0,
            Some(value) => plain(value)
                .parse()
                .map_err(|_| format!("`{name}` has the fill value `{}`", plain(value)))?,
        };
        if argument.memory_type == "Scalar" {
            let role = if dtype.is_float() {
                Role::Scalar(value)
            } else {
                Role::Constant(value as i64)
            };
            return Ok(Self {
                name,
                dtype,
                elements: 0,
                role,
                constant: None,
            });
        }
        if argument.memory_type != "Vector" {
            return Err(format!(
                "`{name}` has the memory type `{}`, and kforge knows Vector and Scalar",
                argument.memory_type
            ));
        }
        let role = match argument.access_type.as_deref() {
            Some("ReadOnly") => Role::Input,
            Some("WriteOnly") => Role::Output,
            Some("ReadWrite") => Role::InPlace,
            _ => {
                return Err(format!(
                    "`{name}` has no `AccessType`: ReadOnly, WriteOnly or ReadWrite"
                ));
            }
        };
        // Numbers of a formula are as good as random ones, unless they are places in another array.
        let is_formula = fill == "Generator" && dtype.is_float();
        if !["Random", "Constant"].contains(&fill) && !is_formula && role != Role::Output {
            return Err(format!(
                "`{name}` has the fill type `{fill}`, and kforge knows Random and Constant, and Generator for floating-point numbers, which it draws"
            ));
        }
        let size = argument
            .size
            .as_ref()
            .ok_or_else(|| format!("`{name}` has no `Size`"))?;
        let elements = size_of(&plain(size), problem, space)
            .filter(|size| *size > 0)
            .ok_or_else(|| {
                format!(
                    "`{name}` has a size that kforge cannot read: `{}`",
                    plain(size)
                )
            })?;
        Ok(Self {
            name,
            dtype,
            elements: elements * lanes,
            role,
            constant: (fill == "Constant").then_some(value),
        })
    }

    pub(super) fn elements(&self) -> i64 {
        self.elements
    }

    /// The name of the output, if the kernel writes the argument.
    pub(super) fn output_name(&self) -> Option<String> {
        match self.role {
            Role::Output => Some(self.name.clone()),
            Role::InPlace => Some(format!("{}_out", self.name)),
            _ => None,
        }
    }

    pub(super) fn tensor(&self) -> TensorSpec {
        let (shape, value) = match self.role {
            Role::Scalar(value) => (None, Some(value)),
            _ => (Some(vec![self.elements.to_string()]), None),
        };
        TensorSpec {
            dtype: self.dtype.to_string(),
            shape,
            value,
        }
    }

    pub(super) fn input(&self) -> Option<ForeignInput> {
        let is_input = matches!(self.role, Role::Input | Role::InPlace | Role::Scalar(_));
        is_input.then(|| ForeignInput {
            name: self.name.clone(),
            tensor: self.tensor(),
            distribution: self.distribution(),
        })
    }

    /// As Kernel Tuner fills it. One value for all elements is drawn near it, so that a kernel cannot contain it.
    fn distribution(&self) -> Option<Value> {
        if matches!(self.role, Role::Scalar(_)) {
            return None;
        }
        Some(match (self.constant, self.dtype.is_float()) {
            (Some(value), true) if value != 0.0 => {
                json!({"normal": 0.1 * value.abs(), "mean": value})
            }
            (Some(value), false) if self.dtype != DType::Bool => json!({"value": value as i64}),
            (_, true) => json!({"normal": 1.0}),
            _ if self.dtype == DType::Bool => json!({"uniform": [0, 1]}),
            _ => json!({"uniform": [-100, 100]}),
        })
    }

    /// Other values of a floating-point input.
    pub(super) fn changed(&self, change: Change) -> Option<Value> {
        if !self.dtype.is_float() {
            return None;
        }
        let is_tensor = matches!(self.role, Role::Input | Role::InPlace);
        let mut drawn = self.distribution().filter(|_| is_tensor)?;
        let number = |drawn: &Value, key: &str| drawn[key].as_f64();
        match change {
            Change::Scaled(factor) => {
                for key in ["normal", "mean"] {
                    if let Some(value) = number(&drawn, key) {
                        drawn[key] = json!(factor * value);
                    }
                }
            }
            Change::Shifted => {
                let mean = number(&drawn, "mean").unwrap_or_default();
                drawn["mean"] = json!(mean + number(&drawn, "normal").unwrap_or(1.0));
            }
            Change::Modified(key, value) => drawn[key] = json!(value),
        }
        Some(drawn)
    }
}

/// The value of a size: a number, or an expression with `ProblemSize[0]` and `max(TUNABLE)`.
fn size_of(text: &str, problem: &[i64], space: &Space) -> Option<i64> {
    let mut text = text.to_owned();
    for (axis, size) in problem.iter().enumerate() {
        text = text.replace(&format!("ProblemSize[{axis}]"), &size.to_string());
    }
    for tunable in &space.tunables {
        let name = &tunable.own_name;
        for (function, value) in [
            ("max", tunable.values.iter().max()),
            ("min", tunable.values.iter().min()),
        ] {
            text = text.replace(&format!("{function}({name})"), &value?.to_string());
        }
    }
    let expression = Expression::parse(&text).ok()?;
    // Kernel Tuner has lists of values here, so that other names cannot be meant.
    expression.evaluate(&|_| None).ok()
}

/// The dtype of a C type, and how many of its elements the type has.
fn element_type(name: &str) -> Option<(DType, i64)> {
    let plain = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let lanes = |base: &str| name[base.len()..].parse().unwrap_or(1);
    Some(match (name, plain) {
        ("bool", _) => (DType::Bool, 1),
        ("int8" | "uint8", _) => (DType::Int8, 1),
        ("int16" | "uint16", _) => (DType::Int16, 1),
        ("int32" | "uint32" | "int", _) => (DType::Int32, 1),
        ("int64" | "uint64", _) => (DType::Int64, 1),
        (_, "half") => (DType::Float16, lanes("half")),
        (_, "float") => (DType::Float32, lanes("float")),
        (_, "double") => (DType::Float64, lanes("double")),
        _ => return None,
    })
}
