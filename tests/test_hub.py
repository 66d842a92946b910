"""A model goes out into `transformers` and comes back, and says and writes the same.

Their side is stock: `AutoModelForCausalLM`, `AutoTokenizer`, and their own module of
multi-token prediction. The other way round, models that they made and saved are read.
"""

import contextlib
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_models import (
    CONFIGS,
    DENSE,
    HEADS,
    KINDS,
    SMALL,
    edit_json,
    made,
    tensors_of,
    tokens,
)
from safetensors import SafetensorError
from safetensors.torch import save_file

from tiny_lm import hub, runs
from tiny_lm.__main__ import main
from tiny_lm.config import FP8Config, tiny
from tiny_lm.fake_quantize import fake_quantize_blocks
from tiny_lm.generate import generate
from tiny_lm.model import LanguageModel

ROOT = Path(__file__).resolve().parents[1]
TEXT = "def café(x):\n\treturn  x , 'a'"


def _theirs(folder: Path):
    import transformers

    transformers.logging.set_verbosity_error()  # layers that they leave out
    transformers.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def _write_greedily(theirs, folder: Path, prompt: str, num_bytes: int) -> str:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt")
    new = theirs.generate(**ids, max_new_tokens=num_bytes, do_sample=False)
    return tokenizer.decode(new[0, ids["input_ids"].shape[1] :])


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_computes_what_was_exported_and_load_brings_it_back(
    tmp_path, name
):
    config = CONFIGS[name]
    model, folder = made(config), tmp_path / "released"
    hub.export(model, folder, shard_bytes=200_000)
    assert len(list(folder.glob("*.safetensors"))) > 2
    theirs, back, x = _theirs(folder), hub.load(folder), tokens(config)
    assert theirs.config.model_type == KINDS.get(name, "deepseek_v3")
    with torch.inference_mode():
        wanted = model(x)
        assert wanted.std() > 0.1
        assert (theirs(x).logits - wanted).abs().max() < 1e-5
        assert torch.equal(back(x), wanted)
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    prompt = TEXT[:12]
    written = _write_greedily(theirs, folder, prompt, 24)
    assert written == generate(model, prompt, 24, temperature=1e-6)


def test_the_config_comes_back_too(tmp_path):
    for name, config in CONFIGS.items():
        hub.export(made(config), tmp_path / name)
        back = hub.load(tmp_path / name).config
        if moe := config.moe:  # how it learns is not in the file
            back = replace(back, moe=replace(back.moe, bias_rate=moe.bias_rate))
        assert replace(back, name=config.name) == config
        assert back.name == name


def test_their_module_of_multi_token_prediction_reads_ours(tmp_path):
    from transformers.modeling_layers import MtpModel

    model = made(SMALL)
    hub.export(model, tmp_path / "mtp", shard_bytes=200_000)
    theirs = _theirs(tmp_path / "mtp")
    # They look for V3's layer 61 alone; here it is another number.
    theirs._keys_to_ignore_on_load_unexpected = [r"model\.layers\.2.*"]
    module, x = MtpModel.from_pretrained(theirs), tokens(SMALL)
    with torch.inference_mode():
        h, _ = model.hidden(x[:, :-1])
        wanted = model.mtp[0].norm(model.mtp[0](h, model.embedding(x[:, 1:]))[0])
        places = torch.arange(h.shape[1])[None]
        got = module.forward_layer(0, h, places, None, input_ids=x[:, 1:])
    assert wanted.std() > 0.1
    assert (got - wanted).abs().max() < 1e-5


