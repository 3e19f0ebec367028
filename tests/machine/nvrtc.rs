//! Compiles the kernels of the CPU tests with NVRTC, and checks that `fixtures/nvrtc.tsv` lists every kernel that only one of the two
//! compilers accepts. Needs no GPU.

use crate::harness::{Missing, TestResult};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kforge::device::cpu::CpuDevice;
use kforge::device::cuda::compiler::Compiler;
use kforge::device::{Build, Compile, Compiled};
use kforge::kernel::Kernel;
use kforge::kernel::plan::TranslationUnit;
use kforge::task::{Task, TaskFiles, embedded_names};

/// CUDA's compiler.
fn nvrtc() -> Result<Compiler, Missing> {
    match Compiler::open_with_program(env!("CARGO_BIN_EXE_kforge").into(), "sm_90") {
        // A generous limit, so that a busy machine does not cause timeouts.
        Ok(compiler) => Ok(compiler.with_time_limit(Duration::from_secs(300))),
        Err(error) => Err(Missing::new("nvrtc", format!("{error:#}"))),
    }
}

/// Every compiled kernel, by its task and file name.
fn corpus() -> BTreeMap<String, TranslationUnit> {
    let mut units = BTreeMap::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("tests/fixtures/kernels/expected.tsv")).unwrap();
    for name in embedded_names() {
        let task = TaskFiles::find(name)
            .and_then(|files| files.load())
            .unwrap();
        let mut files: Vec<(String, PathBuf, bool)> = Vec::new();
        files.push((
            format!("{name}/oracle.cu"),
            root.join(format!("tasks/{name}/oracle.cu")),
            true,
        ));
        for entry in std::fs::read_dir(root.join("kernels").join(name))
            .unwrap()
            .flatten()
        {
            let file = entry.file_name().to_string_lossy().into_owned();
            // The folder also holds the verdict of the best known kernel.
            if file.ends_with(".cu") {
                files.push((format!("{name}/{file}"), entry.path(), false));
            }
        }
        for row in table.lines().filter(|row| !row.starts_with('#')) {
            let cells: Vec<_> = row.split('\t').map(str::trim).collect();
            if let [file, task, "passed" | "unsupported" | "compile_error", ..] = cells.as_slice()
                && *task == name
            {
                files.push((
                    (*file).to_owned(),
                    root.join("tests/fixtures/kernels").join(file),
                    false,
                ));
            }
        }
        for (label, path, is_oracle) in files {
            units.insert(label, unit(&task, &path, is_oracle));
        }
    }
    units
}

fn unit(task: &Task, path: &Path, is_oracle: bool) -> TranslationUnit {
    let text = String::from_utf8(std::fs::read(path).unwrap()).unwrap();
    let kernel = Kernel::parse(&text, &task.definition)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    kernel.translation_unit(task, &kernel.tunable_values(None), is_oracle)
}

/// By kernel: what the CPU's compiler and NVRTC do with it (`accepts` or `refuses`), where they differ.
fn read_table(path: &Path) -> BTreeMap<String, (String, String)> {
    let table = std::fs::read_to_string(path).unwrap();
    let rows = table
        .lines()
        .filter(|row| !row.is_empty() && !row.starts_with('#'));
    rows.map(|row| {
        let cells: Vec<_> = row.split('\t').collect();
        let [file, cpu, cuda, _why] = cells.as_slice() else {
            panic!("a row of the table must have four cells: {row}")
        };
        ((*file).to_owned(), ((*cpu).to_owned(), (*cuda).to_owned()))
    })
    .collect()
}

/// What a compiler does with a kernel, and the reason of a refusal.
fn outcome(compiled: Compiled) -> (&'static str, String) {
    match compiled {
        Compiled::Ready(_) => ("accepts", String::new()),
        Compiled::Refused(refusal) => ("refuses", refusal.reason),
    }
}

