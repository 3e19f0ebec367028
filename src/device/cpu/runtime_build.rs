//! Builds what all candidates share: the C++ runtime, its precompiled headers, and an empty program for each build.
//!
//! The result is a folder in the cache. It is never changed once it has its final name. Candidates are compiled by `toolchain`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use include_dir::{Dir, include_dir};

use super::compiler_flags::{RUNTIME_FLAGS, START_FLAGS, compile_flags, runtime_object};
use super::compiler_runner::{CompilerOutcome, CompilerRunner, LinkTask, is_disk_full};
use super::own_names::ENTRY_DEFINITIONS;
use crate::base::Failure;
use crate::base::lock_wait::LockWaitError;
use crate::device::Build;
use crate::device::cache::{self, write_failure};

static SOURCES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/src/device/cpu/runtime");

/// A file that marks a runtime whose programs are linked dynamically, because the machine has no static libraries.
const DYNAMIC_MARKER: &str = "loaded";

/// How long one part of the runtime may take to compile. It is kforge's own code, so the limit only ends a hung compiler. A part
/// takes a few seconds, and a minute on a busy machine.
const PART_TIME_LIMIT: Duration = Duration::from_secs(600);

/// How long to wait for another process that builds the runtime.
const BUILD_WAIT_LIMIT: Duration = Duration::from_secs(1200);

/// A part of the runtime that the compiler cannot compile, with the compiler's output.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct CompilerRefused(String);

/// A translation unit without a kernel.
pub(super) fn empty_unit() -> String {
    format!(
        "#include \"kforge_cuda.h\"\n{ENTRY_DEFINITIONS}KFORGE_ENTRIES_BEGIN\n{{nullptr, 0}},\nKFORGE_ENTRIES_END\n"
    )
}

/// Calls `visit` with the relative path and the contents of every source file of the runtime.
pub(super) fn visit_sources(visit: &mut dyn FnMut(&'static Path, &'static [u8])) {
    visit_files(&SOURCES, visit);
}

/// Builds the runtime into `target`, unless it is there already.
///
/// Works in a separate folder that is renamed when it is complete: where files cannot be locked, another process may be doing the
/// same.
///
/// # Errors
/// `Failure::environment` if the compiler cannot compile the runtime, or the cache cannot be written.
pub(super) fn build_runtime(
    runner: &CompilerRunner,
    cache: &Path,
    target: &Path,
) -> anyhow::Result<()> {
    let lock = cache::open_lock(cache)?;
    // A second process waits here, and then finds the runtime.
    match lock.wait(BUILD_WAIT_LIMIT) {
        Ok(()) => cache::remove_unfinished_runtimes(cache),
        Err(error @ LockWaitError::TimedOut(_)) => return Err(Failure::environment(
            error.to_string(),
        )
        .hint(
            "another kforge process builds the CPU runtime: wait until it has finished, or stop it",
        )
        .into()),
        // Without locks, both build it.
        Err(LockWaitError::Failed { .. }) => {}
    }
    if target.is_dir() {
        return Ok(());
    }
    let temporary = tempfile::Builder::new()
        .prefix(cache::BUILDING_PREFIX)
        .tempdir_in(cache)
        .map_err(|error| write_failure(cache, &error))?;
    let folder = temporary.path();
    write_sources(folder)?;
    let build = RuntimeBuild { runner, folder };
    build.build_all().map_err(|error| build.explain(error))?;
    sync_tree(folder).map_err(|error| write_failure(folder, &error))?;
    match std::fs::rename(folder, target) {
        Ok(()) => Ok(()),
        Err(_) if target.is_dir() => Ok(()),
        Err(error) => Err(write_failure(target, &error).into()),
    }
}

/// Makes every file below a folder durable, so that the folder is complete if it has its final name.
fn sync_tree(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            std::fs::File::open(entry.path())?.sync_data()?;
        }
    }
    std::fs::File::open(folder)?.sync_all()
}

/// The builds that the compiler could make.
pub(super) fn available_builds(runtime: &Path) -> Vec<Build> {
    let is_available = |build: &Build| runtime.join(runtime_object(*build).0).is_file();
    let builds = [Build::Fast, Build::Bounds, Build::Race].into_iter();
    builds.filter(is_available).collect()
}

/// The compiler's first error for a build that it could not make.
pub(super) fn failure_reason(runtime: &Path, build: Build) -> String {
    let log = std::fs::read_to_string(runtime.join(failure_log_name(build))).unwrap_or_default();
    let first_error = log.lines().find(|line| line.contains("error"));
    let reason = first_error.or(log.lines().next());
    reason.unwrap_or("the reason is unknown").to_owned()
}

/// Whether programs are linked statically.
pub(super) fn is_static(runtime: &Path) -> bool {
    !runtime.join(DYNAMIC_MARKER).is_file()
}

/// A program that runs without a kernel. It shows whether a fault comes from the machine or from a kernel.
pub(super) fn empty_program(runtime: &Path) -> PathBuf {
    runtime.join(format!("{}-trial", Build::Fast.name()))
}

fn failure_log_name(build: Build) -> String {
    format!("{}.log", build.name())
}

fn write_sources(folder: &Path) -> anyhow::Result<()> {
    let mut result = Ok(());
    visit_sources(&mut |path, contents| {
        let file = folder.join(path);
        let parent = file.parent();
        let written = parent
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(&file, contents));
        if result.is_ok() {
            result = written.map_err(|error| write_failure(&file, &error).into());
        }
    });
    result
}