def _saved_by_them(folder: Path, **changes):
    """A model of theirs, random in all its tensors, in many small files."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    fields = dict(
        vocab_size=256,
        hidden_size=36,
        intermediate_size=52,
        moe_intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=3,
        n_shared_experts=2,
        n_routed_experts=8,
        num_experts_per_tok=4,
        n_group=4,
        topk_group=2,
        first_k_dense_replace=1,
        kv_lora_rank=11,
        q_lora_rank=13,
        qk_rope_head_dim=6,
        qk_nope_head_dim=5,
        v_head_dim=7,
        routed_scaling_factor=1.7,
        max_position_embeddings=64,
        initializer_range=0.02,
        rope_parameters={"rope_type": "default", "rope_theta": 300.0},
    )
    theirs = DeepseekV3ForCausalLM(DeepseekV3Config(**(fields | changes))).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in theirs.state_dict().values():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor += (0.3 if tensor.dim() == 1 else 0.1) * noise
    theirs.save_pretrained(folder, max_shard_size="8KB")
    return theirs


THEIRS = {
    "as V3": {},
    "half-split rotary pairs": {"rope_interleave": False},
    "queries as they are": {"q_lora_rank": None},
    "no group left out": {"n_group": 2, "topk_group": 2, "num_experts_per_tok": 3},
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 300.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        }
    },
}


@pytest.mark.parametrize("name", THEIRS)
def test_a_model_that_they_saved_is_read(tmp_path, name):
    theirs = _saved_by_them(tmp_path, **THEIRS[name])
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    ours, x = hub.load(tmp_path), tokens(SMALL)
    with torch.inference_mode():
        wanted = theirs(x).logits
        assert wanted.std() > 0.1
        assert (ours(x) - wanted).abs().max() < 1e-5


def _to_fp8(folder: Path, block: int) -> dict[str, torch.Tensor]:
    """Rewrite a saved folder as DeepSeek releases weights, in plain loops.

    Returns:
        What each matrix is worth afterwards.
    """
    worth, kept = {}, tensors_of(folder)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    for name, w in list(kept.items()):
        if w.dim() < 2 or "embed" in name or "lm_head" in name or "gate.w" in name:
            kept[name] = w.to(torch.bfloat16)
            worth[name] = kept[name].float()
            continue
        rows, columns = range(0, w.shape[0], block), range(0, w.shape[1], block)
        scales = torch.empty(len(rows), len(columns))
        codes, worth[name] = torch.empty_like(w), torch.empty_like(w)
        for i, top in enumerate(rows):
            for j, left in enumerate(columns):
                here = slice(top, top + block), slice(left, left + block)
                scales[i, j] = w[here].abs().max() / 448
                codes[here] = (w[here] / scales[i, j]).to(torch.float8_e4m3fn).float()
                worth[name][here] = codes[here] * scales[i, j]
        kept[name] = codes.to(torch.float8_e4m3fn)
        kept[name + "_scale_inv"] = scales
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    how = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
    how["weight_block_size"] = [block, block]
    edit_json(folder / "config.json", quantization_config=how)
    return worth


@pytest.mark.parametrize("block", [8, 16, 128])
def test_fp8_weights_with_ragged_blocks_equal_theirs_on_what_they_stand_for(
    tmp_path, block
):
    theirs = _saved_by_them(tmp_path)
    x = tokens(SMALL)
    with torch.inference_mode():
        exact = theirs(x).logits
    worth = _to_fp8(tmp_path, block)
    plain, ours = tmp_path / "plain", hub.load(tmp_path)
    plain.mkdir()
    save_file(worth, plain / "model.safetensors", metadata={"format": "pt"})
    (plain / "config.json").write_text((tmp_path / "config.json").read_text())
    edit_json(plain / "config.json", quantization_config=...)
    with torch.inference_mode():
        wanted = _theirs(plain)(x).logits
        assert (ours(x) - wanted).abs().max() < 1e-5
    assert (wanted - exact).abs().max() > 0.01


@pytest.mark.parametrize("block", [32, 128])
def test_exported_fp8_is_what_training_multiplies(tmp_path, block):
    config = replace(SMALL, fp8=FP8Config(tile=32, block=32) if block == 32 else None)
    model, folder = made(config), tmp_path / "fp8"
    hub.export(model, folder, fp8=True, shard_bytes=100_000)
    held, back = tensors_of(folder), hub.load(folder)
    how = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert how["weight_block_size"] == [block, block]
    plain = [n for n in held if held[n].dtype != torch.float8_e4m3fn]
    plain = [n for n in plain if not n.endswith("scale_inv") and "norm" not in n]
    kinds = {re.sub(r"^model\.(layers\.\d+\.)?", "", name) for name in plain}
    assert kinds == {
        *("embed_tokens.weight", "lm_head.weight", "shared_head.head.weight"),
        *("eh_proj.weight", "mlp.gate.weight", "mlp.gate.e_score_correction_bias"),
    }
    wanted, got = model.state_dict(), back.state_dict()
    for name in ("blocks.0.attention.kv_up.weight", "blocks.1.ffn.experts.down"):
        assert torch.equal(got[name], fake_quantize_blocks(wanted[name], block))
        assert not torch.equal(got[name], wanted[name])
    assert torch.equal(got["mtp.0.mix.weight"], wanted["mtp.0.mix.weight"])
    for name in (name for name in held if held[name].dtype == torch.float8_e4m3fn):
        blocks = [-(-size // block) for size in held[name].shape]
        assert list(held[name + "_scale_inv"].shape) == blocks


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_transformers_reads_exported_fp8_where_blocks_cut_every_matrix_evenly(tmp_path):
    def apart(config, name, block):
        """How far their logits are from ours, with the same FP8 weights."""
        assert hub.cuts_evenly(config, block) == (name == "even")
        folder, x = tmp_path / name, tokens(config)
        hub.export(made(config), folder, fp8=True, block=block)
        with torch.inference_mode():
            theirs, ours = _theirs(folder)(x).logits, hub.load(folder)(x)
            assert (ours - made(config)(x)).abs().max() > 1e-3  # eight bits
            return (theirs - ours).abs().max()

    assert hub.even_block(SMALL) == 4 and hub.even_block(tiny()) == 16
    assert apart(SMALL, "even", 4) < 1e-5
    with pytest.raises(RuntimeError, match="conversion of the weights"):
        apart(SMALL, "refused", 32)  # 80 rows, three scales
    assert apart(replace(DENSE, attention=HEADS), "misread", 32) > 0.1  # 72 rows, three


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A run as `train` leaves it, of a model that multiplies in FP8."""
    folder = tmp_path_factory.mktemp("runs") / "tiny-1"
    folder.mkdir()
    config = replace(SMALL, fp8=FP8Config(tile=32, block=32))
    model = made(config)
    runs.save_model(folder, config, model.state_dict(), {})
    return folder


