"""A process that may run anything: what it can reach, and how it ends.

Chapter: appendix/teaching
Source: course

Each measure is taken where the system has it, and `Measures.words` says which are. The
outer of two processes makes namespaces and mounts, then waits; the inner one gives up
its rights and runs what it is for. When the inner one ends, or the judge hangs up, the
outer one ends all that is left of it.
"""

import contextlib
import ctypes
import itertools
import os
import resource
import select
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tiny_lm.course.grade.spaces import (
    BOUND_DROP,
    DEATH,
    DUMPABLE,
    NO_NEW_PRIVS,
    NOBODY,
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
        keep: what is there, though a folder above it is hidden.
        folder: of its own; gone with it.
    """

    kind: str = "worker"
    slot: int = 0
    hidden: list[str] = field(default_factory=list)
    keep: list[str] = field(default_factory=list)
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
    if here.spaces:  # found out to work: else it ends here, and nothing is run
        unshare(here)
        mounts(order.hidden, order.folder, order.keep)
    inner = os.fork()
    if not inner:
        _inner(here, order, life, run)
    _watch(inner, life, int(1.5 * Limits(**order.limits).memory_bytes))
    os._exit(0)


def _inner(here: Measures, order: Order, life: socket.socket, run: Callable) -> None:
    code = 1
    try:
        life.close()
        os.setsid()
        prctl(DEATH, signal.SIGKILL)
        if here.spaces:
            _own_processes()
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


def _own_processes() -> None:
    """Let `/proc` show the new namespace, or nothing."""
    for kind in ("proc", "tmpfs"):
        try:
            call("mount", kind, "/proc", kind, NOSUID | NODEV | NOEXEC, 0)
            return
        except OSError:
            continue


def _settle(order: Order) -> None:
    """A folder, an environment and limits of its own."""
    os.makedirs(order.folder, mode=0o700, exist_ok=True)
    os.chdir(order.folder)
    os.environ.clear()
    os.environ.update(environment(order.folder))
    tempfile.tempdir = None  # what the zygote found is not here
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
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
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


def _watch(inner: int, life: socket.socket, most_bytes: int) -> None:
    """Wait until the inner process has ended, or is to end; then end what is left.

    Args:
        most_bytes: that it and all below it may take together.
    """
    life.setblocking(False)
    life.sendall(f"{inner}\n".encode())
    for turn in itertools.count(1):
        if os.waitpid(inner, os.WNOHANG)[0]:
            break
        heavy = turn % 4 == 0 and _memory([inner, *_below(inner)]) > most_bytes
        if heavy or select.select([life], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):
                os.kill(inner, signal.SIGKILL)
            os.waitpid(inner, 0)
            break
    with contextlib.suppress(OSError):
        os.killpg(inner, signal.SIGKILL)  # all there is where no /proc tells more
    for _ in range(200):
        left = [*_below(os.getpid())]
        if not left:
            break
        for one in left:
            with contextlib.suppress(OSError):
                os.kill(one, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _below(process: int) -> Iterator[int]:
    """All processes below one; none where the system does not say."""
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError, ValueError):
            for child in map(int, children.read_text(encoding="ascii").split()):
                yield child
                yield from _below(child)


def _memory(processes: list[int]) -> int:
    """Bytes of these processes, what they share with the zygote counted once."""
    pages = 0
    for one in processes:
        with contextlib.suppress(OSError, ValueError, IndexError):
            _, resident, shared, *_ = (
                Path(f"/proc/{one}/statm").read_text(encoding="ascii").split()
            )
            pages += int(resident) - int(shared)
    return pages * os.sysconf("SC_PAGE_SIZE")
