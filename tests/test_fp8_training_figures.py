"""The pictures of training in FP8 show what is rounded, and how far runs stray."""

import re

from tiny_lm.course.figures import fp8_training
from tiny_lm.course.figures.style import COLORS


def words(drawing) -> list[str]:
    return [w.strip() for w in re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)]


def count(drawing, look: str) -> int:
    return len(re.findall(look, drawing.svg, re.IGNORECASE))


def test_a_layer_has_three_products_and_rounds_five_times():
    drawing = fp8_training.one_layer()
    said = words(drawing)
    assert {"X", "dY", "dX", "dW", "Y", "X Wᵀ", "dYᵀ X", "dY W"} <= set(said)
    assert said.count("1 × 128") == 2 and said.count("128 × 1") == 2
    assert said.count("again") == said.count("blocks") == 1
    assert count(drawing, rf"fill: {COLORS['fp8']}") == 3
    assert drawing.narrow


def test_each_way_of_the_picture_joins_two_of_its_boxes():
    places = fp8_training.TENSORS | fp8_training.ROUNDED | fp8_training.PRODUCTS
    for way in fp8_training.WAYS:
        assert set(way) <= set(places)
    products = list(fp8_training.PRODUCTS)
    ends = [end for _, end in fp8_training.WAYS if end in products]
    assert sorted(ends) == sorted(2 * products)


def test_gaps_have_a_dot_a_seed_and_twins_are_grey():
    rows = {
        "noise": {"fp32": [0.001, -0.002]},
        "FP8": {"fp32": [0.003, 0.004], "own": [0.005, 0.006]},
    }
    drawing = fp8_training.gaps(rows, 0.0015, twins=("noise",))
    assert {"noise", "FP8", "fp32", "own", "gap, per cent"} <= set(words(drawing))
    uses = re.findall(r"<use [^>]*style=\"fill: (#\w+)", drawing.svg)
    assert uses.count(COLORS["baseline"].lower()) == 2
    assert uses.count(COLORS["fp8"].lower()) == 3  # two seeds, and the key
    assert uses.count("#ffffff") == 3
    assert drawing.narrow


def test_one_measure_needs_no_key():
    drawing = fp8_training.gaps({"FP8": {"last loss": [0.01]}}, 0.002)
    assert "last loss" not in words(drawing)
