//! Measures what a proposal costs kforge itself: by `mutate`, and by a model whose provider replies at once, with a judge that does too.
//!
//!     cargo bench --bench proposals               1,000 steps with a model, then `mutate` on every shipped kernel
//!     cargo bench --bench proposals -- 10000      10,000 steps
//!     cargo bench --bench proposals -- mutate     only `mutate`
//!
//! Prompts have about 100,000 tokens, replies about 2,000 in 64 events. All durable writes are included. The provider is a
//! separate process. Prints the proposals per second and the processor time of each, for every tenth of the steps.

#[path = "proposals/mutations.rs"]
mod mutations;
#[path = "../tests/suite/driver/scripted.rs"]
#[expect(dead_code, reason = "the driver's tests use more of it")]
mod scripted;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kforge::driver::{self, ModelOptions, Operators, PromptDevice, TemplateBackend};
use kforge::event::Event;
use kforge::llm::{BudgetLimits, Client, LlmSettings};
use kforge::propose::prompt::Templates;
use kforge::report::{Observer, Progress};
use kforge::search::SearchUpdate;
use kforge::verdict::DeviceIdentity;
use serde_json::json;

/// Environment variable that turns the process into the provider.
const SERVER_ENV: &str = "KFORGE_BENCH_ANSWER";

/// Requests in flight, and kernels that are judged at once.
const CONCURRENCY: usize = 8;

fn main() -> Result<()> {
    if std::env::var_os(SERVER_ENV).is_some() {
        return serve_replies();
    }
    if !std::env::args().any(|argument| argument == "mutate") {
        measure_models()?;
    }
    mutations::measure(&show)
}

/// Runs a search whose proposals come from a model.
fn measure_models() -> Result<()> {
    // `cargo bench` adds a flag of its own, which is skipped.
    let number = |argument: String| argument.parse().ok();
    let steps: u64 = std::env::args().skip(1).find_map(number).unwrap_or(1000);
    let (_server, url) = ReplyServer::start()?;
    // Inside the build folder: the folder for temporary files may be in memory, where a sync costs nothing.
    let program = std::env::current_exe()?;
    let folder = program
        .parent()
        .context("the program has no parent folder")?;
    let root = tempfile::tempdir_in(folder)?;
    let mut options = scripted::options(&root.path().join("run"), &["softmax"], steps);
    options.in_flight = CONCURRENCY;
    options.record.window = 4 * CONCURRENCY as u64;
    options.search.context = 64;
    let only_models = json!({"autotune": 0, "mutate": 0, "recombine": 0});
    options.search.operators = serde_json::from_value(only_models)?;
    options.models = Some(models(&url)?);
    let judges = scripted::judges(Duration::ZERO);
    let mut watch = ThroughputObserver::new(steps);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        let proposer = Arc::new(Operators::new(None)?);
        driver::run(
            options,
            proposer,
            &judges,
            &mut watch,
            driver::never_interrupted(),
        )
        .await
    })?;
    let progress = &ended.tasks.first().context("no task was run")?.progress;
    ensure!(progress.steps == steps, "{} steps", progress.steps);
    watch.show("all", &watch.start);
    show(&format!(
        "prompts of {} kB on average, replies of {} kB",
        watch.bytes / watch.proposals.max(1) / 1000,
        reply_text(0).len() / 1000
    ));
    Ok(())
}

fn models(url: &str) -> Result<ModelOptions> {
    let typed: LlmSettings = serde_json::from_value(json!({
        "models": [{"name": "local", "provider": "openai", "model": "m", "base_url": url, "context_tokens": 200_000}],
        "concurrency": CONCURRENCY,
    }))?;
    let (settings, _) = typed.resolved()?;
    let templates = Arc::new(Templates::embedded()?);
    Ok(ModelOptions {
        prompts_version: templates.version().to_owned(),
        limits: BudgetLimits::default(),
        concurrency: CONCURRENCY,
        backend: Arc::new(TemplateBackend {
            client: Arc::new(Client::open(&settings)?),
            templates,
            device: PromptDevice::new(DeviceIdentity::default()),
            backend: "cpu".to_owned(),
            profile: "quick".to_owned(),
            max_edits: settings.max_edits,
            context_share: settings.context_share,
            to_beat: Default::default(),
            lessons: Default::default(),
        }),
    })
}

/// The provider process. Dropping this ends it.
struct ReplyServer(Child);

impl ReplyServer {
    fn start() -> Result<(Self, String)> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(SERVER_ENV, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().context("the provider has no output")?;
        let mut url = String::new();
        BufReader::new(out).read_line(&mut url)?;
        Ok((Self(child), url.trim().to_owned()))
    }
}

impl Drop for ReplyServer {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the provider until its standard input is closed.
fn serve_replies() -> Result<()> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    show(&format!("http://{}/v1", listener.local_addr()?));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                // An error means that the client closed the connection.
                while let Ok(true) = serve(&stream, &NEXT) {}
            });
        }
    });
    // Ends when the bench does.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

