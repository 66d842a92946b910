"""Transfers waited for later: what comes, what is told, and what stands on the tape."""

import sys

import pytest
import torch
from cloudpickle import register_pickle_by_value

from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import Cluster
from tiny_lm.hardware import Machine
from tiny_lm.replay.match import check
from tiny_lm.replay.recorder import recording
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.tape import Collective, Kernel, Mark, Wait

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest

# Rows from rank (row) to rank (column): uneven; the last rank has none and gets none.
COUNTS = [[1, 4, 0], [0, 2, 0], [0, 0, 0]]


@pytest.fixture(scope="module")
def three():
    with Cluster(3) as cluster:
        yield cluster


def _rows(rank):
    sends, receives = COUNTS[rank], [row[rank] for row in COUNTS]
    x = torch.arange(2.0 * sum(sends)).view(-1, 2) + 100 * rank
    return x, sends, receives


def _several(rank):
    """Two transfers and the counts at once, waited for in the opposite order."""
    group, (x, sends, receives) = mesh.world(), _rows(rank)
    counts = torch.arange(3).view(3, 1) + 10 * rank
    codes = x.to(torch.float8_e4m3fn)
    with comm.metering() as meter:
        first = comm.start_all_to_all(x, sends, receives, group)
        second = comm.start_all_to_all(codes, sends, receives, group)
        third = comm.start_all_to_all_counts(counts, group)
        told, moved, came = third.wait(), second.wait(), first.wait()
    now = comm.all_to_all(x, sends, receives, group)
    moved_now = comm.all_to_all(codes, sends, receives, group)
    told_now = comm.all_to_all_counts(counts, group)
    same = torch.equal(came, now) and torch.equal(told, told_now)
    same &= torch.equal(moved.view(torch.uint8), moved_now.view(torch.uint8))
    return same, dict(meter.num_bytes), dict(meter.calls)


def test_what_is_waited_for_equals_the_synchronous_call_in_any_order(three):
    results = three.run(_several)
    assert [same for same, _, _ in results] == [True] * 3
    sent = [num_bytes for _, num_bytes, _ in results]
    assert [n["all_to_all"] for n in sent] == [4 * 8 + 4 * 2, 0, 0]
    assert {n["counts"] for n in sent} == {16}
    for *_, calls in results:
        assert calls == {"all_to_all": 2, "counts": 1}


def _started(rank):
    """Three collectives at once, and each of them again, with the usual call."""
    group = mesh.world()
    x = torch.arange(6.0).view(3, 2) * (rank + 1)
    codes = x.to(torch.float8_e4m3fn)
    with comm.metering() as later:
        total = comm.start_all_reduce(x, group)
        whole = comm.start_all_gather(codes, group)
        mine = comm.start_reduce_scatter(x, group)
        came = [pending.wait() for pending in (mine, whole, total)]
    with comm.metering() as now:
        wanted = [
            comm.reduce_scatter(x, group),
            comm.all_gather(codes, group),
            comm.all_reduce(x, group),
        ]
    same = all(
        torch.equal(one.float(), other.float())
        for one, other in zip(came, wanted, strict=True)
    )
    return same, later.num_bytes == now.num_bytes, later.calls == now.calls


def test_sums_and_gathers_can_be_waited_for_later_too(three):
    assert three.run(_started) == [(True, True, True)] * 3


def test_what_cannot_be_summed_or_split_is_refused_at_the_start():
    codes = torch.ones(2, dtype=torch.float8_e4m3fn)
    for start in (comm.start_all_reduce, comm.start_reduce_scatter):
        with pytest.raises(TypeError, match="do not add up"):
            start(codes, mesh.solo())
    group = mesh.Group(0, 2, process_group=object())
    with pytest.raises(ValueError, match="cannot split 3 rows evenly over 2 ranks"):
        comm.start_reduce_scatter(torch.ones(3), group)


def _both_wires(rank):
    """Two calls at once, each in a group of its own; the second is waited for first."""
    group = mesh.world()
    other = mesh.apart(group)
    pending = [comm.start_all_reduce(torch.ones(2), g) for g in (group, other)]
    return [x.wait().tolist() for x in reversed(pending)], other.rank, other.members


