"""Pictures of a timeline show its spans, its machine and nothing that is not there."""

import re

import pytest
from matplotlib.axes import Axes

from tiny_lm.course.figures.style import COLORS
from tiny_lm.course.figures.timelines import PALE, gantt, unit_of, where_time_goes
from tiny_lm.replay.timeline import Span, Timeline

MS = 10**9
SPANS = (
    Span(0, "comm", "dispatch", 2 * MS, 6 * MS, "comm"),
    Span(0, "compute", "attention", 0, 2 * MS, "kernel"),
    Span(0, "compute", "experts 0 to 3, of sixteen", 6 * MS, 8 * MS, "kernel"),
    Span(1, "comm", "dispatch", 0, 2 * MS, "wait"),
    Span(1, "comm", "dispatch", 2 * MS, 6 * MS, "comm"),
)
TIMELINE = Timeline("toy", SPANS, 10 * MS)


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, as (row, left, length, color), and every text."""
    bars, texts = [], []

    def barh(ax, row, length, height, left=0, *, color, **more):
        bars.append((row, left, length, color))

    real = Axes.text
    monkeypatch.setattr(Axes, "barh", barh)
    monkeypatch.setattr(
        Axes,
        "text",
        lambda ax, *at, **more: texts.append(at[2]) or real(ax, *at, **more),
    )
    return bars, texts


def test_a_bar_lies_where_its_span_is(drawn):
    gantt(TIMELINE, colors={"attention": "mla", "experts": "moe"})
    bars, texts = drawn
    assert sorted(bars) == [
        (0, 0, 2, COLORS["mla"]),
        (0, 6, 2, COLORS["moe"]),
        (1, 2, 4, COLORS["comm"]),
        (2, 0, 2, PALE),
        (2, 2, 4, COLORS["comm"]),
    ]
    assert sorted(texts) == ["attention", "dispatch", "dispatch", "experts", "waits"]


def test_a_kernel_without_a_technique_is_grey(drawn):
    gantt(TIMELINE)
    assert {color for *_, color in drawn[0]} == {
        COLORS["baseline"],
        COLORS["comm"],
        PALE,
    }


def test_ranks_and_window_choose_what_is_shown(drawn):
    gantt(TIMELINE, ranks=[1], window_ps=(1 * MS, 3 * MS))
    assert sorted(drawn[0]) == [(0, 1, 1, PALE), (0, 2, 1, COLORS["comm"])]


def test_ranks_stand_in_the_order_in_which_they_are_named(drawn):
    svg = gantt(TIMELINE, ranks=[1, 0]).svg
    assert sorted(drawn[0])[0] == (0, 0, 2, PALE)
    assert svg.index("rank 1 comm") < svg.index("rank 0 compute")


def test_a_picture_names_its_machine_and_its_unit():
    svg = gantt(TIMELINE).svg
    assert "emulated: toy" in svg and "emulated time in ms" in svg
    assert gantt(TIMELINE).svg == svg
    svg = where_time_goes({"a": TIMELINE, "b": TIMELINE}).svg
    assert len(re.findall(">emulated: toy<", svg)) == 1


def test_units_hold_at_least_one_of_themselves():
    assert unit_of(10**12) == (10**12, "s")
    assert unit_of(10**12 - 1)[1] == "ms"
    assert unit_of(999)[1] == "ps"
    assert unit_of(0)[1] == "ps"


def test_the_bar_of_a_step_is_as_long_as_the_means_of_its_ranks(drawn):
    """Rank 0 computes 4, moves 4, idles 2; rank 1 moves 4 and idles 6."""
    short = Timeline("toy", SPANS[1:2], 2 * MS)
    where_time_goes({"long": TIMELINE, "short": short})
    assert drawn[0] == [
        (0, 0.0, 2.0, COLORS["baseline"]),
        (0, 2.0, 4.0, COLORS["comm"]),
        (0, 6.0, 4.0, PALE),
        (1, 0.0, 2.0, COLORS["baseline"]),
        (1, 2.0, 0.0, COLORS["comm"]),
        (1, 2.0, 0.0, PALE),
    ]
    assert {" 10 ms", " 2 ms", "communication", "bubble"} <= set(drawn[1])


def test_what_is_not_there_cannot_be_shown():
    with pytest.raises(
        ValueError, match=r"no spans of rank 5; there are ranks \[0, 1\]"
    ):
        gantt(TIMELINE, ranks=[5])
    with pytest.raises(ValueError, match="the window must have a length, got 5 to 5"):
        gantt(TIMELINE, window_ps=(5, 5))
