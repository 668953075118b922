"""Does the accounting of processor time add up, for threads and processes that live and that have ended?"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.cpu import Clock, Use, read_clock, spent, tree_ns

# Burns processor time itself, in a thread that ends, in a child that ends, and in a grandchild that lives on.
TREE = """
import subprocess, sys, threading, time
def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
BURN = "import time\\nwhile time.process_time() < {}: pass\\n{}"
burn(0.1)
thread = threading.Thread(target=burn, args=(0.15,)); thread.start(); thread.join()
subprocess.run([sys.executable, "-c", BURN.format(0.2, "")], check=True)
STAY = "print(flush=True)\\nimport sys\\nsys.stdin.read()"
alive = subprocess.Popen([sys.executable, "-c", BURN.format(0.25, STAY)], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE)
alive.stdout.readline()
print("burnt", flush=True)
sys.stdin.read()
"""
BURNT_NS = (0.1 + 0.15 + 0.2 + 0.25) * 1e9
STARTS_NS = 0.5e9  # three interpreters start, and the kernel counts in ticks


@contextmanager
def burning() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", TREE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process


def now() -> Clock:
    return read_clock(time.monotonic_ns())


def test_a_tree_counts_itself_its_threads_and_its_children_whether_they_live_or_not() -> None:
    before = now()
    with burning() as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "burnt\n"
        used = spent(before, now(), {"tree": [process.pid]})
        process.communicate()

    assert BURNT_NS * 0.97 < used.by_part["tree"] < BURNT_NS + STARTS_NS


def test_what_is_not_in_a_part_is_foreign() -> None:
    before = now()
    with burning() as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "burnt\n"
        used = spent(before, now(), {"ours": [os.getpid() + 1_000_000]})
        process.communicate()

    assert used.by_part == {"ours": 0}
    assert used.foreign_ns > BURNT_NS * 0.8  # the kernel's own count of it is sampled
    assert 0 < used.foreign_share <= 1.05


def test_a_process_can_be_left_out_without_its_children() -> None:
    clock = Clock(
        0, 0, {1: Use(1, 0, 100, 10), 2: Use(2, 1, 50, 5), 3: Use(3, 2, 7, 0), 4: Use(4, 0, 1000, 0)}
    )

    assert tree_ns(clock, 1) == 172
    assert tree_ns(clock, 1, without={2}) == 122
    assert tree_ns(clock, 9) == 0
