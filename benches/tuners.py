#!/usr/bin/env python3
"""Compares kforge's `autotune` with the search strategies of Kernel Tuner on recorded spaces.

    python3 -m venv target/tuners && target/tuners/bin/pip install kernel-tuner==1.5.0
    cargo bench --bench autotune > target/tuners/kforge.jsonl
    target/tuners/bin/python benches/tuners.py run --output target/tuners/kernel_tuner.jsonl
    target/tuners/bin/python benches/tuners.py table target/tuners/*.jsonl > benches/results/autotune.md

`run` searches each space of `benches/spaces/recorded` with Kernel Tuner in simulation mode, without a device, and appends one line for
each search. It skips searches that the output has already, so that it continues after an interruption. `table` needs no Kernel Tuner.

Both sides count the same: different points that were evaluated, in order. A point that fails counts, a point that is asked for again does
not, and a point that violates a constraint is never evaluated. `docs/kernel-files.md` describes constraints; Kernel Tuner gets those of the
kernel's header, and the launch limits, as restrictions. With `--unconstrained` both get none, and such points count as failures.
"""

import argparse
import contextlib
import json
import os
import random
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SPACES = ROOT / "benches" / "spaces"
STRATEGIES = [
    "random_sample",
    "greedy_ils",
    "genetic_algorithm",
    "simulated_annealing",
    "pso",
    "diff_evo",
    "bayes_opt",
]
# Points that a search may evaluate. The Bayesian strategy takes seconds for each of its later points.
BUDGET = 600
BUDGETS = {"bayes_opt": 200}
# Iterations that no budget reaches: by default some strategies end before.
OPTIONS = {"genetic_algorithm": {"maxiter": 500}, "pso": {"maxiter": 500}}
CHECKPOINTS = [50, 100, 200]
RESAMPLES = 2000


def constraints(kernel):
    """The constraints in the header of a kernel: expressions that Python can evaluate too."""
    text = (SPACES / f"{kernel}.cu").read_text()
    line = re.search(r"^constraints: (.*)$", text.split("*/")[0], re.MULTILINE)
    return [part.strip() for part in line.group(1).split(",")] if line else []


def constant_axes(task):
    """The sizes of the axes that constraints may name."""
    definition = json.loads((ROOT / "tasks" / task / "definition.json").read_text())
    return {name: axis["value"] for name, axis in definition["axes"].items() if axis["type"] == "const"}


class Space:
    """A recorded space: a cache file of Kernel Tuner. A point that the file lacks violates a constraint."""

    def __init__(self, name, path, constrained):
        data = json.loads(path.read_text())
        self.name = name
        self.path = path
        self.kernel = data["kernel_name"]
        self.problem_size = data["problem_size"]
        self.tunables = data["tune_params"]
        self.constrained = constrained
        self.times = {}
        self.allowed = set()
        # Files of others have no kernel here: what they lack violates a constraint.
        is_own = "kforge" in data
        axes = constant_axes(data["kforge"]["task"]) if is_own else {}
        texts = constraints(self.kernel) if is_own else []
        conditions = [compile(text, self.kernel, "eval") for text in texts]
        for key, entry in data["cache"].items():
            values = {name: entry[name] for name in self.tunables}
            self.times[key] = None if isinstance(entry["time"], str) else entry["time"]
            # The header's launch expressions show the others before anything is compiled.
            is_valid = entry.get("invalidity") != "constraints" and all(eval(one, axes, values) for one in conditions)
            if is_valid or not constrained:
                self.allowed.add(key)
        self.optimum = min(time for time in self.times.values() if time)

    def restriction(self, values):
        return ",".join(str(values[name]) for name in self.tunables) in self.allowed


def search(space, strategy, seed):
    """The improvements of one search: the number of the evaluation, and the time."""
    import numpy
    from kernel_tuner import tune_kernel

    random.seed(seed)
    numpy.random.seed(seed)
    budget = BUDGETS.get(strategy, BUDGET)
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        results, _ = tune_kernel(
            space.kernel,
            "",
            space.problem_size,
            [],
            space.tunables,
            restrictions=space.restriction if space.constrained else None,
            strategy=strategy,
            strategy_options={"max_fevals": budget, **OPTIONS.get(strategy, {})},
            cache=str(space.path),
            simulation_mode=True,
            quiet=True,
        )
    # A strategy may ask for a point again. Kernel Tuner then lists it again.
    seen, best, improvements = set(), None, []
    for result in results:
        key = ",".join(str(result[name]) for name in space.tunables)
        if key in seen:
            continue
        seen.add(key)
        time = space.times[key]
        if time and (best is None or time < best):
            best = time
            improvements.append([len(seen), time])
    return {"evaluations": len(seen), "budget": budget, "improvements": improvements}


