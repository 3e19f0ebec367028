//! Profiling: launches a kernel that has passed under `ncu` or `compute-sanitizer`, and writes the results into its verdict.
//!
//! Never fails: a missing, forbidden or broken tool leaves a reason in the verdict. A sanitizer finding changes the status;
//! counters never do. `tool` runs the tools, `launch` is the process under them, and `device::cuda::tools` parses their output.

use std::path::Path;
use std::time::Duration;

use super::launch::{LAUNCH_COMMAND, LaunchRequest, LaunchResponse};
use super::protocol::PROTOCOL_VERSION;
use super::tool::{Tool, ToolOutput};
use crate::base::{random, temporary};
use crate::device::cuda::tools::sanitizer::SanitizerFinding;
use crate::device::cuda::{self, tools};
use crate::eval::{self, ProbeCases, ProbedLaunch, TimingLock};
use crate::task::TaskFiles;
use crate::verdict::{
    Counters, DeviceIdentity, DeviceSanitizer, Evidence, LaunchCounters, Status, Verdict,
};

/// Deadline of one run of a tool.
const TOOL_LIMIT: Duration = Duration::from_secs(180);
/// Minimum deadline of a launch under a tool, in seconds: kernels run many times slower there.
const MIN_LAUNCH_SECONDS: f64 = 60.0;
/// Maximum number of workloads for which counters are collected.
const MAX_WORKLOADS: usize = 16;
/// Attempts to collect counters. After each one, the metrics that the GPU does not know are dropped.
const MAX_RUNS: usize = 3;

/// The NVIDIA tools that run on a kernel that has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Profiling {
    /// Collect counters with `ncu` on the timed workloads.
    pub counters: bool,
    /// Run `compute-sanitizer` on the smallest hidden shapes.
    pub sanitize: bool,
}

/// Profiles kernels of one task.
pub(super) struct Profiler {
    files: TaskFiles,
    options: eval::JudgeOptions,
    profiling: Profiling,
}

/// Why something was skipped, in one line.
type SkipReason = String;

impl Profiler {
    pub(super) fn new(
        files: TaskFiles,
        options: &eval::JudgeOptions,
        profiling: Profiling,
    ) -> Self {
        let options = eval::JudgeOptions {
            launch_seconds: options.launch_seconds.max(MIN_LAUNCH_SECONDS),
            ..options.clone()
        };
        Self {
            files,
            options,
            profiling,
        }
    }

    /// Runs the tools and writes the results into the verdict. Returns the report file of `ncu`, if there is one.
    pub(super) async fn run(&self, verdict: &mut Verdict, source: &str) -> Option<Vec<u8>> {
        if self.profiling.sanitize && verdict.passed() {
            self.run_sanitizer(verdict, source).await;
        }
        if !self.profiling.counters || !verdict.passed() {
            return None;
        }
        let (counters, report) = match self.collect_counters(verdict, source).await {
            Ok((counters, report)) => (counters, Some(report)),
            Err(reason) => {
                let skipped = Counters {
                    skipped: Some(reason),
                    ..Counters::default()
                };
                (skipped, None)
            }
        };
        evidence_mut(verdict).counters = Some(counters);
        report
    }

    async fn collect_counters(
        &self,
        verdict: &Verdict,
        source: &str,
    ) -> Result<(Counters, Vec<u8>), SkipReason> {
        require_gpu(verdict)?;
        if let Some(reason) = tools::counters_denied() {
            return Err(reason);
        }
        let tool = Tool::find(tools::ncu::NAME, &verdict.device).await?;
        let request = self.launch_request(
            source,
            ProbeCases::Workloads(timed_workloads(verdict)),
            true,
        )?;
        let folder = temporary_folder()?;
        let (report, log) = (
            folder.path().join("kernel.ncu-rep"),
            folder.path().join("log"),
        );
        let mut metrics = tools::ncu::initial_metrics();
        let mut launched = None;
        for _ in 0..MAX_RUNS {
            let arguments = tools::ncu::arguments(&metrics, &report, &log);
            let lock = lock_gpu(&verdict.device, TimingLock::exclusive).await?;
            let output = tool
                .run(with_launch_command(arguments)?, &request, TOOL_LIMIT)
                .await?;
            drop(lock);
            let messages = tool_messages(&log, &output);
            if report.is_file() {
                launched = Some(parse_launches(&output).map_err(|reason| {
                    format!("{reason} ({})", tools::ncu::failure_reason(&messages))
                })?);
                break;
            }
            match tools::ncu::drop_unknown_metrics(&metrics, &messages) {
                Some(known) => metrics = known,
                None => {
                    let reason = tools::ncu::failure_reason(&messages);
                    return Err(with_last_message(&output, &reason));
                }
            }
        }
        let launched = launched.ok_or("the GPU supports too few of the metrics")?;
        let printed = tool
            .run(tools::ncu::import_arguments(&report), "", TOOL_LIMIT)
            .await?;
        let mut rows = tools::ncu::parse_launches(&printed.stdout).map_err(|reason| {
            format!("{reason} ({})", tools::ncu::failure_reason(&printed.stderr))
        })?;
        name_workloads(&mut rows, &launched);
        let bytes = std::fs::read(&report)
            .map_err(|error| format!("failed to read the report: {error}"))?;
        let counters = Counters {
            tier: Some(tool.label()),
            launches: rows,
            ..Counters::default()
        };
        Ok((counters, bytes))
    }

