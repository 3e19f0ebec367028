//! The GPU's statuses of the rules on which the backends agree or differ (`support/agreement.rs`): compiled with NVRTC on every machine
//! that has it, and judged where there is a GPU.

use serde_json::Value;

use crate::agreement_rules::{RULES, Rule};
use crate::gpu;
use crate::harness::{Missing, TestResult};
use crate::program::{Workspace, json, root};
use kforge::device::cuda::compiler::Compiler;

/// The verdicts of all rules, with more arguments of `kforge eval`.
fn judge(arguments: &[&str]) -> Vec<Value> {
    let workspace = Workspace::new();
    let files = RULES
        .iter()
        .map(|rule| workspace.write(&format!("{}.cu", rule.name), &rule.source()));
    let task = root().join("tests/fixtures/gpu/tasks/scale");
    let output = workspace
        .command(&["eval", &task.display().to_string(), "--backend", "cuda"])
        .args(["--format", "json"])
        .args(arguments)
        .args(files)
        .output()
        .unwrap();
    let verdicts: Vec<Value> = json(&output);
    assert_eq!(verdicts.len(), RULES.len());
    verdicts
}

fn assert_statuses(verdicts: &[Value], is_expected: impl Fn(&Rule, &Value) -> bool) {
    let wrong: Vec<_> = RULES
        .iter()
        .zip(verdicts)
        .filter(|(rule, verdict)| !is_expected(rule, &verdict["status"]))
        .map(|(rule, verdict)| {
            let (status, reason) = (&verdict["status"], &verdict["reason"]);
            format!("{}: {status}: {reason}", rule.name)
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The compiler refuses what the table says, and nothing else.
fn nvrtc_refuses_what_the_table_says() -> TestResult {
    if let Err(error) = Compiler::open_with_program(env!("CARGO_BIN_EXE_kforge").into(), "sm_90") {
        return Err(Missing::new("nvrtc", format!("{error:#}")));
    }
    assert_statuses(
        &judge(&["--compile-only", "--arch", "sm_90"]),
        |rule, status| {
            let is_refused = matches!(rule.gpu[0], "rejected" | "compile_error");
            match status.as_str() {
                Some(status) => is_refused && rule.gpu.contains(&status),
                None => !is_refused,
            }
        },
    );
    Ok(())
}

/// A GPU alone, then with the screen of the CPU.
fn gpu_gives_the_status_of_each_rule() -> TestResult {
    let _device = gpu::device()?;
    let arguments = ["--profile", "quick", "--launch-seconds", "0.5"];
    assert_statuses(&judge(&arguments), |rule, status| {
        let status = status.as_str().unwrap_or_default();
        rule.gpu.contains(&status) || (status == "inconclusive" && rule.gpu[0] == "passed")
    });
    let screened = [&arguments[..], &["--screen", "cpu"]].concat();
    assert_statuses(&judge(&screened), |rule, status| {
        let status = status.as_str().unwrap_or_default();
        match rule.screened {
            Some(expected) => status == expected,
            None => rule.gpu.contains(&status) || status == "inconclusive",
        }
    });
    Ok(())
}

crate::harness::tests!(
    nvrtc_refuses_what_the_table_says,
    gpu_gives_the_status_of_each_rule,
);
