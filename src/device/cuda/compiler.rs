//! The CUDA compiler: compiles a translation unit to a cubin in a confined child process, and caches the result.
//!
//! Needs no GPU and never creates a CUDA context. A candidate's mistakes are refusals whose text is meant for its author. Uses
//! `source` (text), `nvrtc_process` (child), `diagnostics` (log), `ptx` (result) and `cubin_cache`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indexmap::IndexMap;

use super::cubin_cache::{CubinCache, CubinFacts, FORMAT};
use super::launch_checks::CheckNames;
use super::nvrtc_process::{self, ChildOutcome};
use super::toolkit::Toolkit;
use super::wire::{CompileJob, CompileRequest, CompileResponse};
use super::{code_checks, diagnostics, headers, ptx, source, source_checks, toolkit_cache};
use crate::base::{Digest, Failure};
use crate::device::argument_checks::{mismatch_refusal, missing_kernel, plain_messages};
use crate::device::cpu::GpuMacros;
use crate::device::refusal::{DeviceError, Refusal};
use crate::device::source_trace::MarkedSource;
use crate::device::{Compiled, Program, SourceTrace};
use crate::kernel::plan::TranslationUnit;
use crate::verdict::Status;

const TIME_LIMIT: Duration = Duration::from_secs(30);
/// Size limit for NVRTC's log.
const LOG_BYTES: usize = 1 << 20;

