//! The house rules that a machine can check: layers, module heads, file lengths, honest comments.

use std::path::{Path, PathBuf};

/// A module uses only those to its right.
const LAYERS: [&str; 16] = [
    "cli", "driver", "config", "report", "run", "worker", "propose", "eval", "llm", "device",
    "search", "event", "verdict", "kernel", "task", "base",
];

/// The longest that a source file may be, its tests aside.
const MOST_LINES: usize = 600;

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                sources.push((path.strip_prefix(root).unwrap().to_owned(), text));
            }
        }
    }
    sources.sort();
    assert!(sources.len() > 40, "the sources were not found");
    sources
}

fn layer(path: &Path) -> Option<usize> {
    let name = path
        .components()
        .nth(1)?
        .as_os_str()
        .to_str()?
        .trim_end_matches(".rs")
        .to_owned();
    LAYERS.iter().position(|layer| *layer == name)
}

/// The modules named behind `crate::`, each with its line; those in `crate::{…}` as well.
fn used(text: &str) -> Vec<(usize, String)> {
    let name = |text: &str| -> String {
        let is_name = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '_';
        text.trim_start().chars().take_while(is_name).collect()
    };
    let mut found = Vec::new();
    for (position, _) in text.match_indices("crate::") {
        let line = text[..position].lines().count().max(1);
        let rest = &text[position + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push((line, name(rest)));
            continue;
        };
        let mut depth = 1;
        let mut begins = true;
        for (offset, letter) in group.char_indices() {
            if begins && depth == 1 && !letter.is_whitespace() {
                found.push((line, name(&group[offset..])));
                begins = false;
            }
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => begins = true,
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

#[test]
fn grouped_uses_are_seen() {
    let text = "use crate::base;\nuse crate::{\n    cli::{Exit, print},\n    task,\n};\n";
    let names: Vec<_> = used(text).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["base", "cli", "task"]);
}

/// The text before the file's own tests.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text)
}

#[test]
fn modules_use_only_those_below_them() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(own) = layer(&path) else { continue };
        for (line, name) in used(&text) {
            if LAYERS
                .iter()
                .position(|layer| *layer == name)
                .is_some_and(|other| other < own)
            {
                wrong.push(format!(
                    "{}:{line}: `{}` uses `{name}`, which stands above it",
                    path.display(),
                    LAYERS[own]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_layer_and_a_line_in_the_architecture() {
    let architecture =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md"))
            .unwrap();
    for (path, _) in sources() {
        let top = path
            .components()
            .nth(1)
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap()
            .to_owned();
        if ["lib.rs", "main.rs"].contains(&top.as_str()) {
            continue;
        }
        assert!(layer(&path).is_some(), "{} has no layer", path.display());
        assert!(
            architecture.contains(&format!("`{}`", top.trim_end_matches(".rs"))),
            "ARCHITECTURE.md does not name `{top}`"
        );
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for (path, text) in sources() {
        assert!(
            text.starts_with("//! "),
            "{} does not open with its purpose",
            path.display()
        );
    }
}

#[test]
fn files_stay_readable() {
    for (path, text) in sources() {
        let lines = without_tests(&text).lines().count();
        assert!(lines <= MOST_LINES, "{} has {lines} lines", path.display());
        for word in [
            "todo!",
            "unimplemented!",
            "TODO",
            "FIXME",
            "XXX",
            "#[allow(",
        ] {
            assert!(!text.contains(word), "{} holds `{word}`", path.display());
        }
    }
}
