//! Escape attempts of kernels and compilers reach nothing. Checked from outside, with files, ports and processes that would show
//! a success.

use crate::harness::{Missing, TestResult};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use serde_json::Value;

use crate::program;

const SECRET: &str = "the-canary-sings-at-dawn";

fn kforge() -> Command {
    program::kforge([])
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kernels")
}

/// The status (`ok`, `warn` or `fail`) and the text of one finding of `kforge doctor`.
fn doctor_finding(mut command: Command, name: &str) -> (String, String) {
    let output = command
        .args(["doctor", "--format", "json"])
        .output()
        .unwrap();
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let finding = findings
        .as_array()
        .unwrap()
        .iter()
        .find(|finding| finding["name"] == name);
    let finding =
        finding.unwrap_or_else(|| panic!("doctor does not report `{name}`: {findings:#}"));
    let text = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("found"))
}

/// Fails without a C++ compiler; ignores the test without the full sandbox.
fn require_full_sandbox() -> TestResult {
    assert_eq!(
        doctor_finding(kforge(), "C++ compiler").0,
        "ok",
        "`cargo test` needs a C++ compiler"
    );
    let (status, found) = doctor_finding(kforge(), "sandbox");
    if status == "ok" {
        Ok(())
    } else {
        Err(Missing::new("sandbox", found))
    }
}

fn escape_attempts_reach_nothing() -> TestResult {
    require_full_sandbox()?;
    // Other programs and killed tests may have left some.
    let before = orphans("kernel");
    let folder = tempfile::tempdir().unwrap();
    // Everyone may read and write it, so only the sandbox can prevent an access.
    let open_to_all = |path: &Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap()
    };
    open_to_all(folder.path(), 0o777);
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    open_to_all(&secret, 0o666);
    let made = folder.path().join("made");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();

    let mut kernels = Vec::new();
    let mut expected = Vec::new();
    let table = std::fs::read_to_string(fixtures().join("expected.tsv")).unwrap();
    for row in table.lines().filter(|row| row.starts_with("escape_")) {
        let cells: Vec<_> = row.split('\t').collect();
        let source = std::fs::read_to_string(fixtures().join(cells[0])).unwrap();
        let aimed = source
            .replace("/etc/hostname", &secret.display().to_string())
            .replace("/tmp/kforge-escaped", &made.display().to_string())
            .replace("4321", &port.to_string());
        let kernel = folder.path().join(cells[0]);
        std::fs::write(&kernel, aimed).unwrap();
        kernels.push(kernel);
        expected.push((cells[0].to_owned(), cells[2].to_owned()));
    }
    assert!(expected.len() >= 20, "{expected:?}");

    let output = kforge()
        .args(["eval", "softmax", "--format", "json"])
        .args(&kernels)
        .output()
        .unwrap();
    let verdicts = program::json::<Vec<Value>>(&output);
    let found: Vec<_> = expected
        .iter()
        .zip(&verdicts)
        .map(|((name, _), verdict)| {
            (
                name.clone(),
                verdict["status"].as_str().unwrap_or_default().to_owned(),
            )
        })
        .collect();
    assert_eq!(found, expected);
    for verdict in &verdicts {
        assert_eq!(verdict["sandbox"], "landlock+seccomp");
    }

    for stream in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(stream);
        assert!(!text.contains(SECRET), "the secret leaked: {text}");
        assert!(
            !text.contains('\u{1b}'),
            "an escape sequence reached the terminal: {text}"
        );
    }
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), SECRET);
    assert!(!made.exists(), "a file was created");
    assert!(listener.accept().is_err(), "a kernel connected to the port");
    let mut left = orphans("kernel");
    left.retain(|process| !before.contains(process));
    assert!(left.is_empty(), "still running: {left:?}");
    Ok(())
}

/// Processes with this name whose parent has ended. Kernels of other tests still have theirs.
fn orphans(name: &str) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let read = |number: u32, file: &str| {
        std::fs::read_to_string(format!("/proc/{number}/{file}")).unwrap_or_default()
    };
    numbers
        .filter(|number| {
            let status = read(*number, "stat");
            let behind_name = status.rsplit(')').next().unwrap_or_default();
            read(*number, "cmdline").trim_end_matches('\0') == name
                && behind_name.split_whitespace().nth(1) == Some("1")
        })
        .collect()
}

/// A kernel can make the compiler open any path, but it can only read its own files.
fn compiler_cannot_read_user_files() -> TestResult {
    require_full_sandbox()?;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret.h");
    std::fs::write(&secret, format!("#error {SECRET}\n")).unwrap();
    let honest = std::fs::read_to_string(fixtures().join("honest_votes.cu")).unwrap();
    let path = secret.display();
    for (name, line) in [
        // Ways past the checks of the source text, and lines that these checks should refuse.
        (
            "joined",
            format!("#define JOIN(a, b) a##b\nJOIN(__as, m__)(\".incbin \\\"{path}\\\"\");"),
        ),
        ("split", format!("as\\\nm(\".incbin \\\"{path}\\\"\");")),
        (
            "has_include",
            format!("#if __has_include(\"{path}\")\n#error {SECRET}\n#endif"),
        ),
        (
            "pragma",
            format!("_Pragma(\"GCC dependency \\\"{path}\\\"\")"),
        ),
        ("marker", format!("# 1 \"{path}\" 3")),
        (
            "environment",
            "#define JOIN(a, b) a##b\nJOIN(__as, m__)(\".incbin \\\"/proc/self/environ\\\"\");"
                .to_owned(),
        ),
    ] {
        let kernel = folder.path().join(format!("{name}.cu"));
        std::fs::write(&kernel, format!("{honest}\n{line}\n")).unwrap();
        let output = kforge()
            .env("KFORGE_CANARY", SECRET)
            .args(["eval", "softmax", "--format", "json"])
            .arg(&kernel)
            .output()
            .unwrap();
        let verdict = program::json::<Vec<Value>>(&output).remove(0);
        let status = verdict["status"].as_str().unwrap_or_default();
        // The compiler does not see these lines.
        let is_dropped = ["has_include", "pragma", "marker"].contains(&name);
        let passed_by = is_dropped && ["passed", "inconclusive"].contains(&status);
        assert!(
            passed_by || ["rejected", "unsupported", "compile_error"].contains(&status),
            "{name}: {verdict:#}"
        );
        let said = verdict["reason"].as_str().unwrap_or_default();
        assert!(!said.contains(SECRET), "{name}: {said}");
        let log = verdict["evidence"]["log"].as_str().unwrap_or_default();
        let shown: Vec<_> = log
            .lines()
            .filter(|line| line.contains(SECRET) && !line.contains("#error"))
            .collect();
        assert!(shown.is_empty(), "{name}: {shown:?}");
    }
    Ok(())
}

