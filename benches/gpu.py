#!/usr/bin/env python3
"""How fast kforge judges on a GPU, and whether its intervals hold:
python3 benches/gpu.py [gelu] [gdn] [stream] [self] [corpus] [evolve] [evolve-gdn] [lose] [dismissed] [--runs N] [--seconds N] [--keep DIR].

Runs the release binary (KFORGE_BINARY, else target/release/kforge) from the repository's root and prints one JSON document; a summary
goes to standard error. Needs a GPU and Python's standard library. Results that were measured are kept in benches/results/.
"""
import concurrent.futures
import datetime
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

BINARY = os.environ.get("KFORGE_BINARY", "target/release/kforge")
# Microseconds of a plain kernel, best of 1, 2, 4, 8 rows a warp, on an H200: graphs of calls over rotating data, cold caches.
PLAIN = {"b1": 2.11, "b4": 3.25, "b8": 4.44, "b16": 6.55, "b32": 11.65, "b48": 16.04, "b64": 20.39}


def option(name, default):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


# How long each search of `lose` lasts, and where its run stays for `dismissed`.
SECONDS, KEEP = int(option("--seconds", 45)), option("--keep", None)


def judge(task, kernels, *options, log="warn"):
    """Verdicts, seconds of wall time, and the log."""
    begun = time.monotonic()
    done = subprocess.run([BINARY, "eval", task, *kernels, "--backend", "cuda", "--format", "json", *options],
                          capture_output=True, text=True, env={**os.environ, "KFORGE_LOG": log, "NO_COLOR": "1"})
    seconds = time.monotonic() - begun
    try:
        return json.loads(done.stdout), seconds, done.stderr
    except ValueError:
        sys.exit(f"{task}: {done.stderr or done.stdout}")


def uncached_copy(folder, path, number):
    """A copy of a kernel that no cache has seen."""
    text = open(path).read()
    copy = os.path.join(folder, f"{number}-{os.path.basename(path)}")
    with open(copy, "w") as file:
        file.write(text + f"\n// candidate {number} of {time.time_ns()}\n")
    return copy


def timed(verdict):
    return [one for one in verdict["workloads"] if not one["hidden"]]


