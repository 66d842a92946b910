"""Copies and bytes: by hand, by formula, by drawing, and as ranks really sent them."""

import sys
from dataclasses import replace
from math import comb

import pytest
import torch
from cloudpickle import register_pickle_by_value
from expert_layers import TILE, WIDTH, make_layer, run_layer

from tiny_lm import costs
from tiny_lm.config import deepseek_v3
from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import Cluster
from tiny_lm.gpus.mesh import Mesh
from tiny_lm.parallel import traffic
from tiny_lm.parallel.dispatch import ExpertParallelDispatcher
from tiny_lm.parallel.plan import Layout, Plan
from tiny_lm.parallel.traffic import Traffic
from tiny_lm.parallel.two_hop import TwoHopDispatcher, most_nodes
from tiny_lm.parallel.wire import WireFormat, fp8_wire
from tiny_lm.replay.recorder import recording
from tiny_lm.replay.tape import Collective, Kernel, Tape
from tiny_lm.router import route

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest

V3 = deepseek_v3().moe
NUM_EXPERTS = 16
SHARES = [5, 0, 6, 1, 3, 0, 8, 1]
ROW_BYTES = {  # to the experts, and home
    WireFormat(): (4 * WIDTH, 4 * WIDTH),
    fp8_wire(TILE): (WIDTH + 4 * WIDTH // TILE, 2 * WIDTH),
}


def test_a_row_of_v3_costs_7392_bytes_to_an_expert_and_14336_home():
    assert costs.fp8_row_bytes(7168) == 7392
    plan = Plan(config=deepseek_v3(), layout=Layout())
    assert (plan.row_bytes("dispatch"), plan.row_bytes("combine")) == (7392, 14_336)


def test_tokens_by_hand_visit_one_two_and_three_nodes():
    experts = torch.tensor([[0, 1, 3], [0, 4, 5], [2, 7, 15]])
    assert traffic.nodes_of_tokens(experts, 16, 4).tolist() == [1, 2, 3]


def _drawn(moe, num_tokens: int = 20_000) -> torch.Tensor:
    scores = torch.rand(
        num_tokens, moe.num_experts, generator=torch.Generator().manual_seed(1)
    )
    bias = torch.zeros(moe.num_experts)
    return route(scores, bias, moe.top_k, moe.num_groups, moe.top_groups)[1]


def test_without_a_limit_eight_of_256_experts_are_in_five_nodes_by_formula_and_lot():
    expected = traffic.expected_nodes(V3, 8, limited=False)
    assert expected == pytest.approx(8 * (1 - comb(224, 8) / comb(256, 8)))
    assert round(expected, 2) == 5.29
    free = _drawn(replace(V3, num_groups=1, top_groups=1))
    nodes = traffic.nodes_of_tokens(free, 256, 8).float()
    assert float(nodes.mean()) == pytest.approx(expected, abs=0.03)
    assert nodes.max() > 4


def test_the_router_s_limit_is_a_limit_of_nodes():
    limited = _drawn(V3)
    nodes = traffic.nodes_of_tokens(limited, 256, 8)
    assert nodes.max() == most_nodes(V3, 8) == 4
    assert traffic.expected_nodes(V3, 8) == pytest.approx(3.63, abs=0.02)
    # The router keeps the groups with the best pairs, so all four are used more often
    # than if groups were drawn first and experts then.
    assert traffic.expected_nodes(V3, 8) < float(nodes.float().mean()) <= 4


def test_schemes_send_fewer_and_fewer_copies_over_the_network():
    schemes = traffic.copies_by_scheme(V3, 8, 8)
    assert [round(scheme.network, 2) for scheme in schemes] == [7.0, 6.72, 4.63, 3.18]
    copies = Plan(config=deepseek_v3(), layout=Layout()).copies()
    assert schemes[-1].network == pytest.approx(7 * copies[1])
    assert schemes[-1].nvlink == pytest.approx(7 * copies[0])


def _on_ranks(rank, grid, layers):
    """What a rank sent in each layer and with each wire: its tape, and the meter's."""
    axes = Mesh({"node": grid[0], "place": grid[1]})
    results = []
    for wire in ROW_BYTES:
        dispatcher = TwoHopDispatcher(
            NUM_EXPERTS, axes["node"], axes["place"], wire=wire
        )
        for layer in layers:
            mine = layer.part(rank, SHARES, dispatcher.local_experts)
            with comm.metering() as meter, recording(rank) as recorder:
                run_layer(mine, dispatcher)
            results.append((recorder.tape(), meter))
    return results


@pytest.fixture(scope="module")
def gpus():
    with Cluster(8) as cluster:
        yield cluster


@pytest.mark.parametrize("grid", [(2, 4), (4, 2), (8, 1), (1, 8)])
def test_ranks_send_the_bytes_of_the_closed_form_over_each_link(grid, gpus):
    kinds = ("even", "skewed", "one rank")
    layers = [make_layer(kind, torch.float32, NUM_EXPERTS) for kind in kinds]
    by_rank = gpus.run(_on_ranks, grid, layers)
    wires = [(layer, row) for row in ROW_BYTES.values() for layer in layers]
    for number, (layer, row_bytes) in enumerate(wires):
        wanted = traffic.layer_bytes(
            layer.experts.split(SHARES), grid, NUM_EXPERTS, row_bytes
        )
        for rank, results in enumerate(by_rank):
            tape, meter = results[number]
            assert traffic.sent_by_link(tape, grid[1]) == wanted[rank]
            assert meter.total_bytes == sum(wanted[rank])
            assert meter.calls["counts"] == sum(size > 1 for size in grid)


def _one_hop(rank, layer):
    results = []
    for wire in ROW_BYTES:
        dispatcher = ExpertParallelDispatcher(NUM_EXPERTS, mesh.world(), wire=wire)
        with recording(rank) as recorder:
            run_layer(layer.part(rank, SHARES, dispatcher.local_experts), dispatcher)
        results.append(recorder.tape())
    return results


@pytest.mark.parametrize("grid", [(2, 4), (8, 1)])
def test_by_one_hop_they_send_the_bytes_of_its_closed_form(grid, gpus):
    layer = make_layer("skewed", torch.float32, NUM_EXPERTS)
    by_rank = gpus.run(_one_hop, layer)
    for number, row_bytes in enumerate(ROW_BYTES.values()):
        wanted = traffic.one_hop_bytes(
            layer.experts.split(SHARES), grid, NUM_EXPERTS, row_bytes
        )
        for rank, tapes in enumerate(by_rank):
            assert traffic.sent_by_link(tapes[number], grid[1]) == wanted[rank]


def test_two_hops_take_rows_off_the_network():
    chosen, v3 = _drawn(V3, 800).split(100), (7392, 14_336)
    one = traffic.one_hop_bytes(chosen, (2, 4), 256, v3)
    two = traffic.layer_bytes(chosen, (2, 4), 256, v3)
    assert sum(t.network for t in two) < 0.3 * sum(t.network for t in one)


def test_links_are_told_apart_by_node():
    call = Collective("rows", "all_to_all", (1, 10, 100, 1000), (0, 1, 2, 3), 0)
    tape = Tape(1, (Kernel("product", 5, 5), call, call._replace(kind="all_reduce")))
    assert traffic.sent_by_link(tape, 2) == Traffic(nvlink=1, network=1100)
    assert traffic.sent_by_link(tape, 1) == Traffic(nvlink=0, network=1101)
