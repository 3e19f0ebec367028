//! The program from the outside: results, exit codes, and what it says to mistakes.

#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::path::Path;
use std::process::{Command, Output};

/// kforge in an empty folder of its own.
struct Workspace {
    folder: tempfile::TempDir,
}

struct CommandResult {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Workspace {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kforge"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env("NO_COLOR", "1");
        for name in [
            "KFORGE_CONFIG",
            "KFORGE_OUTPUT",
            "KFORGE_BACKEND",
            "KFORGE_LOG",
            // No test asks a model that somebody pays for.
            "ANTHROPIC_API_KEY",
            "OPENAI_API_KEY",
            "GEMINI_API_KEY",
            "OPENROUTER_API_KEY",
        ] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> CommandResult {
        CommandResult::of(&self.command(arguments).output().unwrap())
    }
}

impl CommandResult {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// A failure with this code that says all of these words, and nothing on standard output.
    fn assert_fails(&self, code: i32, words: &[&str]) {
        for word in words {
            assert!(
                self.stderr.contains(word),
                "`{word}` is missing:\n{}",
                self.stderr
            );
        }
        assert_eq!(self.code, code, "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

fn has_compiler() -> bool {
    let found = kforge::device::cpu::find_compiler().is_ok();
    if !found {
        println!("skipped: no C++ compiler");
    }
    found
}

const SOFTMAX_KERNEL: &str = "/* kforge
launch:
  - kernel: softmax
    grid: rows
    block: 1
    args: x, output, columns
*/
__global__ void softmax(const float* x, float* output, int columns) {
    const float* row = x + (size_t)blockIdx.x * columns;
    float top = row[0], sum = 0.0f;
    for (int i = 0; i < columns; ++i) top = fmaxf(top, row[i]);
    for (int i = 0; i < columns; ++i) sum += expf(row[i] - top);
    for (int i = 0; i < columns; ++i) output[(size_t)blockIdx.x * columns + i] = expf(row[i] - top) / sum;
}
";

#[test]
fn unknown_config_key_suggests_the_nearest_key() {
    let shell = Workspace::new();
    shell.write("run.yaml", "tasks: [softmax]\nstpes: 3\n");
    shell.run(&["evolve", "--config", "run.yaml"]).assert_fails(
        2,
        &["run.yaml:2:1: unknown key `stpes`", "did you mean `steps`?"],
    );
    let set = shell.run(&[
        "evolve",
        "--config",
        "gdn_decode.yaml",
        "--set",
        "search.explortion=0.5",
    ]);
    set.assert_fails(
        2,
        &[
            "unknown key `search.explortion`",
            "did you mean `exploration`?",
        ],
    );
    assert_eq!(
        std::fs::read_dir(shell.path()).unwrap().count(),
        1,
        "nothing was written"
    );
}

#[test]
fn wrong_type_shows_the_line_and_the_expected_type() {
    let shell = Workspace::new();
    shell.write("run.yaml", "tasks: [softmax]\nsteps: many\n");
    shell
        .run(&["evolve", "--config", "run.yaml"])
        .assert_fails(2, &["run.yaml:2:8: expected a whole number", "steps: many"]);
    shell.write("zero.yaml", "tasks: [softmax]\nsteps: 0\n");
    shell
        .run(&["evolve", "--config", "zero.yaml"])
        .assert_fails(2, &["`steps`: expected at least 1"]);
    shell.write(
        "feature.yaml",
        "tasks: [softmax]\nsearch: {features: {block_thread: [1]}}\n",
    );
    shell
        .run(&["evolve", "--config", "feature.yaml"])
        .assert_fails(
            2,
            &[
                "unknown feature `block_thread`",
                "did you mean `block_threads`?",
            ],
        );
}

#[test]
fn out_of_range_value_shows_its_line_only_if_it_comes_from_the_file() {
    let shell = Workspace::new();
    shell.write("run.yaml", "tasks: [softmax]\neval:\n  in_flight: 0\n");
    let evolve = ["evolve", "--config", "run.yaml"];
    shell.run(&evolve).assert_fails(
        2,
        &[
            "run.yaml:3:14: `eval.in_flight`: expected 1 to 64",
            "  in_flight: 0\n",
        ],
    );
    let set = shell.run(&[&evolve[..], &["--set", "eval.in_flight=99"]].concat());
    set.assert_fails(2, &["error: `eval.in_flight`: expected 1 to 64"]);
    shell.write("run.yaml", "tasks: [softmax]\nsteps: 0\n");
    let typed = shell.run(&[&evolve[..], &["--steps", "2", "--dry-run"]].concat());
    assert_eq!(typed.code, 0, "{}", typed.stderr);
}

#[test]
fn missing_files_and_unknown_tasks_are_usage_errors() {
    let shell = Workspace::new();
    shell
        .run(&["evolve", "--config", "gdn_decod.yaml"])
        .assert_fails(
            2,
            &[
                "no such run config: `gdn_decod.yaml`",
                "did you mean `gdn_decode.yaml`?",
            ],
        );
    shell
        .run(&["tasks", "show", "sofmax"])
        .assert_fails(2, &["unknown task `sofmax`", "did you mean `softmax`?"]);
    shell
        .run(&["eval", "softmax", "absent.cu"])
        .assert_fails(2, &["cannot read `absent.cu`: no such file", "hint:"]);
    shell
        .run(&["resume", "nowhere"])
        .assert_fails(2, &["`nowhere` is not a run"]);
    shell
        .run(&["evolve", "--config", "gdn_decode.yaml", "--set", "tasks=[]"])
        .assert_fails(2, &["no task is named"]);
    shell.run(&["evolve"]).assert_fails(2, &["--config"]);
}

#[test]
fn invalid_kernel_header_is_a_usage_error() {
    if !has_compiler() {
        return;
    }
    let shell = Workspace::new();
    shell.write("bare.cu", "__global__ void softmax() {}\n");
    shell
        .run(&["eval", "softmax", "bare.cu"])
        .assert_fails(2, &["bare.cu:1: no header", "begins with `/* kforge`"]);
    shell.write(
        "name.cu",
        &SOFTMAX_KERNEL.replace("grid: rows", "grid: rwos"),
    );
    shell.run(&["eval", "softmax", "name.cu"]).assert_fails(
        2,
        &[
            "name.cu:4: expression `rwos`: unknown name `rwos`",
            "did you mean `rows`?",
        ],
    );
}

#[test]
fn missing_compiler_is_an_environment_failure_with_a_hint() {
    let shell = Workspace::new();
    let kernel = shell.write("kernel.cu", SOFTMAX_KERNEL);
    for arguments in [
        ["eval", "softmax", kernel.as_str()].as_slice(),
        &["evolve", "--config", "gdn_decode.yaml"],
        &["doctor"],
    ] {
        let said = CommandResult::of(
            &shell
                .command(arguments)
                .env("PATH", "/nonexistent")
                .env_remove("CXX")
                .output()
                .unwrap(),
        );
        let (text, code) = (format!("{}{}", said.stdout, said.stderr), said.code);
        assert!(
            text.contains("no C++ compiler was found") && text.contains("apt install g++"),
            "{arguments:?}: {text}"
        );
        assert_eq!(code, 3, "{arguments:?}");
    }
    assert!(
        !shell.path().join("outputs").exists(),
        "no directory was begun"
    );
}

#[test]
fn full_disk_is_an_environment_failure() {
    if !has_compiler() || !Path::new("/dev/full").exists() {
        return;
    }
    let shell = Workspace::new();
    // Files of this process and its children may not grow beyond 8 KiB: what a full disk looks like to whoever writes.
    let script = format!(
        "trap '' XFSZ; ulimit -f 8; exec {} evolve --config gdn_decode.yaml --no-model --steps 2 --output out",
        env!("CARGO_BIN_EXE_kforge")
    );
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(shell.path())
        .env("KFORGE_CACHE_DIR", shell.path().join("cache"))
        .output()
        .unwrap();
    let said = CommandResult::of(&output);
    assert_eq!(said.code, 3, "{}", said.stderr);
    assert!(
        said.stderr.contains("hint:") && !said.stderr.contains("panicked"),
        "{}",
        said.stderr
    );
}

#[test]
fn verdicts_have_the_documented_fields() {
    if !has_compiler() {
        return;
    }
    let shell = Workspace::new();
    let honest = shell.write("honest.cu", SOFTMAX_KERNEL);
    let zeros = shell.write(
        "zeros.cu",
        &SOFTMAX_KERNEL.replace("expf(row[i] - top) / sum;\n", "0.0f;\n"),
    );
    let judge = || shell.run(&["eval", "softmax", &honest, &zeros, "--format", "json"]);
    let mut said = judge();
    for _ in 0..5 {
        // A busy machine may let no time be measured.
        if !said.stdout.contains("inconclusive") {
            break;
        }
        said = judge();
    }
    assert_eq!(said.code, 5, "{}", said.stderr);
    let verdicts: Vec<serde_json::Value> = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(
        (
            verdicts[0]["status"].as_str(),
            verdicts[1]["status"].as_str()
        ),
        (Some("passed"), Some("wrong_output"))
    );
    for key in [
        "schema",
        "task",
        "kernel",
        "backend",
        "status",
        "reason",
        "confirmed",
        "device",
        "sandbox",
        "tunables",
        "cache",
        "checked_share",
        "voided_blocks",
        "seeds",
        "baseline",
        "speedup",
        "workloads",
        "resources",
        "features",
        "evidence",
        "seconds",
    ] {
        assert!(
            verdicts.iter().all(|verdict| verdict.get(key).is_some()),
            "`{key}` is missing"
        );
    }
    assert!(
        verdicts[1]["speedup"].is_null(),
        "only what passed has a speedup"
    );
    let evidence = &verdicts[1]["evidence"];
    assert!(
        evidence["seed"].is_u64() && evidence["index"].is_u64() && evidence["expected"].is_f64(),
        "{evidence}"
    );
    let workload = &verdicts[0]["workloads"][0];
    assert!(
        workload["candidate_us"]["n"].as_u64().unwrap() >= 20
            && workload["ci95"][0].is_f64()
            && workload["floor_us"].is_null(),
        "{workload}"
    );
    // The same seed finds the same fault.
    let seed = evidence["seed"].as_u64().unwrap();
    let again = shell.run(&[
        "eval",
        "softmax",
        &zeros,
        "--seed",
        &verdicts[1]["seeds"][0].to_string(),
        "--format",
        "json",
    ]);
    let again: Vec<serde_json::Value> = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(
        (
            again[0]["evidence"]["seed"].as_u64(),
            &again[0]["evidence"]["found"]
        ),
        (Some(seed), &evidence["found"])
    );
}

/// The workers of a process that are still there.
fn worker_processes(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |process: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"));
        status.is_ok_and(|text| {
            let has = |line: &str| text.lines().any(|found| found == line);
            has(&format!("PPid:\t{parent}")) && !text.contains("State:\tZ")
        })
    };
    // It also runs compilers.
    let is_worker = |process: &u32| {
        let arguments = std::fs::read_to_string(format!("/proc/{process}/cmdline"));
        arguments.is_ok_and(|text| text.contains("__worker"))
    };
    numbers.filter(is_child).filter(is_worker).collect()
}

/// Verdicts by kernel and status.
fn statuses(said: &CommandResult) -> Vec<(String, String)> {
    let verdicts: Vec<serde_json::Value> = serde_json::from_str(&said.stdout).unwrap();
    let word = |verdict: &serde_json::Value, key: &str| verdict[key].as_str().unwrap().to_owned();
    let pairs = verdicts.iter();
    pairs
        .map(|verdict| (word(verdict, "kernel"), word(verdict, "status")))
        .collect()
}

#[test]
fn harness_error_of_one_kernel_keeps_the_verdicts_of_the_others() {
    if !has_compiler() {
        return;
    }
    let shell = Workspace::new();
    shell.write("first.cu", SOFTMAX_KERNEL);
    shell.write(
        "second.cu",
        &SOFTMAX_KERNEL.replace("(row[i] - top) / sum", "(row[i] - top)"),
    );
    let arguments = [
        "eval",
        "softmax",
        "first.cu",
        "second.cu",
        "--backend",
        "cpu",
    ];
    let child = shell
        .command(&[&arguments[..], &["--format", "json"]].concat())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Both workers that are asked for the first kernel go before they can answer.
    let mut killed = Vec::new();
    let begun = std::time::Instant::now();
    while killed.len() < 2 {
        assert!(begun.elapsed().as_secs() < 120, "no worker was started");
        let is_new = |process: &u32| !killed.contains(process);
        if let Some(worker) = worker_processes(child.id()).into_iter().find(is_new) {
            // SAFETY: its parent has not been told of its end, so that the number is still its own.
            unsafe { libc::kill(worker as i32, libc::SIGKILL) };
            killed.push(worker);
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let said = CommandResult::of(&child.wait_with_output().unwrap());
    said.assert_fails(1, &["`first.cu` was not judged: a worker ended"]);
    let told = statuses(&said);
    assert_eq!(told[0], ("first.cu".to_owned(), "harness_error".to_owned()));
    assert_eq!(told[1], ("second.cu".to_owned(), "wrong_output".to_owned()));
}

#[test]
fn interrupted_eval_prints_finished_verdicts() {
    if !has_compiler() {
        return;
    }
    let shell = Workspace::new();
    let wrong = SOFTMAX_KERNEL.replace("(row[i] - top) / sum", "(row[i] - top)");
    shell.write("wrong.cu", &wrong);
    let stuck = "    for (volatile int i = 0; row[0] == row[0]; i = 0) {}\n    float top";
    shell.write("stuck.cu", &SOFTMAX_KERNEL.replace("    float top", stuck));
    let cache = shell.path().join("cache");
    let start = |kernels: &[&str]| {
        let arguments = ["eval", "softmax", "--backend", "cpu", "--format", "json"];
        shell
            .command(&[&arguments[..], &["--launch-seconds", "600"], kernels].concat())
            .env("KFORGE_CACHE_DIR", &cache)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let programs = || {
        let entries = std::fs::read_dir(cache.join("programs")).unwrap();
        entries.count()
    };
    let alone = start(&["wrong.cu"]).wait_with_output().unwrap();
    assert_eq!(CommandResult::of(&alone).code, 5);
    let before = programs();
    let child = start(&["wrong.cu", "stuck.cu"]);
    let begun = std::time::Instant::now();
    // Once the second one is compiled, the first one is judged.
    while programs() == before {
        assert!(begun.elapsed().as_secs() < 120, "nothing was compiled");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // SAFETY: the child has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let said = CommandResult::of(&child.wait_with_output().unwrap());
    assert_eq!(said.code, 130, "{}", said.stderr);
    let known = ("wrong.cu".to_owned(), "wrong_output".to_owned());
    assert_eq!(statuses(&said), [known]);
}

#[test]
fn dry_run_shows_choices_and_writes_nothing() {
    let shell = Workspace::new();
    let said = shell.run(&[
        "evolve",
        "--config",
        "gdn_decode.yaml",
        "--dry-run",
        "--set",
        "steps=7",
        "--seed",
        "3",
        "--set",
        "search.exploration=0.45",
    ]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    for words in [
        "7 steps",
        "seed 3",
        "b1, b4",
        "naive.cu",
        "exploration: 0.45",
        "own operators",
    ] {
        assert!(
            said.stdout.contains(words),
            "`{words}` is missing:\n{}",
            said.stdout
        );
    }
    assert_eq!(std::fs::read_dir(shell.path()).unwrap().count(), 0);
}

#[test]
fn run_is_locked_can_be_interrupted_and_resumed() {
    if !has_compiler() {
        return;
    }
    let shell = Workspace::new();
    let arguments = [
        "evolve",
        "--config",
        "gdn_decode.yaml",
        "--set",
        "tasks=[softmax]",
        "--output",
        "out",
        "--seed",
        "5",
        "--steps",
        "40",
    ];
    let child = shell
        .command(&arguments)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let journal = shell.path().join("out/softmax/events.jsonl");
    let begun = std::time::Instant::now();
    while !std::fs::read_to_string(&journal).is_ok_and(|text| text.contains("\"judged\"")) {
        assert!(
            begun.elapsed().as_secs() < 120,
            "no verdict within two minutes"
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    shell.run(&["resume", "out"]).assert_fails(2, &["out"]);
    // SAFETY: the child has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let said = CommandResult::of(&child.wait_with_output().unwrap());
    said.assert_fails(130, &["kforge resume out"]);
    let judged = || {
        std::fs::read_to_string(&journal)
            .unwrap()
            .matches("\"event\":\"judged\"")
            .count()
    };
    let before = judged();
    let said = shell.run(&["resume", "out", "--steps", "6", "--format", "json"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let summary: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert!(
        summary["tasks"][0]["best"]["speedup"]["geomean"].is_f64(),
        "{summary}"
    );
    assert!(judged() >= before);
    assert!(shell.path().join("out/softmax/best.cu").is_file());
    // The steps are made by now, and what was confirmed is not confirmed once more.
    let said = shell.run(&["resume", "out", "--steps", "6", "--counters"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    for words in [
        "nothing was left to do",
        "kforge eval softmax out/softmax/best.cu --counters",
    ] {
        assert!(said.stderr.contains(words), "{}", said.stderr);
    }
    shell
        .run(&["resume", "out", "--set", "search.exploration=0.9"])
        .assert_fails(2, &["exploration", "--accept-changes"]);
}

#[test]
fn workers_exit_when_the_driver_is_killed() {
    if !has_compiler() {
        return;
    }
    let shell = Workspace::new();
    let arguments = [
        "evolve",
        "--config",
        "gdn_decode.yaml",
        "--backend",
        "cpu",
        "--output",
        "out",
        "--steps",
        "40",
        "--set",
        "eval.seconds=30",
    ];
    let mut child = shell
        .command(&arguments)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let journal = shell.path().join("out/gdn_decode/events.jsonl");
    let begun = std::time::Instant::now();
    while !std::fs::read_to_string(&journal).is_ok_and(|text| text.contains("\"proposed\"")) {
        assert!(begun.elapsed().as_secs() < 120, "nothing was proposed");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let workers = worker_processes(child.id());
    assert!(!workers.is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = std::time::Instant::now();
    let is_there = |process: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"));
        status.is_ok_and(|text| !text.contains("State:\tZ"))
    };
    while workers.iter().any(is_there) {
        assert!(killed.elapsed().as_secs() < 5, "a worker goes on");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn missing_gpu_is_an_environment_failure_with_a_hint() {
    let has_gpu = kforge::device::cuda::list_gpus().is_ok_and(|cards| !cards.is_empty());
    if has_gpu {
        println!("skipped: there is a GPU");
        return;
    }
    let shell = Workspace::new();
    let kernel = shell.write("kernel.cu", SOFTMAX_KERNEL);
    let evolve = ["evolve", "--config", "gdn_decode.yaml", "--dry-run"];
    for all in [
        [evolve.as_slice(), &["--backend", "cuda"]].concat(),
        [evolve.as_slice(), &["--set", "backend=cuda"]].concat(),
        vec!["eval", "softmax", &kernel, "--backend", "cuda"],
    ] {
        let said = shell.run(&all);
        said.assert_fails(3, &["hint:"]);
        let remedies = [
            (
                "no CUDA driver",
                "install the GPU's driver, or use `--backend cpu`",
            ),
            ("no GPU was found", "`kforge doctor`"),
            ("failed to list the GPUs", "nvidia-smi"),
            ("NVRTC", "pip install nvidia-cuda-nvrtc"),
        ];
        let told = |(what, remedy): &(&str, &str)| {
            said.stderr.contains(what) && said.stderr.contains(remedy)
        };
        assert!(remedies.iter().any(told), "{}", said.stderr);
    }
    // What is not asked for in words is decided, and told.
    let said = shell.run(&evolve);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stdout.contains("backend: cpu"), "{}", said.stdout);
}

#[test]
fn empty_cuda_visible_devices_hides_all_gpus() {
    let shell = Workspace::new();
    let all = [
        "evolve",
        "--config",
        "gdn_decode.yaml",
        "--dry-run",
        "--backend",
    ];
    let run = |backend| {
        let mut command = shell.command(&[all.as_slice(), &[backend]].concat());
        CommandResult::of(&command.env("CUDA_VISIBLE_DEVICES", "").output().unwrap())
    };
    run("cuda").assert_fails(3, &["hint:"]);
    let said = run("auto");
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stdout.contains("backend: cpu"), "{}", said.stdout);
}

#[test]
fn gpu_settings_are_checked_without_a_gpu() {
    let shell = Workspace::new();
    let dry_run = |set: &str| {
        shell.run(&[
            "evolve",
            "--config",
            "gdn_decode.yaml",
            "--backend",
            "cpu",
            "--dry-run",
            "--set",
            set,
        ])
    };
    for (set, told) in [
        ("eval.devices=[0,1]", "devices:"),
        ("eval.devices=all", "devices: all"),
        ("eval.cache=hot", "cache: hot"),
        ("eval.screen=cpu", "screen: cpu"),
        ("eval.in_flight=7", "in_flight: 7"),
    ] {
        let said = dry_run(set);
        assert_eq!(said.code, 0, "{set}: {}", said.stderr);
        assert!(said.stdout.contains(told), "{set}: {}", said.stdout);
    }
    for (set, words) in [
        (
            "eval.devices=some",
            vec!["eval.devices", "`all` or a list of indices and names"],
        ),
        ("eval.devices=[-1]", vec!["eval.devices"]),
        ("eval.devices=3", vec!["eval.devices"]),
        ("eval.cache=warm", vec!["eval.cache", "`cold`", "`hot`"]),
        (
            "eval.screen=gpu",
            vec!["eval.screen", "unknown value `gpu`"],
        ),
        (
            "eval.in_flight=0",
            vec!["`eval.in_flight`: expected 1 to 64"],
        ),
        (
            "eval.device=0",
            vec!["unknown key `eval.device`", "did you mean `devices`?"],
        ),
    ] {
        dry_run(set).assert_fails(2, &words);
    }
}

#[test]
fn unknown_model_provider_is_a_usage_error() {
    let shell = Workspace::new();
    shell.write(
        "models.yaml",
        "tasks: [softmax]\nllm: {models: [mailbox, antropic/claude]}\n",
    );
    shell
        .run(&["evolve", "--config", "models.yaml"])
        .assert_fails(
            2,
            &[
                "models.yaml:2:",
                "`antropic/claude` names no provider of models",
                "did you mean `anthropic`?",
            ],
        );
}

#[test]
fn flag_overrides_environment_and_environment_overrides_file() {
    let shell = Workspace::new();
    shell.write(
        "run.yaml",
        "tasks: [softmax]\nsteps: 5\noutput: from-file\n",
    );
    let directory = |environment: Option<&str>, arguments: &[&str]| {
        let all = [
            &[
                "evolve",
                "--config",
                "run.yaml",
                "--dry-run",
                "--format",
                "json",
            ],
            arguments,
        ]
        .concat();
        let mut command = shell.command(&all);
        if let Some(value) = environment {
            command.env("KFORGE_OUTPUT", value);
        }
        let said = CommandResult::of(&command.output().unwrap());
        assert_eq!(said.code, 0, "{}", said.stderr);
        let facts: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        (
            facts["directory"].as_str().unwrap().to_owned(),
            facts["config"]["steps"].as_u64().unwrap(),
        )
    };
    assert_eq!(directory(None, &[]), ("from-file".to_owned(), 5));
    assert_eq!(directory(Some("from-env"), &[]).0, "from-env");
    assert_eq!(
        directory(Some("from-env"), &["--output", "from-flag"]).0,
        "from-flag"
    );
    assert_eq!(
        directory(
            Some("from-env"),
            &["--set", "output=from-set", "--steps", "7"]
        ),
        ("from-set".to_owned(), 7)
    );
    // The environment does not stand in the way of another command.
    let mut resume = shell.command(&["evolve", "--resume", "nowhere"]);
    let said = CommandResult::of(
        &resume
            .env("KFORGE_OUTPUT", "x")
            .env("KFORGE_CONFIG", "y")
            .output()
            .unwrap(),
    );
    said.assert_fails(2, &["`nowhere` is not a run"]);
}

#[test]
fn task_list_errors_name_the_line() {
    let shell = Workspace::new();
    let run = |list: &str| {
        shell.write("list.txt", list);
        shell.run(&[
            "evolve",
            "--config",
            "all.yaml",
            "--dry-run",
            "--set",
            "tasks=[list.txt]",
        ])
    };
    let said = run("# two\nsoftmax   # the first\n\nrmsnorm\n");
    assert!(
        said.code == 0 && said.stdout.contains("softmax, rmsnorm: "),
        "{}",
        said.stderr
    );
    run("softmax\nrmsnrom\n").assert_fails(2, &["list.txt:2: unknown task `rmsnrom`", "`rmsnorm`"]);
    run("softmax\nsoftmax\n").assert_fails(2, &["list.txt:2: the task `softmax` is named twice"]);
    run("# nothing\n").assert_fails(2, &["no task is named"]);
    let said = shell.run(&["evolve", "--config", "all.yaml", "--dry-run"]);
    assert!(
        said.stdout
            .contains("gdn_decode, gdn_prefill, gelu, matmul, rmsnorm, softmax: "),
        "{}",
        said.stderr
    );
}

#[test]
fn tasks_list_and_show_print_text_and_json() {
    let shell = Workspace::new();
    let said = shell.run(&["tasks", "list"]);
    assert!(
        said.code == 0 && said.stdout.contains("gdn_decode_qk4_v8_d128_k_last"),
        "{}",
        said.stderr
    );
    let said = shell.run(&["tasks", "show", "gdn_decode", "--format", "json"]);
    let facts: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(facts["workloads"].as_array().unwrap().len(), 7);
    assert_eq!(facts["inputs"]["q"]["dtype"], "bfloat16");
    assert!(
        facts["outputs"]["output"]["tolerance"]["rtol"].is_f64(),
        "{facts}"
    );
}

#[test]
fn unwritable_stdout_fails_and_closed_pipe_succeeds() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let shell = Workspace::new();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let said = CommandResult::of(
        &shell
            .command(&["tasks", "list"])
            .stdout(full)
            .output()
            .unwrap(),
    );
    said.assert_fails(3, &["failed to print the results", "hint:"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let said = CommandResult::of(
        &shell
            .command(&["tasks", "list"])
            .stdout(writer)
            .output()
            .unwrap(),
    );
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
}

#[test]
fn help_matches_the_snapshots() {
    let shell = Workspace::new();
    for command in [
        "", "evolve", "tune", "resume", "eval", "promote", "prompt", "tasks", "doctor",
    ] {
        let arguments: Vec<_> = [command, "--help"]
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect();
        let said = CommandResult::of(
            &shell
                .command(&arguments)
                .env("COLUMNS", "100")
                .output()
                .unwrap(),
        );
        assert_eq!(said.code, 0, "{}", said.stderr);
        insta::assert_snapshot!(
            format!("help {command}").trim().replace(' ', "_"),
            said.stdout
        );
    }
}

#[test]
fn help_lists_commands_and_exit_codes() {
    let said = Workspace::new().run(&["--help"]);
    assert_eq!(said.code, 0);
    for words in [
        "evolve", "tune", "resume", "eval", "promote", "tasks", "doctor", "130",
    ] {
        assert!(said.stdout.contains(words), "{}", said.stdout);
    }
    for command in [
        "evolve", "tune", "resume", "eval", "promote", "prompt", "tasks", "doctor",
    ] {
        let said = Workspace::new().run(&[command, "--help"]);
        assert!(said.code == 0 && !said.stdout.is_empty());
    }
}