def spaces(arguments):
    if not arguments.spaces:
        paths = sorted((SPACES / "recorded").glob("*.json"))
        return [Space(path.stem, path, not arguments.unconstrained) for path in paths]
    entries = json.loads(Path(arguments.spaces).read_text())
    folder = Path(arguments.spaces).parent
    return [Space(entry["name"], folder / entry["path"], not arguments.unconstrained) for entry in entries]


def run(arguments):
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    done = set()
    if output.exists():
        for line in output.read_text().splitlines():
            one = json.loads(line)
            done.add((one["space"], one["constrained"], one["strategy"], one["seed"]))
    strategies = arguments.strategies.split(",") if arguments.strategies else STRATEGIES
    chosen = spaces(arguments)
    with output.open("a") as lines:
        for strategy in strategies:
            for space in chosen:
                for seed in range(arguments.seeds):
                    if (space.name, space.constrained, strategy, seed) in done:
                        continue
                    found = search(space, strategy, seed)
                    found = {
                        "space": space.name,
                        "constrained": space.constrained,
                        "strategy": strategy,
                        "seed": seed,
                        "optimum": space.optimum,
                        **found,
                    }
                    lines.write(json.dumps(found) + "\n")
                    lines.flush()


def evaluations_to(one, factor):
    """The evaluation that came within a factor of the optimum; infinite if none did."""
    limit = one["optimum"] * factor
    return next((at for at, time in one["improvements"] if time <= limit), float("inf"))


def best_after(one, count):
    """The best time after some evaluations over the optimum."""
    times = [time for at, time in one["improvements"] if at <= count]
    return min(times) / one["optimum"] if times else float("inf")


def interval(values, generator):
    """The 95 % bootstrap interval of the median."""
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]


def count_text(value, budget):
    return f"> {budget}" if value == float("inf") else f"{value:.0f}"


def cell(values, budget, generator):
    low, high = interval(values, generator)
    middle = count_text(statistics.median(values), budget)
    return f"{middle} ({count_text(low, budget)} to {count_text(high, budget)})"


def table(arguments):
    searches = {}
    for path in arguments.files:
        for line in Path(path).read_text().splitlines():
            one = json.loads(line)
            key = (one["space"], one["constrained"])
            searches.setdefault(key, {}).setdefault(one["strategy"], []).append(one)
    print((ROOT / "benches" / "results" / "autotune_head.md").read_text(), end="")
    for (space, constrained), strategies in sorted(searches.items(), key=lambda entry: (not entry[0][1], entry[0][0])):
        known = "constraints known" if constrained else "constraints unknown"
        print(f"\n## {space}, {known}\n")
        print("| strategy | seeds | to 1 % | to 5 % | " + " | ".join(f"best after {count}" for count in CHECKPOINTS) + " |")
        print("| --- | --- | --- | --- | " + " | ".join("---" for _ in CHECKPOINTS) + " |")
        rows = []
        for strategy, found in strategies.items():
            generator = random.Random(1)
            budget = found[0]["budget"]
            counts = [[evaluations_to(one, factor) for one in found] for factor in (1.01, 1.05)]
            cells = [cell(values, budget, generator) for values in counts]
            for count in CHECKPOINTS:
                excess = statistics.median(best_after(one, count) for one in found)
                cells.append("none" if excess == float("inf") else f"+{(excess - 1) * 100:.1f} %")
            rows.append((statistics.median(counts[0]), statistics.median(counts[1]), strategy, len(found), cells))
        for *_, strategy, seeds, cells in sorted(rows):
            print(f"| {strategy} | {seeds} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="search the recorded spaces with Kernel Tuner")
    runs.add_argument("--output", required=True, help="file of JSON lines; an existing one is continued")
    runs.add_argument("--seeds", type=int, default=20)
    runs.add_argument("--strategies", help="with commas; default: all")
    runs.add_argument("--unconstrained", action="store_true", help="points that violate constraints are evaluated and fail")
    runs.add_argument("--spaces", help="list of spaces, as `benches/autotune.rs` describes it; default: those of the repository")
    runs.set_defaults(action=run)
    tables = commands.add_parser("table", help="print the comparison of searches")
    tables.add_argument("files", nargs="+")
    tables.set_defaults(action=table)
    arguments = parser.parse_args()
    arguments.action(arguments)


if __name__ == "__main__":
    sys.exit(main())
