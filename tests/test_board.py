"""Calls that do not fit: found before they do harm, told in a table and a sentence."""

import sys
import threading
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from cloudpickle import register_pickle_by_value

from tiny_lm.gpus import comm, mesh, watch
from tiny_lm.gpus import seat as places
from tiny_lm.gpus.board import KEPT, Board, Mismatch
from tiny_lm.gpus.launch import Cluster, run_ranks
from tiny_lm.gpus.lines import calling_line, show_line
from tiny_lm.gpus.mesh import Group, Mesh
from tiny_lm.gpus.report import explain
from tiny_lm.gpus.seat import Seat

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest


@pytest.fixture(scope="module")
def gpus():
    with Cluster(3) as cluster:
        yield cluster


def _message(gpus, fn) -> tuple[str, list[list[str]]]:
    """The sentence that says what differs, and the table in columns."""
    with pytest.raises(RuntimeError, match="^the calls of the ranks do not fit") as e:
        gpus.run(fn, timeout_s=60.0)
    sentence, table = str(e.value).split("\n\n")
    rows = [row.split(maxsplit=6) for row in table.splitlines()]
    assert rows[0][:2] == ["rank", "call"] and len(rows) == 1 + gpus.world_size
    return sentence.split("\n", maxsplit=1)[1], rows[1:]


def _another_order(rank):
    group, x = mesh.world(), torch.ones(2)
    comm.barrier(group)
    if rank == 1:
        comm.all_gather(x, group)
        comm.all_reduce(x, group)
    else:
        comm.all_reduce(x, group)
        comm.all_gather(x, group)


def test_another_order(gpus):
    sentence, rows = _message(gpus, _another_order)
    assert sentence == (
        "Call 2 is all_reduce on ranks 0 and 2, all_gather on rank 1. "
        "Every rank of a group must make the same calls in the same order."
    )
    kinds = ["all_reduce", "all_gather", "all_reduce"]
    for rank, kind in enumerate(kinds):
        assert rows[rank][:5] == [str(rank), "2", kind, "[2]", "float32"]
    lines = [row[-1] for row in rows]
    assert lines[1].endswith(": comm.all_gather(x, group)")
    assert lines[0].endswith(": comm.all_reduce(x, group)") and lines[0] == lines[2]


def test_another_size(gpus):
    def work(rank):
        comm.all_reduce(torch.ones(5 if rank == 2 else 4), mesh.world())

    sentence, rows = _message(gpus, work)
    assert sentence == (
        "Call 1, all_reduce, has shape [4] on ranks 0 and 1, [5] on rank 2. "
        "They hold different numbers of values, and cannot be combined."
    )
    assert [row[3] for row in rows] == ["[4]", "[4]", "[5]"]


def test_the_same_size_in_another_shape(gpus):
    def work(rank):
        comm.reduce_scatter(torch.ones((12, 3) if not rank else (6, 6)), mesh.world())

    sentence, _ = _message(gpus, work)
    assert sentence == (
        "Call 1, reduce_scatter, has shape [12, 3] on rank 0, [6, 6] on ranks 1 and "
        "2. Both hold 36 values: there would be no error, but values in wrong places."
    )


def _splits(rank):
    sends = [1, 1, 2] if rank == 1 else [1, 1, 1]
    comm.all_to_all(torch.ones(sum(sends), 2), sends, [1, 1, 1], mesh.world())


def test_splits_that_disagree(gpus):
    with pytest.raises(RuntimeError) as caught:
        gpus.run(_splits)
    assert (
        "In call 1, all_to_all, rank 1 sends 2 rows to rank 2, which expects 1 from "
        "it: receive_counts[1] of rank 2 must equal send_counts[2] of rank 1. "
        "`comm.all_to_all_counts` tells every rank what it will get."
    ) in str(caught.value)
    assert "[1, 1, 2] / [1, 1, 1]" in str(caught.value)