/// Makes a system call fail for this process and its children, as on a system that lacks it. Runs between fork and exec.
fn make_call_fail(
    call: libc::c_long,
    error: i32,
) -> impl Fn() -> std::io::Result<()> + Send + Sync + 'static {
    let filter = SeccompFilter::new(
        BTreeMap::from([(call, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(error as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    move || seccompiler::apply_filter(&program).map_err(std::io::Error::other)
}

/// `kforge` as on a machine that lacks one mechanism.
fn kforge_without(call: libc::c_long, error: i32) -> Command {
    let mut command = kforge();
    let lack = make_call_fail(call, error);
    // SAFETY: two system calls between fork and exec.
    unsafe {
        command.pre_exec(lack);
    }
    command.stdin(Stdio::null());
    command
}

fn missing_mechanism_is_reported_and_can_be_refused() -> TestResult {
    require_full_sandbox()?;
    let kernel = fixtures().join("honest_votes.cu");
    for (call, error, words, remedy) in [
        (
            libc::SYS_landlock_create_ruleset,
            libc::ENOSYS,
            "seccomp (no landlock)",
            "no Landlock",
        ),
        (
            libc::SYS_seccomp,
            libc::EINVAL,
            "landlock (no seccomp)",
            "no seccomp",
        ),
    ] {
        let (status, found) = doctor_finding(kforge_without(call, error), "sandbox");
        assert_eq!(status, "warn");
        assert!(found.contains(remedy), "{found}");

        let output = kforge_without(call, error)
            .args(["eval", "softmax", "--format", "json"])
            .arg(&kernel)
            .output()
            .unwrap();
        let verdict = program::json::<Vec<Value>>(&output).remove(0);
        assert_eq!(verdict["sandbox"], words);
        assert!(
            ["passed", "inconclusive"].contains(&verdict["status"].as_str().unwrap_or_default()),
            "{verdict:#}"
        );

        let output = kforge_without(call, error)
            .args(["eval", "softmax", "--require-sandbox"])
            .arg(&kernel)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(remedy) && said.contains("hint:"), "{said}");

        let folder = tempfile::tempdir().unwrap();
        let output = kforge_without(call, error)
            .args([
                "evolve",
                "--config",
                "gdn_decode.yaml",
                "--set",
                "eval.require_sandbox=true",
                "--output",
            ])
            .arg(folder.path().join("run"))
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(3),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            !folder.path().join("run").exists(),
            "a run directory was created"
        );
    }
    Ok(())
}

/// A compiler outside of the system's folders that cannot link statically: programs need a loader and are still confined.
fn dynamically_linked_programs_are_confined() -> TestResult {
    require_full_sandbox()?;
    let folder = tempfile::tempdir().unwrap();
    let compiler = folder.path().join("c++");
    let script =
        "#!/bin/sh\nfor a in \"$@\"; do [ \"$a\" = -static ] && exit 1; done\nexec c++ \"$@\"\n";
    std::fs::write(&compiler, script).unwrap();
    std::fs::set_permissions(
        &compiler,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let here = || {
        let mut command = kforge();
        command
            .env("CXX", &compiler)
            .env("KFORGE_CACHE_DIR", folder.path().join("cache"));
        command
    };
    let (status, found) = doctor_finding(here(), "static linking");
    assert_eq!(status, "warn");
    assert!(found.contains("linked dynamically"), "{found}");
    let names = [
        "honest_votes",
        "escape_read_file",
        "escape_fork",
        "escape_exec",
        "escape_signal_all",
    ];
    let kernels = names.map(|name| fixtures().join(format!("{name}.cu")));
    let output = here()
        .args(["eval", "softmax", "--format", "json"])
        .args(kernels)
        .output()
        .unwrap();
    let verdicts = program::json::<Vec<Value>>(&output);
    assert!(
        ["passed", "inconclusive"].contains(&verdicts[0]["status"].as_str().unwrap_or_default()),
        "{:#}",
        verdicts[0]
    );
    for verdict in &verdicts[1..] {
        assert_eq!(verdict["status"], "crashed", "{verdict:#}");
        assert!(
            verdict["reason"]
                .as_str()
                .unwrap_or_default()
                .contains("is not allowed"),
            "{verdict:#}"
        );
        assert_eq!(verdict["sandbox"], "landlock+seccomp, with a loader");
    }
    Ok(())
}

crate::harness::tests!(
    escape_attempts_reach_nothing,
    compiler_cannot_read_user_files,
    missing_mechanism_is_reported_and_can_be_refused,
    dynamically_linked_programs_are_confined,
);
