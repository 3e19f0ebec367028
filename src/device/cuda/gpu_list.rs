//! Lists the GPUs of the machine through NVML. Creates no context and starts nothing.

use nvml_wrapper::Nvml;

use super::gpu::no_driver;
use crate::base::Failure;
use crate::verdict::DeviceIdentity;

/// The GPUs that this process may use, in NVML's order. Respects `CUDA_VISIBLE_DEVICES`.
///
/// # Errors
/// `Failure::environment` if there is no driver. An empty list is not an error.
pub fn list_gpus() -> Result<Vec<DeviceIdentity>, Failure> {
    // SAFETY: only searches for the library.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(no_driver());
    }
    let library = Nvml::init().map_err(|error| {
        Failure::environment(format!("failed to list the GPUs: {error}"))
            .hint("check that `nvidia-smi` lists them; it uses the same library")
    })?;
    let driver = library.sys_driver_version().ok();
    let unlisted = |error: nvml_wrapper::error::NvmlError| {
        Failure::environment(format!("failed to query a GPU: {error}"))
    };
    let mut gpus = Vec::new();
    for index in 0..library.device_count().map_err(unlisted)? {
        let device = library.device_by_index(index).map_err(unlisted)?;
        let arch = device.cuda_compute_capability().map_err(unlisted)?;
        gpus.push(DeviceIdentity {
            name: device.name().map_err(unlisted)?,
            arch: format!("sm_{}{}", arch.major, arch.minor),
            uuid: Some(device.uuid().map_err(unlisted)?),
            driver: driver.clone(),
            cores: None,
        });
    }
    Ok(match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(visible) => filter_visible(&visible, &gpus),
        Err(_) => gpus,
    })
}

/// The number of processes that compute on a GPU now; `None` if NVML does not know.
pub fn compute_process_count(gpu: &DeviceIdentity) -> Option<usize> {
    let library = Nvml::init().ok()?;
    let device = library.device_by_uuid(gpu.uuid.as_deref()?).ok()?;
    Some(device.running_compute_processes().ok()?.len())
}

/// Interprets `CUDA_VISIBLE_DEVICES` as the driver does: indices or prefixes of UUIDs, up to the first invalid entry.
fn filter_visible(visible: &str, gpus: &[DeviceIdentity]) -> Vec<DeviceIdentity> {
    let named = |word: &str| {
        let by_index = word.parse::<usize>().ok().and_then(|index| gpus.get(index));
        by_index.or_else(|| {
            let starts = |gpu: &&DeviceIdentity| {
                (gpu.uuid.as_deref()).is_some_and(|uuid| uuid.starts_with(word))
            };
            gpus.iter().find(starts).filter(|_| !word.is_empty())
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
        let gpus: Vec<_> = ["GPU-aa11", "GPU-bb22", "GPU-cc33"]
            .into_iter()
            .map(|uuid| DeviceIdentity {
                uuid: Some(uuid.to_owned()),
                ..DeviceIdentity::default()
            })
            .collect();
        let visible = |text| -> Vec<_> {
            let found = filter_visible(text, &gpus).into_iter();
            found.filter_map(|gpu| gpu.uuid).collect()
        };
        assert_eq!(visible("2,0"), ["GPU-cc33", "GPU-aa11"]);
        assert_eq!(visible("GPU-bb"), ["GPU-bb22"]);
        assert_eq!(visible("1,-1,0"), ["GPU-bb22"]);
        assert!(visible("").is_empty());
    }
}
