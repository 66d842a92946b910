"""Collectives made of messages: the library's results, and the closed form's bytes."""

import pytest
import torch

from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import Cluster
from tiny_lm.parallel import by_messages
from tiny_lm.replay.tape import Collective


@pytest.fixture(scope="module")
def gpus():
    with Cluster(4) as cluster:
        yield cluster


def _both(rank, kind):
    group = mesh.world()
    x = torch.arange(240.0).view(8, 30) * (rank + 1)
    with comm.metering() as meter:
        ours = by_messages.WAYS[kind](x, group)
    counts = ([2] * 4, [2] * 4) if kind == "all_to_all" else ()
    theirs = getattr(comm, kind)(x, *counts, group)
    return torch.equal(ours, theirs), meter.num_bytes["send"], meter.calls["send"]


@pytest.mark.parametrize("kind", by_messages.WAYS)
def test_result_and_bytes_are_those_of_the_collective(gpus, kind):
    sizes = (240,) * 4 if kind == "all_to_all" else (960,)
    call = Collective(kind, kind, sizes, (0, 1, 2, 3), 0)
    num_messages = 6 if kind == "all_reduce" else 3
    for rank, (same, sent, messages) in enumerate(gpus.run(_both, kind)):
        assert same and messages == num_messages
        assert sent == call.sent_bytes(rank)


def test_of_three_ranks_two_send_first_and_the_ring_goes_round():
    def work(rank):
        x = torch.arange(6.0) * (rank + 1)
        return by_messages.all_reduce(x, mesh.world()).tolist()

    with Cluster(3) as three:
        assert three.run(work) == [[0.0, 6.0, 12.0, 18.0, 24.0, 30.0]] * 3
