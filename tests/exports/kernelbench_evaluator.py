#!/usr/bin/env python3
"""Judges exported kernels with KernelBench's own `eval_kernel_against_ref`.

For each problem of a checkout of KernelBench: import it as a task, export a kernel of the task as `ModelNew`, and let KernelBench compile,
check and time it against the problem's own `Model`. Exit code 1: KernelBench rejects a kernel, or a step failed. Exit code 2: what the
machine lacks, KernelBench's imports or a GPU; everything before that has run.

    python3 tests/exports/kernelbench_evaluator.py --kforge target/release/kforge --checkout KernelBench 1:19 1:33 1:94 2:76 3:1
    python3 tests/exports/kernelbench_evaluator.py --checkout KernelBench --kernel my_relu.cu 1:19

A problem is LEVEL:NUMBER. Its kernel is the one that the import writes, or `--kernel`. Each problem has a process of its own, several at once
(`--jobs`), for `--limit` seconds at most, and its line is printed as soon as it ends. `--alone FILE`: see `alone.py`; only what KernelBench
times is under the lock. KernelBench's inputs are made on the GPU: on the CPU, those of a problem with a billion elements take minutes.

PyTorch's convolutions use TF32 unless they are told not to, and KernelBench does not tell them. Their error can be larger than its tolerance
for fp32. So a kernel that is rejected is judged again without TF32, and the line says so.

Needs a GPU, PyTorch, nvcc, and what `import kernelbench.eval` needs: besides PyTorch and NumPy that is pydantic. It also imports clients of
models and of the network, which judging does not use; where they are missing, modules that do nothing take their places. Without a network, packages
can be brought as wheels:

    python3 -m pip install --no-index --no-deps --target kernelbench-packages wheels/*.whl
    PYTHONPATH=kernelbench-packages python3 tests/exports/kernelbench_evaluator.py …
"""

import argparse
import concurrent.futures
import contextlib
import importlib.machinery
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import types

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import alone

ROOT = pathlib.Path(__file__).resolve().parents[2]
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


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
    kforge(arguments, ["tasks", "import", "kernelbench", arguments.checkout, "--level", level, "--problem", number, "--precision", arguments.precision], folder)
    (task,) = (folder / "tasks").iterdir()
    kernel = arguments.kernel or folder / "kernels" / task.name / "naive.cu"
    kforge(arguments, ["export", kernel, "--task", task.name, "--to", "kernelbench", "--output", folder / "exported"], folder)
    (export,) = (folder / "exported").glob("*.py")
    (source,) = (arguments.checkout / "KernelBench" / f"level{level}").glob(f"{number}_*.py")
    return task.name, export.read_text(), source.read_text()


# What KernelBench imports and judging does not use, with the names that it takes from each.
UNUSED = {"openai": ["OpenAI"], "litellm": ["completion"], "dotenv": ["load_dotenv"], "requests": [], "tqdm": ["tqdm"]}


def replace_unused():
    """Puts modules that do nothing in the places of those that are missing."""
    for name, attributes in UNUSED.items():
        try:
            __import__(name)
        except ImportError:
            module = types.ModuleType(name)
            # PyTorch looks up the specification of some of them.
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            for attribute in attributes:
                setattr(module, attribute, lambda *values, **options: None)
            sys.modules[name] = module


def import_evaluator(checkout):
    """KernelBench's function, or why it cannot be imported."""
    sys.path.insert(0, str(checkout / "src"))
    replace_unused()
    try:
        import torch
        from kernelbench.eval import eval_kernel_against_ref
    except ImportError as error:
        return None, f"missing: {error.name or error}, which KernelBench's evaluator imports"
    if not torch.cuda.is_available():
        return None, "missing: a GPU"
    alone.alone_in_kernelbench()
    return eval_kernel_against_ref, None


