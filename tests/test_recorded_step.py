"""A whole training step on tape: FLOPs as in `costs`, bytes as the meter has them."""

import json
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
import torch
from cloudpickle import register_pickle_by_value

from tiny_lm import costs, counts
from tiny_lm.config import ModelConfig, TrainConfig, preset
from tiny_lm.course.bench.training import wide
from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import run_ranks
from tiny_lm.replay import tape
from tiny_lm.replay.match import check
from tiny_lm.replay.tape import Collective, Kernel, Tape
from tiny_lm.step import build_model, build_optimizer, record_step, train_step

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest

SEQUENCES, SEQ_LEN = 4, 64  # over all ranks
TOKENS = SEQUENCES * SEQ_LEN
ATTENTION = ("q", "kv", "q_down", "q_up", "kv_down", "kv_up", "out")


def batch(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(256, (SEQUENCES, SEQ_LEN + 1), generator=generator)


def record(rank: int, config: ModelConfig) -> tuple[Tape, dict[str, int]]:
    """The second step of a fresh model, and what the meter counted in it."""
    group = mesh.world()
    model = build_model(config, group, seed=0)
    optimizer = build_optimizer(model, TrainConfig())
    first, second = (batch(step).chunk(group.size)[rank] for step in (0, 1))
    train_step(model, optimizer, first, group, clip=1.0)
    with comm.metering() as meter:
        _, recorded = record_step(model, optimizer, second, group, clip=1.0)
    return recorded, dict(meter.num_bytes)


def tapes_of(config: ModelConfig, num_ranks: int) -> list[Tape]:
    if num_ranks == 1:
        return [record(0, config)[0]]
    return [recorded for recorded, _ in run_ranks(num_ranks, record, config)]


def part_of(name: str) -> str:
    """The part of `costs` to which a kernel of that name belongs."""
    module, operation = f" {name}".removesuffix(" backward").rsplit(" ", 1)
    path = module.strip().split(".")
    if path[0] == "mtp":
        return "attention_core" if operation == "attention" else "mtp"
    if operation == "attention":
        return "attention_core"
    if path[-1] in ATTENTION and path[-2] == "attention":
        return "attention"
    within = {"experts": "routed_experts", "router": "router", "head": "head"}
    if path[-1] in within:
        return within[path[-1]]
    if "shared" in path:
        return "shared_experts"
    if path[-1] in ("gate_up", "down"):
        return "dense_ffn"
    return "other"


def flops_by_part(tapes: list[Tape]) -> Counter[str]:
    found: Counter[str] = Counter()
    for recorded in tapes:
        for kernel in recorded.records:
            if isinstance(kernel, Kernel) and kernel.flops:
                found[part_of(kernel.name)] += kernel.flops
    return found


def expected_flops(config: ModelConfig) -> dict[str, int]:
    """The closed form, with what only the program can know of prediction modules.

    A module that predicts one more token ahead has one token less in each sequence.
    """
    per_token = counts.forward_flops_by_part(config, SEQ_LEN)
    flops = {part: 3 * TOKENS * per for part, per in per_token.items()}
    del flops["norms"]  # `costs` counts them as products
    later = SEQUENCES * (SEQ_LEN - 1)
    a, layers = config.attention, config.num_layers
    core = counts.attention_core_flops
    flops["attention_core"] = 3 * layers * TOKENS * core(a, SEQ_LEN / 2)
    if config.num_mtp:
        flops["head"] = 3 * 2 * (TOKENS + later) * config.vocab_size * config.d_model
        mtp_core = core(a, (SEQ_LEN - 1) / 2)
        flops["attention_core"] += 3 * later * mtp_core
        norms = counts.norm_parameters(config) + 3 * config.d_model
        linear = counts.count_parameters(config).active_by_part["mtp"] - norms
        flops["mtp"] = 3 * 2 * later * linear
    return {part: value for part, value in flops.items() if value}


CONFIGS = {
    "tiny": preset("tiny"),
    "tiny fp32": replace(preset("tiny"), fp8=None),
    "tiny mtp": replace(preset("tiny"), num_mtp=1),
    "tiny fp32 mtp": replace(preset("tiny"), fp8=None, num_mtp=1),
    "tiny_dense": preset("tiny_dense"),
    "tiny_dense mtp": replace(preset("tiny_dense"), num_mtp=1),
    "wide": wide(),
}
CASES = [(name, 1) for name in CONFIGS]
CASES += [("tiny", 2), ("tiny", 4), ("tiny fp32", 2), ("tiny mtp", 4), ("wide", 2)]


@pytest.mark.parametrize(("name", "num_ranks"), CASES)
def test_flops_are_those_of_the_closed_form_part_by_part(name, num_ranks):
    config = CONFIGS[name]
    found = flops_by_part(tapes_of(config, num_ranks))
    assert found == expected_flops(config)
    total = costs.step_flops(config, SEQUENCES, SEQ_LEN)
    assert found.total() == pytest.approx(total, rel=0.01)


@pytest.fixture(scope="module", params=[2, 4])
def recorded(request):
    return run_ranks(request.param, record, preset("tiny"))


def test_bytes_of_a_step_are_those_of_the_meter(recorded):
    for rank, (one, metered) in enumerate(recorded):
        sent: Counter[str] = Counter()
        for call in one.records:
            if isinstance(call, Collective):
                kind = call.name.removesuffix(" backward").rpartition(" ")[2]
                sent[kind] += call.sent_bytes(rank)
        assert sent == metered
        assert metered["all_to_all"] > 0


def test_ranks_record_steps_that_fit_together(recorded):
    check([one for one, _ in recorded], mirror=False)


def test_products_are_fp8_where_the_model_says_so():
    def precisions(config):
        kernels = (k for k in tapes_of(config, 1)[0].records if isinstance(k, Kernel))
        return {part_of(k.name): k.precision for k in kernels if k.flops}

    fp8 = precisions(preset("tiny"))
    full = {"head", "router", "attention_core"}  # as DeepSeek-V3 has it
    assert {part for part, kind in fp8.items() if kind == "fp32"} == full
    assert set(precisions(CONFIGS["tiny fp32"]).values()) == {"fp32"}


def test_the_same_step_gives_the_same_tape_and_its_file_holds_no_fractions(tmp_path):
    one, same = tapes_of(preset("tiny"), 1) + tapes_of(preset("tiny"), 1)
    assert one == same and one.to_json() == same.to_json()
    one.save(tmp_path / "tape.json")
    assert tape.load(tmp_path / "tape.json") == one

    def refuse(text: str) -> float:
        raise AssertionError(f"{text} is no whole number")

    json.loads(one.to_json(), parse_float=refuse)


def test_a_recorded_step_trains_as_any_other():
    def losses(step_of):
        model = build_model(preset("tiny"), mesh.solo(), seed=0)
        optimizer = build_optimizer(model, TrainConfig())
        return [
            step_of(model, optimizer, batch(n), mesh.solo(), clip=1.0) for n in range(2)
        ]

    assert losses(lambda *a, **k: record_step(*a, **k)[0]) == losses(train_step)


def test_recording_costs_less_than_five_times_the_step():
    model = build_model(preset("tiny"), mesh.solo(), seed=0)
    optimizer = build_optimizer(model, TrainConfig())

    def seconds(step) -> float:
        start = time.perf_counter()
        step(model, optimizer, batch(0), mesh.solo(), clip=1.0)
        return time.perf_counter() - start

    seconds(train_step)
    ratios = sorted(seconds(record_step) / seconds(train_step) for _ in range(5))
    assert ratios[0] < 5  # the best of five; alone on two cores it is about 3
