//! `kforge doctor`: what this machine has and lacks, with one remedy each.

use serde::Serialize;

use super::{Exit, Format, print, print_json, print_json_lines, use_colour};
use crate::device::cuda::compiler::{Compiler, find_toolkit as find_nvrtc};
use crate::device::{cpu, cuda};
use crate::llm;
use crate::verdict::DeviceIdentity;

/// Any will do to see whether the compiler loads.
const PROBE_ARCH: &str = "sm_90";

#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// The form of the results.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// One thing looked at.
#[derive(Serialize)]
struct DoctorCheck {
    name: &'static str,
    status: CheckStatus,
    found: String,
    /// What to do, where something is missing.
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum CheckStatus {
    Ok,
    /// Something that this version can do without.
    Warn,
    /// Nothing can be judged without it.
    Fail,
}

pub(super) fn run(arguments: DoctorArgs) -> anyhow::Result<Exit> {
    let checks = [
        check_compiler(),
        check_inspection(),
        check_sandbox(),
        check_cores(),
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
    Ok(
        if checks
            .iter()
            .any(|finding| finding.status == CheckStatus::Fail)
        {
            Exit::Environment
        } else {
            Exit::Done
        },
    )
}

fn check_compiler() -> DoctorCheck {
    let name = "C++ compiler";
    match cpu::CpuDevice::new() {
        Ok(device) => {
            let compiler = device.compiler();
            DoctorCheck {
                name,
                status: CheckStatus::Ok,
                found: format!("{} ({})", compiler.version, compiler.path.display()),
                remedy: None,
            }
        }
        Err(error) => {
            let failure = error.downcast_ref::<crate::base::Failure>();
            let (found, remedy) = failure.map_or_else(
                || (format!("{error:#}"), None),
                |failure| (failure.message.clone(), failure.hint.clone()),
            );
            DoctorCheck {
                name,
                status: CheckStatus::Fail,
                found,
                remedy,
            }
        }
    }
}

/// Whether kernels can be looked into: races, bounds, undefined behaviour.
fn check_inspection() -> DoctorCheck {
    let missing = cpu::CpuDevice::new().map(|device| device.missing_builds());
    let (status, found, remedy) = match missing {
        Ok(missing) if missing.is_empty() => (
            CheckStatus::Ok,
            "builds for bounds and races".to_owned(),
            None,
        ),
        Ok(missing) => {
            let each = missing
                .iter()
                .map(|(build, reason)| format!("no `{}` build: {reason}", build.name()));
            let remedy = "install g++ 11 or later, and name it in the environment variable CXX; without it races and accesses out of bounds are found only by their results";
            (
                CheckStatus::Warn,
                each.collect::<Vec<_>>().join("; "),
                Some(remedy.to_owned()),
            )
        }
        Err(_) => (CheckStatus::Warn, "no compiler".to_owned(), None),
    };
    DoctorCheck {
        name: "inspection",
        status,
        found,
        remedy,
    }
}

fn check_sandbox() -> DoctorCheck {
    let mechanisms = cpu::sandbox_support();
    let mut parts: Vec<String> = Vec::new();
    parts.extend(
        mechanisms
            .landlock
            .map(|version| format!("Landlock (version {version})")),
    );
    parts.extend(mechanisms.seccomp.then(|| "seccomp".to_owned()));
    parts.push("no capability".to_owned());
    parts.extend(mechanisms.runs_as_nobody.then(|| "user nobody".to_owned()));
    let mut remedies: Vec<String> = Vec::new();
    for missing in mechanisms.missing() {
        parts.push(format!("no {}", missing.name));
        remedies.push(format!("for {}: {}", missing.name, missing.remedy));
    }
    if cpu::CpuDevice::new().is_ok_and(|device| !device.is_static()) {
        parts.push("programs need a loader and libraries".to_owned());
        remedies.push("for programs that need no file: install the C library's static version, for example `libc6-dev` or `glibc-static`".to_owned());
    }
    DoctorCheck {
        name: "sandbox",
        status: match remedies.is_empty() {
            true => CheckStatus::Ok,
            false => CheckStatus::Warn,
        },
        found: parts.join(", "),
        remedy: (!remedies.is_empty()).then(|| remedies.join("; ")),
    }
}

fn check_cores() -> DoctorCheck {
    let cores = cpu::cores();
    let (status, remedy) = match cores {
        1 => (
            CheckStatus::Warn,
            Some("judging and compiling take turns on one core: allow the process more".to_owned()),
        ),
        _ => (CheckStatus::Ok, None),
    };
    DoctorCheck {
        name: "cores",
        status,
        found: format!("{cores}, {}", cpu::identity().name),
        remedy,
    }
}

/// The GPUs that kernels would be judged on. Makes no context on any of them.
fn check_gpus() -> DoctorCheck {
    let name = "GPUs";
    let gpus = match cuda::list_gpus() {
        Ok(cards) => cards,
        Err(failure) => return missing(name, &failure.into()),
    };
    if gpus.is_empty() {
        let remedy =
            "`nvidia-smi -L` tells which GPUs the driver sees; CUDA_VISIBLE_DEVICES may hide them";
        return DoctorCheck {
            name,
            status: CheckStatus::Warn,
            found: "none".to_owned(),
            remedy: Some(remedy.to_owned()),
        };
    }
    let users: Vec<_> = gpus.iter().map(cuda::compute_process_count).collect();
    let busy = users
        .iter()
        .any(|users| users.is_some_and(|users| users > 0));
    let each = gpus.iter().zip(&users).enumerate();
    let each = each.map(|(index, (card, users))| describe_gpu(index, card, *users));
    DoctorCheck {
        name,
        status: match busy {
            true => CheckStatus::Warn,
            false => CheckStatus::Ok,
        },
        found: each.collect::<Vec<_>>().join(&format!("\n{:20}", "")),
        remedy: busy.then(|| {
            "what others compute there moves times: wait for it, or leave the card out with `--set eval.devices=[…]`".to_owned()
        }),
    }
}

fn describe_gpu(index: usize, gpu: &DeviceIdentity, users: Option<usize>) -> String {
    let unknown = || "unknown".to_owned();
    let used = match users {
        None => "whether it is in use is not told".to_owned(),
        Some(0) => "not in use".to_owned(),
        Some(1) => "in use by a process".to_owned(),
        Some(users) => format!("in use by {users} processes"),
    };
    format!(
        "{index}: {} ({}), {}, driver {}, {used}",
        gpu.name,
        gpu.arch,
        gpu.uuid.clone().unwrap_or_else(unknown),
        gpu.driver.clone().unwrap_or_else(unknown)
    )
}

/// What looks into kernels on a GPU. Nothing needs it.
fn check_gpu_tools() -> DoctorCheck {
    let mut status = CheckStatus::Ok;
    let (mut found, mut remedies) = (Vec::new(), Vec::new());
    for (tool, package) in [
        ("ncu", "Nsight Compute"),
        ("compute-sanitizer", "the CUDA toolkit"),
    ] {
        match cuda::tools::find(tool) {
            Ok(path) => found.push(format!("{tool} ({})", path.display())),
            Err(_) => {
                status = CheckStatus::Warn;
                found.push(format!("no {tool}"));
                remedies.push(format!("for {tool}: install {package}"));
            }
        }
    }
    let has_gpu = cuda::list_gpus().is_ok_and(|cards| !cards.is_empty());
    found.extend(has_gpu.then(|| match cuda::tools::counters_denied() {
        Some(reason) => {
            remedies.push("for counters without an administrator: load the driver with `NVreg_RestrictProfilingToAdminUsers=0`".to_owned());
            reason
        }
        None => "counters may be read".to_owned(),
    }));
    DoctorCheck {
        name: "GPU tools",
        status,
        found: found.join(", "),
        remedy: (!remedies.is_empty()).then(|| remedies.join("; ")),
    }
}

/// CUDA's compiler, loaded as it would be for a kernel.
fn check_nvrtc() -> DoctorCheck {
    let name = "NVRTC";
    match Compiler::open(PROBE_ARCH) {
        Ok(compiler) => DoctorCheck {
            name,
            status: CheckStatus::Ok,
            found: format!(
                "{} ({})",
                compiler.version(),
                compiler.toolkit().library.display()
            ),
            remedy: None,
        },
        Err(error) => missing(name, &error),
    }
}

fn check_cuda_headers() -> DoctorCheck {
    let name = "CUDA headers";
    match find_nvrtc() {
        Ok(toolkit) => {
            let mut folders: Vec<_> = toolkit
                .includes
                .iter()
                .map(|folder| folder.display().to_string())
                .collect();
            folders.push(match &toolkit.cutlass {
                Some(folder) => format!("CUTLASS in {}", folder.display()),
                None => "no CUTLASS".to_owned(),
            });
            DoctorCheck {
                name,
                status: CheckStatus::Ok,
                found: folders.join(", "),
                remedy: toolkit.cutlass.is_none().then(|| {
                    "for kernels that include CUTLASS or CuTe: `pip install nvidia-cutlass`, or let CUTLASS_PATH name its folder".to_owned()
                }),
            }
        }
        Err(failure) => missing(name, &failure.into()),
    }
}

fn missing(name: &'static str, error: &anyhow::Error) -> DoctorCheck {
    let failure = error.downcast_ref::<crate::base::Failure>();
    let (found, remedy) = failure.map_or_else(
        || (format!("{error:#}"), None),
        |failure| (failure.message.clone(), failure.hint.clone()),
    );
    DoctorCheck {
        name,
        status: CheckStatus::Warn,
        found,
        remedy,
    }
}

fn check_model_keys() -> DoctorCheck {
    let found = llm::key_variables_set();
    let name = "model keys";
    match found.is_empty() {
        true => DoctorCheck {
            name,
            status: CheckStatus::Ok,
            found: "none; the search uses kforge's own operators".to_owned(),
            remedy: None,
        },
        false => DoctorCheck {
            name,
            status: CheckStatus::Ok,
            found: format!(
                "{} set: `llm.models: auto` takes the first",
                found.join(", ")
            ),
            remedy: None,
        },
    }
}

fn format_checks(checks: &[DoctorCheck]) -> String {
    let colour = use_colour(&std::io::stdout());
    let mut text = String::new();
    for finding in checks {
        let (word, code) = match finding.status {
            CheckStatus::Ok => ("ok  ", "32"),
            CheckStatus::Warn => ("warn", "33"),
            CheckStatus::Fail => ("fail", "31"),
        };
        let word = if colour {
            format!("\x1b[{code}m{word}\x1b[0m")
        } else {
            word.to_owned()
        };
        text += &format!("{word}  {:<13} {}\n", finding.name, finding.found);
        if let Some(remedy) = &finding.remedy {
            text += &format!("{:20}{remedy}\n", "");
        }
    }
    text
}
