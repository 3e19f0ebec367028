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

/// The text before the file's own tests.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text)
}

#[test]
fn modules_use_only_those_below_them() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(own) = layer(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            for used in line.split("crate::").skip(1) {
                let name: String = used
                    .chars()
                    .take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
                    .collect();
                if LAYERS
                    .iter()
                    .position(|layer| *layer == name)
                    .is_some_and(|used| used < own)
                {
                    wrong.push(format!(
                        "{}:{}: `{}` uses `{name}`, which stands above it",
                        path.display(),
                        number + 1,
                        LAYERS[own]
                    ));
                }
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
