//! One point of a recorded space, as its file has it: an entry of Kernel Tuner's cache files.
//!
//! Pure: from what a worker measured to JSON. Times are in milliseconds, with five digits.

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use crate::base::statistics::{SampleSummary, median_interval};
use crate::eval::{Invalidity, PointFault, PointResult, PointSeconds};

/// Digits of a time: finer than any clock, and short.
const DIGITS: i32 = 5;
/// What precedes a workload's id in the key of its times.
pub(super) const WORKLOAD_KEY: &str = "workload ";
const MS_PER_SECOND: f64 = 1e3;
const US_PER_MS: f64 = 1e3;

/// A point, and what was found there.
pub(crate) struct SpaceEntry {
    pub(crate) point: IndexMap<String, i64>,
    pub(crate) outcome: Result<PointTimes, PointFault>,
    seconds: PointSeconds,
    /// The time of the measurement that is in none of its parts.
    framework_seconds: f64,
    timestamp: String,
}

/// The times of a point.
pub(crate) struct PointTimes {
    /// The median of the repeats, in milliseconds.
    pub(crate) time: f64,
    /// For each sample, the geometric mean over the workloads, in milliseconds.
    repeats: Vec<f64>,
    /// Baseline over `time`.
    pub(crate) speedup: f64,
    /// By workload: median, and the ends of its 95 % interval, in milliseconds.
    workloads: IndexMap<String, [f64; 3]>,
    is_disturbed: bool,
}

impl SpaceEntry {
    /// A point that was measured. `seconds`: from the request to the response; `timestamp`: of the response.
    pub(crate) fn of_result(
        point: IndexMap<String, i64>,
        result: PointResult,
        workloads: &[String],
        seconds: f64,
        timestamp: String,
    ) -> anyhow::Result<Self> {
        let parts = result.seconds;
        let outcome = match result.times {
            Ok(samples) => Ok(PointTimes::of(
                &samples,
                &result.baseline_us,
                workloads,
                result.is_disturbed,
            )
            .ok_or_else(|| anyhow::anyhow!("the clock returned a time that is not a number"))?),
            Err(fault) => Err(fault),
        };
        Ok(Self {
            point,
            outcome,
            seconds: parts,
            framework_seconds: (seconds - parts.compile - parts.check - parts.timing).max(0.0),
            timestamp,
        })
    }

    /// A point that did not reach the device.
    pub(crate) fn of_fault(
        point: IndexMap<String, i64>,
        fault: PointFault,
        timestamp: String,
    ) -> Self {
        Self {
            point,
            outcome: Err(fault),
            seconds: PointSeconds::default(),
            framework_seconds: 0.0,
            timestamp,
        }
    }

    /// Sets the compile time, for a point that was compiled ahead.
    #[must_use]
    pub(crate) fn with_compile_seconds(mut self, seconds: f64) -> Self {
        self.seconds.compile = seconds;
        self
    }

    /// The key of a point: its values.
    pub(crate) fn key_of(point: &IndexMap<String, i64>) -> String {
        let values: Vec<String> = point.values().map(i64::to_string).collect();
        values.join(",")
    }

    /// The entry. Its last member is a text, so that it never ends like a closed file.
    pub(super) fn to_json(&self) -> Value {
        let mut entry = Map::new();
        let mut add = |key: &str, value: Value| {
            entry.insert(key.to_owned(), value);
        };
        for (name, value) in &self.point {
            add(name, json!(value));
        }
        match &self.outcome {
            Ok(times) => {
                add("time", number(times.time));
                let repeats = times.repeats.iter().copied();
                add("times", repeats.map(number).collect());
                add("speedup", number(times.speedup));
                // Kernel Tuner makes a measurement of T4 from each member, which must be a number, a text or a list.
                for (id, ends) in &times.workloads {
                    let key = format!("{WORKLOAD_KEY}{id}");
                    add(&key, ends.map(number).to_vec().into());
                }
                if times.is_disturbed {
                    add("throttled", json!(1));
                }
            }
            Err(fault) => {
                add("time", json!(failure_name(fault.invalidity)));
                add("invalidity", json!(fault.invalidity));
                add("status", json!(fault.status));
            }
        }
        for (key, seconds) in [
            ("compile_time", self.seconds.compile),
            ("verification_time", self.seconds.check),
            ("benchmark_time", self.seconds.timing),
            ("strategy_time", 0.0),
            ("framework_time", self.framework_seconds),
        ] {
            // Tenths of a millisecond.
            add(key, whole((seconds * MS_PER_SECOND * 10.0).round() / 10.0));
        }
        add("timestamp", json!(self.timestamp));
        Value::Object(entry)
    }
}

