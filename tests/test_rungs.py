"""The capstone's ladder: lines hold what they say; its prices are in `test_ladder`."""

import math

import torch

from tiny_lm import costs, ladder
from tiny_lm.config import tiny, tiny_dense
from tiny_lm.course.labs import rungs


def test_every_combination_is_priced_once_and_nothing_is_hidden_without_experts():
    found = rungs.variants()
    assert len(found) == len(set(found)) == 12
    assert ("moe", "overlap") in found and ("mla", "overlap") not in found
    assert set(ladder.ORDER) <= set(found) and set(rungs.NAMES) == set(ladder.ORDER)


def test_a_tensor_holds_each_combination_at_its_switches():
    prices = {some: float(n + 1) for n, some in enumerate(rungs.variants())}
    cost = rungs.as_tensor(prices)
    assert cost.shape == (2, 2, 2, 2)
    assert cost[0, 0, 0, 0] == prices[()]
    assert cost[1, 0, 0, 1] == prices["moe", "overlap"]
    assert cost[0, 1, 1, 1] == cost[0, 1, 1, 0] == prices["mla", "fp8"]
    assert cost[1, 1, 1, 1] == prices[ladder.TECHNIQUES]


def test_a_rank_holds_all_shared_weights_and_its_share_of_the_experts():
    count = costs.count_parameters(tiny())
    routed = count.by_part["routed_experts"]
    assert rungs.rank_bytes(tiny()) == 16 * (count.total - routed + routed // 4)
    dense = costs.count_parameters(tiny_dense()).total
    assert rungs.rank_bytes(tiny_dense()) == 16 * dense


def test_a_line_is_that_of_its_model():
    of = rungs.Price((1.0, 2.0, 3.0), 40.0)
    line = rungs.rung(("moe", "mla"), [2.0, 1.0], 1.5, of)
    config = ladder.combination(("moe", "mla"))
    assert (line.name, line.technique) == ("+ latents", "mla")
    assert line.active == costs.count_parameters(config).active
    assert line.cache_bytes == costs.kv_bytes_per_token(config)
    assert line.flops == costs.flops_per_token(config, 128)
    assert (line.token_us, line.wire_bytes, line.cost) == (6.0, 40.0, math.inf)
    assert rungs.rung((), [1.0], 1.0, of, 1.0).technique == "baseline"


def test_load_of_the_last_steps_in_even_shares():
    metrics = [{"load": [[9, 0]]}, {"load": [[3, 1]]}, {"load": [[1, 3]]}]
    assert rungs.even_shares(metrics, 2) == [[1.0, 1.0]]
    assert rungs.even_shares(metrics, 1) == [[0.5, 1.5]]
    assert torch.tensor(rungs.even_shares(metrics, 3)).sum() == 2
