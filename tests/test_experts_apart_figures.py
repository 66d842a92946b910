"""The drawings of experts on different GPUs show what they were given."""

import re

from tiny_lm.course.figures import experts_apart as figures
from tiny_lm.course.figures.style import COLORS, Drawing

COMM = f"fill: {COLORS['comm'].lower()}"


def words(drawing: Drawing) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)


def test_rows_name_their_token_and_expert_and_have_their_sender_s_shade():
    stages = {
        "tokens": [[("a", -1, 0)], [("c", -1, 1)]],
        "rows": [[("a", 0, 0), ("c", 1, 1)], []],
    }
    drawing = figures.rows_on_ranks(stages)
    assert {"rank 0", "rank 1", "tokens", "a", "c", "a for 0", "c for 1"} <= set(
        words(drawing)
    )
    assert drawing.svg.count(COMM) == 2 and drawing.narrow


def test_a_token_is_sent_once_an_expert_or_once_in_all():
    drawing = figures.ways_to_a_node([1, 0, 2])
    assert words(drawing).count("GPU 2") == 2
    assert drawing.svg.count(COMM) == 2 + 3  # the forwarder has none of the experts
    fewer = figures.ways_to_a_node([1, 0, 1])
    assert drawing.svg.count("<path") > fewer.svg.count("<path")


def test_nodes_are_counted_from_one():
    drawing = figures.nodes_visited({"free": [0.2, 0.8], "limited": [1.0, 0.0]})
    assert {"1", "2", "free", "limited"} <= set(words(drawing)) and drawing.narrow


def test_offers_stand_over_demands():
    shown = words(figures.offers_and_demands({"model": 100.0}, {"machine": 5000.0}))
    assert {"model", "machine"} <= set(shown)


def test_lines_that_begin_together_have_names_apart():
    lines = {"one": [1.5, 1.1], "two": [1.5, 1.0], "three": [3.0, 1.2]}
    drawing = figures.by_copies(lines, (0,), "in order")
    assert {"one", "two", "three", "in order", "greedy"} <= set(words(drawing))
    assert drawing.narrow
