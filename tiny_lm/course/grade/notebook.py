"""A submission as text: cells of a learner beside those of the lab they were made from.

Chapter: appendix/teaching
Source: course

Nothing is run here, and outputs are not looked at but to say that they were edited.
"""

import ast
import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny_lm.course.labs.generator import LABS

LARGEST = 25_000_000  # bytes of a notebook
CELLS = 2_000
SOURCE = 200_000  # characters of a cell
STUB = 'raise NotImplementedError("Task '
ANSWER = re.compile(r"answer_(\d+)_(\d+)")
CHECK = re.compile(r"check_(\d+)_(\d+)")


class Unreadable(ValueError):
    """A submission that cannot be graded, and why."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Args:
        name: its grade id, else its id.
    """

    name: str
    kind: str
    source: str
    outputs: Any = None


@dataclass
class Notebook:
    """The cells of a file, in order."""

    cells: list[Cell] = field(default_factory=list)

    def code(self) -> list[Cell]:
        """Cells of code."""
        return [cell for cell in self.cells if cell.kind == "code"]


def read_bytes(path: Path) -> bytes:
    """The bytes of a submission that is an ordinary file of bearable size.

    Raises:
        Unreadable: it is not.
    """
    try:
        there = os.lstat(path)
        if stat.S_ISLNK(there.st_mode):
            raise Unreadable("it is a link to another file, which is not followed")
        if not stat.S_ISREG(there.st_mode):
            raise Unreadable("it is no ordinary file")
        if there.st_size > LARGEST:
            size, most = there.st_size // 10**6, LARGEST // 10**6
            raise Unreadable(f"it has {size} MB; a lab with its plots has under {most}")
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(handle, "rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        raise Unreadable(f"it cannot be read: {error.strerror}") from None
    if len(raw) > LARGEST:
        raise Unreadable("it grew while it was read")
    return raw


def parse(raw: bytes) -> Notebook:
    """The cells of a notebook.

    Raises:
        Unreadable: it is none.
    """
    if not raw.strip():
        raise Unreadable("the file is empty")
    try:
        whole = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise Unreadable("it is nested without end") from None
    except ValueError as error:
        raise Unreadable(f"it is no JSON: {str(error)[:120]}") from None
    if not isinstance(whole, dict):
        raise Unreadable("it is JSON, but no notebook")
    cells = whole.get("cells")
    if cells is None and isinstance(whole.get("worksheets"), list):
        sheets = [s for s in whole["worksheets"] if isinstance(s, dict)]
        cells = [c for s in sheets for c in s.get("cells") or []]
    if not isinstance(cells, list):
        raise Unreadable("it is JSON, but no notebook: there are no cells")
    if len(cells) > CELLS:
        raise Unreadable(f"it has {len(cells)} cells")
    return Notebook([_cell(i, x) for i, x in enumerate(cells) if isinstance(x, dict)])


def _cell(place: int, x: dict) -> Cell:
    source = x.get("source", x.get("input", ""))
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    source = source if isinstance(source, str) else ""
    metadata = x.get("metadata")
    grading = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    name = grading.get("grade_id") if isinstance(grading, dict) else None
    name = name or x.get("id") or f"cell {place}"
    kind = x.get("cell_type")
    return Cell(
        str(name)[:80],
        kind if isinstance(kind, str) else "",
        source[:SOURCE].replace("\r\n", "\n").replace("\0", ""),
        x.get("outputs"),
    )


def pristine(lab: str) -> Notebook:
    """The lab as it is handed out.

    Raises:
        ValueError: there is no such lab.
    """
    path = LABS / f"{lab}.ipynb"
    if not re.fullmatch(r"\d\d_\w+", lab) or not path.is_file():
        known = ", ".join(sorted(p.stem for p in LABS.glob("[0-9][0-9]_*.ipynb")))
        raise ValueError(f"there is no lab {lab!r}; there are: {known}")
    return parse(path.read_bytes())


def task_of(cell: Cell) -> str:
    """The task whose answer a cell is, by its name; or nothing."""
    found = ANSWER.fullmatch(cell.name)
    return f"{found[1]}.{found[2]}" if found else ""


def check_of(cell: Cell) -> str:
    """The task whose check a cell is, by its name; or nothing."""
    found = CHECK.fullmatch(cell.name)
    return f"{found[1]}.{found[2]}" if found else ""


def tree_of(source: str) -> tuple[ast.Module | None, str]:
    """The cell's syntax tree, and the text that it belongs to.

    Lines for IPython become empty, so that the numbers of lines stay.
    """
    lines = source.split("\n")
    kept = ["" if line.lstrip()[:1] in ("%", "!", "?") else line for line in lines]
    for text in (source, "\n".join(kept)):
        try:
            return ast.parse(text), text
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None, source
