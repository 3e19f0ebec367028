//! The report in a real browser: it loads nothing, its script has no error, entries of the archive open kernels, tables sort, and texts
//! have enough contrast, in light and in dark.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Missing, TestResult, tests};
use crate::program::Workspace;

tests!(report_works_in_a_browser);

/// What a page is asked, before its own script runs and after.
const CHECKS: &str = include_str!("browser.js");

fn report_works_in_a_browser() -> TestResult {
    let browser = find_browser()?;
    let folder = Workspace::with_small_task();
    // On a busy machine a short timing may settle nothing, and the archive stays empty.
    let mut pages = [0.3, 3.0, 30.0]
        .iter()
        .map(|seconds| report_of_a_run(&folder, *seconds));
    let page = pages.find(|page| page.contains("<a class=\"chip"));
    let page = page.expect("every archive is empty");
    let dark = page.replace(
        "@media screen and (prefers-color-scheme: dark)",
        "@media all",
    );
    assert_ne!(page, dark);
    for (name, page) in [("light.html", page), ("dark.html", dark)] {
        let path = folder.write(name, &with_checks(&page));
        assert_eq!(result_in(&browser, folder.path(), &path), "ok", "{name}");
    }
    Ok(())
}

/// The report of a run whose kernels are timed for this many seconds.
fn report_of_a_run(folder: &Workspace, seconds: f64) -> String {
    let output = format!("out-{seconds}");
    let run = [
        "evolve",
        "softmax",
        "--no-model",
        "--backend=cpu",
        "--seed=3",
        "--steps=14",
        &format!("--output={output}"),
        "--set=eval.precision=0.9",
        &format!("--set=eval.seconds={seconds}"),
        "--set=search.confirm=1",
    ];
    folder.run(&run).comes_to_its_end();
    folder.read(&format!("{output}/report.html"))
}

/// The page with the checks as a script that may run.
fn with_checks(page: &str) -> String {
    let (_, rest) = page.split_once("'nonce-").unwrap();
    let (nonce, _) = rest.split_once('\'').unwrap();
    let script = format!("<body>\n<script nonce=\"{nonce}\">{CHECKS}</script>\n");
    page.replacen("<body>\n", &script, 1)
}

/// How long a page may take. Its checks need a second; a busy machine multiplies that.
const DEADLINE: Duration = Duration::from_secs(120);

/// Opens a page without a network, and returns what its checks print. The browser runs in real time: with `--virtual-time-budget` the
/// page's clock runs ahead of its frames, and events that come with a frame are missed.
fn result_in(browser: &Path, folder: &Path, page: &str) -> String {
    let log = folder.join("browser.log");
    let mut running = Command::new(browser)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--window-size=1280,1000",
            "--enable-logging=stderr",
        ])
        .arg(format!(
            "--user-data-dir={}",
            folder.join("browser").display()
        ))
        .arg(format!("file://{page}"))
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let result = loop {
        let printed = String::from_utf8_lossy(&std::fs::read(&log).unwrap()).into_owned();
        if let Some((_, rest)) = printed.split_once("checks say: ")
            && let Some((result, _)) = rest.split_once(" (end)")
        {
            break result.to_owned();
        }
        let has_ended = running.try_wait().unwrap().is_some();
        if has_ended || start.elapsed() > DEADLINE {
            running.kill().ok();
            panic!("the checks print nothing: {printed}");
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    running.kill().unwrap();
    running.wait().unwrap();
    result
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
