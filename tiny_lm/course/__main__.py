"""The course's own commands: `python -m tiny_lm.course labs`.

Chapter: index
Source: course
"""

import sys

from tiny_lm import console


def main(arguments: list[str] | None = None) -> int | None:
    """Run one command; what it returns is the exit code."""
    parser = console.Parser(prog="python -m tiny_lm.course")
    commands = parser.add_subparsers(required=True)
    labs = commands.add_parser("labs", help="write the labs anew from solutions/*.py")
    labs.set_defaults(run=_labs)
    mutants = commands.add_parser("mutants", help="try the answers kept beside checks")
    mutants.add_argument("--lab", help="of this lab alone, as in 02_moe")
    mutants.add_argument("--seed", type=int, default=0, help="of the random inputs")
    mutants.set_defaults(run=_mutants)
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


if __name__ == "__main__":
    sys.exit(console.run(main))
