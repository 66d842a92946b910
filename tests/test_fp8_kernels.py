"""FP8 products as kernels: which there are, and their bytes, counted by hand."""

import pytest
import torch

from tiny_lm import fp8
from tiny_lm.fp8_kernels import block_bytes, tile_bytes
from tiny_lm.replay.recorder import recording

N, K, M, TILE, BLOCK = 8, 6, 4, 4, 4
X_CODES = 8 * 6 + 4 * 8 * 2  # two tiles a row
W_CODES = 4 * 6 + 4 * 1 * 2  # one row of two blocks
X_COLUMNS = 8 * 6 + 4 * 2 * 6  # two tiles a column
DY_CODES = 8 * 4 + 4 * 8 * 1
DY_COLUMNS = 8 * 4 + 4 * 2 * 4
FLOPS = 2 * N * K * M


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator)


def kernels_of(run):
    with recording(0) as recorder:
        run()
    return {
        record.name.removesuffix(" backward"): record[1:4]
        for record in recorder.tape().records
    }


def test_codes_take_a_byte_and_scales_four():
    assert tile_bytes(N, K, TILE) == X_CODES
    assert tile_bytes(K, N, TILE) == X_COLUMNS
    assert block_bytes(M, K, BLOCK) == W_CODES


def test_forward_and_backward_are_seven_kernels():
    x, weight = normal(N, K).requires_grad_(), normal(M, K).requires_grad_()

    def run():
        fp8.matmul(x, weight, TILE, BLOCK).backward(grad)

    grad = normal(N, M)
    assert kernels_of(run) == {
        "round_rows": (0, 4 * 48 + X_CODES, "fp32"),
        "round_weight": (0, 4 * 24 + W_CODES, "fp32"),
        "fprop": (FLOPS, X_CODES + W_CODES + 4 * 32, "fp8"),
        "round_gradient": (0, 4 * 32 + DY_CODES + DY_COLUMNS, "fp32"),
        "dgrad": (FLOPS, DY_CODES + W_CODES + 4 * 48, "fp8"),
        "round_columns": (0, X_CODES + X_COLUMNS, "fp32"),
        "wgrad": (FLOPS, DY_COLUMNS + X_COLUMNS + 4 * 24, "fp8"),
    }


def test_a_weight_is_rounded_once_until_it_changes():
    x, weight = normal(N, K), normal(M, K)
    run = lambda: fp8.matmul(x, weight, TILE, BLOCK)  # noqa: E731
    assert "round_weight" in kernels_of(run)
    assert list(kernels_of(run)) == ["round_rows", "fprop"]
    weight.mul_(2)
    assert "round_weight" in kernels_of(run)


@pytest.mark.parametrize(
    ("wants", "kernels"),
    [
        ((True, False), {"round_gradient": DY_CODES, "dgrad": None}),
        ((False, True), {"round_gradient": DY_COLUMNS, "wgrad": None}),
    ],
)
def test_only_wanted_gradients_are_charged(wants, kernels):
    x = normal(N, K).requires_grad_(wants[0])
    weight = normal(M, K).requires_grad_(wants[1])
    y, grad = fp8.matmul(x, weight, TILE, BLOCK), normal(N, M)
    found = kernels_of(lambda: y.backward(grad))
    assert found["round_gradient"][1] == 4 * 32 + kernels["round_gradient"]
    assert ("dgrad" in found, "wgrad" in found) == wants


def test_rows_that_pad_an_experts_share_are_not_charged():
    width = 8  # a grouped product wants rows of whole 16 bytes
    rows, weight = normal(N, width), normal(2, M, width).requires_grad_()
    rows[3] = 0  # expert 0 has three rows and one of padding, expert 1 two and two
    rows[6:] = 0
    ends, grad = torch.tensor([4, 8], dtype=torch.int32), normal(N, M)
    rows.requires_grad_()
    found = kernels_of(
        lambda: fp8.grouped(rows, weight, ends, TILE, BLOCK).backward(grad)
    )
    flops = 2 * 5 * width * M
    assert [found[name][0] for name in ("fprop", "dgrad", "wgrad")] == [flops] * 3
    codes = 2 * block_bytes(M, width, BLOCK)
    assert found["fprop"][1] == tile_bytes(5, width, TILE) + codes + 4 * 5 * M
    assert found["round_weight"][1] == 4 * 64 + codes


def test_a_layers_row_of_zeros_is_a_row_like_any_other():
    x = normal(N, K)
    x[0] = 0
    assert kernels_of(lambda: fp8.matmul(x, normal(M, K), TILE, BLOCK))["fprop"][0] == (
        FLOPS
    )


def test_a_recording_that_starts_before_the_backward_pass_hears_it():
    x, weight = normal(N, K).requires_grad_(), normal(M, K).requires_grad_()
    y = fp8.matmul(x, weight, TILE, BLOCK)
    found = kernels_of(lambda: y.backward(normal(N, M)))
    assert found["dgrad"][0] == found["wgrad"][0] == FLOPS
