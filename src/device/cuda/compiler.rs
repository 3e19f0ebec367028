//! CUDA's compiler: device code becomes a cubin in a process of its own, and stays in the cache with what was said of it.
//!
//! Needs no GPU and never makes a context. A candidate's mistakes are refusals, in words for its author.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::nvrtc_process::{self, ChildOutcome};
use super::toolkit::Toolkit;
use super::wire::{CompileJob, CompileRequest, CompileResponse};
use super::{diagnostics, headers, ptx, refuse, source, toolkit};
use crate::base::{Digest, Failure};
use crate::device::cache::{self, CacheLease, ImageCache, write_failure};
use crate::device::{Build, Compiled, Program, Refusal};
use crate::kernel::plan::{EntryPoint, TranslationUnit};
use crate::verdict::{Evidence, Resources, Status};

/// Another number when what is kept with a cubin changes.
const FORMAT: u32 = 1;
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// The most of NVRTC's log that is looked at.
const LOG_BYTES: usize = 1 << 20;
/// How often the cache is looked through for what has to go: a process compiles one kernel and ends.
const PRUNE_EVERY: Duration = Duration::from_secs(600);

/// NVRTC for one architecture.
pub struct Compiler {
    toolkit: Toolkit,
    arch: String,
    version: (i32, i32),
    /// This program, whose hidden command compiles.
    program: PathBuf,
    limit: Duration,
    /// Folders that the child may read.
    readable: Vec<PathBuf>,
    cubins: ImageCache,
    identity: Digest,
}

/// What is kept beside a cubin, under the key of what it was made from.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct CachedCubin {
    /// Of the cubin, which is the name of its file.
    cubin: String,
    entries: Vec<String>,
    log: String,
    resources: Resources,
    facts: IndexMap<String, f64>,
}

/// What NVRTC made of a text.
enum NvrtcOutcome {
    Compiled(CompileResponse),
    Failed(String),
    Stopped(Status, String),
}

/// Where NVRTC and its headers lie.
///
/// # Errors
/// `Failure::environment` that says how to install what is missing.
pub fn find_toolkit() -> Result<Toolkit, Failure> {
    toolkit::find_toolkit()
}

impl Compiler {
    /// For an architecture such as `sm_90`.
    ///
    /// # Errors
    /// `Failure::environment` where something is missing, with what installs it.
    pub(crate) fn open(arch: &str) -> anyhow::Result<Self> {
        Self::open_with_program(nvrtc_process::current_program()?, arch)
    }

