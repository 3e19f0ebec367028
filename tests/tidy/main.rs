//! The house rules that a machine can check: layers, imports between files, lengths, module heads, words that are no longer used.

mod functions;
mod imports;
mod phrases;
mod tokens;

use std::path::{Path, PathBuf};

/// A module uses only those to its right.
const LAYERS: [&str; 19] = [
    "cli", "page", "export", "history", "driver", "config", "report", "run", "worker", "propose",
    "eval", "llm", "device", "search", "event", "verdict", "kernel", "task", "base",
];

/// The most lines of a source file, without its tests.
const MAX_FILE_LINES: usize = 600;

/// The most lines of a function, from `fn` to the closing brace.
const MAX_FUNCTION_LINES: usize = 80;

/// The most parameters of a function, without `self`.
const MAX_PARAMETERS: usize = 5;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder whose names end in one of these, with their texts. Paths start at the repository's root.
fn texts(folder: &str, extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let mut folders = vec![root().join(folder)];
    let mut texts = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extensions.iter().any(|one| extension == *one))
            {
                let text = std::fs::read_to_string(&path).unwrap();
                texts.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    texts.sort();
    texts
}

fn sources() -> Vec<(PathBuf, String)> {
    let sources = texts("src", &["rs"]);
    assert!(sources.len() > 40, "the sources were not found");
    sources
}

/// The sources with their paths below `src/`.
fn named(sources: &[(PathBuf, String)]) -> impl Iterator<Item = (String, &str)> {
    sources.iter().map(|(path, text)| {
        let path = path.strip_prefix("src").unwrap();
        (path.to_str().unwrap().to_owned(), text.as_str())
    })
}

fn assert_none(wrong: &[String]) {
    assert!(
        wrong.is_empty(),
        "{} in all:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn layer(path: &Path) -> Option<usize> {
    let name = path.components().nth(1)?.as_os_str().to_str()?;
    let name = name.trim_end_matches(".rs");
    LAYERS.iter().position(|layer| *layer == name)
}

/// The modules named after `crate::`, each with its line; those in `crate::{…}` too.
fn used_modules(text: &str) -> Vec<(usize, String)> {
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
        let mut is_start = true;
        for (offset, letter) in group.char_indices() {
            if is_start && depth == 1 && !letter.is_whitespace() {
                found.push((line, name(&group[offset..])));
                is_start = false;
            }
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => is_start = true,
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
    let names: Vec<_> = used_modules(text)
        .into_iter()
        .map(|(_, name)| name)
        .collect();
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
        for (line, name) in used_modules(&text) {
            let other = LAYERS.iter().position(|layer| *layer == name);
            if other.is_some_and(|other| other < own) {
                wrong.push(format!(
                    "{}:{line}: `{}` uses `{name}`, which is above it",
                    path.display(),
                    LAYERS[own]
                ));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn every_module_has_a_layer_and_a_line_in_the_architecture() {
    let architecture = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for (path, _) in sources() {
        let top = path.components().nth(1).unwrap();
        let top = top.as_os_str().to_str().unwrap();
        if ["lib.rs", "main.rs"].contains(&top) {
            continue;
        }
        assert!(layer(&path).is_some(), "{} has no layer", path.display());
        let name = format!("`{}`", top.trim_end_matches(".rs"));
        assert!(
            architecture.contains(&name),
            "ARCHITECTURE.md does not name {name}"
        );
    }
}

#[test]
fn every_file_opens_with_a_module_comment() {
    for (path, text) in sources() {
        assert!(
            text.starts_with("//! "),
            "{} does not open with `//!`",
            path.display()
        );
    }
}

#[test]
fn files_are_short_and_have_no_open_ends() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let lines = without_tests(&text).lines().count();
        if lines > MAX_FILE_LINES {
            wrong.push(format!("{}: {lines} lines", path.display()));
        }
        for word in [
            "todo!",
            "unimplemented!",
            "TODO",
            "FIXME",
            "XXX",
            "#[allow(",
        ] {
            if text.contains(word) {
                wrong.push(format!("{}: `{word}`", path.display()));
            }
        }
    }
    assert_none(&wrong);
}

/// See `imports` for what counts as an import.
#[test]
fn no_two_files_import_each_other() {
    let sources = sources();
    assert_none(&imports::cycles(&imports::imports(named(&sources))));
}

#[test]
fn functions_are_short_and_have_few_parameters() {
    let sources = sources();
    let compiled = imports::compiled(named(&sources));
    let mut wrong = Vec::new();
    for (path, text) in named(&sources) {
        if !compiled.contains(&path) {
            continue;
        }
        for function in functions::functions(&tokens::tokens(text)) {
            let functions::Function {
                name,
                line,
                lines,
                parameters,
            } = function;
            if lines > MAX_FUNCTION_LINES {
                wrong.push(format!("src/{path}:{line}: `{name}` has {lines} lines"));
            }
            if parameters > MAX_PARAMETERS {
                wrong.push(format!(
                    "src/{path}:{line}: `{name}` has {parameters} parameters"
                ));
            }
        }
    }
    assert_none(&wrong);
}

#[test]
fn no_text_has_an_old_name_or_phrase() {
    let mut texts: Vec<(PathBuf, String)> = [
        ("src", &["rs", "h", "cu", "cpp"][..]),
        ("docs", &["md"]),
        ("prompts", &["md"]),
        ("config", &["yaml"]),
        ("fuzz/src", &["rs"]),
    ]
    .into_iter()
    .flat_map(|(folder, extensions)| texts(folder, extensions))
    .collect();
    for file in [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "fuzz/README.md",
    ] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        texts.push((PathBuf::from(file), text));
    }
    let found = texts
        .iter()
        .flat_map(|(path, text)| phrases::violations(&path.display().to_string(), text));
    assert_none(&found.collect::<Vec<_>>());
}

/// `tests/machine` has its own harness, for which `#[test]` means nothing: such a test would never run.
#[test]
fn machine_tests_are_listed() {
    for (path, text) in texts("tests/machine", &["rs"]) {
        let stray = text.lines().any(|line| line.trim() == "#[test]");
        assert!(!stray, "{} has a `#[test]`", path.display());
    }
}
