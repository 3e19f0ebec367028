//! Finds the tasks of a config: expands task lists, finds folders, and refuses duplicates.

use std::path::Path;

use super::Config;
use super::find::find_task_list;
use crate::base::Failure;
use crate::task::TaskFiles;

/// A task and the name that the config has for it.
pub(crate) struct NamedTask {
    /// The name to record: an absolute path if the config names a folder or the definition of a dataset, so that the run can be resumed
    /// from any folder.
    pub(super) name: String,
    pub(crate) files: TaskFiles,
}

/// The tasks of a config, in order. There is at least one.
pub(crate) fn find_tasks(config: &Config) -> Result<Vec<NamedTask>, Failure> {
    let mut found: Vec<NamedTask> = Vec::new();
    for (name, origin) in task_names(config)? {
        let files =
            TaskFiles::find(&name).map_err(|failure| with_origin(origin.as_deref(), failure))?;
        if let Some(other) = found.iter().find(|other| other.files.name == files.name) {
            let failure = Failure::usage(format!("duplicate task `{}`", other.files.name))
                .hint("name every task once: each has its own folder in the run directory");
            return Err(with_origin(origin.as_deref(), failure));
        }
        let is_folder = Path::new(&name).join("task.yaml").is_file();
        let place = files.place.as_deref();
        let place = place.filter(|place| is_folder || place.is_file());
        let name = place.and_then(Path::to_str).map_or(name, str::to_owned);
        found.push(NamedTask { name, files });
    }
    if found.is_empty() {
        return Err(Failure::usage("no task is named").hint(
            "name tasks in the config, as in `tasks: [gdn_decode]`, or with `--set tasks=[gdn_decode]`",
        ));
    }
    Ok(found)
}

/// Every name, and the place in the task list that it comes from: `FILE:LINE`.
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

/// Puts the place in a task list before a failure's message.
fn with_origin(origin: Option<&str>, failure: Failure) -> Failure {
    match origin {
        Some(origin) => Failure {
            message: format!("{origin}: {}", failure.message),
            ..failure
        },
        None => failure,
    }
}
