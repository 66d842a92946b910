"""A process that has imported all and runs nothing: workers are its copies.

Chapter: appendix/teaching
Source: course

It is started with an empty environment, and its copies know neither the references nor
what else the judge has imported. A request brings two sockets: one to talk, one that
lives as long as the copy.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tiny_lm.course.grade import inside, there
from tiny_lm.course.grade.channel import Channel
from tiny_lm.course.grade.sandbox import Order, confine, environment
from tiny_lm.course.grade.spaces import DEATH, prctl

PATH = [str(Path(__file__).resolve().parents[3])]  # where the course is
START = (
    "import sys; sys.path[:0] = {path!r}; "
    "from tiny_lm.course.grade.zygote import main; "
    "main({fd}, {lab!r}, {reference}, {runs})"
)


def main(fd: int, lab: str, reference: bool, runs: bool) -> None:
    """Serve until nobody can ask any more.

    Args:
        runs: whether whole labs will be run, too.
    """
    prctl(DEATH, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control = socket.socket(fileno=fd)
    if runs:
        inside.import_early()
    _warm(lab, reference)
    control.send(b"ready")
    parent = os.getppid()
    while True:
        if not select.select([control], [], [], 5.0)[0]:
            if os.getppid() != parent:  # nobody is left to ask
                return
            continue
        asked, handles, _, _ = socket.recv_fds(control, 65536, 2)
        if not asked:
            return
        if len(handles) == 2 and os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            _serve(Order(**json.loads(asked)), *map(_socket, handles))
        for handle in handles:
            os.close(handle)


def _socket(handle: int) -> socket.socket:
    return socket.socket(fileno=handle)


def _warm(lab: str, reference: bool) -> None:
    import gc
    import math  # noqa: F401

    import einops  # noqa: F401
    import numpy
    import torch
    from jaxtyping import Float  # noqa: F401

    from tiny_lm.course.grade import worker as worker

    torch.set_num_threads(1)
    numpy.random.get_state()
    there.furnish(lab, reference)
    _import_late(worker.Work)
    gc.collect()
    gc.freeze()


def _import_late(counting: type) -> None:
    """What torch imports only where it is used first: once here, not in each copy."""
    import einops
    import torch
    from torch.nn import functional

    x = torch.ones(2, 2, requires_grad=True)
    with counting():
        y = einops.rearrange(functional.softmax(x @ x, -1), "a b -> b a")
    torch.autograd.grad(y.sum(), [x], allow_unused=True)
    functional.one_hot(torch.tensor([1]), 2)
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(x).sum().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def _serve(order: Order, talk: socket.socket, life: socket.socket) -> None:
    def run() -> None:
        from tiny_lm.course.grade.worker import Worker

        if order.kind == "lab":
            inside.run(Channel(talk), PATH)
            return
        if not order.measures["spaces"]:
            there.watch([os.path.realpath(folder) for folder in order.hidden])
        Worker(Channel(talk)).serve()

    try:
        confine(order, life, run)
    finally:
        os._exit(1)


class Zygote:
    """Starts workers.

    Args:
        reference: whether learners' code finds `tiny_lm`'s own modules.
        runs: whether whole labs will be run, too.
    """

    def __init__(self, lab: str, reference: bool, runs: bool = False) -> None:
        linux = sys.platform == "linux"
        kind = socket.SOCK_SEQPACKET if linux else socket.SOCK_DGRAM
        self.control, theirs = socket.socketpair(socket.AF_UNIX, kind)
        self.folder = tempfile.TemporaryDirectory(
            prefix="grade-", ignore_cleanup_errors=True
        )
        program = START.format(
            path=PATH, fd=theirs.fileno(), lab=lab, reference=reference, runs=runs
        )
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", program],
            pass_fds=[theirs.fileno()],
            env=environment(self.folder.name),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()

    def wait(self) -> None:
        """Until it is warm.

        Raises:
            RuntimeError: it does not start.
        """
        self.control.settimeout(120)
        try:
            came = self.control.recv(16)
        except OSError:
            came = b""
        self.control.settimeout(None)
        if came != b"ready":
            raise RuntimeError("the process that runs learners' code does not start")

    def start(self, order: Order) -> "Started":
        """A new worker."""
        talk, theirs = socket.socketpair()
        life, its = socket.socketpair()
        asked = json.dumps(asdict(order), allow_nan=False).encode()
        socket.send_fds(self.control, [asked], [theirs.fileno(), its.fileno()])
        theirs.close()
        its.close()
        return Started(talk, life)

    def close(self) -> None:
        """End it."""
        self.control.close()
        with contextlib.suppress(OSError):
            self.process.kill()
        self.process.wait()
        self.folder.cleanup()

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class Started:
    """A worker that runs; as a context, it is over at the end, with all it started."""

    def __init__(self, talk: socket.socket, life: socket.socket) -> None:
        self.channel, self.life = Channel(talk), life

    def __enter__(self) -> Channel:
        return self.channel

    def __exit__(self, *_: Any) -> None:
        self.channel.close()
        self.life.settimeout(10)
        with contextlib.suppress(OSError):
            self.life.shutdown(socket.SHUT_WR)
            while self.life.recv(64):
                pass
        self.life.close()
