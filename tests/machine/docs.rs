//! README.md and docs/ against the program: every `console` block is run, every link is followed, every key is listed.
//!
//! A page is run like a reader would: from top to bottom, in one empty folder. HTML comments directly before a block direct the
//! test; a rendered page does not show them.
//!
//! - `<!-- file: PATH -->`: the block is a file; write it to PATH.
//! - `<!-- with: ARGS -->`: add ARGS to every `kforge` command of the block, so that it ends soon.
//! - `<!-- exit: N -->`: the last command exits with N instead of 0; `N or M`: with one of them.
//! - `<!-- exact -->`: standard output is exactly what the page shows.
//! - `<!-- needs: WORDS -->`: skip the block where one of the words is not available here: `gpu`, `nvrtc`, `torch`, `jq`; `pip`,
//!   `key`, `build`, `server` and `dataset` never are in a test.
//!
//! Every page is a test, and so is every block that is skipped: it is reported as ignored, with what it needs.
//!
//! With `KFORGE_UPDATE_DOCS=1` the commands run in full, without `with`, and every block that shows output gets the new one. Use it
//! on a calm machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use libtest_mimic::Trial;

use crate::harness::{Missing, TestResult, exclusive_gpu, trial};
use crate::program::{self, clear_environment, program, root};
use crate::python_oracle::find_torch;

/// A fenced block with its directions.
struct Block {
    /// 1-based line of the fence.
    line: usize,
    language: String,
    text: String,
    directions: Vec<(String, String)>,
}

impl Block {
    fn direction(&self, name: &str) -> Option<&str> {
        let found = self.directions.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The commands: lines after `$ `, joined with their continuation lines.
    fn commands(&self) -> Vec<String> {
        let mut commands: Vec<String> = Vec::new();
        let mut continues = false;
        for line in self.text.lines() {
            if continues {
                let command = commands.last_mut().unwrap();
                command.push('\n');
                command.push_str(line);
            } else if let Some(command) = line.strip_prefix("$ ") {
                commands.push(command.to_owned());
            } else {
                continue;
            }
            continues = line.ends_with('\\');
        }
        commands
    }

    /// What the page shows below the only command.
    fn output(&self) -> String {
        let lines = self.text.lines().filter(|line| !line.starts_with("$ "));
        lines.map(|line| format!("{line}\n")).collect()
    }
}

fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    for entry in std::fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    pages
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut directions = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in text.lines().enumerate() {
        if let Some(block) = &mut open {
            if line == "```" {
                blocks.extend(open.take());
            } else {
                block.text.push_str(line);
                block.text.push('\n');
            }
        } else if let Some(language) = line.strip_prefix("```") {
            open = Some(Block {
                line: index + 1,
                language: language.to_owned(),
                text: String::new(),
                directions: std::mem::take(&mut directions),
            });
        } else if let Some(comment) = line
            .strip_prefix("<!-- ")
            .and_then(|rest| rest.strip_suffix(" -->"))
        {
            let (key, value) = comment.split_once(": ").unwrap_or((comment, ""));
            directions.push((key.to_owned(), value.to_owned()));
        } else {
            directions.clear();
        }
    }
    assert!(open.is_none(), "a block has no end");
    blocks
}

fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// The first thing of a list that this machine, or any test, does not have.
fn missing(needs: &str) -> Option<&str> {
    let available = |need: &str| match need {
        "gpu" => kforge::device::cuda::list_gpus().is_ok_and(|gpus| !gpus.is_empty()),
        "nvrtc" => kforge::device::cuda::compiler::find_toolkit().is_ok(),
        "torch" => find_torch().is_ok(),
        "jq" => has_program("jq"),
        "pip" | "key" | "build" | "server" | "dataset" => false,
        other => panic!("`needs: {other}` is not a known need"),
    };
    needs.split(", ").find(|need| !available(need))
}

/// A shell command with this build's `kforge` in front of the path.
fn kforge(folder: &Path, line: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = program().parent().unwrap().to_owned();
    let folders = std::iter::once(own).chain(std::env::split_paths(&path));
    let mut command = Command::new("sh");
    command
        .args(["-c", line])
        .current_dir(folder)
        .env("PATH", std::env::join_paths(folders).unwrap())
        // What a page prints is checked, not how fast its kernels are: they need not wait for each other.
        .env("KFORGE_LOCK_DIR", folder);
    clear_environment(&mut command);
    command
}

/// The command as the test runs it: this build instead of `cargo run`, with the block's additional arguments.
fn as_run(command: &str, with: Option<&str>) -> String {
    let command = command.replace("cargo run --release -- ", "kforge ");
    match with {
        Some(with) if command.starts_with("kforge ") => {
            // Before a redirection or a pipe.
            let end = command.find(['>', '|']);
            let (own, rest) = command.split_at(end.unwrap_or(command.len()));
            format!("{} {with} {rest}", own.trim_end())
        }
        _ => command,
    }
}

/// Whether the command could not measure a time, because the machine is busy. Then no kernel passes, and the page is not wrong.
fn is_too_busy(output: &Output) -> bool {
    let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let is_noisy = |text: &str| text.contains("inconclusive") || text.contains("too noisy");
    output.status.code() == Some(5) && said.iter().any(|text| is_noisy(text))
}