def test_a_rank_returns_early(gpus):
    def work(rank):
        for step in range(3):
            if (rank, step) == (0, 2):
                return
            comm.all_reduce(torch.ones(4), mesh.world())

    sentence, rows = _message(gpus, work)
    assert sentence == (
        "Ranks 1 and 2 wait in all_reduce, call 3: rank 0 returned without it. "
        "Every rank of a group must make the same calls in the same order."
    )
    assert rows[0] == ["0", "-", "returned", "after", "2", "calls"]


def test_a_call_on_one_rank_alone(gpus):
    def work(rank):
        if rank == 1:
            comm.barrier(mesh.world())

    sentence, _ = _message(gpus, work)
    assert sentence == (
        "Only rank 1 makes call 1, barrier: ranks 0 and 2 returned without it. A "
        "collective needs every rank of its group: call it on all of them, not inside "
        "an `if` that only one enters."
    )


def test_calls_of_the_backward_pass_are_compared_too(gpus):
    def work(rank):
        x = torch.ones(3, requires_grad=True)
        y = comm.all_reduce(x, mesh.world())
        if rank:
            y.sum().backward()

    sentence, rows = _message(gpus, work)
    assert sentence.startswith("Ranks 1 and 2 wait in all_reduce, call 2: rank 0 ret")
    assert rows[0] == ["0", "-", "returned", "after", "1", "call"]
    assert "in the backward pass of test_board.py" in " ".join(rows[1])


