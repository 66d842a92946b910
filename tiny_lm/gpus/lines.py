"""Which line of the learner's code made a call, and how to show it.

Chapter: 05_comm/emulated_gpus
Source: course

The line that called a collective is rarely what a learner wants to see: it lies inside
this package. Wanted is the innermost line of their own; and only where there is none,
one of ours.
"""

import functools
import linecache
import re
import sys
import sysconfig
from pathlib import Path

PACKAGE = str(Path(__file__).resolve().parents[1])
GPUS = str(Path(__file__).resolve().parent)
OURS = (GPUS, str(Path(PACKAGE) / "replay"))  # what stands between a call and its maker
INSTALLED = (
    sysconfig.get_path("purelib"),
    sysconfig.get_path("platlib"),
    sysconfig.get_path("stdlib"),
)


@functools.cache
def _whose(file: str) -> str:
    """Whose code a file is: "learner", "package", or "other"."""
    if file.startswith(OURS) or file.startswith(INSTALLED) or file.startswith("<@"):
        return "other"
    if file.startswith("<frozen") or file == "<string>":
        return "other"
    return "package" if file.startswith(PACKAGE) else "learner"


def calling_line() -> tuple[str, int, bool]:
    """File and line from which a collective is called, and whether it runs backward.

    Returns:
        line 0 where it is unknown: on a GPU, a backward pass has a thread of its own.
    """
    frame, ours, backward = sys._getframe(1), ("", 0), False
    while frame is not None:
        code = frame.f_code
        whose = _whose(code.co_filename)
        if whose == "learner":
            return code.co_filename, frame.f_lineno, backward
        if whose == "package" and not ours[1]:
            ours = code.co_filename, frame.f_lineno
        backward |= code.co_name == "backward" and code.co_filename.startswith(GPUS)
        frame = frame.f_back
    return *ours, backward


def show_line(file: str, line: int) -> str:
    """Where that is, and what stands there: `In[7] line 3: comm.barrier(group)`."""
    if not line:
        return "unknown"
    code = linecache.getline(file, line).strip()
    return f"{_place(file)} line {line}" + (f": {code}" if code else "")


def name_cells(text: str) -> str:
    """A traceback in which cells have their numbers instead of names of files."""
    return re.sub(
        r'File "([^"]+)"',
        lambda found: f"Cell {cell}" if (cell := _cell(found[1])) else found[0],
        text,
    )


def _place(file: str) -> str:
    return _cell(file) or Path(file).name


def _cell(file: str) -> str | None:
    """`In[7]`, if this file stands for a cell of the notebook that runs this."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    name = shell.compile.format_code_name(file) if shell else None
    return name[1] if name else None
