"""Whose notebooks lie in a folder, and how a learner's name becomes a file's.

Chapter: appendix/teaching
Source: course

    FOLDER/ada.ipynb                     ada
    FOLDER/ada/02_moe.ipynb              ada, as nbgrader, Moodle and Classroom have it
    FOLDER/ada/02_moe/02_moe.ipynb       ada
"""

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

SAFE = re.compile(r"[^\w.@+-]+")
MOST = 20_000  # entries of a folder that are looked at


@dataclass(frozen=True)
class Found:
    """One learner's submission.

    Args:
        path: of the notebook; nothing where there is none that can be meant.
        trouble: why there is none.
    """

    learner: str
    path: Path | None
    trouble: str = ""

    @property
    def file(self) -> str:
        """A file name of its own, made of the learner's name."""
        plain = SAFE.sub("_", self.learner).strip("._") or "learner"
        if plain == self.learner and len(plain.encode()) <= 150:
            return plain
        digest = hashlib.sha256(self.learner.encode("utf-8", "surrogatepass"))
        return (
            f"{plain.encode()[:100].decode(errors='ignore')}-{digest.hexdigest()[:8]}"
        )


def find(folder: Path, lab: str) -> tuple[list[Found], list[str]]:
    """All submissions by name, and the names of what else lies there.

    Raises:
        ValueError: no such folder or file, or nothing in it.
    """
    if folder.suffix == ".ipynb" and folder.is_file():
        return [Found(folder.stem, folder)], []
    if not folder.is_dir():
        raise ValueError(f"{folder} is neither a folder nor a notebook")
    found, other = [], []
    for entry in sorted(os.scandir(folder), key=lambda x: x.name)[:MOST]:
        name, path = entry.name, Path(entry.path)
        if name.startswith((".", "__")):
            continue
        if name.endswith(".ipynb"):
            found.append(Found(name.removesuffix(".ipynb"), path))
        elif entry.is_dir(follow_symlinks=False):
            found.append(_in_folder(name, path, lab))
        elif entry.is_symlink():
            found.append(Found(name, None, "it is a link, which is not followed"))
        else:
            other.append(name)
    if not found:
        raise ValueError(f"{folder} holds no notebooks")
    return _apart(found), other


def _apart(found: list[Found]) -> list[Found]:
    """A learner with a file and a folder is refused, not counted twice."""
    names = [one.learner for one in found]
    twice = {name for name in names if names.count(name) > 1}
    one_each = {one.learner: one for one in found}
    for name in twice:
        one_each[name] = Found(name, None, "there is a file and a folder of that name")
    return [*one_each.values()]


def _in_folder(learner: str, folder: Path, lab: str) -> Found:
    every = [x for x in _notebooks(folder, 2)]
    named = [x for x in every if x.stem == lab] or [x for x in every if lab in x.stem]
    some = named or every
    if len(some) == 1:
        return Found(learner, some[0])
    if not some:
        return Found(learner, None, "there is no notebook in the folder")
    names = ", ".join(sorted(x.name for x in some)[:4])
    return Found(learner, None, f"there are {len(some)} notebooks, none alone: {names}")


def _notebooks(folder: Path, depth: int) -> list[Path]:
    found = []
    try:
        entries = sorted(os.scandir(folder), key=lambda x: x.name)[:MOST]
    except OSError:
        return []
    for entry in entries:
        mode = entry.stat(follow_symlinks=False).st_mode
        if entry.name.startswith("."):
            continue
        if entry.name.endswith(".ipynb"):
            found.append(Path(entry.path))
        elif stat.S_ISDIR(mode) and depth:
            found += _notebooks(Path(entry.path), depth - 1)
    return found
