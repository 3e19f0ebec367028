//! Kernels that are judged against incumbents: losers are dismissed early, and nothing wrong passes.

use kforge::device::cpu::CpuDevice;
use kforge::device::{Cache, Device};
use kforge::eval::{Judge, JudgeOptions};
use kforge::kernel::DeviceLimits;
use kforge::search::{Anchor, AnchorWorkload, Incumbents};
use kforge::task::{Task, TaskFiles};
use kforge::verdict::{Speedup, Status, Timing, Verdict, WorkloadVerdict};

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
    let text = std::fs::read_to_string(root().join("kernels/softmax/naive.cu")).unwrap();
    let (start, body) = text.split_once("    float largest").unwrap();
    let body = body.trim_end().strip_suffix('}').unwrap();
    format!(
        "{start}    volatile int repeats = 60;\n    for (int again = 0; again < repeats; again++) {{\n    float largest{body}    }}\n{last_line}}}\n"
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

#[test]
fn slow_kernel_is_dismissed_with_an_interval_that_is_right() {
    let setting = Setting::new();
    let mut judge = setting.judge();
    let slow = slow_kernel("");
    let judgements: Vec<_> = (0..3)
        .map(|_| {
            let verdict = judge.judge_racing("slow", &slow, &incumbents(0.9));
            verdict.unwrap()
        })
        .collect();
    let is_dismissed = |verdict: &&Verdict| verdict.timing == Some(Timing::Dismissed);
    let Some(dismissed) = judgements.iter().find(is_dismissed) else {
        // A machine that is busy enough hides even this. Then no interval is of any use.
        let is_noisy = |verdict: &Verdict| verdict.status == Status::Inconclusive;
        assert!(judgements.iter().all(is_noisy), "{judgements:#?}");
        return;
    };
    check_is_dismissed(dismissed, 0.9);
    if dismissed.dismissal.unwrap().look == 1 {
        let hidden = |text: &String| text.ends_with(" hidden cases");
        assert!(dismissed.not_done.iter().any(hidden), "{dismissed:#?}");
        assert!(
            dismissed
                .workloads
                .iter()
                .filter(|case| case.hidden)
                .count()
                <= 1
        );
    }
    assert!(dismissed.checked_share.unwrap() > 0.99);

    let full = judge.judge("slow", &slow, None).unwrap();
    if full.status == Status::Inconclusive {
        // The machine is too busy.
        return;
    }
    assert_eq!(full.timing, Some(Timing::Full), "{full:#?}");
    assert!(full.not_done.is_empty() && full.dismissal.is_none());
    let [low, high] = dismissed.speedup.unwrap().ci95;
    let [full_low, full_high] = full.speedup.unwrap().ci95;
    assert!(
        low <= full_high && full_low <= high,
        "{dismissed:#?} {full:#?}"
    );
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

/// A task whose baseline does its work many times, and a fast kernel that was timed against it in full.
struct AnchoredSetting {
    setting: Setting,
    rows: String,
    /// What judging `rows` found.
    verdict: Verdict,
}

impl AnchoredSetting {
    fn new() -> Self {
        let mut setting = Setting::new();
        let task = &mut setting.task;
        let file = task.baseline().0.to_owned();
        task.kernels.insert(file, slow_kernel(""));
        let rows = std::fs::read_to_string(root().join("kernels/softmax/rows.cu")).unwrap();
        let verdict = setting.judge().judge("rows", &rows, None).unwrap();
        Self {
            setting,
            rows,
            verdict,
        }
    }

    /// `None` if the machine is too busy.
    fn anchor(&self) -> Option<Anchor> {
        let speedup = self.verdict.speedup?;
        assert!(speedup.ci95[0] > 3.0, "{:#?}", self.verdict);
        let timed = self.verdict.workloads.iter().filter(|case| !case.hidden);
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

    /// The naive kernel, judged against an anchor.
    fn judge(&self, anchor: &Anchor) -> Verdict {
        let naive = std::fs::read_to_string(root().join("kernels/softmax/naive.cu")).unwrap();
        let mut judge = self.setting.judge();
        let verdict = judge.judge_against_anchor("naive", &naive, &incumbents(0.5), anchor);
        verdict.unwrap()
    }
}

#[test]
fn candidate_that_is_timed_against_an_anchor_gets_its_speedup_over_the_baseline() {
    let anchored = AnchoredSetting::new();
    let Some(anchor) = anchored.anchor() else {
        return;
    };
    let verdict = anchored.judge(&anchor);
    if verdict.status == Status::Inconclusive {
        return;
    }
    assert_eq!(verdict.status, Status::Passed, "{verdict:#?}");
    let against = verdict.timed_against.as_ref().unwrap();
    assert_eq!(
        (against.step, against.kernel.as_str(), against.speedup),
        (2, "rows.cu", anchor.speedup)
    );
    let timed = verdict.workloads.iter().filter(|case| !case.hidden);
    for (case, expected) in timed.zip(&anchor.workloads) {
        assert_eq!(case.baseline_us, Some(expected.baseline_us));
        // The uncertainty of the anchor is part of the interval.
        let width = |[low, high]: [f64; 2]| (high / low).ln();
        assert!(
            width(case.ci95.unwrap()) >= width(expected.ci95),
            "{case:#?}"
        );
    }
    let naive = std::fs::read_to_string(root().join("kernels/softmax/naive.cu")).unwrap();
    let direct = anchored
        .setting
        .judge()
        .judge("naive", &naive, None)
        .unwrap();
    assert_eq!(direct.timed_against, None);
    let (Some(found), Some(direct)) = (verdict.speedup, direct.speedup) else {
        return;
    };
    assert!(
        found.ci95[0] > 3.0,
        "over the baseline, not the anchor: {found:?}"
    );
    // The machine may be busier in one of the two than in the other.
    let apart = (found.geomean / direct.geomean).ln().abs();
    let width = |speedup: Speedup| (speedup.ci95[1] / speedup.ci95[0]).ln();
    assert!(
        apart <= width(found) + width(direct) + 0.1,
        "{found:?} {direct:?}"
    );
}

#[test]
fn anchor_that_does_not_work_is_no_fault_of_the_candidate() {
    let anchored = AnchoredSetting::new();
    let Some(anchor) = anchored.anchor() else {
        return;
    };
    let body_end = anchored.rows.trim_end().rfind('}').unwrap();
    let with_line = |line: &str| {
        let (body, end) = anchored.rows.split_at(body_end);
        format!("{body}{line}\n{end}")
    };
    let broken = [
        "no header".to_owned(),
        with_line("this does not compile"),
        with_line("output[row * columns] += 0.5f;"),
    ];
    let anchors = broken.map(|source| Anchor {
        source,
        ..anchor.clone()
    });
    let mut other_workloads = anchor.clone();
    other_workloads.workloads.pop();
    for anchor in anchors.into_iter().chain([other_workloads]) {
        let verdict = anchored.judge(&anchor);
        assert_eq!(verdict.timed_against, None, "{}", anchor.source);
        let is_right = matches!(verdict.status, Status::Passed | Status::Inconclusive);
        assert!(is_right, "{verdict:#?}");
        if let Some(speedup) = verdict.speedup {
            assert!(speedup.ci95[0] > 3.0, "{speedup:?}");
        }
    }
}

#[test]
fn wrong_candidate_is_wrong_against_an_anchor_too() {
    let anchored = AnchoredSetting::new();
    let Some(anchor) = anchored.anchor() else {
        return;
    };
    let wrong = slow_kernel("    output[row * columns] += 0.5f;\n");
    let mut judge = anchored.setting.judge();
    let verdict = judge.judge_against_anchor("wrong", &wrong, &incumbents(0.9), &anchor);
    assert_eq!(verdict.unwrap().status, Status::WrongOutput);
}

/// The events of the task's journal that have this name.
fn recorded(folder: &Workspace, name: &str) -> Vec<serde_json::Value> {
    let journal = folder.read("out/softmax/events.jsonl");
    let events = journal
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    events.filter(|event| event["event"] == name).collect()
}

/// The step of the starting kernel that candidates should be timed against, by the verdicts of a journal.
fn expected_anchor(judged: &[serde_json::Value], starts: u64) -> Option<u64> {
    let mut found: Option<(f64, u64)> = None;
    for event in judged {
        let (step, verdict) = (event["step"].as_u64()?, &event["verdict"]);
        let is_full = verdict["timing"] == "full" && verdict["not_done"].is_null();
        if step > starts || verdict["status"] != "passed" || !is_full {
            continue;
        }
        let figure = |value: &serde_json::Value| value.as_f64().unwrap();
        let speedup = &verdict["speedup"];
        let [low, high] = [0, 1].map(|side| figure(&speedup["ci95"][side]));
        let is_known = low >= 3.0 && (high / low).ln() / 2.0 <= 0.02;
        let geomean = figure(&speedup["geomean"]);
        if is_known && found.is_none_or(|(best, _)| geomean > best) {
            found = Some((geomean, step));
        }
    }
    found.map(|(_, step)| step)
}

#[test]
fn run_with_a_slow_baseline_times_candidates_against_a_fast_start() {
    const STARTS: u64 = 3;
    let folder = Workspace::with_small_task();
    folder.write("tasks/softmax/slowest.cu", &slow_kernel(""));
    let task = folder.read("tasks/softmax/task.yaml");
    let slow = task.replace("naive: {kernel: naive.cu}", "slowest: {kernel: slowest.cu}");
    assert_ne!(task, slow);
    folder.write("tasks/softmax/task.yaml", &slow);
    folder.write(
        "run.yaml",
        r#"{"profile": "quick", "backend": "cpu", "tasks": ["softmax"], "budget": {"seconds": 300, "confirm_share": 0},
            "eval": {"seconds": 2, "precision": 0.015, "in_flight": 1}}"#,
    );
    let settings = ["--config", "run.yaml", "--seed", "7", "--output", "out"];
    let run = [&["evolve", "--steps", "6"], &settings[..]].concat();
    folder.run(&run).comes_to_its_end();
    let anchor = expected_anchor(&recorded(&folder, "judged"), STARTS);
    folder
        .run(&["resume", "out", "--steps", "9"])
        .comes_to_its_end();
    let mut example = None;
    for event in recorded(&folder, "judged") {
        let (step, verdict) = (event["step"].as_u64().unwrap(), &event["verdict"]);
        let is_timed = step > STARTS && verdict["speedup"].is_object();
        let against = verdict["timed_against"]["step"].as_u64();
        // On a busy machine no starting kernel is known well enough.
        assert_eq!(against, anchor.filter(|_| is_timed), "{verdict:#}");
        if against.is_some() && verdict["timing"] == "full" {
            example = Some((step, verdict["speedup"].clone()));
        }
    }
    let Some((step, speedup)) = example else {
        return;
    };
    let kernel = format!("out/softmax/steps/{step:06}/kernel.cu");
    let arguments = [
        "eval",
        "softmax",
        &kernel,
        "--backend",
        "cpu",
        "--seconds",
        "2",
    ];
    let output = folder
        .command(&[&arguments[..], &["--format", "json"]].concat())
        .output()
        .unwrap();
    let direct: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let direct = direct.get(0).unwrap_or(&direct);
    assert!(direct["timed_against"].is_null(), "{direct:#}");
    let found = direct["speedup"]["geomean"].as_f64();
    let Some(found) = found else {
        return;
    };
    let width = |speedup: &serde_json::Value| {
        let side = |side: usize| speedup["ci95"][side].as_f64().unwrap();
        (side(1) / side(0)).ln()
    };
    let apart = (found / speedup["geomean"].as_f64().unwrap()).ln().abs();
    let most = width(&speedup) + width(&direct["speedup"]) + 0.1;
    assert!(apart <= most, "{speedup} {}", direct["speedup"]);
}
