"""Drawings of pipelines show each work of a checked schedule, and no other."""

import re

import pytest

from tiny_lm.course.figures import pipelines
from tiny_lm.course.figures.style import Drawing
from tiny_lm.parallel.bubbles import HIDDEN
from tiny_lm.parallel.schedules import SCHEDULES
from tiny_lm.parallel.whole_schedules import build, of_lists


def words(drawing: Drawing) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)


@pytest.mark.parametrize("name", SCHEDULES)
def test_an_order_shows_each_work_of_each_micro_batch(name):
    schedule = build(name, 2, 4)
    shown = words(pipelines.orders({name: schedule}))
    numbers = [w for w in shown if w in ("0", "1", "2", "3")]
    pairs = sum(a[0] == "FB" for row in schedule.ranks for a in row)
    works = 3 * schedule.num_stages * schedule.num_micro
    ticks = len(numbers) - (works - pairs)  # a pair shows its weights with its B
    assert 0 <= ticks <= 4
    assert {"rank 0", "rank 1", name} <= set(shown)


def test_what_travels_in_the_open_is_drawn_in_its_own_colour():
    one = {"1F1B": build("1f1b", 2, 4)}
    color = pipelines.COMM.lower()
    assert pipelines.orders(one, HIDDEN).svg.lower().count(color) == 16
    assert color not in pipelines.orders(one).svg.lower()


def test_a_schedule_that_is_wrong_is_not_drawn():
    with pytest.raises(ValueError, match="rank 0 wants to do BW"):
        pipelines.orders({"x": of_lists([[("BW", 0, 0), ("F", 0, 0)]])})


def test_stages_are_named():
    assert "stage 3" in words(pipelines.stages())


def test_boxes_without_room_have_no_number():
    many = words(pipelines.orders({"1F1B": build("1f1b", 2, 100)}))
    assert not {"77", "98"} & set(many)
