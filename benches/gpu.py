#!/usr/bin/env python3
"""How fast kforge judges on a GPU, and whether its intervals hold: python3 benches/gpu.py [gelu] [gdn] [stream] [self] [--runs N].

Runs the release binary (KFORGE_BINARY, else target/release/kforge) from the repository's root and prints one JSON document; a summary
goes to standard error. Needs a GPU and Python's standard library. Results that were measured are kept in benches/results/.
"""
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time

BINARY = os.environ.get("KFORGE_BINARY", "target/release/kforge")
# Microseconds of a plain kernel, best of 1, 2, 4, 8 rows a warp, on an H200: graphs of calls over rotating data, cold caches.
PLAIN = {"b1": 2.11, "b4": 3.25, "b8": 4.44, "b16": 6.55, "b32": 11.65, "b48": 16.04, "b64": 20.39}


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
        verdicts, seconds, _ = judge("gelu", [uncached_copy(folder, "kernels/gelu/vectors.cu", number)], "--profile", "large")
        verdict = verdicts[0]
        if verdict["status"] != "passed":
            sys.exit(f"gelu: {verdict['status']}: {verdict['reason']} {verdict['evidence']}")
        # The first run also compiles the judge's own code and the oracle, and measures the card's peaks.
        walls.append({"wall_s": round(seconds, 3), "status": verdict["status"], "seconds": verdict["seconds"],
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


def busy(log, begun, ended):
    """The share of the time, from the first lock of the device to the end, in which a process held the lock."""
    spans = []
    for line in log.splitlines():
        found = re.match(r"(\S+Z)\s+DEBUG .*timing lock held (shared|exclusively|shared for setup) for (\d+) us", line)
        if found:
            end = datetime.datetime.fromisoformat(found[1].replace("Z", "+00:00")).timestamp()
            spans.append((end - int(found[3]) / 1e6, end))
    spans.sort()
    total, reached = 0.0, begun
    for start, end in spans:
        start = max(start, reached)
        if end > start:
            total += end - start
            reached = end
    return total / (ended - begun), spans


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
    verdicts, seconds, log = judge("gdn_decode", kernels, "--profile", "full", log="kforge::eval::quiet=debug")
    ended = time.time()
    statuses = {}
    for verdict in verdicts:
        statuses[verdict["status"]] = statuses.get(verdict["status"], 0) + 1
    _, spans = busy(log, 0.0, 1.0)
    # From the first candidate's first check on: before it, workers start and the first is compiled.
    first = spans[1][0] if len(spans) > 1 else ended - seconds
    share, _ = busy(log, first, spans[-1][1] if spans else ended)
    return {"kernels": len(kernels), "statuses": statuses, "wall_s": round(seconds, 2),
            "wall_s_a_candidate": round(seconds / len(kernels), 3), "device_busy": round(share, 3)}


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
    parts = {"gelu": gelu, "gdn": gdn, "stream": stream, "self": itself}
    runs = int(sys.argv[sys.argv.index("--runs") + 1]) if "--runs" in sys.argv else 100
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
