"""The book's pictures show what they were given, each in its technique's colour."""

import re

import pytest

from tiny_lm.course.figures import baseline as figures
from tiny_lm.course.figures.baseline import Bite
from tiny_lm.course.figures.style import COLORS, FAINT, Drawing


def colors_of(drawing: Drawing) -> set[str]:
    return {color.upper() for color in re.findall(r"#[0-9a-fA-F]{6}", drawing.svg)}


def test_a_bite_says_how_many_times_smaller_the_bill_gets():
    bite = Bite(technique="moe", bill="operations", without=12, with_it=3, unit="")
    assert bite.factor == 4


def test_relative_load_is_one_for_an_even_share_and_adds_up_over_steps():
    assert figures.relative_load([[1, 3], [1, 3]]) == [0.5, 1.5]
    assert figures.relative_load([[4, 0], [0, 4]]) == [1, 1]


def test_relative_load_of_an_idle_layer_is_zero():
    assert figures.relative_load([[0, 0]]) == [0, 0]


def test_a_full_picture_shows_every_technique_in_its_own_color():
    wanted = {COLORS[name] for name in ("moe", "mla", "fp8", "comm")}
    assert wanted <= colors_of(figures.model_picture())


@pytest.mark.parametrize("lit", ["moe", "mla", "fp8", "comm"])
def test_a_lit_picture_keeps_the_color_of_one_technique_alone(lit):
    shown = colors_of(figures.model_picture(lit=lit))
    others = {color for name, color in COLORS.items() if name != lit}
    assert COLORS[lit] in shown and FAINT in shown
    assert not shown & others


def test_the_picture_has_one_column_a_rank():
    def boxes(ranks):
        return figures.model_picture(ranks=ranks).svg.count("clip-path")

    assert boxes(4) > boxes(2)


def test_an_unknown_technique_is_refused_by_name():
    with pytest.raises(ValueError, match="no technique is called 'gpu'"):
        figures.model_picture(lit="gpu")


def test_bars_are_as_long_as_the_bills_they_stand_for():
    bites = [Bite(technique="mla", bill="cache", without=8, with_it=2, unit="KB")]
    svg = figures.four_bites(bites).svg
    widths = {color: bar_width(svg, COLORS[color]) for color in ("baseline", "mla")}
    assert widths["mla"] / widths["baseline"] == pytest.approx(1 / 4, rel=1e-3)


def bar_width(svg: str, color: str) -> float:
    pattern = rf'd="([^"]*)"[^>]*style="fill: {color.lower()}'
    xs = [float(x) for x in re.findall(r"[ML] ([\d.]+)", re.search(pattern, svg)[1])]
    return max(xs) - min(xs)


def test_learning_curves_start_at_the_first_step_and_average_ten_steps_after_it():
    steps, means = figures._means_of([1.0, 3.0] * 10, 10)
    assert steps == [1, 10, 20] and means == [1, 2, 2]


def test_learning_curves_color_a_run_as_told_and_others_grey():
    drawing = figures.learning_curves(
        {"a": [3.0] * 20, "b": [2.0] * 20}, levels={"guess": 8}, colors={"a": "moe"}
    )
    assert {COLORS["moe"], COLORS["baseline"], FAINT} <= colors_of(drawing)


def test_load_is_drawn_grey_for_the_first_steps_and_blue_for_the_last():
    drawing = figures.expert_load([[[1, 3], [2, 2]]] * 5, window=2)
    assert {COLORS["moe"], COLORS["baseline"]} <= colors_of(drawing)


def test_a_curve_of_contexts_and_a_chart_of_odds_are_drawn_alike_every_time():
    def draw():
        panels = {"cold": {"a": 0.9, "\n": 0.1}, "hot": {"a": 0.5, "\n": 0.5}}
        odds = figures.next_bytes(panels, "def")
        return figures.context_curve([4, 3, 2], [4, 3, 3]).svg, odds.svg

    assert draw() == draw()


def test_a_drawing_is_an_svg_on_a_light_plate():
    drawing = figures.context_curve([4, 3], [4, 3])
    assert drawing._repr_svg_().lstrip().startswith("<?xml")
    assert "#FFFFFF" in colors_of(drawing)


def test_control_characters_of_a_model_become_dots_and_line_feeds_stay():
    assert figures.printable("a\x1bb\nc\x00é") == "a·b\nc·é"
