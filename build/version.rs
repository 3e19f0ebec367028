//! Which commit a build is made from, for `kforge --version`. Used by `build.rs`, and by a test.
//!
//! A checkout says it itself. A source archive has it in `build/archived.txt` (filled in by `git archive`), a published package in
//! `.cargo_vcs_info.json`. Without any of them there is no commit. Reads no clock.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The commit and its date, such as `1a2b3c4d5e6f 2026-05-01`. `None` if nothing says so. `epoch` is the value of `SOURCE_DATE_EPOCH`: seconds
/// since 1970 that replace the date.
pub(crate) fn describe(root: &Path, epoch: Option<&str>) -> Option<String> {
    let (commit, date) = from_checkout(root)
        .or_else(|| from_archive(root))
        .or_else(|| from_package(root))?;
    let epoch = epoch.and_then(|text| text.trim().parse::<i64>().ok());
    let date = epoch.map(civil_date).or(date);
    Some(match date {
        Some(date) => format!("{commit} {date}"),
        None => commit,
    })
}

/// Files that change when another commit is checked out. None outside a checkout.
pub(crate) fn watched(root: &Path) -> Vec<PathBuf> {
    if !is_checkout(root) {
        return Vec::new();
    }
    let branch = git(root, &["symbolic-ref", "-q", "HEAD"]);
    let names = ["HEAD".to_owned(), "packed-refs".to_owned()];
    let names = names.into_iter().chain(branch);
    let paths = names.filter_map(|name| git(root, &["rev-parse", "--git-path", &name]));
    // Cargo would run the script again and again for a file that does not exist.
    paths
        .map(|path| root.join(path))
        .filter(|path| path.exists())
        .collect()
}

fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// Whether the folder is a repository of its own. Sources inside another repository do not have that one's commit.
fn is_checkout(root: &Path) -> bool {
    let top = git(root, &["rev-parse", "--show-toplevel"]).map(PathBuf::from);
    let same = |top: PathBuf| Some(top.canonicalize().ok()? == root.canonicalize().ok()?);
    top.and_then(same).unwrap_or(false)
}

fn from_checkout(root: &Path) -> Option<(String, Option<String>)> {
    if !is_checkout(root) {
        return None;
    }
    let text = git(root, &["log", "-1", "--abbrev=12", "--format=%h %cs"])?;
    split(&text)
}

fn from_archive(root: &Path) -> Option<(String, Option<String>)> {
    let text = std::fs::read_to_string(root.join("build/archived.txt")).ok()?;
    let line = text.lines().next()?;
    // In a checkout the placeholder is not filled in.
    if line.contains("Format:") {
        return None;
    }
    split(line)
}

fn from_package(root: &Path) -> Option<(String, Option<String>)> {
    let text = std::fs::read_to_string(root.join(".cargo_vcs_info.json")).ok()?;
    let (_, after) = text.split_once("\"sha1\"")?;
    let commit = after.split('"').nth(1)?;
    let commit = commit.get(..12)?;
    let is_hash = commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| (commit.to_owned(), None))
}

fn split(line: &str) -> Option<(String, Option<String>)> {
    let mut words = line.split_whitespace();
    let commit = words.next()?.to_owned();
    Some((commit, words.next().map(str::to_owned)))
}

/// The date of a number of seconds since 1970, in UTC. The algorithm is Howard Hinnant's `civil_from_days`.
fn civil_date(seconds: i64) -> String {
    let days = seconds.div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}
