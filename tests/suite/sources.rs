//! `kforge eval` on the CPU judges sources in the styles of public kernels as their table says: what the preprocessor leaves out and
//! what nothing calls does not count.

use crate::program::{fixture, json, kforge};

/// A row of `sources/expected.tsv`.
struct SourceRow {
    file: String,
    status: String,
    line: Option<u64>,
}

/// Kernels that pass take seconds each. These two are always judged, the others if `KFORGE_TEST_SOURCES` is `all`.
const SAMPLE: [&str; 2] = ["guards_of_other_platforms.cu", "ptx_not_called.cu"];

fn rows() -> Vec<SourceRow> {
    let table = std::fs::read_to_string(fixture("sources/expected.tsv")).unwrap();
    let rows = table.lines().filter(|row| !row.starts_with('#'));
    let parse = |row: &str| {
        let cells: Vec<_> = row.split('\t').collect();
        let [file, status, line, ..] = cells.as_slice() else {
            panic!("expected.tsv: expected at least 3 columns, found: {row}")
        };
        SourceRow {
            file: (*file).to_owned(),
            status: (*status).to_owned(),
            line: line.parse().ok(),
        }
    };
    rows.map(parse).collect()
}

#[test]
fn only_what_is_compiled_and_called_counts() {
    let all = std::env::var("KFORGE_TEST_SOURCES").is_ok_and(|which| which == "all");
    let is_judged =
        |row: &SourceRow| all || row.status != "passed" || SAMPLE.contains(&row.file.as_str());
    let rows: Vec<_> = rows().into_iter().filter(is_judged).collect();
    let files = rows
        .iter()
        .map(|row| fixture(&format!("sources/{}", row.file)));
    let output = kforge(["eval", "gelu", "--backend", "cpu", "--format", "json"])
        .args([
            "--profile",
            "quick",
            "--precision",
            "0.9",
            "--seconds",
            "0.2",
        ])
        .args(files)
        .output()
        .unwrap();
    let verdicts: Vec<serde_json::Value> = json(&output);
    assert_eq!(verdicts.len(), rows.len());
    let mut wrong = Vec::new();
    for (row, verdict) in rows.iter().zip(&verdicts) {
        let status = verdict["status"].as_str().unwrap_or_default();
        // The machine may be too busy to time a correct kernel.
        let is_expected =
            status == row.status || (row.status == "passed" && status == "inconclusive");
        let line = verdict["evidence"]["line"].as_u64();
        if !is_expected || (row.line.is_some() && line != row.line) {
            wrong.push(format!(
                "{}: expected {}, line {:?}: {verdict:#}",
                row.file, row.status, row.line
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_source_is_in_the_table() {
    let mut listed: Vec<_> = rows().into_iter().map(|row| row.file).collect();
    let folder = std::fs::read_dir(fixture("sources")).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<_> = names.filter(|name| name.ends_with(".cu")).collect();
    listed.sort();
    files.sort();
    assert_eq!(listed, files);
}