/// `expected`: one code, or several with `or` between them.
fn check_exit_code(place: &str, command: &str, expected: &str, output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap_or(-1);
    assert!(
        expected.split(" or ").any(|one| one == code.to_string()),
        "{place}: `{command}` exits with {code}, expected {expected}\n{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

impl Block {
    fn is_console(&self) -> bool {
        self.language == "console"
    }

    /// What the block needs and this machine lacks.
    fn missing(&self) -> Option<&str> {
        missing(self.direction("needs")?)
    }
}

/// A test for each page with commands, and one that is ignored for each block that cannot run here.
pub(crate) fn page_tests() -> Vec<Trial> {
    let mut tests = Vec::new();
    if !root().exists() {
        let reason = "the repository is not on this machine";
        return vec![trial("docs::pages", move || {
            Err(Missing::new("repository", reason))
        })];
    }
    for path in pages() {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        let mut runs = false;
        for block in blocks(&text).iter().filter(|block| block.is_console()) {
            let Some(need) = block.missing() else {
                runs = true;
                continue;
            };
            let need = need.to_owned();
            tests.push(trial(format!("docs::{name}:{}", block.line), move || {
                Err(Missing::new(need.clone(), format!("needs `{need}`")))
            }));
        }
        if runs {
            tests.push(trial(format!("docs::{name}"), move || run_page(name)));
        }
    }
    tests
}

/// A page, and the folder that its commands work in.
struct Page {
    name: String,
    folder: tempfile::TempDir,
    updates: bool,
}

/// Runs the blocks of a page.
fn run_page(name: String) -> TestResult {
    let page = Page {
        name,
        folder: tempfile::tempdir().unwrap(),
        updates: std::env::var_os("KFORGE_UPDATE_DOCS").is_some(),
    };
    let path = root().join(&page.name);
    let mut text = std::fs::read_to_string(&path).unwrap();
    for block in blocks(&text.clone()) {
        if let Some(file) = block.direction("file") {
            let path = page.folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, &block.text).unwrap();
        } else if block.is_console()
            && block.missing().is_none()
            && let Some(updated) = page.run_block(&block)?
        {
            let count = text.matches(&block.text).count();
            assert_eq!(count, 1, "{}:{}", page.name, block.line);
            text = text.replace(&block.text, &updated);
        }
    }
    if page.updates {
        std::fs::write(&path, text).unwrap();
    }
    Ok(())
}

impl Page {
    /// Runs the commands of a block. Returns its new text where outputs are to be updated.
    fn run_block(&self, block: &Block) -> Result<Option<String>, Missing> {
        let place = format!("{}:{}", self.name, block.line);
        let folder = self.folder.path();
        let needs = block.direction("needs").unwrap_or_default();
        let _gpu = needs.contains("gpu").then(exclusive_gpu);
        let commands = block.commands();
        assert!(
            !commands.is_empty(),
            "{place}: a console block without a command"
        );
        let mut updated = String::new();
        for (index, command) in commands.iter().enumerate() {
            let with = block.direction("with").filter(|_| !self.updates);
            let mut line = as_run(command, with);
            if self.updates {
                line = format!("exec 2>&1; {line}");
            }
            let output = kforge(folder, &line).output().unwrap();
            let is_last = index + 1 == commands.len();
            let expected = block.direction("exit").filter(|_| is_last);
            if is_too_busy(&output) {
                let reason = format!("{place}: needs a calm machine, as does the rest of the page");
                return Err(Missing::new("calm", reason));
            }
            check_exit_code(&place, &line, expected.unwrap_or("0"), &output);
            let stdout = String::from_utf8_lossy(&output.stdout);
            updated += &format!("$ {command}\n{stdout}");
            if block.direction("exact").is_some() && !self.updates {
                assert_eq!(
                    stdout.trim_end(),
                    block.output().trim_end(),
                    "{place}: `{command}`"
                );
            }
        }
        let shows_output = block.text.lines().count() > commands.len();
        Ok((self.updates && shows_output).then_some(updated))
    }
}

fn readme_is_short() -> TestResult {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(text.lines().count() <= 150);
    Ok(())
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        letter if letter.is_alphanumeric() || "-_".contains(letter) => {
            Some(letter.to_ascii_lowercase())
        }
        _ => None,
    });
    kept.collect()
}

fn links_between_pages_lead_somewhere() -> TestResult {
    for path in pages() {
        let text = std::fs::read_to_string(&path).unwrap();
        let folder = path.parent().unwrap();
        for piece in text.split("](").skip(1) {
            let link = piece.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            let (file, part) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                path.clone()
            } else {
                folder.join(file)
            };
            assert!(
                target.exists(),
                "{}: `{link}` does not exist",
                path.display()
            );
            if !part.is_empty() {
                let text = std::fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|line| anchor(line.trim_start_matches('#').trim()) == part),
                    "{}: `{link}` names no heading",
                    path.display()
                );
            }
        }
    }
    Ok(())
}