/// Reads a request and streams the reply. False at the end of the connection.
fn serve(mut stream: &TcpStream, next: &AtomicUsize) -> std::io::Result<bool> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(false);
        }
        if line == "\r\n" {
            break;
        }
        let line = line.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
    stream.write_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    )?;
    let event = |value: serde_json::Value| format!("data: {value}\n\n");
    let text = reply_text(next.fetch_add(1, Ordering::Relaxed));
    let pieces = text.as_bytes().chunks(text.len().div_ceil(61));
    let mut events: Vec<String> = pieces
        .map(|piece| {
            let text = String::from_utf8_lossy(piece);
            event(json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}))
        })
        .collect();
    events.push(event(
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
    ));
    events.push(event(
        json!({"choices": [], "usage": {"prompt_tokens": 100_000, "completion_tokens": 2000}}),
    ));
    events.push("data: [DONE]\n\n".to_owned());
    for event in events {
        stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())?;
    }
    stream.write_all(b"0\r\n\r\n")?;
    Ok(true)
}

/// A trace and a kernel of 7 kB that differs from all others.
fn reply_text(number: usize) -> String {
    let trace = json!({"bottleneck": "memory", "hypothesis": "fewer passes", "change": format!("variant {number}"), "expected_percent": -5, "risk": "none"});
    let mut text = format!(
        "```json\n{trace}\n```\n\n```cuda\n/* kforge\nlaunch:\n  - kernel: softmax\n    grid: ceil_div(rows, BLOCK)\n    block: BLOCK\n    args: x, output, rows, columns\ntunables:\n  BLOCK: [64, 32, 128]\n*/\n\nconstexpr int variant = {number};\n\n"
    );
    for part in 0..28 {
        text += &format!(
            "__device__ __forceinline__ float part_{part}(const float* in, int columns, float largest) {{\n    float sum = 0.0f;\n    for (int i = {part}; i < columns; i += 28) {{\n        sum += expf(in[i] - largest);\n    }}\n    return sum;\n}}\n\n"
        );
    }
    text += "__global__ void softmax(const float* x, float* output, int rows, int columns) {\n    const int row = blockIdx.x * BLOCK + threadIdx.x;\n    if (row >= rows) return;\n    const float* in = x + row * columns;\n    float largest = in[0];\n    for (int i = 1; i < columns; ++i) largest = fmaxf(largest, in[i]);\n    float sum = 0.0f;\n";
    for part in 0..28 {
        text += &format!("    sum += part_{part}(in, columns, largest);\n");
    }
    text + "    for (int i = 0; i < columns; ++i) output[row * columns + i] = expf(in[i] - largest) / sum;\n}\n```\n"
}

/// Counts proposals, and prints the throughput of each tenth of the steps.
struct ThroughputObserver {
    steps: u64,
    proposals: u64,
    /// Estimated size of all prompts.
    bytes: u64,
    start: Progressed,
    /// At the start of the current tenth.
    last: Progressed,
}

/// How far the run was at some time.
#[derive(Clone)]
struct Progressed {
    time: Instant,
    proposals: u64,
    /// In microseconds.
    processor: u64,
}

impl ThroughputObserver {
    fn new(steps: u64) -> Self {
        let start = Progressed {
            time: Instant::now(),
            proposals: 0,
            processor: processor_time(),
        };
        Self {
            steps,
            proposals: 0,
            bytes: 0,
            last: start.clone(),
            start,
        }
    }

    fn show(&self, name: &str, since: &Progressed) {
        let count = (self.proposals - since.proposals).max(1) as f64;
        let seconds = since.time.elapsed().as_secs_f64();
        show(&format!(
            "{name}: {:.1} proposals/s, {:.2} ms of processor time each",
            count / seconds,
            (processor_time() - since.processor) as f64 / 1000.0 / count
        ));
    }
}

impl Observer for ThroughputObserver {
    fn event(&mut self, event: &Event, _changes: &[SearchUpdate], _progress: &Progress) {
        match event {
            Event::Sent(sent) => self.bytes += sent.reserved.tokens - sent.most_output.unwrap_or(0),
            Event::Proposed(_) => {
                self.proposals += 1;
                let before = self.last.proposals;
                if self.proposals - before == (self.steps / 10).max(1) {
                    self.show(&format!("{} to {}", before + 1, self.proposals), &self.last);
                    self.last = Progressed {
                        time: Instant::now(),
                        proposals: self.proposals,
                        processor: processor_time(),
                    };
                }
            }
            _ => {}
        }
    }
}

/// Processor time of this process so far, in microseconds.
fn processor_time() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call fills the structure that it is given, which has the size that it expects; all zeroes are a valid value.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    micros(usage.ru_utime) + micros(usage.ru_stime)
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its results")]
fn show(line: &str) {
    println!("{line}");
}
