"""Formats of eight and four bits: by hand, and against the casts of two libraries."""

import math

import pytest
import torch

from tiny_lm.formats import (
    E2M1,
    E4M3,
    E5M2,
    FORMATS,
    all_codes,
    bits_of,
    decode,
    encode,
    round_to,
)

formats = pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS.keys())


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- definition ---


def test_the_codes_of_e2m1_are_sixteen_numbers():
    values = decode(all_codes(E2M1), E2M1).tolist()
    positive = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    assert values == positive + [-x for x in positive]
    assert math.copysign(1, values[8]) == -1


def test_ties_go_to_the_even_code_and_what_is_too_large_to_the_largest():
    x = torch.tensor([0.25, 0.75, 1.25, 2.5, 5.0, 5.1, 100.0, -0.3, -7.0])
    wanted = [0.0, 1.0, 1.0, 2.0, 4.0, 6.0, 6.0, -0.5, -6.0]
    assert round_to(x, E2M1).tolist() == wanted
    assert decode(encode(x, E2M1), E2M1).tolist() == wanted
    assert bits_of(encode(torch.tensor([6.0, -0.5]), E2M1)).tolist() == [7, 9]


@formats
def test_a_format_says_its_own_limits(fmt):
    values = decode(all_codes(fmt), fmt)
    finite = values[values.isfinite()]
    assert finite.max() == fmt.largest
    positive = finite[finite > 0].sort().values
    assert positive[0] == fmt.smallest_subnormal
    assert fmt.smallest_normal in positive.tolist()
    assert len(values) == 2 * fmt.sign_bit


# --- equivalence ---


@formats
def test_a_code_is_the_code_of_its_own_value(fmt):
    codes = all_codes(fmt)
    finite = decode(codes, fmt).isfinite()
    again = encode(decode(codes, fmt), fmt)
    assert torch.equal(bits_of(again)[finite], bits_of(codes)[finite])


@pytest.mark.parametrize("fmt", [E4M3, E5M2], ids=["e4m3", "e5m2"])
def test_codes_are_those_of_torch(fmt):
    values = decode(all_codes(fmt), fmt)
    assert torch.equal(values.nan_to_num(), all_codes(fmt).float().nan_to_num())
    x = normal(1_000_000) * torch.logspace(-10, 7, 1_000_000, base=2)
    x = x.clamp(-fmt.largest, fmt.largest)
    assert torch.equal(bits_of(encode(x, fmt)), bits_of(x.to(fmt.dtype)))
    assert torch.equal(round_to(x, fmt), x.to(fmt.dtype).float())
