//! Problems of KernelBench: what is wrong with a command, and an interpreter that cannot be used. `tests/machine` imports them with PyTorch.

use crate::program::{CommandResult, Workspace, fixture};

fn import(more: &[&str]) -> CommandResult {
    let checkout = fixture("kernelbench").display().to_string();
    let arguments = ["tasks", "import", "kernelbench", &checkout];
    Workspace::new().run(&[&arguments[..], more].concat())
}

#[test]
fn a_problem_that_is_not_there_is_named() {
    import(&[]).assert_exit(2, &["is a folder: which level?", "--level 1 --problem 23"]);
    import(&["--level", "7"]).assert_exit(2, &["has no folder `level7`"]);
    import(&["--level", "1", "--problem", "4"])
        .assert_exit(2, &["level1` has no problem 4", "`23_Softmax.py`"]);
    import(&["--problem", "4"]).assert_exit(2, &["--level <NUMBER>"]);
    let file = fixture("kernelbench/KernelBench/level1/3_Scaled_row_sums.py");
    let file = file.display().to_string();
    let folder = Workspace::new();
    let import = ["tasks", "import", "kernelbench"];
    folder
        .run(&[&import[..], &[&file, "--level=1"]].concat())
        .assert_exit(2, &["`--level` is for a checkout"]);
    folder
        .run(&[&import[..], &["no.py"]].concat())
        .assert_exit(2, &["no such file or folder: `no.py`"]);
    folder
        .run(&["bench", "kernelbench", &file])
        .assert_exit(2, &["a level of a checkout is judged"]);
}

#[test]
fn a_problem_without_an_interpreter_is_not_imported() {
    let checkout = fixture("kernelbench").display().to_string();
    let folder = Workspace::new();
    let import = ["tasks", "import", "kernelbench", &checkout, "--level=1"];
    let with = |python: &str| {
        let mut command = folder.command(&import);
        CommandResult::of(&command.env("KFORGE_PYTHON", python).output().unwrap())
    };
    with("/no/python").assert_exit(3, &["a problem of KernelBench needs Python"]);
    // A program that answers nothing.
    with("true").assert_exit(
        2,
        &[
            "`kb1_3_Scaled_row_sums` is not imported",
            "9_Random_mask.py: Python ended without an answer",
        ],
    );
    assert!(!folder.path().join("tasks").exists());
}
