//! `kforge __worker`: reads requests from standard input until the pipe closes, judges, and writes responses to standard output.
//!
//! Never opens a run directory and never receives a path. Candidates on the CPU, and compilers, run in child processes of
//! this one. `child` is the other end of the pipe; `eval::Judge` judges.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context;

use super::deadlines::BEAT;
use super::protocol::{
    Greeting, Judged, PROTOCOL_VERSION, WireFailure, WorkerRequest, WorkerResponse,
};
use crate::base::{Failure, progress};
use crate::device::Device;
use crate::device::cpu::CpuDevice;
use crate::device::cuda::{self, CudaDevice};
use crate::eval::{CpuScreen, Judge, JudgeRequest, SpaceJudge, TimingLock};
use crate::kernel::DeviceLimits;
use crate::task::Task;
use crate::verdict::DeviceIdentity;

/// Maximum shared memory of a thread block on the CPU backend: that of sm_90, the architecture that it emulates.
const MAX_SHARED_BYTES: i64 = 227 * 1024;

/// Serves requests until standard input ends.
pub fn serve() -> anyhow::Result<()> {
    let output = Output::new(take_stdout()?);
    let mut lines = BufReader::new(std::io::stdin().lock()).lines();
    let Some(line) = lines.next() else {
        return Ok(());
    };
    output.start_work();
    let greeted =
        parse_greeting(&line?).and_then(|greeting| Ok((greeting.files.load()?, greeting)));
    let (task, greeting) = match greeted {
        Ok(greeted) => greeted,
        Err(failure) => return output.respond(&failure_response(&failure.into())),
    };
    let served = if greeting.on_gpu {
        serve_on_gpu(&output, &task, greeting, &mut lines)
    } else {
        serve_on_cpu(&output, &task, greeting, &mut lines)
    };
    match served {
        Ok(()) => Ok(()),
        // The driver still waits for the response to its greeting.
        Err(ServeError::NotReady(error)) => output.respond(&failure_response(&error)),
        Err(ServeError::PipeClosed(error)) => Err(error),
    }
}

/// Parses the greeting of a driver of the same version. Any other greeting is an environment failure, because it is not the fault
/// of a candidate.
fn parse_greeting(line: &str) -> Result<Greeting, Failure> {
    #[derive(serde::Deserialize)]
    struct GreetingVersion {
        version: u32,
    }
    let replaced = |what: String| {
        Failure::environment(format!("{what}: kforge was replaced while it ran"))
            .hint("stop the old process, then continue the run with `kforge resume`")
    };
    let invalid =
        |error: serde_json::Error| replaced(format!("failed to parse the greeting ({error})"));
    let GreetingVersion { version } = serde_json::from_str(line).map_err(invalid)?;
    if version != PROTOCOL_VERSION {
        return Err(replaced(format!(
            "the driver has version {version} of the worker protocol, this worker has {PROTOCOL_VERSION}"
        )));
    }
    serde_json::from_str(line).map_err(invalid)
}

/// Standard output, for the responses and for the signs of life between them.
#[derive(Clone)]
struct Output(Arc<Mutex<OutputState>>);

struct OutputState {
    file: File,
    /// Whether the driver waits for a response. Otherwise it reads nothing.
    is_working: bool,
}

