"""Two hops: as if all experts were here, at any grid of nodes and places."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from cloudpickle import register_pickle_by_value
from expert_layers import TILE, Layer, make_layer, run_layer
from torch import Tensor

from tiny_lm import config
from tiny_lm.gpus import mesh
from tiny_lm.gpus.launch import Cluster, run_ranks
from tiny_lm.gpus.mesh import Group, Mesh
from tiny_lm.moe import Dispatcher, LocalDispatcher
from tiny_lm.parallel.dispatch import ExpertParallelDispatcher
from tiny_lm.parallel.two_hop import TwoHopDispatcher, most_nodes
from tiny_lm.parallel.wire import BF16, WireFormat, fp8_wire
from tiny_lm.parts import MoEConfig
from tiny_lm.quantize import fake_quantize_tiles

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest

NUM_EXPERTS = 16
EIGHT = [5, 0, 6, 1, 3, 0, 8, 1]  # tokens of each rank; two ranks have none
GRIDS = {(2, 4): EIGHT, (4, 2): EIGHT, (1, 8): EIGHT, (8, 1): EIGHT}
Grid = tuple[int, int]  # nodes, and places in each


@pytest.fixture(scope="module")
def gpus() -> Iterator[Cluster]:
    with Cluster(8) as cluster:
        yield cluster


@dataclass(frozen=True)
class Case:
    """A layer, and how its rows are padded and packed."""

    layer: Layer
    row_multiple: int = 1
    wire: WireFormat | None = None


def dispatcher_on(grid: Grid, row_multiple: int = 1, **options) -> TwoHopDispatcher:
    axes = Mesh({"node": grid[0], "place": grid[1]})
    groups = axes["node"], axes["place"]
    return TwoHopDispatcher(NUM_EXPERTS, *groups, row_multiple, **options)


def _on_ranks(rank, grid, shares, cases):
    results = []
    for case in cases:
        dispatcher = dispatcher_on(grid, case.row_multiple, wire=case.wire)
        assert isinstance(dispatcher, Dispatcher)
        mine = case.layer.part(rank, shares, dispatcher.local_experts)
        results.append(run_layer(mine, dispatcher))
    return results


def _put_together(by_rank) -> list[list[Tensor]]:
    """For each case, the results of all ranks, as one process has them."""
    return [
        [torch.cat(parts) for parts in zip(*results, strict=True)]
        for results in zip(*by_rank, strict=True)
    ]


def _whole(case: Case) -> list[Tensor]:
    return run_layer(case.layer, LocalDispatcher(NUM_EXPERTS))


def _layers(dtype: torch.dtype) -> list[Layer]:
    kinds = ("even", "skewed", "one rank")
    return [make_layer(kind, dtype, NUM_EXPERTS) for kind in kinds]


def _cases() -> list[Case]:
    """In FP64 to the last digits, and in FP32 with padded rows."""
    exact, single = _layers(torch.float64), _layers(torch.float32)
    return [*map(Case, exact), *(Case(layer, row_multiple=4) for layer in single)]


def _equal_one_process(by_rank, cases: list[Case]) -> None:
    for case, results in zip(cases, _put_together(by_rank), strict=True):
        close = 1e-10 if case.layer.x.dtype == torch.float64 else 1e-5
        for result, wanted in zip(results, _whole(case), strict=True):
            assert torch.allclose(result, wanted, rtol=close, atol=close)


@pytest.mark.parametrize("grid", GRIDS)
def test_output_and_all_gradients_of_eight_ranks_equal_those_of_one_process(grid, gpus):
    cases = _cases()
    _equal_one_process(gpus.run(_on_ranks, grid, GRIDS[grid], cases), cases)


@pytest.mark.parametrize(
    ("grid", "shares"), [((2, 1), [13, 11]), ((1, 2), [24, 0]), ((2, 2), [9, 0, 14, 1])]
)
def test_so_do_those_of_two_ranks_and_of_four(grid, shares):
    cases = _cases()
    _equal_one_process(run_ranks(len(shares), _on_ranks, grid, shares, cases), cases)


def test_a_single_rank_needs_no_process_group():
    case = Case(_layers(torch.float64)[0], row_multiple=4)
    dispatcher = TwoHopDispatcher(NUM_EXPERTS, mesh.solo(), mesh.solo(), 4)
    results = run_layer(case.layer, dispatcher)
    for result, wanted in zip(results, _whole(case), strict=True):
        assert torch.allclose(result, wanted, rtol=0, atol=1e-12)


def test_no_tokens_at_all_are_no_rows():
    layer = make_layer("even", num_experts=NUM_EXPERTS)
    nobody = replace(layer.part(1, [24, 0], range(NUM_EXPERTS)))
    dispatcher = TwoHopDispatcher(NUM_EXPERTS, mesh.solo(), mesh.solo())
    y, x_grad, weights_grad, matrices_grad = run_layer(nobody, dispatcher)
    assert y.shape == x_grad.shape == (0, 12) and weights_grad.shape == (0, 3)
    assert not matrices_grad.any()


def _rows(rank, grid, shares, layers, wire):
    """The experts' rows, by two hops and by one."""
    two = dispatcher_on(grid, row_multiple=4, wire=wire)
    one = ExpertParallelDispatcher(NUM_EXPERTS, mesh.world(), 4, wire)
    assert two.local_experts == one.local_experts
    parts = [layer.part(rank, shares, two.local_experts) for layer in layers]
    return [[d.dispatch(p.x, p.experts)[:2] for d in (two, one)] for p in parts]