fn visit_files(folder: &Dir<'static>, visit: &mut dyn FnMut(&'static Path, &'static [u8])) {
    for file in folder.files() {
        visit(file.path(), file.contents());
    }
    for inner in folder.dirs() {
        visit_files(inner, visit);
    }
}

/// A build of the runtime in a folder that holds its sources.
struct RuntimeBuild<'a> {
    runner: &'a CompilerRunner,
    folder: &'a Path,
}

impl RuntimeBuild<'_> {
    /// Compiles everything, on two threads.
    fn build_all(&self) -> anyhow::Result<()> {
        cache::create_folder(&self.precompiled_headers())?;
        let arguments = [START_FLAGS, &["-c"]].concat();
        let (start, object) = (self.folder.join("start.cpp"), self.folder.join("start.o"));
        self.compile(&arguments, &start, &object)?;
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                self.build_fast()?;
                self.build_inspected(Build::Bounds)
            });
            let second = self
                .precompile("fast_math", Build::Fast, true)
                .and_then(|()| self.build_inspected(Build::Race));
            let first = first
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("compiling the runtime panicked")));
            first.and(second)
        })
    }

    /// Links statically if the machine can, else dynamically.
    fn build_fast(&self) -> anyhow::Result<()> {
        self.precompile("plain", Build::Fast, false)?;
        self.compile_runtime(Build::Fast)?;
        if self.link_empty_program(Build::Fast, true).is_ok() {
            return Ok(());
        }
        let marker = self.folder.join(DYNAMIC_MARKER);
        std::fs::write(&marker, "").map_err(|error| write_failure(&marker, &error))?;
        self.link_empty_program(Build::Fast, false)
    }

    /// Makes the bounds or race build. If the compiler lacks something that it needs, the build is left out.
    ///
    /// # Errors
    /// If the machine failed, such as a full disk. A build that is missing for such a reason must not be cached.
    fn build_inspected(&self, build: Build) -> anyhow::Result<()> {
        let result = self
            .compile_runtime(build)
            .and_then(|()| self.precompile(build.name(), build, false))
            .and_then(|()| self.link_empty_program(build, true));
        let Err(error) = result else { return Ok(()) };
        let refused = error.downcast::<CompilerRefused>()?;
        let _ = std::fs::remove_file(self.folder.join(runtime_object(build).0));
        // For `kforge doctor`; if this fails, only the reason is lost.
        let log = self.folder.join(failure_log_name(build));
        let _ = std::fs::write(log, refused.0);
        Ok(())
    }

    /// gcc looks for `NAME.gch`; if that is a folder, it uses the file in it that fits the flags.
    fn precompiled_headers(&self) -> PathBuf {
        self.folder.join("kforge_cuda.h.gch")
    }

    fn precompile(&self, name: &str, build: Build, fast_math: bool) -> anyhow::Result<()> {
        let flags = compile_flags(build, fast_math);
        let arguments = [&["-x", "c++-header"][..], &flags].concat();
        let header = self.folder.join("kforge_cuda.h");
        self.compile(&arguments, &header, &self.precompiled_headers().join(name))
    }

    fn compile_runtime(&self, build: Build) -> anyhow::Result<()> {
        let (object, macros) = runtime_object(build);
        let arguments = [RUNTIME_FLAGS, &["-c"], macros].concat();
        let source = self.folder.join("runtime.cpp");
        self.compile(&arguments, &source, &self.folder.join(object))
    }

    fn link_empty_program(&self, build: Build, is_static: bool) -> anyhow::Result<()> {
        let source = self.folder.join(format!("{}-trial.cpp", build.name()));
        std::fs::write(&source, empty_unit()).map_err(|error| write_failure(&source, &error))?;
        let object = source.with_extension("o");
        let arguments = [&compile_flags(build, false)[..], &["-c"]].concat();
        self.compile(&arguments, &source, &object)?;
        let task = LinkTask {
            runtime: self.folder,
            build,
            is_static,
            object: &object,
            program: &source.with_extension(""),
        };
        self.run(self.runner.link_command(&task, self.folder))
    }

    fn compile(&self, arguments: &[&str], source: &Path, output: &Path) -> anyhow::Result<()> {
        let mut command = self.runner.command(self.folder, self.folder);
        command.args(arguments).arg(source).arg("-o").arg(output);
        self.run(command)
    }

    /// # Errors
    /// `CompilerRefused` if the compiler reports an error; anything else is the machine's fault.
    fn run(&self, command: Command) -> anyhow::Result<()> {
        let outcome = self
            .runner
            .run_within(PART_TIME_LIMIT, command, self.folder, self.folder)?;
        match outcome {
            CompilerOutcome::Succeeded => Ok(()),
            CompilerOutcome::Failed(_) if is_disk_full(self.folder) => {
                let error = std::io::ErrorKind::StorageFull.into();
                Err(write_failure(self.folder, &error).into())
            }
            CompilerOutcome::Failed(log) => Err(CompilerRefused(log).into()),
            CompilerOutcome::TimedOut => Err(Failure::environment(format!(
                "`{}` took more than {} s to compile a part of kforge's CPU runtime",
                self.runner.path.display(),
                PART_TIME_LIMIT.as_secs()
            ))
            .hint("the machine is overloaded or the compiler hangs: try again")
            .into()),
        }
    }

    /// A compiler error in a part that every kernel needs, with what to do about it.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match error.downcast::<CompilerRefused>() {
            Ok(CompilerRefused(log)) => Failure::environment(format!(
                "`{}` failed to compile kforge's CPU runtime:\n{log}",
                self.runner.path.display()
            ))
            .hint("use a C++17 compiler such as g++ 9 or clang++ 10: set the environment variable CXX")
            .into(),
            Err(error) => error,
        }
    }
}
