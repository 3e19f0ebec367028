//! Compiles the kernels of `fixtures/gpu` with NVRTC. Needs no GPU: whether a kernel is accused shows on a GPU only (`gpu`).
//!
//! Compiles a sample; `KFORGE_TEST_ALL=1` compiles all, `KFORGE_TEST_KERNELS=a,b` those whose name begins with `a` or `b`.

use kforge::device::Compiled;
use kforge::device::cuda::compiler::Compiler;
use kforge::kernel::Kernel;
use kforge::task::TaskFiles;
use kforge::verdict::Status;

use crate::gpu::{ExpectedVerdict, fixture_folder, read_table};
use crate::harness::{Missing, TestResult};

/// One of so many kernels is compiled by default.
const SAMPLED: usize = 10;

/// Honest kernels compile; what refuses a hostile one is among its expected statuses.
fn kernels_compile_as_expected() -> TestResult {
    let program = env!("CARGO_BIN_EXE_kforge").into();
    let compiler = match Compiler::open_with_program(program, "sm_90") {
        Ok(compiler) => compiler,
        Err(error) => return Err(Missing::new("nvrtc", format!("{error:#}"))),
    };
    let folder = fixture_folder();
    let named = std::env::var("KFORGE_TEST_KERNELS").ok();
    let is_named = |row: &ExpectedVerdict| match &named {
        Some(named) => named.split(',').any(|start| row.file.starts_with(start)),
        // What only burdens the compiler takes minutes.
        None => !row.file.starts_with("bomb_"),
    };
    let step = match (std::env::var_os("KFORGE_TEST_ALL"), &named) {
        (None, None) => SAMPLED,
        _ => 1,
    };
    let rows: Vec<_> = read_table().into_iter().filter(is_named).collect();
    assert!(!rows.is_empty(), "no kernel has such a name");
    let mut wrong = Vec::new();
    for row in rows.iter().step_by(step) {
        let task = TaskFiles::find(folder.join("tasks").join(&row.task).to_str().unwrap());
        let task = task.and_then(|files| files.load()).unwrap();
        let text = std::fs::read_to_string(folder.join(&row.file)).unwrap();
        let kernel = Kernel::parse(&text, &task.definition).unwrap();
        let unit = kernel.translation_unit(&task, &kernel.tunable_values(None), false);
        let of_compiler = [Status::CompileError, Status::Rejected];
        match compiler.compile(&unit).unwrap() {
            Compiled::Refused(refusal) if !row.statuses.contains(&refusal.status) => {
                wrong.push(format!("{}: {refusal:?}", row.file));
            }
            Compiled::Ready(_) if row.statuses.iter().all(|one| of_compiler.contains(one)) => {
                wrong.push(format!("{}: it compiles", row.file));
            }
            Compiled::Refused(_) | Compiled::Ready(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

crate::harness::tests!(kernels_compile_as_expected);
