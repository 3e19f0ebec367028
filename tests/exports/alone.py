"""Has scripts that run beside each other, because most of their time goes into compiling, time one after the other.

With `--alone FILE` each of them locks the file while it times something. kforge's own file is `/tmp/kforge-UUID.lock`, with the UUID that
`nvidia-smi -L` prints: then no kforge process uses the GPU meanwhile either.

Only launches that are timed belong under the lock: neither what compiles nor what starts kforge, which waits for the same lock. Whoever holds
it longer than the limit gives it back, and the line on standard error says so: what is timed after that may have been disturbed.
"""

import contextlib
import fcntl
import functools
import os
import sys
import threading
import time

# The file, or None.
FILE = None
# How long it may be held, and how long it is waited for, in seconds.
HELD_LIMIT = 30
WAIT_LIMIT = 300
PAUSE = 0.002


def add_argument(parser):
    parser.add_argument("--alone", metavar="FILE", help="lock this file while something is timed")


def use(arguments):
    global FILE
    FILE = arguments.alone


@contextlib.contextmanager
def alone(limit=None):
    """No other process that locks the file times anything meanwhile, for `limit` seconds at most (`HELD_LIMIT`)."""
    if not FILE:
        yield
        return
    limit = HELD_LIMIT if limit is None else limit
    with open(os.open(FILE, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        wait_for(file)

        def give_back():
            fcntl.flock(file, fcntl.LOCK_UN)
            print(f"{FILE} was held for {limit} s, the limit, and is given back: what is timed now may be disturbed", file=sys.stderr, flush=True)

        timer = threading.Timer(limit, give_back)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            # A forked process has the file too: closing it here would not be enough.
            fcntl.flock(file, fcntl.LOCK_UN)


def wait_for(file):
    end = time.monotonic() + WAIT_LIMIT
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError(f"{FILE} was locked by another process for {WAIT_LIMIT} s") from None
            time.sleep(PAUSE)


def alone_in_kernelbench():
    """Has KernelBench's evaluator lock the file around what it times, and make its inputs on the GPU.

    It makes them on the CPU otherwise, once for each trial: a problem with a billion elements takes minutes of that.
    """
    import torch
    from kernelbench import eval as evaluator
    from kernelbench import timing

    if getattr(timing, "is_alone", False):
        return
    timing.is_alone = True
    choose, load = timing.get_timing_function, evaluator.load_original_model_and_inputs

    def timing_function(*arguments, **options):
        function = choose(*arguments, **options)

        @functools.wraps(function)
        def timed(*arguments, **options):
            with alone():
                return function(*arguments, **options)

        return timed

    def load_problem(*arguments, **options):
        found = load(*arguments, **options)
        if found is None:
            return found
        model, init_inputs, inputs = found

        def inputs_on_gpu():
            with torch.device("cuda"):
                return inputs()

        return model, init_inputs, inputs_on_gpu

    timing.get_timing_function = timing_function
    evaluator.load_original_model_and_inputs = load_problem