/// Parts of a source that need all of libcu++, if it uses cooperative groups.
const NEEDS_LIBCUDACXX: [&str; 9] = [
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

/// NVRTC for one architecture.
pub struct Compiler {
    toolkit: Toolkit,
    arch: String,
    version: (i32, i32),
    /// The kforge program, whose hidden command compiles.
    program: PathBuf,
    limit: Duration,
    /// Folders that the child can read.
    readable: Vec<PathBuf>,
    cubins: CubinCache,
    /// Changes when the toolkit or kforge changes.
    identity: Digest,
}

/// The result of running NVRTC.
enum NvrtcOutcome {
    Compiled(CompileResponse),
    /// The source does not compile: NVRTC's log.
    Failed(String),
    /// The compilation did not end by itself.
    Stopped(Status, String),
}

/// Finds NVRTC and its headers.
///
/// # Errors
/// `Failure::environment` that says how to install what is missing.
pub fn find_toolkit() -> Result<Toolkit, Failure> {
    toolkit_cache::find_toolkit()
}

impl Compiler {
    /// Opens the compiler for an architecture such as `sm_90`.
    ///
    /// # Errors
    /// `Failure::environment` if something is missing, with the command that installs it.
    pub(crate) fn open(arch: &str) -> anyhow::Result<Self> {
        Self::open_with_program(nvrtc_process::current_program()?, arch)
    }

    /// Like `open`, for a caller that is not the kforge program itself: `program` is its path.
    ///
    /// # Errors
    /// See `open`.
    pub fn open_with_program(program: PathBuf, arch: &str) -> anyhow::Result<Self> {
        let is_arch = arch.strip_prefix("sm_").is_some_and(|rest| {
            rest.starts_with(|first: char| first.is_ascii_digit())
                && rest.chars().all(|letter| letter.is_ascii_alphanumeric())
        });
        if !is_arch {
            return Err(
                Failure::usage(format!("`{arch}` is not a GPU architecture"))
                    .hint("use a name such as `sm_90`")
                    .into(),
            );
        }
        let toolkit = toolkit_cache::find_toolkit()?;
        let mut readable: Vec<PathBuf> = toolkit.folders().cloned().collect();
        let real = toolkit.library.canonicalize();
        for library in [Some(toolkit.library.clone()), real.ok()]
            .into_iter()
            .flatten()
        {
            readable.extend(library.parent().map(Path::to_owned));
        }
        let mut compiler = Self {
            identity: Digest::of(toolkit.identity()),
            toolkit,
            arch: arch.to_owned(),
            version: (0, 0),
            program,
            limit: TIME_LIMIT,
            readable,
            cubins: CubinCache::open()?,
        };
        compiler.version = compiler.load_version()?;
        compiler.identity = Digest::of_parts([
            compiler.toolkit.identity().as_bytes(),
            compiler.version().as_bytes(),
            format!("{:?}", headers::provided_headers()).as_bytes(),
            env!("CARGO_PKG_VERSION").as_bytes(),
            &FORMAT.to_le_bytes(),
        ]);
        compiler.cubins.prune_if_due();
        Ok(compiler)
    }

    /// Sets the time limit for one unit.
    #[must_use]
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The compiler's name and version, such as `NVRTC 13.0`.
    pub fn version(&self) -> String {
        format!("NVRTC {}.{}", self.version.0, self.version.1)
    }

    /// The library and the headers in use.
    pub fn toolkit(&self) -> &Toolkit {
        &self.toolkit
    }

    /// The architecture that kernels are compiled for, unless their header names an extension of it.
    pub(crate) fn arch(&self) -> &str {
        &self.arch
    }

    /// Compiles a translation unit.
    ///
    /// # Errors
    /// If the machinery fails. A kernel that does not compile is a value.
    pub fn compile(&self, unit: &TranslationUnit) -> anyhow::Result<Compiled> {
        Compiled::from_result(self.compile_unit(unit))
    }

    fn compile_unit(&self, unit: &TranslationUnit) -> Result<Program, DeviceError> {
        let started = Instant::now();
        let arch = target_arch(&self.arch, unit.arch.as_deref())?;
        let mut options = self.options(&arch, &unit.source);
        if unit.fast_math {
            options.push("--use_fast_math".to_owned());
        }
        if let Some(registers) = unit.max_registers {
            options.push(format!("--maxrregcount={registers}"));
        }
        let names = CheckNames::of(&unit.source);
        let functions = names.expressions(unit.entry_points.len());
        let expressions: Vec<_> = functions.iter().map(String::as_str).collect();
        let has = |name: &str| self.toolkit.has_header(name);
        // `mma.h` includes `crt/mma.h`, which is in another package.
        let is_known = |name: &str| has(name) && (name != "mma.h" || has("crt/mma.h"));
        let checked = source_checks::check_source(&unit.source, &is_known)?;
        let marked = MarkedSource::new(&unit.source, &checked.text);
        let text = source::translation_unit(unit, &marked);
        let key = self.cache_key(&text, &options, &expressions);
        if let Some(program) = self.cubins.load(&key, started) {
            return Ok(program);
        }
        if let Some(refusal) = missing_kernel(unit) {
            return Err(refusal.into());
        }
        let mut response = match self.run_nvrtc(text, options, &expressions)? {
            NvrtcOutcome::Compiled(response) => response,
            NvrtcOutcome::Failed(log) => {
                let log = marked.without_marks(&log);
                if let Some(refusal) = mismatch_refusal(&log, unit) {
                    return Err(refusal.into());
                }
                let log = plain_messages(&log, unit);
                let last_line = unit.source.lines().count().max(1) as u32;
                let explained = source_checks::explain(unit, &checked, &log);
                let refusal =
                    explained.unwrap_or_else(|| diagnostics::compile_error(&log, last_line));
                return Err(refusal.into());
            }
            NvrtcOutcome::Stopped(status, reason) => {
                return Err(Refusal::new(status, reason).into());
            }
        };
        let trace = marked.read(&response.log);
        response.log = marked.without_marks(&response.log);
        let found = names.functions(std::mem::take(&mut response.names));
        response.names = found.ok_or_else(|| source_checks::forged_names(&unit.source))?;
        let ptx = String::from_utf8_lossy(&response.ptx);
        if let Some(refusal) = checked.edits.marked(&ptx) {
            return Err(refusal.clone().into());
        }
        let facts = CubinFacts {
            entries: code_checks::check_code(&response, unit)?,
            trace,
            features: ptx::count_features(&ptx, &response.log),
        };
        Ok(self.cubins.save(&key, &response, facts, started)?)
    }

    /// Compiles several units, each in its own child process, in parallel on all cores.
    ///
    /// # Errors
    /// The first failure of the machinery, as in `compile`.
    pub(crate) fn compile_all(&self, units: &[TranslationUnit]) -> anyhow::Result<Vec<Compiled>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicUsize::new(0);
        let results: Vec<_> = units.iter().map(|_| OnceLock::new()).collect();
        std::thread::scope(|scope| {
            // Each thread must outlive its child processes: a child dies with the thread that started it.
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

    /// Compiles device code of kforge itself. `name` identifies it in errors.
    ///
    /// # Errors
    /// If it does not compile, which is a bug in kforge.
    pub fn compile_harness(
        &self,
        name: &str,
        source: &str,
        options: &[&str],
        entries: &[&str],
    ) -> anyhow::Result<Program> {
        self.compile_harness_for(&self.arch, name, source, options, entries)
    }

    /// Like [`Self::compile_harness`], for an extension of the device's architecture such as `sm_90a`.
    ///
    /// # Errors
    /// See [`Self::compile_harness`].
    pub(super) fn compile_harness_for(
        &self,
        arch: &str,
        name: &str,
        source: &str,
        options: &[&str],
        entries: &[&str],
    ) -> anyhow::Result<Program> {
        let started = Instant::now();
        // A tool that reads the line table, such as the sanitizer, must not mistake this code for a candidate.
        let source = &format!("#line 1 \"{name}.cu\"\n{source}");
        let mut all = self.options(arch, source);
        all.extend(options.iter().map(|option| (*option).to_owned()));
        let key = self.cache_key(source, &all, entries);
        if let Some(program) = self.cubins.load(&key, started) {
            return Ok(program);
        }
        match self.run_nvrtc(source.to_owned(), all, entries)? {
            NvrtcOutcome::Compiled(response) => {
                let facts = CubinFacts {
                    entries: code_checks::harness_entries(&response),
                    trace: SourceTrace::default(),
                    features: IndexMap::new(),
                };
                self.cubins.save(&key, &response, facts, started)
            }
            NvrtcOutcome::Failed(log) => {
                bail!("kforge's device code `{name}` does not compile:\n{log}")
            }
            NvrtcOutcome::Stopped(_, reason) => {
                bail!("failed to compile kforge's device code `{name}`: {reason}")
            }
        }
    }

    /// The macros by which sources recognise this compiler and its architecture. Compiles a small kernel; the result is cached.
    ///
    /// # Errors
    /// If NVRTC does not compile it.
    pub fn macros(&self) -> anyhow::Result<GpuMacros> {
        let (source, expression) = GpuMacros::question();
        let program = self.compile_harness("macros", &source, &[], &[&expression])?;
        let name = program.entries.first().map_or("", |entry| &entry.name);
        GpuMacros::with_answer(self.version, self.arch.clone(), name)
    }

    fn options(&self, arch: &str, source: &str) -> Vec<String> {
        let mut options = vec![
            format!("--gpu-architecture={arch}"),
            "--std=c++17".to_owned(),
            "-lineinfo".to_owned(),
            "--ptxas-options=-v".to_owned(),
            // 177, unused variables: a kernel need not use all constants of the definition. 47, macros defined twice: kernels and
            // libcu++ define `M_PI` or `INT_MAX` in their own words.
            "-diag-suppress=177,47".to_owned(),
            // A function without annotations is host code for nvcc, and NVRTC accepts none. Sources have such helpers, which are
            // not called or only in constants, like `constexpr int ceil_div(int, int)`.
            "-default-device".to_owned(),
        ];
        if limits_cooperative_groups(source) {
            options.push("-D_CG_LIMIT_INCLUDED_DEPENDENCIES".to_owned());
        }
        let folders = self.toolkit.folders();
        options.extend(folders.map(|folder| format!("-I{}", folder.display())));
        options
    }

    fn cache_key(&self, text: &str, options: &[String], entries: &[&str]) -> Digest {
        let identity = self.identity.to_string();
        let parts = [identity.as_bytes(), text.as_bytes()].into_iter();
        // No option and no expression contains the separator.
        let lists = [options.join("\0"), entries.join("\0")];
        Digest::of_parts(parts.chain(lists.iter().map(String::as_bytes)))
    }

    /// Runs NVRTC in a child process. The response has one mangled name for each of `entries`, in order.
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
            job: Some(CompileJob {
                source,
                options,
                expressions: expressions.clone(),
                headers: headers::provided_headers(),
                log_bytes: LOG_BYTES,
            }),
        };
        let outcome = nvrtc_process::run(&self.program, &request, &self.readable, self.limit)?;
        let mut response = match outcome {
            ChildOutcome::Completed(response) => *response,
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
        if response.version != self.version {
            bail!(
                "`{}` was replaced while kforge was running",
                self.toolkit.library.display()
            );
        }
        if let Some(failure) = response_failure(&response) {
            return Ok(failure);
        }
        let name_of = |entry: &&str| {
            let index = expressions.iter().position(|known| known == entry)?;
            response.names.get(index).cloned()
        };
        let names: Option<Vec<_>> = entries.iter().map(name_of).collect();
        response.names = names.context("the response of the NVRTC process lacks a name")?;
        Ok(NvrtcOutcome::Compiled(response))
    }

    /// NVRTC's version, from the cache if the library is unchanged: loading it takes longer than compiling a kernel.
    fn load_version(&self) -> anyhow::Result<(i32, i32)> {
        if let Some(version) = self.cubins.load_version(&self.identity) {
            return Ok(version);
        }
        let request = CompileRequest {
            library: self.toolkit.library.clone(),
            job: None,
        };
        let outcome = nvrtc_process::run(&self.program, &request, &self.readable, self.limit);
        let library = self.toolkit.library.display();
        let version = match outcome {
            Ok(ChildOutcome::Completed(response)) => response.version,
            Ok(outcome) => bail!("failed to load NVRTC at `{library}`: {outcome:?}"),
            Err(error) => {
                return Err(Failure::environment(format!(
                    "failed to load NVRTC at `{library}`: {error:#}"
                ))
                .hint("reinstall it, or set CUDA_HOME or KFORGE_PYTHON to another one")
                .into());
            }
        };
        self.cubins.save_version(&self.identity, version)?;
        Ok(version)
    }
}

impl fmt::Debug for Compiler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} for {}", self.version(), self.arch)
    }
}

