#!/usr/bin/env python3
"""Searches without models, with one or several kforge programs in turn: python3 benches/search.py [options] TASK... -- PROGRAM...

Every program gets the same tasks, seeds and time. Prints one JSON document, and a line per search to standard error:
candidates a minute, the best kernel, the comparison with the best starting kernel, and where the seconds went.

  --backend cpu|cuda     (cpu)
  --seconds N            `budget.seconds` of each search (80)
  --seeds A,B,...        (1)
  --config FILE          instead of TASK...: the search of a file, with its own budget
  --set KEY=VALUE        passed on; may be repeated
"""
import json
import os
import subprocess
import sys
import tempfile
import time


def options(arguments):
    found = {"backend": "cpu", "seconds": "80", "seeds": "1", "config": None, "set": []}
    tasks = []
    arguments = iter(arguments)
    for argument in arguments:
        if argument == "--set":
            found["set"].append(next(arguments))
        elif argument.startswith("--"):
            found[argument[2:]] = next(arguments)
        else:
            tasks.append(argument)
    return found, tasks


def counts(folder, task):
    """Judged candidates, how many were dismissed, and the seconds of the stages."""
    judged, dismissed, statuses, seconds, duplicates = 0, 0, {}, {}, 0
    for line in open(os.path.join(folder, task, "events.jsonl")):
        event = json.loads(line)
        duplicates += event["event"] == "failed" and event.get("reason") == "duplicate"
        if event["event"] != "judged":
            continue
        verdict = event["verdict"]
        judged += 1
        dismissed += verdict.get("timing") == "dismissed"
        statuses[verdict["status"]] = statuses.get(verdict["status"], 0) + 1
        for stage, value in verdict["seconds"].items():
            if isinstance(value, (int, float)):
                seconds[stage] = seconds.get(stage, 0.0) + value
    stages = {stage: round(value, 1) for stage, value in seconds.items() if value >= 0.05}
    return {"judged": judged, "dismissed": dismissed, "duplicates": duplicates, "statuses": statuses, "seconds": stages}


def search(program, task, seed, found, folder):
    output = os.path.join(folder, f"{os.path.basename(program)}-{task}-{seed}-{time.time_ns()}")
    command = [program, "evolve"]
    if found["config"]:
        command += ["--config", found["config"]]
    else:
        command += [task, "--budget-seconds", found["seconds"], "--steps", "100000"]
    command += ["--backend", found["backend"], "--no-model", "--seed", str(seed), "--output", output]
    for pair in found["set"]:
        command += ["--set", pair]
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    wall = time.monotonic() - begun
    result = {"program": program, "task": task, "seed": seed, "wall_s": round(wall, 1), "exit": done.returncode}
    try:
        summary = json.load(open(os.path.join(output, "summary.json")))["tasks"][0]
    except (OSError, ValueError, LookupError):
        return {**result, "error": done.stderr[-2000:]}
    result.update(counts(output, summary.get("task", task)))
    result["candidates_a_minute"] = round(60 * (result["judged"] + result["duplicates"]) / wall, 1)
    best = summary.get("best")
    result["best"] = best and {"speedup": best.get("speedup"), "step": best.get("step")}
    result["against_start"] = summary.get("against_start")
    result["headline"] = summary.get("headline")
    return result


def main():
    if "--" not in sys.argv:
        sys.exit(__doc__)
    split = sys.argv.index("--")
    found, tasks = options(sys.argv[1:split])
    programs = sys.argv[split + 1:]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in found["seeds"].split(","):
            for task in tasks or [os.path.basename(found["config"]).split(".")[0]]:
                for program in programs:
                    results.append(search(program, task, seed, found, folder))
                    print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"cores": os.cpu_count(), "load": os.getloadavg(), "searches": results}, indent=1))


if __name__ == "__main__":
    main()
