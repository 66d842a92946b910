"""What one operation of PyTorch costs as a kernel of a GPU.

Chapter: 05_comm/emulated_time
Source: course

FLOPs are those of products of matrices, by torch's own formulas; what is done to each
number once (an addition, a sine) counts as none, since memory sets its time. Bytes are
the sizes of all inputs and all outputs, as if nothing stayed in a cache; a result that
replaces its input is read and written. A gather is charged with the whole table that it
reads from. Views, empty tensors and a number handed to Python cost nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor
from torch._ops import OpOverload
from torch.utils.flop_counter import flop_registry

from tiny_lm.kernels import Work, num_bytes, precision

# They allocate, look, or hand a number over: no kernel runs.
_FREE = {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "_local_scalar_dense",
    "lift_fresh",
    "_unsafe_view",
    "_reshape_alias",
    "resize_",
    "set_",
}
_ONLY_WRITTEN = {"zero_", "fill_", "copy_"}
_NAMESPACES = {"aten", "mkldnn"}  # not profilers, not torch's own collectives

Counter = Callable[[OpOverload, tuple, dict[str, Any], object], Work]


def counter(operation: OpOverload) -> Counter | None:
    """What counts calls of an operation; None: it is no kernel."""
    name = operation.overloadpacket.__name__
    if operation.namespace not in _NAMESPACES or name in _FREE or operation.is_view:
        return None
    return _count


def _count(operation: OpOverload, args: tuple, kwargs: dict, result: object) -> Work:
    out = list(_tensors([kwargs.get("out")]))
    inputs = list(_tensors([*args, *(v for k, v in kwargs.items() if k != "out")]))
    outputs = list(_tensors([result])) or _written(operation, args)
    read = inputs
    if operation.overloadpacket.__name__ in _ONLY_WRITTEN:
        read = inputs[1:]
    floats = (x.dtype for x in [*inputs, *out] if x.is_floating_point())
    return Work(
        flops=_flops(operation, args, kwargs, result),
        num_bytes=num_bytes(*read, *outputs),
        precision=precision(next(floats, None)),
    )


def _flops(operation: OpOverload, args: tuple, kwargs: dict, result: object) -> int:
    name = operation.overloadpacket.__name__
    if name == "_grouped_mm":
        return _grouped_flops(*args[:2])
    if name == "_linear_pointwise":  # oneDNN's product with a transposed matrix
        return 2 * args[0].numel() * args[1].shape[0]
    formula = flop_registry.get(operation.overloadpacket)
    return int(formula(*args, **kwargs, out_val=result)) if formula else 0


def _grouped_flops(a: Tensor, b: Tensor) -> int:
    """Each row meets one matrix; or, both flat, each pair of rows makes an update."""
    return 2 * a.numel() * b.shape[-1]


def _written(operation: OpOverload, args: tuple) -> list[Tensor]:
    """Arguments that an operation without a result changes, as fused optimizers do."""
    pairs = zip(operation._schema.arguments, args, strict=False)
    changed = (x for spec, x in pairs if spec.alias_info and spec.alias_info.is_write)
    return list(_tensors(changed))


def _tensors(values: Iterable) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
