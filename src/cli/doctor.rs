//! `kforge doctor`: what this machine has, what it lacks, and how to get it.
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
const INDENT: usize = 20;

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
    /// What to do if something is missing.
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
            remedy: None,
        }
    }

    fn failed(name: &'static str, status: CheckStatus, error: &anyhow::Error) -> Self {
        let failure = error.downcast_ref::<Failure>();
        let (found, remedy) = failure.map_or_else(
            || (format!("{error:#}"), None),
            |failure| (failure.message.clone(), failure.hint.clone()),
        );
        Self {
            name,
            status,
            found,
            remedy,
        }
    }

    /// `Warn` if there are remedies, else `Ok`.
    fn with_remedies(name: &'static str, found: Vec<String>, remedies: Vec<String>) -> Self {
        let is_ok = remedies.is_empty();
        Self {
            name,
            status: if is_ok {
                CheckStatus::Ok
            } else {
                CheckStatus::Warn
            },
            found: found.join(", "),
            remedy: (!is_ok).then(|| remedies.join("; ")),
        }
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
    let checks = [
        check_compiler(),
        check_inspection(),
        check_sandbox(),
        check_cores(),
        check_timing_lock(),
        check_gpus(),
        check_gpu_tools(),
        check_nvrtc(),
        check_cuda_headers(),
        check_model_keys(),
    ];
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
        return DoctorCheck {
            name,
            status: CheckStatus::Warn,
            found: "no compiler".to_owned(),
            remedy: None,
        };
    };
    let missing = device.missing_builds();
    if missing.is_empty() {
        return DoctorCheck::ok(name, "bounds and race builds".to_owned());
    }
    let found = missing
        .iter()
        .map(|(build, reason)| format!("no `{}` build: {reason}", build.name()));
    let remedy = "install g++ 11 or later and set CXX to it; without these builds, races and out-of-bounds accesses are found only if results are wrong";
    DoctorCheck::with_remedies(name, found.collect(), vec![remedy.to_owned()])
}

fn check_sandbox() -> DoctorCheck {
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
    let mut remedies: Vec<String> = Vec::new();
    for missing in support.missing() {
        found.push(format!("no {}", missing.name));
        remedies.push(format!("for {}: {}", missing.name, missing.remedy));
    }
    if cpu::CpuDevice::new().is_ok_and(|device| !device.is_static()) {
        found.push("kernels are linked dynamically".to_owned());
        remedies.push("to link kernels statically, so that their process loads no shared library: install the static C library, such as `libc6-dev` or `glibc-static`".to_owned());
    }
    DoctorCheck::with_remedies("sandbox", found, remedies)
}

fn check_cores() -> DoctorCheck {
    let cores = cpu::cores();
    let found = vec![cores.to_string(), cpu::identity().name];
    let remedy =
        "with one core, kforge cannot compile while it judges: give the process more cores";
    let remedies = (cores == 1).then(|| remedy.to_owned());
    DoctorCheck::with_remedies("cores", found, remedies.into_iter().collect())
}

/// Whether kforge processes in other containers and jobs share the timing lock with this one.
fn check_timing_lock() -> DoctorCheck {
    let scope = lock_scope();
    let folder = scope.folder.display();
    let found = match &scope.private {
        None => format!("{folder}, shared by all kforge processes of this machine"),
        Some(reason) => format!("{folder}, not shared: {reason}"),
    };
    let remedy = "if other containers or jobs of this machine run kforge: give all of them one folder, and set KFORGE_LOCK_DIR to it";
    let remedies = scope.private.map(|_| remedy.to_owned());
    DoctorCheck::with_remedies("timing lock", vec![found], remedies.into_iter().collect())
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
        return DoctorCheck::with_remedies(name, vec!["none".to_owned()], vec![remedy.to_owned()]);
    }
    let processes: Vec<_> = gpus.iter().map(cuda::compute_process_count).collect();
    let is_busy = processes.iter().any(|count| count.unwrap_or(0) > 0);
    let lines = gpus.iter().zip(&processes).enumerate();
    let lines = lines.map(|(index, (gpu, count))| describe_gpu(index, gpu, *count));
    DoctorCheck {
        name,
        status: if is_busy {
            CheckStatus::Warn
        } else {
            CheckStatus::Ok
        },
        found: lines.collect::<Vec<_>>().join("\n"),
        remedy: is_busy.then(|| {
            "other processes on a GPU change times: wait for them, or leave the GPU out with `--set eval.devices=[…]`".to_owned()
        }),
    }
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
fn check_gpu_tools() -> DoctorCheck {
    let (mut found, mut remedies) = (Vec::new(), Vec::new());
    for (tool, package) in [
        ("ncu", "Nsight Compute"),
        ("compute-sanitizer", "the CUDA toolkit"),
    ] {
        match cuda::tools::find(tool) {
            Ok(path) => found.push(format!("{tool} ({})", path.display())),
            Err(_) => {
                found.push(format!("no {tool}"));
                remedies.push(format!("for {tool}: install {package}"));
            }
        }
    }
    let mut check = DoctorCheck::with_remedies("GPU tools", found, remedies);
    if cuda::list_gpus().is_ok_and(|gpus| !gpus.is_empty()) {
        check.found += ", ";
        match cuda::tools::counters_denied() {
            None => check.found += "counters are readable",
            Some(reason) => {
                check.found += &reason;
                let remedy = "for counters without root: load the driver with `NVreg_RestrictProfilingToAdminUsers=0`";
                check.remedy = Some(match check.remedy {
                    Some(others) => format!("{others}; {remedy}"),
                    None => remedy.to_owned(),
                });
            }
        }
    }
    check
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

fn check_cuda_headers() -> DoctorCheck {
    let name = "CUDA headers";
    let Ok(toolkit) = find_toolkit() else {
        // The NVRTC check fails for the same reason and shows the remedy.
        return DoctorCheck {
            name,
            status: CheckStatus::Warn,
            found: "see NVRTC".to_owned(),
            remedy: None,
        };
    };
    let folders = toolkit.includes.iter();
    let mut found: Vec<_> = folders.map(|folder| folder.display().to_string()).collect();
    found.push(match &toolkit.cutlass {
        Some(folder) => format!("CUTLASS in {}", folder.display()),
        None => "no CUTLASS".to_owned(),
    });
    DoctorCheck {
        // Few kernels need CUTLASS: no reason to warn.
        remedy: toolkit.cutlass.is_none().then(|| {
            "for kernels that include CUTLASS or CuTe: `pip install nvidia-cutlass`, or set CUTLASS_PATH".to_owned()
        }),
        ..DoctorCheck::ok(name, found.join(", "))
    }
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
        text += &format!("{word}  {:<13} {found}\n", check.name);
        if let Some(remedy) = &check.remedy {
            text += &format!("{:INDENT$}{}\n", "", wrap(remedy, width));
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
            format!("one two\n{:20}three", "")
        );
        assert_eq!(wrap("one two", None), "one two");
        assert_eq!(wrap("a\nb", None), format!("a\n{:20}b", ""));
        assert_eq!(wrap("/a/very/long/path", Some(5)), "/a/very/long/path");
    }
}
