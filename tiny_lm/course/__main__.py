"""The course's own commands: `python -m tiny_lm.course labs`.

Chapter: index
Source: course
"""

import sys
from pathlib import Path
from typing import Any

from tiny_lm import console
from tiny_lm.course.grade import command


def main(arguments: list[str] | None = None) -> int | None:
    """Run one command; what it returns is the exit code."""
    parser = console.Parser(prog="python -m tiny_lm.course")
    commands = parser.add_subparsers(required=True)
    labs = commands.add_parser("labs", help="write the labs anew from solutions/*.py")
    labs.set_defaults(run=_labs)
    command.add(commands)
    mutants = commands.add_parser("mutants", help="try the answers kept beside checks")
    mutants.add_argument("--lab", help="of this lab alone, as in 02_moe")
    mutants.add_argument("--seed", type=int, default=0, help="of the random inputs")
    mutants.set_defaults(run=_mutants)
    told = commands.add_parser("feedback", help="tell graded results anew")
    told.add_argument("out", type=Path, metavar="DIR", help="that `grade` wrote into")
    told.add_argument("--roster", type=Path, metavar="CSV", dest="exported")
    told.add_argument("--column", default="", help="of the roster, to fill in")
    told.add_argument("--classroom", action="store_true", dest="for_classroom")
    told.set_defaults(run=_feedback)
    chosen = vars(parser.parse_args(arguments))
    return chosen.pop("run")(**chosen)


def _labs() -> None:
    from tiny_lm.course.labs.generator import (  # tools that learners do not need
        ROOT,
        write_all,
    )

    for path in write_all():
        print(f"wrote {path.relative_to(ROOT)}")


def _mutants(lab: str | None, seed: int) -> int:
    from tiny_lm.course.checks import survey  # torch takes a second

    return survey.report(lab, seed)


def _feedback(**chosen: Any) -> int:
    from tiny_lm.course.grade import reports  # only here

    return reports.tell(**chosen)


if __name__ == "__main__":
    sys.exit(console.run(main))
