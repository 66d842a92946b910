"""V3's step without its techniques: what each is replaced by, and what that costs."""

import pytest

from tiny_lm import costs
from tiny_lm.config import deepseek_v3
from tiny_lm.parallel import v3_ladder, v3_step
from tiny_lm.parallel.bf16_step import bf16_step
from tiny_lm.replay.simulation import replay

REACHED = 0.45  # about what `fit` finds
SHORT = {"batch_size": 128 * 32}


def test_without_experts_a_token_costs_the_flops_that_it_spends_on_them():
    dense, sparse = (v3_ladder.v3_with(some) for some in (("mla",), ("moe", "mla")))
    flops = [costs.flops_per_token(config, 4096) for config in (dense, sparse)]
    assert flops[0] == pytest.approx(flops[1], rel=0.003)  # but for the router
    assert dense.moe is None and dense.d_ffn == deepseek_v3().d_ffn
    assert (
        costs.count_parameters(sparse).total > 15 * costs.count_parameters(dense).total
    )


def test_without_mla_eight_heads_are_cached_and_all_techniques_are_v3_itself():
    grouped = v3_ladder.v3_with(("moe", "fp8"))
    assert costs.kv_elements_per_token(grouped.attention) == 2 * 8 * 128
    assert v3_ladder.v3_with(("moe", "mla", "fp8")) == deepseek_v3()


def test_all_four_are_v3_s_step_and_three_its_step_in_bf16():
    four = v3_ladder.step_s(("moe", "mla", "fp8", "overlap"), REACHED, **SHORT)
    three = v3_ladder.step_s(("moe", "mla", "overlap"), REACHED, **SHORT)
    there = v3_step.machine(reached=REACHED)
    for found, tapes in (
        (four, v3_step.deepseek_v3_step(**SHORT)),
        (three, bf16_step(**SHORT)),
    ):
        assert found == replay(tapes, there, mirror=True).step_ps / 1e12
    assert four < three


def test_a_dense_step_has_nothing_to_hide_and_experts_do():
    dense = {v3_ladder.step_s(some, REACHED, **SHORT) for some in ((), ("overlap",))}
    assert len(dense) == 1
    sparse = [
        v3_ladder.step_s(("moe", *some), REACHED, hops, **SHORT)
        for some, hops in (
            (("overlap",), "pipelined"),
            ((), "pipelined"),
            ((), "series"),
        )
    ]
    assert sparse == sorted(sparse) and sparse[0] > dense.pop()
