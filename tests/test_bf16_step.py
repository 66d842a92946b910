"""V3's step without FP8: the same work in other numbers, and where its time goes."""

import pytest

from tiny_lm.parallel import v3_step
from tiny_lm.parallel.bf16_step import KINDS, bf16_step, kernel_seconds
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.tape import Collective, Kernel

SHORT = {"batch_size": 4096}


@pytest.fixture(scope="module")
def steps():
    return v3_step.deepseek_v3_step(**SHORT), bf16_step(**SHORT)


def kernels(tapes):
    return [r for tape in tapes for r in tape.records if isinstance(r, Kernel)]


def test_the_work_is_the_same_and_nothing_is_in_eight_bits(steps):
    fp8, bf16 = map(kernels, steps)
    assert sum(k.flops for k in fp8) == sum(k.flops for k in bf16)
    assert {k.precision for k in bf16} == {"bf16"}
    assert "fp8" in {k.precision for k in fp8}


def test_only_what_turns_tiles_for_weight_gradients_is_gone(steps):
    fp8, bf16 = map(kernels, steps)
    gone = len(fp8) - len(bf16)
    assert gone == sum(k.name.endswith(" W") for k in fp8) > 0
    for before, after in zip(bf16, bf16[1:], strict=False):
        if after.name.endswith(" W"):
            assert not before.name.endswith(" traffic") or before.flops


def test_rows_leave_in_sixteen_bits(steps):
    def sent(tapes, name):
        return sum(
            sum(r.num_bytes)
            for r in tapes[0].records
            if isinstance(r, Collective) and r.name.endswith(name)
        )

    fp8, bf16 = steps
    assert sent(fp8, "dispatch") / sent(bf16, "dispatch") == pytest.approx(7392 / 14336)
    assert sent(fp8, "combine") == sent(bf16, "combine")


def test_kernels_are_sorted_and_fill_no_more_than_the_step(steps):
    machine = v3_step.machine(reached=0.5)
    for tapes in steps:
        seconds = kernel_seconds(tapes, machine)
        assert tuple(seconds) == KINDS and min(seconds.values()) > 0
        step = replay(tapes, machine, mirror=True).step_ps / v3_step.PS_PER_S
        assert 0.5 * step < sum(seconds.values()) < step


def test_products_gain_by_the_measured_rates_and_the_core_nothing(steps):
    machine = v3_step.machine(reached=0.5)
    fp8, bf16 = (kernel_seconds(tapes, machine) for tapes in steps)
    assert 1.4 < bf16["products"] / fp8["products"] < 1.52
    assert bf16["attention"] == fp8["attention"]
    assert bf16["optimizer"] == fp8["optimizer"]
