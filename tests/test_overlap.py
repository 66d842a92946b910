"""Two micro-batches that alternate: equal to the plain step, and beside each other."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cloudpickle import register_pickle_by_value

from tiny_lm.config import ModelConfig, TrainConfig, preset
from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import Cluster
from tiny_lm.job import Job
from tiny_lm.layout import Layout
from tiny_lm.model import LanguageModel, is_expert
from tiny_lm.parallel import shard
from tiny_lm.parallel.dispatch import ExpertParallelDispatcher
from tiny_lm.parallel.overlap import loss_and_gradients, take_turns
from tiny_lm.replay.hidden import hiding
from tiny_lm.replay.match import check
from tiny_lm.replay.recorder import recording
from tiny_lm.replay.specs import emulate, machines
from tiny_lm.replay.tape import Collective
from tiny_lm.step import build_model, build_worker

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest

PLAIN = replace(preset("tiny"), fp8=None)
# Experts for which the routers' biases make everyone or no one ask.
EVEN, SKEWED, EMPTY_RANK = (
    {},
    {3: 10.0, 9: -10.0, 13: -10.0},
    dict.fromkeys(range(8, 12), -10.0),
)


@pytest.fixture(scope="module")
def clusters():
    with Cluster(2) as two, Cluster(4) as four:
        yield {2: two, 4: four}


def _batch(num_sequences: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(256, (num_sequences, 33), generator=generator)


def _model(config: ModelConfig, group: mesh.Group, bias: dict) -> LanguageModel:
    model = build_model(config, group, seed=1)
    for router in model.routers:
        for expert, change in bias.items():
            router.bias[expert] += change
    return model


def _step(rank, config, bias, overlap, num_sequences=8):
    """Parts of the loss, all gradients of the whole model, loads, calls."""
    group = mesh.world()
    model = _model(config, group, bias)
    tokens = _batch(num_sequences).chunk(group.size)[group.rank]
    with comm.metering() as meter:
        if overlap:
            loss = loss_and_gradients(model, tokens, 1 / group.size)
        else:
            loss = model.loss(tokens)
            (loss.total / group.size).backward()
    shard.sum_gradients(model, group, is_expert)
    gradients = {
        name: comm.all_gather(p.grad, group) if is_expert(name) else p.grad
        for name, p in model.named_parameters()
    }
    parts = torch.stack([loss.total, loss.next_token, loss.mtp, loss.balance]).detach()
    loads = torch.stack([router.load for router in model.routers])
    loads = comm.all_reduce(loads, group)
    mean = comm.all_reduce(parts / group.size, group)
    return mean, gradients, loads, dict(meter.calls), dict(meter.num_bytes)


def _far(found: dict, wanted: dict) -> dict[str, float]:
    """How far each gradient is off, as a share of its largest entry."""
    return {
        name: float((found[name] - g).abs().max() / g.abs().max().clamp(min=1e-3))
        for name, g in wanted.items()
    }


@pytest.mark.parametrize("bias", [EVEN, SKEWED, EMPTY_RANK], ids=["even", "skew", "no"])
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_it_equals_the_plain_step_of_one_process(clusters, num_ranks, bias):
    config = replace(PLAIN, num_mtp=2, mtp_weight=0.3)
    whole, gradients, loads, *_ = _step(0, config, bias, overlap=False)
    results = clusters[num_ranks].run(_step, config, bias, True)
    for parts, found, counted, *_ in results:
        assert torch.allclose(parts, whole, rtol=0, atol=1e-5)
        assert max(_far(found, gradients).values()) < 1e-5
        assert torch.equal(counted, loads)
    unasked = [expert for expert in range(16) if loads[0, expert] == 0]
    assert unasked == [expert for expert, change in bias.items() if change < 0]


def test_micro_batches_of_unequal_size_count_by_their_sequences(clusters):
    whole, gradients, *_ = _step(0, PLAIN, SKEWED, False, 12)
    for parts, found, *_ in clusters[4].run(_step, PLAIN, SKEWED, True, 12):
        assert torch.allclose(parts, whole, rtol=0, atol=1e-5)
        assert max(_far(found, gradients).values()) < 1e-5


def test_it_sends_the_same_rows_and_asks_once_a_layer_and_micro_batch(clusters):
    apart, together = (
        clusters[4].run(_step, PLAIN, SKEWED, overlap) for overlap in (False, True)
    )
    for before, after in zip(apart, together, strict=True):
        assert after[4]["all_to_all"] == before[4]["all_to_all"]
        assert before[3] == {"counts": 3, "all_to_all": 12}
        assert after[3] == {"counts": 6, "all_to_all": 24}


def test_with_fp8_it_differs_by_no_more_than_rounding_does(clusters):
    parts, gradients, *_ = _step(0, preset("tiny"), SKEWED, False)
    _, exact, *_ = _step(0, PLAIN, SKEWED, False)
    found_parts, found, *_ = clusters[4].run(_step, preset("tiny"), SKEWED, True)[0]
    assert torch.allclose(found_parts, parts, rtol=1e-3, atol=0)
    for name, gradient in gradients.items():
        norm = exact[name].norm()
        rounding = (gradient - exact[name]).norm() / norm
        assert (found[name] - gradient).norm() / norm < max(rounding, 1e-2), name


def _tape(rank):
    group = mesh.world()
    model = _model(PLAIN, group, EVEN)
    tokens = _batch().chunk(group.size)[group.rank]
    with recording(rank, model) as rec:
        loss_and_gradients(model, tokens)
    return rec.tape()


def test_the_tape_names_every_transfer_after_its_layer(clusters):
    tapes = clusters[2].run(_tape)
    check(tapes, mirror=False)
    calls = [r for r in tapes[0].records if isinstance(r, Collective)]
    names = [call.name for call in calls if "blocks.1" in call.name]
    assert sorted(names) == [
        *["blocks.1.ffn all_to_all"] * 4,
        *["blocks.1.ffn all_to_all backward"] * 4,
        *["blocks.1.ffn counts"] * 2,
    ]
    assert {call.name.split()[0] for call in calls} == {
        f"blocks.{layer}.ffn" for layer in (1, 2, 3)
    }


def test_any_number_of_micro_batches_gives_the_same():
    model = LanguageModel(PLAIN, ExpertParallelDispatcher(16, mesh.solo()))
    found = []
    for num_micro in (1, 3):
        loss_and_gradients(model, _batch(4), num_micro=num_micro)
        found.append({name: p.grad for name, p in model.named_parameters()})
        model.zero_grad(set_to_none=True)
    assert max(_far(*found).values()) < 1e-5


def test_tasks_take_turns_until_all_are_through():
    said = []

    def task(name, turns):
        for turn in range(turns):
            said.append(f"{name}{turn}")
            yield

    take_turns(task("a", 2), task("b", 3))
    assert said == ["a0", "b0", "a1", "b1", "b2"]


def test_one_process_can_alternate_too():
    config = replace(PLAIN, num_layers=2)
    dispatcher = ExpertParallelDispatcher(16, mesh.solo())
    model, plain = LanguageModel(config, dispatcher), LanguageModel(config)
    loss, wanted = loss_and_gradients(model, _batch(4)), plain.loss(_batch(4))
    wanted.total.backward()
    assert float(loss.total) == pytest.approx(wanted.total.item(), abs=1e-5)
    found, gradients = (
        {name: p.grad for name, p in some.named_parameters()} for some in (model, plain)
    )
    assert max(_far(found, gradients).values()) < 1e-5


def test_what_cannot_alternate_is_refused():
    model = LanguageModel(PLAIN, ExpertParallelDispatcher(16, mesh.solo()))
    with pytest.raises(ValueError, match="cannot make 2 micro-batches of 1"):
        loss_and_gradients(model, _batch(1))
    with pytest.raises(ValueError, match="longer"):
        loss_and_gradients(model, torch.zeros(2, 4098, dtype=torch.int64))


def _steps(rank, layout):
    """Metrics of three steps of a worker, and the tape of the last."""
    training = TrainConfig(steps=3, batch_size=8, seq_len=32, warmup_steps=1)
    job = Job(config=PLAIN, training=training, ranks=2, layout=layout, out=Path())
    group = mesh.world()
    worker = build_worker(job, group, "cpu")
    tokens = _batch().chunk(group.size)[group.rank]
    worker.step(tokens)
    worker.step(tokens)
    return worker.record(tokens)


@pytest.mark.parametrize("zero", [False, True])
def test_a_worker_that_overlaps_learns_the_same(clusters, zero):
    layout = Layout(overlap=True, zero=zero)
    plain, turns, once_more = (
        clusters[2].run(_steps, asked) for asked in (Layout(), layout, layout)
    )
    for (wanted, _), (found, _) in zip(plain, turns, strict=True):
        assert found["load"] == wanted["load"]
        for name in ("loss", "balance_loss", "grad_norm"):
            assert found[name] == pytest.approx(wanted[name], rel=1e-4)
    tapes = [tape for _, tape in turns]
    times = emulate(tapes)
    assert times == emulate(tape for _, tape in once_more)
    before = emulate(tape for _, tape in plain)
    assert times["scaled_twin"]["step_ms"] < before["scaled_twin"]["step_ms"]


def _tiny_steps(rank, seed):
    """A step as the scaled twin was made for, by one, two and four micro-batches."""
    group = mesh.world()
    model = build_model(preset("tiny"), group, seed)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(256, (16, 129), generator=generator).chunk(group.size)[rank]
    tapes = []
    for num_micro in (1, 2, 4):
        with recording(rank, model) as rec:
            loss_and_gradients(model, tokens, num_micro=num_micro)
        tapes.append(rec.tape())
        model.zero_grad(set_to_none=True)
    return tapes


@pytest.mark.parametrize("seed", [1, 3])
def test_of_the_exchanges_four_hide_nine_tenths_and_two_eight(clusters, seed):
    """At 1 : 1, which the scaled twin has; with routers as even as chance makes them.

    From seed 0 the fullest rank of a layer gets 1.6 times its share. Then every rank
    waits for that one, and four micro-batches hide 0.88.
    """
    twin, tapes = machines()["scaled_twin"], clusters[4].run(_tiny_steps, seed)
    one, two, four = (hiding(some, twin) for some in zip(*tapes, strict=True))
    # Alone, a micro-batch has its own shared expert to hide behind, and nothing else.
    assert one.share < 0.1
    assert two.share > 0.8
    assert four.share > 0.9
    assert two.step_ms < four.step_ms < one.step_ms
    for found in (one, two, four):
        assert found.exposed_ms >= found.bound_ms
