//! Every input that the fuzzer keeps, and every text of that kind in the repository, through the same checks: what was mended
//! stays mended, without the fuzzer.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

#[expect(
    unreachable_pub,
    reason = "the fuzzer's own package, whose library this is"
)]
#[path = "../fuzz/src/lib.rs"]
mod checks;

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
    let mut wrong = Vec::new();
    for (target, check) in checks::CHECKS {
        let seeds = files(&root.join("fuzz/seeds").join(target));
        assert!(!seeds.is_empty(), "`{target}` has no seeds");
        for path in seeds {
            let seed = std::fs::read(&path).unwrap();
            if catch_unwind(|| check(&seed)).is_err() {
                wrong.push(path.display().to_string());
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
    let mut seen = 0;
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
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "only {seen} checks were made");
}
