//! Kernels that are judged against incumbents: losers are dismissed early, and nothing wrong passes.

use kforge::device::cpu::CpuDevice;
use kforge::device::{Cache, Device};
use kforge::eval::{Judge, JudgeOptions};
use kforge::kernel::DeviceLimits;
use kforge::search::{Anchor, AnchorWorkload, Incumbents};
use kforge::task::{Task, TaskFiles};
use kforge::verdict::{Status, Timing, Verdict, WorkloadVerdict};
use serde_json::Value;

use crate::program::{Workspace, fixture, root};

/// What the inspection on the CPU is called in `not_done`.
const BUILDS: &str = "bounds and race builds";

/// Timing that a busy machine can finish: a wide interval will do.
const PRECISION: f64 = 0.5;
const SECONDS: f64 = 3.0;

struct Setting {
    device: CpuDevice,
    task: Task,
}

impl Setting {
    fn new() -> Self {
        let folder = root().join("tasks/softmax");
        let files = TaskFiles::find(folder.to_str().unwrap()).unwrap();
        let mut task = files.load().unwrap();
        // Hidden shapes are enough here, and quicker.
        if let Some(regimes) = &mut task.settings.regimes {
            regimes.clear();
        }
        Self {
            device: CpuDevice::new().unwrap(),
            task,
        }
    }

    fn judge(&self) -> Judge<'_> {
        let mut profile = self.task.settings.profiles["quick"].clone();
        profile.precision = PRECISION;
        profile.seconds = SECONDS;
        let options = JudgeOptions {
            profile,
            launch_seconds: 10.0,
            thorough: false,
            cache: Cache::Cold,
        };
        let limits = DeviceLimits {
            sm_count: i64::from(self.device.identity().cores.unwrap_or(1)),
            max_shared_bytes: 232_448,
        };
        Judge::new(&self.device, &self.task, options, limits).unwrap()
    }
}

