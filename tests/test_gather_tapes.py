"""Tapes of different lengths reach every rank whole."""

import sys

import pytest
from cloudpickle import register_pickle_by_value

from tiny_lm.gpus import mesh
from tiny_lm.gpus.launch import run_ranks
from tiny_lm.parallel.gather_tapes import gather_tapes
from tiny_lm.replay.tape import Collective, Kernel, Mark, Tape, Wait

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest


def own(rank: int, size: int) -> Tape:
    kernels = tuple(Kernel(f"π {n}", n, 2 * n) for n in range(50 * (rank + 1)))
    call = Collective("x", "all_to_all", (8,) * size, tuple(range(size)), 0)
    return Tape(rank, (*kernels, Mark(0), Wait(0, "comm"), call))


def gather(rank: int) -> list[Tape]:
    group = mesh.world()
    return gather_tapes(own(rank, group.size), group)


def test_a_rank_alone_has_its_own():
    assert gather_tapes(own(0, 1), mesh.solo()) == [own(0, 1)]


@pytest.mark.parametrize("size", [2, 3])
def test_every_rank_gets_all_in_rank_order(size):
    wanted = [own(rank, size) for rank in range(size)]
    assert run_ranks(size, gather) == [wanted] * size
