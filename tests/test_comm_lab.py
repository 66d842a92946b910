"""Lab 5's first tasks: its definitions are the package's, and its ranks are real."""

import time

import pytest
import torch

from tiny_lm.config import deepseek_v3
from tiny_lm.costs import fp8_row_bytes
from tiny_lm.course.checks.comm.byte_table import byte_table
from tiny_lm.course.checks.comm.ranks import gpus
from tiny_lm.course.checks.comm.ring import ring_all_reduce
from tiny_lm.course.checks.comm.ring_sizes import straight, task_5_1
from tiny_lm.gpus import comm, mesh
from tiny_lm.parallel.traffic import nodes_of_tokens


def learners(function):
    """The same code, but not the check's own: it goes to the real ranks."""

    def ring_all_reduce(x, group):
        return function(x, group)

    return ring_all_reduce


def both_sums(rank):
    x = torch.arange(1003).view(17, 59) * (rank + 1)
    with comm.metering() as ours:
        total = ring_all_reduce(x, mesh.world())
    with comm.metering() as theirs:
        wanted = comm.all_reduce(x, mesh.world())
    return torch.equal(total, wanted), ours.total_bytes, theirs.total_bytes


def test_a_ring_of_messages_gives_the_sum_and_its_bytes():
    results = gpus().run(both_sums)
    assert all(same for same, _, _ in results)
    by_rank, by_formula = zip(*(sent for _, *sent in results), strict=True)
    assert sum(by_rank) == 2 * 3 * 1003 * 8  # parts differ by one number
    assert all(abs(a - b) <= 2 * 8 for a, b in zip(by_rank, by_formula, strict=True))


@pytest.mark.parametrize("answer", [ring_all_reduce, straight])
def test_on_real_ranks_right_answers_pass(answer):
    outcome = task_5_1.outcome(learners(answer))
    assert outcome.holds, task_5_1.report(outcome)


FEW = [m for m in task_5_1.mistakes if "me % 2" in m.name or "4" in m.name]
FEW += [m for m in task_5_1.mistakes if m.name in ("at_one_rank", "through_rank_0")]


@pytest.mark.parametrize("mistake", FEW, ids=lambda mistake: mistake.name)
def test_on_real_ranks_a_mistake_is_named_within_seconds_and_they_survive(mistake):
    gpus().run(both_sums)
    before, team = time.monotonic(), gpus()._team
    outcome = task_5_1.outcome(learners(mistake.answer(ring_all_reduce)))
    assert outcome.mismatch.because == mistake.says, task_5_1.report(outcome)
    assert time.monotonic() - before < 20.0  # one second on an idle machine
    assert gpus()._team is team
    if "me % 2" in mistake.name:
        assert "rank  call  what" in task_5_1.report(outcome)


def test_the_table_is_made_of_the_packages_copies_and_bytes():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(64, 20, 256, generator=generator)
    experts = scores.topk(8).indices
    row = fp8_row_bytes(7168, deepseek_v3().fp8.tile)
    assert row == 7392
    table = byte_table(experts, 256, 7168, True, 8)
    nodes = nodes_of_tokens(experts.flatten(0, 1), 256, 8).view(64, 20)
    home = torch.arange(64) // 8
    stays = (experts // 32 == home.view(64, 1, 1)).any(2)
    assert table.sum(1).tolist() == ((nodes - stays.long()).sum(1) * row).tolist()
