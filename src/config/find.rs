//! Finds configs and task lists: the path as given, then `config/` or `tasks/` of the working folder, then those embedded in the
//! program.

use std::path::Path;

use include_dir::{Dir, include_dir};

use crate::base::Failure;
use crate::base::text::did_you_mean;
use crate::task;

static CONFIGS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/config");

/// The text of a run config, and the name that errors use for it.
pub(crate) fn find_config(name: &str) -> Result<(String, String), Failure> {
    let embedded = CONFIGS
        .files()
        .filter_map(|file| Some((file.path().to_str()?, file.contents_utf8()?)));
    find_text("run config", "config", name, &embedded.collect::<Vec<_>>())
}

/// The text of a task list, and the name that errors use for it.
pub(super) fn find_task_list(name: &str) -> Result<(String, String), Failure> {
    find_text("task list", "tasks", name, &task::embedded_lists())
}

fn find_text(
    kind: &str,
    folder: &str,
    name: &str,
    embedded: &[(&str, &str)],
) -> Result<(String, String), Failure> {
    for path in [Path::new(name).to_owned(), Path::new(folder).join(name)] {
        if path.is_file() {
            let text = std::fs::read_to_string(&path).map_err(|error| {
                Failure::usage(format!("failed to read `{}`: {error}", path.display()))
                    .hint(format!("a {kind} must be a readable UTF-8 text file"))
            })?;
            return Ok((text, path.display().to_string()));
        }
    }
    if let Some((_, text)) = embedded.iter().find(|(known, _)| *known == name) {
        return Ok(((*text).to_owned(), format!("{name} (embedded)")));
    }
    if Path::new(name).is_dir() {
        return Err(Failure::usage(format!(
            "`{name}` is a folder, not a {kind}"
        )));
    }
    let local = local_names(folder, embedded);
    let known = embedded
        .iter()
        .map(|(known, _)| *known)
        .chain(local.iter().map(String::as_str));
    Err(Failure::usage(format!("no such {kind}: `{name}`"))
        .hint(did_you_mean(name, known.collect::<Vec<_>>())))
}

/// The files in `config/` or `tasks/` of the working folder whose names are not embedded.
fn local_names(folder: &str, embedded: &[(&str, &str)]) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !embedded.iter().any(|(known, _)| known == name))
        .collect();
    names.sort_unstable();
    names
}
