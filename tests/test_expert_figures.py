"""The drawings of a layer of experts show what they were given."""

import re

import pytest

from tiny_lm.course.figures import balance as balance_figures
from tiny_lm.course.figures import experts as drawings
from tiny_lm.course.figures.style import COLORS, Drawing

BLUE = f"fill: {COLORS['moe'].lower()}"


def words(drawing: Drawing) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)


def test_a_layer_names_its_gates_and_fills_who_works():
    two = drawings.layer_of_experts("for", [0.9, 0.1, 0.3], [0.6, 0, 0.4])
    one = drawings.layer_of_experts("for", [0.9, 0.1, 0.3], [1.0, 0, 0])
    assert {"× 0.6", "× 0.4", "× 1.0", "router", "weighted sum"} <= set(words(two))
    assert two.svg.count(BLUE) > one.svg.count(BLUE)


def test_rows_are_sorted_by_expert_and_name_their_token():
    drawing = drawings.sorted_rows(["a", "b"], [[2, 0], [0, 1]])
    rows = [word for word in words(drawing) if ": " in word]
    assert rows == ["0: a", "0: b", "1: b", "2: a"]


def test_gates_come_from_the_scores_of_those_that_the_bias_helped_to_choose():
    drawing = drawings.choose_and_weigh([0.9, 0.8, 0.5, 0.4], [-0.4, -0.1, 0.2, 0.1])
    shown = words(drawing)
    assert {"0.8 → 0.62", "0.5 → 0.38", "0.7"} <= set(shown)
    assert not any(word.startswith("0.9 →") for word in shown)


def test_the_even_share_is_the_mean_of_the_loads():
    assert "even share" in words(drawings.waiting_for([6, 1, 1, 0]))
    assert drawings.waiting_for([6, 1, 1, 0]).svg != drawings.waiting_for([8, 0]).svg


def test_a_group_counts_by_the_sum_of_its_best_and_the_favourite_may_be_out():
    scores = [0.9, 0.1, 0.6, 0.5, 0.8, 0.7, 0.2, 0.3]
    drawing = drawings.group_limit(scores, num_groups=4, top_groups=2, top_k=4)
    assert {"1.0", "1.1, kept", "1.5, kept", "0.5"} <= set(words(drawing))
    assert drawing.svg.count(BLUE) == 4
    free = drawings.group_limit(scores, num_groups=4, top_groups=4, top_k=4)
    assert sum(word.endswith(", kept") for word in words(free)) == 4


def test_experts_stand_by_their_mean_with_their_spread():
    panels = {"still": [(0.1, 0.2), (0.3, 0.1)], "learned": [(1.0, 0.2), (-1.0, 0.2)]}
    drawing = balance_figures.shared_and_own(panels)
    assert set(panels) <= set(words(drawing))
    assert balance_figures.shared_and_own({"still": panels["still"]}).svg


def test_a_mirror_has_a_dot_an_expert():
    drawing = balance_figures.mirror([0.1, 0.5, 0.9], [0.4, 0.0, -0.4])
    assert {"score of the mean token", "balance bias"} <= set(words(drawing))
    with pytest.raises(ValueError, match="same size"):
        balance_figures.mirror([0.1], [0.4, 0.0])