impl Output {
    fn new(file: File) -> Self {
        Self(Arc::new(Mutex::new(OutputState {
            file,
            is_working: false,
        })))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, OutputState> {
        // A panic leaves the state valid.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver has sent something and waits: signs of life are sent from now on.
    fn start_work(&self) {
        progress::note();
        self.state().is_working = true;
    }

    /// Sends the response that ends the work.
    fn respond(&self, response: &WorkerResponse) -> anyhow::Result<()> {
        let mut state = self.state();
        state.is_working = false;
        send_line(&mut state.file, response)
    }

    fn send_sign_of_life(&self) {
        let mut state = self.state();
        if state.is_working {
            let alive = WorkerResponse::Alive {
                stalled_seconds: progress::stalled_time().as_secs(),
            };
            // If the driver has ended, this process ends too.
            let _ = send_line(&mut state.file, &alive);
        }
    }
}

/// Sends signs of life while this process works, and ends it as soon as the driver has ended for any reason. Otherwise it would keep the
/// device busy for a verdict that nothing receives.
fn watch_driver(output: Output) -> anyhow::Result<()> {
    let watch = move || {
        let mut pipe = libc::pollfd {
            fd: libc::STDIN_FILENO,
            // No events: the closing of the other end is always reported.
            events: 0,
            revents: 0,
        };
        loop {
            // SAFETY: the pointer leads to one valid entry.
            let ready = unsafe { libc::poll(&raw mut pipe, 1, BEAT.as_millis() as libc::c_int) };
            if ready > 0 {
                // SAFETY: ends the process at once. The other end of the pipe is closed, so there is nothing to write or clean up.
                unsafe { libc::_exit(1) }
            }
            if ready == 0 {
                output.send_sign_of_life();
            } else if std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .spawn(watch)
        .context("failed to start a thread")?;
    Ok(())
}

/// Why a worker stopped serving.
enum ServeError {
    /// The device, the oracle or the baseline does not work. This is reported to the driver.
    NotReady(anyhow::Error),
    /// The driver cannot be reached.
    PipeClosed(anyhow::Error),
}

impl From<anyhow::Error> for ServeError {
    fn from(error: anyhow::Error) -> Self {
        Self::NotReady(error)
    }
}

type RequestLines<'l> = std::io::Lines<BufReader<std::io::StdinLock<'l>>>;

/// Serves any number of requests. Every kernel runs in its own processes.
fn serve_on_cpu(
    output: &Output,
    task: &Task,
    greeting: Greeting,
    lines: &mut RequestLines<'_>,
) -> Result<(), ServeError> {
    watch_driver(output.clone())?;
    let device = CpuDevice::new()?;
    let identity = device.identity();
    let limits = cpu_limits(&identity);
    if let Some(settings) = greeting.space {
        let options = greeting.options;
        let judge = SpaceJudge::open(&device, task, options, limits, settings)?;
        return serve_points(output, judge, identity, lines);
    }
    let mut judge = Judge::open(&device, task, greeting.options, limits)?;
    judge.check_baseline(greeting.baseline_is_proven)?;
    let ready = WorkerResponse::Ready(identity);
    output.respond(&ready).map_err(ServeError::PipeClosed)?;
    for line in lines {
        handle_request(output, &mut judge, line).map_err(ServeError::PipeClosed)?;
    }
    Ok(())
}

/// Serves requests until the driver ends the process: a candidate on a GPU runs in this process and may have damaged it.
fn serve_on_gpu(
    output: &Output,
    task: &Task,
    greeting: Greeting,
    lines: &mut RequestLines<'_>,
) -> Result<(), ServeError> {
    // Before any other thread exists.
    cuda::confine_writes()?;
    watch_driver(output.clone())?;
    let started = Instant::now();
    let (gpus, driver) = std::thread::scope(|scope| {
        let driver = scope.spawn(cuda::start_driver);
        (cuda::list_gpus(), driver.join())
    });
    let gpus = gpus.map_err(anyhow::Error::from)?;
    driver.map_err(|_| anyhow::anyhow!("starting the CUDA driver panicked"))??;
    let gpu = gpus.first().context("no GPU is visible")?;
    let timing_lock = TimingLock::open(cuda::lock_file(gpu))?;
    let driver_started = started.elapsed();
    // Creating a context and checking the baseline must not disturb a measurement of another process. A context takes about 0.15 s, in which
    // the GPU has little to do.
    let opening = timing_lock.shared_for_opening()?;
    let locked = started.elapsed();
    let device = CudaDevice::open_without_rates(0, true)?;
    let opened = started.elapsed();
    drop(opening);
    // Where the rates are known, nothing runs on the GPU before the baseline, so reading and compiling need no lock.
    let device = if device.knows_rates() {
        device.with_rates()?
    } else {
        let mut measuring = timing_lock.shared_pieces_for_setup();
        measuring.begin(|| ())?;
        device.with_rates()?
    };
    let limits = device.device_limits();
    if let Some(settings) = greeting.space {
        // The judge of a space takes the lock itself.
        let options = greeting.options;
        let judge = SpaceJudge::open(&device, task, options, limits, settings)?;
        serve_points(output, judge, device.identity(), lines)?;
        end_gpu_process()
    }
    let mut screen_options = greeting.options.clone();
    let mut setup = timing_lock.shared_pieces_for_setup();
    if task.has_python_oracle() {
        // Its process may open the GPU.
        setup.begin(|| ())?;
    }
    let mut judge = Judge::open(&device, task, greeting.options.clone(), limits)?;
    let prepared = started.elapsed();
    setup.begin(|| ())?;
    let locked_again = started.elapsed();
    judge.check_baseline(greeting.baseline_is_proven)?;
    drop(setup);
    tracing::debug!(
        "started: driver {driver_started:?}, wait for the lock {:?}, device {:?}, references {:?}, baseline {:?}",
        (locked - driver_started) + (locked_again - prepared),
        opened - locked,
        prepared - opened,
        started.elapsed() - locked_again
    );
    let host = greeting
        .screen
        .then(|| CpuDevice::for_screen(device.macros()?))
        .transpose()?;
    if let Some(host) = &host {
        screen_options.profile.hidden_shapes = screen_options.profile.hidden_shapes.max(1);
        judge.set_screen(CpuScreen::new(
            host,
            task,
            screen_options,
            device.device_limits(),
        )?);
    }
    let ready = WorkerResponse::Ready(device.identity());
    output.respond(&ready).map_err(ServeError::PipeClosed)?;
    for line in lines {
        handle_request(output, &mut judge, line).map_err(ServeError::PipeClosed)?;
    }
    end_gpu_process()
}

/// Ends the process at once; all responses are already written. Closing the CUDA context takes longer, and would never end after a kernel
/// that hangs.
fn end_gpu_process() -> ! {
    // SAFETY: no preconditions.
    unsafe { libc::_exit(0) }
}

/// Measures any number of points.
fn serve_points(
    output: &Output,
    mut judge: SpaceJudge<'_>,
    identity: DeviceIdentity,
    lines: &mut RequestLines<'_>,
) -> Result<(), ServeError> {
    let ready = WorkerResponse::Ready(identity);
    output.respond(&ready).map_err(ServeError::PipeClosed)?;
    for line in lines {
        handle_point(output, &mut judge, line).map_err(ServeError::PipeClosed)?;
    }
    Ok(())
}

fn handle_point(
    output: &Output,
    judge: &mut SpaceJudge<'_>,
    line: std::io::Result<String>,
) -> anyhow::Result<()> {
    let line = line?;
    output.start_work();
    let response = match serde_json::from_str(&line).context("failed to parse a request")? {
        WorkerRequest::Point(request) => judge
            .measure(&request)
            .map(|result| WorkerResponse::Point(Box::new(result))),
        WorkerRequest::SpaceFacts => Ok(WorkerResponse::SpaceFacts(judge.facts())),
        _ => Err(wrong_request()),
    };
    output.respond(&response.unwrap_or_else(|error| failure_response(&error)))
}

/// A judge whose baseline works. What another worker has already checked of it is not checked again.
fn handle_request(
    output: &Output,
    judge: &mut Judge<'_>,
    line: std::io::Result<String>,
) -> anyhow::Result<()> {
    let line = line?;
    output.start_work();
    let request: WorkerRequest =
        serde_json::from_str(&line).context("failed to parse a request")?;
    // The start of the worker belongs to no kernel.
    judge.take_device_seconds();
    let response = match request {
        WorkerRequest::Judge {
            name,
            source,
            seed,
            coverage,
            rivals,
            opponents,
        } => {
            judge.add_opponent_times(&opponents);
            let request = JudgeRequest {
                seed,
                coverage,
                incumbents: rivals.incumbents.as_ref(),
                anchor: rivals.anchor.as_ref(),
                known_code: &rivals.known_code,
                ..JudgeRequest::new(&name, &source)
            };
            judge.judge_candidate(&request).map(|judgement| {
                WorkerResponse::Judged(Box::new(Judged {
                    judgement,
                    opponents: judge.opponent_times(),
                }))
            })
        }
        WorkerRequest::Duel {
            challenger,
            incumbent,
            purpose,
        } => judge
            .duel(&challenger, &incumbent, purpose)
            .map(|duel| WorkerResponse::Duel {
                duel,
                device_seconds: judge.take_device_seconds(),
            }),
        WorkerRequest::SelfTest => judge.self_test().map(WorkerResponse::SelfTest),
        WorkerRequest::BaselineNames { source } => judge
            .python_baseline_names(&source)
            .map(WorkerResponse::BaselineNames),
        WorkerRequest::PrepareBaseline {
            workload,
            name,
            source,
        } => judge
            .prepare_baseline(&workload, &name, &source)
            .map(WorkerResponse::Prepared),
        WorkerRequest::MeasureBaseline(request) => judge
            .measure_baseline(&request)
            .map(|result| WorkerResponse::Baseline(Box::new(result))),
        WorkerRequest::Point(_) | WorkerRequest::SpaceFacts => Err(wrong_request()),
    };
    output.respond(&response.unwrap_or_else(|error| failure_response(&error)))
}

fn wrong_request() -> anyhow::Error {
    anyhow::anyhow!("a worker got a request of another kind of worker")
}

/// The limits that a kernel's header is checked against on the CPU backend.
pub fn cpu_limits(identity: &DeviceIdentity) -> DeviceLimits {
    DeviceLimits {
        sm_count: i64::from(identity.cores.unwrap_or(1)),
        max_shared_bytes: MAX_SHARED_BYTES,
    }
}

/// Reserves standard output for the protocol. Anything else that is printed there goes to standard error.
pub(super) fn take_stdout() -> anyhow::Result<File> {
    let stdout = std::io::stdout().as_raw_fd();
    let stderr = std::io::stderr().as_raw_fd();
    // SAFETY: both descriptors stay open until the process ends; only the returned file owns the copy.
    unsafe {
        let copy = libc::fcntl(stdout, libc::F_DUPFD_CLOEXEC, 3);
        if copy < 0 || libc::dup2(stderr, stdout) < 0 {
            return Err(std::io::Error::last_os_error())
                .context("failed to redirect the worker's standard output");
        }
        Ok(File::from_raw_fd(copy))
    }
}

fn failure_response(error: &anyhow::Error) -> WorkerResponse {
    WorkerResponse::Failure(WireFailure::from_error(error))
}

/// Writes a response as one JSON line.
pub(super) fn send_line(output: &mut File, response: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    output
        .write_all(&line)
        .context("the driver has closed the pipe")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::FailureKind;

    #[test]
    fn greeting_of_another_version_is_an_environment_failure() {
        for line in [
            r#"{"version": 0}"#,
            r#"{"version": 10, "new": []}"#,
            "{}",
            "",
        ] {
            let failure = parse_greeting(line).err().unwrap();
            assert_eq!(failure.kind, FailureKind::Environment, "{line}");
            assert!(failure.message.contains("was replaced"), "{failure}");
        }
        let torn = format!(r#"{{"version": {PROTOCOL_VERSION}}}"#);
        assert!(parse_greeting(&torn).is_err());
    }
}
