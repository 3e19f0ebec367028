#!/usr/bin/env python3
"""Runs exported solutions through the benchmark of FlashInfer-Bench, and compares its latency with kforge's.

Makes a dataset of the kernel's task with both bindings, lets FlashInfer-Bench check and time every workload, and prints its latency beside
that of the exported program (`standalone`), which also times single launches by events with a cold cache, and that of `kforge eval`, which
leaves launching out. Exit code 1: a workload does not pass. `--alone FILE`: see `alone.py`; both solutions are built before FlashInfer-Bench
runs, but its own process starts while the file is locked.

    python3 tests/exports/flashinfer_bench_runner.py --kforge target/release/kforge kernels/gdn_decode/best.cu

Needs a GPU, PyTorch, nvcc and flashinfer_bench 0.1.2. Its random inputs are standard normal, so the task must be stable on them:
`gdn_decode` is, `gdn_prefill` is not.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import alone
from run_on_gpu import ROOT, export, nvcc, nvcc_options, run_command, task_of

BINDINGS = ["tvm-ffi", "torch"]
# How long FlashInfer-Bench may hold the lock, in seconds.
RUN_LIMIT = 60


def make_dataset(arguments, task, kernel, root):
    """A folder as FlashInfer-Bench reads it."""
    name = task.definition["name"]
    operator = task.definition.get("op_type", "kernel")
    source = ROOT / "tasks" / task.name
    for part in ("definitions", "workloads", "solutions"):
        (root / part / operator).mkdir(parents=True)
    shutil.copy(source / "definition.json", root / "definitions" / operator / f"{name}.json")
    shutil.copy(source / "workloads.jsonl", root / "workloads" / operator / f"{name}.jsonl")
    for binding in BINDINGS:
        export(arguments.kforge, kernel, task, f"flashinfer-{binding}", root / "solutions" / operator / name)


def run_benchmark(root):
    """Latencies in microseconds, or the status of a workload that does not pass: by solution and workload."""
    os.environ["FIB_CACHE_PATH"] = str(root / "cache")
    from flashinfer_bench.bench import Benchmark, BenchmarkConfig
    from flashinfer_bench.compile import BuilderRegistry
    from flashinfer_bench.data import TraceSet

    dataset = TraceSet.from_path(str(root))
    # Into the folder where the benchmark looks for them.
    for name, solutions in dataset.solutions.items():
        for solution in solutions:
            with contextlib.suppress(Exception):  # The benchmark reports what does not build.
                BuilderRegistry.get_instance().build(dataset.definitions[name], solution)
    benchmark = Benchmark(dataset, BenchmarkConfig(profile_baseline=False))
    results = {}
    with alone.alone(RUN_LIMIT):
        ran = benchmark.run_all(dump_traces=False)
    for traces in ran.traces.values():
        for trace in traces:
            evaluation = trace.evaluation
            status = evaluation.status.value
            value = evaluation.performance.latency_ms * 1e3 if status == "PASSED" else f"{status}: {(evaluation.log or '')[-800:]}"
            results[(trace.solution, trace.workload.uuid)] = value
    return results


def program_times(arguments, task, kernel, folder):
    """What the exported program measures, by workload, in microseconds."""
    export(arguments.kforge, kernel, task, "standalone", folder)
    source = folder / f"{task.exported}.cu"
    run_command([nvcc(), *nvcc_options(source), source, "-o", folder / "program"])
    with alone.alone():
        text = run_command([folder / "program"])
    return {name: float(time) for name, time in re.findall(r"^(\S+) +([0-9.]+) us median", text, re.M)}


def kforge_times(arguments, task, kernel):
    command = [arguments.kforge, "eval", task.name, kernel, "--profile", "full", "--backend", "cuda", "--format", "json"]
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    verdict = json.loads(ended.stdout or "[]")
    verdict = verdict[0] if isinstance(verdict, list) else verdict
    return {case["id"]: case["candidate_us"]["median"] for case in verdict["workloads"] if case.get("candidate_us")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="+")
    parser.add_argument("--kforge", default=str(ROOT / "target/release/kforge"))
    parser.add_argument("--task")
    parser.add_argument("--workload", help=argparse.SUPPRESS)
    alone.add_argument(parser)
    arguments = parser.parse_args()
    alone.use(arguments)
    fine = True
    for kernel in arguments.kernels:
        task = task_of(arguments, kernel)
        with tempfile.TemporaryDirectory() as name:
            root = pathlib.Path(name) / "dataset"
            make_dataset(arguments, task, kernel, root)
            program = program_times(arguments, task, kernel, pathlib.Path(name) / "program")
            own = kforge_times(arguments, task, kernel)
            print(f"{kernel}: microseconds\n  {'solution':44} {'workload':20} {'runner':>9} {'program':>9} {'kforge':>9}", flush=True)
            results = run_benchmark(root)
            for (solution, workload), value in results.items():
                columns = [value, program.get(workload, float("nan")), own.get(workload, float("nan"))]
                if isinstance(value, str):
                    fine = False
                    print(f"  {solution:44} {workload:20} {value}", flush=True)
                else:
                    print(f"  {solution:44} {workload:20} " + " ".join(f"{column:9.2f}" for column in columns), flush=True)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