def warnings_of(export):
    """What KernelBench's static checker says of an export."""
    from kernelbench.kernel_static_checker import validate_kernel_static

    valid, errors, warnings = validate_kernel_static(export, backend="cuda")
    found = [*errors, *warnings]
    return f"; static checker: {'accepted' if valid else 'REFUSED'}{', ' if found else ''}{'; '.join(found)}"


def judge(evaluate, arguments, export, source, build):
    """KernelBench's result as a line."""
    import torch

    started = time.monotonic()
    for tf32 in (True, False):
        torch.backends.cudnn.allow_tf32 = tf32
        result = evaluate(
            source,
            export,
            num_correct_trials=arguments.correct_trials,
            num_perf_trials=arguments.timing_trials,
            measure_performance=True,
            backend="cuda",
            build_dir=str(build),
            precision=getattr(torch, PRECISIONS[arguments.precision]),
        )
        if result is not None and result.correctness:
            break
    else:
        raise Failed(f"KernelBench: {result}")
    took = time.monotonic() - started
    how = "compiled and correct" if tf32 else "compiled, and correct if PyTorch does not use TF32"
    times = f"{result.runtime} ms, its own PyTorch code {result.ref_runtime} ms; judged in {took:.0f} s"
    return f"{how}: {times}{warnings_of(export)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="+", metavar="LEVEL:NUMBER")
    parser.add_argument("--checkout", required=True, type=lambda path: pathlib.Path(path).resolve(), help="a checkout of KernelBench")
    parser.add_argument("--kforge", default=str(ROOT / "target/release/kforge"), type=lambda path: str(pathlib.Path(path).resolve()))
    parser.add_argument("--kernel", type=lambda path: pathlib.Path(path).resolve(), help="kernel of the only problem; default: naive.cu")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="how many problems are worked on at once")
    parser.add_argument("--limit", type=float, default=600, metavar="SECONDS", help="how long a problem may take")
    parser.add_argument("--correct-trials", type=int, default=5)
    parser.add_argument("--timing-trials", type=int, default=100)
    alone.add_argument(parser)
    arguments = parser.parse_args()
    alone.use(arguments)
    if arguments.kernel and len(arguments.problems) > 1:
        parser.error("--kernel is a kernel of one problem")
    if len(arguments.problems) > 1:
        sys.exit(judge_each(arguments))
    (problem,) = arguments.problems
    evaluate, missing = import_evaluator(arguments.checkout)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name) / "problem"
        try:
            task, text, source = model_new(arguments, problem, folder)
            os.environ.setdefault("MAX_JOBS", "2")
            line = judge(evaluate, arguments, text, source, folder / "build") if evaluate else "exported, not judged"
        except Failed as failed:
            print(f"{problem}: FAILED {failed}", flush=True)
            sys.exit(1)
    print(f"{problem} {task}: {line}", flush=True)
    if missing:
        print(missing)
    sys.exit(2 if missing else 0)


def judge_each(arguments):
    """Runs this script for each problem. Prints what each has found when it ends, and returns the highest exit code, 1 before 2."""
    others = [argument for argument in sys.argv[1:] if argument not in arguments.problems]
    children = set()

    def end(*_):
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        os._exit(1)

    signal.signal(signal.SIGTERM, end)

    def judged(problem):
        command = [sys.executable, __file__, *others, problem]
        # A group of its own: what it has started ends with it.
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        children.add(child)
        try:
            text, code = child.communicate(timeout=arguments.limit)[0], child.returncode
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            text, code = f"{child.communicate()[0]}\n{problem}: FAILED not judged in {arguments.limit:g} s", 1
        children.discard(child)
        lines = text.strip().splitlines()
        # With a failure, everything; else the lines about the problem and about what is missing.
        shown = lines if code not in (0, 2) else [line for line in lines if line.startswith((problem, "missing"))]
        print("\n".join(shown), flush=True)
        return code

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        codes = set(pool.map(judged, arguments.problems))
    return 1 if codes - {0, 2} else max(codes)


if __name__ == "__main__":
    main()
