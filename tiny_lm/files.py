"""Files that are whole or not there, and what is wrong with one that is not.

Chapter: 06_together/full_model

A program can be stopped between any two bytes, and two programs can write at once. So
a file is written under a name that nobody else has and then renamed, which happens at
once or not at all; and a folder that must be nobody else's is made by the one call
that fails where it exists.
"""

import itertools
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def write_whole(path: Path, content: str | bytes) -> None:
    """Put a file there with all of its content; text becomes UTF-8."""
    raw = content.encode() if isinstance(content, str) else content
    replace_whole(path, lambda draft: draft.write_bytes(raw))


def replace_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under a name of its own, then put it in place."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, that gets its name when everything is written.

    Raises:
        ValueError: there is something of that name already, unless it is an empty
            folder, or nothing can be written there.
    """
    folder = folder.absolute()
    if folder.is_dir() and (there := sorted(os.listdir(folder))):
        raise ValueError(f"{folder} is not empty: it holds {there[0]}")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file")
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}") from error
    try:
        yield draft
        if folder.is_dir():
            folder.rmdir()  # fails where somebody has put something in
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def to_json(value: Any, indent: int | None = None) -> str:
    """As JSON, which knows neither NaN nor infinity.

    Raises:
        ValueError: a number that is not finite.
    """
    return json.dumps(value, indent=indent, allow_nan=False)


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: it cannot be read, or it is cut short or no JSON; names the file.
    """
    return from_json(read_text(path), str(path))


def from_json(text: str, where: str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is cut short or no JSON; says `where` it came from.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is cut short or no JSON: {error}") from error


def read_text(path: Path) -> str:
    """What a UTF-8 file says.

    Raises:
        ValueError: it cannot be read, or it is not UTF-8; names the file.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error


def prepare(folder: Path) -> None:
    """Make a folder if it is not there, and see that files can be written to it.

    For what takes long: better refused at once than when the result is there.

    Raises:
        ValueError: they cannot.
    """
    probe = folder / f".{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.open("x", encoding="utf-8").close()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}") from error


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Let no other program take what this file stands for, while the `with` lasts.

    The system lets go where a program is killed, so nothing has to be cleaned up.
    Helpers `share` the file, so that it is free only when the last of them is gone too.

    Raises:
        ValueError: another program, or a helper of its, uses it.
    """
    with path.open("rb+") as file:
        _lock(file, path, alone=True)
        _lock(file, path, alone=False)
        yield


@contextmanager
def share(path: Path) -> Iterator[None]:
    """Use the file as a helper of the program that has it `in_use`."""
    with path.open("rb+") as file:
        _lock(file, path, alone=False)
        yield


def _lock(file: BinaryIO, path: Path, alone: bool) -> None:
    try:
        import fcntl
    except ImportError:  # on Windows nothing is locked
        return
    how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f"{path.parent} is in use by another program") from error
    except OSError:
        return  # of a file system that knows no locks


def claim_next(parent: Path, name: str) -> Path:
    """Make `parent/name-1`, or the next number that is free.

    Programs that ask at the same time get different folders.

    Raises:
        ValueError: nothing can be made there.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            folder = parent / f"{name}-{number}"
            if not folder.exists():  # quicker than a call that fails
                try:
                    folder.mkdir()
                except FileExistsError:
                    continue
                return folder
    except OSError as error:
        raise ValueError(f"cannot write to {parent}: {error.strerror}") from error


def claim(folder: Path, first: str) -> None:
    """Make a folder, or take an empty one, and put an empty file `first` into it.

    Of two programs that claim the same folder, the second is refused.

    Raises:
        ValueError: there is something in it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = sorted(os.listdir(folder))
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}") from error
    if there:
        raise ValueError(f"{folder} is not empty: it holds {there[0]}")
    try:
        (folder / first).open("x", encoding="utf-8").close()
    except FileExistsError as error:
        raise ValueError(f"{folder} was taken by another program just now") from error
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}") from error
