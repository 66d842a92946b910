"""An end to loops that have none, so that a check always comes to a result.

Chapter: 05_comm/pipelines
Source: course
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SECONDS = 2.0  # of this process's own work: waiting for others does not count
LOOKS = 10_000  # at a list, of which no honest use takes a tenth
ENDLESS = "still at work, and no end to be seen"


@contextmanager
def patience(seconds: float = SECONDS) -> Iterator[None]:
    """Interrupt what runs inside once it has worked for so long.

    Windows has no such clock, and only the main thread can be interrupted: elsewhere
    an endless loop is stopped by hand.

    Raises:
        TimeoutError: inside, after `seconds`.
    """
    here = threading.current_thread() is threading.main_thread()
    if not (hasattr(signal, "SIGVTALRM") and here):
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _enough)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _enough(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(ENDLESS)


class Watched(list):
    """A list that has enough of being looked at: most endless loops look at one."""

    looks = 0

    def __iter__(self) -> Iterator[Any]:
        self._look()
        return super().__iter__()

    def __getitem__(self, place: Any) -> Any:
        self._look()
        return super().__getitem__(place)

    def __len__(self) -> int:
        self._look()
        return super().__len__()

    def plain(self) -> list[Any]:
        """What is in it, as ordinary lists."""
        inside = super().__iter__()
        return [x.plain() if isinstance(x, Watched) else x for x in inside]

    def _look(self) -> None:
        self.looks += 1
        if self.looks > LOOKS:
            raise TimeoutError(ENDLESS)
