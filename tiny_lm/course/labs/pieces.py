"""The learner's pieces: kept when they pass, used again in later labs.

Chapter: index
Source: course

A piece is a function that passed its check. Its source is kept as a file of its own
under `my_pieces/`, beside the labs, or in the folder that the environment variable
TINY_LM_PIECES names. Nothing but `save` and `load` writes there, so a new version of
a lab leaves the pieces alone. Where a piece is missing, tiny_lm's own stands in.
"""

import base64
import binascii
import importlib
import json
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_lm.course.checks.task import TASKS, Task, tasks_of
from tiny_lm.course.labs.source import NotSelfContained, run_alone, self_contained

Function = Callable[..., Any]
NAME = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")
MARK = "tiny-lm-pieces-1:"


def folder() -> Path:
    """Where pieces are kept."""
    return Path(os.environ.get("TINY_LM_PIECES") or "my_pieces")


def path_of(name: str) -> Path:
    """The file of one piece."""
    part, function = name.split(".")
    return folder() / part / f"{function}.py"


def use(name: str, function: Function | None = None) -> Function:
    """The learner's function if it passed its check, else tiny_lm's; says which.

    Args:
        function: the one just checked; without it, the kept piece is looked for.

    Raises:
        ValueError: there is no piece of that name.
    """
    task = task_of(name)
    chosen, words = _choose(task, function)
    print(f"{name}: {words}")
    if function is not None:
        print(progress(task.lab))
    return chosen


def _choose(task: Task, function: Function | None) -> tuple[Function, str]:
    if function is not None and task.accepted is function:
        return function, _keep(task, function)
    file = path_of(task.piece)
    if not file.is_file():
        return task.reference, "not passed yet, so tiny_lm's own stands in."
    kept = _load_passing(task, file)
    if kept is None:
        return task.reference, (
            f"{file} does not pass its check any more, so tiny_lm's own stands in."
        )
    return kept, f"yours, as kept in {file}."


def _load_passing(task: Task, file: Path) -> Function | None:
    """The kept function, if it still runs and passes."""
    try:
        function = run_alone(file.read_text(encoding="utf-8"), task.name)
    except Exception:  # the file is the learner's to edit: anything may be in it
        return None
    return function if task.outcome(function, explain=False).holds else None


def _keep(task: Task, function: Function) -> str:
    try:
        carried = _write(task, function)
    except NotSelfContained as error:
        return f"yours from here on, but not kept for later labs:\n  {error}."
    also = f"\n  With it went, from other cells: {', '.join(carried)}." * bool(carried)
    return f"yours from here on, kept in {path_of(task.piece)}.{also}"


def save(name: str, function: Function) -> None:
    """Keep a function that passes its check; a kept one of that name is replaced.

    Raises:
        ValueError: no such piece; or the function does not pass, as it stands or on
            its own, without the other cells; or it cannot be written down.
    """
    task = task_of(name)
    if not task.outcome(function, explain=False).holds:
        raise ValueError(f"{name} does not pass the check of task {task.id} yet")
    _write(task, function)
    print(f"{name}: kept in {path_of(name)}.")


def _write(task: Task, function: Function) -> list[str]:
    """Write the source, after it passed the check in an empty namespace."""
    source, carried = self_contained(function)
    if function.__name__ != task.name:
        source += f"\n\n{task.name} = {function.__name__}\n"
    try:
        alone = run_alone(source, task.name)
    except Exception as error:
        raise NotSelfContained(
            f"without the other cells its text does not run: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not task.outcome(alone, explain=False).holds:
        raise NotSelfContained(
            "without the other cells it does not pass: it leans on something that an "
            "earlier cell changed"
        )
    file = path_of(task.piece)
    file.parent.mkdir(parents=True, exist_ok=True)
    title = f'"""{task.piece}: the answer to task {task.id} of lab {task.lab}."""'
    file.write_text(f"{title}\n\n{source}", encoding="utf-8")
    return carried


def task_of(name: str) -> Task:
    """The task whose answer is that piece.

    Raises:
        ValueError: there is none; the message lists the lab's pieces.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"a piece is named part.function, not {name!r}")
    part = name.split(".")[0]
    try:
        importlib.import_module(f"tiny_lm.course.checks.{part}")
    except ModuleNotFoundError as error:
        raise ValueError(f"no lab has pieces named {part}.…") from error
    for task in TASKS.values():
        if task.piece == name:
            return task
    names = sorted(t.piece for t in TASKS.values() if t.piece.startswith(f"{part}."))
    raise ValueError(f"no piece {name!r}; there are: {', '.join(names)}")


def progress(lab: str) -> str:
    """One line: the tasks of a lab that passed, now or in an earlier run."""
    tasks = tasks_of(lab)
    passed = [t for t in tasks if t.accepted or path_of(t.piece).is_file()]
    points, of = (sum(t.points for t in some) for some in (passed, tasks))
    return (
        f"{lab}: {len(passed)} of {len(tasks)} tasks passed · {points} of {of} points"
    )


def pack(file: str | Path = "my_pieces.txt") -> str:
    """All kept pieces as one line of text, written to a file too.

    Hand the file or the line to `load` on the next machine.

    Raises:
        ValueError: nothing is kept yet.
    """
    files = sorted(folder().glob("*/*.py"))
    if not files:
        raise ValueError(f"no pieces in {folder()} yet: pass a task first")
    pieces = {f"{f.parent.name}.{f.stem}": f.read_text(encoding="utf-8") for f in files}
    packed = zlib.compress(json.dumps(pieces).encode(), level=9)
    text = MARK + base64.b64encode(packed).decode()
    Path(file).write_text(text + "\n", encoding="utf-8")
    print(f"{len(pieces)} pieces packed into {file}: {', '.join(pieces)}")
    return text


def load(packed: str | Path, replace: bool = False) -> None:
    """Put packed pieces into the folder of kept ones.

    Nothing is run here; `use` checks a piece before it hands it out.

    Args:
        packed: what `pack` returned, or the file that it wrote.
        replace: whether a piece that is here already gives way.

    Raises:
        ValueError: neither such a text nor such a file.
    """
    for name, source in _unpack(packed).items():
        file = path_of(name)
        if file.is_file() and file.read_text(encoding="utf-8") == source:
            print(f"{name}: the same is here already.")
        elif file.is_file() and not replace:
            print(f"{name}: another is here and stays; replace=True takes the packed.")
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source, encoding="utf-8")
            print(f"{name}: put into {file}.")


def _unpack(packed: str | Path) -> dict[str, str]:
    text = str(packed).strip()
    if not text.startswith(MARK):
        if not Path(text).is_file():
            raise ValueError(f"neither a file nor the line that pack() gave: {text}")
        text = Path(text).read_text(encoding="utf-8").strip()
    try:
        body = base64.b64decode(text.removeprefix(MARK), validate=True)
        pieces = json.loads(zlib.decompress(body))
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ValueError("the packed text is damaged or cut short") from error
    for name in pieces:
        if not NAME.fullmatch(name):
            raise ValueError(f"a piece is named part.function, not {name!r}")
    return pieces
