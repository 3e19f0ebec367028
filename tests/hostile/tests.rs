//! The tests that `cargo test` runs: properties of the generator, and a sample of kernels that the judge must not let gain.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use kforge::kernel::Kernel;
use kforge::task::TaskFiles;
use libtest_mimic::{Arguments, Trial};

use crate::kernels::{HostileKernel, parts, select};
use crate::report;
use crate::runner::{Runner, task_folder};
use crate::sketch::{Backend, COMPUTATIONS};

/// Seeds of the sample: a variable, scratch, a wrong result, a read out of bounds. Always the same, so that a failure is due to a
/// change.
const SAMPLE: [(u64, &str); 4] = [
    (0, "device variable"),
    (10, "scratch"),
    (30, "wrong somewhere"),
    (38, "stray read"),
];

pub(crate) fn run() -> ExitCode {
    let tests = vec![
        Trial::test("a_seed_names_one_kernel", || {
            a_seed_names_one_kernel();
            Ok(())
        }),
        Trial::test("kernels_are_distinct_and_have_headers", || {
            kernels_are_distinct_and_have_headers();
            Ok(())
        }),
        Trial::test("sample_gains_nothing", || {
            sample_gains_nothing();
            Ok(())
        }),
        Trial::test("a_run_ends_at_its_limit_with_a_table", || {
            a_run_ends_at_its_limit_with_a_table();
            Ok(())
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn a_seed_names_one_kernel() {
    for backend in [Backend::Cpu, Backend::Cuda] {
        let one = select(40, 60, backend, None);
        assert_eq!(one, select(40, 60, backend, None));
        assert_eq!(one[7], select(47, 1, backend, None)[0]);
        let names: BTreeSet<_> = parts(backend).iter().map(|part| part.name()).collect();
        let found: BTreeSet<_> = one.iter().map(|kernel| kernel.part).collect();
        assert_eq!(found, names, "every part is in any long enough range");
    }
}

fn kernels_are_distinct_and_have_headers() {
    let tasks = COMPUTATIONS.map(|computation| {
        let files = TaskFiles::find(task_folder(computation).to_str().unwrap()).unwrap();
        (computation, files.load().unwrap())
    });
    for backend in [Backend::Cpu, Backend::Cuda] {
        let kernels = select(0, 500, backend, None);
        // Without the comment, which holds the seed.
        let without_comment = |source: &str| {
            source
                .split_once("*/\n")
                .unwrap()
                .1
                .split_once('\n')
                .unwrap()
                .1
                .to_owned()
        };
        let distinct: BTreeSet<_> = kernels
            .iter()
            .map(|kernel| without_comment(&kernel.source))
            .collect();
        assert!(distinct.len() > 420, "{} distinct kernels", distinct.len());
        for kernel in &kernels {
            let (_, task) = tasks
                .iter()
                .find(|(computation, _)| *computation == kernel.computation)
                .unwrap();
            for source in [&kernel.source, &kernel.twin] {
                Kernel::parse(source, &task.definition)
                    .unwrap_or_else(|error| panic!("seed {}: {error}", kernel.seed));
            }
        }
    }
}

fn sample_gains_nothing() {
    let backend = Backend::Cpu;
    let kernels = SAMPLE.map(|(seed, part)| {
        let kernel = HostileKernel::generate(seed, backend);
        assert_eq!(kernel.part, part, "seed {seed}");
        kernel
    });
    let runner = Runner::new(backend, 2, Vec::new(), None);
    let report = report::judge(&runner, kernels.to_vec(), None, |_| {});
    let wrong = [report.faults(), report.accused()].concat();
    assert!(wrong.is_empty(), "{}\n{}", report.table(), wrong.join("\n"));
}

fn a_run_ends_at_its_limit_with_a_table() {
    let limit = Duration::from_secs(2);
    let kernels = select(0, 500, Backend::Cpu, None);
    let started = Instant::now();
    let runner = Runner::new(Backend::Cpu, 2, Vec::new(), Some(limit));
    let report = report::judge(&runner, kernels, Some(limit), |_| {});
    let took = started.elapsed();
    assert!(took < limit + Duration::from_secs(20), "{took:?}");
    assert!(report.faults().is_empty(), "{:?}", report.faults());
    let table = report.table();
    assert!(
        table.contains("kernels were not judged for lack of time"),
        "{table}"
    );
}
