//! Where configs and task lists lie: as given, in `config/` and `tasks/` of the working folder, then within the program.

use std::path::Path;

use include_dir::{Dir, include_dir};

use crate::base::Failure;
use crate::base::text::did_you_mean;

static CONFIGS: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/config");

/// The text of a file and what errors call it.
pub fn find(name: &str, kind: &str) -> Result<(String, String), Failure> {
    for path in [
        Path::new(name).to_owned(),
        Path::new("config").join(name),
        Path::new("tasks").join(name),
    ] {
        if path.is_file() {
            let text = std::fs::read_to_string(&path).map_err(|error| {
                Failure::usage(format!("failed to read `{}`: {error}", path.display()))
            })?;
            return Ok((text, path.display().to_string()));
        }
    }
    if let Some(text) = CONFIGS.get_file(name).and_then(|file| file.contents_utf8()) {
        return Ok((text.to_owned(), format!("{name} (embedded)")));
    }
    let known: Vec<_> = embedded().collect();
    Err(Failure::usage(format!("no such {kind}: `{name}`")).hint(did_you_mean(name, known)))
}

/// The names of the configs within the program.
pub fn embedded() -> impl Iterator<Item = &'static str> {
    CONFIGS.files().filter_map(|file| file.path().to_str())
}
