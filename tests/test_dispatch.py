"""Expert parallelism: as if all experts were here, at any number of ranks."""

import sys
from dataclasses import dataclass

import pytest
import torch
from cloudpickle import register_pickle_by_value
from expert_layers import TILE, WIDTH, Layer, make_layer, run_layer
from torch import Tensor

from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import run_ranks
from tiny_lm.moe import LocalDispatcher
from tiny_lm.parallel.dispatch import ExpertParallelDispatcher
from tiny_lm.parallel.wire import BF16, WireFormat, fp8_wire
from tiny_lm.quantize import fake_quantize_tiles

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest

NUM_EXPERTS = 8


class _Rounded(torch.autograd.Function):
    """What a lossy wire does, on one rank: one rounding forward, one backward."""

    @staticmethod
    def forward(ctx, x, there, back):
        ctx.back = back
        return there(x)

    @staticmethod
    def backward(ctx, grad):
        return ctx.back(grad), None, None


def _as_fp8(x: Tensor) -> Tensor:
    return fake_quantize_tiles(x, TILE).to(x.dtype)


def _as_bf16(x: Tensor) -> Tensor:
    return x.bfloat16().to(x.dtype)


LOSSY = (
    lambda rows: _Rounded.apply(rows, _as_fp8, _as_bf16),
    lambda rows: _Rounded.apply(rows, _as_bf16, _as_fp8),
)


@dataclass(frozen=True)
class Case:
    """A layer, and how its rows are padded and packed."""

    layer: Layer
    row_multiple: int = 1
    wire: WireFormat | None = None


def _on_ranks(rank, shares, cases):
    results = []
    for case in cases:
        dispatcher = ExpertParallelDispatcher(
            NUM_EXPERTS, mesh.world(), case.row_multiple, case.wire
        )
        mine = case.layer.part(rank, shares, dispatcher.local_experts)
        results.append(run_layer(mine, dispatcher))
    return results


def _together(shares: list[int], cases: list[Case]) -> list[list[Tensor]]:
    """For each case, the results of all ranks, put together again."""
    by_rank = run_ranks(len(shares), _on_ranks, shares, cases)
    return [
        [torch.cat(parts) for parts in zip(*results, strict=True)]
        for results in zip(*by_rank, strict=True)
    ]


@pytest.mark.parametrize("shares", [[24], [13, 11], [6, 6, 6, 6], [9, 0, 14, 1]])
def test_output_and_gradients_equal_those_of_one_rank(shares):
    cases = [Case(make_layer(routing)) for routing in ("even", "skewed", "one rank")]
    for case, results in zip(cases, _together(shares, cases), strict=True):
        expected = run_layer(case.layer, LocalDispatcher(NUM_EXPERTS))
        for result, wanted in zip(results, expected, strict=True):
            assert torch.allclose(result, wanted, rtol=0, atol=1e-10)


def test_fp32_with_padding_equals_one_rank_and_itself_bit_for_bit():
    layer = make_layer("skewed", torch.float32)
    expected = run_layer(layer, LocalDispatcher(NUM_EXPERTS))
    plain, padded, again = _together(
        [9, 0, 14, 1], [Case(layer), Case(layer, 4), Case(layer, 4)]
    )
    for one, two, three, wanted in zip(plain, padded, again, expected, strict=True):
        assert torch.allclose(one, wanted, rtol=1e-5, atol=1e-5)
        assert torch.allclose(two, wanted, rtol=1e-5, atol=1e-5)
        assert torch.equal(two, three)


@pytest.mark.parametrize("shares", [[13, 11], [9, 0, 14, 1]])
def test_an_fp8_wire_rounds_rows_to_experts_as_fp8_and_rows_to_tokens_as_bf16(shares):
    layer = make_layer("even", torch.float32)
    exact = run_layer(layer, LocalDispatcher(NUM_EXPERTS))
    expected = run_layer(layer, LocalDispatcher(NUM_EXPERTS), LOSSY)
    result = _together(shares, [Case(layer, wire=fp8_wire(TILE))])[0]
    for got, wanted, unrounded in zip(result, expected, exact, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-5)
        error = (got - unrounded).norm() / unrounded.norm()
        assert 1e-3 < error < 2**-4  # E4M3 rounds a value by at most 1/16 of it


