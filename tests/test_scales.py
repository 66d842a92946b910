"""From a region's largest magnitude to its scale: each rule by hand."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tiny_lm.formats import E2M1, E4M3, E5M2
from tiny_lm.scales import (
    AMAX,
    DEEPSEEK,
    NVFP4,
    OCP_FLOOR,
    ROUND_UP,
    Rule,
    power_of_two_below,
)

RULES = {
    "amax": AMAX,
    "deepseek": DEEPSEEK,
    "up": ROUND_UP,
    "floor": OCP_FLOOR,
    "nvfp4": NVFP4,
}


# --- definition ---


def test_the_two_roundings_to_a_power_of_two_part_where_448_is_passed():
    amax = torch.tensor([256.0, 448.0, 449.0, 511.0, 512.0])
    assert ROUND_UP.scales(amax).tolist() == [1.0, 1.0, 2.0, 2.0, 2.0]
    assert OCP_FLOOR.scales(amax).tolist() == [1.0, 1.0, 1.0, 1.0, 2.0]


def test_a_rule_knows_the_format():
    amax = torch.tensor([6.0, 7.0, 57344.0])
    assert AMAX.scales(amax, E2M1)[0] == 1
    assert ROUND_UP.scales(amax, E2M1)[:2].tolist() == [1.0, 2.0]
    assert OCP_FLOOR.scales(amax, E2M1)[:2].tolist() == [1.0, 1.0]
    assert AMAX.scales(amax, E5M2)[2] == 1


def test_an_nvfp4_scale_is_an_e4m3_number_times_one_for_all():
    amax = torch.tensor([6.0 * 448, 6.0 * 17, 6.0 * 2**-12])
    scales = NVFP4.scales(amax, E2M1)
    assert scales.tolist() == [448.0, 16.0, 2.0**-9]  # 17 is a tie; 2^-12 too small
    assert torch.equal(NVFP4.scales(amax * 3, E2M1), scales * 3)
    part = NVFP4.scales(amax[1:], E2M1, whole=amax.max())
    assert torch.equal(part, scales[1:])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_every_rule_gives_every_region_a_scale_one_can_divide_by(rule):
    assert isinstance(rule, Rule)
    amax = torch.cat([torch.zeros(1), torch.logspace(-45, 38, 200)])
    for to in (E4M3, E5M2, E2M1):
        scales = rule.scales(amax, to)
        assert (scales > 0).all() and scales.isfinite().all()


def test_the_smallest_amax_that_deepseek_knows_is_1e_4():
    assert DEEPSEEK.scales(torch.tensor(1e-9)) == pytest.approx(1e-4 / 448)


class Divisors(TorchDispatchMode):
    """What is divided by."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.div.Tensor:
            self.found.append(args[1])
        return function(*args, **(kwargs or {}))

    def __init__(self):
        super().__init__()
        self.found = []


@pytest.mark.parametrize("rule", [AMAX, ROUND_UP, NVFP4], ids=["amax", "up", "nvfp4"])
def test_no_rule_divides_by_a_plain_number_for_a_gpu_would_multiply(rule):
    with Divisors() as divisors:
        rule.scales(torch.rand(8))
    assert divisors.found
    assert all(isinstance(by, torch.Tensor) for by in divisors.found)


# --- equivalence ---


def test_powers_of_two_equal_logarithms():
    amax = torch.logspace(-30, 30, 5000, dtype=torch.float64).float()
    log = amax.double().log2()
    assert torch.equal(OCP_FLOOR.scales(amax).double(), 2 ** (log.floor() - 8))
    up = 2 ** (amax.double() / 448).log2().ceil()
    assert torch.equal(ROUND_UP.scales(amax).double(), up)
    assert torch.equal(power_of_two_below(amax).double(), 2 ** log.floor())


def test_only_the_rules_that_may_cut_off_say_so():
    amax = torch.logspace(-3, 3, 1000)
    for name, rule in RULES.items():
        over = (amax / rule.scales(amax)).max() > E4M3.largest * (1 + 1e-6)
        assert bool(over) == rule.cuts_off, name