@pytest.mark.parametrize("wire", [None, fp8_wire(TILE)], ids=["as it is", "fp8"])
@pytest.mark.parametrize("grid", [(2, 4), (4, 2)])
def test_experts_get_the_same_rows_in_the_same_order_as_by_one_hop(grid, wire, gpus):
    layers = _layers(torch.float32)
    for results in gpus.run(_rows, grid, EIGHT, layers, wire):
        for (rows, ends), (wanted_rows, wanted_ends) in results:
            assert torch.equal(ends, wanted_ends)
            assert torch.equal(rows, wanted_rows)


class _ByHand:
    """What a lossy wire makes of a layer, in one process: a loop over tokens.

    A token's results are added up by rank, then by node, and rounded to BF16 each time.
    """

    def __init__(self, layer: Layer, grid: Grid) -> None:
        self.layer, self.nodes, self.ranks = layer, grid[0], grid[0] * grid[1]
        self.hidden = fake_quantize_tiles(layer.x, TILE)

    def sums(self, parts: Tensor) -> tuple[Tensor, Tensor]:
        """Of each token's k parts: as the wire adds them up, and their magnitudes."""
        y = torch.zeros(len(parts), parts.shape[-1])
        ranks = self.layer.experts * self.ranks // NUM_EXPERTS
        for token, (owners, rows) in enumerate(zip(ranks, parts, strict=True)):
            for node in range(self.nodes):
                sums = torch.zeros_like(y[0])
                for owner in range(self.ranks):
                    mine = owner * self.nodes // self.ranks == node
                    if mine and (owners == owner).any():
                        sums += _bf16(rows[owners == owner].sum(0))
                y[token] += _bf16(sums)
        return y, parts.abs().sum(1)


def _bf16(x: Tensor) -> Tensor:
    return x.bfloat16().float()


def _by_choice(layer: Layer, x: Tensor, grad: Tensor) -> list[Tensor]:
    """For each choice: the expert's result, and the slope of its input."""
    results = [[], []]
    for token, chosen in enumerate(layer.experts):
        for slot, expert in enumerate(chosen):
            matrix, weight = layer.matrices[expert], layer.weights[token, slot]
            y = (x[token] @ matrix.T).tanh()
            slope = (weight * grad[token] * (1 - y * y)) @ matrix
            for kept, value in zip(results, (y, slope), strict=True):
                kept.append(value)
    return [torch.stack(r).unflatten(0, layer.experts.shape) for r in results]