def _rows(rank, layer, shares, row_multiple):
    """What arrives at a rank: rows, ends, and who they are."""
    dispatcher = ExpertParallelDispatcher(NUM_EXPERTS, mesh.world(), row_multiple)
    mine = layer.part(rank, shares, dispatcher.local_experts)
    rows, ends, _ = dispatcher.dispatch(mine.x, mine.experts)
    return dispatcher.local_experts, rows, ends


def test_every_expert_gets_exactly_its_tokens_and_zero_rows_up_to_the_multiple():
    layer, multiple = make_layer("skewed"), 8
    results = run_ranks(4, _rows, layer, [9, 0, 14, 1], multiple)
    assert [list(local) for local, _, _ in results] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    for local, rows, ends in results:
        assert ends.dtype == torch.int32 and len(rows) == ends[-1]
        for expert, run in zip(local, rows.tensor_split(ends[:-1].long()), strict=True):
            tokens = layer.x[(layer.experts == expert).any(-1)]
            assert len(run) == -(-len(tokens) // multiple) * multiple
            assert torch.equal(run[: len(tokens)], tokens)
            assert not run[len(tokens) :].any()


def _sent(rank, layer, shares, wires):
    meters = []
    for wire in wires:
        dispatcher = ExpertParallelDispatcher(NUM_EXPERTS, mesh.world(), 4, wire)
        mine = layer.part(rank, shares, dispatcher.local_experts)
        with comm.metering() as meter:
            run_layer(mine, dispatcher)
        meters.append(meter)
    return meters


def test_the_bytes_sent_are_those_of_rows_for_other_ranks():
    layer, shares = make_layer("even", torch.float32), [13, 11]
    row_bytes = {  # to the experts, and back
        WireFormat(): (4 * WIDTH, 4 * WIDTH),
        fp8_wire(TILE): (WIDTH + 4 * WIDTH // TILE, 2 * WIDTH),
        WireFormat(to_tokens=BF16()): (4 * WIDTH, 2 * WIDTH),
    }
    rows = torch.zeros(2, 2, dtype=torch.int64)  # from rank, to rank
    for rank, experts in enumerate(layer.experts.split(shares)):
        rows[rank] = (experts // (NUM_EXPERTS // 2)).flatten().bincount(minlength=2)
    for rank, meters in enumerate(run_ranks(2, _sent, layer, shares, list(row_bytes))):
        there, back = int(rows[rank, 1 - rank]), int(rows[1 - rank, rank])
        for meter, (out_bytes, home_bytes) in zip(
            meters, row_bytes.values(), strict=True
        ):
            assert meter.num_bytes == {
                "counts": 4 * (NUM_EXPERTS // 2),
                # twice: gradients travel the same roads
                "all_to_all": 2 * (there * out_bytes + back * home_bytes),
            }
            assert meter.calls == {"counts": 1, "all_to_all": 4}


def test_a_group_of_one_needs_no_process_group():
    layer = make_layer("even")
    expected = run_layer(layer, LocalDispatcher(NUM_EXPERTS, 4))
    result = run_layer(layer, ExpertParallelDispatcher(NUM_EXPERTS, mesh.solo(), 4))
    assert all(map(torch.equal, result, expected))


def test_ranks_that_cannot_share_the_experts_are_refused():
    backend = torch.distributed.ProcessGroup(0, 3)
    group = mesh.Group(rank=0, size=3, process_group=backend)
    with pytest.raises(ValueError, match="3 ranks cannot share 8 experts evenly"):
        ExpertParallelDispatcher(NUM_EXPERTS, group)
