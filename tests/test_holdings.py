"""What ranks hold and send, by hand; what a run measures is in `test_zero`."""

import pytest

from tiny_lm.config import deepseek_v3
from tiny_lm.costs import FP32_RECIPE, V3_RECIPE, Recipe
from tiny_lm.parallel.holdings import Copies, held_bytes, of_gpu, sent_bytes
from tiny_lm.parallel.plan import Layout, Plan


def test_each_stage_splits_one_thing_more():
    recipe = Recipe(weight=1, gradient=10, master=60, moments=40)
    parts = [Copies(8, 4), Copies(5, 1)]
    found = [tuple(held_bytes(parts, recipe, stage).values()) for stage in range(4)]
    assert found == [
        (13, 130, 1300),
        (13, 130, 700),
        (13, 70, 700),
        (7, 70, 700),
    ]


def test_each_stage_sends_as_much_or_more():
    def sent(num_micro):
        wire = {"weight": 1, "gradient": 10, "num_micro": num_micro}
        return [sent_bytes(Copies(8, 4), stage, **wire) for stage in range(4)]

    assert sent(1) == [6 * 20, 6 * 11, 6 * 11, 6 * 12]
    assert sent(5) == [6 * 20, 6 * 11, 6 * 51, 6 * 60]


def test_there_are_four_stages():
    for call in (
        lambda: held_bytes([], FP32_RECIPE, 4),
        lambda: sent_bytes(Copies(1, 1), 4, weight=1, gradient=1),
    ):
        with pytest.raises(ValueError, match="stage must be one of .* got 4"):
            call()


def test_a_gpu_of_v3_holds_two_stages_beside_255_and_3_others():
    plan = Plan(config=deepseek_v3(), layout=Layout())
    shared, experts = of_gpu(plan, 7)
    assert (shared.num_ranks, experts.num_ranks) == (256, 4)
    assert experts.num_parameters == 2 * 4 * 4 * 3 * 7168 * 2048
    alone, one = (held_bytes([shared, experts], V3_RECIPE, s) for s in (0, 1))
    assert alone["optimizer"] == 8 * (shared.num_parameters + experts.num_parameters)
    assert one["optimizer"] < alone["optimizer"] / 8
    assert one["weights"] == alone["weights"]
    single = Plan(config=deepseek_v3(), layout=Layout(schedule="1f1b"))
    assert [part.num_ranks for part in of_gpu(single, 7)] == [128, 2]
