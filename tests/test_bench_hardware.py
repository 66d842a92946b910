"""The script for a Hopper GPU, as far as it goes without one."""

import pytest
import torch

from tiny_lm.course.bench import hardware
from tiny_lm.quantize import Quantizer, quantize_blocks, quantize_tiles


def test_without_a_hopper_gpu_it_says_so(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="needs a Hopper GPU"):
        hardware.main(["--out", str(tmp_path)])


def test_equal_bits_and_distance():
    wanted = torch.tensor([3.0, 4.0])
    found = hardware.same(torch.tensor([3.0, 4.5]), wanted)
    assert found == {"equal": 0.5, "difference": pytest.approx(0.1)}


def test_the_emulated_product_is_that_of_the_values():
    x, w = hardware.sample("normal", 8, 256, 0), hardware.sample("normal", 16, 256, 1)
    q, blocks = Quantizer(), Quantizer(group=(128, 128))
    parts = *quantize_tiles(x, 128), *quantize_blocks(w, 128)
    assert torch.equal(hardware.emulated(*parts), q(x) @ blocks(w).T)


def test_what_the_library_refuses_is_kept_as_it_said_it():
    def refuse():
        raise RuntimeError("not on this chip\nmore")

    found = hardware.attempt("any", refuse)
    assert found == {"case": "any", "refused": "not on this chip"}


def test_both_comparisons_run_and_keep_inputs_beside_outputs(monkeypatch):
    """With the CPU's FP32 product in place of the GPU's."""

    def product(a, b, scale_a, scale_b, fast, dtype):
        if scale_a.dim() == 0:
            return (a.float() @ b.float().T).to(dtype)
        return hardware.emulated(a, scale_a, b, scale_b.T).to(dtype)

    monkeypatch.setattr(hardware, "multiply", product)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(hardware, "WIDTHS", (256,))
    monkeypatch.setattr(hardware, "SIDE", 128)
    keep = {}
    for case in hardware.accumulation(keep) + hardware.scaled(keep):
        assert "refused" not in case
        for model in case["models"].values():
            assert model["difference"] < 0.01
    assert keep["normal-256-e4m3.a"].shape == (8, 256)
    assert keep["normal-256-e4m3.fast"].shape == (8, 8)
    assert keep["normal-256-scaled.sb"].shape == (1, 2)