def test_the_command_exports_a_run_and_generates_from_what_it_exported(
    run_folder, tmp_path, capfdbinary
):
    folder = tmp_path / "released"
    assert main(["export", str(run_folder), str(folder)]) == 0
    told = capfdbinary.readouterr().out.decode()
    assert "bytes of weights in 1 file(s)" in told and "full precision" in told
    for block, noted in (("32", True), ("4", False)):
        eight = ["export", str(run_folder), str(tmp_path / block), "--fp8"]
        assert main([*eight, "--block", block]) == 0
        told = capfdbinary.readouterr().out.decode()
        assert ("it reads what --block 4 writes" in told) == noted
    trained, x = runs.load_model(run_folder), tokens(SMALL)
    plain = LanguageModel(SMALL)
    plain.load_state_dict(trained.state_dict())
    theirs = _theirs(folder)
    with torch.inference_mode():
        assert (theirs(x).logits - plain.eval()(x)).abs().max() < 1e-5
        assert (trained(x) - plain(x)).abs().max() > 1e-3  # eight bits
        again = hub.load(folder, fp8=trained.config.fp8)
        assert torch.equal(again(x), trained(x))
    options = ["--prompt", "def ", "--bytes", "16", "--temperature", "1e-6"]
    assert main(["generate", str(folder), *options]) == 0
    text = "def " + _write_greedily(theirs, folder, "def ", 16)
    printed = capfdbinary.readouterr().out[:-1]
    assert printed.decode(errors="replace") == text


def test_export_needs_no_transformers(run_folder, tmp_path):
    program = (
        "import sys; sys.modules['transformers'] = None; "
        "from tiny_lm.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "export", run_folder, tmp_path / "out"]
    done = subprocess.run(map(str, command), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "config.json").is_file()


def _one_line(capsys) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_folder_with_anything_in_it_stays_as_it_is(run_folder, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    assert main(["export", str(run_folder), str(tmp_path)]) == 2
    assert "is not empty: it holds thesis.tex" in _one_line(capsys)
    assert main(["export", str(run_folder), str(tmp_path / "thesis.tex")]) == 2
    assert "thesis.tex is a file" in _one_line(capsys)
    assert (tmp_path / "thesis.tex").read_text() == "precious"
    assert (
        main(["export", str(run_folder), str(tmp_path / "x"), "--shard-bytes=0"]) == 2
    )
    assert "shard_bytes must be positive, got 0" in _one_line(capsys)
    for options, message in (
        (["--block=32"], "a block is of FP8 codes: ask for fp8 as well"),
        (["--fp8", "--block=0"], "block must be positive, got 0"),
    ):
        assert main(["export", str(run_folder), str(tmp_path / "x"), *options]) == 2
        assert message in _one_line(capsys)
    assert main(["export", str(tmp_path), str(tmp_path / "x")]) == 2
    assert "is not a run: it has no config.json" in _one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("tiny_lm.hub_files.save_file", full)
    with pytest.raises(OSError, match="cannot write .*No space left on device"):
        hub.export(made(DENSE), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_no_stock_model_computes_is_refused_before_anything_is_written(tmp_path):
    odd = replace(SMALL, norm_eps=1e-5)
    with pytest.raises(ValueError, match="no stock architecture computes norm_eps=1e-"):
        hub.export(made(odd), tmp_path / "out")
    few = replace(SMALL, vocab_size=255)
    with pytest.raises(ValueError, match="bytes have 256 values, vocab_size=255"):
        hub.export(made(few), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_lines_on_the_page_run_as_they_stand(tmp_path, monkeypatch):
    page = ROOT / "chapters" / "06_together" / "into_the_ecosystem.md"
    (lines,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    assert "AutoModelForCausalLM" in lines and len(lines.splitlines()) < 10
    model = made(SMALL)
    hub.export(model, tmp_path / "released")
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(lines, {})
    wanted = "def " + generate(model, "def ", 60, temperature=1e-6)
    assert printed.getvalue() == wanted + "\n"
