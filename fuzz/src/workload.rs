//! Checks workload lines against the shipped tasks, and the launch plans of the baseline for them.

use indexmap::IndexMap;
use kforge::kernel::{DeviceLimits, Kernel, LaunchTarget};
use kforge::task::{InputSource, Workload};

const LIMITS: DeviceLimits = DeviceLimits {
    sm_count: 2,
    max_shared_bytes: 49_152,
};

pub fn workload(input: &[u8]) {
    let text = super::lossy_text(input);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    for task in super::tasks() {
        let workloads = match Workload::parse_all(text, &task.definition, "workloads.jsonl") {
            Ok(workloads) => workloads,
            Err(failure) => {
                super::assert_locations(&failure.message, "workloads.jsonl", text);
                continue;
            }
        };
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        assert_eq!(workloads.len(), lines.count());
        let (_, baseline) = task.baseline();
        let kernel = Kernel::parse(baseline, &task.definition).expect("the baseline's header");
        for (index, workload) in workloads.iter().enumerate() {
            assert!(
                workloads[..index]
                    .iter()
                    .all(|other| other.id != workload.id)
            );
            assert!(workload.binding.axes.keys().eq(task.definition.axes.keys()));
            assert!(workload.binding.axes.values().all(|size| *size >= 1));
            for source in workload.inputs.values() {
                assert!(!matches!(source, InputSource::Scalar(value) if !value.is_finite()));
            }
            let axis = |name: &str| workload.binding.axes.get(name).copied();
            let _ = (task.bytes.evaluate(&axis), task.flops.evaluate(&axis));
            let Ok(variant) = kernel.variant_for(&workload.binding, &LIMITS) else {
                continue;
            };
            let values = kernel.tunable_values(variant);
            let target = LaunchTarget {
                task,
                binding: &workload.binding,
                scalars: &IndexMap::new(),
                limits: &LIMITS,
                is_oracle: false,
            };
            match kernel.launch_plan(&target, &values) {
                Ok(plan) => assert!(plan.buffers.iter().all(|buffer| buffer.bytes() > 0)),
                Err(error) => super::assert_line(error.line, baseline, &error),
            }
        }
    }
}
