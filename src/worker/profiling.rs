//! The driver's side of the maker's tools: a kernel that has passed is launched once more under a profiler or a sanitizer, and
//! what they say goes into its verdict.
//!
//! Never an error: a tool that is missing, forbidden or broken leaves a reason. Counters never change a status.

use std::path::Path;
use std::time::Duration;

use super::launch::{LAUNCH_COMMAND, LaunchRequest, LaunchResponse};
use super::protocol::PROTOCOL_VERSION;
use super::tool::{Tool, ToolOutput};
use crate::base::random;
use crate::device::cuda::{self, tools};
use crate::eval::{self, ProbeCases, ProbedLaunch, TimingLock};
use crate::task::TaskFiles;
use crate::verdict::{
    Counters, DeviceIdentity, DeviceSanitizer, Evidence, LaunchCounters, Status, Verdict,
};

/// How long one run of a tool may take.
const TOOL_LIMIT: Duration = Duration::from_secs(180);
/// The least deadline of a launch under a tool, in seconds: it runs many times slower there.
const MIN_LAUNCH_SECONDS: f64 = 60.0;
/// The most workloads that are counted.
const MAX_WORKLOADS: usize = 16;
/// How often a run is repeated because the card does not know a metric.
const MAX_RUNS: usize = 3;

/// What is looked at once a kernel has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Profiling {
    /// Counters, by a profiler.
    pub counters: bool,
    /// What the device's sanitizer finds at the smallest hidden shapes.
    pub sanitize: bool,
}

/// Looks at kernels of one task.
pub(super) struct Profiler {
    files: TaskFiles,
    options: eval::JudgeOptions,
    profiling: Profiling,
}

