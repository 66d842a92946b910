"""A process that may run anything: what it can reach, and how it ends.

Chapter: teaching
Source: course

Each measure is taken where the system has it, and `Measures.words` says which are. The
outer of two processes makes namespaces and mounts, then waits; the inner one gives up
its rights and runs what it is for. When the inner one ends, or the judge hangs up, the
outer one ends all that is left of it.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tiny_lm.course.grade.spaces import (
    BOUND_DROP,
    DEATH,
    DUMPABLE,
    NO_NEW_PRIVS,
    NODEV,
    NOEXEC,
    NOSUID,
    SUBREAPER,
    Measures,
    call,
    libc,
    loopback,
    mounts,
    prctl,
    unshare,
)

NOBODY = 61_000  # first of the user numbers that learners' processes take


@dataclass
class Limits:
    """What one process may take."""

    memory_bytes: int = 2_000_000_000
    file_bytes: int = 32_000_000
    processes: int = 48
    files: int = 256
    cpu_s: int = 120


@dataclass
class Order:
    """What a new process is for.

    Args:
        hidden: folders that are not there.
        folder: of its own; gone with it.
    """

    kind: str = "worker"
    slot: int = 0
    hidden: list[str] = field(default_factory=list)
    folder: str = ""
    limits: dict = field(default_factory=lambda: asdict(Limits()))
    measures: dict = field(default_factory=dict)
    more: dict = field(default_factory=dict)


def confine(order: Order, life: socket.socket, run: Callable[[], None]) -> None:
    """Run something in a process that is confined; returns never.

    Args:
        life: closed by the other side when the process is to end; we close it when
            nothing is left of it.
    """
    here = Measures(**order.measures)
    os.setsid()
    prctl(DEATH, signal.SIGKILL)
    prctl(SUBREAPER, 1)
    with contextlib.suppress(OSError):
        if here.spaces:
            unshare(here)
            mounts(order.hidden, order.folder)
    inner = os.fork()
    if not inner:
        _inner(here, order, life, run)
    _watch(inner, life)
    os._exit(0)


def _inner(here: Measures, order: Order, life: socket.socket, run: Callable) -> None:
    code = 1
    try:
        life.close()
        os.setsid()
        prctl(DEATH, signal.SIGKILL)
        if here.spaces:
            with contextlib.suppress(OSError):
                call("mount", "proc", "/proc", "proc", NOSUID | NODEV | NOEXEC, 0)
            with contextlib.suppress(OSError):
                loopback()
        _settle(order)
        _give_up(here, order)
        run()
        code = 0
    except BaseException:
        code = 1
    finally:
        os._exit(code)


def _settle(order: Order) -> None:
    """A folder, an environment and limits of its own."""
    os.makedirs(order.folder, mode=0o700, exist_ok=True)
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(environment(order.folder))
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    limits = Limits(**order.limits)
    size = _virtual_bytes() + limits.memory_bytes
    for what, most in (
        ("RLIMIT_AS", size),
        ("RLIMIT_DATA", size),
        ("RLIMIT_FSIZE", limits.file_bytes),
        ("RLIMIT_NOFILE", limits.files),
        ("RLIMIT_CPU", limits.cpu_s),
        ("RLIMIT_CORE", 0),
    ):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            number = getattr(resource, what)
            hard = resource.getrlimit(number)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(number, (most, most))


def environment(folder: str) -> dict[str, str]:
    """All that is in it."""
    return {
        "HOME": folder,
        "TMPDIR": folder,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLCONFIGDIR": folder,
    }


def _virtual_bytes() -> int:
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 4_000_000_000


def _give_up(here: Measures, order: Order) -> None:
    """Rights that no learner's code needs, and the number of processes."""
    user = NOBODY + order.slot
    if here.user:
        os.chown(order.folder, user, user)
        os.setgroups([])
        os.setresgid(user, user, user)
    processes = Limits(**order.limits).processes
    if not (here.user or here.spaces):
        processes += _mine()
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
    if here.user:
        os.setresuid(user, user, user)
    elif here.spaces:
        _drop_capabilities()
    prctl(NO_NEW_PRIVS, 1)
    prctl(DUMPABLE, 0)


def _mine() -> int:
    """Threads that this user has already."""
    count = 0
    for folder in Path("/proc").glob("[0-9]*/task"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == os.getuid():
                count += len(os.listdir(folder))
    return count


def _drop_capabilities() -> None:
    for number in range(41):
        libc().prctl(BOUND_DROP, number, 0, 0, 0)
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    libc().capset(head, (ctypes.c_uint32 * 6)())


def _watch(inner: int, life: socket.socket) -> None:
    """Wait until the inner process has ended, or is to end; then end what is left."""
    life.setblocking(False)
    life.sendall(f"{inner}\n".encode())
    while True:
        if os.waitpid(inner, os.WNOHANG)[0]:
            break
        if select.select([life], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):
                os.kill(inner, signal.SIGKILL)
            os.waitpid(inner, 0)
            break
    for _ in range(200):
        left = [*_children()]
        if not left:
            break
        for one in left:
            with contextlib.suppress(OSError):
                os.kill(one, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _children() -> Iterator[int]:
    """All processes below this one."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            text = stat.read_text()
            parent = int(text.rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(stat.parent.name))
    waiting = [*parents.get(os.getpid(), [])]
    while waiting:
        one = waiting.pop()
        yield one
        waiting += parents.get(one, [])
