"""Pipelines in whole units: the smallest by hand, and what their arguments do."""

import pytest

from tiny_lm.parallel.schedules import dualpipe, one_f_one_b, zb1p
from tiny_lm.parallel.unit_pipelines import COST, idle, play, tapes
from tiny_lm.replay.tape import Kernel


def test_two_stages_and_one_micro_batch_by_hand():
    """Rank 0: F, waits for F and BW of rank 1, BW. In units 1 + 3 + 2."""
    timeline = play(one_f_one_b, 2, 1)
    assert timeline.step_ps == 6 * 10**12
    assert idle(timeline) == [3, 3]


@pytest.mark.parametrize(
    ("schedule", "units"), [(one_f_one_b, 9), (zb1p, 3), (dualpipe, 2)]
)
def test_bubbles_of_four_stages_are_those_of_the_closed_forms(schedule, units):
    assert idle(play(schedule, 4, 8)) == [units] * 4


def test_work_costs_what_the_caller_says():
    cost = {**COST, "BW": 5}
    assert idle(play(one_f_one_b, 4, 8, cost)) == [3 * (1 + 5)] * 4
    kernels = [
        r for r in tapes(one_f_one_b, 2, 1, cost)[0].records if type(r) is Kernel
    ]
    assert [(kernel.name, kernel.flops) for kernel in kernels] == [
        ("F 0 0", 1),
        ("BW 0 0", 5),
    ]


def test_every_stage_and_micro_batch_has_its_kernels():
    for tape in tapes(one_f_one_b, 3, 5):
        kernels = [record for record in tape.records if type(record) is Kernel]
        assert sum(kernel.flops for kernel in kernels) == 5 * (1 + 2)
