//! What holds a card's clock back, as its management library tells: heat, power, or somebody's limit. Sets nothing.

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::Clock;

/// A clock below this share of its maximum while the card is busy is a disturbance.
const LEAST_CLOCK: f64 = 0.75;

/// The management library, and the card in it.
pub(super) struct Health {
    library: Nvml,
    uuid: String,
}

impl Health {
    /// `None` where the library is missing or does not know the card: then nothing is known, and a verdict says so.
    pub(super) fn open(uuid: &str) -> Option<Self> {
        let library = Nvml::init().ok()?;
        library.device_by_uuid(uuid).ok()?;
        Some(Self {
            library,
            uuid: uuid.to_owned(),
        })
    }

    /// What slows the card down right now.
    pub(super) fn disturbance(&self) -> Option<String> {
        let device = self.library.device_by_uuid(self.uuid.as_str()).ok()?;
        let reasons = device.current_throttle_reasons().ok()?;
        let told = [
            (ThrottleReasons::SW_THERMAL_SLOWDOWN, "heat"),
            (ThrottleReasons::HW_THERMAL_SLOWDOWN, "heat"),
            (ThrottleReasons::HW_SLOWDOWN, "a slowdown of the hardware"),
            (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "a power brake"),
            (ThrottleReasons::SW_POWER_CAP, "the power limit"),
        ];
        if let Some((_, words)) = told.iter().find(|(reason, _)| reasons.contains(*reason)) {
            return Some((*words).to_owned());
        }
        // An idle card clocks down by itself.
        if reasons.contains(ThrottleReasons::GPU_IDLE) {
            return None;
        }
        let now = device.clock_info(Clock::SM).ok()?;
        let most = device.max_clock_info(Clock::SM).ok()?;
        (f64::from(now) < LEAST_CLOCK * f64::from(most))
            .then(|| format!("a clock of {now} MHz, of {most}"))
    }
}
