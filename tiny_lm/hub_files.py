"""Weights in files: shards, their index, and FP8 with a scale for each block.

Chapter: 06_together/into_the_ecosystem
Source: deepseek_v3_code; transformers

    model.safetensors                       everything, or
    model-00001-of-00003.safetensors …      shards, and
    model.safetensors.index.json            which tensor is in which of them

An FP8 weight has a companion, `weight_scale_inv`: a number for each block of rows and
columns, by which codes are multiplied. Nothing is ever unpickled: a pickle is a
program, and to read it is to run it.
"""

import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tiny_lm.files import read_json, to_json, write_whole
from tiny_lm.quantize import dequantize_blocks, quantize_blocks

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SCALE = "_scale_inv"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
SHARD = re.compile(r"[\w.-]+\.safetensors")
PLAIN_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def in_fp8(name: str, weight: Tensor, block: int) -> dict[str, Tensor]:
    """A weight as codes, and the scales that they are multiplied by."""
    codes, scales = quantize_blocks(weight, block)
    return {name: codes, name + SCALE: scales}


def save(
    folder: Path, tensors: Iterable[dict[str, Tensor]], shard_bytes: int
) -> list[Path]:
    """Write tensors in their order, into as many files as it takes.

    Args:
        tensors: those of one dictionary stay together.
        shard_bytes: what a file does not exceed, unless what stays together does.

    Returns:
        The files.
    """
    drafts, names, shard = [], [], {}
    total = 0

    def write() -> None:
        drafts.append(folder / f".shard-{len(drafts)}")
        names.append(list(shard))
        try:
            save_file(shard, drafts[-1], metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"cannot write {folder}: {error}") from error
        shard.clear()

    for together in tensors:
        total += _size(together)
        if shard and _size(shard) + _size(together) > shard_bytes:
            write()
        shard |= {name: x.detach().cpu().clone() for name, x in together.items()}
    write()
    return _named(folder, drafts, names, total)


def _named(
    folder: Path, drafts: list[Path], names: list[list[str]], total: int
) -> list[Path]:
    """Give the files the names that say how many there are, and write the index."""
    count = len(drafts)
    numbered = [f"model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
    paths = [folder / name for name in ([SINGLE] if count == 1 else numbered)]
    for draft, path in zip(drafts, paths, strict=True):
        draft.rename(path)
    if count > 1:
        where = zip(paths, names, strict=True)
        weight_map = {name: path.name for path, inside in where for name in inside}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_whole(folder / INDEX, to_json(index, indent=2) + "\n")
    return paths


def _size(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


class Weights:
    """The tensors of a folder, each read when it is asked for.

    Raises:
        ValueError: on opening, a file is missing, torn or a pickle, or files and index
            contradict each other; on reading, a tensor is not what was asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unread: set[str] = set()
        self._files: dict[str, Any] = {}
        self._path: dict[str, Path] = {}
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            index = _index(self.folder)
            for name in sorted(set(index.values())) if index else [SINGLE]:
                self._open(self.folder / name, opened)
            if index:
                self._compare(index)
            self.unread = set(self._path)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def __contains__(self, name: str) -> bool:
        return name in self._path

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """See that a tensor is there and has that shape, without reading it."""
        if name not in self:
            raise ValueError(f"{self.folder} has no {name}, which config.json asks for")
        held = self._files[name].get_slice(name).get_shape()
        if tuple(held) != shape:
            size, wanted = (" x ".join(map(str, s)) for s in (held, shape))
            where = f"{self._path[name]}: {name}"
            raise ValueError(f"{where} is {size}, and config.json says {wanted}")

    def refuse(self, names: set[str]) -> None:
        """Refuse tensors that nobody asked for; those without a number do no harm."""
        for name in sorted(names):
            if 0 not in self._files[name].get_slice(name).get_shape():
                why = "which a model of this config.json does not have"
                raise ValueError(f"{self._path[name]} holds {name}, {why}")

    def read(self, name: str, block: int | None) -> Float[Tensor, "..."]:
        """A tensor, decoded where it is FP8.

        Args:
            block: rows and columns that share a scale; None where no weight is FP8.
        """
        tensor, path = self._tensor(name), self._path[name]
        if tensor.dtype == torch.float8_e4m3fn:
            tensor = self._decoded(name, tensor, block)
        elif tensor.dtype not in PLAIN_DTYPES:
            raise ValueError(f"{path}: {name} is {tensor.dtype}, and floats are wanted")
        if not tensor.isfinite().all():
            raise ValueError(f"{path} is of no use: {name} is not finite everywhere")
        return tensor

    def _decoded(self, name: str, codes: Tensor, block: int | None) -> Tensor:
        path = self._path[name]
        if block is None:
            why = "and config.json has no quantization_config"
            raise ValueError(f"{path}: {name} is FP8, {why}")
        if name + SCALE not in self:
            raise ValueError(f"{self.folder}: the FP8 weight {name} has no {SCALE[1:]}")
        scales = self._tensor(name + SCALE)
        if scales.dtype not in PLAIN_DTYPES:
            raise ValueError(f"{path}: scales of {name} are {scales.dtype}, not floats")
        try:
            return dequantize_blocks(codes, scales.float(), block)
        except ValueError as error:
            raise ValueError(f"{path}: {name}: {error}") from error

    def _compare(self, index: dict[str, str]) -> None:
        for name, file in index.items():
            if name not in self._path or self._path[name].name != file:
                raise ValueError(f"{self.folder / file} lacks {name}, against {INDEX}")
        for name in sorted(set(self._path) - set(index)):
            raise ValueError(f"{self._path[name]} holds {name}, against {INDEX}")

    def _open(self, path: Path, opened: ExitStack) -> None:
        if not path.is_file():
            raise ValueError(f"{path} is missing, and {INDEX} names it")
        try:
            file = opened.enter_context(safe_open(path, "pt"))
        except (SafetensorError, OSError) as error:
            why = f"cut short or no safetensors: {error}"
            raise ValueError(f"{path} is {why}") from error
        for name in file.keys():  # noqa: SIM118
            if name in self._path:
                raise ValueError(f"{path} and {self._path[name]} both hold {name}")
            self._files[name], self._path[name] = file, path

    def _tensor(self, name: str) -> Tensor:
        self.unread.discard(name)
        try:
            return self._files[name].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self._path[name]}: {name}: {error}") from error


def _index(folder: Path) -> dict[str, str] | None:
    """Which file holds which tensor; None where one file holds them all."""
    path, single = folder / INDEX, (folder / SINGLE).exists()
    if path.exists() and single:
        raise ValueError(f"{folder} has {SINGLE} and {INDEX}: which of them is meant?")
    if single:
        return None
    if not path.exists():
        pickles = sorted(p.name for kind in PICKLES for p in folder.glob(kind))
        if pickles:
            why = "a pickle, which runs code when it is read: convert it to safetensors"
            raise ValueError(f"{folder / pickles[0]} is {why}")
        raise ValueError(f"{folder} holds no weights: neither {SINGLE} nor {INDEX}")
    about = read_json(path)
    weight_map = about.get("weight_map") if isinstance(about, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{path} has no weight_map")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not SHARD.fullmatch(file):
            raise ValueError(f"{path}: {name} is in {file!r}, and not beside it")
    return weight_map
