"""Drawings of exchanges show who gets what."""

import re

from tiny_lm.course.figures import exchanges
from tiny_lm.course.figures.style import Drawing


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


def test_hops_are_numbered_in_their_order():
    assert {"1 network", "2 NVLink"} <= set(words(exchanges.two_hops()))


def test_both_ends_of_the_hops_are_drawn_for_each_machine():
    shown = words(exchanges.hops_in_time(7.7, {"H800": 2.5, "H100": 1.1}, "ms"))
    assert {"pipelined", "in series", "H800", "H100"} <= set(shown)
    assert shown.count("NVLink") == shown.count("network") == 4
