//! `kforge doctor`: what this machine has and lacks, with one remedy each.

use serde::Serialize;

use super::{Exit, Format, is_colourful, print, print_json, print_json_lines};
use crate::config::model_keys;
use crate::device::cpu;
use crate::device::cuda::compiler::{Compiler, find as find_nvrtc};

/// Any will do to see whether the compiler loads.
const DOCTOR_ARCH: &str = "sm_90";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The form of the results.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// One thing looked at.
#[derive(Serialize)]
struct Finding {
    name: &'static str,
    status: Health,
    found: String,
    /// What to do, where something is missing.
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Health {
    Ok,
    /// Something that this version can do without.
    Warn,
    /// Nothing can be judged without it.
    Fail,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let findings = [
        compiler(),
        inspection(),
        sandbox(),
        cores(),
        cuda(),
        nvrtc(),
        headers(),
        keys(),
    ];
    match arguments.format {
        Format::Human => print(&table(&findings))?,
        Format::Json => print_json(&findings)?,
        Format::Jsonl => print_json_lines(&findings)?,
    }
    Ok(
        if findings
            .iter()
            .any(|finding| finding.status == Health::Fail)
        {
            Exit::Environment
        } else {
            Exit::Done
        },
    )
}

fn compiler() -> Finding {
    let name = "C++ compiler";
    match cpu::CpuDevice::new() {
        Ok(device) => {
            let compiler = device.compiler();
            Finding {
                name,
                status: Health::Ok,
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
            Finding {
                name,
                status: Health::Fail,
                found,
                remedy,
            }
        }
    }
}

/// Whether kernels can be looked into: races, bounds, undefined behaviour.
fn inspection() -> Finding {
    let missing = cpu::CpuDevice::new().map(|device| device.missing_builds());
    let (status, found, remedy) = match missing {
        Ok(missing) if missing.is_empty() => {
            (Health::Ok, "builds for bounds and races".to_owned(), None)
        }
        Ok(missing) => {
            let each = missing
                .iter()
                .map(|(build, reason)| format!("no `{}` build: {reason}", build.name()));
            let remedy = "install g++ 11 or later, and name it in the environment variable CXX; without it races and accesses out of bounds are found only by their results";
            (
                Health::Warn,
                each.collect::<Vec<_>>().join("; "),
                Some(remedy.to_owned()),
            )
        }
        Err(_) => (Health::Warn, "no compiler".to_owned(), None),
    };
    Finding {
        name: "inspection",
        status,
        found,
        remedy,
    }
}

fn sandbox() -> Finding {
    let found = cpu::mechanisms();
    let mut parts: Vec<String> = Vec::new();
    parts.extend(
        found
            .landlock
            .map(|version| format!("Landlock (version {version})")),
    );
    parts.extend(found.seccomp.then(|| "seccomp".to_owned()));
    parts.push("no capability".to_owned());
    parts.extend(found.nobody.then(|| "user nobody".to_owned()));
    let mut remedies: Vec<String> = Vec::new();
    for missing in found.missing() {
        parts.push(format!("no {}", missing.name));
        remedies.push(format!("for {}: {}", missing.name, missing.remedy));
    }
    if cpu::CpuDevice::new().is_ok_and(|device| !device.is_static()) {
        parts.push("programs need a loader and libraries".to_owned());
        remedies.push("for programs that need no file: install the C library's static version, for example `libc6-dev` or `glibc-static`".to_owned());
    }
    Finding {
        name: "sandbox",
        status: match remedies.is_empty() {
            true => Health::Ok,
            false => Health::Warn,
        },
        found: parts.join(", "),
        remedy: (!remedies.is_empty()).then(|| remedies.join("; ")),
    }
}

fn cores() -> Finding {
    let cores = cpu::cores();
    let (status, remedy) = match cores {
        1 => (
            Health::Warn,
            Some("judging and compiling take turns on one core: allow the process more".to_owned()),
        ),
        _ => (Health::Ok, None),
    };
    Finding {
        name: "cores",
        status,
        found: format!("{cores}, {}", cpu::identity().name),
        remedy,
    }
}

fn cuda() -> Finding {
    let name = "CUDA driver";
    // SAFETY: only asks the loader whether the library is there; nothing of it is called.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        let remedy = "this version judges on the CPU; a GPU will need NVIDIA's driver".to_owned();
        return Finding {
            name,
            status: Health::Warn,
            found: "no libcuda".to_owned(),
            remedy: Some(remedy),
        };
    }
    match cuda_devices() {
        Ok(devices) if devices.is_empty() => Finding {
            name,
            status: Health::Warn,
            found: "libcuda is there, and no device".to_owned(),
            remedy: Some("`nvidia-smi -L` tells which devices the driver sees".to_owned()),
        },
        Ok(devices) => Finding {
            name,
            status: Health::Ok,
            found: format!("{}; this version does not use them yet", devices.join(", ")),
            remedy: None,
        },
        Err(error) => Finding {
            name,
            status: Health::Warn,
            found: format!("libcuda is there and does not start: {error:?}"),
            remedy: Some("`nvidia-smi` tells whether the driver works".to_owned()),
        },
    }
}

/// Name and architecture of each device. Makes no context on any of them.
fn cuda_devices() -> Result<Vec<String>, cudarc::driver::DriverError> {
    use cudarc::driver::result::{device, init};
    use cudarc::driver::sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    init()?;
    (0..device::get_count()?)
        .map(|ordinal| {
            let handle = device::get(ordinal)?;
            // SAFETY: the handle comes from the driver, just now.
            let part = |attribute| unsafe { device::get_attribute(handle, attribute) };
            let architecture = format!("sm_{}{}", part(MAJOR)?, part(MINOR)?);
            Ok(format!("{} ({architecture})", device::get_name(handle)?))
        })
        .collect()
}

/// CUDA's compiler, loaded as it would be for a kernel.
fn nvrtc() -> Finding {
    let name = "NVRTC";
    match Compiler::open(DOCTOR_ARCH) {
        Ok(compiler) => Finding {
            name,
            status: Health::Ok,
            found: format!(
                "{} ({})",
                compiler.version(),
                compiler.toolkit().library.display()
            ),
            remedy: None,
        },
        Err(error) => without(name, &error),
    }
}

fn headers() -> Finding {
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
            Finding {
                name,
                status: Health::Ok,
                found: folders.join(", "),
                remedy: toolkit.cutlass.is_none().then(|| {
                    "for kernels that include CUTLASS or CuTe: `pip install nvidia-cutlass`, or let CUTLASS_PATH name its folder".to_owned()
                }),
            }
        }
        Err(failure) => without(name, &failure.into()),
    }
}

fn without(name: &'static str, error: &anyhow::Error) -> Finding {
    let failure = error.downcast_ref::<crate::base::Failure>();
    let (found, remedy) = failure.map_or_else(
        || (format!("{error:#}"), None),
        |failure| (failure.message.clone(), failure.hint.clone()),
    );
    Finding {
        name,
        status: Health::Warn,
        found,
        remedy,
    }
}

fn keys() -> Finding {
    let found = model_keys();
    let name = "model keys";
    match found.is_empty() {
        true => Finding {
            name,
            status: Health::Ok,
            found: "none; the search uses kforge's own operators".to_owned(),
            remedy: None,
        },
        false => Finding {
            name,
            status: Health::Ok,
            found: format!("{}; this version asks no model yet", found.join(", ")),
            remedy: None,
        },
    }
}

fn table(findings: &[Finding]) -> String {
    let colour = is_colourful(&std::io::stdout());
    let mut text = String::new();
    for finding in findings {
        let (word, code) = match finding.status {
            Health::Ok => ("ok  ", "32"),
            Health::Warn => ("warn", "33"),
            Health::Fail => ("fail", "31"),
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
