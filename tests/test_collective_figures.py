"""Drawings of collectives show what collectives do."""

import re

from tiny_lm.course.figures.collectives import (
    before_and_after,
    ring_rounds,
    ring_states,
    sums_by_size,
)


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_the_picture_of_the_ring_ends_with_the_whole_sum():
    states = ring_states(4)
    assert states[3][0] == [[1, 4, 3, 2], [2, 1, 4, 3], [3, 2, 1, 4], [4, 3, 2, 1]]
    assert states[-1][0] == [[4] * 4] * 4
    assert all(len(new) == 4 for _, new in states[1:])
    assert ring_rounds().narrow


def test_before_and_after_name_three_collectives_and_fit_a_phone():
    drawing = before_and_after()
    shown = words(drawing.svg)
    assert {"reduce-scatter", "all-gather", "all-to-all"} <= set(shown)
    assert shown.count("Σ") == 4 and drawing.narrow


def test_lines_of_sums_are_named_at_their_ends():
    drawing = sums_by_size(
        [1, 100, 1e4], {"a": [1, 2, 3], "b": [3, 3, 3], "c": [1, 1, 9]}
    )
    assert {"a", "b", "c"} <= set(words(drawing.svg)) and drawing.narrow
