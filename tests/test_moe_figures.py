"""Pictures of the experts' part, and the numbers that pages read off the records."""

import re
from math import log, log2

import pytest
from test_figures import colors_of

from tiny_lm.course.figures import moe as moe_figures
from tiny_lm.course.figures.style import COLORS, FAINT


def run(label: str, seed: int, losses: list[float], flops_per_token: float = 2e12):
    """A record with a measurement after each token."""
    return {
        "label": label,
        "seed": seed,
        "tokens": list(range(1, len(losses) + 1)),
        "val_loss": losses,
        "final_val_loss": losses[-1],
        "flops_per_token": flops_per_token,
    }


def heights(svg: str, color: str) -> list[float]:
    """The y of every point of the line of this colour; SVG counts from the top."""
    lines = re.findall(rf'd="([^"]*)"[^>]*style="fill: none; stroke: {color}', svg)
    longest = max(lines, key=len)
    return [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", longest)]


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_a_level_is_reached_on_the_straight_line_between_two_points():
    assert moe_figures.reach([(0, 4.0), (10, 2.0), (20, 1.0)], 3.0) == 5
    assert moe_figures.reach([(0, 4.0), (10, 2.0), (20, 1.0)], 1.5) == 15


def test_a_curve_that_starts_below_the_level_gives_its_start():
    assert moe_figures.reach([(0.4, 1.0), (0.6, 0.9)], 1.1) == 0.4


def test_a_level_that_is_never_reached_has_no_place():
    assert moe_figures.reach([(0, 4.0), (10, 2.0)], 1.9) is None


def test_what_a_run_has_cost_is_counted_in_its_own_flops_per_token():
    long = run("moe", 0, [3.0, 2.0], flops_per_token=5.0)
    assert moe_figures.flops_so_far(long) == [5.0, 10.0]
    assert moe_figures.total_flops(long) == 10.0


def test_final_losses_are_gathered_by_share_of_the_budget_shortest_first():
    runs = [run("a", 0, [3, 2, 1]), run("b", 0, [4]), run("b", 1, [5])]
    assert moe_figures.by_length(runs, budget=6e12) == {0.33: [4, 5], 1.0: [1]}


def test_runs_of_one_label_come_by_seed():
    runs = [run("moe", 1, [1]), run("dense", 0, [2]), run("moe", 0, [3])]
    assert [r["final_val_loss"] for r in moe_figures.runs_of(runs, "moe")] == [3, 1]


def test_an_unknown_label_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no run is labelled 'best'; there are: moe"):
        moe_figures.runs_of([run("moe", 0, [1])], "best")


def test_an_expert_that_reads_like_all_others_tells_nothing_of_the_kind():
    assert moe_figures.told([[30, 10], [60, 20]]) == pytest.approx(0)


def test_an_expert_a_kind_tells_the_kind():
    assert moe_figures.told([[7, 0], [0, 9]]) == pytest.approx(1)


def test_what_an_expert_tells_is_mutual_information_over_entropy():
    # Kinds are even: 1 bit. Each expert leaves the entropy of (3/4, 1/4).
    left = -0.75 * log2(0.75) - 0.25 * log2(0.25)
    assert moe_figures.told([[3, 1], [1, 3]]) == pytest.approx(1 - left)


def test_chosen_experts_are_filled_and_every_score_is_written():
    one = moe_figures.routing_grid([[0.9, 0.1, 0.3]], [[0]], ["for"]).svg
    two = moe_figures.routing_grid([[0.9, 0.1, 0.3]], [[0, 2]], ["for"]).svg
    filled = f"fill: {COLORS['moe'].lower()}"
    assert (one.count(filled), two.count(filled)) == (1, 2)
    assert {"0.9", "0.1", "0.3", "for", "expert 2"} <= set(words(one))


def test_models_are_named_where_half_of_their_experts_are_read():
    svg = moe_figures.weights_read({"V": [0.1, 0.6, 1.0]}, [1, 2, 4]).svg
    assert "V" in words(svg)
    ys = heights(svg, COLORS["moe"].lower())
    assert (ys[0] - ys[1]) / (ys[0] - ys[2]) == pytest.approx(0.5 / 0.9, rel=1e-3)


def test_equal_flops_draws_the_mean_of_the_seeds_with_the_baseline_in_grey():
    runs = [run("moe", s, [3.0, 1.0 + s, 1.0]) for s in (0, 1)]
    runs += [run("dense", s, [3.0, 2.5, 2.0]) for s in (0, 1)]
    drawing = moe_figures.equal_flops(runs, ("moe", "dense"))
    assert {COLORS["moe"], COLORS["baseline"], FAINT} <= colors_of(drawing)
    assert {"moe", "dense"} <= set(words(drawing.svg))
    ys = heights(drawing.svg, COLORS["moe"].lower())
    assert (ys[0] - ys[1]) / (ys[0] - ys[2]) == pytest.approx(-1.5 / -2, rel=1e-3)


def test_equal_flops_leaves_out_the_first_measurements_and_adds_shorter_runs():
    runs = [run("moe", 0, [9.0, 2.0, 1.0]), run("dense", 0, [9.0, 3.0, 2.0])]
    full = moe_figures.equal_flops(runs, ("moe", "dense")).svg
    late = moe_figures.equal_flops(runs, ("moe", "dense"), skip=1).svg
    assert len(heights(full, COLORS["moe"].lower())) == 3
    assert len(heights(late, COLORS["moe"].lower())) == 2
    dots = moe_figures.equal_flops(runs, ("moe", "dense"), shorter=[run("x", 0, [2])])
    assert dots.svg.count("fill: #ffffff") > full.count("fill: #ffffff")


def test_more_experts_are_drawn_by_number_with_their_loss_in_bits():
    runs = [run("16", 0, [log(2)]), run("4", 0, [2 * log(2)])]
    shown = words(moe_figures.more_experts(runs).svg)
    assert {"1.000", "2.000", "4", "16"} <= set(shown)
    assert shown.index("4") < shown.index("16")


def test_readers_are_white_at_their_share_blue_above_and_grey_below():
    corpus, kinds = [0.5, 0.5], ["digits", "other"]
    even = moe_figures.readers([[[0.5, 0.5]]], corpus, kinds)
    split = moe_figures.readers([[[1.0, 0.0]]], corpus, kinds, limit=2)
    assert COLORS["moe"] not in colors_of(even)
    assert {COLORS["moe"], "#9A9A9A"} <= colors_of(split)
    assert {"digits", "other", "MoE layer 1"} <= set(words(split.svg))


def test_a_higher_limit_leaves_the_same_share_paler():
    args = [[[1.0, 0.0]]], [0.5, 0.5], ["digits", "other"]
    assert COLORS["moe"] not in colors_of(moe_figures.readers(*args, limit=8))


def test_readers_have_a_panel_for_each_layer():
    expert = [[0.5, 0.5]]
    drawing = moe_figures.readers([expert, expert], [0.5, 0.5], ["digits", "other"])
    assert "MoE layer 2" in words(drawing.svg)


def test_every_run_has_a_line_of_its_own_and_every_group_its_colour():
    groups = {
        "moe": [run("moe", seed, [3.0, 2.0, 1.0 + seed]) for seed in range(3)],
        "dense": [run("dense", 0, [3.0, 2.5, 2.0])],
    }
    svg = moe_figures.every_run(groups).svg
    for color, number in ((COLORS["moe"], 3), (COLORS["baseline"], 1)):
        lines = re.findall(
            rf'd="[^"]*"[^>]*style="fill: none; stroke: {color.lower()}', svg
        )
        assert len(lines) == number
    assert {"moe", "dense"} <= set(words(svg))
    whole, cut = (moe_figures.every_run(groups, skip=n).svg for n in (0, 1))
    moe = COLORS["moe"].lower()
    assert len(heights(whole, moe)) == len(heights(cut, moe)) + 1
