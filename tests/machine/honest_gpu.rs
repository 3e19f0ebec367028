//! Compiles the honest kernels of `fixtures/gpu` with NVRTC. Needs no GPU: whether a kernel is accused shows on a GPU only (`gpu`).
//!
//! Compiles a sample; `KFORGE_TEST_ALL=1` compiles all.

use std::path::Path;

use kforge::device::Compiled;
use kforge::device::cuda::compiler::Compiler;
use kforge::kernel::Kernel;
use kforge::task::TaskFiles;

use crate::harness::{Missing, TestResult};

/// One of so many kernels is compiled by default.
const SAMPLED: usize = 10;

fn honest_kernels_compile() -> TestResult {
    let program = env!("CARGO_BIN_EXE_kforge").into();
    let compiler = match Compiler::open_with_program(program, "sm_90") {
        Ok(compiler) => compiler,
        Err(error) => return Err(Missing::new("nvrtc", format!("{error:#}"))),
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpu");
    let table = std::fs::read_to_string(folder.join("expected.tsv")).unwrap();
    let honest: Vec<_> = table
        .lines()
        .filter(|row| row.starts_with("honest_"))
        .collect();
    let step = match std::env::var_os("KFORGE_TEST_ALL") {
        Some(_) => 1,
        None => SAMPLED,
    };
    for row in honest.iter().step_by(step) {
        let cells: Vec<_> = row.split('\t').collect();
        let [file, task, ..] = cells.as_slice() else {
            panic!("a row of the table has too few cells: {row}")
        };
        let task = TaskFiles::find(folder.join("tasks").join(task).to_str().unwrap());
        let task = task.and_then(|files| files.load()).unwrap();
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let kernel = Kernel::parse(&text, &task.definition).unwrap();
        let unit = kernel.translation_unit(&task, &kernel.tunable_values(None), false);
        if let Compiled::Refused(refusal) = compiler.compile(&unit).unwrap() {
            panic!("{file}: {refusal:?}");
        }
    }
    Ok(())
}

crate::harness::tests!(honest_kernels_compile);
