//! `kforge schema`: JSON Schemas for editors and scripts. Reads and changes nothing.

use super::exit::{self, Exit};
use super::output::print_json;
use super::output_schema::{OUTPUTS, OutputSchema};
use crate::config::config_schema;
use crate::task::task_schema;

/// Arguments of `kforge schema`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct SchemaArgs {
    /// `config`: run configs. `task`: task.yaml. Or the output of a command with `--format json`: see docs/json-output.md.
    #[arg(value_name = "NAME", default_value = "config", value_parser = names())]
    name: String,
}

/// Everything that has a schema.
fn names() -> Vec<&'static str> {
    let outputs = OUTPUTS.iter().map(|output| output.name);
    ["config", "task"].into_iter().chain(outputs).collect()
}

const NOTE: &str = "\
An editor with a YAML language server completes and checks a file that starts with
  # yaml-language-server: $schema=PATH";

fn help() -> String {
    exit::help(
        NOTE,
        &[
            ("kforge schema > config.schema.json", "for run configs"),
            ("kforge schema task > task.schema.json", "for task.yaml"),
            (
                "kforge schema eval",
                "what `kforge eval --format json` prints",
            ),
        ],
        exit::PRINT_CODES,
    )
}

pub(super) fn run(arguments: &SchemaArgs) -> anyhow::Result<Exit> {
    print_json(&match arguments.name.as_str() {
        "task" => task_schema(),
        name => OutputSchema::find(name).map_or_else(config_schema, OutputSchema::schema),
    })?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With `KFORGE_UPDATE_DOCS=1` the files are written instead of compared.
    #[test]
    fn the_committed_schemas_are_up_to_date() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema");
        for (name, schema) in [("config", config_schema()), ("task", task_schema())] {
            let path = folder.join(format!("{name}.json"));
            let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
            if std::env::var_os("KFORGE_UPDATE_DOCS").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let written = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                written == text,
                "docs/schema/{name}.json is not what the code says: run `KFORGE_UPDATE_DOCS=1 cargo test --lib committed_schemas`"
            );
        }
    }
}