/// Why something was not looked at, in one line.
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

    /// Looks, and gives the profiler's own report where there is one.
    pub(super) async fn run(&self, verdict: &mut Verdict, source: &str) -> Option<Vec<u8>> {
        if self.profiling.sanitize && verdict.passed() {
            self.run_sanitizer(verdict, source).await;
        }
        if !self.profiling.counters || !verdict.passed() {
            return None;
        }
        let (counters, report) = match self.collect_counters(verdict, source).await {
            Ok((counters, report)) => (counters, Some(report)),
            Err(skipped) => {
                let skipped = Some(skipped);
                let none = Counters {
                    skipped,
                    ..Counters::default()
                };
                (none, None)
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
        let folder =
            tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
        let (report, log) = (
            folder.path().join("kernel.ncu-rep"),
            folder.path().join("log"),
        );
        let mut metrics = tools::ncu::initial_metrics();
        let mut launched = None;
        for _ in 0..MAX_RUNS {
            let arguments = tools::ncu::arguments(&metrics, &report, &log);
            let held = lock_gpu(&verdict.device, TimingLock::exclusive).await?;
            let ran = tool
                .run(with_launch_command(arguments)?, &request, TOOL_LIMIT)
                .await?;
            drop(held);
            let words = tool_messages(&log, &ran);
            if report.is_file() {
                launched = Some(parse_launches(&ran).map_err(|reason| {
                    format!("{reason} ({})", tools::ncu::failure_reason(&words))
                })?);
                break;
            }
            match tools::ncu::drop_unknown_metrics(&metrics, &words) {
                Some(known) => metrics = known,
                None => return Err(with_last_message(&ran, &tools::ncu::failure_reason(&words))),
            }
        }
        let launched = launched.ok_or("the card knows too few of the metrics")?;
        let printed = tool
            .run(tools::ncu::import_arguments(&report), "", TOOL_LIMIT)
            .await?;
        let mut rows = tools::ncu::parse_launches(&printed.stdout).map_err(|reason| {
            format!("{reason} ({})", tools::ncu::failure_reason(&printed.stderr))
        })?;
        name_workloads(&mut rows, &launched);
        let bytes =
            std::fs::read(&report).map_err(|error| format!("the report is gone: {error}"))?;
        let counters = Counters {
            tier: Some(tool.label()),
            launches: rows,
            ..Counters::default()
        };
        Ok((counters, bytes))
    }

    /// The first check that finds something ends it: its finding is the verdict's.
    async fn run_sanitizer(&self, verdict: &mut Verdict, source: &str) {
        let mut looked = DeviceSanitizer::default();
        let seed = random::fresh_seed();
        let found = match self.prepare_sanitizer(verdict, source, seed).await {
            Ok((tool, request)) => {
                looked.tool = Some(tool.label());
                self.run_checks(verdict, &mut looked, (&tool, &request))
                    .await
            }
            Err(skipped) => {
                looked.skipped.push(skipped);
                None
            }
        };
        if let Some((check, finding)) = found {
            refute(verdict, check, &finding, seed);
        }
        evidence_mut(verdict).device_sanitizer = Some(looked);
    }

    async fn prepare_sanitizer(
        &self,
        verdict: &Verdict,
        source: &str,
        seed: u64,
    ) -> Result<(Tool, String), SkipReason> {
        require_gpu(verdict)?;
        let tool = Tool::find(tools::sanitizer::NAME, &verdict.device).await?;
        Ok((
            tool,
            self.launch_request(source, ProbeCases::Smallest { seed }, false)?,
        ))
    }

    async fn run_checks(
        &self,
        verdict: &Verdict,
        looked: &mut DeviceSanitizer,
        (tool, request): (&Tool, &str),
    ) -> Option<(&'static str, tools::sanitizer::SanitizerFinding)> {
        for check in tools::sanitizer::CHECKS {
            let fact = |name: &str| verdict.features.get(name).copied().unwrap_or(0.0);
            let checked = match tools::sanitizer::skip_reason(check, fact) {
                Some(reason) => Err(reason),
                None => {
                    self.run_check(verdict, looked, (tool, request, check))
                        .await
                }
            };
            match checked {
                Ok(None) => looked.clean.push(check.to_owned()),
                Ok(Some(finding)) => return Some((check, finding)),
                Err(reason) => looked.skipped.push(format!("{check}: {reason}")),
            }
        }
        None
    }

    async fn run_check(
        &self,
        verdict: &Verdict,
        looked: &mut DeviceSanitizer,
        (tool, request, check): (&Tool, &str, &str),
    ) -> Result<Option<tools::sanitizer::SanitizerFinding>, SkipReason> {
        let folder =
            tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
        let log = folder.path().join("log");
        let arguments = tools::sanitizer::arguments(check, &log);
        let held = lock_gpu(&verdict.device, TimingLock::shared).await?;
        let ran = tool
            .run(with_launch_command(arguments)?, request, TOOL_LIMIT)
            .await?;
        drop(held);
        let launched = parse_launches(&ran);
        let known = launched.as_deref().unwrap_or_default();
        let kernels: Vec<String> = known
            .iter()
            .flat_map(|launch| launch.kernels.clone())
            .collect();
        let said = std::fs::read(&log).unwrap_or_default();
        let read = tools::sanitizer::parse_log(&String::from_utf8_lossy(&said), &kernels);
        // Of several the gravest, and of those the first.
        if let Some(finding) = read
            .findings
            .into_iter()
            .min_by_key(|finding| finding.status)
        {
            return Ok(Some(finding));
        }
        if let Some(trouble) = read.failure {
            return Err(trouble);
        }
        let launched = launched.map_err(|reason| with_last_message(&ran, &reason))?;
        if let Some((case, (_, reason))) = launched
            .iter()
            .find_map(|launch| Some((&launch.case, launch.fault.as_ref()?)))
        {
            return Err(format!("under it a launch on `{case}` failed: {reason}"));
        }
        if !read.complete {
            return Err(with_last_message(&ran, "its log has no end"));
        }
        let told = |warning| format!("{check}: {warning}");
        looked.warnings.extend(read.warnings.into_iter().map(told));
        looked.cases = launched.into_iter().map(|launch| launch.case).collect();
        Ok(None)
    }

    fn launch_request(
        &self,
        source: &str,
        on: ProbeCases,
        outputs: bool,
    ) -> Result<String, SkipReason> {
        let request = LaunchRequest {
            version: PROTOCOL_VERSION,
            files: self.files.clone(),
            options: self.options.clone(),
            source: source.to_owned(),
            on,
            outputs,
        };
        serde_json::to_string(&request).map_err(|error| format!("the request: {error}"))
    }
}

/// Where there is a card to look at.
fn require_gpu(verdict: &Verdict) -> Result<(), SkipReason> {
    match verdict.device.cores {
        Some(_) => Err("the device is a CPU, and the tool is for GPUs".to_owned()),
        None => Ok(()),
    }
}

/// Keeps the clock's owner from the card, or everybody.
async fn lock_gpu(
    device: &DeviceIdentity,
    how: fn(&TimingLock) -> anyhow::Result<eval::TimingLockGuard>,
) -> Result<eval::TimingLockGuard, SkipReason> {
    let lock = cuda::lock_file(device);
    let held = tokio::task::spawn_blocking(move || how(&TimingLock::open(lock)?)).await;
    let held = held.map_err(|error| format!("waiting for the card broke down: {error}"))?;
    held.map_err(|error| format!("{error:#}"))
}

/// A tool's arguments with the program behind them that it is to watch.
fn with_launch_command(
    mut arguments: Vec<std::ffi::OsString>,
) -> Result<Vec<std::ffi::OsString>, SkipReason> {
    let own = std::env::current_exe();
    let own = own.map_err(|error| format!("kforge's own program file is not found: {error}"))?;
    arguments.push(own.into_os_string());
    arguments.push(LAUNCH_COMMAND.into());
    Ok(arguments)
}

/// All that a tool has said.
fn tool_messages(log: &Path, ran: &ToolOutput) -> String {
    let log = std::fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    // The judged program's words are no tool's.
    let of_tool = |line: &&str| line.starts_with("==");
    let said: Vec<&str> = ran.stdout.lines().filter(of_tool).collect();
    format!("{log}\n{}\n{}", said.join("\n"), ran.stderr)
}

/// What the watched process answered.
fn parse_launches(ran: &ToolOutput) -> Result<Vec<ProbedLaunch>, SkipReason> {
    match LaunchResponse::find(&ran.stdout) {
        Some(LaunchResponse::Launched(launches)) => Ok(launches),
        Some(LaunchResponse::Failure(failure)) => {
            Err(one_line(&format!("{:#}", failure.into_error())))
        }
        None => Err("the launching process gave no answer".to_owned()),
    }
}

fn with_last_message(ran: &ToolOutput, reason: &str) -> String {
    let last = ran.stderr.lines().rfind(|line| !line.trim().is_empty());
    match last.filter(|last| !reason.contains(last.trim())) {
        Some(last) => one_line(&format!("{reason} ({}: {})", ran.exit, last.trim())),
        None => one_line(&format!("{reason} ({})", ran.exit)),
    }
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(500).collect()
}

/// The workloads that were timed.
fn timed_workloads(verdict: &Verdict) -> Vec<String> {
    let timed = (verdict.workloads.iter()).filter(|workload| workload.candidate_us.is_some());
    let names = timed.map(|workload| workload.id.clone());
    names.take(MAX_WORKLOADS).collect()
}

/// Says of each row which workload it is of, where there are as many as launches were made.
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

fn evidence_mut(verdict: &mut Verdict) -> &mut Evidence {
    verdict.evidence.get_or_insert_default()
}

/// A kernel in which a check finds something has not passed.
fn refute(
    verdict: &mut Verdict,
    check: &str,
    finding: &tools::sanitizer::SanitizerFinding,
    seed: u64,
) {
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
            "the launching process gave no answer (exit status: 3: error: no CUDA driver)"
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
