"""What ranks print, on its way to the caller: whole lines, each with its rank's number.

Chapter: 05_comm/emulated_gpus
Source: course

A rank is a process of its own. What it prints would go to the terminal from which the
notebook was started, not to the cell, and lines of several ranks would cut into each
other. So a rank's output travels to the caller, who prints it: line by line, and what
came within one second in the order of the ranks. A call that takes no longer prints the
same text every time.
"""

import io
import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

# Lines wait this long for those of lower ranks.
HOLD_S = 1.0


class _Wire(io.RawIOBase):
    """A stream whose every write is one message."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def writable(self) -> bool:
        return True

    def write(self, content: memoryview) -> int:
        self.pipe.send_bytes(content)
        return len(content)


def redirect(pipes: Sequence[Connection], by_fd: bool) -> None:
    """Send all that this process prints through two pipes: output, and errors.

    Args:
        by_fd: take the file descriptors, so that C++ and programs started from here
            are heard as well; where that cannot be (Windows), only Python is.
    """
    for number, (name, pipe) in enumerate(
        zip(("stdout", "stderr"), pipes, strict=True)
    ):
        if by_fd:
            os.dup2(pipe.fileno(), number + 1)
            raw = open(number + 1, "wb", buffering=0, closefd=False)
        else:
            raw = _Wire(pipe)
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True
        )
        setattr(sys, name, stream)


class Outlet:
    """The caller's end of one stream of one rank.

    open: more may come
    """

    def __init__(self, pipe: Connection, stream: str, label: str, by_fd: bool) -> None:
        self.pipe, self.stream, self.label, self.by_fd = pipe, stream, label, by_fd
        self.open = True
        self._text = b""

    def read(self) -> None:
        """Take in all that has come, without waiting for more."""
        try:
            while self.open and self.pipe.poll():
                if self.by_fd:
                    content = os.read(self.pipe.fileno(), 1 << 16)
                    self.open = bool(content)
                else:
                    content = self.pipe.recv_bytes()
                self._text += content
        except (EOFError, OSError):
            self.open = False

    def take(self, everything: bool) -> str:
        """The lines that are whole, or everything, each behind the label.

        Without a label the text is handed on as it came. With one, what a line showed
        before it was overwritten (a progress bar) is left out.
        """
        if everything or not self.label:
            text, self._text = self._text, b""
        else:
            end = self._text.rfind(b"\n") + 1
            text, self._text = self._text[:end], self._text[end:]
        if not self.label:
            return text.decode(errors="replace")
        lines = text.decode(errors="replace").split("\n")
        if not lines[-1]:
            lines.pop()
        shown = (line.rstrip("\r").rpartition("\r")[2] for line in lines)
        return "".join(f"{self.label}{line}\n" for line in shown)


class Screen:
    """Prints what comes out of all outlets, in the caller's own streams."""

    def __init__(self, outlets: Sequence[Outlet]) -> None:
        self.outlets = list(outlets)
        self._shown = time.monotonic()

    def restart(self) -> None:
        """A call begins: hold its first lines back for as long as any others."""
        self._shown = time.monotonic()

    @property
    def open_pipes(self) -> list[Connection]:
        """What to wait for."""
        return [outlet.pipe for outlet in self.outlets if outlet.open]

    @property
    def wait_s(self) -> float:
        """How long to wait at most before showing what has come."""
        return max(self._shown + HOLD_S - time.monotonic(), 0.0)

    def show(self, everything: bool = False) -> None:
        """Read, and print what is due; at the end of a call, everything."""
        for outlet in self.outlets:
            outlet.read()
        due = everything or self.wait_s == 0
        if due:
            self._shown = time.monotonic()
        for outlet in self.outlets:
            if due or not outlet.label:
                text = outlet.take(everything)
                if text:
                    stream = getattr(sys, outlet.stream)
                    stream.write(_readable(text, getattr(stream, "encoding", None)))
                    stream.flush()


def _readable(text: str, encoding: str | None) -> str:
    """With escapes for what the caller's console does not know."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
