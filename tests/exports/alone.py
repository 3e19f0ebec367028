"""Has scripts that run beside each other, because most of their time goes into compiling, time one after the other.

With `--alone FILE` each of them locks the file while it times something. kforge's own file is `/tmp/kforge-UUID.lock`, with the UUID that
`nvidia-smi -L` prints: then no kforge process uses the GPU meanwhile either.
"""

import contextlib
import fcntl
import os

# The file, or None.
FILE = None


def add_argument(parser):
    parser.add_argument("--alone", metavar="FILE", help="lock this file while something is timed")


def use(arguments):
    global FILE
    FILE = arguments.alone


@contextlib.contextmanager
def alone():
    """No other process that locks the file times anything meanwhile."""
    if not FILE:
        yield
        return
    with open(os.open(FILE, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
