//! What bindings to PyTorch and TVM FFI have in common: parameters, sizes of outputs, and what both refuse.
//!
//! A binding reads the sizes of axes from the shapes of its tensors. So it refuses a kernel that needs an axis that no shape has.

use anyhow::Result;
use serde::Serialize;
use serde_json::{Value, json};

use super::axes::{given_axes, required_input};
use super::c::{CppCode, cpp_code};
use super::names::identifier;
use super::refusal::refuse;
use super::request::Exporter;
use super::template;
use super::view::{AxisView, TensorView};
use crate::base::Failure;
use crate::task::DType;

const TORCH: &str = include_str!("templates/torch.cpp.j2");
const TVM: &str = include_str!("templates/tvm.cu.j2");

/// How a binding is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BindingKind {
    /// A Python module whose function writes the outputs that it gets behind the inputs.
    PybindInto,
    /// A Python module whose function returns the outputs.
    PybindReturns,
    /// An operator of `torch.ops` that returns the outputs.
    Operator,
    /// The same, in the namespace that `kernel-builder` makes for each build.
    HubOperator,
    /// A function of TVM FFI that writes the outputs that it gets behind the inputs.
    TvmFfi,
}

/// A kernel with the texts that its bindings are made of.
pub(super) struct Binding<'e, 'p, 'a> {
    pub(super) exporter: &'e Exporter<'p, 'a>,
    pub(super) code: CppCode,
    /// A tensor that is always there: its device is that of all.
    pub(super) device_tensor: String,
    pub(super) outputs: Vec<OutputView>,
}

/// An output that a binding allocates.
#[derive(Clone, Serialize)]
pub(super) struct OutputView {
    pub(super) ident: String,
    pub(super) torch_type: &'static str,
    pub(super) python_type: &'static str,
    /// Its sizes in C++ and in Python.
    pub(super) sizes: Vec<String>,
    pub(super) python_sizes: Vec<String>,
}

impl<'e, 'p, 'a> Binding<'e, 'p, 'a> {
    /// Makes the code that all bindings share. `has_header`: the CUDA file contains its header.
    ///
    /// # Errors
    /// A usage failure if a size cannot be read from a shape.
    pub(super) fn new(
        exporter: &'e Exporter<'p, 'a>,
        format: &str,
        has_header: bool,
    ) -> Result<Self> {
        let code = cpp_code(exporter, has_header)?;
        if let Some(axis) = code.view.axes.iter().find(|axis| axis.computed.is_some()) {
            return Err(refuse(format!(
                "definition.json: axis `{}`: `{format}` reads sizes from shapes and cannot compute one",
                axis.name
            ))
            .hint("export `c` or `standalone`")
            .into());
        }
        given_axes(&code.view, format)?;
        let device_tensor = required_input(&code.view, format)?.to_owned();
        let outputs = code
            .view
            .tensors
            .iter()
            .filter(|tensor| tensor.is_output)
            .map(|tensor| output(exporter, &code.view.axes, tensor))
            .collect();
        Ok(Self {
            exporter,
            code,
            device_tensor,
            outputs,
        })
    }

    /// Refuses a task that overwrites inputs, for formats whose functions never do.
    pub(super) fn refuse_in_place(&self, format: &str) -> Result<(), Failure> {
        let in_place = &self.exporter.plan.task.settings.in_place;
        let Some((output, input)) = in_place.first() else {
            return Ok(());
        };
        Err(refuse(format!(
            "task.yaml: `in_place`: `{output}` overwrites `{input}`, and a function of `{format}` keeps its inputs"
        ))
        .hint("export `torch`, `c` or `standalone`"))
    }

