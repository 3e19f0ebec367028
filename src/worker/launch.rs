//! `kforge __launch`: launches a kernel in a process that is run under a tool. Reads one request, writes one response.
//!
//! Takes no timing lock: `profiling`, which starts the tool, holds it. The kernel is already in the compiler cache.

use std::io::Read;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::protocol::{PROTOCOL_VERSION, WireFailure};
use super::server::take_stdout;
use crate::device::cuda::CudaDevice;
use crate::eval::{self, ProbeCases, ProbeRequest, ProbedLaunch};
use crate::task::TaskFiles;

/// Name of the hidden command.
pub(crate) const LAUNCH_COMMAND: &str = "__launch";

/// What to launch. Contains the contents of files, never paths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct LaunchRequest {
    pub(super) version: u32,
    pub(super) files: TaskFiles,
    pub(super) options: eval::JudgeOptions,
    pub(super) source: String,
    pub(super) cases: ProbeCases,
    /// Whether outputs and scratch are poisoned before the launch.
    pub(super) poison_outputs: bool,
}

/// The response, as one JSON line on standard output.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LaunchResponse {
    Launched(Vec<ProbedLaunch>),
    Failure(WireFailure),
}

impl LaunchResponse {
    /// The last line that is a response. The tool may write other lines to standard output.
    pub(super) fn find(said: &str) -> Option<Self> {
        let mut lines = said.lines().rev().filter(|line| line.starts_with('{'));
        lines.find_map(|line| serde_json::from_str(line).ok())
    }
}

/// Reads the request from standard input and responds on standard output.
pub(crate) fn serve_launch() -> anyhow::Result<()> {
    let mut output = take_stdout()?;
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .context("failed to read the request")?;
    let request: LaunchRequest =
        serde_json::from_str(&text).context("failed to parse the request")?;
    let response = match launch(request) {
        Ok(launches) => LaunchResponse::Launched(launches),
        Err(error) => LaunchResponse::Failure(WireFailure::from_error(&error)),
    };
    super::server::send_line(&mut output, &response)
}

fn launch(request: LaunchRequest) -> anyhow::Result<Vec<ProbedLaunch>> {
    if request.version != PROTOCOL_VERSION {
        bail!(
            "the request has protocol version {}, this program has {PROTOCOL_VERSION}: kforge was replaced while it ran",
            request.version
        );
    }
    let task = request.files.load()?;
    let device = CudaDevice::open_without_rates(0, true)?;
    let probe = ProbeRequest {
        source: &request.source,
        cases: &request.cases,
        poison_outputs: request.poison_outputs,
    };
    eval::probe(
        &device,
        &task,
        request.options,
        device.device_limits(),
        probe,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_round_trips_without_paths() {
        let task = TaskFiles::find("softmax").unwrap();
        let profile = task.load().unwrap().settings.profiles["quick"].clone();
        let request = LaunchRequest {
            version: PROTOCOL_VERSION,
            files: task,
            options: eval::JudgeOptions {
                profile,
                launch_seconds: 30.0,
                thorough: false,
                cache: crate::device::Cache::Hot,
            },
            source: "/* kforge\n*/ \"é\"\n".to_owned(),
            cases: ProbeCases::Smallest { seed: u64::MAX },
            poison_outputs: false,
        };
        let line = serde_json::to_string(&request).unwrap();
        let read: LaunchRequest = serde_json::from_str(&line).unwrap();
        // The paths of the task and of its kernels are not sent.
        let mut expected = request;
        expected.files.place = None;
        expected.files.kernels_folder = Default::default();
        // Workers compare nothing with a table.
        expected.files.baseline_tables.clear();
        assert_eq!(read, expected);
    }

    #[test]
    fn response_is_found_in_tool_output() {
        let launch = ProbedLaunch {
            case: "b1".to_owned(),
            kernels: vec!["rows<4>".to_owned()],
            fault: Some((crate::verdict::Status::TimedOut, "x".to_owned())),
        };
        let response = LaunchResponse::Launched(vec![launch.clone()]);
        let line = serde_json::to_string(&response).unwrap();
        let said = format!("==PROF== Connected\n{{\"forged\"\n{line}\n==PROF== {{}}\n{{}}\n");
        let Some(LaunchResponse::Launched(found)) = LaunchResponse::find(&said) else {
            panic!("no response was found");
        };
        assert_eq!(found, [launch]);
        assert!(LaunchResponse::find("").is_none());
    }
}
