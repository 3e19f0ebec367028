//! What needs a shell, `man`, Python or a pseudo terminal: completions in the shell itself, man pages, `kforge init` from a Python
//! function and by questions.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::harness::{Missing, TestResult, tests};
use crate::program::{Workspace, program};

tests![
    bash_completes_commands_flags_and_values,
    zsh_and_fish_read_their_scripts,
    man_shows_a_page_with_examples,
    init_reads_the_signature_of_a_python_function,
    init_asks_on_a_terminal,
];

fn find(name: &str) -> Result<(), Missing> {
    let found = Command::new(name)
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    match found {
        Ok(_) => Ok(()),
        Err(error) => Err(Missing::new(name, format!("{name}: {error}"))),
    }
}

/// A workspace with the script of a shell.
fn with_script(shell: &str) -> Workspace {
    let workspace = Workspace::new();
    let result = workspace.run(&["completions", shell]);
    result.assert_exit(0, &[]);
    workspace.write("script", &result.stdout);
    workspace
}

fn bash_completes_commands_flags_and_values() -> TestResult {
    find("bash")?;
    let workspace = with_script("bash");
    for (line, expected) in [
        ("kforge com", "compare completions"),
        ("kforge tasks ch", "check"),
        ("kforge doctor --form", "--format"),
        ("kforge doctor --format ", "human json jsonl"),
        ("kforge __", ""),
    ] {
        let words: Vec<_> = line.split(' ').collect();
        let quoted = words.iter().map(|word| format!("'{word}'"));
        let last = words.len() - 1;
        let test = format!(
            "source ./script; COMP_WORDS=({}); COMP_CWORD={last}; _kforge kforge '{}' '{}'; echo \"${{COMPREPLY[@]}}\"",
            quoted.collect::<Vec<_>>().join(" "),
            words[last],
            words[last - 1],
        );
        let output = Command::new("bash")
            .args(["--norc", "-c", &test])
            .current_dir(workspace.path())
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        assert_eq!(shown.trim(), expected, "{line}");
    }
    Ok(())
}

fn zsh_and_fish_read_their_scripts() -> TestResult {
    for shell in ["zsh", "fish"] {
        find(shell)?;
        let workspace = with_script(shell);
        let output = Command::new(shell)
            .args(["-n", "script"])
            .current_dir(workspace.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{shell}: {output:?}");
    }
    Ok(())
}

fn man_shows_a_page_with_examples() -> TestResult {
    find("man")?;
    let workspace = Workspace::new();
    workspace
        .run(&["man", "pages"])
        .exits_with(0)
        .shows(&["pages"]);
    for (page, texts) in [
        ("kforge", &["kforge-evolve", "EXIT STATUS"][..]),
        (
            "kforge-tasks-check",
            &[
                "kforge tasks check my_task",
                "--full-size",
                "a task is refused",
            ],
        ),
    ] {
        let output = Command::new("man")
            .args(["--warnings", "-l", &format!("pages/{page}.1")])
            .env("MANWIDTH", "80")
            .current_dir(workspace.path())
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        for text in texts {
            assert!(shown.contains(text), "{page} has no `{text}`:\n{shown}");
        }
        assert!(!shown.contains("__worker"));
    }
    Ok(())
}

const FUNCTIONS: &str = r#"
import no_such_package
from typing import Annotated

def gate(x: "float16[rows, 512]", g: Annotated[torch.Tensor, "float16[rows, 512]"], scale: float = 2.0) -> "float16[rows, 512]":
    return x * torch.sigmoid(g) * scale

def norm(x: Float32[Tensor, "rows columns"]) -> tuple[Float32[Tensor, "rows columns"], Float32[Tensor, "rows"]]:
    return x, x.sum(-1)

def plain(x: torch.Tensor, y):
    return x
"#;

fn init_reads_the_signature_of_a_python_function() -> TestResult {
    find("python3")?;
    let workspace = Workspace::new();
    workspace.write("model.py", FUNCTIONS);
    let init = |name: &str, function: &str, more: &[&str]| {
        let arguments = [&["init", name, "--function", function], more].concat();
        workspace.run(&arguments)
    };
    init("gate", "model.py:gate", &["--axis", "rows=16,64"])
        .exits_with(0)
        .shows(&["oracle.cu"]);
    let definition = workspace.read("tasks/gate/definition.json");
    assert!(definition.contains("torch.sigmoid(g)"), "{definition}");
    assert!(
        workspace
            .read("tasks/gate/naive.cu")
            .contains("const __half* x, const __half* g, float scale, __half* output, int rows")
    );
    assert!(
        workspace
            .read("tasks/gate/workloads.jsonl")
            .contains("\"value\":2.0")
    );
    workspace
        .run(&["tasks", "show", "gate"])
        .assert_exit(0, &[]);
    init("norm", "model.py:norm", &[]).assert_exit(0, &[]);
    workspace
        .run(&["tasks", "show", "norm"])
        .exits_with(0)
        .shows(&["output_1"]);
    init("plain", "model.py:plain", &[]).assert_exit(
        2,
        &[
            "give no shape for `x` and `y`",
            "--input 'x:float16[rows,columns]'",
        ],
    );
    let shapes = ["--input", "x:int32[n]", "--input", "y:int32[n]"];
    init(
        "plain",
        "model.py:plain",
        &[&shapes[..], &["--output", "z:int32[n]"]].concat(),
    )
    .assert_exit(0, &[]);
    init("other", "model.py:absent", &[])
        .assert_exit(2, &["no function `absent`", "gate, norm, plain"]);
    init("other", "model.py", &[]).assert_exit(2, &["FILE.py:NAME"]);
    Ok(())
}

/// `script` gives the program a terminal.
fn init_asks_on_a_terminal() -> TestResult {
    find("script")?;
    let workspace = Workspace::new();
    let mut child = Command::new("script")
        .args([
            "-qec",
            &format!("{} init asked", program().display()),
            "/dev/null",
        ])
        .current_dir(workspace.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let answers =
        "x:float32[rows,columns]\nwrong\neps:float32=0.5\n\n\ny:float32[rows]\n\n16,32\nconst:64\n";
    child
        .stdin
        .take()
        .unwrap()
        .write_all(answers.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}");
    for text in [
        "`wrong` does not describe a scalar",
        "at least one output",
        "next:",
    ] {
        assert!(shown.contains(text), "no `{text}`:\n{shown}");
    }
    let workloads = workspace.read("tasks/asked/workloads.jsonl");
    assert_eq!(workloads.lines().count(), 2, "{workloads}");
    assert!(workspace.read("tasks/asked/definition.json").contains("64"));
    Ok(())
}
