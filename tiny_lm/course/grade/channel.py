"""Messages between a judge and a worker: a line of JSON, then bytes; with limits.

Chapter: appendix/teaching
Source: course
"""

import json
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

HEADER = 4_000_000  # bytes of JSON in one message
BYTES = 96_000_000  # bytes of tensors in one message
BLOBS = 4_000


class Gone(BaseException):
    """The other side is gone, too slow, or sent what is no message.

    No `except Exception` on the way may take it for a learner's error.

    Args:
        why: "timeout", "ended" or "malformed".
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Channel:
    """One end of a socket."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        connected.setblocking(True)

    def send(
        self, head: dict[str, Any], blobs: Sequence[bytes] = (), until: float = 0.0
    ) -> None:
        """Send a message.

        Args:
            until: when to give up, by `time.monotonic`; 0 is never.

        Raises:
            Gone: nobody takes it.
        """
        head = {**head, "sizes": [len(blob) for blob in blobs]}
        text = json.dumps(head).encode()
        whole = b"".join([struct.pack("!I", len(text)), text, *blobs])
        if not until:
            try:
                self.socket.sendall(whole)
            except OSError:
                raise Gone("ended") from None
            return
        view = memoryview(whole)
        while view:
            self._ready(until, write=True)
            try:
                view = view[self.socket.send(view[:65536], socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                continue
            except OSError:
                raise Gone("ended") from None

    def receive(self, until: float = 0.0) -> tuple[dict[str, Any], list[bytes]]:
        """The next message.

        Raises:
            Gone: there is none.
        """
        (length,) = struct.unpack("!I", self._exactly(4, until))
        if length > HEADER:
            raise Gone("malformed")
        try:
            head = json.loads(self._exactly(length, until))
            sizes = head["sizes"]
            fits = len(sizes) <= BLOBS and all(type(n) is int and n >= 0 for n in sizes)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Gone("malformed") from None
        if not fits or sum(sizes) > BYTES:
            raise Gone("malformed")
        return head, [self._exactly(n, until) for n in sizes]

    def _exactly(self, count: int, until: float) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            if until:
                self._ready(until)
            try:
                came = self.socket.recv(min(count - len(parts), 1 << 20))
            except OSError:
                raise Gone("ended") from None
            if not came:
                raise Gone("ended")
            parts += came
        return bytes(parts)

    def _ready(self, until: float, write: bool = False) -> None:
        left = until - time.monotonic()
        mine = [self.socket]
        found = select.select(
            [] if write else mine, mine if write else [], [], max(0.0, left)
        )
        if left <= 0 or not any(found):
            raise Gone("timeout")

    def close(self) -> None:
        """Hang up."""
        self.socket.close()
