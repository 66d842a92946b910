"""A lock between processes that nobody has to clean up: it lies on a file.

Chapter: 05_comm/emulated_gpus
Source: course

A semaphore would stay in the system where a kernel is killed with all its helpers.
"""

from pathlib import Path
from typing import BinaryIO


class FileLock:
    """Held by one process at a time.

    Args:
        path: of a file that exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> None:
        import fcntl  # not on Windows, where semaphores go with their processes

        self._file = self._file or self.path.open("rb")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        import fcntl

        fcntl.flock(self._file, fcntl.LOCK_UN)
