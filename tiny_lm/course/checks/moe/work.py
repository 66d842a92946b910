"""How much a function asks of torch: calls, FLOPs of its products, largest tensor.

Chapter: 02_moe/conditional_computation
Source: course

A clock would say something else on every machine; these counts do not.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tiny_lm.course.checks.before.expect import Mismatch, show

# Where a product's first matrix stands among its arguments.
PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "_grouped_mm": 0, "addmm": 1}
PRODUCTS |= {"addmv": 1, "addbmm": 1, "baddbmm": 1}


class Work(TorchDispatchMode):
    """Counts what happens while it is entered.

    `calls` of torch, of whatever kind; `flops` of matrix products, two for each
    multiply and add; `largest` is the size of the largest result, in numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.flops = self.largest = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
            name = func._schema.name.removeprefix("aten::")
            if name in PRODUCTS:
                inner = args[PRODUCTS[name]].shape[-1]
                self.flops += 2 * result.numel() * inner
        return result


def refuse_waste(half: Work, whole: Work, fair_flops: int, row: int) -> None:
    """Refuse loops over tokens, products for nothing and copies of matrices.

    Args:
        half: what 64 tokens took, with two choices each.
        whole: what 128 took.
        fair_flops: of the 256 rows that the experts then have to read.
        row: width of the widest row that is needed.

    Raises:
        Mismatch: something is wasted.
    """
    on = "64 tokens, then 128, two choices each; 4 experts, each with its fair share"
    if whole.calls > 1.2 * half.calls + 8:
        wanted = "as many calls of torch for 128 tokens as for 64"
        got = f"{half.calls:,} for 64, {whole.calls:,} for 128"
        raise Mismatch(on, wanted, got, LOOP)
    if whole.flops > 1.2 * fair_flops:
        wanted = f"{fair_flops:,} FLOPs in products, for 128 tokens"
        got = f"{whole.flops:,}, {show(whole.flops / fair_flops)} times as many"
        because = DENSE if whole.flops < 2.2 * fair_flops else MOVED
        raise Mismatch(on, wanted, got, because)
    if whole.largest > 4 * 256 * row:
        wanted = f"256 rows of 2 F = {row}, and no tensor much larger"
        raise Mismatch(on, wanted, f"one of {whole.largest:,} numbers", COPIES)


LOOP = (
    "This is a loop over tokens: right, and slow, because each call takes its time "
    "however little it does. Let each expert read all its tokens at once."
)
DENSE = (
    "Tokens were sent through experts that they did not choose, only to be weighed "
    "with 0. What makes a mixture cheap is not to compute those at all."
)
MOVED = (
    "There are more products than the experts' own. To bring tokens to their experts "
    "and back takes no product: indices do it."
)
COPIES = (
    "Matrices were copied for each token, as gate_up[experts] does. An expert's matrix "
    "is large and its tokens are many: bring the tokens to the matrix."
)
