//! What holds a card's clock back, as its management library tells: heat, power, or somebody's limit. Sets nothing.

use std::cell::Cell;

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::Clock;

/// A clock below this share of the highest that this process has seen is a disturbance, where nothing says what holds it back.
/// Not of what the card could do: one whose clocks somebody has locked, or whose power is capped for good, is slow but steady.
const MIN_CLOCK_RATIO: f64 = 0.75;
/// The same where something does.
const MIN_CLOCK_RATIO_THROTTLED: f64 = 0.9;

/// The management library, and the card in it.
pub(super) struct ClockMonitor {
    library: Nvml,
    uuid: String,
    /// In MHz, while the card was busy.
    highest_mhz: Cell<u32>,
}

impl ClockMonitor {
    /// `None` where the library is missing or does not know the card: then nothing is known, and a verdict says so.
    pub(super) fn open(uuid: &str) -> Option<Self> {
        let library = Nvml::init().ok()?;
        library.device_by_uuid(uuid).ok()?;
        Some(Self {
            library,
            uuid: uuid.to_owned(),
            highest_mhz: Cell::new(0),
        })
    }

    /// What slows the card down right now.
    pub(super) fn disturbance(&self) -> Option<String> {
        let device = self.library.device_by_uuid(self.uuid.as_str()).ok()?;
        let reasons = device.current_throttle_reasons().ok()?;
        // An idle card clocks down by itself.
        if reasons.contains(ThrottleReasons::GPU_IDLE) {
            return None;
        }
        let told = [
            (ThrottleReasons::SW_THERMAL_SLOWDOWN, "heat"),
            (ThrottleReasons::HW_THERMAL_SLOWDOWN, "heat"),
            (ThrottleReasons::HW_SLOWDOWN, "a slowdown of the hardware"),
            (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "a power brake"),
            (ThrottleReasons::SW_POWER_CAP, "the power limit"),
        ];
        let held = told.iter().find(|(reason, _)| reasons.contains(*reason));
        let now = device.clock_info(Clock::SM).ok()?;
        self.highest_mhz.set(self.highest_mhz.get().max(now));
        describe_slowdown(now, self.highest_mhz.get(), held.map(|(_, words)| *words))
    }
}

/// Whether a clock, in MHz, has sunk while the card was at work; `held`: what holds it back.
fn describe_slowdown(now: u32, highest: u32, held: Option<&str>) -> Option<String> {
    let least = match held {
        Some(_) => MIN_CLOCK_RATIO_THROTTLED,
        None => MIN_CLOCK_RATIO,
    };
    (f64::from(now) < least * f64::from(highest)).then(|| {
        let by = held.map_or_else(String::new, |held| format!(" ({held})"));
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
        let held = describe_slowdown(1600, 1980, Some("heat"));
        assert_eq!(
            held.as_deref(),
            Some("a clock of 1600 MHz, after 1980 (heat)")
        );
        assert!(describe_slowdown(1400, 1980, None).is_some());
    }
}
