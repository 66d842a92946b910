"""Stacked bars show the numbers that they are given."""

import re

import pytest

from tiny_lm.course.figures.savings import stacked


def words(drawing) -> list[str]:
    return [w.strip() for w in re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)]


def test_every_piece_and_every_whole_is_named():
    parts = {"weights": 4.0, "moments": 8.0}
    said = words(
        stacked({"FP32": parts, "other": {"weights": 1.0, "moments": 4.0}}, "bytes")
    )
    assert {"FP32", "other", "weights", "moments", "bytes", "4", "8", "12", "5"} <= set(
        said
    )
    assert said.count("weights") == 1


def test_a_piece_too_thin_for_its_number_takes_none():
    said = words(stacked({"one": {"large": 97.0, "thin": 3.0}}, "s", ".0f"))
    assert "97" in said and "100" in said and "3" not in said


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("FP32", "V3, in FP8"), ("weight", "gradient", "master", "moments")),
        (("BF16", "FP8, BF16 rows"), ("products", "attention", "moving", "waiting")),
    ],
)
def test_bars_as_on_the_page_fit_a_phone(names, parts):
    row = dict(zip(parts, (20.9, 3.4, 1.1, 4.3), strict=True))
    assert stacked(dict.fromkeys(names, row), "seconds a step", ".1f").narrow
