"""The soak: every call is checked, and those that fail on purpose are noticed."""

import os

import pytest

from tiny_lm.course.bench import soak


def test_a_short_soak_counts_calls_and_failures_and_leaves_nothing(monkeypatch, capsys):
    monkeypatch.setattr(soak, "ROUNDS", ((2, 4), (4, 2)))
    monkeypatch.setattr(soak, "FAIL_EVERY", 2)
    assert soak.main() == 0
    _, two, four = capsys.readouterr().out.splitlines()
    assert two.split()[:3] == ["2", "4", "2"] and two.split()[-1] == "0"
    assert four.split()[:3] == ["4", "2", "1"]


def test_a_wrong_sum_and_a_failure_that_nobody_notices_end_the_soak(monkeypatch):
    monkeypatch.setattr(soak, "expected", lambda rank, number, size: (0.0, 0.0))
    with pytest.raises(RuntimeError, match="call 0: rank 0 got"):
        soak.soak(2, 1)
    monkeypatch.setattr(soak, "FAILURES", ("",) * 3)

    class Quiet:
        def run(self, *args, **kwargs):
            return []

    with pytest.raises(RuntimeError, match="a call that fails was not noticed"):
        soak._fail_once(Quiet(), 0)


def test_a_process_that_is_left_is_found():
    assert soak._left({os.getpid()}) == [os.getpid()]
