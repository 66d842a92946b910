"""Pipelines on ranks: the plain step's loss and gradients, whatever the schedule."""

import sys
from dataclasses import replace
from functools import cache

import pytest
import torch
from cloudpickle import register_pickle_by_value

from tiny_lm.config import ModelConfig, preset
from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import Cluster
from tiny_lm.model import LanguageModel, is_expert
from tiny_lm.parallel import shard
from tiny_lm.parallel.pipeline import KINDS, Pipeline, grid, stages_of
from tiny_lm.parallel.whole_schedules import build, works
from tiny_lm.replay.recorder import recording
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.specs import machines
from tiny_lm.replay.tape import Collective, Kernel, Receive, Send
from tiny_lm.step import build_model

register_pickle_by_value(sys.modules[__name__])

NUM_MICRO, LENGTH = 4, 16
CONFIG = replace(preset("tiny"), fp8=None)
# With a balance loss as large as the other one: it cannot get lost unseen.
SHARP = replace(CONFIG, moe=replace(CONFIG.moe, balance_loss=0.5))


@pytest.fixture(scope="module")
def clusters():
    with Cluster(2) as two, Cluster(4) as four:
        yield {2: two, 4: four}


@pytest.fixture(scope="module")
def ran(clusters):
    """A step of each kind, run once."""
    return cache(
        lambda schedule, ranks=4, pp=2: clusters[ranks].run(run, SHARP, pp, schedule)
    )


@pytest.fixture(scope="module")
def tapes_of(clusters):
    return cache(lambda name: [t for t, _ in clusters[4].run(recorded, name, CONFIG)])


