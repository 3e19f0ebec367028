//! `kforge bench`: judges a set of kernels for the problems of another benchmark, one file per benchmark.

use super::bench_kernelbench::{self, KernelBenchArgs};
use super::exit::{self, Exit};

/// Arguments of `kforge bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, clap::Subcommand)]
enum Benchmark {
    /// Judge a kernel for each problem of a level of KernelBench.
    #[command(name = "kernelbench", after_help = bench_kernelbench::help())]
    KernelBench(KernelBenchArgs),
}

const NOTE: &str = "\
Imports the problems that are no tasks yet, judges one kernel for each, and
writes results in the benchmark's own format.";

fn help() -> String {
    exit::help(
        NOTE,
        &[
            (
                "kforge bench kernelbench KernelBench --level 1",
                "the best known kernels of a level",
            ),
            (
                "kforge bench kernelbench KernelBench --level 1 --steps 200",
                "a search for each problem first",
            ),
        ],
        exit::BENCH_CODES,
    )
}

pub(super) fn run(arguments: &BenchArgs) -> anyhow::Result<Exit> {
    match &arguments.benchmark {
        Benchmark::KernelBench(arguments) => bench_kernelbench::run(arguments),
    }
}
