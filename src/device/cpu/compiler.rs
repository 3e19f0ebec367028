//! The system's C++ compiler: found once, run under limits, its results kept by content.
//!
//! The compiler is a child with an empty environment, a deadline, and limits on memory and output. What it says about a
//! candidate is untrusted text, and is shown with the kernel file's own lines.

use std::io::{Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use include_dir::{Dir, include_dir};

use super::compiler_flags::{
    FAST_FLAGS, RUNTIME_FLAGS, START_FLAGS, compile_flags, link_flags, linker_script_flag,
    runtime_object,
};
use super::diagnostics::{KERNEL_FILE, compile_error};
use crate::base::{Digest, Failure};
use crate::device::cache::{self, CacheLease, ImageCache, write_failure};
use crate::device::sandbox::{self, Confinement};
use crate::device::watchdog::{ProcessDeadline, wait_for_state_change};
use crate::device::{Build, Refusal};
use crate::verdict::Status;

static RUNTIME: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/src/device/cpu/runtime");

/// A translation unit without a kernel.
const EMPTY_UNIT: &str =
    "#include \"kforge_cuda.h\"\nKFORGE_ENTRIES_BEGIN\n{nullptr, 0},\nKFORGE_ENTRIES_END\n";
/// Marks a runtime whose programs are not static, because the machine has no static libraries.
const DYNAMIC_MARKER: &str = "loaded";

const TIME_LIMIT: Duration = Duration::from_secs(30);
const MEMORY_LIMIT: u64 = 4 << 30;
const FILE_LIMIT: u64 = 256 << 20;
/// The most that is read of what a compiler says.
const OUTPUT_LIMIT: u64 = 1 << 20;

/// A compiler that works.
#[derive(Clone, Debug)]
pub struct HostCompiler {
    pub path: PathBuf,
    /// The first line of `--version`.
    pub version: String,
}

/// A compiler with its precompiled headers, and where results are kept.
#[derive(Debug)]
pub(super) struct Toolchain {
    compiler: HostCompiler,
    /// Holds the runtime's sources, the precompiled headers and `runtime.o`.
    runtime: PathBuf,
    programs: ImageCache,
    /// Stays empty: where processes run that need no files.
    empty_folder: PathBuf,
    /// What the compiler reads besides the system's own folders.
    readable: Vec<PathBuf>,
    fingerprint: Digest,
    builds: Vec<Build>,
}

/// What a run of the compiler gave.
enum CompilerOutcome {
    Succeeded,
    Failed(String),
    TimedOut,
}

/// The first of `$CXX`, `c++`, `g++` and `clang++` that answers.
pub fn find_compiler() -> Result<HostCompiler, Failure> {
    let named = std::env::var("CXX").ok().filter(|name| !name.is_empty());
    for name in named
        .iter()
        .map(String::as_str)
        .chain(["c++", "g++", "clang++"])
    {
        let Some(path) = find_in_path(name) else {
            continue;
        };
        let Ok(output) = Command::new(&path)
            .arg("--version")
            // It compiles without an environment too.
            .env_clear()
            .stdin(Stdio::null())
            .output()
        else {
            continue;
        };
        if output.status.success() {
            let version = String::from_utf8_lossy(&output.stdout)
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned();
            return Ok(HostCompiler { path, version });
        }
    }
    Err(Failure::environment("no C++ compiler was found: looked for `$CXX`, `c++`, `g++` and `clang++`")
        .hint("install one, for example with `apt install g++`, or name one in the environment variable CXX"))
}

/// Where a compiler says that it looks for its parts.
fn search_folders(compiler: &Path) -> String {
    let asked = Command::new(compiler)
        .arg("-print-search-dirs")
        .env_clear()
        .stdin(Stdio::null())
        .output();
    asked.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

fn find_in_path(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Path::new(name).is_file().then(|| PathBuf::from(name));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Where it stands why a build could not be made.
fn failure_log_name(build: Build) -> String {
    format!("{}.log", build.name())
}

impl Toolchain {
    /// Finds the compiler and builds what all candidates share, unless an earlier process did.
    pub(super) fn open() -> anyhow::Result<Self> {
        let compiler = find_compiler()?;
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
        ];
        visit_files(&RUNTIME, &mut |path, contents| {
            parts.extend([path.display().to_string(), Digest::of(contents).to_string()])
        });
        let fingerprint = Digest::of_parts(parts.iter().map(String::as_bytes));
        let cache = cache::folder();
        let mut toolchain = Self {
            runtime: cache.join(format!("runtime-{fingerprint}")),
            programs: ImageCache::open(cache.join("programs"))?,
            empty_folder: cache.join("empty"),
            readable: sandbox::compiler_folders(&compiler.path, || search_folders(&compiler.path)),
            compiler,
            fingerprint,
            builds: Vec::new(),
        };
        cache::create_folder(&toolchain.empty_folder)?;
        if toolchain.runtime.is_dir() {
            cache::mark_used(&toolchain.runtime);
        } else {
            toolchain.build_runtime(&cache)?;
        }
        let is_made = |build: &Build| toolchain.runtime.join(runtime_object(*build).0).is_file();
        toolchain.builds = [Build::Fast, Build::Bounds, Build::Race]
            .into_iter()
            .filter(is_made)
            .collect();
        cache::prune_runtimes(&cache);
        toolchain.programs.prune();
        Ok(toolchain)
    }

    pub(super) fn compiler(&self) -> &HostCompiler {
        &self.compiler
    }

    /// Those that this compiler can make.
    pub(super) fn builds(&self) -> &[Build] {
        &self.builds
    }

    /// Those that it cannot, each with the compiler's first complaint.
    pub(super) fn missing_builds(&self) -> Vec<(Build, String)> {
        let missing = [Build::Bounds, Build::Race].into_iter();
        let missing = missing.filter(|build| !self.builds.contains(build));
        let reason = |build: Build| {
            let log = std::fs::read_to_string(self.runtime.join(failure_log_name(build)));
            let log = log.unwrap_or_default();
            let first = log.lines().find(|line| line.contains("error"));
            first
                .or(log.lines().next())
                .unwrap_or("no reason is known")
                .to_owned()
        };
        missing.map(|build| (build, reason(build))).collect()
    }

    pub(super) fn empty_folder(&self) -> &Path {
        &self.empty_folder
    }

    /// In a folder of its own that is renamed when it is whole: where files cannot be locked, another process may be doing
    /// the same.
    fn build_runtime(&self, cache: &Path) -> anyhow::Result<()> {
        let lock = cache.join("lock");
        let lock = std::fs::File::create(&lock).map_err(|error| write_failure(&lock, &error))?;
        // Whoever comes second waits, and finds it made.
        let _ = lock.lock();
        if self.runtime.is_dir() {
            return Ok(());
        }
        let building = tempfile::Builder::new()
            .prefix("building-")
            .tempdir_in(cache)
            .map_err(|error| write_failure(cache, &error))?;
        let folder = building.path();
        let mut written = Ok(());
        visit_files(&RUNTIME, &mut |path, contents| {
            let file = folder.join(path);
            let result = file
                .parent()
                .map_or(Ok(()), std::fs::create_dir_all)
                .and_then(|()| std::fs::write(&file, contents));
            if written.is_ok() {
                written = result.map_err(|error| write_failure(&file, &error));
            }
        });
        written?;
        // gcc looks for `NAME.gch`, and in a folder of that name for one that fits the flags.
        let header = folder.join("kforge_cuda.h");
        let gch = folder.join("kforge_cuda.h.gch");
        cache::create_folder(&gch)?;
        let precompile = |name: &str, build: Build, fast_math: bool| {
            let arguments = [&["-x", "c++-header"][..], &compile_flags(build, fast_math)].concat();
            self.compile_shared(folder, &arguments, &header, &gch.join(name))
        };
        let runtime = |build: Build| {
            let (object, macros) = runtime_object(build);
            let arguments = [RUNTIME_FLAGS, &["-c"], macros].concat();
            let source = folder.join("runtime.cpp");
            self.compile_shared(folder, &arguments, &source, &folder.join(object))
        };
        // A compiler that lacks what an inspected build needs goes without that build: nothing of it stays then.
        let inspected = |build: Build| {
            let is_made = runtime(build)
                .and_then(|()| precompile(build.name(), build, false))
                .and_then(|()| self.link_empty_program(folder, build, true));
            if let Err(error) = is_made {
                let _ = std::fs::remove_file(folder.join(runtime_object(build).0));
                // For `doctor`; without it the reason stays unknown, no more.
                let _ = std::fs::write(folder.join(failure_log_name(build)), format!("{error:#}"));
            }
        };
        let arguments = [START_FLAGS, &["-c"]].concat();
        let (start, object) = (folder.join("start.cpp"), folder.join("start.o"));
        self.compile_shared(folder, &arguments, &start, &object)?;
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                let fast = precompile("plain", Build::Fast, false)
                    .and_then(|()| runtime(Build::Fast))
                    .and_then(|()| {
                        self.link_empty_program(folder, Build::Fast, true)
                            .or_else(|_| {
                                let mark = folder.join(DYNAMIC_MARKER);
                                std::fs::write(&mark, "")
                                    .map_err(|error| write_failure(&mark, &error))?;
                                self.link_empty_program(folder, Build::Fast, false)
                            })
                    });
                inspected(Build::Bounds);
                fast
            });
            let fast_math = precompile("fast_math", Build::Fast, true);
            inspected(Build::Race);
            let first = first
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("compiling the runtime panicked")));
            first.and(fast_math)
        })?;
        match std::fs::rename(folder, &self.runtime) {
            Ok(()) => Ok(()),
            Err(_) if self.runtime.is_dir() => Ok(()),
            Err(error) => Err(write_failure(&self.runtime, &error).into()),
        }
    }

    /// Whether a program without a kernel can be made. It stays, to show later whether a machine or a kernel is at fault.
    fn link_empty_program(
        &self,
        folder: &Path,
        build: Build,
        is_static: bool,
    ) -> anyhow::Result<()> {
        let source = folder.join(format!("{}-trial.cpp", build.name()));
        std::fs::write(&source, EMPTY_UNIT).map_err(|error| write_failure(&source, &error))?;
        let object = source.with_extension("o");
        let arguments = [&compile_flags(build, false)[..], &["-c"]].concat();
        self.compile_shared(folder, &arguments, &source, &object)?;
        let program = source.with_extension("");
        let link = self.link_command(folder, build, is_static, &object, &program);
        self.run_shared_step(folder, link)
    }

    /// A program that runs without a kernel.
    pub(super) fn empty_program(&self) -> PathBuf {
        self.runtime.join(format!("{}-trial", Build::Fast.name()))
    }

    /// Whether programs are whole, or have to be loaded with libraries because this machine has no static ones.
    pub(super) fn is_static(&self) -> bool {
        !self.runtime.join(DYNAMIC_MARKER).is_file()
    }

    /// The runtime comes first: so does what it does before a program's own constructors.
    fn link_command(
        &self,
        folder: &Path,
        build: Build,
        is_static: bool,
        object: &Path,
        program: &Path,
    ) -> Command {
        let runtime = self.runtime_folder(folder);
        let mut command = self.base_command(folder);
        command
            .arg(runtime.join("start.o"))
            .arg(runtime.join(runtime_object(build).0))
            .arg(object)
            .args(link_flags(is_static))
            .args(linker_script_flag(&runtime, build))
            .arg("-o")
            .arg(program);
        command
    }

    fn runtime_folder(&self, folder: &Path) -> PathBuf {
        match self.runtime.is_dir() {
            true => self.runtime.clone(),
            false => folder.to_owned(),
        }
    }

    /// Runs a command that writes in this folder, and reads there and where compilers read.
    fn run_confined(&self, command: Command, folder: &Path) -> anyhow::Result<CompilerOutcome> {
        let mut readable = self.readable.clone();
        readable.push(self.runtime_folder(folder));
        let limits = [
            (libc::RLIMIT_AS, MEMORY_LIMIT),
            (libc::RLIMIT_FSIZE, FILE_LIMIT),
        ];
        let confinement = Confinement::for_compiler(&readable, folder, &limits)?;
        run_compiler(command, confinement)
    }

    fn compile_shared(
        &self,
        folder: &Path,
        arguments: &[&str],
        source: &Path,
        output: &Path,
    ) -> anyhow::Result<()> {
        let mut command = self.base_command(folder);
        command.args(arguments).arg(source).arg("-o").arg(output);
        self.run_shared_step(folder, command)
    }

    fn run_shared_step(&self, folder: &Path, command: Command) -> anyhow::Result<()> {
        match self.run_confined(command, folder)? {
            CompilerOutcome::Succeeded => Ok(()),
            CompilerOutcome::Failed(_) if is_disk_full(folder) => {
                Err(write_failure(folder, &std::io::ErrorKind::StorageFull.into()).into())
            }
            CompilerOutcome::Failed(log) => Err(Failure::environment(format!("`{}` cannot compile kforge's CPU runtime:\n{log}", self.compiler.path.display()))
                .hint("a compiler for C++17 is needed, such as g++ 9 or clang++ 10: name one in the environment variable CXX")
                .into()),
            CompilerOutcome::TimedOut => Err(Failure::environment(format!("`{}` took more than {} s for kforge's CPU runtime", self.compiler.path.display(), TIME_LIMIT.as_secs())).into()),
        }
    }

    /// Compiles and links one translation unit, which was made from a kernel file. Gives the executable and the seconds that
    /// it took: about 0 where it was kept.
    pub(super) fn build(
        &self,
        kernel: &str,
        text: &str,
        build: Build,
        fast_math: bool,
    ) -> anyhow::Result<Result<(PathBuf, CacheLease, f64), Refusal>> {
        let started = Instant::now();
        let key = Digest::of_parts([
            text.as_bytes(),
            &[u8::from(fast_math)],
            build.name().as_bytes(),
            self.fingerprint.to_string().as_bytes(),
        ]);
        let name = key.to_string();
        let executable = self.programs.path(&name);
        if let Some(held) = self.programs.lease(&name) {
            return Ok(Ok((executable, held, started.elapsed().as_secs_f64())));
        }
        let temporary_folder = tempfile::Builder::new()
            .prefix("kforge-compile-")
            .tempdir()
            .map_err(|error| no_space_error(&error))?;
        let folder = temporary_folder.path();
        // The compiler quotes the kernel file as it is; what it compiles is the unit.
        for (name, text) in [(KERNEL_FILE, kernel), ("unit.cpp", text)] {
            std::fs::write(folder.join(name), text).map_err(|error| no_space_error(&error))?;
        }
        let mut command = self.base_command(folder);
        command
            .args(compile_flags(build, fast_math))
            .args(["-c", "unit.cpp", "-o", "unit.o"]);
        match self.run_confined(command, folder)? {
            CompilerOutcome::Succeeded => {}
            CompilerOutcome::Failed(log) => return refusal_unless_disk_full(&log, folder),
            CompilerOutcome::TimedOut => {
                let reason = format!("the compiler took more than {} s", TIME_LIMIT.as_secs());
                return Ok(Err(Refusal {
                    status: Status::CompileTimeout,
                    reason,
                    evidence: Box::default(),
                }));
            }
        }
        let (object, program) = (Path::new("unit.o"), Path::new("program"));
        let link = self.link_command(folder, build, self.is_static(), object, program);
        match self.run_confined(link, folder)? {
            CompilerOutcome::Succeeded => {}
            CompilerOutcome::Failed(log) => return refusal_unless_disk_full(&log, folder),
            CompilerOutcome::TimedOut => {
                anyhow::bail!("the linker took more than {} s", TIME_LIMIT.as_secs())
            }
        }
        // Onto the cache's file system first, then in one step to its name.
        let temporary = tempfile::NamedTempFile::new_in(self.programs.folder())
            .map_err(|error| write_failure(self.programs.folder(), &error))?;
        std::fs::copy(folder.join("program"), temporary.path())
            .and_then(|_| {
                // Whoever runs it may be nobody.
                let executable_by_all = std::fs::Permissions::from_mode(0o755);
                std::fs::set_permissions(temporary.path(), executable_by_all)
            })
            .map_err(|error| write_failure(&executable, &error))?;
        // Closed before it is renamed: a file that is open for writing cannot be executed.
        let held = self
            .programs
            .insert(temporary.into_temp_path(), &name)
            .map_err(|error| write_failure(&executable, &error))?;
        Ok(Ok((executable, held, started.elapsed().as_secs_f64())))
    }

    fn base_command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.compiler.path);
        let runtime = self.runtime_folder(folder);
        command
            .arg("-I")
            .arg(&runtime)
            .arg("-I")
            .arg(runtime.join("include"))
            .current_dir(folder);
        command.env_clear().env("TMPDIR", folder).env("LC_ALL", "C");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
    }
}

