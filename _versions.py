"""Test the course with versions other than the pinned ones.

    python3 _versions.py newest [--hold torch] [--dry-run]
    python3 _versions.py oldest [--hold torch] [--dry-run]

`newest` installs the newest of everything that `pyproject.toml` allows, `oldest` the
oldest of what it names; each in an environment of its own below `_build`, and runs the
tests there. `--hold` keeps a package at the version of `constraints.txt`. pip knows the
newest alone, so uv installs.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
RESOLUTION = {"newest": "highest", "oldest": "lowest-direct"}


def held(names, constraints):
    """The tested versions of some packages, as lines.

    Raises:
        ValueError: one of them is not in `constraints.txt`.
    """
    lines = {line.split("==")[0]: line for line in constraints.split() if "==" in line}
    unknown = sorted(set(names) - set(lines))
    if unknown:
        raise ValueError(f"constraints.txt has no {', '.join(unknown)}")
    return [lines[name] for name in names]


def installation(python, which, pins, dry_run=False):
    """The command that installs, and the environment for it."""
    command = [python.with_name("uv"), "pip", "install", "--python", python]
    command += ["--resolution", RESOLUTION[which], "--upgrade"]
    command += ["--index-strategy", "unsafe-best-match", "--constraint", pins]
    command += ["--editable", ".[test]"] + ["--dry-run"] * dry_run
    more = os.environ.get("PIP_EXTRA_INDEX_URL")  # README.md: how to take a CPU build
    return command, {**os.environ, **({"UV_EXTRA_INDEX_URL": more} if more else {})}


def run(command, environ=None):
    """A command of which the rest depends.

    Raises:
        SystemExit: it fails.
    """
    command = [str(part) for part in command]
    code = subprocess.call(command, cwd=str(ROOT), env=environ)
    if code:
        sys.exit(f"\n{' '.join(command)}\nfailed with exit code {code}")


def main(arguments=None):
    """Make the environment, say what is in it, run the tests."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("which", choices=RESOLUTION)
    parser.add_argument("--hold", action="append", default=[], metavar="PACKAGE")
    parser.add_argument("--dry-run", action="store_true", help="install nothing")
    args = parser.parse_args(arguments)
    lines = held(args.hold, (ROOT / "constraints.txt").read_text(encoding="utf-8"))
    place = ROOT / "_build" / f"{args.which}-versions"
    place.mkdir(parents=True, exist_ok=True)
    pins = place / "pins.txt"
    pins.write_text("\n".join([*lines, ""]), encoding="utf-8")
    python = place / "venv" / "bin" / "python"
    run([sys.executable, "-m", "venv", place / "venv"])
    run([python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "uv"])
    run(*installation(python, args.which, pins, args.dry_run))
    if not args.dry_run:
        run([python, "-m", "pytest", "-q"], {**os.environ, "PYTHONPATH": str(ROOT)})


if __name__ == "__main__":
    main()
