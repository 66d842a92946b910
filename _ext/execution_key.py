"""The execution cache lives in a folder named after all that a page's numbers rest on.

The book tool looks at the text of a page's cells alone: after a change in a module it
printed the old numbers. A folder per state of the code cannot do that.
"""

import contextlib
import hashlib
import platform
import shutil
from pathlib import Path

KEPT = 3  # states of the code whose results stay, so that switching back is cheap


def inputs(root: Path) -> list[Path]:
    """Files that may change a number on a page, besides the page itself."""
    code = [*root.glob("tiny_lm/**/*.py"), *root.glob("tiny_lm/**/*.json")]
    recorded = (p for p in root.glob("chapters/_results/**/*") if p.is_file())
    return sorted([*code, *recorded, *root.glob("constraints.txt")])


def look(root: Path) -> list[Path]:
    """Files that change how pages look: styles, this extension, explorers' scripts."""
    folders = ("_static/*.*", "_ext/*.*", "tiny_lm/course/explorers/*.*s")
    return sorted(path for pattern in folders for path in root.glob(pattern))


def digest(root: Path, paths: list[Path], start: str = "") -> str:
    """One short name for the names and contents of some files."""
    state = hashlib.sha256(start.encode())
    for path in paths:
        state.update(path.relative_to(root).as_posix().encode())
        state.update(hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()[:16]


def execution_key(root: Path) -> str:
    """One short name for the state of the code, its pins and its Python."""
    return digest(root, inputs(root), platform.python_version())


_held = {}  # folder: its lock, which ends with this process


def hold(build: Path) -> None:
    """Keep other builds out of this folder for as long as this process lives.

    Raises:
        RuntimeError: another build is at work there.
    """
    with contextlib.suppress(ImportError):  # Windows has no such locks
        import fcntl

        if build not in _held:
            build.mkdir(parents=True, exist_ok=True)
            file = (build / "lock").open("a", encoding="utf-8")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                raise RuntimeError(
                    f"another build is at work in {build}: let it end first"
                ) from error
            _held[build] = file


def cache_folder(root: Path, build: Path) -> Path:
    """The folder of this state; the oldest ones beside it are removed."""
    hold(build)
    folder = build / "executed" / execution_key(root)
    folder.mkdir(parents=True, exist_ok=True)
    folder.touch()
    by_age = sorted(folder.parent.iterdir(), key=lambda p: p.stat().st_mtime)
    for old in by_age[:-KEPT]:
        shutil.rmtree(old)
    return folder
