"""Pictures of the cost ladder: shares as they are, both scales named, levels marked."""

import re

from tiny_lm.course.figures import ladder
from tiny_lm.course.figures.ladder import Line, Rung
from tiny_lm.course.figures.style import COLORS


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_a_rung_shows_its_share_here_and_its_range_there():
    drawing = ladder.rungs(
        [
            Rung("dense", "baseline", 1.0, (1.0, 1.0)),
            Rung("+ experts", "moe", 2.141, (0.39, 0.55)),
        ]
    )
    for svg in (drawing.svg, drawing.narrow):
        found = words(svg)
        assert {"100% at our scale", "100% at DeepSeek-V3's"} <= set(found)
        assert {"214%", "39-55%", "dense", "+ experts"} <= set(found)
        assert COLORS["moe"].lower() in svg.lower()


def test_lines_are_named_and_every_length_has_a_tick():
    points = [(400, 2.1), (1000, 1.8), (1400, 1.6)]
    drawing = ladder.lines(
        {"one": Line("#123456", points), "two": Line("#654321", points[::-1], "--")},
        1.8,
        [1000.0, 900.0],
    )
    assert {"one", "two", "400", "1,000", "1,400"} <= set(words(drawing.svg))
    assert drawing.narrow and drawing.svg.count("#123456") > 0