    /// The inputs as C++ parameters and their names, in the definition's order.
    fn parameters(&self, kind: BindingKind) -> Vec<String> {
        let inputs = self.exporter.plan.task.definition.inputs.iter();
        inputs
            .map(|(name, tensor)| {
                let base = match (kind, tensor.shape.is_some()) {
                    (BindingKind::TvmFfi, true) => "TensorView",
                    (_, true) => "at::Tensor",
                    (_, false) if tensor.dtype.is_float() => "double",
                    (_, false) if tensor.dtype == DType::Bool => "bool",
                    (_, false) => "int64_t",
                };
                let full = match (kind, tensor.optional) {
                    (BindingKind::TvmFfi, true) => format!("Optional<{base}>"),
                    (_, true) => format!("std::optional<{base}>"),
                    (_, false) => base.to_owned(),
                };
                let reference = if kind != BindingKind::TvmFfi && tensor.shape.is_some() {
                    "const "
                } else {
                    ""
                };
                let mark = if reference.is_empty() { "" } else { "&" };
                format!("{reference}{full}{mark} {}", identifier(name))
            })
            .collect()
    }

    /// The names of the inputs.
    pub(super) fn names(&self) -> Vec<String> {
        let inputs = self.exporter.plan.task.definition.inputs.keys();
        inputs.map(|name| identifier(name)).collect()
    }

    /// The inputs that the kernel overwrites.
    pub(super) fn mutated(&self) -> Vec<&str> {
        let tensors = self.code.view.tensors.iter();
        tensors
            .filter(|tensor| tensor.overwritten)
            .map(|tensor| tensor.ident.as_str())
            .collect()
    }

    /// The schema of a PyTorch operator, from its parentheses on.
    fn schema(&self) -> String {
        let mutated = self.mutated();
        let inputs = self.exporter.plan.task.definition.inputs.iter();
        let inputs = inputs.map(|(name, tensor)| {
            let ident = identifier(name);
            let mark = if tensor.optional { "?" } else { "" };
            let kind = match tensor.shape {
                Some(_) => {
                    let place = mutated.iter().position(|other| *other == ident);
                    let alias =
                        place.map(|place| format!("({}!)", char::from(b'a' + place as u8 % 26)));
                    format!("Tensor{}", alias.unwrap_or_default())
                }
                None if tensor.dtype.is_float() => "float".to_owned(),
                None if tensor.dtype == DType::Bool => "bool".to_owned(),
                None => "int".to_owned(),
            };
            format!("{kind}{mark} {ident}")
        });
        let inputs: Vec<_> = inputs.collect();
        let results = match self.outputs.len() {
            1 => "Tensor".to_owned(),
            count => format!("({})", vec!["Tensor"; count].join(", ")),
        };
        format!("({}) -> {results}", inputs.join(", "))
    }

    fn result_type(&self) -> String {
        match self.outputs.len() {
            0 => "void".to_owned(),
            1 => "at::Tensor".to_owned(),
            count => format!("std::tuple<{}>", vec!["at::Tensor"; count].join(", ")),
        }
    }

    /// The name of the operators' library.
    pub(super) fn library(&self) -> String {
        format!("kforge_{}", self.exporter.plan.name)
    }

    /// The C++ file of a binding. `interface`: the header, or a line that includes it.
    pub(super) fn source(&self, kind: BindingKind, interface: &str) -> Result<String> {
        let mut parameters = self.parameters(kind);
        let (text, binding) = match kind {
            BindingKind::TvmFfi => (TVM, "tvm"),
            BindingKind::Operator => (TORCH, "operator"),
            BindingKind::HubOperator => (TORCH, "hub"),
            BindingKind::PybindInto | BindingKind::PybindReturns => (TORCH, "pybind"),
        };
        if kind == BindingKind::TvmFfi {
            let outputs = self.outputs.iter();
            parameters.extend(outputs.map(|output| format!("TensorView {}", output.ident)));
        }
        let given = self.code.view.axes.iter().filter(|axis| axis.is_given());
        template::render(
            "binding",
            text,
            json!({
                "p": self.bound_view()?,
                "given": given.collect::<Vec<_>>(),
                "banner": self.code.banner,
                "interface": interface,
                "binding": binding,
                "returns": !matches!(kind, BindingKind::PybindInto | BindingKind::TvmFfi),
                "parameters": parameters,
                "names": self.names(),
                "outputs": self.outputs,
                "device_tensor": self.device_tensor,
                "result_type": self.result_type(),
                "schema": self.schema(),
                "library": self.library(),
                "entry": "run",
            }),
        )
    }

