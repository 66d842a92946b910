"""A run's folder: what is saved comes back, and what is not a run says so."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiny_lm.config import preset
from tiny_lm.model import LanguageModel
from tiny_lm.runs import (
    METRICS,
    append_metrics,
    load_model,
    load_weights,
    read_metrics,
    save_model,
    save_weights,
)


@pytest.mark.parametrize("name", ["tiny", "tiny_dense"])
def test_a_saved_model_comes_back_the_same(tmp_path, name):
    model = LanguageModel(replace(preset(name), num_mtp=1), seed=3)
    for router in model.routers:
        router.bias += 0.5
    save_model(tmp_path, model.config, model.state_dict(), {"seed": 3})
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_a_folder_without_a_run_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="is not a run: it has no config.json"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="is not a run: it has no metrics.jsonl"):
        read_metrics(tmp_path)


@pytest.fixture
def run(tmp_path):
    model = LanguageModel(preset("tiny_dense"))
    save_model(tmp_path, model.config, model.state_dict(), {})
    (tmp_path / METRICS).write_text('{"step": 1}\n{"step": 2}\n')
    return tmp_path


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _edit(path: Path, change) -> None:
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


DAMAGES = {
    "config.json is cut short or no JSON": lambda f: _cut(f / "config.json"),
    "config.json is not UTF-8": lambda f: (f / "config.json").write_bytes(b"\xff{}"),
    "config.json is not a run of this version: 'model'": lambda f: _edit(
        f / "config.json", lambda about: about.pop("model")
    ),
    "config.json is not a run of this version: not a model config": lambda f: _edit(
        f / "config.json", lambda about: about["model"].update(colour="red")
    ),
    "config.json is not a run of this version: .*num_layers": lambda f: _edit(
        f / "config.json", lambda about: about["model"].update(num_layers="4")
    ),
    "model.safetensors is not a run of .* holds .* and config.json": lambda f: _edit(
        f / "config.json",
        lambda about: (
            about["model"].update(num_layers=10**9)
            or about["model"].update(num_dense_layers=10**9)
        ),
    ),
    "model.safetensors is cut short or no safetensors": lambda f: _cut(
        f / "model.safetensors"
    ),
    "model.safetensors is cut short": lambda f: (f / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1"
    ),
    "model.safetensors is of no use: head.weight is not finite": lambda f: _poison(
        f / "model.safetensors"
    ),
    "model.safetensors is not a run of this version: .*head.weight": lambda f: _rename(
        f / "model.safetensors"
    ),
}


def _poison(path: Path) -> None:
    state = load_weights(path)
    state["head.weight"][3, 4] = float("nan")
    save_weights(path, state)


def _rename(path: Path) -> None:
    state = load_weights(path)
    state["tail.weight"] = state.pop("head.weight")
    save_weights(path, state)


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_run_is_one_line_that_names_file_and_fault(run, message):
    load_model(run)
    DAMAGES[message](run)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(run)
    assert "\n" not in str(caught.value)


def test_metrics_that_were_cut_name_file_and_line(run):
    assert [one["step"] for one in read_metrics(run)] == [1, 2]
    (run / METRICS).write_text('{"step": 1}\n{"ste')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2, is cut short"):
        read_metrics(run)


def test_what_is_no_number_never_becomes_json(run):
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_metrics(run, {"loss": float("nan")})
    assert len(read_metrics(run)) == 2


def test_weights_are_written_whole_or_not_at_all(run, monkeypatch):
    before = (run / "model.safetensors").read_bytes()

    def fill_the_disk(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tiny_lm.runs.save_file", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        save_weights(run / "model.safetensors", {})
    assert (run / "model.safetensors").read_bytes() == before
    assert {p.name for p in run.iterdir()} == {
        "config.json",
        "model.safetensors",
        METRICS,
    }
