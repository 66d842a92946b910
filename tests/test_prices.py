"""Prices: the roofline, the links, whole picoseconds, and figures that are missing."""

from dataclasses import replace

import pytest
from toy_machine import TOY

from tiny_lm.hardware import H100_MEASURED, machine
from tiny_lm.replay.prices import Cost, Prices


def test_a_kernel_takes_its_launch_and_the_slower_of_arithmetic_and_memory():
    prices = Prices(TOY)
    assert prices.kernel_ps(100, 10, "bf16") == 5 + 100  # arithmetic
    assert prices.kernel_ps(100, 80, "bf16") == 5 + 160  # memory
    assert prices.kernel_ps(100, 10, "fp8") == 5 + 50
    assert prices.kernel_ps(0, 0, "bf16") == 5


def test_an_efficiency_is_a_share_of_its_rate():
    slower = Prices(replace(TOY, bf16_efficiency=0.5, memory_efficiency=0.25))
    assert slower.kernel_ps(100, 10, "bf16") == 5 + 200
    assert slower.kernel_ps(1, 10, "bf16") == 5 + 80
    assert slower.kernel_ps(100, 1, "fp8") == 5 + 50
    assert Prices(replace(TOY, fp8_efficiency=0.5)).kernel_ps(100, 1, "fp8") == 105
    links = Prices(replace(TOY, nvlink_efficiency=0.5, network_efficiency=0.1))
    assert (links.bytes_ps(0, 3), links.bytes_ps(1, 3)) == (60, 3000)


def test_ranks_of_a_node_are_neighbours():
    prices = Prices(TOY)
    assert [prices.link(0, rank) for rank in range(4)] == [0, 0, 1, 1]
    assert Prices(replace(TOY, gpus_per_node=4)).link(0, 3) == 0
    assert (prices.bytes_ps(0, 3), prices.bytes_ps(1, 3)) == (30, 300)
    assert (prices.alpha_ps(0), prices.alpha_ps(1)) == (7, 30)


def test_a_picosecond_that_has_begun_counts():
    assert Cost(3 * 10**12).of(1) == 1
    assert Cost(3 * 10**12).of(3) == 1
    assert Cost(3 * 10**12).of(4) == 2


def test_a_product_on_an_h100_takes_what_was_measured():
    real = Prices(machine("h100").achieving(H100_MEASURED))
    seconds = real.kernel_ps(2 * 8192**3, 3 * 2 * 8192**2, "bf16") / 1e12
    assert seconds == pytest.approx(
        2 * 8192**3 / H100_MEASURED.bf16_flops_per_s + H100_MEASURED.launch_s
    )


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda p: p.kernel_ps(1, 1, "fp8"), "fp8_flops_per_s is not known"),
        (lambda p: p.kernel_ps(1, 1, "bf16"), r"replace\(machine, launch_s=…\)"),
        (lambda p: p.kernel_ps(1, 1, "int4"), "int4_flops_per_s is not known"),
        (lambda p: p.bytes_ps(1, 1), "A100.*: network_bytes_per_s is not known"),
        (lambda p: p.alpha_ps(0), "nvlink_alpha_s is not known"),
        (lambda p: p.alpha_ps(1), "network_alpha_s is not known"),
    ],
)
def test_a_figure_that_is_not_known_is_never_guessed(use, message):
    with pytest.raises(ValueError, match=message):
        use(Prices(machine("a100")))


def test_what_a_kernel_does_not_need_may_be_missing():
    no_fp8 = replace(TOY, fp8_flops_per_s=None, network_bytes_per_s=None)
    assert Prices(no_fp8).kernel_ps(0, 10, "fp8") == 25
    assert Prices(no_fp8).bytes_ps(1, 0) == 0
