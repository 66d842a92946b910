"""How much a function asks of torch: calls, FLOPs of its products, largest tensor.

Chapter: index
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
