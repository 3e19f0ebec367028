//! The report in a real browser: it loads nothing, its script has no error, entries of the archive open kernels, tables sort, and texts
//! have enough contrast, in light and in dark.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Missing, TestResult, tests};
use crate::program::Workspace;

tests!(report_works_in_a_browser);

/// What a page is asked, before its own script runs and after.
const CHECKS: &str = include_str!("browser.js");

fn report_works_in_a_browser() -> TestResult {
    let browser = find_browser()?;
    let folder = Workspace::with_small_task();
    let run = [
        "evolve",
        "softmax",
        "--no-model",
        "--backend=cpu",
        "--seed=3",
        "--steps=14",
        "--output=out",
        "--set=eval.precision=0.9",
        "--set=eval.seconds=0.3",
        "--set=search.confirm=1",
    ];
    folder.run(&run).comes_to_its_end();
    let page = folder.read("out/report.html");
    let dark = page.replace("@media (prefers-color-scheme: dark)", "@media all");
    assert_ne!(page, dark);
    for (name, page) in [("light.html", page), ("dark.html", dark)] {
        let path = folder.write(name, &with_checks(&page));
        assert_eq!(result_in(&browser, folder.path(), &path), "ok", "{name}");
    }
    Ok(())
}

/// The page with the checks as a script that may run.
fn with_checks(page: &str) -> String {
    let (_, rest) = page.split_once("'nonce-").unwrap();
    let (nonce, _) = rest.split_once('\'').unwrap();
    let script = format!("<body>\n<script nonce=\"{nonce}\">{CHECKS}</script>\n");
    page.replacen("<body>\n", &script, 1)
}

/// Opens a page without a network, and returns what its checks say.
fn result_in(browser: &Path, folder: &Path, page: &str) -> String {
    let output = Command::new(browser)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND",
        ])
        .args([
            "--window-size=1280,1000",
            "--virtual-time-budget=20000",
            "--dump-dom",
        ])
        .arg(format!(
            "--user-data-dir={}",
            folder.join("browser").display()
        ))
        .arg(format!("file://{page}"))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout);
    let result = dom
        .split_once("<pre id=\"result\">")
        .and_then(|(_, rest)| rest.split_once("</pre>"));
    let (result, _) =
        result.unwrap_or_else(|| panic!("no result: {}", String::from_utf8_lossy(&output.stderr)));
    result.to_owned()
}

fn find_browser() -> Result<PathBuf, Missing> {
    let names = [
        "chromium",
        "chromium-browser",
        "google-chrome",
        "google-chrome-stable",
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    let places = names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    places
        .into_iter()
        .find(|place| place.is_file())
        .ok_or_else(|| Missing::new("chromium", "needs Chromium: apt-get install chromium"))
}
