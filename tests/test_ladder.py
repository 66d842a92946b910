"""The cost ladder's arithmetic: what a step costs, and how many reach a loss."""

from dataclasses import replace

import pytest

from tiny_lm import ladder
from tiny_lm.config import tiny, tiny_dense
from tiny_lm.hardware import Machine
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.tape import Collective, Kernel, Mark, Tape, Wait

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
