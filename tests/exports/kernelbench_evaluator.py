#!/usr/bin/env python3
"""Judges exported kernels with KernelBench's own `eval_kernel_against_ref`.

For each problem of a checkout of KernelBench: import it as a task, export a kernel of the task as `ModelNew`, and let KernelBench compile,
check and time it against the problem's own `Model`. Exit code 1: KernelBench rejects a kernel, or a step failed. Exit code 2: what the
machine lacks, KernelBench's imports or a GPU; everything before that has run.

    python3 tests/exports/kernelbench_evaluator.py --kforge target/release/kforge --checkout KernelBench 1:19 1:23 1:26
    python3 tests/exports/kernelbench_evaluator.py --checkout KernelBench --kernel my_relu.cu 1:19

A problem is LEVEL:NUMBER. Its kernel is the one that the import writes, or `--kernel`. Problems without parameters only: KernelBench gives
`ModelNew` the inputs of `get_inputs()` and nothing else.

Needs a GPU, PyTorch, nvcc, and what `import kernelbench.eval` needs: besides PyTorch and NumPy these are requests, tqdm, pydantic, and the
clients `openai`, `litellm` and `python-dotenv`, which it imports although judging does not use them. Without a network they can be brought
as wheels:

    python3 -m pip install --no-index --no-deps --target kernelbench-packages wheels/*.whl
    PYTHONPATH=kernelbench-packages python3 tests/exports/kernelbench_evaluator.py …
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Failed(Exception):
    """A step failed, or KernelBench rejects the kernel."""


def kforge(arguments, command, folder):
    ended = subprocess.run([arguments.kforge, *map(str, command)], cwd=folder, capture_output=True, text=True)
    if ended.returncode != 0:
        raise Failed(f"kforge {command[0]} {command[1]}: {(ended.stderr or ended.stdout).strip()[-1500:]}")
    return ended.stdout


def model_new(arguments, problem, folder):
    """The text of the problem's `ModelNew`, and of the problem itself."""
    level, number = problem.split(":")
    folder.mkdir()
    kforge(arguments, ["tasks", "import", "kernelbench", arguments.checkout, "--level", level, "--problem", number], folder)
    (task,) = (folder / "tasks").iterdir()
    kernel = arguments.kernel or folder / "kernels" / task.name / "naive.cu"
    kforge(arguments, ["export", kernel, "--task", task.name, "--to", "kernelbench", "--output", folder / "exported"], folder)
    (export,) = (folder / "exported").glob("*.py")
    (source,) = (arguments.checkout / "KernelBench" / f"level{level}").glob(f"{number}_*.py")
    return task.name, export.read_text(), source.read_text()


def import_evaluator(checkout):
    """KernelBench's function, or why it cannot be imported."""
    sys.path.insert(0, str(checkout / "src"))
    try:
        import torch
        from kernelbench.eval import eval_kernel_against_ref
    except ImportError as error:
        return None, f"missing: {error.name or error}, which KernelBench's evaluator imports"
    if not torch.cuda.is_available():
        return None, "missing: a GPU"
    return eval_kernel_against_ref, None


def judge(evaluate, arguments, export, source):
    """KernelBench's result as a line."""
    with tempfile.TemporaryDirectory() as build:
        started = time.monotonic()
        result = evaluate(
            source,
            export,
            num_correct_trials=arguments.correct_trials,
            num_perf_trials=arguments.timing_trials,
            measure_performance=True,
            backend="cuda",
            build_dir=build,
        )
    if result is None or not result.correctness:
        raise Failed(f"KernelBench: {result}")
    took = time.monotonic() - started
    return f"compiled and correct: {result.runtime} ms, its own PyTorch code {result.ref_runtime} ms; judged in {took:.0f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="+", metavar="LEVEL:NUMBER")
    parser.add_argument("--checkout", required=True, type=lambda path: pathlib.Path(path).resolve(), help="a checkout of KernelBench")
    parser.add_argument("--kforge", default=str(ROOT / "target/release/kforge"), type=lambda path: str(pathlib.Path(path).resolve()))
    parser.add_argument("--kernel", type=lambda path: pathlib.Path(path).resolve(), help="kernel of the only problem; default: naive.cu")
    parser.add_argument("--correct-trials", type=int, default=5)
    parser.add_argument("--timing-trials", type=int, default=100)
    arguments = parser.parse_args()
    if arguments.kernel and len(arguments.problems) > 1:
        parser.error("--kernel is a kernel of one problem")
    evaluate, missing = import_evaluator(arguments.checkout)
    fine = True
    with tempfile.TemporaryDirectory() as name:
        for problem in arguments.problems:
            try:
                task, export, source = model_new(arguments, problem, pathlib.Path(name) / problem.replace(":", "-"))
                line = judge(evaluate, arguments, export, source) if evaluate else "exported, not judged"
            except Failed as failed:
                fine, task, line = False, "", f"FAILED {failed}"
            print(f"{problem} {task}: {line}", flush=True)
    if missing:
        print(missing)
    sys.exit(1 if not fine else 2 if missing else 0)


if __name__ == "__main__":
    main()
