"""Plans: routing by lot, layers over stages, who sends whom how much."""

from dataclasses import replace
from itertools import combinations

import pytest

from tiny_lm.config import deepseek_v3, tiny, tiny_dense
from tiny_lm.costs import expert_traffic_bytes_per_token
from tiny_lm.parallel.plan import Layout, Plan, block_of, reach, split_layers
from tiny_lm.parts import MoEConfig

V3 = deepseek_v3()
SMALL = Layout(
    num_stages=2,
    num_expert_ranks=4,
    num_expert_copies=2,
    gpus_per_node=2,
    batch_size=64,
    seq_len=128,
    schedule="1f1b",
)


def test_v3_has_2048_gpus_and_120_micro_batches():
    layout = Layout()
    assert (layout.gpus_per_stage, layout.num_gpus, layout.num_micro) == (
        128,
        2048,
        120,
    )
    assert replace(layout, sequences_per_micro=2).num_micro == 60
    assert layout.num_pipelines == 2
    assert replace(layout, schedule="zb1p").num_pipelines == 1


@pytest.mark.parametrize("num_experts", [1, 2, 4])
def test_the_reach_of_a_choice_by_lot_equals_counting_all_choices(num_experts):
    moe = MoEConfig(
        num_experts=8, num_shared=0, top_k=3, d_expert=1, num_groups=4, top_groups=2
    )
    hits = [
        any(expert < num_experts for expert in chosen)
        for groups in combinations(range(4), 2)
        for chosen in combinations([2 * g + i for g in groups for i in (0, 1)], 3)
    ]
    assert reach(moe, num_experts) == pytest.approx(sum(hits) / len(hits))


def test_the_reach_of_all_experts_is_certain():
    assert reach(V3.moe, 256) == 1
    assert reach(replace(V3.moe, top_groups=8), 256) == 1


def test_a_token_of_v3_goes_to_fewer_nodes_with_the_limit():
    free = replace(V3.moe, top_groups=8)
    assert 8 * reach(V3.moe, 32) == pytest.approx(3.63, abs=0.01)
    assert 8 * reach(free, 32) == pytest.approx(5.29, abs=0.01)


def test_layers_are_split_evenly_and_the_head_counts():
    split = split_layers(V3, 16, 4096)
    assert [layer for layers in split for layer in layers] == list(range(61))
    assert sorted(map(len, split)) == [2, 3, *[4] * 14]
    assert len(split[-1]) == 2
    assert split_layers(tiny(), 1, 128) == [range(4)]
    assert [len(s) for s in split_layers(replace(V3, num_mtp=1), 16, 4096)][-1] == 1


def test_the_split_has_the_least_squares_of_all_splits():
    """Eight layers of one unit and a head of about one on three stages."""
    dense = replace(tiny_dense(), num_layers=8, num_dense_layers=8, vocab_size=1280)
    assert [len(s) for s in split_layers(dense, 3, 128)] == [3, 3, 2]
    assert [len(s) for s in split_layers(replace(dense, vocab_size=1), 2, 128)] == [
        4,
        4,
    ]


@pytest.mark.parametrize("wire", [True, False])
@pytest.mark.parametrize("groups", [4, 8])
def test_bytes_between_nodes_are_those_of_the_closed_form(wire, groups):
    config = replace(
        V3, fp8=replace(V3.fp8, wire=wire), moe=replace(V3.moe, top_groups=groups)
    )
    plan = Plan(config=config, layout=Layout())
    there, back = (plan.exchange_bytes(t, 9) for t in ("dispatch", "combine"))
    far = [rank for rank in range(64) if rank // 8 != 9 // 8]
    sent = sum(there[rank] + back[rank] for rank in far) * config.num_moe_layers
    copies = 7 * reach(config.moe, 32)
    wanted = expert_traffic_bytes_per_token(config, copies)
    assert sent / plan.micro_tokens == pytest.approx(wanted, rel=1e-3)
    assert [rank for rank in far if there[rank]] == [1, *range(17, 64, 8)]


def test_inside_a_node_goes_what_is_theirs_and_what_is_handed_on():
    """From eight nodes: a GPU of four experts is hit by one token in nine."""
    plan = Plan(config=V3, layout=Layout())
    row = plan.row_bytes("dispatch")
    near = plan.exchange_bytes("dispatch", 9)[8:16]
    assert set(near) == {round(4096 * 8 * reach(V3.moe, 4)) * row}
    assert (row, plan.row_bytes("combine")) == (7392, 14_336)


def test_experts_inside_one_node_need_no_handing_on():
    layout = replace(SMALL, gpus_per_node=8, num_expert_copies=2)
    plan = Plan(config=tiny(), layout=layout)
    rows = round(128 * reach(tiny().moe, 4))
    assert plan.exchange_bytes("combine", 1) == (rows * 2 * 128,) * 4


def test_groups_are_neighbours_and_copies_keep_their_place():
    plan = Plan(config=tiny(), layout=SMALL)
    assert block_of(13, 4) == (12, 13, 14, 15)
    assert plan.stage_copies(13, 4) == (9, 13)
    both = Plan(config=tiny(), layout=replace(SMALL, schedule="dualpipe"))
    assert both.stage_copies(13, 4) == (1, 5, 9, 13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_stages": 0}, "num_stages must be positive, got 0"),
        ({"sequences_per_micro": 0}, "sequences_per_micro must be positive"),
        ({"tensor_parallel": 0}, "tensor_parallel must be positive"),
        ({"batch_size": 15_361}, "batch_size=15361 does not divide .* on 128 GPUs"),
        ({"sequences_per_micro": 7}, "micro-batches of 7 on 128 GPUs"),
        ({"schedule": "zbv"}, "unknown schedule 'zbv'; there are: gpipe, 1f1b, zb1p"),
        ({"gpus_per_node": 6}, "of 64 expert ranks do not divide into nodes of 6"),
        ({"tensor_parallel": 3}, "tensor_parallel=3 does not divide a node of 8"),
    ],
)
def test_a_layout_that_does_not_divide_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Layout(**change)


def test_a_model_that_does_not_fit_the_layout_is_refused():
    with pytest.raises(ValueError, match="16 experts do not divide .*ranks=64"):
        Plan(config=tiny(), layout=Layout())
    with pytest.raises(ValueError, match="num_layers=4 over num_stages=8"):
        Plan(config=tiny(), layout=replace(SMALL, num_stages=8))
    with pytest.raises(ValueError, match="num_stages=2 and num_micro=2"):
        Plan(config=tiny(), layout=replace(SMALL, schedule="dualpipe", batch_size=16))
    with pytest.raises(ValueError, match="3 experts are neither a part of a group"):
        reach(V3.moe, 3)
