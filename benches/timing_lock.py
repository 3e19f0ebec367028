#!/usr/bin/env python3
"""Simulates the timing lock of a GPU, and compares rules for who gets it next: python3 benches/timing_lock.py [--seeds N].

Discrete events on a virtual clock, so the same table comes out everywhere. Workers judge kernels, each a list of sections: `free` (compiling,
starting a process), `shared` (checks, preparing a device) or `timing` (exclusive). The durations are drawn around those that were measured on
an H200 (benches/results/search-gpu.md). `eval::timing_lock` implements the rule `patience`.
"""
import argparse
import heapq
import random

FREE, SHARED, TIMING = "free", "shared", "timing"
# Seconds of a session that is opened again, because its timing has let others go first.
OPENING = 0.1
# Seconds after which the pieces of one piece of work let no more timings go first.
YIELD_LIMIT = 2.0


class Lock:
    """`queue`: everybody waits in one queue. `patience`: a timing follows a timing until someone has waited that long to share the lock."""

    def __init__(self, clock, patience):
        self.clock, self.patience = clock, patience
        self.waiting, self.sharing, self.timed, self.gate = [], 0, False, None
        self.waits = {SHARED: [], TIMING: []}

    def request(self, how, begin):
        self.waiting.append((self.clock.now, how, begin))
        self.give()

    def is_waited_for(self):
        """Whether a timing that ends now would be followed by somebody else."""
        shared = [since for since, how, _ in self.waiting if how == SHARED]
        return self.gate is not None or bool(shared and self.clock.now - shared[0] >= (self.patience or 0))

    def release(self, how):
        if how == SHARED:
            self.sharing -= 1
        else:
            self.timed = False
        # A process that waits looks at the lock every half millisecond.
        self.clock.after(0.0005 * self.clock.random.random(), self.give)

    def grant(self, request):
        since, how, begin = request
        self.waiting.remove(request)
        self.waits[how].append(self.clock.now - since)
        if how == SHARED:
            self.sharing += 1
        else:
            self.timed = True
        begin()

    def give(self):
        give = self.give_in_order if self.patience is None else self.give_by_patience
        while self.waiting and give():
            pass

    def give_in_order(self):
        first = self.waiting[0]
        fits = not self.timed and (first[1] == SHARED or self.sharing == 0)
        if fits:
            self.grant(first)
        return fits

    def give_by_patience(self):
        shared = [one for one in self.waiting if one[1] == SHARED]
        timings = [one for one in self.waiting if one[1] == TIMING]
        overdue = shared and self.clock.now - shared[0][0] >= self.patience - 1e-9
        if self.gate is None and timings and not overdue:
            self.gate = timings[0]
        if self.gate and not self.timed and self.sharing == 0:
            first, self.gate = self.gate, None
            self.grant(first)
            return True
        if self.gate is None and not self.timed and shared:
            self.grant(shared[0])
            return True
        if shared and not overdue:
            self.clock.after(shared[0][0] + self.patience - self.clock.now + 1e-9, self.give)
        return False


class Clock:
    def __init__(self, seed):
        self.now, self.events, self.count, self.random = 0.0, [], 0, random.Random(seed)

    def after(self, seconds, event):
        self.count += 1
        heapq.heappush(self.events, (self.now + seconds, self.count, event))

    def run(self):
        while self.events:
            self.now, _, event = heapq.heappop(self.events)
            event()


class Sections:
    """The sections of a judgement, one after the other."""

    def __init__(self, sections):
        self.rest = list(reversed(sections))

    def __next__(self):
        if not self.rest:
            raise StopIteration
        return self.rest.pop()

    def peek(self):
        return self.rest[-1][0] if self.rest else None


def start(pieces):
    """The next worker of a slot: the driver, then the device with the oracle and the baseline."""
    setup = [(SHARED, 0.13), (SHARED, 0.06)]
    return [(FREE, 0.19)] + (setup if pieces > 1 else [(SHARED, 0.19)])


def checks(seconds, pieces):
    return [(SHARED, seconds / pieces)] * pieces


def corpus_kernel(draw, pieces):
    """A kernel of the corpus of hostile kernels: half of them pass, and one in five faults and is judged twice."""
    kind = draw.random()
    compiled = [(FREE, 0.05)]
    if kind < 0.12:
        return compiled
    if kind < 0.5:
        timings = [(TIMING, draw.uniform(0.1, 0.35)) for _ in range(2)]
        return compiled + checks(draw.uniform(0.1, 0.5), pieces) + timings + [(FREE, 0.2)] + start(pieces)
    if kind < 0.72:
        return compiled + checks(draw.uniform(0.03, 0.2), pieces)
    if kind < 0.8:
        return compiled + checks(draw.uniform(0.1, 0.5), pieces) + [(FREE, 0.2)] + start(pieces)
    # A launch that does not end holds the lock until its deadline.
    fault = [(SHARED, draw.uniform(0.05, 0.3) if draw.random() < 0.9 else 0.95)]
    return compiled + fault + start(pieces) + fault + [(FREE, 0.2)] + start(pieces)


def search_beside_slow_kernels(draw, pieces):
    """A candidate of a search; one kernel in 40 is slow, so that its timing takes 20 to 60 s in timing blocks of 0.6 to 2 s."""
    if draw.random() < 1 / 40:
        block = draw.uniform(0.6, 2.0)
        return [(FREE, 0.06), (SHARED, 0.2), (TIMING, draw.uniform(20, 60), block)]
    return candidate(draw, pieces)


