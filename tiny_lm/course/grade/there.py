"""A worker's surroundings: what of `tiny_lm` is there, and calls between ranks.

Chapter: appendix/teaching
Source: course

Answers are not there. A name that a lab imports at its top but no answer needs is a
placeholder, which says so where it is used. `tiny_lm`'s own files are out of reach: see
`sandbox`.
"""

import importlib
import importlib.abc
import importlib.machinery
import inspect
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tiny_lm.course.grade import remote

NUMBER = -1  # by which the judge knows a call between ranks
ALWAYS = ("notation", "config", "hardware", "kernels", "layers")
ALSO = {"05_comm": ("gpus.comm", "gpus.mesh", "quantize", "course.labs.two_batches")}
COMM = "all_gather all_reduce all_to_all all_to_all_counts broadcast reduce_scatter"
CALLS = (*COMM.split(), "barrier", "send", "receive")
BEGINS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
ABSENT = "is not here while an answer is graded"
noted: list[str] = []  # what was used and is not there


class NotHere(RuntimeError):
    """Something of `tiny_lm` that an answer may not use."""


class Placeholder:
    """Stands for what is not here; to import it does no harm."""

    def __init__(self, name: str) -> None:
        self.__dict__["_name"] = name

    def _refuse(self, *_: Any, **__: Any) -> Any:
        name = self.__dict__["_name"]
        if name not in noted:
            noted.append(name)
        raise NotHere(f"{name} {ABSENT}: write your own")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Placeholder(f"{self.__dict__['_name']}.{name}")

    __call__ = __getitem__ = __iter__ = __len__ = __setattr__ = _refuse


class _Absent(ModuleType):
    """A module that is not here; its names are placeholders."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Placeholder(f"{self.__name__}.{name}")


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives placeholders for modules of `tiny_lm` that are not here.

    Args:
        hidden: names of modules that are not here.
    """

    def __init__(self, hidden: Callable[[str], bool]) -> None:
        self.hidden = hidden

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if not name.startswith("tiny_lm.") or not self.hidden(name):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


def furnish(lab: str, reference: bool) -> None:
    """Import what answers may use, and put placeholders for the rest.

    Args:
        reference: leave `tiny_lm`'s own modules there; the checks never are.
    """
    for name in (*ALWAYS, *ALSO.get(lab, ())):
        importlib.import_module(f"tiny_lm.{name}")
    if lab == "05_comm":
        _connect()
    here = {name for name in sys.modules if name.startswith("tiny_lm.")}
    checks = "tiny_lm.course.checks."
    if reference:
        sys.meta_path.insert(0, Finder(lambda name: name.startswith(checks)))
    else:
        sys.meta_path.insert(0, Finder(lambda name: name not in here))


LOOKS = ("open", "os.listdir", "os.scandir")
STARTS = (
    "subprocess.Popen os.system os.exec os.posix_spawn os.fork ctypes.dlopen".split()
)


def watch(hidden: list[str]) -> None:
    """Where the system hides nothing: refuse what would look for answers, and note it.

    Python code cannot take such a hook away again; machine code could get round it.
    """

    def heed(event: str, given: tuple) -> None:
        if event in STARTS:
            _refused(event, "")
        if event in LOOKS and given and isinstance(given[0], str | bytes):
            real = os.path.realpath(os.fsdecode(given[0]))
            if any(real == x or real.startswith(x + os.sep) for x in hidden):
                _refused(event, real)

    sys.addaudithook(heed)


def _refused(event: str, path: str) -> None:
    said = f"{event} {os.path.basename(path)}".strip()
    if said not in noted:
        noted.append(said)
    raise PermissionError(f"{said}: not while an answer is graded")


def _connect() -> None:
    """Let calls between ranks go to the judge, who plays the ranks."""
    comm = importlib.import_module("tiny_lm.gpus.comm")
    for name in CALLS:
        _replace(comm, name)
    for name in BEGINS:
        _replace(comm, name, f"start_{name}")


def _replace(comm: ModuleType, name: str, under: str = "") -> None:
    real = inspect.signature(getattr(comm, under or name))

    def call(*arguments: Any, **named: Any) -> Any:
        given = real.bind(*arguments, **named).args
        came = remote._ask[0](NUMBER, name, given, {})
        return _Arrived(came) if under else came

    call.__name__ = under or name
    setattr(comm, under or name, call)


class _Arrived:
    """What was started, and is here already."""

    def __init__(self, came: Any) -> None:
        self._came = came

    def wait(self) -> Any:
        """What has arrived."""
        return self._came