    /// Runs the checks of `compute-sanitizer` until one has a finding, which becomes the verdict's.
    async fn run_sanitizer(&self, verdict: &mut Verdict, source: &str) {
        let mut checks = DeviceSanitizer::default();
        let seed = random::fresh_seed();
        let found = match self.prepare_sanitizer(verdict, source, seed).await {
            Ok(sanitizer) => {
                checks.tool = Some(sanitizer.tool.label());
                sanitizer.run_checks(verdict, &mut checks).await
            }
            Err(reason) => {
                checks.skipped.push(reason);
                None
            }
        };
        if let Some((check, finding)) = found {
            refute(verdict, check, &finding, seed);
        }
        evidence_mut(verdict).device_sanitizer = Some(checks);
    }

    async fn prepare_sanitizer(
        &self,
        verdict: &Verdict,
        source: &str,
        seed: u64,
    ) -> Result<Sanitizer, SkipReason> {
        require_gpu(verdict)?;
        let tool = Tool::find(tools::sanitizer::NAME, &verdict.device).await?;
        // Outputs stay unwritten, so that `initcheck` sees reads of uninitialized memory.
        let request = self.launch_request(source, ProbeCases::Smallest { seed }, false)?;
        Ok(Sanitizer { tool, request })
    }

    fn launch_request(
        &self,
        source: &str,
        cases: ProbeCases,
        poison_outputs: bool,
    ) -> Result<String, SkipReason> {
        let request = LaunchRequest {
            version: PROTOCOL_VERSION,
            files: self.files.clone(),
            options: self.options.clone(),
            source: source.to_owned(),
            cases,
            poison_outputs,
        };
        serde_json::to_string(&request)
            .map_err(|error| format!("failed to encode the request: {error}"))
    }
}

/// `compute-sanitizer`, and the request for the process that it watches.
struct Sanitizer {
    tool: Tool,
    request: String,
}

impl Sanitizer {
    /// Runs the checks until one has a finding. Writes into `checks` what was run and what was skipped.
    async fn run_checks(
        &self,
        verdict: &Verdict,
        checks: &mut DeviceSanitizer,
    ) -> Option<(&'static str, SanitizerFinding)> {
        for check in tools::sanitizer::CHECKS {
            let feature = |name: &str| verdict.features.get(name).copied().unwrap_or(0.0);
            let checked = match tools::sanitizer::skip_reason(check, feature) {
                Some(reason) => Err(reason),
                None => self.run_check(check, verdict, checks).await,
            };
            match checked {
                Ok(None) => checks.clean.push(check.to_owned()),
                Ok(Some(finding)) => return Some((check, finding)),
                Err(reason) => checks.skipped.push(format!("{check}: {reason}")),
            }
        }
        None
    }

