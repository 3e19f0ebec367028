//! Starts Python on a script that describes foreign code. The script answers on standard output.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::base::{Failure, environment};

/// A script that describes foreign code: what all imports share, which also writes the naive kernel, then these parts. What a part defines is
/// used by those after it.
macro_rules! describing_script {
    ($($part:expr),+ $(,)?) => {
        concat!(
            include_str!("naive_kernel/values.py"),
            include_str!("naive_kernel/sizes.py"),
            include_str!("naive_kernel/elements.py"),
            include_str!("naive_kernel/views.py"),
            include_str!("naive_kernel/reductions.py"),
            include_str!("naive_kernel/products.py"),
            include_str!("naive_kernel/kernel.py"),
            include_str!("described_values.py"),
            $($part),+
        )
    };
}
pub(super) use describing_script;

/// A command that runs a script without API keys and without a GPU, and leaves no compiled files behind.
pub(super) fn python_command(python: &Path, script: &str) -> Command {
    let mut command = Command::new(python);
    command
        .args(["-c", script])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("CUDA_VISIBLE_DEVICES", "")
        .stdin(Stdio::null());
    for name in environment::withheld_variables() {
        command.env_remove(name);
    }
    command
}

/// Python did not start.
pub(super) fn not_started(python: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::environment(format!("failed to start `{}`: {error}", python.display()))
}

/// The code imports a module that this Python does not have.
pub(super) fn module_is_missing(subject: &str, module: &str, python: &Path) -> Failure {
    let python = python.display();
    Failure::environment(format!(
        "{subject} imports `{module}`, which `{python}` does not have"
    ))
    .hint(format!(
        "install it with `{python} -m pip install {module}`, or set `KFORGE_PYTHON` to an interpreter that has it"
    ))
}

/// A text, and what follows it, in which words in capitals are replaced.
pub(super) fn with_epilogue(source: &str, epilogue: &str, values: &[(&str, String)]) -> String {
    let filled = values
        .iter()
        .fold(epilogue.to_owned(), |text, (word, value)| {
            text.replace(word, value)
        });
    source.trim_end().to_owned() + &filled
}
