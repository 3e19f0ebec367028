//! Compiles candidates with the system's C++ compiler, and keeps the programs in the cache by content.
//!
//! What all candidates share is built once by `runtime_build`. Every run of the compiler is confined by `compiler_runner`.
//! Nothing here runs a candidate.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use indexmap::IndexMap;

use super::checked_source::CheckedSource;
use super::code_sections::{refuse_early_code, refuse_sections};
use super::compiler::{HostCompiler, find_compiler, processor_description, search_folders};
use super::compiler_flags::{FAST_FLAGS, RUNTIME_FLAGS, START_FLAGS, compile_flags, link_flags};
use super::compiler_runner::{
    CompilerOutcome, CompilerRunner, LinkTask, TIME_LIMIT, is_disk_full, no_space_error,
};
use super::diagnostics::{KERNEL_FILE, compile_error};
use super::expansion::{check_expansion, without_own_words};
use super::explain::explain;
use super::heap_calls::refuse_heap_calls;
use super::runtime_build::{self, build_runtime, visit_sources};
use super::taken_names::TakenNames;
use crate::base::{Digest, temporary};
use crate::device::argument_checks::{mismatch_refusal, plain_messages};
use crate::device::cache::{self, CacheLease, ImageCache, write_failure};
use crate::device::{Build, Compiled, Program, Refusal, sandbox};
use crate::kernel::plan::TranslationUnit;
use crate::verdict::{Resources, Status};

/// The result of the preprocessor in its folder.
const PREPROCESSED: &str = "joined.ii";

/// What a compiled kernel must not have. A program that was not checked for all of it is compiled again.
const OBJECT_CHECKS: &str =
    "calls of the heap; names of the C library; code before the first launch";

/// A compiler with its runtime, and the cache of compiled programs.
#[derive(Debug)]
pub(super) struct Toolchain {
    compiler: HostCompiler,
    runner: CompilerRunner,
    /// The folder with the runtime's sources, objects and precompiled headers.
    runtime: PathBuf,
    programs: ImageCache,
    /// A folder that stays empty: the working folder of candidates, which need no files.
    empty_folder: PathBuf,
    fingerprint: Digest,
    builds: Vec<Build>,
    taken_names: TakenNames,
}

/// A translation unit to compile.
pub(super) struct CompileTask<'a> {
    pub(super) unit: &'a TranslationUnit,
    /// The C++ text made from it, which the compiler compiles.
    pub(super) text: &'a str,
    /// The kernel file after its checks.
    pub(super) checked: &'a CheckedSource,
    pub(super) build: Build,
}

/// What the preprocessor made of a unit.
pub(super) enum Preprocessed {
    Text(String),
    /// It failed; its messages. Empty if it did not finish in time.
    Errors(String),
}

impl Toolchain {
    /// Finds the compiler and builds what all candidates share, unless an earlier process did.
    pub(super) fn open() -> anyhow::Result<Self> {
        let compiler = find_compiler()?;
        let fingerprint = fingerprint(&compiler);
        let cache = cache::folder();
        let runtime = cache.join(format!("{}{fingerprint}", cache::RUNTIME_PREFIX));
        let programs = ImageCache::open(cache.join("programs"))?;
        let empty_folder = cache.join("empty");
        cache::create_folder(&empty_folder)?;
        let runner = CompilerRunner {
            path: compiler.path.clone(),
            readable: sandbox::compiler_folders(&compiler.path, || search_folders(&compiler.path)),
        };
        if runtime.is_dir() {
            cache::mark_used(&runtime);
        } else {
            build_runtime(&runner, &cache, &runtime)?;
        }
        cache::prune_runtimes(&cache);
        programs.prune();
        Ok(Self {
            builds: runtime_build::available_builds(&runtime),
            taken_names: TakenNames::of_runtime(&runtime),
            compiler,
            runner,
            runtime,
            programs,
            empty_folder,
            fingerprint,
        })
    }

