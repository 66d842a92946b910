"""Pictures of hidden communication: pieces where they belong, names, and a bound."""

import re

import pytest

from tiny_lm.course.figures import hiding
from tiny_lm.course.figures.style import COLORS
from tiny_lm.replay.hidden import Hiding
from tiny_lm.replay.timeline import COMM, KERNEL, Span, Timeline

MS = 10**9


def _words(drawing):
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)


def test_turns_name_their_pieces_and_streams():
    words = _words(hiding.turns({"compute": [("A a", 1), ("", 1), ("E b", 2)]}))
    assert {"A a", "E b", "compute", "time", "4"} <= set(words)


def _timeline(*spans):
    return Timeline("unit", tuple(Span(0, *span) for span in spans), 9 * MS)


def test_a_layer_is_shown_from_its_first_to_its_last_span_in_one_direction():
    timeline = _timeline(
        ("compute", "blocks.1 add", 0, MS, KERNEL),
        ("compute", "blocks.2.ffn.experts mm", 2 * MS, 4 * MS, KERNEL),
        ("comm", "blocks.2.ffn all_to_all", 4 * MS, 6 * MS, COMM),
        ("compute", "blocks.2.ffn mm backward", 6 * MS, 9 * MS, KERNEL),
    )
    there = hiding.layer({"one": timeline}, 0, "blocks.2")
    assert {"one: compute", "exchanges", "experts", "emulated ms"} <= set(_words(there))
    assert "4.0" in _words(there) and "5.0" not in _words(there)
    assert COLORS["comm"].lower() in there.svg.lower()
    back = hiding.layer({"one": timeline}, 0, "blocks.2", backward=True)
    assert COLORS["comm"].lower() not in back.svg.lower()


@pytest.mark.parametrize(("by", "label"), [(0.25, "4 : 1"), (1, "1 : 1"), (4, "1 : 4")])
def test_ratios_are_written_as_compute_to_communication(by, label):
    found = {ratio: Hiding(2.0, ratio, 0.5 * ratio, 9.0) for ratio in (0.25, 1, 4)}
    words = _words(hiding.exposed({"in turn": (found, "moe")}))
    assert label in words and "in turn" in words