def batch(num: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(256, (num, LENGTH + 1), generator=generator)


def skew(model: torch.nn.Module) -> None:
    """Everyone chooses expert 3, nobody 8 to 15: a stage's second rank gets no row."""
    for module in model.modules():
        if hasattr(module, "update_bias"):
            module.bias[3] += 10.0
            module.bias[8:] -= 10.0


def built(config: ModelConfig, pp: int, schedule: str) -> tuple[Pipeline, torch.Tensor]:
    places = grid(pp, mesh.world())
    model = build_model(config, places.ep, seed=1)
    skew(model)
    tokens = batch().chunk(places.ep.size)[places.ep.rank]
    shape = (len(tokens) // NUM_MICRO, LENGTH)
    return Pipeline(model, places, schedule, NUM_MICRO, shape), tokens


def run(rank: int, config: ModelConfig, pp: int, schedule: str) -> dict:
    """A step on this rank: losses, gradients of the whole stage, loads, bytes."""
    pipeline, tokens = built(config, pp, schedule)
    share, ep = pipeline.share, pipeline.places.ep
    with comm.metering() as meter:
        sums = pipeline.step(tokens)
    shard.sum_gradients(share, ep, is_expert)
    gradients = {
        name: comm.all_gather(p.grad, ep) if is_expert(name) else p.grad
        for name, p in share.named_parameters()
    }
    losses = comm.all_reduce(torch.tensor([sums.next_token, sums.balance]), ep)
    return {
        "losses": (losses / ep.size).tolist(),
        "gradients": gradients,
        "loads": {
            n: comm.all_reduce(r.load, ep).tolist() for n, r in share.routers.items()
        },
        "sent": meter.num_bytes["send"],
    }


def plain(config: ModelConfig) -> tuple[list[float], dict, dict]:
    """The same step in one process."""
    model = LanguageModel(config, seed=1)
    skew(model)
    loss = model.loss(batch())
    loss.total.backward()
    loads = {
        layer: block.ffn.router.load.tolist()
        for layer, block in enumerate(model.blocks)
        if hasattr(block.ffn, "router")
    }
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return [loss.next_token.item(), loss.balance.item()], gradients, loads


@pytest.mark.parametrize("schedule", KINDS)
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_loss_and_every_gradient_are_those_of_one_process(ran, schedule, num_ranks):
    losses, gradients, loads = plain(SHARP)
    assert losses[1] > 0.5  # in the total, and in the gradients below
    ranks = ran(schedule, num_ranks)
    found, counted = {}, {}
    for rank in ranks:
        found.update(rank["gradients"])
        counted.update(rank["loads"])
    assert found.keys() == gradients.keys()
    assert counted == loads
    for name, gradient in gradients.items():
        scale = gradient.abs().max().clamp(min=1e-3)
        assert (found[name] - gradient).abs().max() / scale < 1e-5, name
    told = [rank["losses"] for rank in ranks if any(rank["losses"])]
    assert len(told) == num_ranks // 2  # those with the last stage
    for pair in told:
        assert pair == pytest.approx(losses, abs=1e-5)
    assert not found["blocks.2.ffn.experts.gate_up"][8:].any()
    assert found["blocks.2.ffn.experts.gate_up"][3].any()


def test_four_stages_of_one_rank_each(ran):
    losses, gradients, _ = plain(SHARP)
    ranks = ran("1f1b", pp=4)
    for rank in ranks:
        for name, gradient in rank["gradients"].items():
            scale = gradients[name].abs().max().clamp(min=1e-3)
            assert (gradient - gradients[name]).abs().max() / scale < 1e-5, name
    assert ranks[3]["losses"] == pytest.approx(losses, abs=1e-5)


def test_with_fp8_a_pipeline_differs_by_no_more_than_rounding_does(clusters):
    """Weight gradients are rounded in tiles of tokens, and a micro-batch has fewer."""
    losses, gradients, _ = plain(preset("tiny"))
    _, exact, _ = plain(CONFIG)
    ranks = clusters[4].run(run, preset("tiny"), 2, "zbv")
    assert ranks[0]["losses"] == pytest.approx(losses, rel=1e-3)
    for rank in ranks:
        for name, found in rank["gradients"].items():
            norm = exact[name].norm()
            rounding = (gradients[name] - exact[name]).norm() / norm
            assert (found - gradients[name]).norm() / norm < max(
                1.5 * rounding, 1e-2
            ), name


@pytest.mark.parametrize("schedule", KINDS)
def test_a_boundary_carries_states_and_one_balance_loss_there_and_back(ran, schedule):
    """Per micro-batch: width numbers a position and one more, in FP32, each way."""
    positions = len(batch()) // 2 // NUM_MICRO * LENGTH
    message = 4 * (positions * CONFIG.d_model + 1)
    crossings = 1 if schedule == "1f1b" else 2  # of a V, also on its way back up
    assert {rank["sent"] for rank in ran(schedule)} == {crossings * NUM_MICRO * message}


def recorded(rank: int, schedule: str, config: ModelConfig):
    """The tape of a step, and the stages whose W exchanges rows."""
    pipeline, tokens = built(config, 2, schedule)
    exchange = set()
    for stage in getattr(pipeline.schedule, "_stages", []):
        weights = stage.backward_weight_one_chunk

        def watched(*args, weights=weights, number=stage.stage_index, **more):
            with comm.metering() as meter:
                weights(*args, **more)
            if meter.calls["all_to_all"]:
                exchange.add(number)

        stage.backward_weight_one_chunk = watched
    with recording(rank, pipeline.share) as recorder:
        pipeline.step(tokens)
    return recorder.tape(), exchange


@pytest.mark.parametrize("schedule", KINDS)
def test_a_recorded_step_plays_and_holds_each_message_once(tapes_of, schedule):
    tapes = tapes_of(schedule)
    timeline = replay(tapes, machines()["scaled_twin"])
    assert all(row.bubble_ps > 0 for row in timeline.summary())
    of = {kind: [] for kind in (Send, Receive, Collective)}
    for tape in tapes:
        for record in tape.records:
            of.setdefault(type(record), []).append((tape.rank, record))
    sent = [(rank, r.peer, r.sequence, r.num_bytes) for rank, r in of[Send]]
    here = [(r.peer, rank, r.sequence, r.num_bytes) for rank, r in of[Receive]]
    crossings = {"1f1b": 1, "zbv": 2, "dualpipev": 2}[schedule]
    assert len(set(sent)) == len(sent) == 2 * 2 * crossings * NUM_MICRO
    assert sorted(sent) == sorted(here)
    counts = [rank for rank, c in of[Collective] if c.name.endswith("counts")]
    layers = [1, 1, 2, 2]  # with experts, on each rank
    assert [counts.count(rank) for rank in range(4)] == [NUM_MICRO * n for n in layers]


@pytest.mark.parametrize("schedule", ["zbv", "dualpipev"])
def test_a_split_backward_repeats_what_functions_of_our_own_do(tapes_of, schedule):
    """torch asks such a function for both gradients in B, and in W for both again."""
    flops = {}
    for name in ("1f1b", schedule):
        kernels = [r for t in tapes_of(name) for r in t.records if type(r) is Kernel]
        flops[name] = sum(kernel.flops for kernel in kernels)
    assert 1.0 < flops[schedule] / flops["1f1b"] < 1.35


def test_weight_gradients_exchange_nothing_but_on_the_very_first_stage(clusters):
    """There, torch leaves the whole backward to W: nobody waits for its input's."""
    assert CONFIG.num_dense_layers == 1  # so the first of four stages has no experts
    ranks = clusters[4].run(recorded, "zbv", CONFIG)
    assert [exchange for _, exchange in ranks] == [set()] * 4
    ranks = clusters[4].run(recorded, "zbv", replace(CONFIG, num_dense_layers=0))
    assert [exchange for _, exchange in ranks] == [{0}, {0}, set(), set()]


@pytest.mark.parametrize("schedule", KINDS)
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_rank_holds_the_stages_that_its_schedule_names(schedule, num_ranks):
    whole = build(schedule, num_ranks, 2 * num_ranks)
    for rank, actions in enumerate(whole.ranks):
        named = {stage for a in actions for _, stage, _ in works(a)}
        assert set(stages_of(schedule, num_ranks, rank)) == named


def refused(rank: int, config: ModelConfig, pp: int, schedule: str, micro: int) -> str:
    places = grid(pp, mesh.world())
    model = build_model(config, places.ep, seed=1)
    try:
        Pipeline(model, places, schedule, micro, (1, LENGTH))
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("change", "schedule", "micro", "message"),
    [
        ({}, "dualpipe", 8, "no pipeline runs by 'dualpipe'; there are: 1f1b, zbv"),
        ({}, "1f1b", 1, "1f1b on 2 ranks wants at least 2 micro-batches, got 1"),
        ({}, "zbv", 2, "zbv on 2 ranks wants at least 3 micro-batches, got 2"),
        ({}, "dualpipev", 3, "dualpipev on 2 ranks wants at least 4 micro-batches"),
        ({"num_layers": 6}, "zbv", 4, "6 layers cannot be cut into 4 equal stages"),
        ({"num_mtp": 1}, "1f1b", 4, "this pipeline has none"),
    ],
)
def test_what_cannot_be_cut_is_refused(clusters, change, schedule, micro, message):
    told = clusters[2].run(refused, replace(CONFIG, **change), 2, schedule, micro)
    assert all(message in words for words in told)


def test_a_grid_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="a pipeline of 2 does not fit 1 ranks"):
        grid(2, mesh.solo())