/// A refusal, unless it is the machine that failed.
fn refusal_unless_disk_full<T>(log: &str, folder: &Path) -> anyhow::Result<Result<T, Refusal>> {
    let is_full =
        |line: &str| !line.starts_with(KERNEL_FILE) && line.contains("No space left on device");
    // A linker that is killed by a full disk may say nothing; a complaint about the kernel names its line.
    let blames_the_kernel = log.lines().any(|line| line.starts_with(KERNEL_FILE));
    if log.lines().any(is_full) || (!blames_the_kernel && is_disk_full(folder)) {
        return Err(no_space_error(&"no space is left").into());
    }
    Ok(Err(compile_error(log)))
}

/// Whether a folder takes no more than a small file.
fn is_disk_full(folder: &Path) -> bool {
    let probe = folder.join("room");
    let written = std::fs::write(&probe, vec![0x5a; 64 << 10]);
    // It goes with the folder in any case.
    let _ = std::fs::remove_file(&probe);
    written.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull)
}

fn no_space_error(error: &dyn std::fmt::Display) -> Failure {
    let folder = std::env::temp_dir();
    Failure::environment(format!(
        "failed to compile in `{}`: {error}",
        folder.display()
    ))
    .hint("make room there, or name another folder in the environment variable TMPDIR")
}

