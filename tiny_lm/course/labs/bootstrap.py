"""The first cell of every lab: makes `tiny_lm` importable, on Colab or at home.

Chapter: index
Source: course

The generator copies this file from its first import on into each lab and adds the
call of `set_up`, so nothing here may need the course itself.
"""

import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

KEPT = ("torch", "numpy", "ipywidgets")  # Colab's own stay as they are


def set_up(repository: str, tag: str) -> None:
    """Make `tiny_lm` importable, and say what was done."""
    if "google.colab" in sys.modules or "COLAB_RELEASE_TAG" in os.environ:
        course = find_course() or fetch_course(repository, tag)
        install(course)
        os.chdir(course / "labs")
    if importlib.util.find_spec("tiny_lm") is None:
        raise ModuleNotFoundError(
            "This kernel has no tiny_lm. In the course's folder, `make lab` makes an "
            "environment that has it and opens the labs there."
        )
    print(
        f"Ready: tiny_lm in {Path(importlib.util.find_spec('tiny_lm').origin).parent}"
    )


def find_course() -> Path | None:
    """The course's folder: here, above, or unpacked below."""
    here = Path.cwd()
    for folder in (here, *here.parents, *sorted(here.glob("*/"))):
        if (folder / "tiny_lm" / "course").is_dir():
            return folder
    return None


def fetch_course(repository: str, tag: str) -> Path:
    """Clone the version that this lab was made for; the newest where that is gone."""
    if not repository:
        raise RuntimeError(
            "This copy of the lab does not know where the course lives. Upload the "
            "course's folder as a zip file (folder symbol on the left), run "
            "`!unzip -q FILE.zip` in a new cell, then run this cell again."
        )
    folder = Path.cwd() / "course"
    if folder.exists():
        raise RuntimeError(f"{folder} is there, and no course in it: move it away")
    clone = ["git", "clone", "--quiet", "--depth", "1"]
    wanted = subprocess.run([*clone, "--branch", tag, repository, folder])
    if wanted.returncode:
        print(f"No version {tag} there: taking the newest.")
        if subprocess.run([*clone, repository, folder]).returncode:
            raise RuntimeError(f"git could not fetch {repository}; is it reachable?")
    return folder


def install(course: Path) -> None:
    """Install the course and what it misses, nothing that is here already."""
    before = installed()
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder, "held.txt")
        lines = (f"{name}=={number}\n" for name, number in kept().items())
        held.write_text("".join(lines), encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", held]
        command = [*pip, "--editable", course]
        run = subprocess.run(command, capture_output=True, encoding="utf-8")
    if run.returncode:
        raise RuntimeError(f"pip could not install {course}:\n{run.stderr[-2000:]}")
    sys.path.insert(0, str(course))
    importlib.invalidate_caches()
    new = sorted(installed() - before) or ["nothing"]
    print("Kept:", ", ".join(f"{name} {number}" for name, number in kept().items()))
    print("Installed:", ", ".join(new))


def installed() -> set[str]:
    """Names of all packages that are here."""
    return {package.metadata["Name"] for package in distributions()}


def kept() -> dict[str, str]:
    """The packages to leave alone, with their versions."""
    found = {}
    for name in KEPT:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
