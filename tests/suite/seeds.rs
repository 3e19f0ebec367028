//! Runs the checks of the fuzz targets on the stable compiler: on every seed, so that fixed faults stay fixed, and on every text of
//! the repository.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

#[expect(
    unreachable_pub,
    reason = "it is the library of the fuzzing workspace, where its items are public"
)]
#[path = "../../fuzz/src/lib.rs"]
mod checks;

/// All files below a folder, sorted by path.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => files.push(path),
            }
        }
    }
    files.sort();
    files
}

#[test]
fn every_seed_passes_its_check() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut failed = Vec::new();
    for (target, check) in checks::CHECKS {
        let seeds = files(&root.join("fuzz/seeds").join(target));
        assert!(!seeds.is_empty(), "`{target}` has no seeds");
        for path in seeds {
            let seed = std::fs::read(&path).unwrap();
            if catch_unwind(|| check(&seed)).is_err() {
                failed.push(path.display().to_string());
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_repository_text_passes_its_check() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all = [
        "kernels",
        "tasks",
        "config",
        "tests/fixtures/kernels",
        "tests/fixtures/replies",
    ]
    .map(|folder| files(&root.join(folder)));
    let mut count = 0;
    for path in all.into_iter().flatten() {
        let targets: &[&str] = match path.extension().and_then(|extension| extension.to_str()) {
            Some("md") => &["reply"],
            Some("cu") => &["header", "source", "syntax"],
            Some("yaml") => &["yaml"],
            Some("json") => &["definition"],
            Some("jsonl") => &["workload"],
            _ => &[],
        };
        let text = std::fs::read(&path).unwrap();
        for (target, check) in checks::CHECKS {
            if targets.contains(&target) {
                check(&text);
                count += 1;
            }
        }
    }
    assert!(count > 100, "only {count} checks were made");
}