    pub(super) fn compiler(&self) -> &HostCompiler {
        &self.compiler
    }

    /// The builds that this compiler can make.
    pub(super) fn builds(&self) -> &[Build] {
        &self.builds
    }

    /// The builds that it cannot make, each with the compiler's first error.
    pub(super) fn missing_builds(&self) -> Vec<(Build, String)> {
        let builds = [Build::Bounds, Build::Race].into_iter();
        builds
            .filter(|build| !self.builds.contains(build))
            .map(|build| (build, runtime_build::failure_reason(&self.runtime, build)))
            .collect()
    }

    pub(super) fn empty_folder(&self) -> &Path {
        &self.empty_folder
    }

    /// A program that runs without a kernel.
    pub(super) fn empty_program(&self) -> PathBuf {
        runtime_build::empty_program(&self.runtime)
    }

    /// Whether programs are linked statically. If not, they need a loader, because the machine has no static libraries.
    pub(super) fn is_static(&self) -> bool {
        runtime_build::is_static(&self.runtime)
    }

    /// Compiles and links one translation unit, or takes the program from the cache. A refusal by the compiler is a value.
    pub(super) fn build(&self, task: &CompileTask<'_>) -> anyhow::Result<Compiled> {
        let started = Instant::now();
        let name = self.cache_key(task).to_string();
        let ready = |lease: CacheLease| {
            Compiled::Ready(Program {
                image: self.programs.path(&name),
                lease,
                build: task.build,
                schedule: 0,
                resources: Resources::default(),
                compile_seconds: started.elapsed().as_secs_f64(),
                log: String::new(),
                entries: Vec::new(),
                trace: Box::default(),
                features: IndexMap::new(),
            })
        };
        if let Some(lease) = self.programs.lease(&name) {
            return Ok(ready(lease));
        }
        let temporary = temporary::folder("compile-").map_err(|error| no_space_error(&error))?;
        let folder = temporary.path();
        if let Some(refusal) = self.compile_in(folder, task)? {
            return Ok(Compiled::Refused(refusal));
        }
        Ok(ready(self.insert(&folder.join("program"), &name)?))
    }

    fn cache_key(&self, task: &CompileTask<'_>) -> Digest {
        Digest::of_parts([
            task.text.as_bytes(),
            &[u8::from(task.unit.fast_math)],
            task.build.name().as_bytes(),
            self.fingerprint.to_string().as_bytes(),
        ])
    }

    /// Makes `program` in a folder. Returns the compiler's or linker's refusal, if any.
    fn compile_in(&self, folder: &Path, task: &CompileTask<'_>) -> anyhow::Result<Option<Refusal>> {
        for (name, text) in [
            // The compiler quotes the kernel file in its messages.
            (KERNEL_FILE, task.unit.source.as_str()),
            ("unit.cpp", task.text),
        ] {
            std::fs::write(folder.join(name), text).map_err(|error| no_space_error(&error))?;
        }
        if task.checked.joins_tokens
            && let Some(refusal) = self.check_joined_tokens(folder, task)?
        {
            return Ok(Some(refusal));
        }
        let mut command = self.runner.command(&self.runtime, folder);
        command
            .args(compile_flags(task.build, task.unit.fast_math))
            .args(["-c", "unit.cpp", "-o", "unit.o"]);
        match self.runner.run(command, &self.runtime, folder)? {
            CompilerOutcome::Succeeded => {}
            CompilerOutcome::Failed(log) => {
                return match mismatch_refusal(&log, task.unit) {
                    Some(refusal) => Ok(Some(refusal)),
                    None => {
                        let log = plain_messages(&log, task.unit);
                        refusal_unless_disk_full(&log, folder, task).map(Some)
                    }
                };
            }
            CompilerOutcome::TimedOut => return Ok(Some(compile_timeout())),
        }
        let object = folder.join("unit.o");
        if let Some(refusal) = refuse_object(&object, task)? {
            return Ok(Some(refusal));
        }
        if task.build == Build::Fast
            && let Some(refusal) = self.taken_names.refuse(&object, &task.unit.source)?
        {
            return Ok(Some(refusal));
        }
        let link = self.runner.link_command(
            &LinkTask {
                runtime: &self.runtime,
                build: task.build,
                is_static: self.is_static(),
                object: Path::new("unit.o"),
                program: Path::new("program"),
            },
            folder,
        );
        match self.runner.run(link, &self.runtime, folder)? {
            CompilerOutcome::Succeeded => Ok(None),
            CompilerOutcome::Failed(log) => refusal_unless_disk_full(&log, folder, task).map(Some),
            CompilerOutcome::TimedOut => {
                anyhow::bail!("the linker took more than {} s", TIME_LIMIT.as_secs())
            }
        }
    }