@pytest.mark.parametrize("grid", [(2, 4), (4, 2)])
def test_an_fp8_wire_rounds_once_to_experts_and_sums_before_each_hop_home(grid, gpus):
    layer = make_layer("even", torch.float32, NUM_EXPERTS)
    case = Case(layer, wire=fp8_wire(TILE))
    y, x_grad, weights_grad, _ = _put_together(
        gpus.run(_on_ranks, grid, EIGHT, [case])
    )[0]
    grad = fake_quantize_tiles(layer.out_grad, TILE)
    by_hand = _ByHand(layer, grid)
    answers, slopes = _by_choice(layer, by_hand.hidden, grad)
    weighted = layer.weights.unsqueeze(-1) * answers
    for got, parts in ((y, weighted), (x_grad, slopes)):
        wanted, size = by_hand.sums(parts)
        # A sum that lies between two BF16 values may fall on either side.
        assert ((got - wanted).abs() <= 2**-7 * size + 1e-6).all()
        assert (got - wanted).norm() < 2e-3 * wanted.norm()
        unrounded, u = parts.sum(1), 2.0**-8
        assert ((got - unrounded).abs() <= (2 * u + u * u) * size + 1e-6).all()
        assert (got - unrounded).norm() > 1e-3 * unrounded.norm()
    dots = (answers * grad.unsqueeze(1)).sum(-1)
    assert torch.allclose(weights_grad, dots, rtol=1e-5, atol=1e-5)


def test_bf16_home_is_within_its_bound_of_the_exact_layer(gpus):
    layer = make_layer("even", torch.float32, NUM_EXPERTS)
    case = Case(layer, wire=WireFormat(to_tokens=BF16()))
    y = _put_together(gpus.run(_on_ranks, (2, 4), EIGHT, [case]))[0][0]
    answers, _ = _by_choice(layer, layer.x, layer.out_grad)
    size, u = (layer.weights.unsqueeze(-1) * answers).abs().sum(1), 2.0**-8
    error = (y - _whole(case)[0]).abs()
    assert (error <= (2 * u + u * u) * size + 1e-6).all()
    assert (error > u * u * size).any()


def _refused(rank, grid, experts, max_nodes):
    dispatcher = dispatcher_on(grid, max_nodes=max_nodes)
    try:
        dispatcher.dispatch(torch.zeros(len(experts), 4), experts)
    except ValueError as error:
        return str(error)


def test_an_expert_named_twice_and_too_many_nodes_are_refused(gpus):
    twice = torch.tensor([[0, 5, 9], [3, 8, 3]])
    for message in gpus.run(_refused, (4, 2), twice, None):
        assert message == "a token chooses an expert once: token 1 chose [3, 8, 3]"
    wide = torch.tensor([[0, 1, 5], [0, 5, 9]])  # of two nodes, and of three
    for message in gpus.run(_refused, (4, 2), wide, 2):
        assert message == "at most 2 nodes a token: token 1 chose experts of 3"
    assert gpus.run(_refused, (4, 2), wide, 3) == [None] * 8


def test_ranks_that_cannot_share_the_experts_are_refused():
    backend = torch.distributed.ProcessGroup(0, 3)
    group = Group(rank=0, size=3, process_group=backend)
    with pytest.raises(ValueError, match="3 ranks cannot share 16 experts evenly"):
        TwoHopDispatcher(NUM_EXPERTS, mesh.solo(), group)


def _swapped(rank):
    axes = Mesh({"node": 2, "place": 4})
    try:
        TwoHopDispatcher(NUM_EXPERTS, axes["place"], axes["node"])
    except ValueError as error:
        return str(error)


def test_swapped_groups_are_refused(gpus):
    assert gpus.run(_swapped)[0] == (
        "inside has ranks [0, 4]: a node is 2 neighbours, and its places are 2 apart; "
        "are the groups swapped?"
    )


@pytest.mark.parametrize(
    ("num_nodes", "nodes"), [(1, 1), (4, 4), (8, 4), (16, 8), (32, 8)]
)
def test_the_router_s_groups_bound_the_nodes_of_a_token(num_nodes, nodes):
    """V3: 8 groups of which a token takes 4, and 8 experts."""
    assert most_nodes(config.deepseek_v3().moe, num_nodes) == nodes


def test_without_groups_as_many_nodes_as_experts_bound_it():
    free = MoEConfig(num_experts=16, num_shared=0, top_k=4, d_expert=8)
    assert most_nodes(free, 8) == 4 and most_nodes(free, 2) == 2


def test_groups_across_the_edges_of_nodes_are_refused():
    with pytest.raises(ValueError, match="num_groups=8 and 3 nodes"):
        most_nodes(config.deepseek_v3().moe, 3)
