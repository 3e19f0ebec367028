//! `kforge doctor`: what this machine has and lacks, with one remedy each.

use serde::Serialize;

use super::{Exit, Format, is_colourful, print, print_json, print_json_lines};
use crate::device::cuda::compiler::{Compiler, find as find_nvrtc};
use crate::device::{cpu, cuda};
use crate::llm;
use crate::verdict::DeviceIdentity;

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
        gpus(),
        tools(),
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

/// The GPUs that kernels would be judged on. Makes no context on any of them.
fn gpus() -> Finding {
    let name = "GPUs";
    let cards = match cuda::cards() {
        Ok(cards) => cards,
        Err(failure) => return without(name, &failure.into()),
    };
    if cards.is_empty() {
        let remedy =
            "`nvidia-smi -L` tells which GPUs the driver sees; CUDA_VISIBLE_DEVICES may hide them";
        return Finding {
            name,
            status: Health::Warn,
            found: "none".to_owned(),
            remedy: Some(remedy.to_owned()),
        };
    }
    let users: Vec<_> = cards.iter().map(cuda::users).collect();
    let busy = users
        .iter()
        .any(|users| users.is_some_and(|users| users > 0));
    let each = cards.iter().zip(&users).enumerate();
    let each = each.map(|(index, (card, users))| describe(index, card, *users));
    Finding {
        name,
        status: match busy {
            true => Health::Warn,
            false => Health::Ok,
        },
        found: each.collect::<Vec<_>>().join(&format!("\n{:20}", "")),
        remedy: busy.then(|| {
            "what others compute there moves times: wait for it, or leave the card out with `--set eval.devices=[…]`".to_owned()
        }),
    }
}

fn describe(index: usize, card: &DeviceIdentity, users: Option<usize>) -> String {
    let unknown = || "unknown".to_owned();
    let used = match users {
        None => "whether it is in use is not told".to_owned(),
        Some(0) => "not in use".to_owned(),
        Some(1) => "in use by a process".to_owned(),
        Some(users) => format!("in use by {users} processes"),
    };
    format!(
        "{index}: {} ({}), {}, driver {}, {used}",
        card.name,
        card.arch,
        card.uuid.clone().unwrap_or_else(unknown),
        card.driver.clone().unwrap_or_else(unknown)
    )
}

/// What looks into kernels on a GPU. Nothing needs it.
fn tools() -> Finding {
    let mut status = Health::Ok;
    let (mut found, mut remedies) = (Vec::new(), Vec::new());
    for (tool, package) in [
        ("ncu", "Nsight Compute"),
        ("compute-sanitizer", "the CUDA toolkit"),
    ] {
        match cuda::tools::find(tool) {
            Ok(path) => found.push(format!("{tool} ({})", path.display())),
            Err(_) => {
                status = Health::Warn;
                found.push(format!("no {tool}"));
                remedies.push(format!("for {tool}: install {package}"));
            }
        }
    }
    let has_cards = cuda::cards().is_ok_and(|cards| !cards.is_empty());
    found.extend(has_cards.then(|| match cuda::tools::counters_forbidden() {
        Some(reason) => {
            remedies.push("for counters without an administrator: load the driver with `NVreg_RestrictProfilingToAdminUsers=0`".to_owned());
            reason
        }
        None => "counters may be read".to_owned(),
    }));
    Finding {
        name: "GPU tools",
        status,
        found: found.join(", "),
        remedy: (!remedies.is_empty()).then(|| remedies.join("; ")),
    }
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
    let found = llm::keys();
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
            found: format!(
                "{} set: `llm.models: auto` takes the first",
                found.join(", ")
            ),
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