def candidate(draw, pieces):
    """A candidate of a search on seven workloads: a look at all of them, then for two of five the rest of the checks and the full timing."""
    kind = draw.random()
    found = [(FREE, 0.06)]
    if kind < 0.12:
        return found
    found += [(SHARED, 0.03), (SHARED, 0.08)]
    if kind < 0.22:
        return found
    found += [(TIMING, draw.uniform(0.02, 0.035)) for _ in range(7)]
    if kind < 0.6:
        return found
    full = [(TIMING, draw.uniform(0.08, 0.14)) for _ in range(7)]
    return found + checks(0.25, pieces) + full + [(FREE, 0.2)] + start(pieces)


def judge(seed, kernel, kernels, slots, patience, pieces, in_order, timing_slice=None):
    """Judges kernels with some slots. `in_order`: how many of the first kernels that are not done may be judged at once; else any of them.
    `timing_slice`: how long a timing holds the lock before it lets others go first, between two of its blocks."""
    clock, draw = Clock(seed), random.Random(1000 + seed)
    lock = Lock(clock, patience)
    plans = [kernel(draw, pieces) for _ in range(kernels)]
    seconds = {FREE: 0.0, SHARED: 0.0, TIMING: 0.0}
    done, begun = set(), [0]

    def begin_next():
        first = next((index for index in range(kernels) if index not in done), kernels)
        while begun[0] < kernels and begun[0] - (first if in_order else len(done)) < slots:
            index = begun[0]
            begun[0] += 1
            run(index, Sections(plans[index]))

    def run(index, sections, yielded=0.0):
        """`yielded`: how long the pieces of the present checks have waited."""
        how, length, *block = next(sections, (None, 0.0))
        if how is None:
            done.add(index)
            begin_next()
            return
        seconds[how] += length
        if how == FREE:
            clock.after(length, lambda: run(index, sections))
            return
        if block and timing_slice is not None:
            run_in_blocks(index, sections, length, block[0])
            return
        asked = clock.now

        def begin():
            waited = yielded + clock.now - asked
            # The pieces that follow at once. They do not yield if no timing waits, or if they have waited long enough.
            clock.after(length, lambda: end(waited))

        def end(waited):
            following = sections.peek()
            if how == SHARED and following == SHARED and (lock.gate is None or waited >= YIELD_LIMIT) and patience is not None:
                piece = next(sections)
                seconds[SHARED] += piece[1]
                clock.after(piece[1], lambda: end(waited))
                return
            lock.release(how)
            run(index, sections, waited if how == following else 0.0)

        lock.request(how, begin)

    def run_in_blocks(index, sections, length, block):
        """A timing that gives way between its blocks."""
        def begin():
            take_block(length, clock.now)

        def take_block(rest, since):
            clock.after(min(block, rest), lambda: after_block(rest - block, since))

        def after_block(rest, since):
            if rest > 0 and not (clock.now - since >= timing_slice and lock.is_waited_for()):
                take_block(rest, since)
                return
            lock.release(TIMING)
            if rest <= 0:
                run(index, sections)
                return
            seconds[TIMING] += OPENING
            run_in_blocks(index, sections, rest + OPENING, block)

        lock.request(TIMING, begin)

    begin_next()
    clock.run()
    return clock.now, seconds, lock.waits


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--seeds", type=int, default=10)
    seeds = range(options.parse_args().seeds)
    for name, kernel, kernels, slots in [("search", candidate, 200, 3), ("search", candidate, 200, 6), ("corpus", corpus_kernel, 270, 6)]:
        print(f"\n{name}: {kernels} kernels, {slots} at once\n")
        print("| rule | pieces | start in order | seconds | waits to time | waits to share | longest to time | longest to share |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        rules = [(None, 1, True)] if name == "corpus" else []
        rules += [(None, 1, False), (None, 6, False), (0, 1, False), (0, 6, False)]
        rules += [(patience, 6, False) for patience in [0.1, 0.3, 0.5]] + [(1, 1, False), (1, 6, False), (2, 6, False)]
        for patience, pieces, in_order in rules:
            runs = [judge(seed, kernel, kernels, slots, patience, pieces, in_order) for seed in seeds]
            mean = lambda values: sum(values) / len(runs)
            waits = {how: [wait for *_, waits in runs for wait in waits[how]] for how in [TIMING, SHARED]}
            rule = "one queue" if patience is None else f"patience {patience} s"
            print(f"| {rule} | {pieces} | {'yes' if in_order else 'no'} | {mean([run[0] for run in runs]):.1f} | {mean(waits[TIMING]):.0f} | "
                  f"{mean(waits[SHARED]):.0f} | {max(waits[TIMING]):.2f} | {max(waits[SHARED]):.2f} |")
    print("\nslow kernels: 120 kernels, 6 at once, one in 40 slow; patience 1 s, 6 pieces\n")
    print("| a timing gives way after | seconds | waits to time | waits to share | longest to time | longest to share |")
    print("| --- | --- | --- | --- | --- | --- |")
    for timing_slice in [None, 0.5, 1, 2, 5]:
        runs = [judge(seed, search_beside_slow_kernels, 120, 6, 1, 6, False, timing_slice) for seed in seeds]
        mean = lambda values: sum(values) / len(runs)
        waits = {how: [wait for *_, waits in runs for wait in waits[how]] for how in [TIMING, SHARED]}
        rule = "never" if timing_slice is None else f"{timing_slice} s"
        print(f"| {rule} | {mean([run[0] for run in runs]):.1f} | {mean(waits[TIMING]):.0f} | {mean(waits[SHARED]):.0f} | "
              f"{max(waits[TIMING]):.2f} | {max(waits[SHARED]):.2f} |")


if __name__ == "__main__":
    main()
