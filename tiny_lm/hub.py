"""To the rest of the world and back: a model as transformers keeps it.

Chapter: 06_together/into_the_ecosystem
Source: deepseek_v3_code; transformers

    config.json             which architecture, and its numbers: `hub_config`
    model….safetensors      the weights, under released names: `hub_names`, `hub_files`
    tokenizer.json          bytes as tokens: `hub_tokenizer`
    tokenizer_config.json
    generation_config.json

`export` writes such a folder, which others read without any code of ours, and `load`
reads one. What is exported multiplies in full precision, whatever the products it was
trained with: how to multiply is the business of whoever runs it.
"""

from dataclasses import replace
from math import gcd
from pathlib import Path

import torch
from torch import Tensor

from tiny_lm import hub_fields, hub_tokenizer
from tiny_lm.config import FP8Config, ModelConfig
from tiny_lm.files import read_json, to_json, whole_folder, write_whole
from tiny_lm.hub_config import architecture, describe
from tiny_lm.hub_files import SCALE, Weights, in_fp8, save
from tiny_lm.hub_names import Entry, entries
from tiny_lm.model import LanguageModel

SHARD_BYTES = 5 * 10**9
V3_BLOCK = 128  # of released weights, where a model has no size of its own


def export(
    model: LanguageModel,
    folder: Path,
    fp8: bool = False,
    shard_bytes: int = SHARD_BYTES,
    block: int | None = None,
) -> list[Path]:
    """Write a folder that `AutoModelForCausalLM` and `AutoTokenizer` load.

    Args:
        fp8: matrices as E4M3 codes with a scale for each block, as DeepSeek releases
            them; embedding, head, gates and norms stay.
        shard_bytes: what a file of weights does not exceed, unless one tensor does.
        block: rows and columns that share a scale; by default `config.fp8.block`, in
            which training multiplied. `even_block` names one that transformers reads.

    Returns:
        The files of weights.

    Raises:
        ValueError: no stock architecture computes the same, the model's tokens are not
            bytes, or there is something in the folder already.
        OSError: it cannot be written; nothing is left behind.
    """
    config, state = model.config, dict(model.state_dict())
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes must be positive, got {shard_bytes}")
    if block is not None and not fp8:
        raise ValueError("a block is of FP8 codes: ask for fp8 as well")
    if block is not None and block < 1:
        raise ValueError(f"block must be positive, got {block}")
    block = (block or block_of(config)) if fp8 else None
    dtype = str(model.head.weight.dtype).removeprefix("torch.")
    about = describe(config, dtype, block)
    texts = {"config.json": about} | hub_tokenizer.files(config)
    halves = architecture(config) != "deepseek_v3"

    def released():
        for entry in entries(config, halves):
            name, tensor = entry.name, entry.read(state)
            as_codes = block is not None and entry.in_fp8
            yield in_fp8(name, tensor, block) if as_codes else {name: tensor}

    with whole_folder(folder) as draft:
        for name, content in texts.items():
            write_whole(draft / name, to_json(content, indent=2) + "\n")
        paths = save(draft, released(), shard_bytes)
    return [folder / path.name for path in paths]


def block_of(config: ModelConfig) -> int:
    """Rows and columns of a weight that share an FP8 scale, as training has it."""
    return config.fp8.block if config.fp8 else V3_BLOCK


def even_block(config: ModelConfig) -> int:
    """The largest power of two, 128 at most, that cuts every FP8 matrix evenly."""
    common = gcd(V3_BLOCK, *_sides(config))
    return common & -common


def cuts_evenly(config: ModelConfig, block: int) -> bool:
    """Whether no FP8 matrix ends in a smaller block.

    Transformers 5.23 on a CPU divides each side of a matrix by the number of its
    scales. Where the last block is smaller, it refuses the folder or, if the division
    leaves nothing over, misreads it.
    """
    return not any(side % block for side in _sides(config))


def _sides(config: ModelConfig) -> list[int]:
    return [n for e in entries(config, False) if e.in_fp8 for n in e.shape]


def load(folder: Path, fp8: FP8Config | None = None) -> LanguageModel:
    """The model of a folder as transformers and DeepSeek keep it, in FP32.

    Args:
        fp8: how it multiplies; by default in full precision, FP8 weights too.

    Raises:
        ValueError: the folder is not whole, holds pickles, or describes what our model
            does not compute; one line that names the file, and the field or tensor.
    """
    about = hub_fields.read(folder)
    with Weights(folder) as weights, torch.no_grad():
        config = _with_the_modules_held(about.config, weights)
        held = _held(config, about.halves, weights)
        model = LanguageModel(replace(config, fp8=fp8))
        state = dict(model.state_dict())
        for entry in held:
            tensor = weights.read(entry.name, about.block)
            if entry.again:
                _check_equal(folder, entry, state, tensor)
            else:
                entry.write(state, tensor)
        weights.refuse(weights.unread)
    return model.eval()


def _with_the_modules_held(config: ModelConfig, weights: Weights) -> ModelConfig:
    """Files of the model alone, as transformers saves it, still promise modules."""
    first = f"model.layers.{config.num_layers}."
    there = any(name.startswith(first) for name in weights.unread)
    return config if there else replace(config, num_mtp=0)


def _held(config: ModelConfig, halves: bool, weights: Weights) -> list[Entry]:
    """What is to be read, after a look at names and shapes alone."""
    held = []
    for entry in entries(config, halves):
        if entry.name in weights or not entry.again:
            weights.check(entry.name, entry.shape)
            held.append(entry)
    known = {entry.name for entry in held}
    weights.refuse(weights.unread - known - {name + SCALE for name in known})
    return held


def _check_equal(
    folder: Path, entry: Entry, state: dict[str, Tensor], tensor: Tensor
) -> None:
    if not torch.equal(state[entry.ours], tensor.to(state[entry.ours].dtype)):
        raise ValueError(
            f"{folder}: {entry.name} differs from the table that the whole model "
            "uses, and this model shares it"
        )


def is_released(folder: Path) -> bool:
    """Whether a folder is one that `load` would read, not one that `train` left."""
    path = folder / "config.json"
    if not path.is_file():
        return False
    about = read_json(path)
    return isinstance(about, dict) and "model_type" in about


def load_for_bytes(folder: Path) -> LanguageModel:
    """`load`, for whoever reads and writes bytes.

    Raises:
        ValueError: as `load`, or the tokens of the folder are not bytes.
    """
    hub_tokenizer.require_bytes(folder)
    return load(folder)
