"""Checks of lab 5 run a learner's function on real ranks and rehearse their own."""

import pytest
import torch

from tiny_lm.course.checks.answer import Answer, NotDone
from tiny_lm.course.checks.comm import (
    combine_back,
    dispatch_ways,
    journeys,
    ranks,
    rehearsal,
    wire_edges,
)
from tiny_lm.course.checks.expect import Mismatch, same
from tiny_lm.gpus import comm, mesh

task = dispatch_ways.task_5_3
TASKS = [task, combine_back.task_5_4, wire_edges.task_5_5]
TOKENS = [(torch.arange(2.0) + 10 * rank, rank) for rank in range(4)]


def use(function, group, x, number):
    return function(x, group)


def learners(function):
    """The same code, but not the check's own: it goes to the real ranks."""

    def written_by_a_learner(*given):
        return function(*given)

    return written_by_a_learner


def attempt(function):
    return ranks.on_ranks(Answer(function, "f"), use, TOKENS)


def whole(x, group):
    return comm.all_gather(x, group)


def test_every_rank_answers_with_what_it_was_given():
    assert [x.tolist() for x in attempt(whole)] == [[0, 1, 10, 11, 20, 21, 30, 31]] * 4


def test_stub_is_found_and_the_ranks_stay():
    def stub(x, group):
        raise NotImplementedError("Task 5.3: dispatch")

    with pytest.raises(NotDone):
        attempt(stub)
    assert len(attempt(whole)) == 4


def test_nothing_returned_is_told():
    with pytest.raises(Mismatch) as told:
        attempt(lambda x, group: None)
    assert "return" in told.value.because


def test_changed_argument_is_told():
    def in_place(x, group):
        x += 1
        return x

    with pytest.raises(Mismatch) as told:
        attempt(in_place)
    assert "in place" in told.value.because


def test_error_is_told_with_the_learners_line():
    def slip(x, group):
        return x.view(3) if group.rank == 2 else whole(x, group)

    with pytest.raises(Mismatch) as told:
        attempt(slip)
    assert told.value.got.startswith("on rank 2: RuntimeError: shape '[3]' is invalid")
    assert "return x.view(3)" in told.value.got


def test_missing_rank_is_told_as_a_table():
    def leaves(x, group):
        return x if group.rank == 1 else whole(x, group)

    with pytest.raises(Mismatch) as told:
        attempt(leaves)
    assert "rank 1 returned without it" in told.value.got
    assert "returned after 0 calls" in told.value.got


def test_function_that_cannot_travel_is_told_as_that():
    """Such as one that uses the ranks of the notebook, whom it is to run on."""
    cluster = ranks.gpus()

    def asks_for_ranks(x, group):
        return cluster.run(whole)

    with pytest.raises(Mismatch) as told:
        attempt(asks_for_ranks)
    stays = "a Cluster stays with the process that made it"
    assert told.value.got == f"TypeError: f cannot travel to the ranks: {stays}"
    assert len(attempt(whole)) == 4


@pytest.mark.parametrize("error", [ValueError("no place"), OSError("no space")])
def test_ranks_that_cannot_start_are_told_as_that(error, monkeypatch):
    def none(world_size):
        raise error

    monkeypatch.setattr(ranks, "gpus", none)
    with pytest.raises(Mismatch) as told:
        attempt(whole)
    assert told.value.got == f"{type(error).__name__}: {error}"


def answers():
    for one in TASKS:
        for answer in (one.reference, *one.honest):
            yield pytest.param(one, answer, id=f"{one.id}-{answer.__name__}")


@pytest.mark.parametrize("task, answer", [*answers()])
def test_right_answer_is_right_on_real_ranks(task, answer):
    outcome = task.outcome(learners(answer))
    assert outcome.holds, task.report(outcome)


@pytest.mark.parametrize(
    "task, part",
    [(one, part) for one in TASKS for part in one.properties if part.mistakes],
    ids=lambda x: getattr(x, "id", getattr(x, "text", None)),
)
def test_mistake_on_real_ranks_is_named_by_its_rehearsal(task, part):
    mistake = part.mistakes[0]
    outcome = task.outcome(learners(mistake.answer(task.reference)))
    assert outcome.failed == part.text
    assert outcome.mismatch.because == mistake.says


def test_rehearsal_finds_calls_that_do_not_fit():
    def work(group):
        return group.rank if group.rank else rehearsal.all_gather(torch.ones(1), group)

    first, *others = rehearsal.play(3, work)
    assert isinstance(first, rehearsal.Apart)
    assert others == [1, 2]


def test_rehearsed_calls_give_and_count_what_real_ones_do():
    real = ranks.gpus().run(calls)
    assert same(rehearsal.play(4, lambda group: calls(group.rank, group)), real)


def calls(rank, group=None):
    """All kinds of calls, and the bytes that each rank sends."""
    group = group or mesh.world()
    x = torch.arange(3.0) + rank
    with rehearsal.metering(group) as meter:
        table = rehearsal.all_gather(x[None], group)
        total = rehearsal.all_reduce(x, group)
        ones = rehearsal.all_to_all_counts(torch.full((4, 1), rank), group)
        came = rehearsal.all_to_all(x[:1], *uneven(rank), group)
    return table, total, ones, came, meter.total_bytes


def uneven(rank):
    """Everybody's one row goes to rank 1."""
    return [0, 1, 0, 0], [1, 1, 1, 1] if rank == 1 else [0, 0, 0, 0]


def test_way_home_is_followed_whatever_the_order():
    rows = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
    assert journeys.listed(rows).tolist() == [[1, 2], [3, 1]]