def gelu(folder, _):
    """One new kernel: compile, five rounds of fresh inputs, hidden shapes, a hundred paired launches on 8192 x 8192."""
    walls = []
    for number in range(6):
        # One kernel alone: the driver starts 0.1 s later while the process of the run before still gives its memory back.
        time.sleep(1.0)
        verdicts, seconds, log = judge("gelu", [uncached_copy(folder, "kernels/gelu/vectors.cu", number)], "--profile", "large", log=LOCK_LOG)
        verdict = verdicts[0]
        if verdict["status"] != "passed":
            sys.exit(f"gelu: {verdict['status']}: {verdict['reason']} {verdict['evidence']}")
        # The first run also compiles the judge's own code and the oracle, and measures the card's peaks.
        walls.append({"wall_s": round(seconds, 3), "status": verdict["status"], "seconds": verdict["seconds"], "start": start_parts(log),
                      "pairs": timed(verdict)[0]["candidate_us"]["n"], "kernel_us": timed(verdict)[0]["candidate_us"]["median"],
                      "checked_share": verdict["checked_share"]})
    best = sorted(one["wall_s"] for one in walls[1:])
    return {"runs": walls, "median_wall_s": best[len(best) // 2], "first_wall_s": walls[0]["wall_s"]}


def gdn(folder, _):
    """The plain float4 decoding kernel at every batch size."""
    verdicts, seconds, _ = judge("gdn_decode", [uncached_copy(folder, "kernels/gdn_decode/streaming.cu", 0)], "--profile", "full")
    times = {one["id"]: one["candidate_us"]["median"] for one in timed(verdicts[0])}
    return {"status": verdicts[0]["status"], "wall_s": round(seconds, 3), "kernel_us": times,
            "of_plain": {name: round(times[name] / PLAIN[name], 3) for name in times if name in PLAIN},
            "roofline": {one["id"]: one["roofline"] for one in timed(verdicts[0])}}


# Where the time of a process goes that is no part of a verdict: holding the timing lock, and starting.
LOCK_LOG = "kforge::eval::timing_lock=debug,kforge::worker::server=debug"


def lock_spans(log):
    """Each time in which a process held the timing lock: start, end, how, and the seconds it had waited, if the log says so."""
    spans = []
    for line in log.splitlines():
        found = re.match(r"\s*(\S+Z)\s+DEBUG .*timing lock held (shared for setup|shared for opening|shared|exclusively) for (\d+) us(?: after a wait of (\d+))?", line)
        if found:
            end = datetime.datetime.fromisoformat(found[1].replace("Z", "+00:00")).timestamp()
            spans.append((end - int(found[3]) / 1e6, end, found[2], int(found[4] or 0) / 1e6))
    return sorted(spans)


def union(spans, begun=0.0):
    """Seconds that at least one of the spans covers, from `begun` on."""
    total, reached = 0.0, begun
    for start, end, *_ in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def lock_use(log, begun, ended):
    """What the timing lock was used for between two moments: shares of the time, and seconds of all processes together."""
    spans = [span for span in lock_spans(log) if span[1] > begun]
    wall = max(ended - begun, 1e-9)
    of = lambda how: [span for span in spans if span[2].startswith(how)]
    exclusive = union(of("exclusively"), begun)
    result = {"busy": round(union(spans, begun) / wall, 3), "exclusive": round(exclusive / wall, 3)}
    for how in ["exclusively", "shared for opening", "shared for setup", "shared"]:
        mine = [span for span in spans if span[2] == how]
        waits = [span[3] for span in mine] or [0.0]
        result[how] = {"times": len(mine), "held_s": round(sum(end - start for start, end, *_ in mine), 2),
                       "waited_s": round(sum(waits), 2), "longest_wait_s": round(max(waits), 2)}
    return result


def start_parts(log):
    """Seconds of the parts of a worker's start, median and all: driver, wait for the lock, device, compiled references, baseline."""
    found = re.findall(r"started: driver (\S+), wait for the lock (\S+), device (\S+), references (\S+), baseline (\S+)", log)
    def seconds(text):
        number, unit = re.match(r"([\d.]+)(\D+)", text).groups()
        return float(number) * {"s": 1.0, "ms": 1e-3, "ns": 1e-9}.get(unit, 1e-6)
    columns = list(zip(*[[seconds(part) for part in row] for row in found]))
    names = ["driver", "wait", "device", "references", "baseline"]
    return {"starts": len(found), **{name: round(sorted(column)[len(column) // 2], 3) for name, column in zip(names, columns)},
            "all_s": {name: round(sum(column), 1) for name, column in zip(names, columns)}}


def add_parts(verdicts):
    """The seconds of all judgements by part, the largest first."""
    parts = {}
    for verdict in verdicts:
        for name, seconds in verdict["seconds"]["parts"].items():
            parts[name] = parts.get(name, 0.0) + seconds
    return {name: round(seconds, 2) for name, seconds in sorted(parts.items(), key=lambda part: -part[1])[:16]}


def corpus(folder, _):
    """All kernels of `tests/fixtures/gpu` once, two programs at a time, as the test of the corpus judges them."""
    root = "tests/fixtures/gpu"
    rows = [line.split("\t") for line in open(os.path.join(root, "expected.tsv")) if line.strip() and not line.startswith("#")]
    tasks = {}
    for file, task, *_ in rows:
        tasks.setdefault((file.startswith("bomb_"), task), []).append(os.path.join(root, file))
    groups = [(task, kernels[first:first + 40]) for (_, task), kernels in tasks.items() for first in range(0, len(kernels), 40)]
    groups.sort(key=lambda group: (not group[1][0].startswith(os.path.join(root, "bomb_")), -len(group[1])))
    options = ["--profile", "quick", "--launch-seconds", "0.2", "--seconds=0.1", "--precision=0.2"]
    begun = time.time()
    with concurrent.futures.ThreadPoolExecutor(2) as programs:
        judged = list(programs.map(lambda group: judge(os.path.join(root, "tasks", group[0]), group[1], *options, log=LOCK_LOG), groups))
    ended = time.time()
    log = "".join(log for *_, log in judged)
    verdicts = [verdict for verdicts, *_ in judged for verdict in verdicts]
    expected = {row[0]: {row[2], *row[3].split(",")} for row in rows}
    unexpected = [f"{os.path.basename(one['kernel'])}: {one['status']}" for one in verdicts
                  if one["status"] not in expected[os.path.basename(one["kernel"])]]
    return {"kernels": len(verdicts), "wall_s": round(ended - begun, 1), "unexpected": unexpected, "parts": add_parts(verdicts),
            "starts": start_parts(log), "lock": lock_use(log, begun, ended)}


def evolve(folder, _, tasks=("gdn_decode", "softmax")):
    """A search of a minute on each task, without models."""
    found = {}
    for task in tasks:
        output = os.path.join(folder, f"run-{task}")
        begun = time.time()
        done = subprocess.run([BINARY, "evolve", task, "--backend", "cuda", "--no-model", "--seed", "1", "--budget-seconds", "60", "--output", output],
                              capture_output=True, text=True, env={**os.environ, "KFORGE_LOG": LOCK_LOG, "NO_COLOR": "1"})
        ended = time.time()
        try:
            one = json.load(open(os.path.join(output, "summary.json")))["tasks"][0]
        except OSError:
            sys.exit(f"{task}: {done.stderr[-2000:]}")
        spans = lock_spans(done.stderr)
        kept = ["judged", "passed", "dismissed", "candidates_per_minute", "seconds", "search_seconds", "time", "headline"]
        found[task] = {**{name: one[name] for name in kept}, "duplicates": one["by_failure"].get("duplicate", 0), "wall_s": round(ended - begun, 1),
                       "starts": start_parts(done.stderr), "lock": lock_use(done.stderr, spans[0][0] if spans else begun, ended)}
    return found


class CardUse:
    """What `nvidia-smi` says of the card's use, every 100 ms beside a program."""

    def __enter__(self):
        self.samples = []
        try:
            self.tool = subprocess.Popen(["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"],
                                         stdout=subprocess.PIPE, text=True)
        except OSError:
            self.tool = None
            return self
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        return self

    def read(self):
        for line in self.tool.stdout:
            if line.strip().isdigit():
                self.samples.append((time.time(), int(line)))

    def __exit__(self, *_):
        if self.tool:
            self.tool.terminate()
            self.tool.wait()

    def mean(self, begun, ended):
        """Percent of the time in which a kernel ran; `None` without samples."""
        used = [percent for moment, percent in self.samples if begun <= moment <= ended]
        return round(sum(used) / len(used), 1) if used else None


def journal(run, task):
    """The events of a task, each with its time in seconds."""
    events = []
    for line in open(os.path.join(run, task, "events.jsonl")):
        event = json.loads(line)
        event["at"] = datetime.datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()
        events.append(event)
    return events


def losing_search(task, output, seconds):
    """A search from the best known kernel with kforge's own operators, in which many candidates lose. It is killed after these seconds, so that
    nothing is confirmed. Rates from the first child that was judged on."""
    kernel = next(path for path in [f"kernels/{task}/best.cu", f"benches/campaign/best/{task}.cu", f"kernels/{task}/block_rows.cu"] if os.path.exists(path))
    log_path = output + ".log"
    with CardUse() as use, open(log_path, "w") as log:
        try:
            subprocess.run([BINARY, "evolve", task, "--from", kernel, "--backend", "cuda", "--no-model", "--seed", "1", "--budget-seconds", "600",
                            "--output", output], stdout=subprocess.DEVNULL, stderr=log, timeout=seconds,
                           env={**os.environ, "KFORGE_LOG": LOCK_LOG, "NO_COLOR": "1"})
        except subprocess.TimeoutExpired:
            pass
    text = open(log_path).read()
    try:
        events = journal(output, task)
    except OSError:
        return {"failed": text[-1000:]}
    starts = {event["step"] for event in events if event["event"] == "asked" and event["operator"] == "start"}
    ends = [event for event in events if event["event"] in ("judged", "failed") and event["step"] not in starts]
    judged = [event for event in ends if event["event"] == "judged"]
    if len(judged) < 2:
        return {"failed": f"{len(judged)} candidates were judged: {text[-1000:]}"}
    begun, ended = judged[0]["at"], judged[-1]["at"]
    minutes = (ended - begun) / 60
    lost = [event for event in judged if event["verdict"].get("timing") == "dismissed"]
    full = [event for event in judged if event["verdict"].get("timing") == "full"]

    def means(rows):
        of = lambda name: round(sum(row["verdict"]["seconds"][name] for row in rows) / max(len(rows), 1), 3)
        parts = add_parts([row["verdict"] for row in rows]).items()
        return {"check": of("check"), "timing": of("measure"), "parts": {name: round(seconds / max(len(rows), 1), 3) for name, seconds in parts}}

    return {"judged": len(judged), "dismissed": len(lost), "full": len(full), "without_judgement": len(ends) - len(judged),
            "judged_a_minute": round((len(judged) - 1) / minutes, 1), "ended_a_minute": round((len(ends) - 1) / minutes, 1),
            "seconds_of_search": round(ended - begun, 1), "nvidia_smi_percent": use.mean(begun, ended), "lock": lock_use(text, begun, ended),
            "of_a_dismissed": means(lost), "of_a_full": means(full)}


LOSING_TASKS = ["gdn_decode", "softmax"]


def lose(folder, _):
    """Searches in which many candidates lose: how many a minute, and how busy the card is."""
    return {task: losing_search(task, os.path.join(KEEP or folder, f"lose-{task}"), SECONDS) for task in LOSING_TASKS}


def plain_copy(task, folder):
    """A task without hidden shapes, in a folder: what is left to do for a kernel is hardly more than timing it."""
    copy = os.path.join(folder, f"plain-{task}")
    os.makedirs(copy, exist_ok=True)
    for path in [*glob.glob(f"tasks/{task}/*"), *glob.glob(f"kernels/{task}/*.cu")]:
        shutil.copy(path, copy)
    settings = os.path.join(copy, "task.yaml")
    text = open(settings).read()
    with open(settings, "w") as file:
        file.write(re.sub(r"hidden_shapes: 2, regimes: all, rounds: 3", "hidden_shapes: 0, rounds: 1", text))
    return copy


def dismissed(folder, runs):
    """Dismissed candidates of the runs in `--keep`, those nearest to their bars first, timed in full: would one have reached its bar?

    Bars and speedups of a search are over the baseline. A candidate is timed in pairs against its run's fastest kernel, whose speedup in the
    search is known, so its ratio times that speedup is comparable with its bar."""
    found, deadline = {}, time.monotonic() + SECONDS
    paths = sorted(glob.glob(os.path.join(KEEP or folder, "*", "*", "events.jsonl")))
    for path in paths:
        root, task = os.path.dirname(path), os.path.basename(os.path.dirname(path))
        verdicts = {event["step"]: event["verdict"] for event in journal(os.path.dirname(root), task) if event["event"] == "judged"}
        complete = {step: one for step, one in verdicts.items() if one.get("timing") == "full" and one["speedup"]}
        over_bar = lambda step: verdicts[step]["speedup"]["geomean"] / verdicts[step]["dismissal"]["bar"]
        kernel = lambda step: os.path.join(root, "steps", f"{step:06}", "kernel.cu")
        lost = [step for step, one in verdicts.items() if one.get("timing") == "dismissed" and os.path.exists(kernel(step))]
        lost = sorted(lost, key=over_bar, reverse=True)[:runs]
        if not lost or not complete:
            continue
        fastest = max(complete, key=lambda step: complete[step]["speedup"]["geomean"])
        copy, rows, failed = plain_copy(task, folder), [], []
        begun = time.monotonic()
        for first in range(0, len(lost), 8):
            if time.monotonic() > deadline - 5:
                break
            some = lost[first:first + 8]
            again, _, _ = judge(copy, [kernel(step) for step in some], "--profile", "full", "--baseline", kernel(fastest),
                                "--seconds", "0.05", "--precision", "0.2")
            for step, verdict in zip(some, again):
                if not verdict["speedup"]:
                    failed.append([step, verdict["status"], verdict["reason"]])
                    continue
                of_bar = complete[fastest]["speedup"]["geomean"] / verdicts[step]["dismissal"]["bar"]
                rows.append([step, round(over_bar(step), 4), *[round(value * of_bar, 4) for value in [verdict["speedup"]["geomean"], *verdict["speedup"]["ci95"]]]])
        found[os.path.basename(os.path.dirname(root)) + "/" + task] = {
            "timed_in_full": len(rows), "reach_the_bar": sum(row[2] >= 1 for row in rows), "surely_reach_the_bar": sum(row[3] >= 1 for row in rows),
            "seconds": round(time.monotonic() - begun, 1), "step_look_full_low_high_of_the_bar": rows, "failed": failed}
    return found


def stream(folder, _):
    """Fifty distinct decoding kernels, all seven batch sizes each."""
    kernels = []
    source = open("kernels/gdn_decode/warp_rows.cu").read()
    for number in range(50):
        rows, warps = [1, 2, 4, 8][number % 4], [1, 2, 4, 8][number // 4 % 4]
        text = re.sub(r"ROWS: \[[^]]*\]", f"ROWS: [{rows}]", source)
        text = re.sub(r"WARPS: \[[^]]*\]", f"WARPS: [{warps}]", text)
        path = os.path.join(folder, f"stream-{number}.cu")
        with open(path, "w") as file:
            file.write(text + f"\n// candidate {number} of {time.time_ns()}\n")
        kernels.append(path)
    verdicts, seconds, log = judge("gdn_decode", kernels, "--profile", "full", log=LOCK_LOG)
    ended = time.time()
    statuses = {}
    for verdict in verdicts:
        statuses[verdict["status"]] = statuses.get(verdict["status"], 0) + 1
    spans = lock_spans(log)
    # From the first candidate's first check on: before it, workers start and the first is compiled.
    first = spans[1][0] if len(spans) > 1 else ended - seconds
    return {"kernels": len(kernels), "statuses": statuses, "wall_s": round(seconds, 2),
            "wall_s_a_candidate": round(seconds / len(kernels), 3), "lock": lock_use(log, first, ended)}


def itself(folder, runs):
    """A kernel against itself, at the default precision."""
    path = uncached_copy(folder, "kernels/gdn_decode/warp_rows.cu", 0)
    rows = []
    while len(rows) < runs:
        verdicts, _, _ = judge("gdn_decode", [path], "--profile", "full", "--baseline", path)
        rows += [(one["id"], one["speedup"], *one["ci95"]) for one in timed(verdicts[0]) if one["speedup"]]
    held = sum(low <= 1 <= high for _, _, low, high in rows)
    missed = [(name, round(ratio, 5), round(low, 5), round(high, 5)) for name, ratio, low, high in rows if not low <= 1 <= high]
    # An error that has the same sign everywhere is a fault of the judge, however small it is.
    errors = {}
    for name, ratio, _, _ in rows:
        errors.setdefault(name, []).append(ratio - 1)
    mean_errors = {name: round(sum(all) / len(all), 5) for name, all in errors.items()}
    return {"missed": missed, "mean_errors": mean_errors, "intervals": len(rows), "hold_1": held, "widest_half_width": max((high - low) / 2 for _, _, low, high in rows),
            "largest_error": max(abs(ratio - 1) for _, ratio, _, _ in rows)}


def main():
    parts = {"gelu": gelu, "gdn": gdn, "stream": stream, "self": itself, "corpus": corpus, "evolve": evolve, "lose": lose, "dismissed": dismissed,
             "evolve-gdn": lambda folder, runs: evolve(folder, runs, ["gdn_decode"])}
    runs = int(option("--runs", 100))
    wanted = [name for name in sys.argv[1:] if name in parts] or list(parts)
    card = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True)
    results = {"device": card.stdout.strip(), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        for name in wanted:
            results[name] = parts[name](folder, runs)
            print(name, json.dumps(results[name])[:400], file=sys.stderr, flush=True)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
