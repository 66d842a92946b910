"""Bubbles of pipeline schedules, replayed, equal their closed forms."""

from dataclasses import replace

import pytest
from toy_machine import TOY

from tiny_lm.parallel.schedules import dualpipe, one_f_one_b, zb1p
from tiny_lm.parallel.unit_pipelines import COST, tapes
from tiny_lm.replay.simulation import replay

# One unit of work is a picosecond, and messages are free.
FREE = replace(TOY, launch_s=0.0, nvlink_alpha_s=0.0, network_alpha_s=0.0)


def idle(schedule, num_stages, num_micro, cost=None):
    """Units that each rank waits in a step."""
    timeline = replay(tapes(schedule, num_stages, num_micro, cost), FREE)
    return [timeline.step_ps - row.compute_ps for row in timeline.summary()]


@pytest.mark.parametrize("num_stages", [2, 4, 8, 16])
@pytest.mark.parametrize("more", [0, 3, 20])
def test_the_bubble_of_1f1b(num_stages, more):
    wanted = (num_stages - 1) * (COST["F"] + COST["BW"])
    assert set(idle(one_f_one_b, num_stages, num_stages + more)) == {wanted}


def test_the_bubble_of_1f1b_grows_with_the_backward():
    cost = {**COST, "BW": 5}
    assert set(idle(one_f_one_b, 4, 8, cost)) == {3 * (1 + 5)}


@pytest.mark.parametrize("num_stages", [2, 4, 8, 16])
@pytest.mark.parametrize("more", [0, 3, 20])
def test_the_bubble_of_zb1p(num_stages, more):
    wanted = (num_stages - 1) * (COST["F"] + COST["BW"] - 2 * COST["W"])
    assert set(idle(zb1p, num_stages, 2 * num_stages + more)) == {wanted}


@pytest.mark.parametrize(("num_stages", "units"), [(4, 2), (8, 6), (16, 14)])
@pytest.mark.parametrize("more", [0, 2, 20])
def test_the_bubble_of_dualpipe(num_stages, units, more):
    formula = (num_stages // 2 - 1) * (COST["FB"] + COST["BW"] - 3 * COST["W"])
    assert formula == units
    assert set(idle(dualpipe, num_stages, 2 * num_stages + more)) == {units}


def test_idle_units_are_bubble_and_not_communication():
    timeline = replay(tapes(one_f_one_b, 4, 8), FREE)
    assert {row.bubble_ps for row in timeline.summary()} == {9}
    assert {row.exposed_ps for row in timeline.summary()} == {0}


def test_messages_that_take_time_lengthen_the_pipeline():
    """By hand for two stages and one micro-batch: F, message, F and B, message, B."""
    slow = replace(FREE, nvlink_alpha_s=7e-12)
    assert replay(tapes(one_f_one_b, 2, 1), slow).step_ps == 1 + 7 + 3 + 7 + 2


def test_the_formula_of_dualpipe_is_off_where_input_gradient_and_forward_differ():
    """In tenths: F 10, B 20, of which W 8. The formula says 78."""
    cost = {"F": 10, "B": 12, "W": 8, "BW": 20, "FB": 30}
    assert set(idle(dualpipe, 8, 20, cost)) == {72}
