"""The cost ladder's arithmetic: what a step costs, and how many reach a loss."""

from dataclasses import replace

import pytest
import torch

from tiny_lm import ladder
from tiny_lm.config import tiny, tiny_dense
from tiny_lm.gpus.launch import Cluster
from tiny_lm.hardware import Machine
from tiny_lm.model import LanguageModel
from tiny_lm.moe import LocalDispatcher
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.specs import machines
from tiny_lm.replay.tape import Collective, Kernel, Mark, Tape, Wait
from tiny_lm.runs import save_weights

UNIT = Machine(
    name="one second a byte",
    source="",
    gpus_per_node=2,
    bf16_flops_per_s=1.0,
    memory_bytes_per_s=1.0,
    nvlink_bytes_per_s=1.0,
    network_bytes_per_s=1.0,
    launch_s=0.0,
    nvlink_alpha_s=0.0,
    network_alpha_s=0.0,
)


# --- steps to a loss ---


def power_law(steps: float) -> float:
    return 9.0 * steps**-0.3


@pytest.mark.parametrize("wanted", [400.0, 555.5, 1000.0, 1399.0])
def test_on_a_power_law_the_steps_are_exact(wanted):
    ends = [(n, power_law(n)) for n in (1400, 400, 800)]
    assert ladder.steps_to(power_law(wanted), ends) == pytest.approx(wanted)


def test_with_a_floor_under_the_loss_the_steps_are_nearly_right():
    ends = [(n, 0.6 + power_law(n)) for n in (400, 600, 800, 1000, 1400)]
    assert ladder.steps_to(0.6 + power_law(700), ends) == pytest.approx(700, rel=0.01)


def test_where_noise_crosses_the_level_twice_the_first_time_counts():
    ends = [(100, 2.0), (200, 1.5), (300, 1.8), (400, 1.2)]
    assert ladder.steps_to(1.6, ends) < 200
    flat = [(100, 2.0), (200, 1.5), (400, 1.5)]
    assert ladder.steps_to(1.5, flat) == pytest.approx(200)


@pytest.mark.parametrize(
    ("level", "words"),
    [(1.0, "the most, do not reach 1.0000"), (2.5, "the fewest, end below 2.5000")],
)
def test_nothing_is_extrapolated(level, words):
    with pytest.raises(ValueError, match=words):
        ladder.steps_to(level, [(100, 2.0), (200, 1.5)])


def test_a_line_needs_two_ends():
    with pytest.raises(ValueError, match="two lengths"):
        ladder.steps_to(1.0, [(100, 1.0)])


# --- which model ---


def test_techniques_change_what_they_are_named_after_and_nothing_else():
    names = {"name": "same"}
    assert replace(ladder.combination(()), **names) == replace(tiny_dense(), **names)
    full = ladder.combination(("moe", "mla", "fp8", "overlap"))
    assert replace(full, **names) == replace(tiny(), **names)
    alone = ladder.combination(["mla"])
    assert replace(alone, attention=tiny_dense().attention, **names) == replace(
        tiny_dense(), **names
    )
    assert len(ladder.subsets()) == len(set(ladder.subsets())) == 16
    assert ladder.ORDER[2] == ("moe", "mla") and ladder.ORDER[0] == ()
    with pytest.raises(ValueError, match="no technique .'rope'"):
        ladder.combination(("rope",))


# --- the price of a tape made by hand ---


def tape_by_hand(rank: int) -> Tape:
    """Forward 2 s, backward 3 s, rounding 4 s; gradients 8 bytes; the update 5 s."""
    return Tape(
        rank,
        (
            Kernel("a round_weight", 0, 4),
            Kernel("a fprop", 0, 2),
            Kernel("a dgrad backward", 0, 3),
            Mark(0),
            Wait(0, "comm"),
            Collective("all_reduce", "all_reduce", (8,), (0, 1), 0),
            Mark(1, "comm"),
            Wait(1),
            Kernel("adamw", 0, 5),
        ),
    )


def test_a_step_is_cut_behind_its_backward_pass_and_rounding_counts_once():
    tapes = [tape_by_hand(rank) for rank in (0, 1)]
    price = ladder.price(tapes, 10, UNIT)
    assert price.pass_us == pytest.approx((2 + 3) / 10 * 1e6)
    whole_us = replay(tapes, UNIT).step_ps / 1e6
    assert whole_us == pytest.approx((4 + 2 + 3 + 8 + 5) * 1e6)
    assert price.once_us == pytest.approx(whole_us - 5e6)
    assert price.per_token_us(1, 10) * 10 == pytest.approx(whole_us)
    assert price.per_token_us(5, 10) == pytest.approx(5e5 + price.once_us / 50)
    assert ladder.sent_bytes(tapes) == {"passes": 0, "once": 2 * 8}


