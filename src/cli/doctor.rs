//! `kforge doctor`: what this machine has and what kforge uses it for, what it lacks, and how to get it.
//!
//! Each check opens the real thing (compiler, sandbox, NVRTC), as judging a kernel would. Changes nothing, and creates no context
//! on a GPU.

use std::io::IsTerminal;

use serde::Serialize;

use super::exit::{self, Exit};
use super::output::{Format, print, print_json, print_json_lines, use_colour};
use crate::base::Failure;
use crate::device::cuda::compiler::{Compiler, find_toolkit};
use crate::device::{cpu, cuda, lock_scope};
use crate::verdict::DeviceIdentity;
use crate::{llm, report};

/// Architecture for the test whether NVRTC loads. Any architecture works.
const PROBE_ARCH: &str = "sm_90";

/// Columns before the text of a check.
const INDENT: usize = 24;

/// Arguments of `kforge doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct DoctorArgs {
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The result of one check.
#[derive(Serialize)]
struct DoctorCheck {
    name: &'static str,
    status: CheckStatus,
    found: String,
    /// What kforge does with it.
    used_for: &'static str,
    /// What to do if something is missing. Each check is about one thing, so it has at most one remedy.
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum CheckStatus {
    Ok,
    /// kforge works without it.
    Warn,
    /// Nothing can be judged without it.
    Fail,
}

impl DoctorCheck {
    fn ok(name: &'static str, found: String) -> Self {
        Self {
            name,
            status: CheckStatus::Ok,
            found,
            used_for: used_for(name),
            remedy: None,
        }
    }

    fn warn(name: &'static str, found: String, remedy: impl Into<String>) -> Self {
        Self {
            status: CheckStatus::Warn,
            remedy: Some(remedy.into()),
            ..Self::ok(name, found)
        }
    }

    fn failed(name: &'static str, status: CheckStatus, error: &anyhow::Error) -> Self {
        let failure = error.downcast_ref::<Failure>();
        let (found, remedy) = failure.map_or_else(
            || (format!("{error:#}"), None),
            |failure| (failure.message.clone(), failure.hint.clone()),
        );
        Self {
            status,
            remedy,
            ..Self::ok(name, found)
        }
    }
}

/// What kforge does with the thing that a check is about.
fn used_for(name: &str) -> &'static str {
    match name {
        "C++ compiler" => "judging kernels on the CPU, and oracles in `tasks check`",
        "inspection" => "finding races and out-of-bounds accesses",
        "sandbox" => "keeping kernels away from files, the network and other processes",
        "static linking" => "running kernels in a process that loads no shared library",
        "cores" => "compiling kernels while others are timed",
        "timing lock" => "timing one kernel at a time, also with several kforge processes",
        "GPUs" => "judging kernels on a GPU",
        "ncu" => "`eval.counters`: counters of confirmed kernels",
        "ncu counters" => "reading `ncu` counters",
        "compute-sanitizer" => "`eval.device_sanitize`: memory checks of confirmed kernels",
        "NVRTC" => "compiling kernels for a GPU, also without one (`eval --compile-only`)",
        "CUDA headers" => "kernels that include `cuda_fp16.h`, `cub` or `mma.h`",
        "CUTLASS" => "kernels that include CUTLASS or CuTe",
        "model keys" => "asking models for kernels",
        "python3" => "`init --function`, and finding NVRTC in Python packages",
        // The parts of the sandbox that are missing.
        _ => "the sandbox",
    }
}

fn help() -> String {
    exit::help(
        "",
        &[
            ("kforge doctor", "check this machine"),
            (
                "kforge doctor --format json | jq -r '.[] | select(.remedy) | .remedy'",
                "what to install",
            ),
        ],
        exit::DOCTOR_CODES,
    )
}

pub(super) fn run(arguments: DoctorArgs) -> anyhow::Result<Exit> {
    let mut checks = vec![check_compiler(), check_inspection()];
    checks.extend(check_sandbox());
    checks.extend([check_cores(), check_timing_lock(), check_gpus()]);
    checks.extend(check_gpu_tools());
    checks.push(check_nvrtc());
    checks.extend(check_cuda_headers());
    checks.extend([check_model_keys(), check_python()]);
    match arguments.format {
        Format::Human => print(&format_checks(&checks))?,
        Format::Json => print_json(&checks)?,
        Format::Jsonl => print_json_lines(&checks)?,
    }
    let mut all = checks.iter();
    let is_broken = all.any(|check| check.status == CheckStatus::Fail);
    Ok(if is_broken {
        Exit::Environment
    } else {
        Exit::Done
    })
}

fn check_compiler() -> DoctorCheck {
    let name = "C++ compiler";
    match cpu::CpuDevice::new() {
        Ok(device) => {
            let compiler = device.compiler();
            let found = format!("{} ({})", compiler.version, compiler.path.display());
            DoctorCheck::ok(name, found)
        }
        Err(error) => DoctorCheck::failed(name, CheckStatus::Fail, &error),
    }
}