/// Runs a compiler in a process group of its own, held by what confines it.
fn run_compiler(mut command: Command, confinement: Confinement) -> anyhow::Result<CompilerOutcome> {
    let mut log =
        tempfile::tempfile().context("failed to make a file for the compiler's output")?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .process_group(0);
    // SAFETY: between fork and exec it makes system calls only, on values that were made before.
    unsafe {
        command.pre_exec(move || confinement.apply());
    }
    let program = command.get_program().to_owned();
    let mut child = command
        .spawn()
        .with_context(|| format!("failed to run `{}`", program.display()))?;
    let watch = ProcessDeadline::start(child.id() as libc::pid_t, TIME_LIMIT);
    wait_for_state_change(child.id() as libc::pid_t, libc::WEXITED)?;
    let timed_out = watch.stop();
    let status = child.wait().context("failed to wait for the compiler")?;
    if timed_out {
        return Ok(CompilerOutcome::TimedOut);
    }
    if status.success() {
        return Ok(CompilerOutcome::Succeeded);
    }
    let mut text = Vec::new();
    log.rewind()?;
    Read::by_ref(&mut log)
        .take(OUTPUT_LIMIT)
        .read_to_end(&mut text)?;
    Ok(CompilerOutcome::Failed(
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

/// What `-march=native` depends on.
fn processor_description() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let wanted = |line: &&str| {
        ["model name", "flags", "CPU part", "Features"]
            .iter()
            .any(|key| line.starts_with(key))
    };
    let first: Vec<_> = text
        .split("\n\n")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(wanted)
        .collect();
    first.concat()
}

fn visit_files(folder: &Dir<'static>, visit: &mut dyn FnMut(&'static Path, &'static [u8])) {
    for file in folder.files() {
        visit(file.path(), file.contents());
    }
    for inner in folder.dirs() {
        visit_files(inner, visit);
    }
}
