"""The pictures on balance show what they were given, and tell its parts apart."""

import re

import pytest

from tiny_lm.course.figures import balance as balance_figures
from tiny_lm.course.figures.style import COLORS, FAINT, INK, Drawing


def paths(drawing: Drawing, color: str, kind: str = "fill") -> list[list[float]]:
    """The heights of every path of a color, in the file's own units: down is larger."""
    pattern = rf'd="([^"]*)"[^>]*style="[^"]*{kind}: {color.lower()}'
    found = re.findall(pattern, drawing.svg)
    return [[float(y) for y in re.findall(r"[ML] \S+ (\S+)", d)] for d in found]


def words(drawing: Drawing) -> str:
    """The text of a picture: matplotlib keeps it as a comment beside the glyphs."""
    return " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg))


def test_shares_are_of_all_choices_busiest_first():
    assert balance_figures.shares([1, 6, 1, 0]) == [0.75, 0.125, 0.125, 0]


def test_shares_of_an_idle_layer_are_zero():
    assert balance_figures.shares([0, 0]) == [0, 0]


def test_the_blue_area_is_the_share_of_the_busiest_expert():
    def height(load):
        drawing = balance_figures.load_over_steps({"a": [load] * 3})
        (blue,) = paths(drawing, COLORS["moe"])
        return max(blue) - min(blue)

    assert height([1, 3]) / height([2, 2]) == pytest.approx(0.75 / 0.5, rel=1e-3)


def test_each_panel_of_loads_has_its_title():
    drawing = balance_figures.load_over_steps(
        {"cold": [[1, 1]] * 2, "hot": [[2, 0]] * 2}
    )
    assert {"cold", "hot"} <= set(words(drawing).split())


def test_a_violation_curve_has_a_line_for_each_seed_and_a_name_for_each_label():
    runs = {"alone": [[3.0] * 20, [3.5] * 20], "bias": [[1.0] * 20]}
    drawing = balance_figures.violation_curves(runs, limit=4)
    assert len(paths(drawing, COLORS["baseline"], "stroke")) == 2
    assert len(paths(drawing, COLORS["moe"], "stroke")) == 1
    assert {"alone", "bias"} <= set(words(drawing).split())


def test_a_violation_curve_at_the_limit_lies_on_its_line():
    drawing = balance_figures.violation_curves({"a": [[4.0] * 10]}, limit=4)
    (limit,) = paths(drawing, FAINT, "stroke")
    (curve,) = paths(drawing, COLORS["baseline"], "stroke")
    assert set(curve) == set(limit)


def test_points_of_a_curve_are_means_over_the_window():
    assert balance_figures._means([1, 3, 5, 7], 2) == ([1, 2, 4], [1, 2, 6])
    runs = {"a": [[1.0, 3.0] * 10]}

    def points(window):
        drawing = balance_figures.violation_curves(runs, limit=4, window=window)
        return len(paths(drawing, COLORS["baseline"], "stroke")[0])

    assert points(10) < points(2)


def test_labels_of_lines_that_end_together_are_moved_apart():
    ends = {"a": (1.0, INK), "b": (1.1, INK), "c": (3.0, INK)}
    assert balance_figures._apart(ends, gap=0.5) == [
        (1.0, "a", INK),
        (1.5, "b", INK),
        (3.0, "c", INK),
    ]


def test_pairs_join_the_runs_of_one_seed():
    groups = {"none": [2.0, 3.0, 2.5], "bias": [1.9, 2.9, 2.4]}
    drawing = balance_figures.pairs({"loss": groups, "MaxVio": groups})
    assert len(paths(drawing, FAINT, "stroke")) == 2 * 3
    assert {"none", "bias", "loss", "MaxVio"} <= set(words(drawing).split())


def test_an_axis_from_zero_has_room_below_its_dots():
    def lowest(*titles):
        drawing = balance_figures.pairs({"MaxVio": {"none": [3.0, 2.9]}}, titles)
        places = re.findall(r'<use xlink:href="#\w+" x="\S+" y="(\S+)"', drawing.svg)
        return places

    assert lowest("MaxVio") != lowest()


def test_pairs_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        balance_figures.pairs({"loss": {"none": [2.0, 3.0], "bias": [1.9]}})


def test_equal_pictures_are_equal_files():
    def draw():
        return balance_figures.load_over_steps({"a": [[1, 3], [2, 2]]}).svg

    assert draw() == draw()
