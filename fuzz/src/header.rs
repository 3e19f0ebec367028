//! Kernel files: their headers against the shipped tasks, launches on their workloads, values put in force.

use indexmap::IndexMap;
use kforge::kernel::plan::{Argument, Plan};
use kforge::kernel::{Kernel, Machine, with_point};
use kforge::task::{DType, Task};

const MACHINE: Machine = Machine {
    sm_count: 108,
    max_shared_bytes: 101_376,
};

/// More points than these are not tried.
const MOST_POINTS: usize = 24;

pub fn header(input: &[u8]) {
    let text = super::text(input);
    for task in super::tasks() {
        match Kernel::parse(&text, &task.definition) {
            Ok(kernel) => {
                launches(&kernel, task);
                points(&kernel, task);
            }
            Err(error) => {
                super::assert_line(error.line, &text, &error);
                assert!(!error.message.trim().is_empty(), "no words");
                assert!(!error.message.contains('\n'), "more than a line: {error}");
            }
        }
    }
}

/// What a header promises on every workload is within what a device takes, or is refused at a line.
fn launches(kernel: &Kernel, task: &Task) {
    for workload in task
        .workloads
        .first()
        .into_iter()
        .chain(task.workloads.last())
    {
        let binding = &workload.binding;
        let variant = match kernel.variant(binding, &MACHINE) {
            Ok(variant) => variant,
            Err(error) => {
                super::assert_line(error.line, &kernel.text, &error);
                continue;
            }
        };
        let values = kernel.values(variant);
        let unit = kernel.unit(task, &values, false);
        assert_eq!(unit.entries.len(), kernel.header.launches.len());
        for entry in &unit.entries {
            super::assert_line(entry.line, &kernel.text, &entry.expression);
            assert!(!entry.expression.contains('\n'), "an entry of two lines");
        }
        for oracle in [false, true] {
            match kernel.plan(task, binding, &values, &IndexMap::new(), &MACHINE, oracle) {
                Ok(plan) => sane(&plan, kernel),
                Err(error) => super::assert_line(error.line, &kernel.text, &error),
            }
        }
    }
}

fn sane(plan: &Plan, kernel: &Kernel) {
    assert!(!plan.launches.is_empty());
    let bytes: u64 = plan.buffers.iter().map(|buffer| buffer.bytes()).sum();
    assert!(bytes <= 16 << 30, "{bytes} bytes");
    for output in &plan.outputs {
        assert!(*output < plan.buffers.len(), "an output without a buffer");
    }
    for launch in &plan.launches {
        assert!(launch.entry < kernel.header.launches.len());
        assert!(launch.block.iter().product::<u32>() <= 1024);
        assert!(
            launch
                .grid
                .iter()
                .chain(&launch.block)
                .all(|size| *size > 0)
        );
        assert!(i64::from(launch.shared) <= MACHINE.max_shared_bytes);
        for argument in &launch.arguments {
            match argument {
                Argument::Buffer(index) => assert!(*index < plan.buffers.len()),
                Argument::Scalar(dtype, _) => assert!(dtype.bytes() >= DType::Bool.bytes()),
                _ => {}
            }
        }
    }
}

/// A point put in force is the one that is read back; nothing else of the header changes, and the family stays the same.
fn points(kernel: &Kernel, task: &Task) {
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
    for point in points.into_iter().take(MOST_POINTS) {
        let Some(text) = with_point(kernel, &point) else {
            continue;
        };
        let again = Kernel::parse(&text, &task.definition)
            .unwrap_or_else(|error| panic!("a point broke the header: {error}\n{text}"));
        assert_eq!(again.point(), point, "another point came back\n{text}");
        assert_eq!(again.space(), space);
        assert_eq!(again.header.launches, kernel.header.launches);
        assert_eq!(again.header.variants, kernel.header.variants);
        assert_eq!(again.header.scratch, kernel.header.scratch);
        assert_eq!(again.family(), family, "another family\n{text}");
    }
    for name in space.keys() {
        let foreign = IndexMap::from([(name.clone(), 987_654_321_987)]);
        let known = space[name].contains(&987_654_321_987);
        assert!(known || with_point(kernel, &foreign).is_none());
    }
}