    async fn run_check(
        &self,
        check: &str,
        verdict: &Verdict,
        checks: &mut DeviceSanitizer,
    ) -> Result<Option<SanitizerFinding>, SkipReason> {
        let folder = temporary_folder()?;
        let log_path = folder.path().join("log");
        let arguments = tools::sanitizer::arguments(check, &log_path);
        let lock = lock_gpu(&verdict.device, TimingLock::shared).await?;
        let output = self
            .tool
            .run(with_launch_command(arguments)?, &self.request, TOOL_LIMIT)
            .await?;
        drop(lock);
        let launched = parse_launches(&output);
        let kernels: Vec<String> = launched
            .iter()
            .flatten()
            .flat_map(|launch| launch.kernels.clone())
            .collect();
        let log = std::fs::read(&log_path).unwrap_or_default();
        let log = tools::sanitizer::parse_log(&String::from_utf8_lossy(&log), &kernels);
        // The finding of the highest precedence; of several such findings, the first.
        let findings = log.findings.into_iter();
        if let Some(finding) = findings.min_by_key(|finding| finding.status) {
            return Ok(Some(finding));
        }
        if let Some(failure) = log.failure {
            return Err(failure);
        }
        let launched = launched.map_err(|reason| with_last_message(&output, &reason))?;
        if let Some((case, (_, reason))) = launched
            .iter()
            .find_map(|launch| Some((&launch.case, launch.fault.as_ref()?)))
        {
            return Err(format!(
                "a launch on `{case}` failed under the tool: {reason}"
            ));
        }
        if !log.complete {
            return Err(with_last_message(&output, "the tool's log is incomplete"));
        }
        let warnings = log.warnings.into_iter();
        checks
            .warnings
            .extend(warnings.map(|warning| format!("{check}: {warning}")));
        checks.cases = launched.into_iter().map(|launch| launch.case).collect();
        Ok(None)
    }
}

/// Fails if the kernel was judged on a CPU.
fn require_gpu(verdict: &Verdict) -> Result<(), SkipReason> {
    match verdict.device.cores {
        Some(_) => Err("the device is a CPU, and the tool is for GPUs".to_owned()),
        None => Ok(()),
    }
}

/// Locks the GPU: shared, so that nothing is timed meanwhile, or exclusive, so that nothing else runs.
async fn lock_gpu(
    device: &DeviceIdentity,
    mode: fn(&TimingLock) -> anyhow::Result<eval::TimingLockGuard>,
) -> Result<eval::TimingLockGuard, SkipReason> {
    let file = cuda::lock_file(device);
    let guard = tokio::task::spawn_blocking(move || mode(&TimingLock::open(file)?)).await;
    let guard = guard.map_err(|error| format!("failed to wait for the GPU: {error}"))?;
    guard.map_err(|error| format!("{error:#}"))
}

/// Appends to a tool's arguments the command that it runs: `kforge __launch`.
fn with_launch_command(
    mut arguments: Vec<std::ffi::OsString>,
) -> Result<Vec<std::ffi::OsString>, SkipReason> {
    let program = std::env::current_exe()
        .map_err(|error| format!("failed to find kforge's own program file: {error}"))?;
    arguments.push(program.into_os_string());
    arguments.push(LAUNCH_COMMAND.into());
    Ok(arguments)
}

/// All messages of a tool: its log, its lines on standard output, and standard error.
fn tool_messages(log: &Path, output: &ToolOutput) -> String {
    let log = std::fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    // Lines of the tool start with `==`; the others are from the watched process.
    let is_from_tool = |line: &&str| line.starts_with("==");
    let lines: Vec<&str> = output.stdout.lines().filter(is_from_tool).collect();
    format!("{log}\n{}\n{}", lines.join("\n"), output.stderr)
}

/// The response of the watched process.
fn parse_launches(output: &ToolOutput) -> Result<Vec<ProbedLaunch>, SkipReason> {
    match LaunchResponse::find(&output.stdout) {
        Some(LaunchResponse::Launched(launches)) => Ok(launches),
        Some(LaunchResponse::Failure(failure)) => {
            Err(one_line(&format!("{:#}", failure.into_error())))
        }
        None => Err("the launching process sent no response".to_owned()),
    }
}

/// Adds the exit status, and the last line of standard error, to a reason.
fn with_last_message(output: &ToolOutput, reason: &str) -> String {
    let last = output.stderr.lines().rfind(|line| !line.trim().is_empty());
    match last.filter(|last| !reason.contains(last.trim())) {
        Some(last) => one_line(&format!("{reason} ({}: {})", output.exit, last.trim())),
        None => one_line(&format!("{reason} ({})", output.exit)),
    }
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(500).collect()
}

/// Ids of the workloads that were timed.
fn timed_workloads(verdict: &Verdict) -> Vec<String> {
    let timed = (verdict.workloads.iter()).filter(|workload| workload.candidate_us.is_some());
    let names = timed.map(|workload| workload.id.clone());
    names.take(MAX_WORKLOADS).collect()
}

/// Sets the workload of each row, if there are as many rows as launches.
fn name_workloads(rows: &mut [LaunchCounters], launched: &[ProbedLaunch]) {
    let cases: Vec<&String> = (launched.iter())
        .flat_map(|launch| launch.kernels.iter().map(|_| &launch.case))
        .collect();
    if cases.len() == rows.len() {
        for (row, case) in rows.iter_mut().zip(cases) {
            row.workload.clone_from(case);
        }
    }
}

