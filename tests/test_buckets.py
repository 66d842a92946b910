"""Buckets of gradients: what goes into which, when they set out, what comes back."""

import sys

import pytest
import torch
from cloudpickle import register_pickle_by_value
from torch import Tensor, nn

from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import Cluster
from tiny_lm.parallel import shard
from tiny_lm.parallel.buckets import (
    BucketedSums,
    Buckets,
    fill,
    flatten,
    slice_length,
)

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest


@pytest.fixture(scope="module")
def two():
    with Cluster(2) as cluster:
        yield cluster


def _parameters(*sizes: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(size)) for size in sizes]


def test_a_bucket_closes_where_the_next_parameter_would_exceed_it():
    def sizes(num_bytes):
        filled = fill(_parameters(2, 3, 9, 1, 1), num_bytes)
        return [[p.numel() for p in bucket] for bucket in filled]

    assert sizes(20) == [[2, 3], [9], [1, 1]]
    assert sizes(1) == [[2], [3], [9], [1], [1]]
    assert sizes(1000) == [[2, 3, 9, 1, 1]]
    with pytest.raises(ValueError, match="bucket_bytes must be positive, got 0"):
        sizes(0)


def test_slices_are_equal_and_the_last_ends_in_zeros():
    pair = _parameters(2, 3)
    assert slice_length(pair, 4) == 2
    assert flatten(pair, 8, pair[0]).tolist() == [1] * 5 + [0] * 3
    assert flatten([], 2, pair[0]).tolist() == [0, 0]


class Chain(nn.Module):
    """Three layers in a row; the middle one may be skipped."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in (("a", 2.0), ("b", 3.0), ("c", 5.0)):
            setattr(self, name, nn.Parameter(torch.tensor([value])))

    def forward(self, x: float, skip: bool = False) -> Tensor:
        """The product of what it did not skip."""
        y = self.a * x
        y = y if skip else self.b * y
        return (self.c * y).sum()


def _watched(model: nn.Module, bucket_bytes: int, **options) -> tuple[Buckets, list]:
    """Buckets that note what sets out."""
    sent = []

    def send(bucket: Tensor) -> comm.Pending:
        sent.append(bucket.tolist())
        return comm.start_all_reduce(bucket, mesh.solo())

    named = dict(model.named_parameters())
    return Buckets(named, bucket_bytes, 1, send, **options), sent


def test_a_bucket_sets_out_while_the_backward_pass_goes_on():
    model, seen = Chain(), []
    buckets, sent = _watched(model, 4)
    model.a.register_post_accumulate_grad_hook(lambda _: seen.append(buckets.num_sent))
    model(7.0).backward()
    assert seen == [3]  # c and b were away when the gradient of a came, and took it too
    assert sent == [[42.0], [70.0], [105.0]]
    assert [part.tolist() for part in buckets.finish()] == sent
    assert model.a.grad is None


def test_buckets_leave_in_order_and_what_never_came_counts_as_zero():
    model = Chain()
    buckets, sent = _watched(model, 4)
    for _ in range(2):
        sent.clear()
        model(7.0, skip=True).backward()
        assert sent == [[14.0]]  # a waits behind b
        buckets.finish()
        assert sent == [[14.0], [0.0], [35.0]]


def test_two_backward_passes_a_step_are_waited_for_if_that_was_said():
    model = Chain()
    buckets, sent = _watched(model, 4, times=2)
    model(1.0).backward()
    assert not sent
    model(1.0).backward()
    assert sent == [[12.0], [20.0], [30.0]]
    buckets.finish()


def test_a_second_backward_pass_that_was_not_announced_is_refused():
    model = Chain()
    buckets, _ = _watched(model, 4)
    model(1.0).backward()
    with pytest.raises(RuntimeError, match="gradient of c came after its bucket"):
        model(1.0).backward()
    buckets.finish()


def _sums(rank: int, bucketed: bool) -> tuple:
    """Rank 1 never uses the middle layer."""
    model, group = Chain(), mesh.world()
    kind = BucketedSums if bucketed else shard.WholeSums
    options = {"bucket_bytes": 4} if bucketed else {}
    sums = kind(model, group, lambda name: name == "c", **options)
    with comm.metering() as meter:
        model(7.0, skip=rank == 1).backward()
        shared, own = sums.agree()
    summed = [p.grad.item() for p in model.parameters()]
    sums.clip_to(1.0, (shared + own).sqrt())
    clipped = [p.grad.item() for p in model.parameters()]
    return summed, clipped, shared.item(), own.item(), dict(meter.num_bytes)


def test_bucketed_sums_are_the_sums_of_one_message(two):
    whole, bucketed = two.run(_sums, False), two.run(_sums, True)
    assert bucketed == whole
    assert [summed[:2] for summed, *_ in bucketed] == [[140.0, 70.0]] * 2
    assert [summed[2] for summed, *_ in bucketed] == [42.0, 14.0]  # an expert's stays
