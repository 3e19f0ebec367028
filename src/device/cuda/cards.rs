//! Which GPUs a machine has, from their management library: no context is made, nothing is started.

use nvml_wrapper::Nvml;

use crate::base::Failure;
use crate::verdict::DeviceIdentity;

/// The GPUs that this process may use, in the management library's order. `CUDA_VISIBLE_DEVICES` is kept.
///
/// # Errors
/// `Failure::environment` where there is no driver; an empty list is no error.
pub fn list_gpus() -> Result<Vec<DeviceIdentity>, Failure> {
    // SAFETY: only looks for the library.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(
            Failure::environment("no CUDA driver: libcuda was not found")
                .hint("install the GPU's driver, or say `--backend cpu`"),
        );
    }
    let library = Nvml::init().map_err(|error| {
        Failure::environment(format!("the GPUs cannot be listed: {error}"))
            .hint("`nvidia-smi` should list them; it uses the same library")
    })?;
    let driver = library.sys_driver_version().ok();
    let unlisted = |error: nvml_wrapper::error::NvmlError| {
        Failure::environment(format!("a GPU cannot be looked at: {error}"))
    };
    let mut cards = Vec::new();
    for index in 0..library.device_count().map_err(unlisted)? {
        let device = library.device_by_index(index).map_err(unlisted)?;
        let arch = device.cuda_compute_capability().map_err(unlisted)?;
        cards.push(DeviceIdentity {
            name: device.name().map_err(unlisted)?,
            arch: format!("sm_{}{}", arch.major, arch.minor),
            uuid: Some(device.uuid().map_err(unlisted)?),
            driver: driver.clone(),
            cores: None,
        });
    }
    Ok(match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(visible) => filter_visible(&visible, &cards),
        Err(_) => cards,
    })
}

/// How many processes compute on a card now; `None` where the management library does not tell.
pub fn compute_process_count(card: &DeviceIdentity) -> Option<usize> {
    let library = Nvml::init().ok()?;
    let device = library.device_by_uuid(card.uuid.as_deref()?).ok()?;
    Some(device.running_compute_processes().ok()?.len())
}

/// Indices or beginnings of names, up to the first that is none, as the driver reads them.
fn filter_visible(visible: &str, cards: &[DeviceIdentity]) -> Vec<DeviceIdentity> {
    let named = |word: &str| {
        let by_index = word
            .parse::<usize>()
            .ok()
            .and_then(|index| cards.get(index));
        by_index.or_else(|| {
            let starts = |card: &&DeviceIdentity| {
                (card.uuid.as_deref()).is_some_and(|uuid| uuid.starts_with(word))
            };
            cards.iter().find(starts).filter(|_| !word.is_empty())
        })
    };
    let words = visible.split(',').map(str::trim);
    words.map_while(named).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_devices_are_indices_or_names() {
        let cards: Vec<_> = ["GPU-aa11", "GPU-bb22", "GPU-cc33"]
            .into_iter()
            .map(|uuid| DeviceIdentity {
                uuid: Some(uuid.to_owned()),
                ..DeviceIdentity::default()
            })
            .collect();
        let visible = |text| -> Vec<_> {
            let found = filter_visible(text, &cards).into_iter();
            found.filter_map(|card| card.uuid).collect()
        };
        assert_eq!(visible("2,0"), ["GPU-cc33", "GPU-aa11"]);
        assert_eq!(visible("GPU-bb"), ["GPU-bb22"]);
        assert_eq!(visible("1,-1,0"), ["GPU-bb22"]);
        assert!(visible("").is_empty());
    }
}
