"""`python -m tiny_lm.course grade`: what it takes, and what it says.

Chapter: appendix/teaching
Source: course
"""

import argparse
import os
import re
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command."""
    told = "grade a folder of notebooks"
    parser = commands.add_parser("grade", help=told, description=told)
    parser.add_argument("submissions", type=Path, help="folder, or one notebook")
    parser.add_argument("--lab", required=True, help="as in 02_moe")
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--jobs", type=_count, help="at once (default: one a core)")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=30.0,
        metavar="S",
        dest="timeout_s",
        help="seconds for one task (default: 30)",
    )
    parser.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="i/n", help="every n-th alone"
    )
    parser.add_argument("--seed", type=int, help="of the hidden inputs")
    parser.add_argument(
        "--lab-run",
        choices=("short", "full", "none"),
        default="short",
        help="run the whole lab, too: with one step in each training (default), or all",
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--without-reference",
        dest="reference",
        action="store_false",
        help="tiny_lm's own answers are not there for learners' code (default)",
    )
    either.add_argument(
        "--with-reference",
        dest="reference",
        action="store_true",
        help="learners' code may use tiny_lm's own modules",
    )
    parser.set_defaults(run=grade, reference=False)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number from 1 on, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"seconds, from 1 on, got {text!r}")
    return seconds


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    i, n = (int(x) for x in found.groups()) if found else (0, 0)
    if not 1 <= i <= n:
        raise argparse.ArgumentTypeError(f"i/n with i from 1 to n, got {text!r}")
    return i, n


def grade(submissions: Path, lab: str, out: Path, **how: Any) -> int:
    """Grade, and say what came of it; 0 if all were graded.

    Args:
        how: as `grade_folder` takes it.
    """
    if not hasattr(os, "fork"):
        raise ValueError("grading needs Linux or macOS; on Windows, use WSL")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from tiny_lm.course.grade.run import grade_folder  # torch takes a while

    graded = grade_folder(submissions, lab, out, **how)
    for record in graded.records:
        said = f"{record['points']} of {record['max_points']} points"
        if record["status"] == "refused":
            said = f"refused: {record['reason']}"
        odd = len(record["notes"])
        notes = f" ({odd} note{'s' * (odd > 1)})" if odd else ""
        print(f"{record['learner']}: {said}{notes}")
    for learner, why in graded.left.items():
        print(f"{learner}: NOT GRADED, {why}")
    print(f"{len(graded.records)} graded in {graded.seconds:.0f} s")
    if graded.records:
        print(f"The class is in {out / 'summary.html'}")
    return 1 if graded.left else 0
