"""What FP8 saves of memory: each class of tensors, measured on a real step.

Chapter: 04_fp8
Source: deepseek_v3, section 3.3

What the backward pass needs is looked at as it is kept. The emulation holds FP8 values
in FP32; a tensor that its own tiles or blocks hold without loss is counted as codes and
scales, any other as it is. Weights stay four times: as FP8 blocks for the products, as
masters, as gradients and as the two moments of AdamW.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from tiny_lm.config import ModelConfig
from tiny_lm.fp8 import rounded_weight
from tiny_lm.fp8_kernels import block_bytes
from tiny_lm.model import LanguageModel, multiplied_in_fp8
from tiny_lm.parallel.wire import AsIs, fp8_wire
from tiny_lm.quantize import Quantizer, quantize_blocks, quantize_tiles

NEAR = 1e-6  # a rounded value is rounded again to itself, but for a last bit


@dataclass(frozen=True)
class Bytes:
    """Bytes of one class of tensors, in FP32 and with FP8 where the recipe has it."""

    fp32: int
    fp8: int


def memory_classes(
    config: ModelConfig, tokens: Int[Tensor, "B T1"]
) -> dict[str, Bytes]:
    """Bytes by class, of a model and one forward pass over the tokens.

    Raises:
        ValueError: the config has no FP8.
    """
    if config.fp8 is None:
        raise ValueError(f"{config.name} has no fp8: there is nothing to compare")
    model = LanguageModel(config)
    total = sum(p.numel() for p in model.parameters())
    low = multiplied_in_fp8(model)
    in_blocks = sum(_as_blocks(weight, config.fp8.block) for weight in low)
    others = 4 * (total - sum(weight.numel() for weight in low))
    return {
        "weights multiplied": Bytes(4 * total, in_blocks + others),
        "masters": Bytes(0, 4 * sum(weight.numel() for weight in low)),
        "gradients": Bytes(4 * total, 4 * total),
        "moments": Bytes(8 * total, 8 * total),
        "activations": Bytes(
            _activations(LanguageModel(replace(config, fp8=None)), tokens),
            _activations(model, tokens),
        ),
        "a row on the wire": _row(config),
    }


def _activations(model: LanguageModel, tokens: Int[Tensor, "B T1"]) -> int:
    """Bytes that are kept for the backward pass, weights apart."""
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        if not isinstance(x, torch.nn.Parameter) and x.is_floating_point():
            kept[_place(x)] = x.detach()
        return x

    fp8 = model.config.fp8
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model.loss(tokens)
    own = {_place(p) for p in model.parameters()}  # transposed weights too
    kept = {place: x for place, x in kept.items() if place not in own}
    if fp8 is None:
        return sum(x.nbytes for x in kept.values())
    weights = {_place(rounded_weight(w, fp8.block)) for w in multiplied_in_fp8(model)}
    return sum(_held(x, fp8.tile) for n, x in kept.items() if n not in weights)


def _place(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _held(x: Tensor, tile: int) -> int:
    """Bytes of a kept tensor, as FP8 if that loses nothing."""
    if x.dim() != 2 or not x.numel():
        return x.nbytes
    again = Quantizer(group=(1, tile))(x)
    if not torch.allclose(again, x, rtol=NEAR, atol=0):
        return x.nbytes
    return sum(part.nbytes for part in quantize_tiles(x, tile))


def _as_blocks(weight: Tensor, block: int) -> int:
    codes, scales = quantize_blocks(weight.detach(), block)
    found = codes.nbytes + scales.nbytes
    stack = weight.numel() // (weight.shape[-2] * weight.shape[-1])
    assert found == stack * block_bytes(*weight.shape[-2:], block)
    return found


def _row(config: ModelConfig) -> Bytes:
    row = torch.ones(1, config.d_model)
    packings = AsIs(), fp8_wire(config.fp8.tile).to_experts
    return Bytes(*(packing.pack(row).nbytes for packing in packings))
