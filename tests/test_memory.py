"""Freed memory is kept, and what exists is left out of collections."""

import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
import torch
from tiny_lm import memory
if sys.argv[1] == "keep" and not memory.keep_freed():
    sys.exit(3)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        parts = [torch.empty(2**24).fill_(1.0) for _ in range(3)]
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


def _faults(how: str) -> int:
    command = [sys.executable, "-c", FAULTS, how]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("this C library cannot be told")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_that_is_kept_costs_no_new_pages():
    """Thirty tensors of 64 MB: 16,384 pages of 4 KiB each, if they are new."""
    assert _faults("keep") < 1000 < _faults("default")


def test_what_exists_is_left_out_of_collections_for_a_while_or_for_good():
    code = (
        "import gc\nimport torch\nfrom tiny_lm import memory\n"
        "with memory.settled():\n    print(gc.get_freeze_count())\n"
        "print(gc.get_freeze_count())\n"
        "memory.settle()\nprint(gc.get_freeze_count())"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    inside, after, for_good = map(int, done.stdout.split())
    assert inside > 10_000 and after == 0 and for_good > 10_000