    /// The view with the types of PyTorch and DLPack at each tensor.
    fn bound_view(&self) -> Result<Value> {
        let mut view = serde_json::to_value(&self.code.view)?;
        let tensors = view["tensors"].as_array_mut().into_iter().flatten();
        for (value, tensor) in tensors.zip(&self.code.view.tensors) {
            let dtype = dtype_of(self.exporter, &tensor.name);
            value["torch_type"] = json!(torch_type(dtype));
            value["dl_code"] = json!(dl_code(dtype));
        }
        Ok(view)
    }
}

fn dtype_of(exporter: &Exporter<'_, '_>, name: &str) -> DType {
    let definition = &exporter.plan.task.definition;
    let tensor = definition.inputs.get(name);
    let tensor = tensor.or_else(|| definition.outputs.get(name));
    tensor.map_or(DType::Float32, |tensor| tensor.dtype)
}

fn output(exporter: &Exporter<'_, '_>, axes: &[AxisView], tensor: &TensorView) -> OutputView {
    let sizes = |cpp: bool| {
        let sizes = tensor.shape.iter().map(|ident| {
            let axis = axes.iter().find(|axis| &axis.ident == ident);
            match axis.map(|axis| (axis.value, &axis.input_source)) {
                Some((Some(value), _)) => value.to_string(),
                Some((None, Some((source, dim)))) if cpp => {
                    format!("size_of({source}, {dim}, \"{source}\")")
                }
                Some((None, Some((source, dim)))) => format!("{source}.shape[{dim}]"),
                _ => "1".to_owned(),
            }
        });
        sizes.collect()
    };
    let dtype = dtype_of(exporter, &tensor.name);
    OutputView {
        ident: tensor.ident.clone(),
        torch_type: torch_type(dtype),
        python_type: python_type(dtype),
        sizes: sizes(true),
        python_sizes: sizes(false),
    }
}

fn torch_type(dtype: DType) -> &'static str {
    match dtype {
        DType::Float64 => "at::kDouble",
        DType::Float32 => "at::kFloat",
        DType::Float16 => "at::kHalf",
        DType::BFloat16 => "at::kBFloat16",
        DType::Float8E4M3 => "at::kFloat8_e4m3fn",
        DType::Float8E5M2 => "at::kFloat8_e5m2",
        DType::Int64 => "at::kLong",
        DType::Int32 => "at::kInt",
        DType::Int16 => "at::kShort",
        DType::Int8 => "at::kChar",
        DType::Bool => "at::kBool",
    }
}

/// The type in Python, as `torch` names it.
pub(super) fn python_type(dtype: DType) -> &'static str {
    match dtype {
        DType::Float64 => "torch.float64",
        DType::Float32 => "torch.float32",
        DType::Float16 => "torch.float16",
        DType::BFloat16 => "torch.bfloat16",
        DType::Float8E4M3 => "torch.float8_e4m3fn",
        DType::Float8E5M2 => "torch.float8_e5m2",
        DType::Int64 => "torch.int64",
        DType::Int32 => "torch.int32",
        DType::Int16 => "torch.int16",
        DType::Int8 => "torch.int8",
        DType::Bool => "torch.bool",
    }
}

/// The kind of a type in DLPack.
fn dl_code(dtype: DType) -> &'static str {
    match dtype {
        DType::Float64 | DType::Float32 | DType::Float16 => "kDLFloat",
        DType::BFloat16 => "kDLBfloat",
        DType::Float8E4M3 => "kDLFloat8_e4m3fn",
        DType::Float8E5M2 => "kDLFloat8_e5m2",
        DType::Int64 | DType::Int32 | DType::Int16 | DType::Int8 => "kDLInt",
        DType::Bool => "kDLBool",
    }
}
