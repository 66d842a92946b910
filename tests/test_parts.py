"""The parts of a config refuse what contradicts itself."""

import math
from dataclasses import dataclass, replace

import pytest

from tiny_lm.parts import (
    FP8Config,
    MHAConfig,
    MLAConfig,
    MoEConfig,
    require_numbers,
)

MHA = MHAConfig(num_heads=4, num_kv_heads=2, d_head=8)
MLA = MLAConfig(num_heads=2, d_latent_kv=8, d_latent_q=4, d_nope=4, d_rope=2, d_value=4)
MOE = MoEConfig(
    num_experts=8, num_shared=1, top_k=2, d_expert=4, num_groups=4, top_groups=2
)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (MHA, {"num_kv_heads": 3}, "num_kv_heads=3 must divide num_heads=4"),
        (MHA, {"d_head": 7}, "d_head must be even, got 7"),
        (MHA, {"num_heads": 0}, "MHAConfig.num_heads must be positive, got 0"),
        (MLA, {"d_rope": 3}, "d_rope must be even, got 3"),
        (MLA, {"d_latent_q": 0}, "MLAConfig.d_latent_q must be positive, got 0"),
        (MOE, {"num_groups": 3}, "num_groups=3 must divide num_experts=8"),
        (MOE, {"top_groups": 5}, "cannot keep top_groups=5 of num_groups=4"),
        (MOE, {"top_k": 5}, "cannot choose top_k=5 of the 4 experts"),
        (MOE, {"bias_rate": -1.0}, "MoEConfig.bias_rate must not be negative"),
        (FP8Config(), {"tile": 0}, "FP8Config.tile must be positive, got 0"),
    ],
)
def test_a_part_that_cannot_be_is_refused(part, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(part, **changes)


def test_a_head_of_mla_is_as_wide_as_both_its_parts():
    assert MLA.d_qk == 6


@dataclass
class Plain:
    """Of no module that has its types checked in tests."""

    count: int = 1
    rate: float = 0.5
    width: int | None = None
    share: float | None = None
    on: bool = True
    name: str = "plain"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("count", 2.5, "Plain.count must be a whole number, got 2.5"),
        ("count", "4", "Plain.count must be a whole number, got '4'"),
        ("count", True, "Plain.count must be a whole number, got True"),
        ("width", 0.5, "Plain.width must be a whole number, got 0.5"),
        ("rate", math.nan, "Plain.rate must be a finite number, got nan"),
        ("rate", None, "Plain.rate must be a finite number, got None"),
        ("share", math.inf, "Plain.share must be a finite number, got inf"),
        ("on", 1, "Plain.on must be a bool, got 1"),
    ],
)
def test_a_field_that_is_no_number_of_its_kind_is_refused(field, value, message):
    require_numbers(Plain(width=3, share=1))
    with pytest.raises(ValueError, match=message):
        require_numbers(Plain(**{field: value}))
