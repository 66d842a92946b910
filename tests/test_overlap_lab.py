"""Task 5.6 is timed from what really ran: calls, tapes, score, and the longest gap."""

from dataclasses import replace

import pytest
import torch

from tiny_lm.config import TrainConfig
from tiny_lm.course.checks.comm import orders, overlapped_orders
from tiny_lm.course.checks.comm.orders import LAYERS, calls_of, last_timed, plain
from tiny_lm.course.checks.comm.overlapped import overlapped, picture, task_5_6
from tiny_lm.course.checks.comm.patience import ENDLESS, Watched, patience
from tiny_lm.course.checks.comm.ranks import gpus
from tiny_lm.course.checks.task import CheckFailed
from tiny_lm.course.figures import overlap_lab
from tiny_lm.course.labs import hidden, mixture_layers
from tiny_lm.course.labs.two_batches import Call, OutOfOrder, in_turn, on_paper
from tiny_lm.gpus import mesh
from tiny_lm.model import LanguageModel
from tiny_lm.parallel.dispatch import ExpertParallelDispatcher
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.timeline import KERNEL
from tiny_lm.step import build_optimizer, train_step


def learners(order):
    """The same function, as if a learner had written it: it really runs."""
    space = {"order": order, "__name__": "__main__"}
    exec("def mine(layers, a, b):\n    return order(layers, a, b)", space)
    return space["mine"]


# ---- on paper


def test_calls_are_written_down_in_the_order_in_which_they_are_made():
    layers, a, _, calls = on_paper(1)
    sent = layers[0].start_dispatch(layers[0].attend(a))
    assert calls == [Call("attend", "a", 0), Call("dispatch", "a", 0)]
    layers[0].combine(layers[0].experts(sent.wait()))
    assert calls[2] == Call("dispatch", "a", 0, waits=True)
    assert str(calls[2]) == "wait for dispatch of a in layer 0"
    assert len(calls) == 6


def test_a_part_out_of_turn_is_refused_in_words():
    layers, a, _, _ = on_paper(2)
    sent = layers[0].start_dispatch(layers[0].attend(a))
    with pytest.raises(OutOfOrder, match="experts in layer 0: a is still under way"):
        layers[0].experts(sent)
    rows = sent.wait()
    with pytest.raises(OutOfOrder, match="waited for already"):
        sent.wait()
    with pytest.raises(OutOfOrder, match="not next for a, with its experts in layer 0"):
        layers[0].start_combine(rows)
    with pytest.raises(OutOfOrder, match="not next for a, at its door in layer 0"):
        layers[1].attend(a)
    with pytest.raises(OutOfOrder, match="int is no micro-batch"):
        layers[0].attend(3)


# ---- on ranks


@pytest.fixture(scope="module")
def ran():
    """The plain order as the check keeps it, and the reference as it really ran."""
    return plain(0), gpus().run(mixture_layers.run, overlapped, LAYERS, 0)


def whole(rank, num_layers, seed):
    """The same micro-batches through the model's own blocks, one after the other."""
    config = mixture_layers.config(num_layers)
    model = LanguageModel(config, seed=seed).eval()
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    sizes = 2, mixture_layers.SEQUENCES, mixture_layers.SEQ_LEN, config.d_model
    found = []
    for x in torch.randn(sizes, generator=generator):
        for block in model.blocks:
            x, _ = block(x)
        found.append(x)
    return found


