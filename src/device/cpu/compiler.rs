//! The system's C++ compiler: found once, run under limits, its results kept by content.
//!
//! The compiler is a child with an empty environment, a deadline, and limits on memory and output. What it says about a
//! candidate is untrusted text, and is shown with the kernel file's own lines.

use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use include_dir::{Dir, include_dir};

use super::cache::{self, unwritable};
use super::diagnostics::{KERNEL, compile_error};
use crate::base::{Digest, Failure};
use crate::device::{Build, Refusal};
use crate::verdict::{Evidence, Status};

static RUNTIME: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/src/device/cpu/runtime");

/// Whatever this machine can do; the name that both compilers know on this architecture.
const NATIVE: &str = if cfg!(target_arch = "aarch64") {
    "-mcpu=native"
} else {
    "-march=native"
};
/// The flags of header and candidate alike: a precompiled header is used only under its own.
const FLAGS: &[&str] = &[
    "-std=gnu++17",
    "-O3",
    NATIVE,
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-strict-aliasing",
    "-fno-exceptions",
    "-fno-rtti",
    "-fstack-clash-protection",
    "-fno-pie",
    "-w",
    "-fmax-errors=20",
];
/// The flags of the inspected builds. Every access must stay one, where the source has it: none moved ahead of the condition
/// that guards it, no vector's copy taken apart.
const INSPECTED_FLAGS: &[&str] = &[
    "-std=gnu++17",
    "-O1",
    "-g1",
    NATIVE,
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-strict-aliasing",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-pie",
    "-fno-tree-sra",
    "-fno-tree-loop-im",
    "-fno-move-loop-invariants",
    "-fno-if-conversion",
    "-w",
    "-fmax-errors=20",
];
const BOUNDS: &[&str] = &[
    "-fsanitize=address",
    "-fsanitize=signed-integer-overflow,shift,integer-divide-by-zero,alignment,return,unreachable,vla-bound",
    // Calls instead of code in place: they are answered by the runtime.
    "--param=asan-instrumentation-with-call-threshold=0",
    "--param=asan-use-after-return=0",
];
const RACE: &[&str] = &[
    "-fsanitize=thread",
    "--param=tsan-distinguish-volatile=1",
    "--param=tsan-instrument-func-entry-exit=0",
];
const FAST_MATH: &[&str] = &["-ffast-math", "-fno-finite-math-only"];
/// The runtime's own flags: wide vectors in its switch cost more than they bring.
const RUNTIME_FLAGS: &[&str] = &[
    "-std=gnu++17",
    "-O2",
    NATIVE,
    "-fno-tree-vectorize",
    "-fno-strict-aliasing",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-pie",
    "-w",
];
const LINK_FLAGS: &[&str] = &["-no-pie", "-pthread", "-Wl,--as-needed"];
/// Their addresses are short, and they need no library of a sanitizer.
const INSPECTED_LINK_FLAGS: &[&str] = &["-static", "-no-pie", "-pthread"];

const TIME_LIMIT: Duration = Duration::from_secs(30);
const MEMORY_LIMIT: u64 = 4 << 30;
const FILE_LIMIT: u64 = 256 << 20;
/// The most that is read of what a compiler says.
const OUTPUT_LIMIT: u64 = 1 << 20;

/// A compiler that works.
#[derive(Clone, Debug)]
pub struct Compiler {
    pub path: PathBuf,
    /// The first line of `--version`.
    pub version: String,
}

/// A compiler with its precompiled headers, and where results are kept.
#[derive(Debug)]
pub(super) struct Toolchain {
    compiler: Compiler,
    /// Holds the runtime's sources, the precompiled headers and `runtime.o`.
    runtime: PathBuf,
    programs: PathBuf,
    /// Stays empty: where processes run that need no files.
    empty: PathBuf,
    fingerprint: Digest,
    builds: Vec<Build>,
}

/// What compiles a candidate, and its precompiled header.
fn flags(build: Build, fast_math: bool) -> Vec<&'static str> {
    match build {
        Build::Fast if fast_math => [FLAGS, FAST_MATH].concat(),
        Build::Fast => FLAGS.to_vec(),
        Build::Bounds => [INSPECTED_FLAGS, BOUNDS].concat(),
        Build::Race => [INSPECTED_FLAGS, RACE].concat(),
    }
}

fn link_flags(build: Build) -> &'static [&'static str] {
    match build {
        Build::Fast => LINK_FLAGS,
        Build::Bounds | Build::Race => INSPECTED_LINK_FLAGS,
    }
}

