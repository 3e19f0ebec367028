//! Fuzzes the judge: generates hostile kernels with honest twins, and judges both.
//!
//! A hostile kernel that passes and is faster than its twin is a fault of the judge. So is a worker that breaks, and an honest twin
//! that is accused of something. A kernel is named by its seed, in one version of this program.
//!
//! `cargo test` judges a small sample. `.ci/run` judges `KFORGE_HOSTILE_KERNELS`, 150 without the
//! variable, from seed `KFORGE_HOSTILE_FIRST` on, 1 without it. By hand:
//!
//! ```text
//! cargo test --test hostile -- --count 2000                    # on the CPU
//! cargo test --test hostile -- --count 500 --backend cuda --limit 300   # ends after 300 seconds at the latest, with its table
//! cargo test --test hostile -- --count 100 --part "scratch" --backend cuda --eval "--cache hot"
//! cargo test --test hostile -- --seed 17 [--backend cuda]      # judges one pair
//! cargo test --test hostile -- --print 17 [--twin]             # prints one kernel
//! ```
//!
//! For a machine with a GPU and without cargo: `KFORGE_TEST_BINARY` is the program, `KFORGE_TEST_ROOT` the repository. If
//! `CUDA_VISIBLE_DEVICES` names several GPUs, each gets programs of its own.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for developers: it prints kernels and tables"
)]

mod abuses;
mod breaks;
mod channels;
mod coverage;
mod detectors;
mod kept;
mod kernels;
mod launches;
mod options;
mod phases;
mod report;
mod runner;
mod sketch;
mod stored;
mod tests;

use std::io::Write;
use std::process::ExitCode;

use crate::kernels::{HostileKernel, select};
use crate::options::{Options, Task};
use crate::runner::Runner;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match Options::parse(&arguments) {
        // No option of this program: these are options of `cargo test`.
        None => tests::run(),
        Some(Ok(options)) => run(&options),
        Some(Err(message)) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> ExitCode {
    let kernels = match options.task {
        Task::Print { seed, twin } => {
            let kernel = HostileKernel::generate(seed, options.backend);
            print!("{}", if twin { kernel.twin } else { kernel.source });
            return ExitCode::SUCCESS;
        }
        Task::List { first, count } => {
            for kernel in select(first, count, options.backend, options.part.as_deref()) {
                println!(
                    "{}\t{}\t{}\t{}",
                    kernel.seed,
                    kernel.part,
                    kernel.computation.name(),
                    kernel.what
                );
            }
            return ExitCode::SUCCESS;
        }
        Task::Judge { first, count } => {
            select(first, count, options.backend, options.part.as_deref())
        }
    };
    let is_single = kernels.len() == 1;
    let runner = Runner::new(
        options.backend,
        options.programs,
        options.eval.clone(),
        options.limit,
    );
    let report = report::judge(&runner, kernels, options.limit, |line| {
        println!("{line}");
        // A run may be ended before its table.
        let _ = std::io::stdout().flush();
    });
    if is_single {
        print!("{}", report.details());
    } else {
        print!("{}", report.table());
    }
    let (faults, accused) = (report.faults(), report.accused());
    for (title, lines) in [
        ("faults of the judge", &faults),
        ("honest twins that were accused", &accused),
    ] {
        println!("\n{}: {}", title, lines.len());
        for line in lines {
            println!("  {line}");
        }
    }
    if faults.is_empty() && accused.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
