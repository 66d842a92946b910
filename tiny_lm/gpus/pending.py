"""A collective that is under way: start it now, wait for it later.

Chapter: 05_comm/hiding
Source: torch_distributed

What a rank computes between the start and `wait()` runs beside the transfer. That is
all there is to hiding communication; the rest is to find such work. What travels must
stay as it is until then: its memory is being read.

Two mistakes are told. A second `wait()` finds that the result is gone already. And a
transfer that nobody waited for was for nothing, or worse: the others may still be
reading. So a run that ends with one open is refused.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from tiny_lm.gpus.lines import calling_line, show_line

# Those that this process has not waited for, in the order of their start.
_OPEN: list["Pending"] = []


class Pending:
    """What a started collective will bring.

    Args:
        kind: of the collective, for messages.
        arrive: blocks until the result is there, and returns it.
    """

    def __init__(self, kind: str, arrive: Callable[[], Tensor]) -> None:
        self.kind = kind
        self._arrive: Callable[[], Tensor] | None = arrive
        file, line, _ = calling_line()
        self._place = file, line
        _OPEN.append(self)

    def wait(self) -> Tensor:
        """The result, once it is there.

        Raises:
            RuntimeError: it was waited for before.
        """
        if self._arrive is None:
            raise RuntimeError(
                f"this {self.kind} was waited for already (it was started in "
                f"{self.where}): keep the result of the first wait()"
            )
        arrive, self._arrive = self._arrive, None
        _OPEN.remove(self)
        return arrive()

    @property
    def where(self) -> str:
        """The line that started it."""
        return show_line(*self._place)


def refuse_open() -> None:
    """Make sure that nothing is under way that nobody waited for.

    Raises:
        RuntimeError: something is; names the line that started it.
    """
    if _OPEN:
        first = _OPEN[0]
        more = f", and {len(_OPEN) - 1} more" if len(_OPEN) > 1 else ""
        raise RuntimeError(
            f"nobody waited for the {first.kind} started in {first.where}{more}: "
            "call wait() on what the start returned"
        )


def forget_open() -> None:
    """Begin anew: what an earlier run left open is not the next one's mistake."""
    _OPEN.clear()


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """`refuse_open` at the end of the `with`, if it ends well."""
    forget_open()
    yield
    refuse_open()
