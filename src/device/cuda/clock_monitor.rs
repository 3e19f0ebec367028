//! Watches a GPU's clock through NVML, and reports when heat, power or a limit slows it down. Changes no settings.

use std::cell::Cell;
use std::thread::JoinHandle;

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::Clock;

/// A clock below this share of the highest clock seen by this process is a disturbance, if NVML gives no reason.
///
/// The GPU's maximum clock is not used: a GPU with locked clocks or a permanent power cap is slow but steady.
const MIN_CLOCK_RATIO: f64 = 0.75;
/// The same if NVML gives a reason.
const MIN_CLOCK_RATIO_THROTTLED: f64 = 0.9;

/// NVML while it starts on a thread of its own, because that takes as long as a part of the driver's start.
pub(super) struct StartingNvml(Option<JoinHandle<Option<Nvml>>>);

impl StartingNvml {
    pub(super) fn start() -> Self {
        let thread = std::thread::Builder::new().name("nvml".to_owned());
        // Without a thread it starts when it is needed.
        Self(thread.spawn(|| Nvml::init().ok()).ok())
    }

    fn finish(self) -> Option<Nvml> {
        match self.0 {
            Some(thread) => thread.join().ok()?,
            None => Nvml::init().ok(),
        }
    }
}

/// NVML, and the GPU that is watched.
pub(super) struct ClockMonitor {
    library: Nvml,
    uuid: String,
    /// Highest clock seen while the GPU was busy, in MHz.
    highest_mhz: Cell<u32>,
}

impl ClockMonitor {
    /// `None` if NVML is missing or does not know the GPU. Disturbances are then unknown, and the verdict says so.
    pub(super) fn open(library: StartingNvml, uuid: &str) -> Option<Self> {
        let library = library.finish()?;
        library.device_by_uuid(uuid).ok()?;
        Some(Self {
            library,
            uuid: uuid.to_owned(),
            highest_mhz: Cell::new(0),
        })
    }

    /// What slows the GPU down right now.
    pub(super) fn disturbance(&self) -> Option<String> {
        let device = self.library.device_by_uuid(self.uuid.as_str()).ok()?;
        let reasons = device.current_throttle_reasons().ok()?;
        // An idle GPU lowers its clock by itself.
        if reasons.contains(ThrottleReasons::GPU_IDLE) {
            return None;
        }
        let causes = [
            (ThrottleReasons::SW_THERMAL_SLOWDOWN, "heat"),
            (ThrottleReasons::HW_THERMAL_SLOWDOWN, "heat"),
            (ThrottleReasons::HW_SLOWDOWN, "a slowdown of the hardware"),
            (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "a power brake"),
            (ThrottleReasons::SW_POWER_CAP, "the power limit"),
        ];
        let cause = causes.iter().find(|(reason, _)| reasons.contains(*reason));
        let now = device.clock_info(Clock::SM).ok()?;
        self.highest_mhz.set(self.highest_mhz.get().max(now));
        describe_slowdown(now, self.highest_mhz.get(), cause.map(|(_, name)| *name))
    }
}

/// Describes a clock (in MHz) that has dropped under load. `cause`: NVML's reason.
fn describe_slowdown(now: u32, highest: u32, cause: Option<&str>) -> Option<String> {
    let min_ratio = match cause {
        Some(_) => MIN_CLOCK_RATIO_THROTTLED,
        None => MIN_CLOCK_RATIO,
    };
    (f64::from(now) < min_ratio * f64::from(highest)).then(|| {
        let by = cause.map_or_else(String::new, |cause| format!(" ({cause})"));
        format!("a clock of {now} MHz, after {highest}{by}")
    })
}

#[cfg(test)]
mod tests {
    use super::describe_slowdown;

    #[test]
    fn only_a_falling_clock_is_a_disturbance() {
        assert_eq!(describe_slowdown(900, 900, Some("the power limit")), None);
        assert_eq!(describe_slowdown(1900, 1980, Some("the power limit")), None);
        assert_eq!(describe_slowdown(1600, 1980, None), None);
        let slowdown = describe_slowdown(1600, 1980, Some("heat"));
        assert_eq!(
            slowdown.as_deref(),
            Some("a clock of 1600 MHz, after 1980 (heat)")
        );
        assert!(describe_slowdown(1400, 1980, None).is_some());
    }
}