/// Whether the builds that find races and out-of-bounds accesses can be made.
fn check_inspection() -> DoctorCheck {
    let name = "inspection";
    let Ok(device) = cpu::CpuDevice::new() else {
        let remedy = "install a C++ compiler";
        return DoctorCheck::warn(name, "no compiler".to_owned(), remedy);
    };
    let missing = device.missing_builds();
    if missing.is_empty() {
        return DoctorCheck::ok(name, "bounds and race builds".to_owned());
    }
    let found: Vec<_> = missing
        .iter()
        .map(|(build, reason)| format!("no `{}` build: {reason}", build.name()))
        .collect();
    let remedy = "install g++ 11 or later and set CXX to it; without these builds, races and out-of-bounds accesses are found only if results are wrong";
    DoctorCheck::warn(name, found.join(", "), remedy)
}

/// What the sandbox has, then a check for each part that is missing.
fn check_sandbox() -> Vec<DoctorCheck> {
    let support = cpu::sandbox_support();
    let mut found: Vec<String> = Vec::new();
    found.extend(
        support
            .landlock
            .map(|version| format!("Landlock (version {version})")),
    );
    found.extend(support.seccomp.then(|| "seccomp".to_owned()));
    found.push("no capabilities".to_owned());
    found.extend(support.runs_as_nobody.then(|| "user nobody".to_owned()));
    let missing = support.missing();
    found.extend(missing.iter().map(|part| format!("no {}", part.name)));
    let mut checks = vec![DoctorCheck::ok("sandbox", String::new())];
    for part in missing {
        checks[0].status = CheckStatus::Warn;
        let text = "not available".to_owned();
        checks.push(DoctorCheck::warn(part.name, text, part.remedy));
    }
    checks[0].found = found.join(", ");
    if let Ok(device) = cpu::CpuDevice::new() {
        let name = "static linking";
        let remedy = "install the static C library, such as `libc6-dev` or `glibc-static`";
        checks.push(if device.is_static() {
            DoctorCheck::ok(name, "available".to_owned())
        } else {
            DoctorCheck::warn(name, "kernels are linked dynamically".to_owned(), remedy)
        });
    }
    checks
}

fn check_cores() -> DoctorCheck {
    let cores = cpu::cores();
    let found = format!("{cores}, {}", cpu::identity().name);
    if cores > 1 {
        return DoctorCheck::ok("cores", found);
    }
    let remedy = "give the process more cores: with one, kforge cannot compile while it judges";
    DoctorCheck::warn("cores", found, remedy)
}

/// Whether kforge processes in other containers and jobs share the timing lock with this one.
fn check_timing_lock() -> DoctorCheck {
    let name = "timing lock";
    let scope = lock_scope();
    let folder = scope.folder.display();
    let Some(reason) = &scope.private else {
        let found = format!("{folder}, shared by all kforge processes of this machine");
        return DoctorCheck::ok(name, found);
    };
    let remedy = "if other containers or jobs of this machine run kforge: give all of them one folder, and set KFORGE_LOCK_DIR to it";
    DoctorCheck::warn(name, format!("{folder}, not shared: {reason}"), remedy)
}

/// The GPUs that can judge, with the number of processes that use each.
fn check_gpus() -> DoctorCheck {
    let name = "GPUs";
    let gpus = match cuda::list_gpus() {
        Ok(gpus) => gpus,
        Err(failure) => return DoctorCheck::failed(name, CheckStatus::Warn, &failure.into()),
    };
    if gpus.is_empty() {
        let remedy = "`nvidia-smi -L` lists the GPUs that the driver sees; CUDA_VISIBLE_DEVICES can hide them";
        return DoctorCheck::warn(name, "none".to_owned(), remedy);
    }
    let processes: Vec<_> = gpus.iter().map(cuda::compute_process_count).collect();
    let is_busy = processes.iter().any(|count| count.unwrap_or(0) > 0);
    let lines = gpus.iter().zip(&processes).enumerate();
    let lines = lines.map(|(index, (gpu, count))| describe_gpu(index, gpu, *count));
    let found = lines.collect::<Vec<_>>().join("\n");
    if !is_busy {
        return DoctorCheck::ok(name, found);
    }
    let remedy = "other processes on a GPU change times: wait for them, or leave the GPU out with `--set eval.devices=[…]`";
    DoctorCheck::warn(name, found, remedy)
}

fn describe_gpu(index: usize, gpu: &DeviceIdentity, processes: Option<usize>) -> String {
    let unknown = || "unknown".to_owned();
    let used = match processes {
        None => "use unknown".to_owned(),
        Some(0) => "not in use".to_owned(),
        Some(1) => "in use by 1 process".to_owned(),
        Some(count) => format!("in use by {count} processes"),
    };
    format!(
        "{index}: {} ({}), {}, driver {}, {used}",
        gpu.name,
        gpu.arch,
        gpu.uuid.clone().unwrap_or_else(unknown),
        gpu.driver.clone().unwrap_or_else(unknown)
    )
}

