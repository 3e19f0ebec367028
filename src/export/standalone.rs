//! Format `standalone`: one CUDA file with `main`. It draws inputs as the task does, launches the kernel on each workload, and prints
//! times. It can also read inputs from files and write outputs, so that results can be compared.

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use super::c::{CppCode, cpp_code};
use super::names::number;
use super::refusal::refuse;
use super::request::{ExportedFiles, Exporter};
use super::template::render;
use super::view::TensorView;
use crate::base::Failure;
use crate::base::expression::Language;
use crate::task::{CumulativeTotal, DType, Distribution, DistributionKind, InputSource, Workload};

const MAIN: &str = include_str!("templates/main.cu.j2");

/// A workload of the task: its sizes and scalars in the order of the C structures.
#[derive(Serialize)]
struct WorkloadView {
    id: String,
    sizes: Vec<i64>,
    scalars: Vec<String>,
}

/// A tensor with what `main` needs to fill it.
#[derive(Serialize)]
struct FilledTensor<'v> {
    #[serde(flatten)]
    tensor: &'v TensorView,
    /// The C++ type of an element.
    element: &'static str,
    is_float: bool,
    /// The values of `Distribution` in the template.
    distribution: String,
}

/// An output: where it is, and the name of its file.
#[derive(Serialize)]
struct WrittenOutput {
    ident: String,
    file: String,
}

pub(super) fn export(exporter: &Exporter<'_, '_>) -> Result<ExportedFiles> {
    let code = cpp_code(exporter, true)?;
    let name = exporter.plan.name;
    let workloads: Vec<_> = (exporter.plan.task.workloads.iter())
        .map(|workload| workload_view(exporter, &code, workload))
        .collect();
    let tensors = code.view.tensors.iter();
    let tensors = tensors
        .map(|tensor| filled(exporter, tensor))
        .collect::<Result<Vec<_>, _>>()?;
    let main = render(
        "main.cu",
        MAIN,
        json!({
            "p": code.view,
            "workloads": workloads,
            "tensors": tensors,
            "written": written(exporter, &code),
        }),
    )?;
    Ok(ExportedFiles::from([(
        format!("{name}.cu"),
        code.source + &main,
    )]))
}

fn workload_view(exporter: &Exporter<'_, '_>, code: &CppCode, workload: &Workload) -> WorkloadView {
    let given = code.view.axes.iter().filter(|axis| axis.is_given());
    let sizes = given.map(|axis| workload.binding.axes.get(&axis.name).copied().unwrap_or(1));
    let scalars = code.view.scalars.iter().map(|scalar| {
        let value = scalar_value(exporter, workload, &scalar.name);
        number(Language::Cpp, value)
    });
    WorkloadView {
        id: workload.id.clone(),
        sizes: sizes.collect(),
        scalars: scalars.collect(),
    }
}

/// The value of a scalar on a workload: the workload's, else the task's; 0 if it is random.
fn scalar_value(exporter: &Exporter<'_, '_>, workload: &Workload, name: &str) -> f64 {
    match workload.inputs.get(name) {
        Some(InputSource::Scalar(value)) => *value,
        _ => exporter.plan.task.usual_value(name).unwrap_or(0.0),
    }
}

fn filled<'v>(
    exporter: &Exporter<'_, '_>,
    tensor: &'v TensorView,
) -> Result<FilledTensor<'v>, Failure> {
    let definition = &exporter.plan.task.definition;
    let own = definition.inputs.get(&tensor.name);
    let own = own.or_else(|| definition.outputs.get(&tensor.name));
    let dtype = own.map_or(DType::Float32, |tensor| tensor.dtype);
    let task = exporter.plan.task;
    let is_stored = |workload: &Workload| {
        let source = workload.inputs.get(&tensor.name);
        matches!(source, Some(InputSource::Stored(_)))
    };
    if let Some(workload) = task.workloads.iter().find(|one| is_stored(one)) {
        return Err(refuse(format!(
            "workload `{}`: the values of input `{}` are in a file, which a program of one file does not have",
            workload.id, tensor.name
        ))
        .hint("export another format, such as `c`, and read the file in the program that calls it"));
    }
    let given = task.settings.inputs.get(&tensor.name);
    Ok(FilledTensor {
        tensor,
        element: match dtype {
            // `std::vector<bool>` has no array of elements.
            DType::Bool => "unsigned char",
            other => other.cuda_type(),
        },
        is_float: dtype.is_float(),
        distribution: match (given, dtype.is_float()) {
            (Some(given), _) => distribution(exporter, &tensor.name, given)?,
            (None, true) => "Distribution::normal, 1.0, 0.0, 0.0, false".to_owned(),
            (None, false) => "Distribution::value, 0.0, 0.0, 0.0, false".to_owned(),
        },
    })
}

/// The values of a distribution in the template.
fn distribution(
    exporter: &Exporter<'_, '_>,
    input: &str,
    given: &Distribution,
) -> Result<String, Failure> {
    if given.levels > 0 || given.zeros > 0.0 || given.one_hot || given.large_rows != 1.0 {
        return Err(refuse(format!(
            "task.yaml: input `{input}`: `standalone` cannot draw `levels`, `zeros`, `one_hot` or `large_rows`"
        ))
        .hint("export another format, such as `c`"));
    }
    let plain = |value: f64| number(Language::Cpp, value);
    let size = |axis: &str| format!("double(s.{})", super::names::identifier(axis));
    let is_known = |axis: &str| exporter.plan.axes.iter().any(|known| known.name == axis);
    let (kind, first, second) = match &given.kind {
        DistributionKind::Normal(deviation) => ("normal", plain(*deviation), plain(0.0)),
        DistributionKind::Uniform([low, high]) => ("uniform", plain(*low), plain(*high)),
        DistributionKind::Value(value) => ("value", plain(*value), plain(0.0)),
        DistributionKind::Cumulative(CumulativeTotal::Size(total)) => {
            ("cumulative", plain(*total as f64), plain(0.0))
        }
        DistributionKind::Cumulative(CumulativeTotal::Axis(axis)) if is_known(axis) => {
            ("cumulative", size(axis), plain(0.0))
        }
        DistributionKind::UniformBelow(low, high)
            if high.names().iter().all(|(axis, _)| is_known(axis)) =>
        {
            let high = high.to_code(Language::Cpp, &|axis| {
                format!("s.{}", super::names::identifier(axis))
            });
            let high = format!("double({high}) - 1.0");
            ("uniform", plain(*low), high)
        }
        _ => {
            return Err(refuse(format!(
                "task.yaml: input `{input}`: its distribution needs an axis that the kernel does not"
            )));
        }
    };
    let mean = plain(given.mean);
    let normalize = given.normalize.is_some();
    Ok(format!(
        "Distribution::{kind}, {first}, {second}, {mean}, {normalize}"
    ))
}

/// The outputs with the memory that holds them.
fn written(exporter: &Exporter<'_, '_>, code: &CppCode) -> Vec<WrittenOutput> {
    let outputs = exporter.plan.task.definition.outputs.keys();
    outputs
        .map(|output| {
            let memory = exporter.plan.overwritten_by(output).unwrap_or(output);
            let tensor = code.view.tensors.iter().find(|one| one.name == memory);
            WrittenOutput {
                ident: tensor.map_or_else(String::new, |tensor| tensor.ident.clone()),
                file: output.clone(),
            }
        })
        .collect()
}