/// The `Exit codes:` section of a help text, as `code meaning` lines.
fn codes_of_help(arguments: &[&str]) -> Vec<String> {
    let output = program::kforge(arguments.iter().copied())
        .arg("--help")
        .env("COLUMNS", "80")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, codes) = text
        .split_once("Exit codes:\n")
        .unwrap_or_else(|| panic!("{arguments:?} lists no exit codes"));
    let mut lines: Vec<String> = Vec::new();
    for line in codes.lines() {
        let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
        match lines.last_mut() {
            Some(last) if !words.starts_with(|first: char| first.is_ascii_digit()) => {
                last.push(' ');
                last.push_str(&words);
            }
            _ => lines.push(words),
        }
    }
    lines
}

fn exit_code_page_agrees_with_the_help_of_every_command() -> TestResult {
    let text = std::fs::read_to_string(root().join("docs/exit-codes.md")).unwrap();
    let mut checked = 0;
    for section in text.split("\n## ").skip(1) {
        let (heading, body) = section.split_once('\n').unwrap();
        let rows = body.lines().filter_map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            let is_code = cells[0].parse::<u8>().is_ok();
            is_code.then(|| format!("{} {}", cells[0], cells[1]))
        });
        let rows: Vec<_> = rows.collect();
        // A section about no command, such as the one about signals.
        if rows.is_empty() {
            continue;
        }
        for command in heading.split(", ") {
            let words: Vec<_> = command.trim_matches('`').split(' ').skip(1).collect();
            assert_eq!(codes_of_help(&words), rows, "{command}");
            checked += 1;
        }
    }
    assert_eq!(checked, 25, "commands of the page");
    Ok(())
}

fn commands_are_read_with_their_continuation_lines() -> TestResult {
    let text = "<!-- needs: gpu -->\n<!-- with: --steps 3 -->\n```console\n$ one \\\n    two\noutput\n$ three\n```\n";
    let blocks = blocks(text);
    assert_eq!(blocks[0].commands(), ["one \\\n    two", "three"]);
    assert_eq!(blocks[0].direction("needs"), Some("gpu"));
    assert_eq!(
        as_run("cargo run --release -- prompt x > y", Some("--a b")),
        "kforge prompt x --a b > y"
    );
    Ok(())
}

/// The keys that kforge lists in its error about the key `no_such_key_at_all`, which one of the files has.
fn listed_keys(files: &[(&str, &str)], command: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let output = kforge(folder.path(), command).output().unwrap();
    // A wrong task is an error; a wrong header is the result of its kernel.
    let text = [output.stderr, output.stdout].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let (_, listed) = text
        .split_once("there are `")
        .unwrap_or_else(|| panic!("no keys are listed:\n{text}"));
    let listed = format!("`{listed}");
    // Other problems follow on their own lines.
    let listed = listed.lines().next().unwrap_or_default();
    let names = listed.split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

fn every_key_of_task_yaml_is_documented() -> TestResult {
    let page = std::fs::read_to_string(root().join("docs/tasks.md")).unwrap();
    let own = page
        .split("<!-- file: tasks/l2norm/task.yaml -->\n```yaml\n")
        .nth(1);
    let example = own.unwrap().split("```").next().unwrap();
    let profile = example.replace("hidden_shapes: 1,", "no_such_key_at_all: 1,");
    let input = example.replace("eps: {value: 0.01}", "eps: {no_such_key_at_all: 1}");
    for yaml in ["no_such_key_at_all: 1\n", &profile, &input] {
        for key in listed_keys(&[("t/task.yaml", yaml)], "kforge tasks show t") {
            assert!(page.contains(&format!("`{key}")), "docs/tasks.md: `{key}`");
        }
    }
    Ok(())
}

fn every_key_of_a_kernel_header_is_documented() -> TestResult {
    let page = std::fs::read_to_string(root().join("docs/kernel-files.md")).unwrap();
    let launch = "launch:\n  - {kernel: k, grid: 1, block: 1, args: x}\n";
    for header in [
        "no_such_key_at_all: 1\n".to_owned(),
        "launch:\n  - {no_such_key_at_all: 1}\n".to_owned(),
        format!("{launch}scratch: {{s: {{no_such_key_at_all: 1}}}}\n"),
        format!("{launch}tensor_maps: {{m: {{no_such_key_at_all: 1}}}}\n"),
        format!("{launch}compile: {{no_such_key_at_all: 1}}\n"),
    ] {
        let kernel = format!("/* kforge\n{header}*/\n");
        let command = "kforge eval softmax k.cu --backend cpu";
        for key in listed_keys(&[("k.cu", &kernel)], command) {
            assert!(
                page.contains(&format!("`{key}")) || page.contains(&format!("{{{key}:")),
                "docs/kernel-files.md: `{key}`"
            );
        }
    }
    Ok(())
}

crate::harness::tests!(
    readme_is_short,
    links_between_pages_lead_somewhere,
    exit_code_page_agrees_with_the_help_of_every_command,
    commands_are_read_with_their_continuation_lines,
    every_key_of_task_yaml_is_documented,
    every_key_of_a_kernel_header_is_documented,
);
