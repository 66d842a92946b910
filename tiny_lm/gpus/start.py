"""Start processes quickly, and without running the caller's program again.

Chapter: 05_comm/emulated_gpus
Source: torch_distributed

A fork of a process that has used torch's threads can hang, and a fresh process spends
a second on importing torch. So a small server imports torch, does nothing with it, and
every process is a fork of that server. Where there is no such server (Windows), each
process starts afresh.
"""

import contextlib
import multiprocessing
import os
import socket
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.util import get_temp_dir

# The first optimizer of a process imports torch._dynamo, which takes 0.8 s.
PRELOAD = ["torch", "torch.distributed", "torch._dynamo", "cloudpickle", "jaxtyping"]


# The path of a socket has 107 bytes on Linux and 103 on macOS. The folder that
# multiprocessing makes, and the name of its socket in there, take 32 of them.
LONGEST_TEMP = 103 - 32


def _given_folder() -> str | None:
    """multiprocessing's folder of this process, if there is one yet."""
    return getattr(multiprocessing.current_process(), "_config", {}).get("tempdir")


# What was there before this module may be a parent's, who goes on using it.
_INHERITED, _PID = _given_folder(), os.getpid()


def check_temp() -> None:
    """Refuse surroundings in which ranks could not meet.

    Raises:
        ValueError: there is no folder for temporary files, or its path is too long.
    """
    try:
        folder = tempfile.gettempdir()
    except OSError as error:
        raise ValueError(f"no folder for temporary files: {error.strerror}") from error
    if len(os.fsencode(folder)) > LONGEST_TEMP:
        raise ValueError(
            f"the folder for temporary files has too long a path for sockets, over "
            f"{LONGEST_TEMP} bytes: set TMPDIR to another than {folder}"
        )


def meeting_place() -> tuple[str, str | None]:
    """A new folder in which ranks meet, and the one around it if that is to go as well.

    multiprocessing keeps a folder for each program and deletes it in the end. Where the
    program is killed, its ranks do so; but not where it was handed down by a parent.

    Raises:
        ValueError: as `check_temp`.
    """
    check_temp()
    around = get_temp_dir()
    ours = around != _INHERITED and os.getpid() == _PID
    return tempfile.mkdtemp(dir=around), around if ours else None


def start_context(start_method: str | None = None) -> BaseContext:
    """How processes are started here.

    Args:
        start_method: "forkserver" or "spawn"; by default the first that exists.
    """
    if start_method is None:
        known = multiprocessing.get_all_start_methods()
        start_method = "forkserver" if "forkserver" in known else "spawn"
    context = multiprocessing.get_context(start_method)
    if start_method == "forkserver":
        context.set_forkserver_preload(PRELOAD)
    return context


def start_process(
    context: BaseContext,
    target: Callable[..., None],
    *args: object,
    name: str,
    daemon: bool = True,
) -> BaseProcess:
    """A process that runs `target(*args)`; both must be found by import.

    Args:
        daemon: ends with this process, and has none of its own; without it, whoever
            starts the process ends it.
    """
    process = context.Process(target=target, args=args, name=name, daemon=daemon)
    with _hidden_main():
        process.start()
    return process


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep `multiprocessing` from running the caller's script in the new process.

    It does so to find functions by name. Ours travel as code, so a script needs no
    `if __name__ == "__main__"`.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def use_loopback() -> None:
    """Keep gloo on this machine, whatever its host name or a variable says."""
    names = {name for _, name in socket.if_nameindex()}
    for loopback in ("lo", "lo0"):
        if loopback in names:
            os.environ["GLOO_SOCKET_IFNAME"] = loopback
