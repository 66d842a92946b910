"""Tasks 5.7 and 5.8 agree with the package's schedules and with its clock."""

import pytest

from tiny_lm.course.checks.comm import one_f_one_b_limits, schedules
from tiny_lm.course.checks.comm.bubble import bubble_and_memory
from tiny_lm.course.checks.comm.bubble_answers import published, task_5_8
from tiny_lm.course.checks.comm.bubble_waits import ONE
from tiny_lm.course.checks.comm.one_f_one_b import one_f_one_b
from tiny_lm.course.figures import schedule_lab
from tiny_lm.parallel import bubbles
from tiny_lm.parallel.schedules import SCHEDULES
from tiny_lm.parallel.whole_schedules import Schedule, build, peak_alive

SIZES = [(1, 1), (1, 3), (4, 2), (4, 8), (7, 16)]
NAMES = ("gpipe", "1f1b", "zb1p", "interleaved", "zbv")


@pytest.mark.parametrize("stages, micro", SIZES)
def test_the_tasks_1f1b_is_the_packages(stages, micro):
    for stage in range(stages):
        ours = [
            ("F" if k == "F" else "BW", m) for k, m in one_f_one_b(stages, stage, micro)
        ]
        assert ours == [(k, m) for k, _, m in SCHEDULES["1f1b"](stages, stage, micro)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ranks, micro", [(2, 4), (4, 8)])
def test_idle_units_and_peaks_are_the_packages(name, ranks, micro):
    whole = build(name, ranks, micro)
    idle, peak = bubble_and_memory(published(name, ranks, micro), schedules.UNITS)
    assert [x * whole.share for x in idle] == bubbles.idle(whole)
    assert [x * whole.share for x in peak] == peak_alive(whole, "W")


@pytest.mark.parametrize("name", NAMES)
def test_the_checks_own_clock_is_the_packages(name):
    whole = build(name, 4, 8)
    played = schedules.play(whole.ranks, schedules.UNITS)
    bars = [bar for row in bubbles.play(whole) for bar in row]
    assert not played.stuck
    assert played.starts == {bar.action: bar.start / whole.share for bar in bars}
    assert [schedules.held(row) for row in whole.ranks] == [
        x / whole.share for x in peak_alive(whole, "W")
    ]


def test_a_pipeline_by_hand():
    assert bubble_and_memory(ONE, schedules.UNITS) == ([3, 3], [1, 1])
    assert schedules.text(ONE) == "rank 0: F0 BW0\nrank 1: F0 BW0"


def test_who_waits_for_ever_is_told():
    stuck = [[("F", 0, 0), ("BW", 0, 0)], [("BW", 1, 0), ("F", 1, 0)]]
    told = schedules.play(stuck, schedules.UNITS).stuck
    assert "stage 1 waits in B0 for F0 of stage 1" in told
    assert "stage 0 waits in B0 for B0 of stage 1" in told


def test_a_rank_with_several_stages_says_which():
    text = schedules.text([[("F", 0, 0), ("F", 2, 0)]])
    assert text == "rank 0: F0 of stage 0, F0 of stage 2"


@pytest.mark.parametrize(
    "answer, says",
    [
        (lambda p, s, m: ["F0", "B0"], "An action is a pair"),
        (lambda p, s, m: [[("F", n) for n in range(m)]] * p, "lists in the list"),
        (lambda p, s, m: [("forward", 0)], "An action is a pair"),
    ],
)
def test_a_list_of_another_form_is_told_from_a_wrong_order(answer, says):
    outcome = one_f_one_b_limits.task_5_7.outcome(answer)
    assert not outcome.holds and says in outcome.mismatch.because


def test_a_schedule_that_is_taken_apart_is_not_the_callers_any_more():
    def takes(schedule, units):
        found = bubble_and_memory([list(row) for row in schedule], units)
        schedule[0].pop()
        return found

    outcome = task_5_8.outcome(takes)
    assert "Work on a copy" in outcome.mismatch.because


def test_an_endless_loop_ends_in_a_sentence():
    def for_ever(schedule, units):
        place = 0
        while place < len(schedule):
            if schedule[place]:
                place = 0
        return [], []

    outcome = task_5_8.outcome(for_ever)
    assert "This goes on for ever" in outcome.mismatch.because


def test_a_picture_has_a_row_a_rank_and_a_box_an_action():
    ranks = (("F", 0, 0), ("BW", 0, 0)), (("F", 1, 0), ("BW", 1, 0))
    drawing = schedule_lab.boxes(bubbles.play(Schedule("ours", 2, 1, ranks)))
    assert "rank 0" in drawing.svg and "rank 1" in drawing.svg
    assert drawing.svg.count(">0</text>") >= 4
    assert drawing.narrow
