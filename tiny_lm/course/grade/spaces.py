"""Namespaces and mounts of Linux: what a process can see, and what works here.

Chapter: teaching
Source: course
"""

import contextlib
import ctypes
import functools
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

NEWNS, NEWUTS, NEWIPC = 0x20000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
SPACES = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT = 1, 2, 4, 8, 32
BIND, REC, PRIVATE = 4096, 16384, 1 << 18
DEATH, DUMPABLE, SUBREAPER, NO_NEW_PRIVS, BOUND_DROP = 1, 4, 36, 38, 24
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")


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
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
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
    found.user = root and not found.user_space and _readable_for_all()
    return found


def _works(tried: Callable[[], object]) -> bool:
    child = os.fork()
    if not child:
        try:
            tried()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _readable_for_all() -> bool:
    """Whether another user can import what is needed."""
    for start in (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__)):
        folder = Path(start).resolve()
        for one in (folder, *folder.parents):
            if not one.stat().st_mode & 0o001:
                return False
    return True


def loopback() -> None:
    """Switch on the network inside the machine, which kernels of notebooks need."""
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        up = struct.pack("16sh", b"lo", 1 | 64)
        fcntl.ioctl(one.fileno(), 0x8914, up)


def mounts(hidden: list[str], folder: str) -> None:
    """A disk that can be read only, without what is hidden."""
    call("mount", "none", "/", 0, REC | PRIVATE, 0)
    for point, flags in [*_mounted()]:
        with contextlib.suppress(OSError):
            call("mount", "none", point, 0, REMOUNT | BIND | RDONLY | flags, 0)
    needed = {os.path.realpath(x) for x in (sys.prefix, sys.base_prefix, *hidden)}
    for one in TEMPORARY:
        inside = [x for x in needed if x.startswith(one + "/")]
        if os.path.isdir(one) and not set(inside) - {*hidden}:
            with contextlib.suppress(OSError):
                _empty(one, "mode=1777,size=64m")
    for one in hidden:
        if os.path.isdir(one):
            _empty(one, "mode=0755,size=4k")
    if folder and not _writable(folder):
        _empty(folder, "mode=0777,size=64m")


def _writable(folder: str) -> bool:
    try:
        os.makedirs(folder, exist_ok=True)
        (Path(folder) / ".try").touch()
        (Path(folder) / ".try").unlink()
    except OSError:
        return False
    return True


def _empty(folder: str, options: str) -> None:
    call("mount", "tmpfs", folder, "tmpfs", NOSUID | NODEV, options)


def _mounted() -> Iterator[tuple[str, int]]:
    flags = {"nosuid": NOSUID, "nodev": NODEV, "noexec": NOEXEC}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        parts = line.split()
        point = parts[4].encode().decode("unicode_escape")
        if not point.startswith(("/proc", "/sys")):
            yield point, sum(flags.get(x, 0) for x in parts[5].split(","))
