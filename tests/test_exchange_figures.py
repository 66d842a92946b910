"""Drawings of exchanges show who gets what, and of schedules who works when."""

import re

import pytest

from tiny_lm.course.figures import exchanges
from tiny_lm.course.figures.style import Drawing
from tiny_lm.parallel import unit_pipelines
from tiny_lm.parallel.schedules import OF_WHOLE_STAGES


def words(drawing: Drawing) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)


def test_a_sum_is_on_every_rank():
    assert words(exchanges.sum_of_four([1, 2, 3, 5])).count("11") == 4


def test_a_row_arrives_where_it_was_sent():
    """Rank 0 gets one row of rank 1; rank 1 gets two of rank 0 and keeps one."""
    drawing = exchanges.all_to_all([[1, 1], [0, 1]])
    shown = words(drawing)
    before, after = shown.index("before: to whom"), shown.index("after: from whom")
    numbers = [
        [w for w in part if len(w) == 1]
        for part in (shown[:before], shown[before:after])
    ]
    assert numbers == [["1", "1", "0", "1"], ["1", "0", "0", "1"]]
    assert drawing.narrow


def test_a_ring_of_each_size_has_all_ranks_twice():
    shown = words(exchanges.ring(3))
    assert [shown.count(f"rank {rank}") for rank in range(4)] == [2, 2, 2, 0]


def test_hops_are_numbered_in_their_order():
    assert {"1 network", "2 NVLink"} <= set(words(exchanges.two_hops()))


def test_both_ends_of_the_hops_are_drawn_for_each_machine():
    shown = words(exchanges.hops_in_time(7.7, {"H800": 2.5, "H100": 1.1}, "ms"))
    assert {"pipelined", "in series", "H800", "H100"} <= set(shown)
    assert shown.count("NVLink") == shown.count("network") == 4


@pytest.mark.parametrize("name", OF_WHOLE_STAGES)
def test_an_order_shows_each_micro_batch_forward_backward_and_for_its_weights(name):
    timeline = unit_pipelines.play(OF_WHOLE_STAGES[name], 2, 4)
    shown = words(exchanges.orders({name: timeline}))
    numbers = [w for w in shown if w in ("0", "1", "2", "3")]
    pairs = sum(span.name.startswith("FB") for span in timeline.spans)
    ticks = len(numbers) - (2 * 3 * 4 - pairs)  # a pair shows its weights with its B
    assert 0 <= ticks <= 4
    assert {"rank 0", "rank 1", name} <= set(shown)
