"""What ranks print: where it appears, in what order, and when."""

import os
import sys
import time

import pytest
from cloudpickle import register_pickle_by_value

from tiny_lm.gpus import output, team
from tiny_lm.gpus.launch import Cluster, run_ranks

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest


def _print(rank):
    print("one\ntwo", flush=True)
    print("wrong", file=sys.stderr)
    print("\r 50%\r100%", end="")


@pytest.mark.parametrize("by_fd", [True, False], ids=["descriptors", "python"])
def test_lines_come_whole_in_rank_order_behind_the_ranks_number(
    by_fd, monkeypatch, capsys
):
    monkeypatch.setattr(team, "BY_FD", by_fd)
    with Cluster(3) as cluster:
        cluster.run(_print)
    shown = capsys.readouterr()
    lines = [f"rank {r}: {text}\n" for r in range(3) for text in ("one", "two", "100%")]
    assert shown.out == "".join(lines)
    assert shown.err == "".join(f"rank {r}: wrong\n" for r in range(3))


def test_what_programs_and_cpp_print_in_a_rank_is_heard(capsys):
    with Cluster(1) as cluster:
        cluster.run(lambda rank: os.system("echo from a shell"))
    assert capsys.readouterr().out == "rank 0: from a shell\n"


def test_without_prefix_output_is_handed_on_as_it_comes(capsys):
    with Cluster(1, prefix=False) as cluster:
        cluster.run(_print)
    run_ranks(1, _print)
    shown = capsys.readouterr()
    assert shown.out == "one\ntwo\n\r 50%\r100%" * 2
    assert shown.err == "wrong\n" * 2
    run_ranks(1, _print, prefix=True)
    assert capsys.readouterr().out == "rank 0: one\nrank 0: two\nrank 0: 100%\n"


def test_lines_of_a_long_call_appear_while_it_runs(monkeypatch):
    monkeypatch.setattr(output, "HOLD_S", 0.1)
    came = []
    monkeypatch.setattr(output.Outlet, "take", _noting(came, output.Outlet.take))

    def work(rank):
        print("early")
        time.sleep(1.0)

    run_ranks(1, work, prefix=True)
    assert time.monotonic() - came[0] > 0.5


def _noting(came, take):
    def noted(self, everything):
        text = take(self, everything)
        if text:
            came.append(time.monotonic())
        return text

    return noted