fn differences_between_nvrtc_and_cpu_match_the_table() -> TestResult {
    let nvrtc = nvrtc()?;
    if !nvrtc.version().starts_with("NVRTC 13.") {
        let reason = format!("the table is for NVRTC 13, this is {}", nvrtc.version());
        return Err(Missing::new("nvrtc", reason));
    }
    let device = CpuDevice::new().expect("`cargo test` needs a C++ compiler");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nvrtc.tsv");
    let expected = read_table(&path);
    let (mut found, mut details) = (BTreeMap::new(), String::new());
    let mut accepted = 0;
    for (file, unit) in corpus() {
        let (cpu, cpu_reason) = outcome(device.compile(&unit, Build::Fast).unwrap());
        let (cuda, cuda_reason) = outcome(nvrtc.compile(&unit).unwrap());
        accepted += usize::from(cuda == "accepts");
        if cpu != cuda {
            found.insert(file.clone(), (cpu.to_owned(), cuda.to_owned()));
            writeln!(
                details,
                "{file}: the CPU {cpu}, NVRTC {cuda}: {cpu_reason}{cuda_reason}"
            )
            .unwrap();
        }
    }
    assert!(
        accepted > 30,
        "NVRTC accepts {accepted} kernels:\n{details}"
    );
    assert_eq!(
        found,
        expected,
        "the results differ from `{}`:\n{details}",
        path.display()
    );
    Ok(())
}

fn only_what_is_compiled_and_called_counts() -> TestResult {
    let nvrtc = nvrtc()?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sources");
    let table = std::fs::read_to_string(folder.join("expected.tsv")).unwrap();
    let task = TaskFiles::find("gelu").and_then(|files| files.load());
    let task = task.unwrap();
    let mut wrong = Vec::new();
    for row in table.lines().filter(|row| !row.starts_with('#')) {
        let cells: Vec<_> = row.split('\t').collect();
        let [file, _cpu, _cpu_line, expected, line, _why] = cells.as_slice() else {
            panic!("a row of the table must have six cells: {row}")
        };
        let compiled = nvrtc.compile(&unit(&task, &folder.join(file), false));
        let (status, found_line, reason) = match compiled.unwrap() {
            Compiled::Ready(_) => ("compiled".to_owned(), None, String::new()),
            Compiled::Refused(refusal) => (
                refusal.status.to_string(),
                refusal.evidence.line,
                refusal.reason,
            ),
        };
        let expected_line = line.parse().ok();
        if status != *expected || (expected_line.is_some() && found_line != expected_line) {
            wrong.push(format!("{file}: {status}, line {found_line:?}: {reason}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Set it to compile all kernels as the screen does, and not every tenth.
const ALL_SCREENED: &str = "KFORGE_TEST_ALL_SCREENED";

/// No usual kernel is refused by a screen because its conditions differ.
fn usual_kernels_show_the_screen_the_same_program() -> TestResult {
    let nvrtc = nvrtc()?;
    let screen =
        CpuDevice::for_screen(nvrtc.macros().unwrap()).expect("`cargo test` needs a C++ compiler");
    let mut units = corpus();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sources");
    let task = TaskFiles::find("gelu").and_then(|files| files.load());
    let task = task.unwrap();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().extension().is_some_and(|end| end == "cu") {
            let label = entry.file_name().to_string_lossy().into_owned();
            units.insert(label, unit(&task, &entry.path(), false));
        }
    }
    let device = CpuDevice::new().expect("`cargo test` needs a C++ compiler");
    let step = if std::env::var_os(ALL_SCREENED).is_some() {
        1
    } else {
        10
    };
    let mut found = Vec::new();
    let mut same = 0;
    for (index, (file, unit)) in units.into_iter().enumerate() {
        // NVRTC's macros break no header of the CPU. Code for a CPU beside inline PTX is left out by the screen.
        let has_code_for_cpu = ["KFORGE_CPU", "__CUDA_ARCH__"]
            .iter()
            .any(|name| unit.source.contains(name));
        let is_tried = index % step == 0 && !has_code_for_cpu;
        if is_tried
            && let (plain, _) = outcome(device.compile(&unit, Build::Fast).unwrap())
            && let (screened, reason) = outcome(screen.compile(&unit, Build::Fast).unwrap())
            && plain != screened
        {
            found.push(format!("{file}: the screen {screened}: {reason}"));
        }
        if let Compiled::Ready(program) = nvrtc.compile(&unit).unwrap() {
            match screen.trace_difference(&unit, &program.trace).unwrap() {
                Some(difference) => found.push(format!("{file}: {difference:?}")),
                None => same += 1,
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(same > 50, "{same}");
    Ok(())
}

crate::harness::tests!(
    usual_kernels_show_the_screen_the_same_program,
    differences_between_nvrtc_and_cpu_match_the_table,
    only_what_is_compiled_and_called_counts,
);
