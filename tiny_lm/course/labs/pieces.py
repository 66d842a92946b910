"""The learner's pieces: kept when they pass, used again in later labs.

Chapter: index
Source: course

A piece is a function that passed its check. Its source is kept as a file of its own
under `my_pieces/`, beside the labs, or in the folder that the environment variable
TINY_LM_PIECES names. Nothing but `save` and `load` writes them, so a new version of a
lab leaves them alone. Where nothing can be written, pieces are kept in memory,
until the kernel ends. Where a piece is missing, tiny_lm's own stands in.
"""

import base64
import binascii
import importlib
import json
import os
import re
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_lm.course.checks.task import TASKS, Task, tasks_of
from tiny_lm.course.labs.source import NotSelfContained, run_alone, self_contained
from tiny_lm.files import read_text, to_json, write_whole

Function = Callable[..., Any]
NAME = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")
MARK = "tiny-lm-pieces-1:"
_memory: dict[str, str] = {}  # sources that no file could take


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
    where = "memory" if task.piece in _memory else path_of(task.piece)
    if not is_kept(task.piece):
        return task.reference, "not passed yet, so tiny_lm's own stands in."
    try:
        source = _memory.get(task.piece) or read_text(path_of(task.piece))
    except ValueError as error:
        return task.reference, f"{error}; tiny_lm's own stands in."
    kept = _load_passing(task, source)
    if kept is None:
        return task.reference, (
            f"{where} does not pass its check any more, so tiny_lm's own stands in."
        )
    return kept, f"yours, as kept in {where}."


def files(where: Path | None = None) -> dict[str, Path]:
    """The files of kept pieces by name.

    Args:
        where: they are kept; by default `folder()`.
    """
    found = sorted((where or folder()).glob("*/*.py"))
    named = {f"{file.parent.name}.{file.stem}": file for file in found}
    return {name: file for name, file in named.items() if NAME.fullmatch(name)}


def in_memory() -> dict[str, str]:
    """Sources of the pieces that no file could take, by name."""
    return dict(_memory)


def is_kept(name: str) -> bool:
    """Whether a piece of that name passed, now or in an earlier run."""
    return name in _memory or os.path.isfile(path_of(name))


def _load_passing(task: Task, source: str) -> Function | None:
    """The kept function, if it still runs and passes."""
    try:
        function = run_alone(source, task.name)
    except Exception:  # the file is the learner's to edit: anything may be in it
        return None
    return function if task.outcome(function, explain=False).holds else None


def _keep(task: Task, function: Function) -> str:
    try:
        carried, where = _write(task, function)
    except NotSelfContained as error:
        return f"yours from here on, but not kept for later labs:\n  {error}."
    also = f"\n  With it went, from other cells: {', '.join(carried)}." * bool(carried)
    return f"yours from here on, kept in {where}.{also}"


def save(name: str, function: Function) -> None:
    """Keep a function that passes its check; a kept one of that name is replaced.

    Raises:
        ValueError: no such piece; or the function does not pass, as it stands or on
            its own, without the other cells; or it cannot be written down.
    """
    task = task_of(name)
    if not task.outcome(function, explain=False).holds:
        raise ValueError(f"{name} does not pass the check of task {task.id} yet")
    _, where = _write(task, function)
    print(f"{name}: kept in {where}.")


def _write(task: Task, function: Function) -> tuple[list[str], str]:
    """Write the source, after it passed the check in an empty namespace.

    Returns:
        The names that went with it, and where it is kept, in words.
    """
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
    title = f'"""{task.piece}: the answer to task {task.id} of lab {task.lab}."""'
    return carried, _put(task.piece, f"{title}\n\n{source}")


def _put(name: str, text: str) -> str:
    """Keep a text as that piece, in its file or else in memory; says where."""
    file = path_of(name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text)
    except OSError as error:
        _memory[name] = text
        return (
            f"memory until this kernel ends, because {folder()} cannot be written "
            f"({error.strerror}). pieces.pack() gives a line to take along"
        )
    _memory.pop(name, None)
    return str(file)


def task_of(name: str) -> Task:
    """The task whose answer is that piece.

    Raises:
        ValueError: there is none; the message lists the lab's pieces.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"a piece is named part.function, not {name!r}")
    part = name.split(".")[0]
    try:
        import_checks(part)
    except ModuleNotFoundError as error:
        raise ValueError(f"no lab has pieces named {part}.…") from error
    for task in TASKS.values():
        if task.piece == name:
            return task
    names = sorted(t.piece for t in TASKS.values() if t.piece.startswith(f"{part}."))
    raise ValueError(f"no piece {name!r}; there are: {', '.join(names)}")


def import_checks(part: str) -> None:
    """Make the tasks of one part known.

    Raises:
        ModuleNotFoundError: there is no such part.
    """
    importlib.import_module(f"tiny_lm.course.checks.{part}")


def progress(lab: str) -> str:
    """One line: the tasks of a lab that passed, now or in an earlier run."""
    tasks = tasks_of(lab)
    passed = [t for t in tasks if t.accepted or is_kept(t.piece)]
    points, of = (sum(t.points for t in some) for some in (passed, tasks))
    return (
        f"{lab}: {len(passed)} of {len(tasks)} tasks passed · {points} of {of} points"
    )


def pack(file: str | Path = "my_pieces.txt") -> str:
    """All kept pieces as one line of text, written to a file too.

    Hand the file or the line to `load` on the next machine.

    Raises:
        ValueError: nothing is kept yet, or the file is there and holds something else.
    """
    pieces = {name: read_text(file) for name, file in files().items()} | _memory
    if not pieces:
        raise ValueError(f"no pieces in {folder()} yet: pass a task first")
    packed = zlib.compress(to_json(pieces).encode(), level=9)
    text = MARK + base64.b64encode(packed).decode()
    if os.path.exists(file) and not _holds_pieces(Path(file)):
        raise ValueError(f"{file} holds something else: name another file")
    try:
        write_whole(Path(file), text + "\n")
        where = f"packed into {file}"
    except OSError as error:
        where = f"in this line; {file} cannot be written ({error.strerror})"
    print(f"{len(pieces)} pieces {where}: {', '.join(pieces)}")
    return text


def _holds_pieces(file: Path) -> bool:
    try:
        return read_text(file).startswith(MARK)
    except ValueError:
        return False


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
        here = is_kept(name) and (_memory.get(name) or read_text(path_of(name)))
        if here == source:
            print(f"{name}: the same is here already.")
        elif here and not replace:
            print(f"{name}: another is here and stays; replace=True takes the packed.")
        else:
            print(f"{name}: put into {_put(name, source)}.")


def _unpack(packed: str | Path) -> dict[str, str]:
    text = str(packed).strip()
    if not text.startswith(MARK):
        if not os.path.isfile(text):
            shown = textwrap.shorten(text, 80)
            raise ValueError(f"neither a file nor the line that pack() gave: {shown}")
        text = read_text(Path(text)).strip()
    try:
        body = base64.b64decode(text.removeprefix(MARK), validate=True)
        pieces = json.loads(zlib.decompress(body))
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ValueError("the packed text is damaged or cut short") from error
    if not isinstance(pieces, dict):
        raise ValueError("the packed text holds no pieces")
    for name, source in pieces.items():
        if not (NAME.fullmatch(name) and isinstance(source, str)):
            raise ValueError(f"a piece is named part.function, not {name!r}")
    return pieces