def test_numbers_are_those_of_the_models_own_blocks_in_any_order(ran):
    (in_order, _), alternating = ran
    with torch.no_grad():
        wanted = whole(0, LAYERS, 0)
    for one in (in_order[0], alternating[0]):
        for x, y in zip(one.results, wanted, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_tapes_put_together_from_parts_are_those_that_were_recorded(ran):
    (in_order, machine), alternating = ran
    together = hidden.reordered(in_order, alternating[0].calls)
    recorded = hidden.tapes(alternating)
    assert replay(together, machine) == replay(recorded, machine)


def test_the_machine_sends_as_long_as_it_computes(ran):
    (in_order, machine), _ = ran
    times = replay(hidden.tapes(in_order), machine).summary()
    computes, sends = (sum(getattr(t, n) for t in times) for n in TWO)
    assert sends == pytest.approx(computes, rel=0.02)
    assert hidden.share_hidden(replay(hidden.tapes(in_order), machine)) == 0


TWO = ("compute_ps", "comm_ps")


@pytest.mark.parametrize("seed", range(orders.SEEDS))
def test_the_reference_hides_more_than_asked_and_the_bound_is_not_passed(seed):
    """The last trip has nothing left beside it: one of four times the layers."""
    share = hidden.share_hidden(orders.reordered(calls_of(overlapped), seed))
    assert orders.ENOUGH + 0.02 < share < 1 - 1 / (4 * LAYERS) + 0.005


@pytest.mark.parametrize("times", [4, 1, 0.25])
def test_no_order_is_shorter_than_all_work_or_all_trips(ran, times):
    (in_order, machine), alternating = ran
    other = hidden.with_links(machine, times)
    first, second = (replay(hidden.tapes(r), other) for r in (in_order, alternating))
    least = hidden.least_ps(first)
    assert least <= second.step_ps < first.step_ps
    assert second.step_ps < 1.15 * least


def test_bars_leave_out_nothing_and_tell_no_time_twice(ran):
    (in_order, machine), _ = ran
    timeline = replay(hidden.tapes(in_order), machine)
    found = [s for s in hidden.bars(timeline, 0) if s.kind == KERNEL]
    total = sum(s.end_ps - s.start_ps for s in found)
    assert total == timeline.summary()[0].compute_ps
    names = [*dict.fromkeys(s.name for s in found)]
    assert names[:4] == ["a attend 0", "a experts 0", "a attend 1", "b attend 0"]


def losses(rank, order):
    """Two steps of training; the model's own way where there is no order."""
    group, config = mesh.world(), mixture_layers.config(2)
    config = replace(config, moe=replace(config.moe, balance_loss=0.0), num_mtp=0)
    dispatcher = ExpertParallelDispatcher(config.moe.num_experts, group)
    make = LanguageModel if order is None else mixture_layers.TakesTurns
    model = make(config, dispatcher, seed=0)
    model.order = order
    optimizer = build_optimizer(model, TrainConfig())
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(2):
        tokens = torch.randint(256, (8, 17), generator=generator)
        mine = tokens.chunk(group.size)[rank]
        step = train_step(model, optimizer, mine, group, 1.0)
        found.append((step["loss"], step["grad_norm"]))
    return found


def test_a_model_learns_the_same_in_any_order_of_its_micro_batches():
    wanted, inturn, alternating = (
        gpus().run(losses, order) for order in (None, in_turn, overlapped)
    )
    for one in (inturn, alternating):
        assert torch.tensor(one) == pytest.approx(torch.tensor(wanted), rel=1e-5)


# ---- the gap


@pytest.mark.parametrize(
    "order, trip, idle",
    [
        (in_turn, "combine", "attend"),
        (overlapped_orders.waits_at_the_edge, "b combine", "a attend"),
        (overlapped_orders.waits_before_the_experts_of_b, "a combine", "b experts"),
        (overlapped_orders.last_sent_first, "b dispatch", "a experts"),
    ],
)
def test_the_gap_names_what_is_under_way_and_what_was_ready(order, trip, idle):
    calls = calls_of(order)
    gap = hidden.longest_gap(orders.reordered(calls, 1), calls)
    assert trip in gap.trip and idle in gap.idle
    assert "could have run in it" in str(gap)
    early, late = (name.split() for name in (gap.trip, gap.idle))
    assert int(late[2]) - int(early[2]) in (0, 1)


def test_what_is_held_back_is_told_where_nothing_was_ready():
    calls = calls_of(overlapped_orders.both_attend_first)
    gap = hidden.longest_gap(orders.reordered(calls, 1), calls)
    assert gap.late and not gap.idle
    assert "It could have left earlier" in str(gap)


def test_a_good_order_has_no_gap():
    calls = calls_of(overlapped)
    assert hidden.longest_gap(orders.reordered(calls, 0), calls) is None


# ---- the check


def test_a_learners_answer_really_runs_and_is_drawn_where_it_is_slow(capsys):
    with pytest.raises(CheckFailed):
        task_5_6(learners(overlapped_orders.waits_at_the_edge))
    text = capsys.readouterr().out
    assert "Longest gap: rank" in text and "At the edge of each layer" in text
    last = last_timed()
    assert last is not None and last.calls == calls_of(
        overlapped_orders.waits_at_the_edge
    )
    drawing = picture()
    assert "gap" in drawing.svg and "could have run" in drawing.alt
    task_5_6(learners(overlapped))
    assert "passed" in capsys.readouterr().out


def test_the_picture_shows_both_micro_batches_of_each_timeline(ran):
    (in_order, machine), alternating = ran
    both = {
        "in turn": replay(hidden.tapes(in_order), machine),
        "overlapped": replay(hidden.tapes(alternating), machine),
    }
    svg = overlap_lab.compared(both, 14.0).svg
    for word in ("in turn computes", "overlapped sends", "attend", "b1", "rank 0"):
        assert word in svg


def test_ranks_of_a_lab_start_once():
    assert gpus() is gpus() and gpus().world_size == 4
    assert gpus().run(lambda rank: mesh.world().size) == [4] * 4


# ---- an end to loops


def test_an_endless_loop_is_interrupted():
    with pytest.raises(TimeoutError, match=ENDLESS), patience(0.05):
        while True:
            pass


def test_a_list_has_enough_of_being_looked_at():
    given = Watched([1, 2])
    assert given.plain() == [1, 2] and given[0] == 1 and len(given) == 2
    with pytest.raises(TimeoutError, match=ENDLESS):
        while given[0]:
            pass
