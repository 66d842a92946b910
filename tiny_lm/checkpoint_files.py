"""Checkpoints on disk: whole or not there, never unpickled, found again by checksum.

Chapter: 06_together/keep_and_resume
Source: torch_dcp; safetensors

    RUN/checkpoints/step-000050/0.safetensors    what rank 0 wrote, 1.safetensors, …
                                checkpoint.json  what is in which file, and all else

A program can be killed between any two bytes. So all files are first written into a
folder with a name of its own and flushed to the disk, and then the folder is renamed,
which happens at once or not at all. Folders of programs that were killed before that
begin with a dot, and the next one clears them away.

Nothing here is a pickle, which is a program that runs when it is read. What is read is
JSON and safetensors, and only after its checksum was found to be right.
"""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tiny_lm import files

FOLDER = "checkpoints"
ABOUT = "checkpoint.json"
FORMAT, VERSION = "tiny_lm checkpoint", 1
KEPT = 2  # the newest, and one to fall back on should a disk damage it

_NAME = re.compile(r"step-(\d{6,})")
_DRAFT = ".draft-"


class Damaged(ValueError):
    """A checkpoint that is not what was written; the message names the file."""


def checksum(raw: bytes) -> str:
    """Sixteen hexadecimal digits that any change of the bytes would change."""
    return blake2b(raw, digest_size=8).hexdigest()


def write_through(path: Path, raw: bytes) -> None:
    """Write a file, and wait until the disk has it."""
    with path.open("xb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def settle(path: Path) -> None:
    """Wait until the disk has this file, or the names that are in this folder."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders, and notes renames by itself
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def new_draft(run: Path) -> Path:
    """A new folder for a checkpoint that nobody can find yet.

    What killed programs left behind goes.
    """
    clear_drafts(run)
    draft = run / FOLDER / f"{_DRAFT}{uuid.uuid4().hex}"
    draft.mkdir(parents=True)
    return draft


def clear_drafts(run: Path) -> None:
    """Remove what was never finished, or not removed to the end."""
    for left in (run / FOLDER).glob(f"{_DRAFT}*"):
        shutil.rmtree(left, ignore_errors=True)


def publish(draft: Path, about: Mapping[str, Any]) -> Path:
    """Make a draft whose files are on the disk the newest checkpoint.

    Args:
        about: what the checkpoint says of itself; `step` gives it its name.
    """
    content = {"format": FORMAT, "version": VERSION, **about}
    whole = {"checksum": _of_content(content), **content}
    write_through(draft / ABOUT, files.to_json(whole, indent=1).encode())
    settle(draft)
    place = draft.with_name(f"step-{about['step']:06d}")
    draft.rename(place)
    settle(place.parent)
    return place


def prune(run: Path, kept: int = KEPT) -> None:
    """Remove all but the newest ones, each at once or not at all."""
    for old in all_of(run)[: -kept or None]:
        doomed = old.with_name(f"{_DRAFT}{uuid.uuid4().hex}")
        old.rename(doomed)
        shutil.rmtree(doomed)


def all_of(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = [(step_of(p), p) for p in (run / FOLDER).glob("step-*") if step_of(p)]
    return [path for _, path in sorted(found)]


def step_of(checkpoint: Path) -> int | None:
    """The step after which it was written, by its name; None where it is no such."""
    found = _NAME.fullmatch(checkpoint.name)
    return int(found[1]) if found else None


def read_about(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself; its tensors' files are not looked at.

    Raises:
        ValueError: it is another program's, or of another version; names the file.
        Damaged: it is not what was written.
    """
    path = checkpoint / ABOUT
    if not path.is_file():
        raise Damaged(f"{checkpoint} is not a checkpoint: it has no {ABOUT}")
    try:
        about = files.read_json(path)
    except ValueError as error:
        raise Damaged(str(error)) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"{path} was written by another program than tiny_lm")
    if about.get("version") != VERSION:
        raise ValueError(
            f"{path} has the format of another version of tiny_lm: number "
            f"{about.get('version')}, and this one reads number {VERSION}"
        )
    if about.pop("checksum", None) != _of_content(about):
        raise Damaged(f"{path} is damaged: its checksum does not fit its content")
    return about


def check_files(checkpoint: Path, about: Mapping[str, Any]) -> None:
    """Make sure that every file is there, and holds what was written into it.

    Raises:
        Damaged: one is not, or does not; names it.
    """
    for name, written in about["files"].items():
        path = checkpoint / Path(name).name
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise Damaged(f"cannot read {path}: {error.strerror}") from error
        if len(raw) != written["bytes"]:
            raise Damaged(
                f"{path} is damaged: it has {len(raw):,} bytes, and "
                f"{written['bytes']:,} were written"
            )
        if checksum(raw) != written["checksum"]:
            raise Damaged(f"{path} is damaged: its checksum does not fit")


def drop(run: Path) -> None:
    """Remove all checkpoints of a run: it has come to its end."""
    prune(run, kept=0)
    clear_drafts(run)
    with contextlib.suppress(OSError):
        (run / FOLDER).rmdir()


def _of_content(content: Mapping[str, Any]) -> str:
    return checksum(files.to_json(content).encode())
