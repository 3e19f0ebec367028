//! Profiling of a kernel that has passed, with the kforge program: the launch for a tool, and why a tool was skipped.

use std::io::Write;
use std::process::{Output, Stdio};

use kforge::device::cpu::CpuDevice;
use kforge::device::{Cache, Device};
use kforge::eval::{JudgeOptions, ProbeCases, ProbeRequest, probe};
use kforge::task::TaskFiles;
use kforge::worker::cpu_limits;

use crate::program;

const NAIVE: &str = include_str!("../../kernels/softmax/naive.cu");

fn kforge(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("naive.cu"), NAIVE).unwrap();
    program::kforge(arguments.iter().copied())
        .current_dir(folder.path())
        .output()
        .unwrap()
}

#[test]
fn probe_launches_each_selected_case_once() {
    let task = TaskFiles::find("softmax").unwrap().load().unwrap();
    let options = JudgeOptions {
        profile: task.settings.profiles["quick"].clone(),
        launch_seconds: 10.0,
        thorough: false,
        cache: Cache::Cold,
    };
    let device = CpuDevice::new().unwrap();
    let launch = |source: &str, cases: &ProbeCases| {
        let machine = cpu_limits(&device.identity());
        probe(
            &device,
            &task,
            options.clone(),
            machine,
            ProbeRequest {
                source,
                cases,
                poison_outputs: false,
            },
        )
    };
    let first = task.workloads[0].id.clone();
    let launches = launch(NAIVE, &ProbeCases::Workloads(vec![first.clone()])).unwrap();
    assert_eq!(launches.len(), 1);
    assert_eq!((&launches[0].case, launches[0].kernels.len()), (&first, 1));
    assert_eq!(launches[0].fault, None);
    let hidden = launch(NAIVE, &ProbeCases::Smallest { seed: 7 }).unwrap();
    assert!(
        hidden
            .iter()
            .all(|launch| launch.case.starts_with("hidden-")),
        "{hidden:?}"
    );
    assert!(!hidden.is_empty() && hidden.len() <= 4);
    // The same seed gives the same shapes.
    assert_eq!(
        launch(NAIVE, &ProbeCases::Smallest { seed: 7 }).unwrap(),
        hidden
    );
    assert!(launch(NAIVE, &ProbeCases::Workloads(vec!["none".to_owned()])).is_err());
    assert!(launch("no header", &ProbeCases::Smallest { seed: 7 }).is_err());
}

#[test]
fn missing_tools_are_reported_as_skipped_and_do_not_fail() {
    let arguments = [
        "eval",
        "softmax",
        "naive.cu",
        "--backend",
        "cpu",
        "--counters",
        "--device-sanitize",
        "--precision",
        "0.5",
    ];
    let mut output = kforge(&arguments);
    for _ in 0..5 {
        // On a busy machine the timing may be inconclusive, even with so wide an interval.
        if output.status.success() {
            break;
        }
        output = kforge(&arguments);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for line in [
        "  counters: skipped: the device is a CPU, and the tool is for GPUs\n",
        "  device sanitizer: skipped: the device is a CPU, and the tool is for GPUs\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn counters_report_requires_a_single_kernel() {
    let several = ["eval", "softmax", "naive.cu", "naive.cu", "--counters"];
    let output = kforge(&[&several[..], &["--counters-report", "x"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("several are named"));
    let alone = kforge(&["eval", "softmax", "naive.cu", "--counters-report", "x"]);
    assert_eq!(alone.status.code(), Some(2), "it needs `--counters`");
}

#[test]
fn malformed_launch_request_is_refused() {
    for request in ["", "{}", "{\"version\": 0}", "\u{0}"] {
        let mut child = program::kforge([])
            .arg("__launch")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The write fails if the process has already ended.
        let _ = child.stdin.take().unwrap().write_all(request.as_bytes());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            stderr.contains("failed to parse the request") && !stderr.contains("panicked"),
            "{stderr}"
        );
    }
}

/// Kernels with a correct result and a fault that only compute-sanitizer finds. Needs a GPU and the tool: run it with `--ignored`.
#[test]
#[ignore = "needs a GPU and compute-sanitizer"]
fn sanitizer_finds_faults_behind_correct_results() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/profiling");
    let expected = std::fs::read_to_string(folder.join("expected.tsv")).unwrap();
    let rows = expected.lines().filter(|line| !line.starts_with('#'));
    let mut rows: Vec<(String, &str)> = rows
        .map(|row| row.split_once('\t').unwrap())
        .map(|(name, output)| (folder.join(name).display().to_string(), output))
        .collect();
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/softmax/block_rows.cu");
    rows.push((own.to_owned(), "passed"));
    for (kernel, output) in rows {
        let (status, warns) = output.split_once('\t').unwrap_or((output, ""));
        let judged = |more: &[&str]| -> serde_json::Value {
            let first = [
                "eval",
                "softmax",
                &kernel,
                "--backend",
                "cuda",
                "--profile",
                "quick",
                "--seconds",
                "1",
                "--format",
                "json",
            ];
            let output = kforge(&[&first[..], more].concat());
            let text = String::from_utf8_lossy(&output.stdout);
            let stderr = String::from_utf8_lossy(&output.stderr);
            let verdicts: serde_json::Value =
                serde_json::from_str(&text).unwrap_or_else(|_| panic!("{kernel}: {stderr}"));
            verdicts[0].clone()
        };
        let verdict = judged(&["--device-sanitize"]);
        assert_eq!(verdict["status"], status, "{kernel}: {verdict:#}");
        let sanitizer = &verdict["evidence"]["device_sanitizer"];
        assert!(sanitizer["skipped"].is_null(), "{kernel}: {sanitizer:#}");
        assert_eq!(
            sanitizer["warnings"].is_array(),
            warns == "warns",
            "{kernel}: {sanitizer:#}"
        );
        if status != "passed" {
            assert!(
                verdict["evidence"]["line"].is_u64(),
                "{kernel}: {verdict:#}"
            );
            assert_eq!(judged(&[])["status"], "passed", "{kernel}");
        }
    }
}
