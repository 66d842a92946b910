"""Each released tensor has one place in our model, and each place is filled."""

import math
from dataclasses import replace

import pytest
import torch
from hub_models import CONFIGS, SMALL, made

from tiny_lm import costs
from tiny_lm.config import MHAConfig, MLAConfig, ModelConfig, deepseek_v3
from tiny_lm.hub_names import Entry, entries
from tiny_lm.layers import rotary_table, rotate

# As files of DeepSeek-V3 have them; a layer with experts, and one of prediction.
NAMES = """
input_layernorm.weight post_attention_layernorm.weight
self_attn.q_a_proj.weight self_attn.q_a_layernorm.weight self_attn.q_b_proj.weight
self_attn.kv_a_proj_with_mqa.weight self_attn.kv_a_layernorm.weight
self_attn.kv_b_proj.weight self_attn.o_proj.weight
mlp.gate.weight mlp.gate.e_score_correction_bias
mlp.experts.0.gate_proj.weight mlp.experts.0.up_proj.weight
mlp.experts.0.down_proj.weight mlp.shared_experts.gate_proj.weight
mlp.shared_experts.up_proj.weight mlp.shared_experts.down_proj.weight
""".split()
OF_PREDICTION = """
embed_tokens.weight enorm.weight hnorm.weight eh_proj.weight
shared_head.norm.weight shared_head.head.weight
""".split()


def _tiny_heads() -> ModelConfig:
    return ModelConfig(
        name="by hand",
        vocab_size=2,
        d_model=4,
        num_layers=1,
        num_dense_layers=1,
        d_ffn=2,
        attention=MHAConfig(num_heads=2, num_kv_heads=1, d_head=4),
    )


def _find(config: ModelConfig, ending: str, halves: bool) -> Entry:
    (entry,) = (e for e in entries(config, halves) if e.name.endswith(ending))
    return entry


def test_pairs_of_neighbours_become_pairs_half_a_width_apart():
    """Rows 0 1 2 3 of a head, pairs (0, 1) and (2, 3), become 0 2 1 3."""
    state = {
        "blocks.0.attention.q.weight": torch.arange(8.0)[:, None],
        "blocks.0.attention.kv.weight": torch.arange(8.0)[:, None],
    }

    def rows(name: str) -> list[float]:
        return _find(_tiny_heads(), f"{name}_proj.weight", True).read(state).tolist()

    assert sum(rows("q"), []) == [0, 2, 1, 3, 4, 6, 5, 7]
    assert sum(rows("k"), []) == [0, 2, 1, 3]
    assert sum(rows("v"), []) == [4, 5, 6, 7]


def test_only_the_rows_with_a_position_are_moved():
    latents = MLAConfig(
        num_heads=2, d_latent_kv=3, d_latent_q=None, d_nope=1, d_rope=4, d_value=1
    )
    config = replace(_tiny_heads(), attention=latents)
    queries, key = (
        _find(config, f"self_attn.{name}.weight", halves=True)
        for name in ("q_proj", "kv_a_proj_with_mqa")
    )
    assert queries.order == (0, 1, 3, 2, 4, 5, 6, 8, 7, 9)
    assert key.order == (0, 1, 2, 3, 5, 4, 6)
    moved = [e for e in entries(config, halves=True) if e.order]
    assert len(moved) == 2
    assert not [e for e in entries(config, halves=False) if e.order]


def test_rotated_in_halves_the_moved_rows_give_the_same_scores():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 5, 8, generator=generator)
    cos, sin = (table.float() for table in rotary_table(8, 5))
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])

    def by_halves(x):
        first, second = x[:, order].chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    wanted = rotate(q, cos, sin) @ rotate(k, cos, sin).T
    torch.testing.assert_close(by_halves(q) @ by_halves(k).T, wanted)


def test_the_token_comes_before_the_state_in_released_modules():
    config = replace(SMALL, num_mtp=1)
    entry = _find(config, "eh_proj.weight", halves=False)
    d = config.d_model
    ours = torch.arange(2.0 * d).expand(d, -1)  # the state's columns first
    read = entry.read({"mtp.0.mix.weight": ours})
    assert read[0].tolist() == [*range(d, 2 * d), *range(d)]


def test_names_are_those_of_released_files():
    names = {e.name for e in entries(SMALL, halves=False)}
    assert {f"model.layers.1.{name}" for name in NAMES} <= names
    assert {f"model.layers.2.{name}" for name in NAMES + OF_PREDICTION} <= names
    assert "model.layers.0.mlp.gate_proj.weight" in names
    assert {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} < names
    assert not any("model.layers.3." in name for name in names)


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_number_of_a_model_has_one_place_and_finds_its_way_back(name, halves):
    config = CONFIGS[name]
    state = dict(made(config).state_dict())
    counts = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    back = {name: torch.full_like(tensor, torch.nan) for name, tensor in state.items()}
    for entry in entries(config, halves):
        released = entry.read(state)
        assert tuple(released.shape) == entry.shape, entry.name
        if not entry.again:
            counts[entry.ours][entry.part] += 1
            entry.write(back, released)
    assert all((count == 1).all() for count in counts.values())
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_the_names_of_v3_hold_the_published_parameters():
    """671B of the model, 14B more in the files of prediction, 685B in all."""
    model, further, sizes = 0, 0, []
    for entry in entries(replace(deepseek_v3(), num_mtp=1), halves=False):
        size = math.prod(entry.shape)
        if "e_score_correction_bias" in entry.name:
            continue
        if entry.name.startswith("model.layers.61."):
            further += size
            sizes += [] if entry.again else [size]
        else:
            model += size
    assert model == costs.count_parameters(deepseek_v3()).total
    assert round(model / 1e9) == 671 and round((model + further) / 1e9) in (684, 685)
    assert sum(sizes) / 1e9 == pytest.approx(11.5, rel=0.01)  # what is not shared