    /// As `open`, for who is not kforge's own program: `program` is.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_with_program(program: PathBuf, arch: &str) -> anyhow::Result<Self> {
        let is_arch = arch.strip_prefix("sm_").is_some_and(|rest| {
            rest.starts_with(|first: char| first.is_ascii_digit())
                && rest.chars().all(|letter| letter.is_ascii_alphanumeric())
        });
        if !is_arch {
            return Err(
                Failure::usage(format!("`{arch}` is no architecture of a GPU"))
                    .hint("for example `sm_90`")
                    .into(),
            );
        }
        let toolkit = toolkit::find_toolkit()?;
        let mut readable: Vec<PathBuf> = toolkit.folders().cloned().collect();
        let real = toolkit.library.canonicalize();
        for library in [Some(toolkit.library.clone()), real.ok()]
            .into_iter()
            .flatten()
        {
            readable.extend(library.parent().map(Path::to_owned));
        }
        let folder = cache::folder();
        let cubins = ImageCache::open(folder.join("cubins"))?;
        let mut compiler = Self {
            identity: Digest::of(toolkit.identity()),
            toolkit,
            arch: arch.to_owned(),
            version: (0, 0),
            program,
            limit: TIME_LIMIT,
            readable,
            cubins,
        };
        compiler.version = compiler.load_version()?;
        compiler.identity = Digest::of_parts([
            compiler.toolkit.identity().as_bytes(),
            compiler.version().as_bytes(),
            format!("{:?}", headers::provided_headers()).as_bytes(),
            env!("CARGO_PKG_VERSION").as_bytes(),
            &FORMAT.to_le_bytes(),
        ]);
        compiler.prune_if_due();
        Ok(compiler)
    }

    /// The longest that one unit may take.
    #[must_use]
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Such as `NVRTC 13.0`.
    pub fn version(&self) -> String {
        format!("NVRTC {}.{}", self.version.0, self.version.1)
    }

    /// Where it and its headers lie.
    pub fn toolkit(&self) -> &Toolkit {
        &self.toolkit
    }

    /// The architecture that kernels are compiled for, unless they ask for more.
    pub(crate) fn arch(&self) -> &str {
        &self.arch
    }

    /// Compiles a kernel file under one set of values.
    ///
    /// # Errors
    /// Where the machine fails; a kernel that does not compile is a value.
    pub fn compile(&self, unit: &TranslationUnit) -> anyhow::Result<Compiled> {
        let begun = Instant::now();
        let arch = match target_arch(&self.arch, unit.arch.as_deref()) {
            Ok(arch) => arch,
            Err(refusal) => return Ok(Compiled::Refused(refusal)),
        };
        let mut options = self.options(&arch, &unit.source);
        if unit.fast_math {
            options.push("--use_fast_math".to_owned());
        }
        if let Some(most) = unit.max_registers {
            options.push(format!("--maxrregcount={most}"));
        }
        let expressions: Vec<_> = unit
            .entry_points
            .iter()
            .map(|entry| entry.expression.as_str())
            .collect();
        let text = source::translation_unit(unit);
        let key = self.cache_key(&text, &options, &expressions);
        if let Some(program) = self.load_cached(&key, begun) {
            return Ok(Compiled::Ready(program));
        }
        let has = |name: &str| self.toolkit.has_header(name);
        // The one stands on the other, which comes in another package.
        let is_known = |name: &str| has(name) && (name != "mma.h" || has("crt/mma.h"));
        if let Some(refusal) = refuse::check_source(&unit.source, &is_known) {
            return Ok(Compiled::Refused(refusal));
        }
        let last_line = unit.source.lines().count().max(1) as u32;
        let answer = match self.run_nvrtc(text, options, &expressions)? {
            NvrtcOutcome::Compiled(answer) => answer,
            NvrtcOutcome::Failed(log) => {
                return Ok(Compiled::Refused(diagnostics::compile_error(
                    &log, last_line,
                )));
            }
            NvrtcOutcome::Stopped(status, reason) => return Ok(refuse(status, reason, None)),
        };
        let text = String::from_utf8_lossy(&answer.ptx);
        if let Some((reason, words)) = ptx::find_forbidden(&text) {
            let line = refuse::first_line_with(&unit.source, words);
            return Ok(refuse(Status::Rejected, reason, line));
        }
        for (entry, name) in unit.entry_points.iter().zip(&answer.names) {
            if let Some(reason) = argument_size_mismatch(&text, entry, name) {
                return Ok(refuse(Status::CompileError, reason, Some(entry.line)));
            }
        }
        let facts = ptx::count_features(&text, &answer.log);
        self.save_cached(&key, &answer, facts, begun)
            .map(Compiled::Ready)
    }

    /// Compiles several, each in a process of its own, as many at once as there are cores.
    ///
    /// # Errors
    /// As `compile`: the first failure of the machine.
    pub(crate) fn compile_all(&self, units: &[TranslationUnit]) -> anyhow::Result<Vec<Compiled>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicUsize::new(0);
        let results: Vec<_> = units.iter().map(|_| OnceLock::new()).collect();
        std::thread::scope(|scope| {
            // One that starts a process must outlive it: a process dies with the thread that started it.
            for _ in 0..cores.min(units.len()) {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let (Some(unit), Some(result)) = (units.get(index), results.get(index))
                        else {
                            break;
                        };
                        let _ = result.set(self.compile(unit));
                    }
                });
            }
        });
        let results = results.into_iter().map(OnceLock::into_inner);
        results
            .map(|result| result.context("compiling a kernel panicked")?)
            .collect()
    }

    /// Compiles the judge's own device code, which is no candidate's: `name` is what errors call it.
    ///
    /// # Errors
    /// Where it does not compile: then kforge itself is at fault.
    pub fn compile_harness(
        &self,
        name: &str,
        source: &str,
        options: &[&str],
        entries: &[&str],
    ) -> anyhow::Result<Program> {
        let begun = Instant::now();
        // Whoever reads the line table, such as a sanitizer, must not take it for a candidate's.
        let source = &format!("#line 1 \"{name}.cu\"\n{source}");
        let mut all = self.options(&self.arch, source);
        all.extend(options.iter().map(|option| (*option).to_owned()));
        let key = self.cache_key(source, &all, entries);
        if let Some(program) = self.load_cached(&key, begun) {
            return Ok(program);
        }
        match self.run_nvrtc(source.to_owned(), all, entries)? {
            NvrtcOutcome::Compiled(answer) => {
                self.save_cached(&key, &answer, IndexMap::new(), begun)
            }
            NvrtcOutcome::Failed(log) => {
                bail!("kforge's own device code `{name}` does not compile:\n{log}")
            }
            NvrtcOutcome::Stopped(_, reason) => {
                bail!("kforge's own device code `{name}`: {reason}")
            }
        }
    }

    fn options(&self, arch: &str, source: &str) -> Vec<String> {
        let mut options = vec![
            format!("--gpu-architecture={arch}"),
            "--std=c++17".to_owned(),
            "-lineinfo".to_owned(),
            "--ptxas-options=-v".to_owned(),
            // Constants of the definition that a kernel does not use.
            "-diag-suppress=177".to_owned(),
        ];
        // Cooperative groups bring all of libcu++ along for a few of their functions, which takes a second.
        let is_lean = [
            "cuda/",
            "cub/",
            "thrust/",
            "cute/",
            "cutlass/",
            "_async",
            "<algorithm",
            "reduce_update",
            "reduce_store",
        ];
        if !is_lean.iter().any(|word| source.contains(word)) {
            options.push("-D_CG_LIMIT_INCLUDED_DEPENDENCIES".to_owned());
        }
        let folders = self.toolkit.folders();
        options.extend(folders.map(|folder| format!("-I{}", folder.display())));
        options
    }

    fn cache_key(&self, text: &str, options: &[String], entries: &[&str]) -> Digest {
        let identity = self.identity.to_string();
        let parts = [identity.as_bytes(), text.as_bytes()].into_iter();
        // Neither holds the letter that stands between them.
        let lists = [options.join("\0"), entries.join("\0")];
        Digest::of_parts(parts.chain(lists.iter().map(String::as_bytes)))
    }

    /// What an earlier compilation left, if all of it is there.
    fn load_cached(&self, key: &Digest, begun: Instant) -> Option<Program> {
        let beside = format!("{key}.json");
        self.cubins.lease(&beside)?;
        let kept = std::fs::read(self.cubins.path(&beside)).ok()?;
        let kept: CachedCubin = serde_json::from_slice(&kept).ok()?;
        let name = format!("{}.cubin", kept.cubin);
        let held = self.cubins.lease(&name)?;
        let image = self.cubins.path(&name);
        let is_whole = Digest::of(std::fs::read(&image).ok()?).to_string() == kept.cubin;
        if !is_whole {
            return None;
        }
        Some(kept.into_program(image, held, begun))
    }

    fn save_cached(
        &self,
        key: &Digest,
        answer: &CompileResponse,
        facts: IndexMap<String, f64>,
        begun: Instant,
    ) -> anyhow::Result<Program> {
        let kept = CachedCubin {
            cubin: Digest::of(&answer.cubin).to_string(),
            entries: answer.names.clone(),
            log: diagnostics::warnings(&answer.log),
            resources: ptx::parse_resources(&answer.log),
            facts,
        };
        // A file is named by what is in it: whoever writes at the same time writes the same.
        let put = |name: &str, contents: &[u8]| {
            let held = self.cubins.write(name, contents);
            held.map_err(|error| write_failure(&self.cubins.path(name), &error))
        };
        let name = format!("{}.cubin", kept.cubin);
        let held = put(&name, &answer.cubin)?;
        put(&format!("{key}.json"), &serde_json::to_vec(&kept)?)?;
        let image = self.cubins.path(&name);
        Ok(kept.into_program(image, held, begun))
    }

    fn run_nvrtc(
        &self,
        source: String,
        options: Vec<String>,
        entries: &[&str],
    ) -> anyhow::Result<NvrtcOutcome> {
        let mut expressions: Vec<String> = Vec::new();
        for entry in entries {
            if !expressions.iter().any(|known| known == entry) {
                expressions.push((*entry).to_owned());
            }
        }
        let request = CompileRequest {
            library: self.toolkit.library.clone(),
            work: Some(CompileJob {
                source,
                options,
                expressions: expressions.clone(),
                headers: headers::provided_headers(),
                log_bytes: LOG_BYTES,
            }),
        };
        let ended = nvrtc_process::run(&self.program, &request, &self.readable, self.limit)?;
        let mut answer = match ended {
            ChildOutcome::Completed(answer) => *answer,
            ChildOutcome::TimedOut => {
                let reason = format!("the compiler took more than {} s", self.limit.as_secs_f64());
                return Ok(NvrtcOutcome::Stopped(Status::CompileTimeout, reason));
            }
            ChildOutcome::OutOfMemory => return Ok(memory_limit_exceeded()),
            ChildOutcome::Crashed(signal) => {
                let reason = format!("the compiler crashed on this source (signal {signal})");
                return Ok(NvrtcOutcome::Stopped(Status::CompileError, reason));
            }
        };
        if answer.version != self.version {
            bail!(
                "`{}` was replaced while kforge ran",
                self.toolkit.library.display()
            );
        }
        match answer.error.as_deref() {
            None => {}
            Some("NVRTC_ERROR_OUT_OF_MEMORY") => return Ok(memory_limit_exceeded()),
            Some(_) if answer.log.contains("out of memory") => return Ok(memory_limit_exceeded()),
            // An architecture that this NVRTC does not know is whose fault it was to ask for it.
            Some("NVRTC_ERROR_COMPILATION" | "NVRTC_ERROR_INVALID_OPTION") => {
                return Ok(NvrtcOutcome::Failed(answer.log));
            }
            Some(other) => {
                return Ok(NvrtcOutcome::Failed(format!(
                    "{}\nkernel.cu: error: {other}",
                    answer.log
                )));
            }
        }
        let name_of = |entry: &&str| {
            let place = expressions.iter().position(|known| known == entry)?;
            answer.names.get(place).cloned()
        };
        let names: Option<Vec<_>> = entries.iter().map(name_of).collect();
        answer.names = names.context("the compiling process forgot a name")?;
        Ok(NvrtcOutcome::Compiled(answer))
    }

    /// From the cache, where the library is the same: to load it takes longer than to compile.
    fn load_version(&self) -> anyhow::Result<(i32, i32)> {
        let file = self.cubins.path(&format!("{}.version", self.identity));
        let known = std::fs::read(&file).ok();
        if let Some(version) = known.and_then(|text| serde_json::from_slice(&text).ok()) {
            return Ok(version);
        }
        let request = CompileRequest {
            library: self.toolkit.library.clone(),
            work: None,
        };
        let ended = nvrtc_process::run(&self.program, &request, &self.readable, self.limit);
        let library = self.toolkit.library.display();
        let version = match ended {
            Ok(ChildOutcome::Completed(answer)) => answer.version,
            Ok(ended) => bail!("NVRTC at `{library}` does not load: {ended:?}"),
            Err(error) => {
                return Err(Failure::environment(format!(
                    "NVRTC at `{library}` does not load: {error:#}"
                ))
                .hint("install it anew, or let CUDA_HOME or KFORGE_PYTHON name another")
                .into());
            }
        };
        cache::write_atomically(&file, &serde_json::to_vec(&version)?)
            .map_err(|error| write_failure(&file, &error))?;
        Ok(version)
    }

    /// Now and then.
    fn prune_if_due(&self) {
        let mark = self.cubins.path("pruned");
        let since = mark.metadata().and_then(|metadata| metadata.modified());
        let age = since
            .ok()
            .and_then(|time| SystemTime::now().duration_since(time).ok());
        if age.is_none_or(|age| age > PRUNE_EVERY) {
            // To prune once too often is no harm.
            let _ = cache::write_atomically(&mark, b"");
            self.cubins.prune();
        }
    }
}