def test_a_second_group_of_the_same_ranks_has_wires_of_its_own(three):
    for rank, found in enumerate(three.run(_both_wires)):
        assert found == ([[3.0, 3.0]] * 2, rank, (0, 1, 2))
    assert mesh.apart(mesh.solo()) == mesh.solo()


def test_in_a_group_of_one_nothing_travels():
    x = torch.ones(3, 2)
    with comm.metering() as meter:
        pending = comm.start_all_to_all(x, [3], [3], mesh.solo())
        counts = comm.start_all_to_all_counts(torch.tensor([[3]]), mesh.solo())
        others = [
            start(x, mesh.solo())
            for start in (
                comm.start_all_reduce,
                comm.start_all_gather,
                comm.start_reduce_scatter,
            )
        ]
    assert all(torch.equal(one.wait(), x) for one in [pending, *others])
    assert counts.wait().tolist() == [[3]]
    assert meter.total_bytes == 0


def _beside(rank, early):
    group, (x, sends, receives) = mesh.world(), _rows(rank)
    with recording(rank) as rec:
        pending = comm.start_all_to_all(x, sends, receives, group)
        if early:
            pending.wait()
        torch.ones(64) * 2
        if not early:
            pending.wait()
        torch.ones(5)
    return rec.tape()


def test_on_the_tape_the_wait_stands_where_it_is_called(three):
    tapes = three.run(_beside, False)
    check(tapes, mirror=False)
    assert [r for r in tapes[0].records if not isinstance(r, Kernel)] == [
        Mark(0, "compute"),
        Wait(0, "comm"),
        Collective("all_to_all", "all_to_all", (8, 32, 0), (0, 1, 2), 0),
        Mark(1, "comm"),
        Wait(1, "compute"),
    ]
    names = [getattr(r, "name", type(r).__name__) for r in tapes[0].records]
    assert names[3:] == ["Mark", "ones", "mul", "Wait", "ones"]


def test_what_is_computed_before_the_wait_hides_the_transfer(three):
    machine = Machine(
        name="unit",
        source="course",
        bf16_flops_per_s=1e12,
        gpus_per_node=3,
        fp32_flops_per_s=1e12,
        memory_bytes_per_s=1e9,
        nvlink_bytes_per_s=1e9,
        nvlink_alpha_s=0.0,
        launch_s=0.0,
    )
    late, early = (
        replay(three.run(_beside, early), machine).summary()[0]
        for early in (False, True)
    )
    assert (early.hidden_ps, early.exposed_ps) == (0, 32_000)
    assert (late.hidden_ps, late.exposed_ps) == (32_000, 0)


def _twice(rank):
    group, (x, sends, receives) = mesh.world(), _rows(rank)
    pending = comm.start_all_to_all(x, sends, receives, group)
    pending.wait()
    pending.wait()


def _never(rank):
    group, (x, sends, receives) = mesh.world(), _rows(rank)
    for _ in range(2):
        comm.start_all_to_all(x, sends, receives, group)


def _misfit(rank):
    group, (x, sends, receives) = mesh.world(), _rows(rank)
    if rank == 1:
        receives = [3, 2, 0]
    comm.start_all_to_all(x, sends, receives, group).wait()


def _absent(rank):
    group, (x, sends, receives) = mesh.world(), _rows(rank)
    if rank < 2:
        comm.start_all_to_all(x, sends, receives, group).wait()


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (_twice, r"this all_to_all was waited for already .*keep the result"),
        (_never, r"nobody waited for the all_to_all started in .* line \d+.*, and 1"),
        (_misfit, r"rank 0 sends 4 rows to rank 1, which expects 3"),
        (_absent, r"Ranks 0 and 1 wait in all_to_all, call 1: rank 2 returned without"),
    ],
)
def test_wrong_use_is_told_and_the_next_run_starts_clean(three, mistake, told):
    with pytest.raises(RuntimeError, match=told):
        three.run(mistake)
    assert [same for same, *_ in three.run(_several)] == [True] * 3


def test_counts_that_do_not_fit_are_refused_at_the_start():
    x = torch.ones(2, 2)
    with pytest.raises(ValueError, match="add up to 3, but there are 2 rows"):
        comm.start_all_to_all(x, [3], [3], mesh.solo())
    with pytest.raises(ValueError, match="2 rows of counts for 1 ranks"):
        comm.start_all_to_all_counts(torch.ones(2, 1, dtype=torch.int64), mesh.solo())
