"""Values as they come from a learner's process: a tree of JSON, and bytes of tensors.

Chapter: appendix/teaching
Source: course

Nothing here is ever unpickled. What is no number, text, list or tensor arrives as a
`Foreign`: the name of its type and how it prints.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.complex64,
        torch.complex128,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
DEPTH = 12  # of lists in lists
MANY = 200_000  # values in one tree
TEXT = 20_000  # characters of a text
BITS = 900  # of a whole number; larger ones are infinite
HEAVY = 64_000_000  # bytes of a tensor
LISTED = 10_000  # things that an iterator may give


class Malformed(Exception):
    """What a learner's process sent is not what it was asked for."""


class Foreign:
    """Something that is no data: a check may show it, and refuse it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Several(Foreign):
    """The same, of something that can be gone through."""

    def __init__(self, text: str, items: list[Any]) -> None:
        super().__init__(text)
        self.items = items

    def __iter__(self) -> Any:
        return iter(self.items)


class Sender:
    """Turns values into a tree and a list of bytes.

    Args:
        special: turns what is none of the usual kinds into a node of the tree, or
            gives None; asked first.
    """

    def __init__(self, special: Callable[[Any], list | None]) -> None:
        self.special = special
        self.blobs: list[bytes] = []

    def tree(self, x: Any, depth: int = 0) -> Any:
        """The value as JSON knows it."""
        if x is None or isinstance(x, bool | str):
            return x[:TEXT] if isinstance(x, str) else x
        if type(x) is float or (type(x) is int and x.bit_length() <= BITS):
            return x
        if type(x) is int:
            return ["i", 1 if x > 0 else -1]
        node = self.special(x)
        if node is not None:
            return node
        if isinstance(x, Tensor):
            return self.tensor(x)
        if depth < DEPTH and isinstance(x, tuple | list):
            kind = "t" if isinstance(x, tuple) else "l"
            return [kind, [self.tree(one, depth + 1) for one in x]]
        if depth < DEPTH and isinstance(x, dict):
            pairs = [
                [self.tree(k, DEPTH), self.tree(v, depth + 1)] for k, v in x.items()
            ]
            return ["d", pairs]
        plain = _plain_number(x)
        if plain is not None:
            return self.tree(plain, depth)
        return self._foreign(x, depth)

    def tensor(self, x: Tensor) -> list:
        """Its bytes, shape and dtype, and whether it wants a gradient."""
        if x.layout != torch.strided or x.dtype not in NAMES or x.device.type != "cpu":
            return [
                "?",
                "Tensor",
                f"a tensor of {x.dtype}, {x.layout}, {x.device}",
                None,
            ]
        flat = x.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
        raw = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        self.blobs.append(raw)
        place = len(self.blobs) - 1
        return ["x", place, NAMES[x.dtype], list(x.shape), x.requires_grad]

    def _foreign(self, x: Any, depth: int) -> list:
        items = None
        if depth < DEPTH and isinstance(x, Iterable) and not hasattr(x, "shape"):
            items = []
            for one in x:
                items.append(self.tree(one, depth + 1))
                if len(items) >= LISTED:
                    break
        return ["?", type(x).__name__, repr(x)[:TEXT], items]


def _plain_number(x: Any) -> int | float | bool | None:
    """A number of numpy, or of a class made from int or float, as Python's own."""
    for kind in (bool, int, float):
        if isinstance(x, kind):
            return kind(x)
    item = getattr(x, "item", None)
    if item is not None and getattr(x, "shape", None) == () and "numpy" in str(type(x)):
        return item()
    return None


class Receiver:
    """Turns a tree and its bytes back into values, and trusts neither.

    Args:
        special: what a node of another kind stands for.
    """

    def __init__(
        self, blobs: list[bytes], special: Callable[[str, list], Any] | None = None
    ) -> None:
        self.blobs, self.special = blobs, special
        self.left = MANY

    def value(self, node: Any, depth: int = 0) -> Any:
        """The value of a node.

        Raises:
            Malformed: there is no such value.
        """
        self.left -= 1
        if self.left < 0 or depth > DEPTH + 2:
            raise Malformed("too many values")
        if type(node) is int and node.bit_length() > BITS:
            return math.inf if node > 0 else -math.inf
        if node is None or isinstance(node, bool | int | float):
            return node
        if isinstance(node, str):
            return node[:TEXT]
        if not isinstance(node, list) or not node or not isinstance(node[0], str):
            raise Malformed("no such value")
        try:
            return self._built(node[0], node[1:], depth)
        except (TypeError, ValueError, IndexError, KeyError, RuntimeError) as error:
            raise Malformed(f"no such value: {type(error).__name__}") from None

    def _built(self, kind: str, rest: list, depth: int) -> Any:
        if kind == "x":
            return self.tensor(*rest)
        if kind in ("l", "t"):
            values = [self.value(one, depth + 1) for one in rest[0]]
            return tuple(values) if kind == "t" else values
        if kind == "d":
            return {
                _key(self.value(k, DEPTH)): self.value(v, depth + 1) for k, v in rest[0]
            }
        if kind == "i":
            return math.inf * (1 if rest[0] > 0 else -1)
        if kind == "?":
            name, text, items = rest
            if items is None:
                return _kind(name, Foreign)(str(text)[:TEXT])
            values = [self.value(one, depth + 1) for one in items]
            return _kind(name, Several)(str(text)[:TEXT], values)
        if self.special is None:
            raise Malformed(f"no such value: {kind}")
        return self.special(kind, rest)

    def tensor(self, place: int, dtype: str, shape: list[int], wants: bool) -> Tensor:
        """A tensor whose bytes came along."""
        if (
            type(place) is not int
            or place < 0
            or any(type(n) is not int for n in shape)
        ):
            raise Malformed("no such tensor")
        kind, raw = DTYPES[dtype], self.blobs[place]
        if math.prod(shape) * kind.itemsize != len(raw):
            raise Malformed("the bytes of a tensor do not fit its shape")
        if not raw:
            found = torch.empty(shape, dtype=kind)
        elif kind is torch.bool:  # any byte but 0 and 1 would be no truth value
            found = torch.frombuffer(bytearray(raw), dtype=torch.uint8) != 0
        else:
            found = torch.frombuffer(bytearray(raw), dtype=kind)
        found = found.reshape(shape)
        if wants and (kind.is_floating_point or kind.is_complex):
            found.requires_grad_()
        return found


def _key(x: Any) -> Any:
    if not isinstance(x, str | int | float | bool | None):
        raise Malformed("no such key")
    return x


def _kind(name: Any, base: type) -> type:
    """A class that is called as the learner's is, for messages."""
    text = str(name)[:60]
    return type(text if text.isidentifier() else "object", (base,), {})