    /// Runs the preprocessor on a source that joins tokens, and checks the result. Takes about 20 ms.
    fn check_joined_tokens(
        &self,
        folder: &Path,
        task: &CompileTask<'_>,
    ) -> anyhow::Result<Option<Refusal>> {
        let text = without_own_words(task.text);
        Ok(
            match self.preprocess_in(folder, &text, task.unit, task.build)? {
                CompilerOutcome::Succeeded => check_expansion(&read_preprocessed(folder)?),
                // The compiler will report the same error.
                CompilerOutcome::Failed(_) => None,
                CompilerOutcome::TimedOut => Some(compile_timeout()),
            },
        )
    }

    /// Preprocesses a unit.
    pub(super) fn preprocess(
        &self,
        text: &str,
        unit: &TranslationUnit,
    ) -> anyhow::Result<Preprocessed> {
        let folder = temporary::folder("compile-").map_err(|error| no_space_error(&error))?;
        match self.preprocess_in(folder.path(), text, unit, Build::Fast)? {
            CompilerOutcome::Succeeded => read_preprocessed(folder.path()).map(Preprocessed::Text),
            CompilerOutcome::Failed(_) if is_disk_full(folder.path()) => {
                Err(no_space_error(&"no space left on device").into())
            }
            CompilerOutcome::Failed(log) => Ok(Preprocessed::Errors(log)),
            CompilerOutcome::TimedOut => Ok(Preprocessed::Errors(String::new())),
        }
    }

    fn preprocess_in(
        &self,
        folder: &Path,
        text: &str,
        unit: &TranslationUnit,
        build: Build,
    ) -> anyhow::Result<CompilerOutcome> {
        std::fs::write(folder.join("joined.cpp"), text).map_err(|error| no_space_error(&error))?;
        let mut command = self.runner.command(&self.runtime, folder);
        command.args(compile_flags(build, unit.fast_math));
        if !self.compiler.version.contains("clang") {
            // Without it, gcc reads the headers instead of the precompiled ones.
            command.arg("-fpch-preprocess");
        }
        command.args(["-E", "joined.cpp", "-o", PREPROCESSED]);
        self.runner.run(command, &self.runtime, folder)
    }

    /// Copies a program to the file system of the cache, then renames it in one step.
    fn insert(&self, program: &Path, name: &str) -> anyhow::Result<CacheLease> {
        let target = self.programs.path(name);
        let temporary = cache::unfinished_file(self.programs.folder())
            .map_err(|error| write_failure(self.programs.folder(), &error))?;
        std::fs::copy(program, temporary.path())
            .and_then(|_| {
                // Candidates may run as the user `nobody`.
                let executable_by_all = std::fs::Permissions::from_mode(0o755);
                std::fs::set_permissions(temporary.path(), executable_by_all)
            })
            .map_err(|error| write_failure(&target, &error))?;
        // Closed before it is renamed: a file that is open for writing cannot be executed.
        let lease = self.programs.insert(temporary.into_temp_path(), name);
        Ok(lease.map_err(|error| write_failure(&target, &error))?)
    }
}