def test_a_tape_without_a_backward_pass_has_no_price():
    with pytest.raises(ValueError, match="rank 0 holds no backward pass"):
        ladder.price([Tape(0, (Kernel("a", 0, 1),))], 1, UNIT)


# --- recorded ---


@pytest.fixture(scope="module")
def gpus():
    with Cluster(ladder.NUM_RANKS) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def recorded(gpus):
    wanted = ((), ("moe",), ("moe", "fp8"), ("moe", "overlap"))
    return {
        some: ladder.record(ladder.combination(some), "overlap" in some, gpus=gpus)
        for some in wanted
    }


def test_a_dense_step_sends_gradients_alone_and_a_mixture_sends_rows_in_bf16(recorded):
    dense, sparse, eight = (
        ladder.sent_bytes(recorded[some]) for some in ((), ("moe",), ("moe", "fp8"))
    )
    assert dense["passes"] == 0 < dense["once"]
    rows = [
        sum(r.sent_bytes(tape.rank) for tape in recorded[some] for r in tape.records
            if isinstance(r, Collective) and r.name.endswith("all_to_all"))
        for some in (("moe",), ("moe", "fp8"))
    ]  # fmt: skip
    assert 0 < rows[0] <= sparse["passes"]
    d = tiny().d_model
    # Out and home, each 2 D; in FP8 out in D codes and a scale of 4 for each 32.
    ratio = (d + 4 * d / 32 + 2 * d) / (4 * d)
    assert rows[1] / rows[0] == pytest.approx(ratio, rel=0.02)  # routing differs
    assert eight["once"] == sparse["once"]


def test_fp8_and_turns_make_a_token_cheaper_and_experts_dearer(recorded):
    tokens = ladder.SEQUENCES * ladder.SEQ_LEN
    us = {
        some: ladder.price(tapes, tokens * (2 if "overlap" in some else 1)).pass_us
        for some, tapes in recorded.items()
    }
    assert us[()] < us["moe", "overlap"] < us["moe",]
    assert us["moe", "fp8"] < us["moe",]


def test_the_price_hangs_on_the_machine_and_on_the_hops(recorded):
    tokens = ladder.SEQUENCES * ladder.SEQ_LEN
    tapes = recorded["moe",]
    here, there, series = (
        ladder.price(tapes, tokens, **given).pass_us
        for given in ({}, {"machine": machines()["h800"]}, {"hops": "series"})
    )
    assert there < here / 10 and series > here


def test_what_two_turns_record_is_a_batch_of_two_micro_batches(recorded):
    def products(some):
        kernels = (r for r in recorded[some][0].records if isinstance(r, Kernel))
        return sum(k.flops for k in kernels if k.name.startswith("blocks.0"))

    assert products(("moe", "overlap")) == 2 * products(("moe",))


def test_a_step_is_recorded_from_given_weights_and_on_given_text(gpus, tmp_path):
    config = ladder.combination(("moe",))
    state = LanguageModel(config, seed=0).state_dict()
    for name in state:
        if name.endswith("router.bias"):  # everything to the experts of rank 0
            state[name] = torch.arange(16.0).lt(4) * 10.0
    path = tmp_path / "weights.safetensors"
    save_weights(path, state)
    text = torch.zeros(2, 16, 33, dtype=torch.int64)
    tapes = ladder.record(config, tokens=text, weights=path, gpus=gpus)
    received = [0] * 4
    for call in (r for tape in tapes for r in tape.records):
        if isinstance(call, Collective) and call.name.endswith("ffn all_to_all"):
            received = [a + b for a, b in zip(received, call.num_bytes, strict=True)]
    assert received[0] > 0.4 * sum(received)


def test_each_rank_loads_its_own_experts_and_all_of_the_rest():
    config = ladder.combination(("moe",))
    whole = LanguageModel(config, seed=1).state_dict()
    dispatcher = LocalDispatcher(config.moe.num_experts)
    dispatcher.local_experts = range(4, 8)
    model = LanguageModel(config, dispatcher, seed=0)
    ladder._load_share(model, whole)
    for name, x in model.state_dict().items():
        wanted = whole[name][4:8] if ".experts." in name else whole[name]
        assert torch.equal(x, wanted), name


def test_a_dense_model_has_nothing_to_overlap():
    with pytest.raises(ValueError, match="nothing to hide"):
        ladder.record(ladder.combination(("fp8",)), overlap=True)
