"""Collectives: what arrives, what runs backward, and what it costs in bytes."""

import sys

import pytest
import torch
from cloudpickle import register_pickle_by_value
from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single_autograd

from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import run_ranks

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest

# Rows from rank (row) to rank (column): uneven; the last rank has none and gets none.
COUNTS = [[1, 4, 0], [0, 2, 0], [0, 0, 0]]


def _normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _counts(rank: int) -> tuple[list[int], list[int]]:
    return COUNTS[rank], [row[rank] for row in COUNTS]


def _collectives(rank, group):
    """Each collective as a function of one argument, and a shape for the argument."""
    sends, receives = _counts(rank)
    return {
        "all_reduce": (lambda x: comm.all_reduce(x, group), (6, 2)),
        "all_gather": (lambda x: comm.all_gather(x, group), (2, 2)),
        "reduce_scatter": (lambda x: comm.reduce_scatter(x, group), (6, 2)),
        "broadcast": (lambda x: comm.broadcast(x, 1, group), (6, 2)),
        "all_to_all": (
            lambda x: comm.all_to_all(x, sends, receives, group),
            (sum(sends), 2),
        ),
    }


def _slow(kind: str, xs: list[Tensor]) -> list[Tensor]:
    """The definition: what each of three ranks gets, computed in one place."""
    if kind == "all_reduce":
        return [sum(xs)] * 3
    if kind == "all_gather":
        return [torch.cat(xs)] * 3
    if kind == "reduce_scatter":
        return list(sum(xs).chunk(3))
    if kind == "broadcast":
        return [xs[1] + 0 * x for x in xs]
    pieces = [x.split(counts) for x, counts in zip(xs, COUNTS, strict=True)]
    return [torch.cat([mine[to] for mine in pieces]) for to in range(3)]


def _forward_and_backward(rank):
    """Results and gradients of each collective, for a loss that differs by rank."""
    group, results = mesh.world(), {}
    for seed, (kind, (call, shape)) in enumerate(_collectives(rank, group).items()):
        x = _normal(*shape, seed=10 * seed + rank).requires_grad_()
        with comm.metering() as meter:
            y = call(x)
            forward = dict(meter.num_bytes)
            weights = _normal(*y.shape, seed=100 + 10 * seed + rank)
            (y * weights).sum().backward()
        results[kind] = x, y.detach(), weights, x.grad, forward, meter
    return results


@pytest.fixture(scope="module")
def by_rank():
    return run_ranks(3, _forward_and_backward)


