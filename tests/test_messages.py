"""Messages from rank to rank: what arrives, and who is told to wait in a circle."""

import sys
import time

import pytest
import torch
from cloudpickle import register_pickle_by_value

from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import Cluster
from tiny_lm.gpus.mesh import Mesh
from tiny_lm.replay.match import check
from tiny_lm.replay.recorder import recording
from tiny_lm.replay.tape import Receive, Send

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest


@pytest.fixture(scope="module")
def gpus():
    with Cluster(4) as cluster:
        yield cluster


def _round(x, group):
    """To the right neighbour, from the left one; odd ranks receive first."""
    right, left = (group.rank + 1) % group.size, (group.rank - 1) % group.size
    if group.rank % 2:
        came = comm.receive(x, left, group)
        comm.send(x, right, group)
        return came
    comm.send(x, right, group)
    return comm.receive(x, left, group)


def _pass_on(rank):
    group = mesh.world()
    with comm.metering() as meter:
        ids = _round(torch.full((3,), rank), group)
        codes = _round(torch.full((2, 2), float(rank)).to(torch.float8_e4m3fn), group)
        columns = _round(torch.full((2, 5), float(rank)).t(), group)
        large = _round(torch.full((300_000,), float(rank)), group)
    same = len({ids[0].item(), codes.float()[0, 0].item(), columns[0, 0].item()}) == 1
    same &= bool((large == ids[0]).all()) and columns.shape == (5, 2)
    return ids[0].item(), same, dict(meter.num_bytes), dict(meter.calls)


def test_what_is_sent_arrives_whatever_its_kind_and_size(gpus):
    for rank, (came, same, num_bytes, calls) in enumerate(gpus.run(_pass_on)):
        assert same and came == (rank - 1) % 4
        assert num_bytes == {"send": 24 + 4 + 40 + 1_200_000, "receive": 0}
        assert calls == {"send": 4, "receive": 4}


def test_ranks_of_a_message_are_those_of_its_group(gpus):
    def work(rank):
        pair = Mesh({"dp": 2, "ep": 2})["dp"]  # ranks 0 and 2, 1 and 3
        return _round(torch.tensor(rank), pair).item()

    assert gpus.run(work) == [2, 3, 0, 1]


def _recorded(rank):
    with recording(rank) as recorder:
        x = torch.ones(2) * 3
        for _ in range(2):
            x = _round(x, mesh.world())
    return recorder.tape()


def test_on_the_tape_a_message_has_two_ends(gpus):
    tapes = gpus.run(_recorded)
    check(tapes, mirror=False)
    ends = [r for r in tapes[1].records if isinstance(r, Send | Receive)]
    assert ends == [
        Receive("receive", 0, 8, 0),
        Send("send", 2, 8, 0),
        Receive("receive", 0, 8, 1),
        Send("send", 2, 8, 1),
    ]


def _all_send_first(rank):
    group, x = mesh.world(), torch.ones(2)
    comm.send(x, (rank + 1) % 4, group)
    comm.receive(x, (rank - 1) % 4, group)


def _all_receive_first(rank):
    group, x = mesh.world(), torch.ones(2)
    comm.receive(x, (rank - 1) % 4, group)
    comm.send(x, (rank + 1) % 4, group)


def _send_meets_send(rank):
    if rank < 2:
        comm.send(torch.ones(2), 1 - rank, mesh.world())


def _one_is_gone(rank):
    if rank != 2:
        _all_send_first(rank)


def _another_shape(rank):
    if rank == 0:
        comm.send(torch.ones(3), 1, mesh.world())
    if rank == 1:
        comm.receive(torch.ones(1, 3), 0, mesh.world())


def _nobody_receives(rank):
    if rank == 3:
        comm.send(torch.ones(3), 1, mesh.world())


def _in_a_barrier(rank):
    if rank == 3:
        comm.send(torch.ones(3), 1, mesh.world())
    comm.barrier(mesh.world())


MISTAKES = [
    (_all_send_first, "everybody sends first", "  2     1     send to 3  [2]"),
    (_all_receive_first, "Everybody receives first", "  0     1     receive from 3"),
    (_send_meets_send, "Ranks 0 and 1 wait for one another in a circle", "send to 0"),
    (_one_is_gone, "Rank 1 waits in send to 2: rank 2 returned without it", "after 0"),
    (_another_shape, r"shape \[3\] on rank 0, \[1, 3\] on rank 1. A receive", "send"),
    (_nobody_receives, "Rank 3 waits in send to 1: rank 1 returned", "send to 1"),
]


@pytest.mark.parametrize(("mistake", "told", "row"), MISTAKES)
@pytest.mark.parametrize("how", ["run", "attempt"])
def test_a_mistake_is_told_within_moments(gpus, mistake, told, row, how):
    gpus.run(_recorded)
    before, team = time.monotonic(), gpus._team
    with pytest.raises(RuntimeError, match=told) as caught:
        getattr(gpus, how)(mistake)
    assert row in str(caught.value)
    assert "test_messages.py line " in str(caught.value)
    assert time.monotonic() - before < 3.0
    assert (gpus._team is team) == (how == "attempt")


def test_a_circle_through_a_collective_is_found_where_ranks_are_patient(gpus):
    with pytest.raises(RuntimeError, match="wait for one another in a circle"):
        gpus.attempt(_in_a_barrier)


def test_after_a_failed_attempt_the_same_ranks_go_on(gpus):
    def work(rank, fails):
        if rank == fails:
            raise KeyError("lost")
        return comm.all_reduce(torch.ones(1), mesh.world()).item()

    gpus.run(_recorded)
    team = gpus._team
    with pytest.raises(RuntimeError, match="rank 2 raised KeyError: 'lost'"):
        gpus.attempt(work, 2)
    assert gpus.attempt(work, None) == [4.0] * 4
    assert gpus.run(work, None) == [4.0] * 4
    assert gpus._team is team


def test_calls_that_cannot_be_are_refused():
    x, group = torch.ones(1), mesh.solo()
    with pytest.raises(ValueError, match="to=0 is no other rank of 1, for rank 0"):
        comm.send(x, 0, group)
    with pytest.raises(ValueError, match="source=1 is no other rank"):
        comm.receive(x, 1, group)
    with Cluster(1, checked=False) as alone:
        with pytest.raises(ValueError, match="needs a cluster that compares"):
            alone.attempt(print)
