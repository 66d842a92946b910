"""The kernels that a GPU runs for one FP8 product, forward and backward.

Chapter: 04_fp8
Source: deepseek_v3, section 3.3

`fp8` emulates them in FP32; here stands what is emulated, so that it can be charged:

                    reads                        writes
    round rows      X, as it comes               codes of X, along the width
    round weight    W in FP32, once a step       codes of W
    fprop           codes of X and of W          Y
    round grad      dY, once                     its codes, along both dims
    dgrad           codes of dY and of W         dX
    round columns   codes of X                   codes of X, along the tokens
    wgrad           codes of dY and of X         dW

A code is one byte, and every tile or block adds a scale of four. The three products
run at the FP8 rate. The others wait for memory alone: their arithmetic counts nothing.

Rows of zeros that pad an expert's rows to whole tiles are not charged. They are not
part of the task, and at the scale of DeepSeek-V3 they are few. To a kernel they are
known by what they are: a token's row is never zero in all places.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm.fake_quantize import ALONG_ROWS, ALONG_TOKENS, Regions
from tiny_lm.kernels import Work, emulation, kernel, listening

SCALE_BYTES = 4


def tile_bytes(num_rows: int, width: int, tile: int) -> int:
    """Codes and scales of a matrix whose tiles lie along the width.

    Tiles that lie along the rows: swap the two.
    """
    return num_rows * (width + SCALE_BYTES * math.ceil(width / tile))


def block_bytes(num_rows: int, width: int, block: int) -> int:
    """Codes and scales of a weight."""
    num_blocks = math.ceil(num_rows / block) * math.ceil(width / block)
    return num_rows * width + SCALE_BYTES * num_blocks


def weight_rounding(
    weight: Float[Tensor, "... M K"], block: int
) -> AbstractContextManager[None]:
    """The kernel that makes a weight's codes; experts' weights in one launch."""
    M, K = weight.shape[-2:]
    experts = math.prod(weight.shape[:-2])
    codes = experts * block_bytes(M, K, block)
    return kernel("round_weight", lambda: Work(0, weight.nbytes + codes, "fp32"))


class ProductKernels:
    """The kernels of one product; each method goes around what emulates it.

    Args:
        ends: where each expert's rows end, for a product grouped by expert; then rows
            of zeros are padding.
    """

    def __init__(
        self,
        rows: Float[Tensor, "R K"],
        weight: Float[Tensor, "... M K"],
        ends: Int[Tensor, " E"] | None,
        tile: int,
        block: int,
    ) -> None:
        self._tile = tile
        self._M, self._K = weight.shape[-2:]
        self._value_bytes = rows.element_size()
        self._experts = math.prod(weight.shape[:-2])
        self._w_bytes = self._experts * block_bytes(self._M, self._K, block)
        self._num_rows = len(rows)
        if listening() and ends is not None:
            with emulation():
                self._num_rows = int(rows.any(dim=1).sum())

    def round_rows(self) -> AbstractContextManager[None]:
        """X to codes along the width."""
        return self._round("round_rows", lambda: self._values(self._K) + self._x_bytes)

    def round_columns(self) -> AbstractContextManager[None]:
        """X's codes to codes along the tokens."""
        return self._round(
            "round_columns", lambda: self._x_bytes + self._along_tokens(self._K)
        )

    def round_gradient(self, regions: Regions) -> AbstractContextManager[None]:
        """dY, read once, to codes along each of the regions."""
        codes = {ALONG_ROWS: self._along_width, ALONG_TOKENS: self._along_tokens}
        return self._round(
            "round_gradient",
            lambda: (
                self._values(self._M)
                + sum(codes[region](self._M) for region in regions)
            ),
        )

    def fprop(self) -> AbstractContextManager[None]:
        """Y = X W^T."""
        return self._product(
            "fprop", lambda: self._x_bytes + self._w_bytes + self._values(self._M)
        )

    def dgrad(self) -> AbstractContextManager[None]:
        """dX = dY W."""
        return self._product(
            "dgrad",
            lambda: self._along_width(self._M) + self._w_bytes + self._values(self._K),
        )

    def wgrad(self) -> AbstractContextManager[None]:
        """dW = dY^T X."""
        return self._product(
            "wgrad",
            lambda: (
                self._along_tokens(self._M)
                + self._along_tokens(self._K)
                + self._experts * self._M * self._K * self._value_bytes
            ),
        )

    @property
    def _x_bytes(self) -> int:
        return self._along_width(self._K)

    def _values(self, width: int) -> int:
        return self._num_rows * width * self._value_bytes

    def _along_width(self, width: int) -> int:
        return tile_bytes(self._num_rows, width, self._tile)

    def _along_tokens(self, width: int) -> int:
        return tile_bytes(width, self._num_rows, self._tile)

    def _round(self, name: str, num_bytes: Callable[[], int]):
        return kernel(name, lambda: Work(0, num_bytes(), "fp32"))

    def _product(self, name: str, num_bytes: Callable[[], int]):
        flops = 2 * self._num_rows * self._K * self._M
        return kernel(name, lambda: Work(flops, num_bytes(), "fp8"))