impl PointTimes {
    /// `None` if a time is not a positive number.
    fn of(
        samples: &[Vec<f64>],
        baseline_us: &[f64],
        workloads: &[String],
        is_disturbed: bool,
    ) -> Option<Self> {
        let count = samples.iter().map(Vec::len).min()?;
        let repeats: Vec<f64> = (0..count)
            .map(|index| geometric_mean(samples.iter().map(|of| of[index] / US_PER_MS)))
            .collect();
        let time = SampleSummary::of(&repeats)?.median;
        let baseline = geometric_mean(baseline_us.iter().map(|time| time / US_PER_MS));
        let speedup = baseline / time;
        let mut by_workload = IndexMap::new();
        for (id, samples) in workloads.iter().zip(samples) {
            let milliseconds: Vec<f64> = samples.iter().map(|time| time / US_PER_MS).collect();
            let interval = median_interval(&milliseconds)?;
            by_workload.insert(id.clone(), [interval.estimate, interval.low, interval.high]);
        }
        let is_valid = time > 0.0 && speedup.is_finite();
        is_valid.then_some(Self {
            time,
            repeats,
            speedup,
            workloads: by_workload,
            is_disturbed,
        })
    }
}

/// The mean of one value is the value itself, to the bit: the logarithm would change its last digit.
fn geometric_mean(mut values: impl ExactSizeIterator<Item = f64>) -> f64 {
    if values.len() == 1 {
        return values.next().unwrap_or(f64::NAN);
    }
    let count = values.len().max(1) as f64;
    (values.map(f64::ln).sum::<f64>() / count).exp()
}

/// Kernel Tuner's name of a failure. It has none for wrong results.
fn failure_name(invalidity: Invalidity) -> &'static str {
    match invalidity {
        Invalidity::Constraints => "InvalidConfig",
        Invalidity::Compile => "CompilationFailedConfig",
        Invalidity::Runtime | Invalidity::Timeout | Invalidity::Correctness => {
            "RuntimeFailedConfig"
        }
    }
}

/// A number with few digits. The text of the rounded value is read again, because it is the shortest one.
fn number(value: f64) -> Value {
    let precision = (DIGITS - 1) as usize;
    let rounded = format!("{value:.precision$e}").parse().unwrap_or(value);
    whole(rounded)
}

/// A number without `.0`.
fn whole(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return json!(value as i64);
    }
    json!(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Status;

    fn point() -> IndexMap<String, i64> {
        [("ROWS", 4), ("WARPS", -1)]
            .map(|(name, value)| (name.to_owned(), value))
            .into()
    }

    fn result(times: Result<Vec<Vec<f64>>, PointFault>) -> PointResult {
        PointResult {
            times,
            baseline_us: vec![80.0, 20.0],
            is_disturbed: false,
            seconds: PointSeconds {
                compile: 0.25,
                check: 0.004,
                timing: 0.0161,
            },
            device_seconds: 0.0,
        }
    }

    #[test]
    fn a_measured_point_has_the_median_of_its_repeats() {
        let long = vec![4.0, 4.0, 9.0, 4.0, 4.0, 1.0, 4.0];
        let short = vec![1.0; 7];
        let workloads = ["b4".to_owned(), "b1".to_owned()];
        let result = result(Ok(vec![long, short]));
        let now = "2026-01-31T12:00:00.000Z".to_owned();
        let entry = SpaceEntry::of_result(point(), result, &workloads, 0.3, now).unwrap();
        let expected = r#"{"ROWS":4,"WARPS":-1,"time":0.002,"times":[0.002,0.002,0.003,0.002,0.002,0.001,0.002],"speedup":20,"workload b4":[0.004,0.001,0.009],"workload b1":[0.001,0.001,0.001],"compile_time":250,"verification_time":4,"benchmark_time":16.1,"strategy_time":0,"framework_time":29.9,"timestamp":"2026-01-31T12:00:00.000Z"}"#;
        assert_eq!(entry.to_json().to_string(), expected);
        assert_eq!(SpaceEntry::key_of(&entry.point), "4,-1");
    }

    #[test]
    fn a_fault_has_the_name_that_kernel_tuner_knows() {
        for (invalidity, name) in [
            (Invalidity::Constraints, "InvalidConfig"),
            (Invalidity::Compile, "CompilationFailedConfig"),
            (Invalidity::Runtime, "RuntimeFailedConfig"),
            (Invalidity::Timeout, "RuntimeFailedConfig"),
            (Invalidity::Correctness, "RuntimeFailedConfig"),
        ] {
            let fault = PointFault {
                invalidity,
                status: Status::WrongOutput,
                reason: String::new(),
            };
            let entry = SpaceEntry::of_fault(point(), fault, String::new()).to_json();
            assert_eq!(entry["time"], name);
            assert_eq!(entry["status"], "wrong_output");
        }
    }

    #[test]
    fn times_that_are_no_numbers_are_refused() {
        let workloads = ["b4".to_owned()];
        for time in [f64::NAN, 0.0, f64::INFINITY] {
            let result = result(Ok(vec![vec![time; 7]]));
            let entry = SpaceEntry::of_result(point(), result, &workloads, 0.3, String::new());
            assert!(entry.is_err(), "{time}");
        }
    }
}
