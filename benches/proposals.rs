//! What a proposal by a model costs kforge itself: against a server that answers at once, with a judge that does.
//!
//!     cargo bench --bench proposals             1,000 steps
//!     cargo bench --bench proposals -- 10000    as many
//!
//! Prompts of about 100,000 tokens, replies of about 2,000 in 64 events; every durable write included. The server is a process of its
//! own. Prints, for every tenth of the steps, proposals per second and the processor time of each.

#[path = "../tests/driver/scripted.rs"]
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

/// Set for the process that only answers.
const SERVER_ENV: &str = "KFORGE_BENCH_ANSWER";

/// Questions under way at once, and kernels with the judge.
const CONCURRENCY: usize = 8;

fn main() -> Result<()> {
    if std::env::var_os(SERVER_ENV).is_some() {
        return serve_replies();
    }
    // `cargo bench` adds a flag of its own.
    let number = |word: String| word.parse().ok();
    let steps: u64 = std::env::args().skip(1).find_map(number).unwrap_or(1000);
    let (_server, url) = ReplyServer::start()?;
    // Below the folder of the build: the temporary folder may lie in memory, where a sync costs nothing.
    let program = std::env::current_exe()?;
    let folder = program.parent().context("the program lies nowhere")?;
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
    watch.show("all", watch.begun, (0, 0));
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
        }),
    })
}

/// The process that answers; ends with this.
struct ReplyServer(Child);

impl ReplyServer {
    fn start() -> Result<(Self, String)> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(SERVER_ENV, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().context("it has no output")?;
        let mut url = String::new();
        BufReader::new(out).read_line(&mut url)?;
        Ok((Self(child), url.trim().to_owned()))
    }
}

impl Drop for ReplyServer {
    fn drop(&mut self) {
        // It is gone already, or goes now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Answers until nobody is there any more.
fn serve_replies() -> Result<()> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    show(&format!("http://{}/v1", listener.local_addr()?));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                // The other side may close whenever it likes.
                while let Ok(true) = serve(&stream, &NEXT) {}
            });
        }
    });
    // Until whoever started it closes the other end.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

/// Reads a request and streams the reply. False where there is none any more.
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

/// A trace and a kernel of 7 kB that is not there yet.
fn reply_text(number: usize) -> String {
    let trace = json!({"bottleneck": "memory", "hypothesis": "fewer passes", "change": format!("variant {number}"), "expected_percent": -5, "risk": "none"});
    let mut text = format!(
        "```json\n{trace}\n```\n\n```cuda\n/* kforge\nlaunch:\n  - kernel: softmax\n    grid: ceil_div(rows, BLOCK)\n    block: BLOCK\n    args: x, output, rows, columns\ntunables:\n  BLOCK: [64, 32, 128]\n*/\n\n// Variant {number}.\n\n"
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

/// Counts proposals, and tells how long each tenth of them took.
struct ThroughputObserver {
    steps: u64,
    begun: Instant,
    proposals: u64,
    bytes: u64,
    /// When the present tenth began: the time, the proposals by then, the processor time by then.
    last: (Instant, u64, u64),
}

impl ThroughputObserver {
    fn new(steps: u64) -> Self {
        let begun = Instant::now();
        Self {
            steps,
            begun,
            proposals: 0,
            bytes: 0,
            last: (begun, 0, processor_time()),
        }
    }

    fn show(&self, name: &str, since: Instant, (proposals, processor): (u64, u64)) {
        let count = (self.proposals - proposals).max(1) as f64;
        let seconds = since.elapsed().as_secs_f64();
        show(&format!(
            "{name}: {:.1} proposals/s, {:.2} ms of processor time each",
            count / seconds,
            (processor_time() - processor) as f64 / 1000.0 / count
        ));
    }
}

impl Observer for ThroughputObserver {
    fn event(&mut self, event: &Event, _changes: &[SearchUpdate], _progress: &Progress) {
        match event {
            Event::Sent(sent) => self.bytes += sent.reserved.tokens - sent.most_output.unwrap_or(0),
            Event::Proposed(_) => {
                self.proposals += 1;
                let (since, proposals, processor) = self.last;
                if self.proposals - proposals == (self.steps / 10).max(1) {
                    let name = format!("{} to {}", proposals + 1, self.proposals);
                    self.show(&name, since, (proposals, processor));
                    self.last = (Instant::now(), self.proposals, processor_time());
                }
            }
            _ => {}
        }
    }
}

/// Of this process so far, in microseconds.
fn processor_time() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call fills the structure that it is given, which is as large as it expects; zeroes are a valid one of them.
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
