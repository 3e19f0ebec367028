//! The kernels of a draft: the right launch and parameters, and the reference as a comment. They compile, and compute zeros.
//!
//! `JudgeContext` refuses to judge by them, because they have the mark of a draft.

use crate::task::definition::{AxisKind, Definition, Tensor};
use crate::task::dtype::DType;

/// A line of a kernel file whose computation is still to be written. Such a kernel is refused as an oracle or a baseline.
pub(crate) const DRAFT_MARK: &str = "kforge: draft";

/// The most lines of the reference that are quoted.
const MAX_QUOTED_LINES: usize = 120;

/// A kernel file. The outputs of an oracle are `double`.
pub(super) fn kernel(definition: &Definition, is_oracle: bool) -> String {
    let name = if is_oracle { "oracle" } else { "naive" };
    let sizes: Vec<(String, String)> = (definition.outputs.iter())
        .map(|(output, tensor)| (output.clone(), elements(tensor)))
        .collect();
    let axes: Vec<&str> = (definition.axes.iter())
        .filter(|(_, axis)| axis.kind != AxisKind::Const)
        .map(|(axis, _)| axis.as_str())
        .collect();
    let tensors = definition.inputs.keys().chain(definition.outputs.keys());
    let mut arguments: Vec<String> = tensors.cloned().collect();
    arguments.extend(axes.iter().map(|axis| (*axis).to_owned()));
    arguments.extend(sizes.iter().map(|(_, size)| format!("i64({size})")));
    let all_sizes: Vec<_> = sizes.iter().map(|(_, size)| size.as_str()).collect();
    let largest = match all_sizes.as_slice() {
        [only] => (*only).to_owned(),
        several => format!("max({})", several.join(", ")),
    };
    let mut text = format!(
        "/* kforge\nlaunch:\n  - kernel: {name}\n    grid: ceil_div({largest}, 256)\n    block: 256\n    args: {}\n*/\n\n",
        arguments.join(", ")
    );
    text += &comment(definition, is_oracle);
    text += &includes(definition);
    text += &format!(
        "__global__ void {name}({}) {{\n    const long long element = (long long)blockIdx.x * blockDim.x + threadIdx.x;\n",
        parameters(definition, is_oracle, &axes)
    );
    for (output, tensor) in &definition.outputs {
        let element_type = element_type(tensor, is_oracle);
        text += &format!(
            "    if (element < {output}_elements) {output}[element] = ({element_type})0.0f;\n"
        );
    }
    text + "}\n"
}

fn comment(definition: &Definition, is_oracle: bool) -> String {
    let role = if is_oracle {
        "// The reference that results are judged by: write it in double precision, as simply as possible. The outputs of an oracle\n// are `double*` whatever their dtype is in definition.json."
    } else {
        "// The baseline, and the kernel that a search starts from: a direct translation of the definition. Outputs have their dtype."
    };
    let constants: Vec<_> = (definition.constants())
        .map(|(axis, value)| format!("{} = {value}", axis.to_uppercase()))
        .collect();
    let mut text = format!(
        "// {DRAFT_MARK}. It writes zeros. Write the computation, then delete this line.\n//\n{role}\n"
    );
    if !constants.is_empty() {
        let list = constants.join(", ");
        text += &format!("// Constant axes are known in upper case: {list}.\n");
    }
    let reference: Vec<_> = definition.reference.lines().collect();
    if !reference.is_empty() {
        text += "//\n";
        for line in reference.iter().take(MAX_QUOTED_LINES) {
            // A backslash at the end would continue the comment on the next line.
            let line = line.trim_end().trim_end_matches('\\');
            text += format!("//     {line}").trim_end();
            text += "\n";
        }
    }
    text + "\n"
}

fn includes(definition: &Definition) -> String {
    let tensors = || {
        definition
            .inputs
            .values()
            .chain(definition.outputs.values())
    };
    let uses = |dtypes: &[DType]| tensors().any(|tensor| dtypes.contains(&tensor.dtype));
    let mut text = String::new();
    for (header, dtypes) in [
        ("cuda_fp16.h", &[DType::Float16][..]),
        ("cuda_bf16.h", &[DType::BFloat16]),
        ("cuda_fp8.h", &[DType::Float8E4M3, DType::Float8E5M2]),
    ] {
        if uses(dtypes) {
            text += &format!("#include <{header}>\n");
        }
    }
    if !text.is_empty() {
        text += "\n";
    }
    text
}

fn parameters(definition: &Definition, is_oracle: bool, axes: &[&str]) -> String {
    let mut parameters = Vec::new();
    for (name, tensor) in &definition.inputs {
        let element = tensor.dtype.cuda_type();
        parameters.push(match tensor.shape {
            Some(_) => format!("const {element}* {name}"),
            None => format!("{element} {name}"),
        });
    }
    for (name, tensor) in &definition.outputs {
        parameters.push(format!("{}* {name}", element_type(tensor, is_oracle)));
    }
    parameters.extend(axes.iter().map(|axis| format!("int {axis}")));
    let outputs = definition.outputs.keys();
    parameters.extend(outputs.map(|name| format!("long long {name}_elements")));
    parameters.join(", ")
}

fn element_type(tensor: &Tensor, is_oracle: bool) -> &'static str {
    if is_oracle {
        "double"
    } else {
        tensor.dtype.cuda_type()
    }
}

/// The number of elements of a tensor, as an expression.
fn elements(tensor: &Tensor) -> String {
    let axes: Vec<_> = tensor.shape.iter().flatten().map(String::as_str).collect();
    if axes.is_empty() {
        return "1".to_owned();
    }
    axes.join(" * ")
}
