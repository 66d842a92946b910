"""A run's folder: what is saved comes back, and what is not a run says so."""

from dataclasses import replace

import pytest
import torch

from tiny_lm.config import preset
from tiny_lm.model import LanguageModel
from tiny_lm.runs import load_model, read_metrics, save_model


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


def test_a_damaged_run_is_one_clear_error(tmp_path):
    model = LanguageModel(preset("tiny_dense"))
    save_model(tmp_path, preset("tiny"), model.state_dict(), {})
    with pytest.raises(ValueError, match="is not a run of this version"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not a run of this version"):
        load_model(tmp_path)