fn read_preprocessed(folder: &Path) -> anyhow::Result<String> {
    let text = std::fs::read(folder.join(PREPROCESSED));
    let text = text.context("failed to read a preprocessed kernel")?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Everything besides the kernel that a compiled program depends on.
fn fingerprint(compiler: &HostCompiler) -> Digest {
    let mut parts = vec![
        compiler.version.clone(),
        compiler.path.display().to_string(),
        processor_description(),
        FAST_FLAGS.concat(),
        RUNTIME_FLAGS.concat(),
        compile_flags(Build::Bounds, false).concat(),
        compile_flags(Build::Race, false).concat(),
        START_FLAGS.concat(),
        link_flags(true).concat(),
        OBJECT_CHECKS.to_owned(),
    ];
    visit_sources(&mut |path, contents| {
        parts.extend([path.display().to_string(), Digest::of(contents).to_string()]);
    });
    Digest::of_parts(parts.iter().map(String::as_bytes))
}

/// The refusal of an object file whose code or data kforge does not run.
fn refuse_object(path: &Path, task: &CompileTask<'_>) -> anyhow::Result<Option<Refusal>> {
    let object = std::fs::read(path).context("failed to read a compiled kernel")?;
    let refuse = || {
        if task.build == Build::Fast {
            let refusal = refuse_heap_calls(&object, &task.unit.source)?;
            let refusal = match refusal {
                None => refuse_early_code(&object)?,
                refusal => refusal,
            };
            if refusal.is_some() {
                return Ok(refusal);
            }
        }
        refuse_sections(&object)
    };
    refuse().context("the compiler wrote an invalid object file")
}

fn compile_timeout() -> Refusal {
    Refusal {
        status: Status::CompileTimeout,
        reason: format!("the compiler took more than {} s", TIME_LIMIT.as_secs()),
        evidence: Box::default(),
    }
}

/// The refusal for a failed compilation. A full disk is an error instead, because the kernel is not at fault.
fn refusal_unless_disk_full(
    log: &str,
    folder: &Path,
    task: &CompileTask<'_>,
) -> anyhow::Result<Refusal> {
    let names_kernel = |line: &str| line.starts_with(KERNEL_FILE);
    let reports_full_disk =
        |line: &str| !names_kernel(line) && line.contains("No space left on device");
    // A linker that dies because of a full disk may print nothing. An error in the kernel has a line that names the kernel.
    let is_silent = !log.lines().any(names_kernel) && is_disk_full(folder);
    if log.lines().any(reports_full_disk) || is_silent {
        return Err(no_space_error(&"no space left on device").into());
    }
    Ok(explain(task.unit, task.checked, log).unwrap_or_else(|| compile_error(log)))
}

#[cfg(test)]
mod tests {
    use super::super::checked_source::CheckedSource;
    use super::*;

    fn build(toolchain: &Toolchain, comment: &str) -> Compiled {
        let text = format!("{}// {comment}\n", runtime_build::empty_unit());
        let unit = TranslationUnit {
            source: String::new(),
            constants: Vec::new(),
            macros: Vec::new(),
            entry_points: Vec::new(),
            fast_math: false,
            max_registers: None,
            arch: None,
        };
        let task = CompileTask {
            unit: &unit,
            text: &text,
            checked: &CheckedSource::default(),
            build: Build::Fast,
        };
        toolchain.build(&task).unwrap()
    }

    #[test]
    fn compiled_program_is_reused() {
        // Without a compiler there is nothing to reuse.
        let Ok(mut toolchain) = Toolchain::open() else {
            return;
        };
        let comment = format!("{:?}", std::time::SystemTime::now());
        let Compiled::Ready(first) = build(&toolchain, &comment) else {
            panic!("an empty unit compiles");
        };
        toolchain.runner.path = "/bin/false".into();
        let Compiled::Ready(second) = build(&toolchain, &comment) else {
            panic!("the program is in the cache");
        };
        assert_eq!(first.image, second.image);
        let other = build(&toolchain, &format!("{comment} again"));
        assert!(matches!(other, Compiled::Refused(_)), "{other:?}");
    }
}
