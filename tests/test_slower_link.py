"""What the slower NVLink costs V3: for both ends of how its exchanges pass two hops."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tiny_lm.parallel.slower_link import Answer, won_back_s

ROOT = Path(__file__).resolve().parents[1]
REACHED = 0.44  # what `v3_step.fit` finds; its own tests say so
# 64 replays of a quarter of a step, in a process without the tests' shape checks.
QUARTER = """
import pickle, sys
from tiny_lm.parallel.slower_link import *

answers = all_answers(REACHED, batch_size=128 * 32)
price = processors_s(REACHED, batch_size=128 * 32)
whole = [answer(REACHED, overlap=overlap) for overlap in (True, False)]
again = answer(REACHED, batch_size=128 * 32, overlap=False, tensor_parallel=8)
found = {"answers": answers, "price": price, "whole": whole, "again": again}
pickle.dump(found, sys.stdout.buffer)
"""


@pytest.fixture(scope="module")
def quarter():
    """Every choice of techniques with a quarter of V3's micro-batches, two with all."""
    run = subprocess.run(
        [sys.executable, "-c", QUARTER.replace("REACHED", str(REACHED))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert run.returncode == 0, run.stderr.decode()
    return SimpleNamespace(**pickle.loads(run.stdout))


def test_what_is_lost_is_a_difference_of_two_steps():
    steps = {
        ("pipelined", "h800"): 3.0,
        ("pipelined", "h100"): 2.0,
        ("series", "h800"): 7.0,
        ("series", "h100"): 4.0,
    }
    made = Answer(1, True, True, True, steps)
    assert (made.lost_s("pipelined"), made.lost_s("series")) == (1.0, 3.0)


def test_an_answer_is_that_of_its_choice(quarter):
    found = quarter.again
    assert found[:4] == (8, False, True, True)
    assert found in quarter.answers


@pytest.mark.parametrize("hops", ["pipelined", "series"])
def test_every_technique_wins_time_back(quarter, hops):
    answers = quarter.answers
    assert len({answer[:4] for answer in answers}) == 16
    assert answers[0][:4] == (1, True, True, True)
    seconds = won_back_s(answers, hops)
    assert all(won > 0 for won in seconds.values())
    assert seconds["all three"] > max(seconds["fp8_wire"], seconds["node_limit"])
    assert seconds["all three"] > seconds["overlap"]


def lost(quarter, hops):
    return {found[:4]: found.lost_s(hops) for found in quarter.answers}


def test_with_hops_that_overlap_no_technique_matters_to_the_slower_nvlink(quarter):
    """What is slower inside a node hides behind the network, which is the same."""
    seconds = lost(quarter, "pipelined")
    v3 = seconds.pop((1, True, True, True))
    assert 0 < v3 < 0.02 * quarter.answers[0].steps_s["pipelined", "h800"]
    for choice, value in seconds.items():
        if choice[0] == 1:
            assert value == pytest.approx(v3, abs=1e-3)
        else:
            assert value > 2 * v3


def test_with_hops_in_series_overlap_wins_most_of_it_back(quarter):
    """In the whole step; in a quarter of it the pipeline is never full for long."""
    woven, plain = (found.lost_s("series") for found in quarter.whole)
    assert woven == pytest.approx(0.44, abs=0.02)
    assert plain == pytest.approx(2.2, abs=0.05)
    seconds = lost(quarter, "series")
    assert seconds[1, False, False, False] > seconds[1, False, True, True]
    assert seconds[1, False, True, True] > 1.5 * seconds[1, True, True, True]
    for choice, value in lost(quarter, "pipelined").items():
        assert seconds[choice] >= value


def test_series_is_never_faster(quarter):
    for found in quarter.answers:
        for links in ("h800", "h100"):
            steps = found.steps_s
            assert steps["series", links] > steps["pipelined", links]


def test_processors_that_move_bytes_cost_less_than_their_share_of_the_step(quarter):
    step_s = quarter.answers[0].steps_s["pipelined", "h800"]
    assert 0.05 * step_s < quarter.price < 20 / 132 * step_s