KINDS = ["all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_collective_and_its_backward_equal_their_definition(by_rank, kind):
    xs = [ranks[kind][0].detach().requires_grad_() for ranks in by_rank]
    ys = _slow(kind, xs)
    losses = [(y * ranks[kind][2]).sum() for y, ranks in zip(ys, by_rank, strict=True)]
    sum(losses).backward()
    for x, y, ranks in zip(xs, ys, by_rank, strict=True):
        assert torch.allclose(ranks[kind][1], y, rtol=0, atol=1e-13)
        assert torch.allclose(ranks[kind][3], x.grad, rtol=0, atol=1e-13)


# Three ranks; a row has 16 bytes. First forward, then backward.
@pytest.mark.parametrize(
    ("kind", "forward", "backward"),
    [
        ("all_reduce", [128] * 3, [("all_reduce", 128)] * 3),
        ("all_gather", [64] * 3, [("reduce_scatter", 64)] * 3),
        ("reduce_scatter", [64] * 3, [("all_gather", 64)] * 3),
        (
            "broadcast",
            [0, 192, 0],
            [("reduce", 96), ("reduce", 0), ("reduce", 96)],
        ),
        (
            "all_to_all",
            [64, 0, 0],
            [("all_to_all", 0), ("all_to_all", 64), ("all_to_all", 0)],
        ),
    ],
)
def test_bytes_are_those_that_leave_the_rank(by_rank, kind, forward, backward):
    for rank, results in enumerate(by_rank):
        *_, sent, meter = results[kind]
        back_kind, back_bytes = backward[rank]
        assert sent == {kind: forward[rank]}
        expected = {kind: forward[rank]}
        expected[back_kind] = expected.get(back_kind, 0) + back_bytes
        assert meter.num_bytes == expected
        assert meter.total_bytes == forward[rank] + back_bytes
        assert meter.calls.total() == 2


def _against_torch(rank):
    """Our all-to-all and torch's own, on the same rows."""
    group, (sends, receives) = mesh.world(), _counts(rank)
    ours, theirs = (_normal(sum(sends), 3, seed=rank).requires_grad_() for _ in "ab")
    y = comm.all_to_all(ours, sends, receives, group)
    z = all_to_all_single_autograd(theirs, receives, sends, group.process_group)
    y.sin().sum().backward()
    z.sin().sum().backward()
    return torch.equal(y, z), torch.equal(ours.grad, theirs.grad)


def test_all_to_all_equals_torchs_own_bit_for_bit():
    assert run_ranks(3, _against_torch) == [(True, True)] * 3


def _odd_tensors(rank):
    """FP8 codes, BF16, integers, no rows at all, memory that is not in order."""
    group, ones = mesh.world(), [1, 1]
    bits = torch.arange(256, dtype=torch.uint8).repeat(2, 1) + rank
    codes = bits.view(torch.float8_e4m3fn)
    moved = [
        comm.all_to_all(codes, ones, ones, group),
        comm.all_gather(codes[:1], group),
        comm.broadcast(codes, 1, group),
    ]
    results = {"codes": [x.view(torch.uint8) for x in moved], "dtype": moved[0].dtype}
    for dtype in (torch.bfloat16, torch.int64, torch.float32):
        results[dtype] = comm.all_reduce(torch.tensor([rank + 1]).to(dtype), group)
    sideways = torch.arange(6).view(3, 2).T + 10 * rank
    results["sideways"] = [
        comm.all_gather(sideways, group).tolist(),
        comm.all_to_all(sideways, ones, ones, group).tolist(),
        comm.reduce_scatter(sideways, group).tolist(),
        comm.broadcast(sideways, 0, group).tolist(),
    ]
    nothing = comm.all_to_all(torch.zeros(0, 4), [0, 0], [0, 0], group)
    results["nothing"] = tuple(nothing.shape)
    return results


def test_codes_integers_and_tensors_out_of_order_arrive_unchanged():
    first, second = run_ranks(2, _odd_tensors)
    plain = torch.arange(256, dtype=torch.uint8)
    for results in (first, second):
        swapped, gathered, copied = results["codes"]
        assert results["dtype"] == torch.float8_e4m3fn
        assert torch.equal(swapped, torch.stack([plain, plain + 1]))
        assert torch.equal(gathered, torch.stack([plain, plain + 1]))
        assert torch.equal(copied, (plain + 1).repeat(2, 1))
        for dtype in (torch.bfloat16, torch.int64, torch.float32):
            assert torch.equal(results[dtype], torch.tensor([3]).to(dtype))
        assert results["nothing"] == (0, 4)
    whole = [[0, 2, 4], [1, 3, 5], [10, 12, 14], [11, 13, 15]]
    assert first["sideways"] == [
        whole,
        [[0, 2, 4], [10, 12, 14]],
        [[10, 14, 18]],
        [[0, 2, 4], [1, 3, 5]],
    ]
    assert second["sideways"] == [
        whole,
        [[1, 3, 5], [11, 13, 15]],
        [[12, 16, 20]],
        [[0, 2, 4], [1, 3, 5]],
    ]


def _counting(rank):
    group = mesh.world()
    table = torch.arange(6).view(3, 2) + 10 * rank
    with comm.metering() as outer:
        with comm.metering() as inner:
            comm.barrier(group)
        received = comm.all_to_all_counts(table, group)
    comm.all_to_all_counts(table, group)
    return received.tolist(), outer, inner


def test_counts_are_exchanged_and_meters_count_only_inside_their_with():
    for rank, (received, outer, inner) in enumerate(run_ranks(3, _counting)):
        assert received == [
            [s * 10 + 2 * rank, s * 10 + 2 * rank + 1] for s in range(3)
        ]
        assert outer.num_bytes == {"counts": 2 * 16, "barrier": 0}
        assert outer.calls == {"counts": 1, "barrier": 1}
        assert inner.calls == {"barrier": 1}


def test_in_a_group_of_one_every_collective_is_the_identity_and_free():
    group, x = mesh.solo(), _normal(4, 2, seed=0)
    counts = torch.tensor([[4]])
    with comm.metering() as meter:
        assert comm.all_reduce(x, group) is x
        assert comm.all_gather(x, group) is x
        assert comm.reduce_scatter(x, group) is x
        assert comm.broadcast(x, 0, group) is x
        assert comm.all_to_all(x, [4], [4], group) is x
        assert comm.all_to_all_counts(counts, group) is counts
        comm.barrier(group)
    assert meter.calls.total() == meter.total_bytes == 0


# Nobody is asked before the arguments are checked, so one process is enough.
TWO = mesh.Group(rank=0, size=2, process_group=torch.distributed.ProcessGroup(0, 2))


@pytest.mark.parametrize(
    ("sends", "receives", "message"),
    [
        ([3], [3, 0], "send_counts has 1 counts for 2 ranks"),
        ([1, 2], [1, 2, 0], "receive_counts has 3 counts for 2 ranks"),
        ([4, -1], [4, 0], r"send_counts must not be negative, got \[4, -1\]"),
        ([1, 1], [1, 1], r"send_counts \[1, 1\] add up to 2, but there are 3 rows"),
        ([1, 2], [2, 2], "rank 0 sends itself 1 rows but expects 2"),
    ],
)
def test_counts_that_cannot_be_are_refused(sends, receives, message):
    with pytest.raises(ValueError, match=message):
        comm.all_to_all(torch.zeros(3, 2), sends, receives, TWO)


def test_other_arguments_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="cannot split 3 rows evenly over 2 ranks"):
        comm.reduce_scatter(torch.zeros(3, 2), TWO)
    with pytest.raises(ValueError, match="source=2 is not one of 2 ranks"):
        comm.broadcast(torch.zeros(3), 2, TWO)
    with pytest.raises(ValueError, match="3 rows of counts for 2 ranks"):
        comm.all_to_all_counts(torch.zeros(3, 1, dtype=torch.int64), TWO)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_codes_are_not_added_up(dtype):
    codes = torch.zeros(2, 2).to(dtype)
    for add_up in (comm.all_reduce, comm.reduce_scatter):
        with pytest.raises(TypeError, match="do not add up: dequantise them first"):
            add_up(codes, TWO)
