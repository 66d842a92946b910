"""Kinds of layers: the package's own, or others that are handed in."""

from dataclasses import replace

import pytest
from piece_styles import small

from tiny_lm.attention import MultiHeadAttention
from tiny_lm.kinds import OURS, Kinds
from tiny_lm.layers import SwiGLU
from tiny_lm.mla import LatentAttention
from tiny_lm.model import LanguageModel
from tiny_lm.moe import MoE


class OtherHeads(MultiHeadAttention):
    pass


class OtherLatent(LatentAttention):
    pass


class OtherMixture(MoE):
    pass


OTHERS = Kinds(heads=OtherHeads, latent=OtherLatent, mixture=OtherMixture)


@pytest.mark.parametrize(
    "kinds, config, attention, ffn",
    [
        (OURS, "dense", MultiHeadAttention, SwiGLU),
        (OURS, "fp32", LatentAttention, MoE),
        (OTHERS, "dense", OtherHeads, SwiGLU),
        (OTHERS, "fp32", OtherLatent, OtherMixture),
    ],
)
def test_a_model_is_made_of_the_kinds_that_are_handed_in(kinds, config, attention, ffn):
    block = LanguageModel(small(config), kinds=kinds).blocks[-1]
    assert (type(block.attention), type(block.ffn)) == (attention, ffn)


def test_other_kinds_start_from_the_same_weights():
    ours, other = (
        LanguageModel(small("fp32"), kinds=kinds) for kinds in (OURS, OTHERS)
    )
    assert ours.state_dict().keys() == other.state_dict().keys()
    pairs = zip(ours.parameters(), other.parameters(), strict=True)
    assert all((x == y).all() for x, y in pairs)


def test_the_further_token_is_read_by_the_same_kinds():
    model = LanguageModel(replace(small("fp32"), num_mtp=1), kinds=OTHERS)
    assert type(model.mtp[0].block.attention) is OtherLatent