/// Whether cooperative groups may leave out most of libcu++, which takes a second to parse and serves a few functions.
pub(super) fn limits_cooperative_groups(source: &str) -> bool {
    !NEEDS_LIBCUDACXX.iter().any(|part| source.contains(part))
}

/// The outcome of a response with an error code; `None` if the source compiled.
fn response_failure(response: &CompileResponse) -> Option<NvrtcOutcome> {
    let error = response.error.as_deref()?;
    if error == "NVRTC_ERROR_OUT_OF_MEMORY" || response.log.contains("out of memory") {
        return Some(memory_limit_exceeded());
    }
    Some(NvrtcOutcome::Failed(match error {
        // An architecture that this NVRTC does not know is the fault of the kernel that asks for it.
        "NVRTC_ERROR_COMPILATION" | "NVRTC_ERROR_INVALID_OPTION" => response.log.clone(),
        other => format!("{}\nkernel.cu: error: {other}", response.log),
    }))
}

fn memory_limit_exceeded() -> NvrtcOutcome {
    NvrtcOutcome::Stopped(
        Status::LimitExceeded,
        "the compiler exceeded its memory limit".to_owned(),
    )
}

/// The architecture to compile for: the device's, or an extension of it that the kernel asks for, such as `sm_90a` on `sm_90`.
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
    Err(Refusal::new(
        Status::Unsupported,
        format!("the header asks for `{wanted}`, but the device is `{device}`"),
    ))
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
