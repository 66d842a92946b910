"""YaRN's ramp and its scale, by hand; and where a token stands."""

import math

import pytest
import torch

from tiny_lm.layers import rotary_table
from tiny_lm.parts import YarnConfig
from tiny_lm.rope import frequencies, in_force, place, score_boost, yarn_ramp

V3 = YarnConfig(factor=40.0, original_len=4096)


def test_v3_slows_the_slow_pairs_by_forty_and_leaves_the_fast_ones():
    plain, slowed = frequencies(64, 1e4), frequencies(64, 1e4, V3)
    ratio = plain / slowed
    assert torch.allclose(ratio[:11], torch.ones(11).double())
    assert torch.allclose(ratio[-9:], torch.full((9,), 40.0).double())
    assert (ratio.diff() >= 0).all()


def test_the_ramp_starts_where_a_pair_turns_32_times_and_ends_where_it_turns_once():
    ramp = yarn_ramp(64, 1e4, V3)
    turns = 4096 * frequencies(64, 1e4) / (2 * math.pi)
    # Both ends are rounded outward to whole pairs.
    assert turns[ramp == 0].min() > 32 - 8 and turns[int((ramp == 0).sum())] < 32 + 8
    assert turns[ramp == 1].max() < 1.0
    assert turns[int((ramp < 1).sum()) - 1] > 1.0 - 0.3
    assert ((ramp > 0) & (ramp < 1)).sum() == 12


def test_scores_are_sharpened_by_m_squared():
    m = 0.1 * math.log(40) + 1
    assert round(m, 4) == 1.3689
    assert score_boost(V3) == pytest.approx(m**2)
    assert score_boost(None) == 1.0
    assert score_boost(YarnConfig(factor=0.5, original_len=8)) == 1.0


def test_yarn_is_in_force_beyond_the_original_length_only():
    assert in_force(V3, 4097) is V3
    assert in_force(V3, 4096) is None
    assert in_force(None, 10**6) is None


def test_the_betas_set_the_ends_of_the_ramp():
    early = YarnConfig(factor=40.0, original_len=4096, beta_fast=64.0)
    late = YarnConfig(factor=40.0, original_len=4096, beta_slow=0.5)
    assert (yarn_ramp(64, 1e4, early) == 0).sum() < (yarn_ramp(64, 1e4, V3) == 0).sum()
    assert (yarn_ramp(64, 1e4, late) == 1).sum() < (yarn_ramp(64, 1e4, V3) == 1).sum()


def test_a_place_looks_up_ranges_and_given_positions():
    cos, sin = rotary_table(4, 8)
    behind = place(cos, sin, 3, 2)
    assert torch.equal(behind.cos, cos[3:5]) and torch.equal(behind.sin, sin[3:5])
    positions = torch.tensor([[3, 4], [0, 1]])
    given = place(cos, sin, 3, 2, positions)
    assert torch.equal(given.cos[1], cos[:2])
    assert given.per_head[0].shape == (2, 1, 2, 2)


def test_a_position_beyond_the_table_is_refused():
    with pytest.raises(ValueError, match="position 8 lies beyond max_len=8"):
        place(*rotary_table(4, 8), 6, 3)
