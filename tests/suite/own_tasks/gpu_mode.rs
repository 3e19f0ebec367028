//! Problems of GPU MODE: what is wrong with a `task.yml`. `tests/machine` imports them with PyTorch.

use crate::program::{CommandResult, Workspace, fixture};

#[test]
fn a_task_file_that_is_wrong_is_reported_before_python_starts() {
    let text = std::fs::read_to_string(fixture("gpu_mode/rowscale/task.yml")).unwrap();
    let folder = Workspace::new();
    let import = |text: &str, code: i32, messages: &[&str]| {
        folder.write("problem/task.yml", text);
        let mut command = folder.command(&["tasks", "import", "gpu-mode", "problem"]);
        let result = command.env("KFORGE_PYTHON", "/no/python").output().unwrap();
        CommandResult::of(&result).assert_exit(code, messages);
    };
    import(&text, 2, &["failed to read `problem/task.py`"]);
    folder.write("problem/task.py", "");
    folder.write("utils.py", "");
    folder.write("problem/reference.py", "");
    import(&text, 3, &["a problem of GPU MODE needs Python"]);
    import(
        &text.replace("lang: \"py\"", "lang: cu"),
        2,
        &["problem/task.yml: `lang` is not `py`"],
    );
    import(
        &(text.clone() + "multi_gpu: true\n"),
        2,
        &["kforge judges on one GPU"],
    );
    import(
        &text.replace("benchmarks:", "others:"),
        2,
        &["there are no `benchmarks`"],
    );
    import("files: 3\n", 2, &["problem/task.yml:1"]);
    let other = folder.run(&["tasks", "import", "gpu-mode", "nothing"]);
    other.assert_exit(2, &["failed to read `nothing`"]);
    assert!(!folder.path().join("tasks").exists());
}
