//! CUDA's own compiler on the kernels that the CPU takes: what one accepts and the other does not is a table in
//! `fixtures/nvrtc.tsv`, and this test holds it to the truth. No GPU is needed.

#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use kforge::device::cpu::CpuDevice;
use kforge::device::cuda::compiler::Compiler;
use kforge::device::{Build, Compile, Compiled};
use kforge::kernel::Kernel;
use kforge::kernel::plan::TranslationUnit;
use kforge::task::{Task, TaskFiles, embedded_names};

/// CUDA's compiler, or one line that says why there is none.
fn nvrtc() -> Option<Compiler> {
    if let Some(python) = std::env::var_os("KFORGE_TEST_PYTHON") {
        // SAFETY: the only test of this program, before it starts a thread.
        unsafe { std::env::set_var("KFORGE_PYTHON", python) };
    }
    match Compiler::open_with_program(env!("CARGO_BIN_EXE_kforge").into(), "sm_90") {
        Ok(compiler) => Some(compiler),
        Err(error) => {
            println!("skipped: {}", format!("{error:#}").replace("\n\n", "; "));
            None
        }
    }
}

/// Every kernel that is asked about, by a name that says where it is.
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
            // The best that is known has its verdict beside it.
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

#[test]
fn differences_between_nvrtc_and_cpu_match_the_table() {
    let Some(nvrtc) = nvrtc() else { return };
    if !nvrtc.version().starts_with("NVRTC 13.") {
        println!(
            "skipped: the table is that of NVRTC 13, this is {}",
            nvrtc.version()
        );
        return;
    }
    let Ok(device) = CpuDevice::new() else {
        println!("skipped: no C++ compiler");
        return;
    };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nvrtc.tsv");
    let table = std::fs::read_to_string(&path).unwrap();
    let mut expected = BTreeMap::new();
    for row in table
        .lines()
        .filter(|row| !row.is_empty() && !row.starts_with('#'))
    {
        let cells: Vec<_> = row.split('\t').collect();
        let [file, cpu, cuda, _why] = cells.as_slice() else {
            panic!("a row of the table has four cells: {row}")
        };
        expected.insert((*file).to_owned(), ((*cpu).to_owned(), (*cuda).to_owned()));
    }
    let (mut found, mut told) = (BTreeMap::new(), String::new());
    let mut accepted = 0;
    for (file, unit) in corpus() {
        let on_cpu = match device.compile(&unit, Build::Fast).unwrap() {
            Compiled::Ready(_) => Ok(()),
            Compiled::Refused(refusal) => Err(refusal.reason),
        };
        let by_nvrtc = match nvrtc.compile(&unit).unwrap() {
            Compiled::Ready(_) => Ok(()),
            Compiled::Refused(refusal) => Err(refusal.reason),
        };
        accepted += usize::from(by_nvrtc.is_ok());
        if on_cpu.is_ok() != by_nvrtc.is_ok() {
            let word =
                |result: &Result<(), String>| if result.is_ok() { "accepts" } else { "refuses" };
            found.insert(
                file.clone(),
                (word(&on_cpu).to_owned(), word(&by_nvrtc).to_owned()),
            );
            writeln!(
                told,
                "{file}: the CPU {}, NVRTC {}: {}{}",
                word(&on_cpu),
                word(&by_nvrtc),
                on_cpu.err().unwrap_or_default(),
                by_nvrtc.err().unwrap_or_default()
            )
            .unwrap();
        }
    }
    assert!(accepted > 30, "NVRTC accepts {accepted} kernels:\n{told}");
    assert_eq!(
        found,
        expected,
        "`{}` says something else:\n{told}",
        path.display()
    );
}