impl CachedCubin {
    fn into_program(self, image: PathBuf, held: CacheLease, begun: Instant) -> Program {
        Program {
            image,
            lease: held,
            build: Build::Fast,
            schedule: 0,
            resources: self.resources,
            compile_seconds: begun.elapsed().as_secs_f64(),
            log: self.log,
            entries: self.entries,
            features: self.facts,
        }
    }
}

impl fmt::Debug for Compiler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} for {}", self.version(), self.arch)
    }
}

fn memory_limit_exceeded() -> NvrtcOutcome {
    NvrtcOutcome::Stopped(
        Status::LimitExceeded,
        "the compiler needed more memory than it may have".to_owned(),
    )
}

fn refuse(status: Status, reason: String, line: Option<u32>) -> Compiled {
    Compiled::Refused(Refusal {
        status,
        reason: match line {
            Some(line) => format!("line {line}: {reason}"),
            None => reason,
        },
        evidence: Box::new(Evidence {
            line,
            ..Evidence::default()
        }),
    })
}

/// The device's own architecture, or what the kernel asks for if it is the device's with more to it: `sm_90a` on `sm_90`.
fn target_arch(device: &str, wanted: Option<&str>) -> Result<String, Refusal> {
    let Some(wanted) = wanted else {
        return Ok(device.to_owned());
    };
    let plain = |arch: &str| {
        arch.trim_end_matches(|letter: char| letter.is_ascii_alphabetic())
            .to_owned()
    };
    if plain(wanted) == plain(device) {
        return Ok(wanted.to_owned());
    }
    Err(Refusal {
        status: Status::Unsupported,
        reason: format!("the header asks for `{wanted}`, the device is `{device}`"),
        evidence: Box::default(),
    })
}

/// Whether the machine code takes other arguments than the launch passes: the driver would read beyond them.
fn argument_size_mismatch(ptx: &str, entry: &EntryPoint, name: &str) -> Option<String> {
    let expression = &entry.expression;
    let Some(taken) = ptx::parameter_sizes(ptx, name) else {
        return Some(format!(
            "`{expression}` is no kernel: it has no entry in the compiled code"
        ));
    };
    let passed = source::argument_sizes(entry);
    (taken != passed).then(|| {
        format!("`{expression}` takes arguments of {taken:?} bytes, the header passes {passed:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_arch_must_extend_the_device_arch() {
        assert_eq!(target_arch("sm_90", None).unwrap(), "sm_90");
        assert_eq!(target_arch("sm_90", Some("sm_90a")).unwrap(), "sm_90a");
        assert_eq!(target_arch("sm_90", Some("sm_90")).unwrap(), "sm_90");
        for wanted in ["sm_100a", "sm_80", "compute_90", ""] {
            let refusal = target_arch("sm_90", Some(wanted)).unwrap_err();
            assert_eq!(refusal.status, Status::Unsupported);
        }
    }
}