def test_groups_are_compared_one_by_one():
    def work(rank):
        grid = Mesh({"dp": 2, "ep": 2})
        if rank < 2:  # two rows of the grid, each with calls of its own
            comm.all_reduce(torch.ones(3), grid["ep"])
        else:
            comm.barrier(grid["ep"])
            comm.all_gather(torch.ones(2, 2), grid["ep"])
        comm.all_reduce(torch.ones(1), grid["dp"])
        if rank % 2:
            comm.all_reduce(torch.ones(1 + rank // 2), grid["dp"])

    with pytest.raises(RuntimeError) as caught:
        run_ranks(4, work)
    message = str(caught.value)
    assert (
        "In the group of ranks 1 and 3:\nCall 2, all_reduce, has shape [1]" in message
    )
    assert "\n  0 " not in message


def test_ranks_that_wait_for_one_another_in_a_circle_are_stopped(gpus, monkeypatch):
    monkeypatch.setattr(watch, "STILL_S", 0.5)

    def work(rank):
        pairs = [dist.new_group(pair) for pair in ([0, 1], [1, 2], [2, 0])]
        for number in ((0, 2), (1, 0), (2, 1))[rank]:
            pair = pairs[number]
            comm.barrier(Group(dist.get_rank(pair), 2, pair))

    with pytest.raises(RuntimeError, match="every rank waits for another") as caught:
        gpus.run(work, timeout_s=60.0)
    assert "rank 0 waits in barrier for rank 1, rank 1 waits" in str(caught.value)
    assert "barrier in the group of ranks 1 and 2" in str(caught.value)


def test_without_checks_nothing_is_compared():
    def work(rank):
        assert places.seat() is None
        return comm.all_reduce(torch.ones((2, 2) if rank else (4,)), mesh.world()).sum()

    assert run_ranks(2, work, checked=False) == [8.0, 8.0]  # garbage, in silence
    with pytest.raises(RuntimeError, match="has shape"):
        run_ranks(2, lambda rank: comm.all_reduce(torch.ones(1 + rank), mesh.world()))


def test_a_call_that_bypasses_comm_is_told_by_torch(monkeypatch):
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "DETAIL")
    with pytest.raises(RuntimeError, match="Detected mismatch between collectives"):
        run_ranks(2, lambda rank: dist.all_reduce(torch.ones(1 + rank)))


# The board itself needs no processes.


def _seats(tmp_path, size: int) -> list[Seat]:
    lock = threading.Lock()
    seats = [Seat(Board(tmp_path / "board", size), r, lock) for r in range(size)]
    for seat in seats:
        seat.begin(1)
    return seats


def _enter(
    seat: Seat, kind: str, members=(0, 1), x=None, splits=((), ()), group="0"
) -> None:
    seat.enter(kind, members, group, torch.ones(2) if x is None else x, *splits)
    seat.done()


def _told(tmp_path, **calls: list) -> str:
    """What a learner reads where two ranks make a call with these arguments."""
    with pytest.raises(Mismatch) as caught:
        for number, seat in enumerate(_seats(tmp_path, 2)):
            _enter(seat, **{name: values[number] for name, values in calls.items()})
    return explain(seat.board, 1, caught.value.members, caught.value.number)


def test_the_same_size_in_another_dtype(tmp_path):
    xs = [torch.ones(4), torch.ones(4, dtype=torch.int32)]
    told = _told(tmp_path, kind=["all_reduce"] * 2, x=xs)
    assert (
        "Call 1, all_reduce, has dtype float32 on rank 0, int32 on rank 1. The bytes "
        "of one would be read as the other."
    ) in told
    assert "  1     1     all_reduce  [4]    int32    test_board.py line " in told


def test_another_source(tmp_path):
    told = _told(tmp_path, kind=["broadcast from 0", "broadcast from 1"])
    assert "Call 1 is broadcast from 0 on rank 0, broadcast from 1 on rank 1." in told


def test_rows_of_an_all_to_all_differ_in_shape(tmp_path):
    xs, splits = [torch.ones(2, 3), torch.ones(2, 4)], ((1, 1), (1, 1))
    told = _told(tmp_path, kind=["all_to_all"] * 2, x=xs, splits=[splits] * 2)
    assert "has rows of shape [3] on rank 0, [4] on rank 1" in told


def test_two_groups_of_the_same_ranks_are_told_apart(tmp_path):
    told = _told(tmp_path, kind=["barrier"] * 2, group=["1", "2"])
    assert "Call 1, barrier, goes through two groups of the same ranks" in told


def test_any_number_of_rows_is_fine_if_it_is_expected(tmp_path):
    first, second = _seats(tmp_path, 2)
    _enter(first, "all_to_all", x=torch.ones(3, 2), splits=((1, 2), (1, 0)))
    _enter(second, "all_to_all", x=torch.ones(4, 2), splits=((0, 4), (2, 4)))


def test_whoever_comes_second_sees_what_the_first_wrote(tmp_path):
    first, second, third = _seats(tmp_path, 3)
    _enter(first, "a")
    _enter(second, "a")
    _enter(third, "b", members=(2, 0))  # another group
    _enter(second, "b")
    with pytest.raises(Mismatch, match=r"call 2 of ranks \[0, 1\]") as caught:
        _enter(first, "c")
    assert (caught.value.members, caught.value.number) == ((0, 1), 2)


def test_a_source_may_run_ahead_of_what_is_kept(tmp_path):
    ahead, behind = _seats(tmp_path, 2)
    for number in range(KEPT + 10):
        _enter(ahead, str(number))
    for number in range(KEPT + 10):
        _enter(behind, str(number))
    with pytest.raises(Mismatch):
        _enter(ahead, "x")
        _enter(behind, "y")


def test_a_new_run_forgets_the_last(tmp_path):
    first, second = _seats(tmp_path, 2)
    _enter(first, "a")
    second.begin(2)
    _enter(second, "b")
    first.begin(2)
    with pytest.raises(Mismatch):
        _enter(first, "a")


def test_leaving_finds_what_was_missed_and_entering_finds_who_left(tmp_path):
    first, second = _seats(tmp_path, 2)
    first.leave()
    with pytest.raises(Mismatch):
        _enter(second, "a")
    first.begin(2)
    second.begin(2)
    _enter(first, "a")
    with pytest.raises(Mismatch):
        second.leave()


def test_the_line_is_the_innermost_of_the_learner(monkeypatch):
    file, line, backward = calling_line()
    assert (file, backward) == (__file__, False)
    assert show_line(file, line).endswith(": file, line, backward = calling_line()")
    assert show_line("", 0) == "unknown"
    compiler = SimpleNamespace(format_code_name=lambda name: ("Cell", "In[3]"))
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(compile=compiler))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    assert show_line("anything", 4) == "In[3] line 4"
