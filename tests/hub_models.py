"""Small models for the tests of `hub`, with norms and biases that are not at rest."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tiny_lm.config import MHAConfig, ModelConfig, YarnConfig, tiny, tiny_dense
from tiny_lm.model import LanguageModel

SMALL = replace(
    tiny(),
    num_layers=2,
    d_ffn=72,
    fp8=None,
    num_mtp=1,
    max_len=96,
    init_std=0.08,
    moe=replace(tiny().moe, num_experts=8, d_expert=20, route_scale=2.0),
)
HEADS = MHAConfig(num_heads=4, num_kv_heads=2, d_head=16, rope_theta=500.0)
DENSE = replace(SMALL, num_dense_layers=2, moe=None)
CONFIGS = {
    "mixture and latents": SMALL,
    "queries as they are": replace(
        SMALL, attention=replace(SMALL.attention, d_latent_q=None)
    ),
    "yarn": replace(
        SMALL,
        attention=replace(
            SMALL.attention, yarn=YarnConfig(factor=4.0, original_len=24)
        ),
    ),
    "latents, all layers dense": DENSE,
    "no shared expert": replace(SMALL, moe=replace(SMALL.moe, num_shared=0)),
    "two shared experts": replace(SMALL, moe=replace(SMALL.moe, num_shared=2)),
    "every layer sparse": replace(SMALL, num_dense_layers=0, num_mtp=2),
    "tiny_dense": replace(tiny_dense(), num_layers=2, num_dense_layers=2, num_mtp=1),
    "biases": replace(DENSE, attention=replace(HEADS, qkv_bias=True)),
    "heads and experts": replace(SMALL, attention=HEADS),
}
KINDS = {
    "tiny_dense": "llama",
    "biases": "glm4_moe",
    "heads and experts": "glm4_moe",
}


def made(config: ModelConfig, seed: int = 1) -> LanguageModel:
    """A model in which no vector is all ones or all zeros."""
    model = LanguageModel(config, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    vectors = [p for p in model.parameters() if p.dim() == 1]
    with torch.no_grad():
        for vector in vectors:
            vector += 0.3 * torch.randn(vector.shape, generator=generator)
        for router in model.routers:
            router.bias += 0.1 * torch.randn(router.bias.shape, generator=generator)
    return model


def tokens(config: ModelConfig, rows: int = 2, length: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(config.vocab_size, (rows, length), generator=generator)


def edit_json(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; a change to `...` takes the field out."""
    about = json.loads(path.read_text()) | changes
    about = {name: value for name, value in about.items() if value is not ...}
    path.write_text(json.dumps(about))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, whatever file they are in."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found
