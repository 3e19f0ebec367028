//! Chooses the GPUs of a run, or the CPU.
//!
//! Asks the driver which GPUs exist; opens none.

use super::{BackendChoice, Config, DeviceChoice, EvalConfig, ScreenChoice};
use crate::base::Failure;
use crate::device::{Cache, cuda};
use crate::verdict::DeviceIdentity;

/// The GPUs that judge; none if the CPU does. Appends what it chose for the user to `choices`.
pub(super) fn choose_gpus(
    config: &Config,
    choices: &mut Vec<String>,
) -> Result<Vec<DeviceIdentity>, Failure> {
    let found = match config.backend {
        BackendChoice::Cpu => return Ok(Vec::new()),
        BackendChoice::Cuda => {
            cuda::compiler::find_toolkit()?;
            cuda::list_gpus()?
        }
        BackendChoice::Auto => match cuda::list_gpus() {
            Ok(gpus) if !gpus.is_empty() => match cuda::compiler::find_toolkit() {
                Ok(_) => gpus,
                Err(failure) => {
                    choices.push(format!("backend: cpu (a GPU was found, but {failure})"));
                    return Ok(Vec::new());
                }
            },
            _ => {
                choices.push("backend: cpu (no GPU was found: times are CPU times)".to_owned());
                return Ok(Vec::new());
            }
        },
    };
    if found.is_empty() {
        return Err(Failure::environment("no GPU was found")
            .hint("`kforge doctor` shows what kforge finds on this machine"));
    }
    let chosen = config.eval.devices.select(&found)?;
    let chosen = gpus_of_one_kind(&config.eval.devices, chosen, choices)?;
    let names: Vec<&str> = chosen.iter().map(|gpu| gpu.name.as_str()).collect();
    if config.backend == BackendChoice::Auto {
        choices.push(format!("backend: cuda ({})", names.join(", ")));
    }
    Ok(chosen)
}

/// Limits the GPUs to one kind: a run compares times, and may measure and confirm a kernel on different GPUs.
fn gpus_of_one_kind(
    devices: &DeviceChoice,
    chosen: Vec<DeviceIdentity>,
    choices: &mut Vec<String>,
) -> Result<Vec<DeviceIdentity>, Failure> {
    let Some(first) = chosen.first().cloned() else {
        return Ok(chosen);
    };
    let is_alike = |gpu: &DeviceIdentity| gpu.name == first.name && gpu.arch == first.arch;
    let (alike, others): (Vec<_>, Vec<_>) = chosen.into_iter().partition(is_alike);
    let Some(other) = others.first() else {
        return Ok(alike);
    };
    if *devices != DeviceChoice::All {
        return Err(Failure::usage(format!(
            "`eval.devices`: `{}` and `{}` are GPUs of two kinds, whose times cannot be compared",
            first.name, other.name
        ))
        .hint("name GPUs of one kind; `kforge doctor` lists them"));
    }
    let names: Vec<&str> = others.iter().map(|gpu| gpu.name.as_str()).collect();
    choices.push(format!(
        "devices: {} of {} ({} left out: `eval.devices` chooses others)",
        alike.len(),
        first.name,
        names.join(", ")
    ));
    Ok(alike)
}

/// The keys that the user has set and that affect GPUs only.
pub(super) fn keys_without_effect_on_cpu(eval: &EvalConfig) -> Vec<&'static str> {
    let keys = [
        ("eval.devices", eval.devices != DeviceChoice::All),
        ("eval.cache", eval.cache != Cache::default()),
        ("eval.screen", eval.screen != ScreenChoice::None),
        ("eval.counters", eval.counters),
        ("eval.device_sanitize", eval.device_sanitize),
    ];
    let set = keys.into_iter().filter(|(_, is_set)| *is_set);
    set.map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(name: &str, uuid: &str) -> DeviceIdentity {
        DeviceIdentity {
            name: name.to_owned(),
            uuid: Some(uuid.to_owned()),
            ..DeviceIdentity::default()
        }
    }

    #[test]
    fn a_run_uses_gpus_of_one_kind() {
        let mixed = vec![gpu("A", "1"), gpu("B", "2"), gpu("A", "3")];
        let mut choices = Vec::new();
        let alike = gpus_of_one_kind(&DeviceChoice::All, mixed.clone(), &mut choices).unwrap();
        assert_eq!(alike, [gpu("A", "1"), gpu("A", "3")]);
        assert_eq!(
            choices,
            ["devices: 2 of A (B left out: `eval.devices` chooses others)"]
        );
        let named = DeviceChoice::Listed(vec!["0".to_owned(), "1".to_owned()]);
        let failure = gpus_of_one_kind(&named, mixed, &mut choices).unwrap_err();
        assert!(failure.message.contains("`A` and `B`"), "{failure}");
        let alike = gpus_of_one_kind(&named, alike, &mut choices).unwrap();
        assert_eq!((alike.len(), choices.len()), (2, 1));
    }

    #[test]
    fn keys_without_effect_on_a_cpu_are_listed() {
        assert!(keys_without_effect_on_cpu(&EvalConfig::default()).is_empty());
        let eval = EvalConfig {
            screen: ScreenChoice::Cpu,
            counters: true,
            ..EvalConfig::default()
        };
        assert_eq!(
            keys_without_effect_on_cpu(&eval),
            ["eval.screen", "eval.counters"]
        );
    }
}
