//! Format `c`: a header with plain C functions, and a CUDA file that defines them. The C++ formats are built on the same two files.

use anyhow::Result;
use serde_json::json;

use super::nvcc_source::device_text;
use super::request::{ExportedFiles, Exporter};
use super::template::{comment, render};
use super::view::{PlanView, ViewMaker};

const HEADER: &str = include_str!("templates/kernel.h.j2");
const SOURCE: &str = include_str!("templates/kernel.cu.j2");
/// The checked arithmetic of expressions in C++.
pub(super) const ARITHMETIC: &str = include_str!("templates/arithmetic.h");
const VALUES: &str = include_str!("templates/values.h");
const SMALL_FLOATS: &str = include_str!("templates/small_floats.h");

/// The interface and the code of a kernel in C++.
pub(super) struct CppCode {
    pub(super) view: PlanView,
    /// The comment at the top of every file.
    pub(super) banner: String,
    /// The C header.
    pub(super) header: String,
    /// The CUDA file. It includes the header, or has it.
    pub(super) source: String,
    /// The options of nvcc that the code needs.
    pub(super) flags: Vec<String>,
}

pub(super) fn export(exporter: &Exporter<'_, '_>) -> Result<ExportedFiles> {
    let code = cpp_code(exporter, false)?;
    let name = exporter.plan.name;
    Ok(ExportedFiles::from([
        (format!("{name}.h"), code.header),
        (format!("{name}.cu"), code.source),
    ]))
}

/// Makes the code. `has_header`: the CUDA file contains its header instead of including it.
pub(super) fn cpp_code(exporter: &Exporter<'_, '_>, has_header: bool) -> Result<CppCode> {
    let plan = exporter.plan;
    let view = ViewMaker::cpp(plan).view();
    let banner = comment(&exporter.provenance.lines(), "//");
    let flags = flags(exporter, &view);
    let given: Vec<_> = view.axes.iter().filter(|axis| axis.is_given()).collect();
    let header = render(
        "kernel.h",
        HEADER,
        json!({"p": view, "given": given, "banner": block_comment(&exporter.provenance.lines())}),
    )?;
    let interface = if has_header {
        header.clone()
    } else {
        format!("#include \"{}.h\"", plan.name)
    };
    let values: &[&str] = match uses_small_floats(&view) {
        true => &[VALUES, SMALL_FLOATS],
        false => &[VALUES],
    };
    let source = render(
        "kernel.cu",
        SOURCE,
        json!({
            "p": view,
            "banner": banner,
            "flags": flags,
            "interface": interface,
            "arithmetic": ARITHMETIC,
            "value_functions": values.concat(),
            "small_floats": uses_small_floats(&view),
            "device": device_text(plan, &launch_functions(&view))?,
        }),
    )?;
    Ok(CppCode {
        view,
        banner,
        header,
        source,
        flags,
    })
}

/// Lines as one comment of C.
fn block_comment(lines: &[String]) -> String {
    comment(lines, " *").replacen(" *", "/*", 1) + " */"
}

/// Whether a launch passes a scalar of a type that C does not have.
fn uses_small_floats(view: &PlanView) -> bool {
    let mut arguments = view.launches.iter().flat_map(|launch| &launch.arguments);
    arguments.any(|argument| {
        ["scalar_float16(", "scalar_bfloat16(", "scalar_float8"]
            .iter()
            .any(|function| argument.starts_with(function))
    })
}

/// The functions that start each launch, where the macros of the source hold.
fn launch_functions(view: &PlanView) -> String {
    let functions = view.launches.iter().enumerate().map(|(index, launch)| {
        format!(
            "template <class... Arguments>\n[[maybe_unused]] static void kforge_launch_{index}(const \
             ::kforge_{name}_host::Launch& launch, Arguments... arguments) {{\n    \
             ::kforge_{name}_host::start(launch, {kernel}, arguments...);\n}}\n",
            name = view.name,
            kernel = launch.kernel,
        )
    });
    functions.collect()
}

/// The options of nvcc that give the judged code.
fn flags(exporter: &Exporter<'_, '_>, view: &PlanView) -> Vec<String> {
    let mut flags = vec![
        "-std=c++17".to_owned(),
        "-O3".to_owned(),
        "--expt-relaxed-constexpr".to_owned(),
        "-diag-suppress=177,47".to_owned(),
        arch_flag(&arch(exporter, view)),
    ];
    if view.fast_math {
        flags.push("--use_fast_math".to_owned());
    }
    if let Some(registers) = view.max_registers {
        flags.push(format!("-maxrregcount={registers}"));
    }
    flags
}

/// The option of nvcc for an architecture. From CUDA 13.5 on `-arch=sm_90a` also makes PTX for `compute_90`, which lacks what a kernel needs
/// `sm_90a` for.
pub(super) fn arch_flag(arch: &str) -> String {
    match arch.strip_prefix("sm_") {
        Some(number) if number.ends_with(|end: char| end.is_ascii_alphabetic()) => {
            format!("-gencode=arch=compute_{number},code=sm_{number}")
        }
        _ => format!("-arch={arch}"),
    }
}

/// Whether an option of nvcc chooses the C++ standard or the architecture, which builds with tools of their own choose themselves.
pub(super) fn chooses_target(flag: &str) -> bool {
    ["-std=", "-arch=", "-gencode="]
        .iter()
        .any(|start| flag.starts_with(start))
}

/// The architecture to compile for: the header's, else that of the GPU that judged, else that of the machine.
pub(super) fn arch(exporter: &Exporter<'_, '_>, view: &PlanView) -> String {
    let judged = exporter.provenance.judged.as_ref();
    let judged = judged.filter(|judged| judged.arch.starts_with("sm_"));
    let arch = view.arch.clone();
    let arch = arch.or_else(|| judged.map(|judged| judged.arch.clone()));
    arch.unwrap_or_else(|| "native".to_owned())
}
