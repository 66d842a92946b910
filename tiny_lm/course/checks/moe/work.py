"""How much a function asks of torch: calls, FLOPs of its products, largest tensor.

Chapter: 02_moe/conditional_computation
Source: course

A clock would say something else on every machine; these counts do not.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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


def told(half: Work, whole: Work, fair_flops: int, row: int) -> dict[str, str]:
    """What the work of a layer of experts is like, in words that can be compared.

    Args:
        half: what 64 tokens took, with two choices each.
        whole: what 128 took.
        fair_flops: of the 256 rows that the experts then have to read.
        row: width of the widest row that is needed.
    """
    calls, flops, largest = "no more for twice the tokens", "fair", "of rows"
    if whole.calls > 1.2 * half.calls + 8:
        calls = "grow with the number of tokens"
    if whole.flops > 1.2 * fair_flops:
        flops = "twice as many" if whole.flops < 2.2 * fair_flops else "many times that"
    if whole.largest > 4 * 256 * row:
        largest = "far larger than all rows together"
    return {
        "calls of torch:": calls,
        "FLOPs in products, beside the chosen experts' own:": flops,
        "largest tensor:": largest,
    }
