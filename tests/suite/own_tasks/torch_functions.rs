//! PyTorch functions: what is wrong with a command, and an interpreter that cannot be used. `tests/machine` imports them with PyTorch.

use crate::program::{CommandResult, Workspace};

#[test]
fn a_command_that_is_wrong_is_reported_before_python_starts() {
    let folder = Workspace::new();
    folder.write("model.py", "def f(x):\n    return x\n");
    let import = |more: &[&str]| {
        let mut command = folder.command(&[&["tasks", "import", "torch"], more].concat());
        CommandResult::of(&command.env("KFORGE_PYTHON", "/no/python").output().unwrap())
    };
    import(&["model.py"]).assert_exit(2, &["`model.py` does not name a function", "FILE.py:NAME"]);
    import(&["other.py:f"]).assert_exit(2, &["there is no file `other.py`"]);
    import(&["model.py:f", "--input=x:float17[n]"])
        .assert_exit(2, &["`x`: unknown dtype `float17`", "`float16`"]);
    import(&["model.py:f", "--draw=x={norm: 1}"])
        .assert_exit(2, &["`x={norm: 1}`", "unknown field `norm`"]);
    import(&["model.py:f", "--axis=n=0"]).assert_exit(2, &["`n=0` does not describe an axis"]);
    import(&["model.py:f"]).assert_exit(3, &["a PyTorch function needs Python"]);
}

#[test]
fn an_interpreter_without_pytorch_is_an_error_of_the_environment() {
    let folder = Workspace::new();
    folder.write("model.py", "def f(x):\n    return x\n");
    // What Python answers where a module is missing.
    let answer = "#!/bin/sh\necho '{\"error\": \"No module\", \"missing_module\": \"torch\"}'\n";
    folder.write("python", answer);
    let python = folder.path().join("python");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&python, mode).unwrap();
    let mut command = folder.command(&["tasks", "import", "torch", "model.py:f"]);
    let result = CommandResult::of(&command.env("KFORGE_PYTHON", &python).output().unwrap());
    result.assert_exit(3, &["has no PyTorch", "-m pip install torch"]);
    assert!(!folder.path().join("tasks").exists());
}
