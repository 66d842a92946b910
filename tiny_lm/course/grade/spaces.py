"""Namespaces and mounts of Linux: what a process can see, and what works here.

Chapter: appendix/teaching
Source: course
"""

import contextlib
import ctypes
import functools
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

NEWNS, NEWUTS, NEWIPC = 0x20000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
SPACES = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT = 1, 2, 4, 8, 32
BIND, REC, PRIVATE = 4096, 16384, 1 << 18
DEATH, DUMPABLE, SUBREAPER, NO_NEW_PRIVS, BOUND_DROP = 1, 4, 36, 38, 24
NOBODY = 61_000  # first of the user numbers that learners' processes take
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")
PRIVATE_FOLDERS = ("/home", "/root", "/run", "/var/run")


@dataclass
class Measures:
    """What this system has to keep a process apart."""

    spaces: bool = False  # of its own: processes, mounts, network
    user_space: bool = False  # made by an ordinary user
    user: bool = False  # another user number
    linux: bool = False

    def words(self) -> list[str]:
        """For the instructor, at the start."""
        found = ["a session, an empty environment and limits of its own"]
        if self.spaces:
            found.append("no network, no sight of other processes, a read-only disk")
        else:
            found.append("NO namespaces here: network and disk can be reached")
        if self.user:
            found.append("a user number that owns nothing")
        return found


@functools.cache
def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    given = [x.encode() if isinstance(x, str) else x for x in arguments]
    if getattr(libc(), name)(*given) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def prctl(option: int, value: int) -> None:
    """Say something about this process, where the system listens."""
    if sys.platform == "linux":
        libc().prctl(option, value, 0, 0, 0)


def unshare(measures: Measures) -> None:
    """Leave the namespaces of all others.

    Raises:
        OSError: the system does not let us.
    """
    if measures.user_space:
        user, group = os.geteuid(), os.getegid()
        call("unshare", NEWUSER | SPACES)
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1", encoding="ascii")
    else:
        call("unshare", SPACES)


@functools.cache
def measures() -> Measures:
    """What works here, found out by trying."""
    found = Measures(linux=sys.platform == "linux")
    if not found.linux:
        return found
    root = os.geteuid() == 0
    for user_space in (False, True) if root else (True,):
        one = Measures(spaces=True, user_space=user_space, linux=True)
        if _works(lambda one=one: (unshare(one), mounts([], ""))):
            found = one
            break
    found.user = root and not found.user_space and _works(lambda: _as_nobody(found))
    return found


def _as_nobody(here: Measures) -> None:
    """See as another user what is needed.

    Raises:
        OSError: it cannot.
    """
    if here.spaces:
        unshare(here)
        mounts([], "")
    os.setresuid(NOBODY, NOBODY, NOBODY)
    for file in (os.__file__, ctypes.__file__, functools.__file__, torch.__file__):
        Path(file).read_bytes()
    os.listdir(sys.prefix)


def _works(tried: Callable[[], object]) -> bool:
    child = os.fork()
    if not child:
        try:
            tried()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def loopback() -> None:
    """Switch on the network inside the machine, which kernels of notebooks need."""
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        up = struct.pack("16sh", b"lo", 1 | 64)
        fcntl.ioctl(one.fileno(), 0x8914, up)


def mounts(hidden: list[str], folder: str, keep: Sequence[str] = ()) -> None:
    """A disk that can be read only, without what is hidden or private.

    Args:
        hidden: folders that are not there.
        folder: to write into.
        keep: what is there, though a folder above it is hidden.
    """
    call("mount", "none", "/", 0, REC | PRIVATE, 0)
    for point, flags in [*_mounted()]:
        with contextlib.suppress(OSError):
            call("mount", "none", point, 0, REMOUNT | BIND | RDONLY | flags, 0)
    needed = {os.path.realpath(x) for x in (sys.prefix, sys.base_prefix, *keep)}
    for one in (*PRIVATE_FOLDERS, os.path.expanduser("~"), *TEMPORARY, *hidden):
        if os.path.isdir(one) and os.path.realpath(one) != "/":
            _cover(os.path.realpath(one), one in TEMPORARY, needed)
    if folder and not _writable(folder):
        _cover(folder, True, set())


def _cover(folder: str, writable: bool, needed: set[str]) -> None:
    """Put an empty folder over one; what is needed of it stays where it is."""
    inside = [x for x in needed if x.startswith(folder + "/")]
    if folder in needed or not os.access(folder, os.X_OK):
        return
    handles = {path: os.open(path, os.O_PATH) for path in inside}
    options = "mode=1777,size=64m" if writable else "mode=0755,size=1m"
    call("mount", "tmpfs", folder, "tmpfs", NOSUID | NODEV, options)
    for path, handle in handles.items():
        os.makedirs(path)
        call("mount", f"/proc/self/fd/{handle}", path, "", BIND | REC, 0)
        os.close(handle)


def _writable(folder: str) -> bool:
    try:
        os.makedirs(folder, exist_ok=True)
        (Path(folder) / ".try").touch()
        (Path(folder) / ".try").unlink()
    except OSError:
        return False
    return True


def _mounted() -> Iterator[tuple[str, int]]:
    flags = {"nosuid": NOSUID, "nodev": NODEV, "noexec": NOEXEC}
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        parts = line.split()
        point = parts[4].encode().decode("unicode_escape")
        if not point.startswith(("/proc", "/sys")):
            yield point, sum(flags.get(x, 0) for x in parts[5].split(","))