fn temporary_folder() -> Result<tempfile::TempDir, SkipReason> {
    temporary::folder("profile-")
        .map_err(|error| format!("failed to create a temporary folder: {error}"))
}

fn evidence_mut(verdict: &mut Verdict) -> &mut Evidence {
    verdict.evidence.get_or_insert_default()
}

/// Changes a passed verdict to the finding of a check.
fn refute(verdict: &mut Verdict, check: &str, finding: &SanitizerFinding, seed: u64) {
    debug_assert_ne!(finding.status, Status::Passed);
    let line = finding.line.map(|line| format!("line {line}: "));
    verdict.status = finding.status;
    verdict.reason = Some(format!(
        "{}{}'s {check}: {}",
        line.unwrap_or_default(),
        tools::sanitizer::NAME,
        finding.title
    ));
    verdict.confirmed = false;
    verdict.speedup = None;
    for workload in &mut verdict.workloads {
        (workload.speedup, workload.ci95) = (None, None);
    }
    *evidence_mut(verdict) = Evidence {
        seed: Some(seed),
        line: finding.line,
        block: finding.block,
        thread: finding.thread,
        log: Some(finding.text.clone()),
        ..Evidence::default()
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_get_workload_names_only_if_launch_counts_match() {
        let launch = |case: &str, kernels: usize| ProbedLaunch {
            case: case.to_owned(),
            kernels: vec!["k".to_owned(); kernels],
            fault: None,
        };
        let launched = [launch("b1", 2), launch("b4", 1)];
        let mut rows = vec![LaunchCounters::default(); 3];
        name_workloads(&mut rows, &launched);
        let names: Vec<_> = rows.iter().map(|row| row.workload.as_str()).collect();
        assert_eq!(names, ["b1", "b1", "b4"]);
        let mut rows = vec![LaunchCounters::default(); 2];
        name_workloads(&mut rows, &launched);
        assert!(rows.iter().all(|row| row.workload.is_empty()));
    }

    #[test]
    fn missing_response_reports_the_last_stderr_line() {
        let ran = |out: &str| ToolOutput {
            stdout: out.to_owned(),
            stderr: "one\nerror: no CUDA driver\n\n".to_owned(),
            exit: "exit status: 3".to_owned(),
        };
        let reason = parse_launches(&ran("noise\n")).unwrap_err();
        assert_eq!(
            with_last_message(&ran(""), &reason),
            "the launching process sent no response (exit status: 3: error: no CUDA driver)"
        );
        assert_eq!(parse_launches(&ran("{\"launched\":[]}\n")).unwrap(), []);
        let failed = r#"{"failure":{"kind":"environment","message":"no GPU\nat all","hint":null}}"#;
        assert_eq!(parse_launches(&ran(failed)).unwrap_err(), "no GPU at all");
    }

    #[test]
    fn sanitizer_finding_removes_the_speedup() {
        let mut verdict: Verdict = serde_json::from_str(
            r#"{"schema": 1, "task": "t", "kernel": "k", "backend": "cuda", "status": "passed", "reason": null, "confirmed": true,
                "device": {"name": "", "arch": "sm_90", "uuid": null, "driver": null}, "sandbox": "none", "cache": "cold",
                "checked_share": 1.0, "baseline": null, "speedup": {"geomean": 2.0, "ci95": [1.9, 2.1]}, "workloads": [],
                "resources": {"registers": 1, "spill_bytes": 0, "shared_bytes": 0, "occupancy": 1.0},
                "seconds": {"compile": 0, "check": 0, "measure": 0}}"#,
        )
        .unwrap();
        let finding = tools::sanitizer::SanitizerFinding {
            status: Status::Race,
            title: "Error: Race reported".to_owned(),
            line: Some(7),
            block: None,
            thread: None,
            text: "all of it".to_owned(),
        };
        refute(&mut verdict, "racecheck", &finding, 5);
        assert_eq!(verdict.status, Status::Race);
        assert!(!verdict.confirmed && verdict.speedup.is_none());
        assert_eq!(
            verdict.reason.as_deref(),
            Some("line 7: compute-sanitizer's racecheck: Error: Race reported")
        );
        let evidence = verdict.evidence.unwrap();
        assert_eq!((evidence.line, evidence.seed), (Some(7), Some(5)));
        assert_eq!(evidence.log.as_deref(), Some("all of it"));
    }
}