/// Profilers for kernels on a GPU; optional.
fn check_gpu_tools() -> Vec<DoctorCheck> {
    let tools = [
        ("ncu", "install Nsight Compute"),
        ("compute-sanitizer", "install the CUDA toolkit"),
    ];
    let mut checks: Vec<_> = tools
        .into_iter()
        .map(|(tool, remedy)| match cuda::tools::find(tool) {
            Ok(path) => DoctorCheck::ok(tool, path.display().to_string()),
            Err(_) => DoctorCheck::warn(tool, "not found".to_owned(), remedy),
        })
        .collect();
    if cuda::list_gpus().is_ok_and(|gpus| !gpus.is_empty()) {
        let name = "ncu counters";
        let remedy = "for counters without root: load the driver with `NVreg_RestrictProfilingToAdminUsers=0`";
        checks.push(match cuda::tools::counters_denied() {
            None => DoctorCheck::ok(name, "readable".to_owned()),
            Some(reason) => DoctorCheck::warn(name, reason, remedy),
        });
    }
    checks
}

/// NVRTC, loaded as for a kernel.
fn check_nvrtc() -> DoctorCheck {
    let name = "NVRTC";
    match Compiler::open(PROBE_ARCH) {
        Ok(compiler) => {
            let library = compiler.toolkit().library.display().to_string();
            DoctorCheck::ok(name, format!("{} ({library})", compiler.version()))
        }
        Err(error) => DoctorCheck::failed(name, CheckStatus::Warn, &error),
    }
}

fn check_cuda_headers() -> Vec<DoctorCheck> {
    let name = "CUDA headers";
    let Ok(toolkit) = find_toolkit() else {
        let remedy = "they come with NVRTC: see there";
        return vec![DoctorCheck::warn(name, "not found".to_owned(), remedy)];
    };
    let folders = toolkit.includes.iter();
    let folders: Vec<_> = folders.map(|folder| folder.display().to_string()).collect();
    let cutlass = match &toolkit.cutlass {
        Some(folder) => DoctorCheck::ok("CUTLASS", folder.display().to_string()),
        None => DoctorCheck {
            // Few kernels need CUTLASS: no reason to warn.
            remedy: Some("run `pip install nvidia-cutlass`, or set CUTLASS_PATH".to_owned()),
            ..DoctorCheck::ok("CUTLASS", "not found".to_owned())
        },
    };
    vec![DoctorCheck::ok(name, folders.join(", ")), cutlass]
}

fn check_model_keys() -> DoctorCheck {
    let keys = llm::key_variables_set();
    let found = if keys.is_empty() {
        "none; searches use kforge's own operators".to_owned()
    } else {
        format!("{}; `llm.models: auto` takes the first", keys.join(", "))
    };
    DoctorCheck::ok("model keys", found)
}

/// Few commands need Python: no reason to warn.
fn check_python() -> DoctorCheck {
    let name = "python3";
    let output = std::process::Command::new(name)
        .args(["-I", "--version"])
        .stdin(std::process::Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            DoctorCheck::ok(name, version)
        }
        _ => DoctorCheck {
            remedy: Some("install Python 3.8 or later".to_owned()),
            ..DoctorCheck::ok(name, "not found".to_owned())
        },
    }
}

fn format_checks(checks: &[DoctorCheck]) -> String {
    let colour = use_colour(&std::io::stdout());
    let width = std::io::stdout()
        .is_terminal()
        .then_some(report::TERMINAL_WIDTH - INDENT);
    let mut text = String::new();
    for check in checks {
        let (word, code) = match check.status {
            CheckStatus::Ok => ("ok  ", "32"),
            CheckStatus::Warn => ("warn", "33"),
            CheckStatus::Fail => ("fail", "31"),
        };
        let word = if colour {
            format!("\x1b[{code}m{word}\x1b[0m")
        } else {
            word.to_owned()
        };
        let found = wrap(&check.found, width);
        text += &format!("{word}  {:<17} {found}\n", check.name);
        let used_for = format!("for {}", check.used_for);
        text += &format!("{:INDENT$}{}\n", "", wrap(&used_for, width));
        if let Some(remedy) = &check.remedy {
            let remedy = format!("to do: {remedy}");
            text += &format!("{:INDENT$}{}\n", "", wrap(&remedy, width));
        }
    }
    text
}

/// Wraps words to a width and indents the lines after the first. Without a width only the text's own lines are indented.
fn wrap(text: &str, width: Option<usize>) -> String {
    let end = width.map_or(usize::MAX, |width| width + INDENT);
    report::wrap(text, end, INDENT).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_wrapped_and_indented() {
        assert_eq!(
            wrap("one two three", Some(8)),
            format!("one two\n{:24}three", "")
        );
        assert_eq!(wrap("one two", None), "one two");
        assert_eq!(wrap("a\nb", None), format!("a\n{:24}b", ""));
        assert_eq!(wrap("/a/very/long/path", Some(5)), "/a/very/long/path");
    }
}