/// The runtime's object file, and the macro that makes it what it is.
fn runtime_of(build: Build) -> (&'static str, &'static [&'static str]) {
    match build {
        Build::Fast => ("runtime.o", &[]),
        Build::Bounds => ("bounds.o", &["-DKFORGE_BOUNDS"]),
        Build::Race => ("race.o", &["-DKFORGE_RACE"]),
    }
}

/// What a run of the compiler gave.
enum Run {
    Done,
    Failed(String),
    TimedOut,
}

/// The first of `$CXX`, `c++`, `g++` and `clang++` that answers.
pub fn find() -> Result<Compiler, Failure> {
    let named = std::env::var("CXX").ok().filter(|name| !name.is_empty());
    for name in named
        .iter()
        .map(String::as_str)
        .chain(["c++", "g++", "clang++"])
    {
        let Some(path) = which(name) else { continue };
        let Ok(output) = Command::new(&path)
            .arg("--version")
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
            return Ok(Compiler { path, version });
        }
    }
    Err(Failure::environment("no C++ compiler was found: looked for `$CXX`, `c++`, `g++` and `clang++`")
        .hint("install one, for example with `apt install g++`, or name one in the environment variable CXX"))
}

fn which(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Path::new(name).is_file().then(|| PathBuf::from(name));
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

impl Toolchain {
    /// Finds the compiler and builds what all candidates share, unless an earlier process did.
    pub(super) fn open() -> anyhow::Result<Self> {
        let compiler = find()?;
        let mut parts = vec![
            compiler.version.clone(),
            compiler.path.display().to_string(),
            processor(),
            FLAGS.concat(),
            RUNTIME_FLAGS.concat(),
            flags(Build::Bounds, false).concat(),
            flags(Build::Race, false).concat(),
        ];
        each_file(&RUNTIME, &mut |path, contents| {
            parts.extend([path.display().to_string(), Digest::of(contents).to_string()])
        });
        let fingerprint = Digest::of_parts(parts.iter().map(String::as_bytes));
        let cache = cache::folder();
        let mut toolchain = Self {
            compiler,
            runtime: cache.join(format!("runtime-{fingerprint}")),
            programs: cache.join("programs"),
            empty: cache.join("empty"),
            fingerprint,
            builds: Vec::new(),
        };
        cache::make(&toolchain.programs)?;
        cache::make(&toolchain.empty)?;
        if toolchain.runtime.is_dir() {
            cache::touch(&toolchain.runtime);
        } else {
            toolchain.build_runtime(&cache)?;
        }
        let is_made = |build: &Build| toolchain.runtime.join(runtime_of(*build).0).is_file();
        toolchain.builds = [Build::Fast, Build::Bounds, Build::Race]
            .into_iter()
            .filter(is_made)
            .collect();
        cache::prune(&cache, &toolchain.programs);
        Ok(toolchain)
    }

    pub(super) fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// Those that this compiler can make.
    pub(super) fn builds(&self) -> &[Build] {
        &self.builds
    }

    pub(super) fn empty_folder(&self) -> &Path {
        &self.empty
    }

    /// In a folder of its own that is renamed when it is whole: where files cannot be locked, another process may be doing
    /// the same.
    fn build_runtime(&self, cache: &Path) -> anyhow::Result<()> {
        let lock = cache.join("lock");
        let lock = std::fs::File::create(&lock).map_err(|error| unwritable(&lock, &error))?;
        // Whoever comes second waits, and finds it made.
        let _ = lock.lock();
        if self.runtime.is_dir() {
            return Ok(());
        }
        let building = tempfile::Builder::new()
            .prefix("building-")
            .tempdir_in(cache)
            .map_err(|error| unwritable(cache, &error))?;
        let folder = building.path();
        let mut written = Ok(());
        each_file(&RUNTIME, &mut |path, contents| {
            let file = folder.join(path);
            let result = file
                .parent()
                .map_or(Ok(()), std::fs::create_dir_all)
                .and_then(|()| std::fs::write(&file, contents));
            if written.is_ok() {
                written = result.map_err(|error| unwritable(&file, &error));
            }
        });
        written?;
        // gcc looks for `NAME.gch`, and in a folder of that name for one that fits the flags.
        let header = folder.join("kforge_cuda.h");
        let gch = folder.join("kforge_cuda.h.gch");
        cache::make(&gch)?;
        let precompile = |name: &str, build: Build, fast_math: bool| {
            let arguments = [&["-x", "c++-header"][..], &flags(build, fast_math)].concat();
            self.shared_step(folder, &arguments, &header, &gch.join(name))
        };
        let runtime = |build: Build| {
            let (object, macros) = runtime_of(build);
            let arguments = [RUNTIME_FLAGS, &["-c"], macros].concat();
            let source = folder.join("runtime.cpp");
            self.shared_step(folder, &arguments, &source, &folder.join(object))
        };
        // A compiler that lacks what an inspected build needs goes without that build: nothing of it stays then.
        let inspected = |build: Build| {
            let is_made = runtime(build)
                .and_then(|()| precompile(build.name(), build, false))
                .and_then(|()| self.links(folder, build));
            if is_made.is_err() {
                let _ = std::fs::remove_file(folder.join(runtime_of(build).0));
            }
        };
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                let fast =
                    precompile("plain", Build::Fast, false).and_then(|()| runtime(Build::Fast));
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
            Err(error) => Err(unwritable(&self.runtime, &error).into()),
        }
    }

    /// Whether a program without a kernel can be made.
    fn links(&self, folder: &Path, build: Build) -> anyhow::Result<()> {
        let (object, _) = runtime_of(build);
        let source = folder.join(format!("{}.cpp", build.name()));
        let text =
            "#include \"kforge_cuda.h\"\nKFORGE_ENTRIES_BEGIN\n{nullptr, 0},\nKFORGE_ENTRIES_END\n";
        std::fs::write(&source, text).map_err(|error| unwritable(&source, &error))?;
        let unit = folder.join(format!("{}-nothing.o", build.name()));
        let program = folder.join(format!("{}-nothing", build.name()));
        let arguments = [&flags(build, false)[..], &["-c"]].concat();
        self.shared_step(folder, &arguments, &source, &unit)?;
        let object = folder.join(object);
        let object = object.to_string_lossy();
        let arguments = [link_flags(build), &[&object]].concat();
        let linked = self.shared_step(folder, &arguments, &unit, &program);
        for file in [source, unit, program] {
            // It goes with the folder in any case.
            let _ = std::fs::remove_file(file);
        }
        linked
    }

    fn shared_step(
        &self,
        folder: &Path,
        arguments: &[&str],
        source: &Path,
        output: &Path,
    ) -> anyhow::Result<()> {
        let mut command = self.command(folder);
        command.args(arguments).arg(source).arg("-o").arg(output);
        match run(command)? {
            Run::Done => Ok(()),
            Run::Failed(_) if is_out_of_room(folder) => {
                Err(unwritable(folder, &std::io::ErrorKind::StorageFull.into()).into())
            }
            Run::Failed(log) => Err(Failure::environment(format!("`{}` cannot compile kforge's CPU runtime:\n{log}", self.compiler.path.display()))
                .hint("a compiler for C++17 is needed, such as g++ 9 or clang++ 10: name one in the environment variable CXX")
                .into()),
            Run::TimedOut => Err(Failure::environment(format!("`{}` took more than {} s for kforge's CPU runtime", self.compiler.path.display(), TIME_LIMIT.as_secs())).into()),
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
    ) -> anyhow::Result<Result<(PathBuf, f64), Refusal>> {
        let begun = Instant::now();
        let key = Digest::of_parts([
            text.as_bytes(),
            &[u8::from(fast_math)],
            build.name().as_bytes(),
            self.fingerprint.to_string().as_bytes(),
        ]);
        let executable = self.programs.join(key.to_string());
        if executable.is_file() {
            return Ok(Ok((executable, begun.elapsed().as_secs_f64())));
        }
        let building = tempfile::Builder::new()
            .prefix("kforge-compile-")
            .tempdir()
            .map_err(|error| no_room(&error))?;
        let folder = building.path();
        // The compiler quotes the kernel file as it is; what it compiles is the unit.
        for (name, text) in [(KERNEL, kernel), ("unit.cpp", text)] {
            std::fs::write(folder.join(name), text).map_err(|error| no_room(&error))?;
        }
        let mut command = self.command(folder);
        command
            .args(flags(build, fast_math))
            .args(["-c", "unit.cpp", "-o", "unit.o"]);
        match run(command)? {
            Run::Done => {}
            Run::Failed(log) => return refused(&log, folder),
            Run::TimedOut => {
                let reason = format!("the compiler took more than {} s", TIME_LIMIT.as_secs());
                return Ok(Err(Refusal {
                    status: Status::CompileTimeout,
                    reason,
                    evidence: Evidence::default(),
                }));
            }
        }
        let mut command = self.command(folder);
        command
            .args(["unit.o"])
            .arg(self.runtime.join(runtime_of(build).0))
            .args(link_flags(build))
            .args(["-o", "program"]);
        match run(command)? {
            Run::Done => {}
            Run::Failed(log) => return refused(&log, folder),
            Run::TimedOut => anyhow::bail!("the linker took more than {} s", TIME_LIMIT.as_secs()),
        }
        // Onto the cache's file system first, then in one step to its name.
        let beside = tempfile::NamedTempFile::new_in(&self.programs)
            .map_err(|error| unwritable(&self.programs, &error))?;
        std::fs::copy(folder.join("program"), beside.path())
            .map_err(|error| unwritable(&executable, &error))?;
        // Closed before it is renamed: a file that is open for writing cannot be executed.
        let beside = beside.into_temp_path();
        beside
            .persist(&executable)
            .map_err(|error| unwritable(&executable, &error.error))?;
        Ok(Ok((executable, begun.elapsed().as_secs_f64())))
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.compiler.path);
        let runtime = if self.runtime.is_dir() {
            self.runtime.as_path()
        } else {
            folder
        };
        command
            .arg("-I")
            .arg(runtime)
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
fn refused<T>(log: &str, folder: &Path) -> anyhow::Result<Result<T, Refusal>> {
    let is_full =
        |line: &str| !line.starts_with(KERNEL) && line.contains("No space left on device");
    // A linker that is killed by a full disk may say nothing; a complaint about the kernel names its line.
    let blames_the_kernel = log.lines().any(|line| line.starts_with(KERNEL));
    if log.lines().any(is_full) || (!blames_the_kernel && is_out_of_room(folder)) {
        return Err(no_room(&"no space is left").into());
    }
    Ok(Err(compile_error(log)))
}

/// Whether a folder takes no more than a small file.
fn is_out_of_room(folder: &Path) -> bool {
    let probe = folder.join("room");
    let written = std::fs::write(&probe, vec![0x5a; 64 << 10]);
    // It goes with the folder in any case.
    let _ = std::fs::remove_file(&probe);
    written.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull)
}

fn no_room(error: &dyn std::fmt::Display) -> Failure {
    let folder = std::env::temp_dir();
    Failure::environment(format!(
        "failed to compile in `{}`: {error}",
        folder.display()
    ))
    .hint("make room there, or name another folder in the environment variable TMPDIR")
}

/// Runs a compiler in a process group of its own, under limits.
fn run(mut command: Command) -> anyhow::Result<Run> {
    let mut log =
        tempfile::tempfile().context("failed to make a file for the compiler's output")?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .process_group(0);
    // SAFETY: between fork and exec only limits are lowered, by system calls, on values that were made before.
    unsafe {
        command.pre_exec(|| {
            for (resource, limit) in [
                (libc::RLIMIT_AS, MEMORY_LIMIT),
                (libc::RLIMIT_FSIZE, FILE_LIMIT),
                (libc::RLIMIT_CORE, 0),
            ] {
                super::process::lower_limit(resource, limit)?;
            }
            Ok(())
        });
    }
    let program = command.get_program().to_owned();
    let mut child = command
        .spawn()
        .with_context(|| format!("failed to run `{}`", program.display()))?;
    let watch = super::watchdog::Watch::start(child.id() as libc::pid_t, TIME_LIMIT);
    super::process::wait_for_news(child.id() as libc::pid_t, libc::WEXITED)?;
    let timed_out = watch.stop();
    let status = child.wait().context("failed to wait for the compiler")?;
    if timed_out {
        return Ok(Run::TimedOut);
    }
    if status.success() {
        return Ok(Run::Done);
    }
    let mut text = Vec::new();
    log.rewind()?;
    Read::by_ref(&mut log)
        .take(OUTPUT_LIMIT)
        .read_to_end(&mut text)?;
    Ok(Run::Failed(String::from_utf8_lossy(&text).into_owned()))
}

/// What `-march=native` depends on.
fn processor() -> String {
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

fn each_file(folder: &Dir<'static>, visit: &mut dyn FnMut(&'static Path, &'static [u8])) {
    for file in folder.files() {
        visit(file.path(), file.contents());
    }
    for inner in folder.dirs() {
        each_file(inner, visit);
    }
}
