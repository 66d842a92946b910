"""The course's own commands: `python -m tiny_lm.course labs`.

Chapter: index
Source: course
"""

import sys

from tiny_lm import console


def main(arguments: list[str] | None = None) -> None:
    """Run one command."""
    parser = console.Parser(prog="python -m tiny_lm.course")
    commands = parser.add_subparsers(required=True)
    labs = commands.add_parser("labs", help="write the labs anew from solutions/*.py")
    labs.set_defaults(run=_labs)
    parser.parse_args(arguments).run()


def _labs() -> None:
    from tiny_lm.course.labs.generator import (  # tools that learners do not need
        ROOT,
        write_all,
    )

    for path in write_all():
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(console.run(main))
