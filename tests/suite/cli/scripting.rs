//! What scripts, shells and packages need: the version, schemas, completions, man pages.

use crate::program::{Workspace, root};

#[path = "../../../build/version.rs"]
mod version;

#[test]
fn version_names_what_it_was_built_from() {
    let result = Workspace::new().run(&["--version"]);
    let line = result.stdout.trim();
    let build = line
        .strip_prefix(&format!("kforge {} (", env!("CARGO_PKG_VERSION")))
        .and_then(|rest| rest.strip_suffix(')'))
        .unwrap_or_else(|| panic!("{line}"));
    assert!(build == "development build" || build.len() >= 12, "{line}");
}

fn git(folder: &std::path::Path, arguments: &[&str]) {
    let mut command = std::process::Command::new("git");
    command.arg("-C").arg(folder).args(arguments);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "a");
        command.env(format!("GIT_{who}_EMAIL"), "a@b");
        command.env(format!("GIT_{who}_DATE"), "2024-02-29T12:00:00+00:00");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_commit_comes_from_the_checkout_the_archive_or_the_package() {
    let workspace = Workspace::new();
    let describe = |epoch| version::describe(workspace.path(), epoch);
    assert_eq!(describe(None), None);
    workspace.write(
        ".cargo_vcs_info.json",
        r#"{"git": {"sha1": "0123456789abcdef0123456789abcdef01234567"}, "path_in_vcs": ""}"#,
    );
    assert_eq!(describe(None).unwrap(), "0123456789ab");
    assert_eq!(describe(Some("0")).unwrap(), "0123456789ab 1970-01-01");
    assert_eq!(
        describe(Some("1709164800")).unwrap(),
        "0123456789ab 2024-02-29"
    );
    workspace.write("build/archived.txt", "$Format:%h %cs$\n");
    assert_eq!(describe(None).unwrap(), "0123456789ab");
    workspace.write("build/archived.txt", "abcdef012345 2025-12-31\n");
    assert_eq!(describe(None).unwrap(), "abcdef012345 2025-12-31");
    assert!(version::watched(workspace.path()).is_empty());
    if std::process::Command::new("git")
        .arg("--version")
        .output()
        .is_err()
    {
        return;
    }
    git(workspace.path(), &["init", "-q"]);
    git(workspace.path(), &["add", "."]);
    git(workspace.path(), &["commit", "-q", "-m", "one"]);
    let text = describe(None).unwrap();
    assert!(
        text.ends_with(" 2024-02-29") && !text.starts_with("abcdef"),
        "{text}"
    );
    assert!(describe(Some("86400")).unwrap().ends_with(" 1970-01-02"));
    assert!(version::watched(workspace.path()).len() >= 2);
    // Sources inside another repository do not have its commit.
    let inner = workspace.path().join("build");
    assert_eq!(version::describe(&inner, None), None);
}

#[test]
fn schemas_are_the_committed_ones() {
    let workspace = Workspace::new();
    for (arguments, file) in [(&["schema"][..], "config"), (&["schema", "task"], "task")] {
        let result = workspace.run(arguments);
        result.assert_exit(0, &[]);
        let path = root().join(format!("docs/schema/{file}.json"));
        assert_eq!(result.stdout, std::fs::read_to_string(path).unwrap());
    }
    workspace.run(&["schema", "tsk"]).assert_exit(2, &["task"]);
}

#[test]
fn completions_and_man_pages_leave_out_internal_commands() {
    let workspace = Workspace::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = workspace.run(&["completions", shell]).stdout;
        assert!(
            script.contains("promote") && !script.contains("__worker"),
            "{shell}"
        );
    }
    workspace.run(&["man", "a/b"]).exits_with(0).shows(&["a/b"]);
    let mut pages = 0;
    for entry in std::fs::read_dir(workspace.path().join("a/b"))
        .unwrap()
        .flatten()
    {
        pages += 1;
        let text = std::fs::read_to_string(entry.path()).unwrap();
        for section in [
            ".SH NAME",
            ".SH SYNOPSIS",
            ".SH EXAMPLES",
            ".SH \"EXIT STATUS\"",
        ] {
            let plain = section.replace('"', "");
            assert!(
                text.contains(section) || text.contains(&plain),
                "{entry:?}: {section}"
            );
        }
    }
    assert!(pages >= 15, "{pages}");
}
