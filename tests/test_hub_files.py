"""Weights in files: how they are cut into shards, and what broken ones say."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hub_models import SMALL, edit_json, made, tensors_of
from safetensors.torch import load_file, save_file

from tiny_lm import hub
from tiny_lm.__main__ import main
from tiny_lm.hub_files import INDEX, SINGLE, Weights, in_fp8, save

ONES = {name: torch.ones(10) for name in "abcde"}  # 40 bytes each


def _files(folder: Path) -> dict[str, list[str]]:
    return {p.name: sorted(load_file(p)) for p in sorted(folder.glob("*.safetensors"))}


def test_a_file_is_full_before_the_next_one_begins(tmp_path):
    paths = save(tmp_path, ({name: x} for name, x in ONES.items()), shard_bytes=100)
    wanted = {
        "model-00001-of-00003.safetensors": ["a", "b"],
        "model-00002-of-00003.safetensors": ["c", "d"],
        "model-00003-of-00003.safetensors": ["e"],
    }
    assert _files(tmp_path) == wanted
    assert [path.name for path in paths] == list(wanted)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == 200
    assert index["weight_map"]["d"] == "model-00002-of-00003.safetensors"
    assert len(list(tmp_path.iterdir())) == 4  # no draft is left


def test_one_file_needs_no_index(tmp_path):
    paths = save(tmp_path, [ONES], shard_bytes=200)
    assert [path.name for path in paths] == [SINGLE]
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]


def test_what_belongs_together_stays_together_and_may_be_larger_than_a_file(tmp_path):
    pairs = [{"a": ONES["a"], "b": ONES["b"]}, {"c": ONES["c"], "d": ONES["d"]}]
    save(tmp_path, pairs, shard_bytes=60)
    assert list(_files(tmp_path).values()) == [["a", "b"], ["c", "d"]]


def test_codes_are_multiplied_by_their_scale_at_ragged_edges_too(tmp_path):
    """By hand: 448 stands for the largest of each block of 2 x 2, cut at the edge."""
    weight = torch.tensor([[1.0, 2.0, 3.0], [4.0, -8.0, 0.0], [0.5, 0.0, 16.0]])
    save(tmp_path, [in_fp8("w.weight", weight, 2)], shard_bytes=1000)
    held = load_file(tmp_path / SINGLE)
    largest = torch.tensor([[8.0, 3.0], [0.5, 16.0]])
    torch.testing.assert_close(held["w.weight_scale_inv"] * 448, largest)
    assert held["w.weight"].float()[1, 1] == -448
    with Weights(tmp_path) as weights:
        back = weights.read("w.weight", 2)
    torch.testing.assert_close(back, weight, rtol=1 / 16, atol=0)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "released"
    hub.export(made(SMALL), folder, fp8=True, shard_bytes=100_000)
    hub.load(folder)
    return folder


def _shard(folder: Path, number: int = 2) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[number]


def _first_that(folder: Path, fits: Callable[[str], bool]) -> tuple[Path, str]:
    return next(
        (path, name)
        for path in sorted(folder.glob("*.safetensors"))
        for name in load_file(path)
        if fits(name)
    )


def _change(
    folder: Path, ending: str, change: Callable[[torch.Tensor], object]
) -> None:
    """Change a tensor in its file; None takes it out of file and index."""
    path, name = _first_that(folder, lambda name: name.endswith(ending))
    held = load_file(path)
    if (new := change(held.pop(name))) is not None:
        held[name] = new
    elif (folder / INDEX).exists():
        index = json.loads((folder / INDEX).read_text())
        del index["weight_map"][name]
        (folder / INDEX).write_text(json.dumps(index))
    save_file(held, path, metadata={"format": "pt"})


def _add(folder: Path, name: str, tensor: torch.Tensor) -> None:
    path = _shard(folder)
    save_file(load_file(path) | {name: tensor}, path)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][name] = path.name
    (folder / INDEX).write_text(json.dumps(index))


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def _only_a_pickle(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(print))


def _index(folder: Path, **changes) -> None:
    edit_json(folder / INDEX, **changes)


def _map(folder: Path, name: str, file: str) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][name] = file
    (folder / INDEX).write_text(json.dumps(index))


def _twice(folder: Path) -> None:
    path, name = _first_that(folder, lambda name: name == "model.norm.weight")
    other = next(p for p in sorted(folder.glob("*.safetensors")) if p != path)
    save_file(load_file(other) | {name: load_file(path)[name]}, other)


BROKEN = {  # what is said -> what was done
    r"model-00003-of-\d+.safetensors is missing, and .*index.json names it": (
        lambda f: _shard(f).unlink()
    ),
    r"model-00003-of-\d+.safetensors is cut short or no safeten": lambda f: _cut(
        _shard(f)
    ),
    r"model-00003-of-\d+.safetensors is cut short or": lambda f: _shard(f).write_text(
        "version https://git-lfs.github.com/spec/v1"
    ),
    "holds no weights: neither model.safetensors nor": lambda f: [
        path.unlink() for path in f.glob("*.safetensors*")
    ],
    "pytorch_model.bin is a pickle, which runs code when it is read": _only_a_pickle,
    "has model.safetensors and model.safetensors.index.json: which": lambda f: (
        shutil.copy(_shard(f), f / SINGLE)
    ),
    "index.json is cut short or no JSON": lambda f: _cut(f / INDEX),
    "index.json has no weight_map": lambda f: _index(f, weight_map=...),
    r"x.weight is in '\.\./other.safetensors', and not beside it": lambda f: _map(
        f, "x.weight", "../other.safetensors"
    ),
    "x.weight is in 'pytorch_model.bin', and not beside it": lambda f: _map(
        f, "x.weight", "pytorch_model.bin"
    ),
    r"model-00003-of-\d+.safetensors lacks x.weight, against .*index": lambda f: _map(
        f, "x.weight", _shard(f).name
    ),
    r"both hold model.norm.weight": _twice,
    "has no model.layers.0.self_attn.o_proj.weight, which config.json asks": (
        lambda f: _change(f, "0.self_attn.o_proj.weight", lambda x: None)
    ),
    "kv_b_proj.weight has no scale_inv": lambda f: _change(
        f, "kv_b_proj.weight_scale_inv", lambda x: None
    ),
    "q_b_proj.weight is 255 x 64, and config.json says 192 x 64": lambda f: _change(
        f, "q_b_proj.weight", lambda x: torch.zeros(255, 64)
    ),
    r"o_proj.weight: a weight of 128 x 128 has 1 x 1 blocks of 128, got \(2, 1\)": (
        lambda f: _change(f, "o_proj.weight_scale_inv", lambda x: torch.ones(2, 1))
    ),
    "scales of model.* are torch.uint8, not floats": lambda f: _change(
        f, "o_proj.weight_scale_inv", lambda x: torch.ones(1, 1, dtype=torch.uint8)
    ),
    "holds model.layers.1.mlp.extra.weight, which a model of": lambda f: _add(
        f, "model.layers.1.mlp.extra.weight", torch.ones(3)
    ),
    "holds model.layers.3.enorm.weight, which a model of": lambda f: _add(
        f, "model.layers.3.enorm.weight", torch.ones(3)
    ),
    "holds model.norm.weight_scale_inv, which a model of": lambda f: _add(
        f, "model.norm.weight_scale_inv", torch.ones(1, 1)
    ),
    "model.norm.weight is not finite everywhere": lambda f: _change(
        f, "model.norm.weight", lambda x: x * torch.nan
    ),
    "down_proj.weight is not finite everywhere": lambda f: _change(
        f, "mlp.down_proj.weight_scale_inv", lambda x: x * torch.inf
    ),
    "model.norm.weight is torch.int64, and floats are wanted": lambda f: _change(
        f, "model.norm.weight", lambda x: x.long()
    ),
    "is FP8, and config.json has no quantization_config": lambda f: edit_json(
        f / "config.json", quantization_config=...
    ),
    "shared_head.head.weight differs from the table": lambda f: _change(
        f, "shared_head.head.weight", lambda x: x + 1
    ),
    "config.json: vocab_size='256', and a whole number is wanted": lambda f: edit_json(
        f / "config.json", vocab_size="256"
    ),
    "has no model.layers.3.input_layernorm.weight, which config.json": (
        lambda f: edit_json(f / "config.json", num_hidden_layers=10**9)
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_folder_is_one_line_that_says_where(good, tmp_path, message, capsys):
    folder = tmp_path / "released"
    shutil.copytree(good, folder)
    BROKEN[message](folder)
    with pytest.raises(ValueError, match=message) as refused:
        hub.load(folder)
    assert len(str(refused.value).splitlines()) == 1
    assert main(["generate", str(folder), "--prompt", "x"]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"error: {refused.value}\n" and not printed.out


def test_nothing_of_a_pickle_is_run(good, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    folder = tmp_path / "released"
    shutil.copytree(good, folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    hub.load(folder)  # beside safetensors it is left alone
    _only_a_pickle(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="is a pickle"):
        hub.load(folder)
    assert not (tmp_path / "sprung").exists()


def test_tensors_without_a_number_and_other_precisions_are_let_through(good, tmp_path):
    folder = tmp_path / "released"
    shutil.copytree(good, folder)
    wanted = hub.load(folder)
    _add(folder, "model.layers.1.mlp.empty.weight", torch.ones(0, 3))
    for precision in (torch.float64, torch.float16, torch.bfloat16):
        _change(folder, "model.norm.weight", lambda x, p=precision: x.to(p))
    got = hub.load(folder)
    assert torch.equal(got.head.weight, wanted.head.weight)
    rounded = wanted.norm.weight.half().bfloat16().float()
    assert torch.equal(got.norm.weight, rounded)


def test_copies_of_shared_tables_may_be_left_out(good, tmp_path):
    folder = tmp_path / "released"
    shutil.copytree(good, folder)
    for name in ("2.embed_tokens.weight", "2.shared_head.head.weight"):
        _change(folder, name, lambda x: None)
    assert len(hub.load(folder).mtp) == 1
    assert "model.layers.2.embed_tokens.weight" not in tensors_of(folder)
