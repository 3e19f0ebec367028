//! Finds the Python interpreter. Starts nothing.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::base::Failure;

/// The environment variable that names the interpreter.
const VARIABLE: &str = "KFORGE_PYTHON";

/// The interpreter: `$KFORGE_PYTHON`, else that of `$VIRTUAL_ENV`, else `python3` of `$PATH`.
///
/// `user`: what needs it, for the message.
///
/// # Errors
/// `Failure::environment` if there is none.
pub(crate) fn find(user: &str) -> Result<PathBuf, Failure> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let path = variable("PATH").unwrap_or_default();
    if let Some(chosen) = variable(VARIABLE) {
        return on_path(&chosen, &path).ok_or_else(|| {
            let chosen = chosen.display();
            Failure::environment(format!(
                "{user} needs Python: `{VARIABLE}` is `{chosen}`, which is not a program"
            ))
            .hint(format!(
                "set `{VARIABLE}` to a Python interpreter, such as `/usr/bin/python3`"
            ))
        });
    }
    let environment = variable("VIRTUAL_ENV").map(|folder| Path::new(&folder).join("bin/python3"));
    environment
        .filter(|python| python.is_file())
        .or_else(|| on_path(OsStr::new("python3"), &path))
        .ok_or_else(|| {
            Failure::environment(format!(
                "{user} is written in Python, and `python3` is not installed"
            ))
            .hint(format!(
                "install Python 3, or set `{VARIABLE}` to an interpreter"
            ))
        })
}

/// A program by its path, or by its name in a folder of `path`.
fn on_path(program: &OsStr, path: &OsStr) -> Option<PathBuf> {
    let program = Path::new(program);
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    std::env::split_paths(path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
