//! From the names in a config to the files of its tasks: task lists are opened, folders found, nothing taken twice.

use std::path::Path;

use super::Config;
use super::find::find_task_list;
use crate::base::Failure;
use crate::task::TaskFiles;

/// A task as it was named.
pub(super) struct NamedTask {
    /// As the record keeps it: an absolute path where a folder was named, so that a run can be resumed from anywhere.
    pub(super) name: String,
    pub(super) files: TaskFiles,
}

/// The tasks of a config, in order.
pub(super) fn find_tasks(config: &Config) -> Result<Vec<NamedTask>, Failure> {
    let mut found: Vec<NamedTask> = Vec::new();
    for (name, origin) in task_names(config)? {
        let files =
            TaskFiles::find(&name).map_err(|failure| with_origin(origin.as_deref(), failure))?;
        if let Some(other) = found.iter().find(|other| other.files.name == files.name) {
            let failure = Failure::usage(format!("the task `{}` is named twice", other.files.name))
                .hint("name every task once: each has a folder of its own in the run's directory");
            return Err(with_origin(origin.as_deref(), failure));
        }
        let name = absolute_folder(&name).unwrap_or(name);
        found.push(NamedTask { name, files });
    }
    if found.is_empty() {
        return Err(Failure::usage("no task is named").hint(
            "name some in the config: `tasks: [gdn_decode]`, or by `--set tasks=[gdn_decode]`",
        ));
    }
    Ok(found)
}

/// Every name, and the line of the list that it comes from.
fn task_names(config: &Config) -> Result<Vec<(String, Option<String>)>, Failure> {
    let mut names = Vec::new();
    for name in &config.tasks {
        if !name.ends_with(".txt") {
            names.push((name.clone(), None));
            continue;
        }
        let (text, origin) = find_task_list(name)?;
        for (index, line) in text.lines().enumerate() {
            let task = line.split('#').next().unwrap_or_default().trim();
            if !task.is_empty() {
                names.push((task.to_owned(), Some(format!("{origin}:{}", index + 1))));
            }
        }
    }
    Ok(names)
}

fn with_origin(origin: Option<&str>, failure: Failure) -> Failure {
    match origin {
        Some(origin) => Failure {
            message: format!("{origin}: {}", failure.message),
            ..failure
        },
        None => failure,
    }
}

/// The whole path, where a folder was named rather than a task.
fn absolute_folder(name: &str) -> Option<String> {
    let folder = Path::new(name);
    folder.join("task.yaml").is_file().then_some(())?;
    Some(folder.canonicalize().ok()?.to_str()?.to_owned())
}
