"""Diagrams show the arrangement that they were asked for, on a phone as well."""

import re

import pytest

from tiny_lm.course.figures import diagrams, lab_pictures
from tiny_lm.course.figures.style import COLORS, FAINT, Drawing

ODDS = {"a": 0.5, "b": 0.3, " ": 0.15, "\n": 0.05}
ALL = {
    "model": diagrams.model_picture(),
    "products": diagrams.three_products(),
    "squares": diagrams.stored_and_used({"V3": (67, 4)}),
    "transformer": diagrams.transformer(),
    "agreements": diagrams.agreements(),
    "surprise": diagrams.bars_of_surprise("ab", [1.0, 2.0], [0.5, 0.0]),
    "top-p": diagrams.kept_by_top_p(ODDS, 0.9),
    "windows": lab_pictures.windows(),
    "heads": lab_pictures.heads(),
}


def words(drawing: Drawing) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)


def filled(drawing: Drawing, color: str) -> int:
    return len(re.findall(rf"fill: {color.lower()}", drawing.svg))


@pytest.mark.parametrize("drawing", ALL.values(), ids=ALL.keys())
def test_a_diagram_finds_room_on_a_phone(drawing):
    assert drawing.narrow


def test_three_products_ask_for_four_outputs_three_inputs_and_twelve_weights():
    assert filled(ALL["products"], COLORS["moe"]) == 4 + 3 + 12


def test_a_square_is_filled_for_each_billion_that_is_used():
    assert filled(ALL["squares"], COLORS["moe"]) == 4
    assert filled(ALL["squares"], FAINT) == 63
    assert "V3: stores 67, uses 4" in words(ALL["squares"])


def test_each_byte_of_the_transformer_bets_on_the_one_that_follows():
    shown = words(diagrams.transformer("ab c"))
    assert [w for w in shown if w in ("a", "b", "c", "space", "?")] == [
        *("a", "b"),
        *("b", "space"),
        *("space", "c"),
        *("c", "?"),
    ]


def test_surprise_is_written_above_its_bar():
    assert {"1.0", "2.0", "0.5", "0.0"} <= set(words(ALL["surprise"]))


def test_top_p_keeps_the_byte_that_crosses_the_line_and_drops_the_rest():
    kept = diagrams.kept_by_top_p(ODDS, 0.79)
    assert filled(ALL["top-p"], FAINT) == 1 and filled(kept, FAINT) == 2


def test_targets_lie_one_byte_further_than_inputs():
    shown = words(lab_pictures.windows("abcdef", seq_len=2, starts=(1,)))
    assert [w for w in shown if w in "abcdef"][6:] == ["b", "c", "c", "d"]


def test_a_head_has_its_share_of_columns_and_the_past_of_its_scores():
    drawing = lab_pictures.heads(length=3, width=4, num_heads=2)
    assert filled(drawing, lab_pictures.HEADS[0]) == 3 * 2 + 6
    assert "head 1" in words(drawing)
