//! Checks kernel files: headers against the shipped tasks, launch plans of their workloads, other tunable points.

use indexmap::IndexMap;
use kforge::kernel::plan::{Argument, LaunchPlan};
use kforge::kernel::{DeviceLimits, Kernel, LaunchTarget, with_point};
use kforge::task::{DType, Task};

const LIMITS: DeviceLimits = DeviceLimits {
    sm_count: 108,
    max_shared_bytes: 101_376,
};

/// At most this many points are tried.
const MAX_POINTS: usize = 24;

pub fn header(input: &[u8]) {
    let text = super::lossy_text(input);
    for task in super::tasks() {
        match Kernel::parse(&text, &task.definition) {
            Ok(kernel) => {
                check_launches(&kernel, task);
                check_points(&kernel, task);
            }
            Err(error) => {
                super::assert_line(error.line, &text, &error);
                assert!(!error.message.trim().is_empty(), "an empty message");
                assert!(!error.message.contains('\n'), "more than one line: {error}");
            }
        }
    }
}

/// The launch plan of a workload is within a device's limits, or the error has a line.
fn check_launches(kernel: &Kernel, task: &Task) {
    for workload in task
        .workloads
        .first()
        .into_iter()
        .chain(task.workloads.last())
    {
        let binding = &workload.binding;
        let variant = match kernel.variant_for(binding, &LIMITS) {
            Ok(variant) => variant,
            Err(error) => {
                super::assert_line(error.line, &kernel.text, &error);
                continue;
            }
        };
        let values = kernel.tunable_values(variant);
        let unit = kernel.translation_unit(task, &values, false);
        assert_eq!(unit.entry_points.len(), kernel.header.launches.len());
        for entry in &unit.entry_points {
            super::assert_line(entry.line, &kernel.text, &entry.expression);
            assert!(
                !entry.expression.contains('\n'),
                "an entry point of two lines"
            );
        }
        for is_oracle in [false, true] {
            let target = LaunchTarget {
                task,
                binding,
                scalars: &IndexMap::new(),
                limits: &LIMITS,
                is_oracle,
            };
            match kernel.launch_plan(&target, &values) {
                Ok(plan) => check_plan(&plan, kernel),
                Err(error) => super::assert_line(error.line, &kernel.text, &error),
            }
        }
    }
}

fn check_plan(plan: &LaunchPlan, kernel: &Kernel) {
    assert!(!plan.launches.is_empty());
    let bytes: u64 = plan.buffers.iter().map(|buffer| buffer.bytes()).sum();
    assert!(bytes <= 16 << 30, "{bytes} bytes");
    for output in &plan.outputs {
        assert!(*output < plan.buffers.len(), "an output without a buffer");
    }
    for launch in &plan.launches {
        assert!(launch.entry_point < kernel.header.launches.len());
        assert!(launch.block.iter().product::<u32>() <= 1024);
        assert!(
            launch
                .grid
                .iter()
                .chain(&launch.block)
                .all(|size| *size > 0)
        );
        assert!(i64::from(launch.shared) <= LIMITS.max_shared_bytes);
        for argument in &launch.arguments {
            match argument {
                Argument::Buffer(index) => assert!(*index < plan.buffers.len()),
                Argument::Scalar(dtype, _) => assert!(dtype.bytes() >= DType::Bool.bytes()),
                _ => {}
            }
        }
    }
}

/// A kernel with another point has exactly that point; the rest of the header and the family stay the same.
fn check_points(kernel: &Kernel, task: &Task) {
    let space = kernel.space();
    let family = kernel.family();
    let mut points: Vec<IndexMap<String, i64>> = vec![kernel.point()];
    for (name, values) in &space {
        points.extend(values.iter().map(|value| {
            let mut point = kernel.point();
            point.insert(name.clone(), *value);
            point
        }));
    }
    let last = |(name, values): (&String, &Vec<i64>)| Some((name.clone(), *values.last()?));
    points.insert(1, space.iter().filter_map(last).collect());
    for point in points.into_iter().take(MAX_POINTS) {
        let Some(text) = with_point(kernel, &point) else {
            continue;
        };
        let again = Kernel::parse(&text, &task.definition).unwrap_or_else(|error| {
            panic!("the header with another point is wrong: {error}\n{text}")
        });
        assert_eq!(again.point(), point, "the kernel has another point\n{text}");
        assert_eq!(again.space(), space);
        assert_eq!(again.header.launches, kernel.header.launches);
        assert_eq!(again.header.variants, kernel.header.variants);
        assert_eq!(again.header.scratch, kernel.header.scratch);
        assert_eq!(again.family(), family, "the family changed\n{text}");
    }
    for name in space.keys() {
        let foreign = IndexMap::from([(name.clone(), 987_654_321_987)]);
        let known = space[name].contains(&987_654_321_987);
        assert!(known || with_point(kernel, &foreign).is_none());
    }
}