/// Incumbents of a single kind, with this bar.
fn incumbents(bar: f64) -> Incumbents {
    let text = format!(r#"{{"axes": [], "by_bins": [[[], {bar}]], "best": {bar}}}"#);
    let incumbents: Incumbents = serde_json::from_str(&text).unwrap();
    assert_eq!(incumbents.bar(&[].into()), Some(bar));
    incumbents
}

/// The naive kernel, which does its work many times.
fn slow_kernel(last_line: &str) -> String {
    repeated_kernel(24, last_line)
}

fn repeated_kernel(repeats: u32, last_line: &str) -> String {
    let text = std::fs::read_to_string(root().join("kernels/softmax/naive.cu")).unwrap();
    let (start, body) = text.split_once("    float largest").unwrap();
    let body = body.trim_end().strip_suffix('}').unwrap();
    format!(
        "{start}    volatile int repeats = {repeats};\n    for (int again = 0; again < repeats; again++) {{\n    float largest{body}    }}\n{last_line}}}\n"
    )
}

fn check_is_dismissed(verdict: &Verdict, bar: f64) {
    assert_eq!(verdict.status, Status::Passed, "{verdict:#?}");
    assert_eq!(verdict.timing, Some(Timing::Dismissed), "{verdict:#?}");
    let dismissal = verdict.dismissal.unwrap();
    assert_eq!((dismissal.bar, dismissal.looks), (bar, 5));
    assert!((1..=5).contains(&dismissal.look));
    let [low, high] = verdict.speedup.unwrap().ci95;
    assert!(0.0 < low && low < high && high < bar, "{verdict:#?}");
    assert!(verdict.not_done.contains(&BUILDS.to_owned()));
    assert!(verdict.not_done.contains(&"full timing".to_owned()));
    assert!(!verdict.builds.contains(&"race".to_owned()));
    assert!(!verdict.features.contains_key("coalescing"));
}

/// Whether the intervals of both speedups overlap.
fn have_common_values(one: &Verdict, other: &Verdict) -> bool {
    let [one, other] = [one, other].map(|verdict| verdict.speedup.as_ref().unwrap().ci95);
    one[0] <= other[1] && other[0] <= one[1]
}

#[test]
fn slow_kernel_is_dismissed_with_an_interval_that_is_right() {
    let setting = Setting::new();
    let mut judge = setting.judge();
    let slow = slow_kernel("");
    let (mut dismissed, mut full) = (Vec::new(), Vec::new());
    // The load of the machine may change between two judgements, and the ratio with it. A wrong interval is apart each time.
    for _ in 0..3 {
        let raced = judge.judge_racing("slow", &slow, &incumbents(0.9)).unwrap();
        if raced.timing != Some(Timing::Dismissed) {
            // A machine that is busy enough hides even this: the kernel is timed in full, or no interval is narrow enough.
            let statuses = [Status::Inconclusive, Status::Passed];
            assert!(statuses.contains(&raced.status), "{raced:#?}");
            continue;
        }
        check_slow_kernel_is_dismissed(&raced);
        dismissed.push(raced);
        let verdict = judge.judge("slow", &slow, None).unwrap();
        if verdict.status == Status::Inconclusive {
            // The machine is too busy.
            return;
        }
        assert_eq!(verdict.timing, Some(Timing::Full), "{verdict:#?}");
        assert!(verdict.not_done.is_empty() && verdict.dismissal.is_none());
        full.push(verdict);
        let agrees = |one| full.iter().any(|full| have_common_values(one, full));
        if dismissed.iter().any(agrees) {
            return;
        }
    }
    assert!(dismissed.is_empty(), "{dismissed:#?} {full:#?}");
}

fn check_slow_kernel_is_dismissed(dismissed: &Verdict) {
    check_is_dismissed(dismissed, 0.9);
    if dismissed.dismissal.unwrap().look == 1 {
        let hidden = |text: &String| text.ends_with(" hidden cases");
        assert!(dismissed.not_done.iter().any(hidden), "{dismissed:#?}");
        let cases = dismissed.workloads.iter();
        assert!(cases.filter(|case| case.hidden).count() <= 1);
    }
    assert!(dismissed.checked_share.unwrap() > 0.99);
}

#[test]
fn slow_kernel_that_is_wrong_is_reported_as_wrong() {
    let setting = Setting::new();
    let wrong = slow_kernel("    output[row * columns] += 0.5f;\n");
    let verdict = setting
        .judge()
        .judge_racing("wrong", &wrong, &incumbents(0.9))
        .unwrap();
    assert_eq!(verdict.status, Status::WrongOutput, "{verdict:#?}");
    assert!(verdict.speedup.is_none() && verdict.timing.is_none());
}

#[test]
fn kernel_that_reaches_the_bar_is_judged_completely() {
    let setting = Setting::new();
    let mut judge = setting.judge();
    let honest = std::fs::read_to_string(root().join("kernels/softmax/rows.cu")).unwrap();
    let verdict = judge
        .judge_racing("honest", &honest, &incumbents(0.02))
        .unwrap();
    if verdict.status != Status::Inconclusive {
        assert_eq!(verdict.status, Status::Passed, "{verdict:#?}");
        assert!(verdict.not_done.is_empty() && verdict.dismissal.is_none());
        assert!(verdict.features.contains_key("coalescing"));
    }
    assert_eq!(verdict.timing, Some(Timing::Full), "{verdict:#?}");
    assert_eq!(verdict.builds, ["fast", "bounds", "race"]);
    // All rounds and all hidden cases.
    let complete = judge
        .judge("honest", &honest, Some(verdict.seeds[0]))
        .unwrap();
    let cases = |verdict: &Verdict| -> Vec<_> {
        let cases = verdict.workloads.iter();
        cases
            .map(|case| (case.id.clone(), case.tolerance_margin))
            .collect()
    };
    assert_eq!(cases(&verdict), cases(&complete));
}

#[test]
fn race_is_found_before_a_fast_kernel_passes() {
    let setting = Setting::new();
    let racy = std::fs::read_to_string(fixture("kernels/race_output.cu")).unwrap();
    let verdict = setting
        .judge()
        .judge_racing("racy", &racy, &incumbents(0.02))
        .unwrap();
    assert_eq!(verdict.status, Status::Race, "{verdict:#?}");
    assert!(verdict.speedup.is_none() && verdict.not_done.is_empty());
}

/// How often the slow baseline of the following tests does its work.
const REPEATS: u32 = 24;
/// The least speedup of the fast kernel on any machine that is not too busy.
const LEAST_SPEEDUP: f64 = 3.1;

/// A task whose baseline does its work many times, and a fast kernel that was timed against it in full.
struct AnchoredSetting {
    setting: Setting,
    naive: String,
    rows: String,
}

impl AnchoredSetting {
    fn new() -> Self {
        let mut setting = Setting::new();
        let task = &mut setting.task;
        let file = task.baseline().0.to_owned();
        task.kernels.insert(file, repeated_kernel(REPEATS, ""));
        if let Some(profile) = task.settings.profiles.get_mut("quick") {
            profile.workloads = serde_json::from_str(r#"["r64c257"]"#).unwrap();
            profile.hidden_shapes = 0;
            profile.rounds = 1;
        }
        let shipped = |name: &str| {
            std::fs::read_to_string(root().join("kernels/softmax").join(name)).unwrap()
        };
        Self {
            setting,
            naive: shipped("naive.cu"),
            rows: shipped("rows.cu"),
        }
    }

    /// `None` if the machine is too busy.
    fn anchor(&self, judge: &mut Judge<'_>) -> Option<Anchor> {
        let verdict = judge.judge("rows", &self.rows, None).unwrap();
        let speedup = verdict.speedup?;
        if speedup.geomean < LEAST_SPEEDUP {
            return None;
        }
        let timed = verdict.workloads.iter().filter(|case| !case.hidden);
        let workload = |case: &WorkloadVerdict| AnchorWorkload {
            id: case.id.clone(),
            speedup: case.speedup.unwrap(),
            ci95: case.ci95.unwrap(),
            baseline_us: case.baseline_us.unwrap(),
        };
        Some(Anchor {
            step: 2,
            kernel: "rows.cu".to_owned(),
            source: self.rows.clone(),
            speedup: speedup.geomean,
            workloads: timed.map(workload).collect(),
        })
    }
}

/// The width of an interval, of the logarithm.
fn width([low, high]: [f64; 2]) -> f64 {
    (high / low).ln()
}

#[test]
fn candidate_that_is_timed_against_an_anchor_gets_its_speedup_over_the_baseline() {
    let anchored = AnchoredSetting::new();
    let mut judge = anchored.setting.judge();
    let Some(anchor) = anchored.anchor(&mut judge) else {
        return;
    };
    let bar = incumbents(0.5);
    let verdict = judge
        .judge_against_anchor("naive", &anchored.naive, &bar, &anchor)
        .unwrap();
    let against = verdict.timed_against.as_ref().unwrap();
    assert_eq!(
        (against.step, against.kernel.as_str(), against.speedup),
        (2, "rows.cu", anchor.speedup)
    );
    let wrong = repeated_kernel(2, "    output[row * columns] += 0.5f;\n");
    let wrong = judge.judge_against_anchor("wrong", &wrong, &bar, &anchor);
    assert_eq!(wrong.unwrap().status, Status::WrongOutput);
    let Some(found) = verdict.speedup else {
        assert_eq!(verdict.status, Status::Inconclusive, "{verdict:#?}");
        return;
    };
    assert_eq!(verdict.status, Status::Passed, "{verdict:#?}");
    let timed = verdict.workloads.iter().filter(|case| !case.hidden);
    for (case, expected) in timed.zip(&anchor.workloads) {
        assert_eq!(case.baseline_us, Some(expected.baseline_us));
        // The uncertainty of the anchor is part of the interval.
        let least = width(expected.ci95);
        assert!(width(case.ci95.unwrap()) >= least, "{case:#?}");
    }
    let direct = judge.judge("naive", &anchored.naive, None).unwrap();
    assert_eq!(direct.timed_against, None);
    let Some(direct) = direct.speedup else {
        return;
    };
    // The machine may be busier in one of the two than in the other. Over the anchor the speedup would be below 1.
    let apart = (found.geomean / direct.geomean).ln().abs();
    let most = width(found.ci95) + width(direct.ci95) + 0.3;
    assert!(apart <= most, "{found:?} {direct:?}");
    assert!(found.geomean > 2.0, "{found:?}");
}

#[test]
fn anchor_that_does_not_work_is_no_fault_of_the_candidate() {
    let anchored = AnchoredSetting::new();
    let mut judge = anchored.setting.judge();
    let Some(anchor) = anchored.anchor(&mut judge) else {
        return;
    };
    let body_end = anchored.rows.trim_end().rfind('}').unwrap();
    let (body, end) = anchored.rows.split_at(body_end);
    let with_line = |line: &str| Anchor {
        source: format!("{body}{line}\n{end}"),
        ..anchor.clone()
    };
    let mut other_workloads = anchor.clone();
    other_workloads.workloads.pop();
    for anchor in [
        with_line("this does not compile"),
        with_line("out[0] += 0.5f;"),
        other_workloads,
    ] {
        let naive = &anchored.naive;
        let verdict = judge
            .judge_against_anchor("naive", naive, &incumbents(0.5), &anchor)
            .unwrap();
        assert_eq!(verdict.timed_against, None, "{}", anchor.source);
        let is_right = matches!(verdict.status, Status::Passed | Status::Inconclusive);
        assert!(is_right, "{verdict:#?}");
    }
}

/// The events of the task's journal that have this name.
fn recorded(folder: &Workspace, name: &str) -> Vec<Value> {
    let journal = folder.read("out/softmax/events.jsonl");
    let events = journal
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["event"] == name).collect()
}

/// Makes the interval of a verdict in the journal narrow, as on a quiet machine. Returns whether the kernel has passed and is fast.
fn narrow_interval(folder: &Workspace, step: u64) -> bool {
    let narrow = |figures: &mut Value, speedup: f64| {
        figures["ci95"] = serde_json::json!([speedup / 1.01, speedup * 1.01]);
    };
    let mut has_passed = false;
    let mut journal = String::new();
    for line in folder.read("out/softmax/events.jsonl").lines() {
        let mut event: Value = serde_json::from_str(line).unwrap();
        let verdict = &mut event["verdict"];
        if let Some(speedup) = verdict["speedup"]["geomean"].as_f64()
            && event["step"] == step
        {
            let verdict = &mut event["verdict"];
            has_passed = speedup > LEAST_SPEEDUP
                && verdict["timing"] == "full"
                && verdict["not_done"].is_null();
            narrow(&mut verdict["speedup"], speedup);
            for workload in verdict["workloads"].as_array_mut().unwrap() {
                if let Some(speedup) = workload["speedup"].as_f64() {
                    narrow(workload, speedup);
                }
            }
        }
        journal += &format!("{event}\n");
    }
    folder.write("out/softmax/events.jsonl", &journal);
    has_passed
}

#[test]
fn run_with_a_slow_baseline_times_candidates_against_a_fast_start() {
    const STARTS: u64 = 3;
    /// `rows.cu`, of `task.yaml`.
    const ROWS: u64 = 2;
    let folder = Workspace::with_small_task();
    let slowest = repeated_kernel(REPEATS, "");
    folder.write("tasks/softmax/slowest.cu", &slowest);
    let task = folder.read("tasks/softmax/task.yaml");
    let slow = task
        .replace("naive: {kernel: naive.cu}", "slowest: {kernel: slowest.cu}")
        .replace("block_rows.cu]", "slowest.cu]");
    folder.write("tasks/softmax/task.yaml", &slow);
    folder.write(
        "run.yaml",
        r#"{"profile": "quick", "backend": "cpu", "tasks": ["softmax"], "budget": {"seconds": 600, "confirm_share": 0},
            "eval": {"seconds": 3, "precision": 0.5, "in_flight": 1}}"#,
    );
    let evolve = "evolve --no-model --config run.yaml --seed 7 --output out --steps 3";
    let evolve: Vec<_> = evolve.split(' ').collect();
    folder.run(&evolve).comes_to_its_end();
    if !narrow_interval(&folder, ROWS) {
        // The machine is too busy.
        return;
    }
    // Each resume decides the anchor from the journal.
    for steps in ["5", "7"] {
        folder
            .run(&["resume", "out", "--steps", steps])
            .comes_to_its_end();
    }
    let (mut example, mut count) = (None, 0);
    for event in recorded(&folder, "judged") {
        let (step, verdict) = (event["step"].as_u64().unwrap(), &event["verdict"]);
        let against = &verdict["timed_against"];
        if step <= STARTS {
            assert!(against.is_null(), "{verdict:#}");
        } else if verdict["timing"].is_string() {
            count += 1;
            assert_eq!(against["step"], ROWS, "{verdict:#}");
            assert_eq!(against["kernel"], "rows.cu", "{verdict:#}");
            let speedup = verdict["speedup"]["geomean"].as_f64();
            example = example.or(speedup.map(|speedup| (step, speedup)));
        }
    }
    assert!(count > 0);
    let Some((step, speedup)) = example else {
        return;
    };
    let kernel = format!("out/softmax/steps/{step:06}/kernel.cu");
    let options = "--backend cpu --seconds 3 --precision 0.5 --format json";
    let options: Vec<_> = options.split(' ').collect();
    let eval = [&["eval", "softmax", kernel.as_str()], &options[..]].concat();
    let output = folder.command(&eval).output().unwrap();
    let direct: Value = serde_json::from_slice(&output.stdout).unwrap();
    let direct = direct.get(0).unwrap_or(&direct);
    assert!(direct["status"].is_string() && direct["timed_against"].is_null());
    // Over the anchor it would be about a tenth. Next to other tests, times differ by factors.
    if let Some(found) = direct["speedup"]["geomean"].as_f64() {
        let apart = (found / speedup).ln().abs();
        assert!(apart <= f64::ln(8.0), "{found} {speedup}");
    }
}
