"""Help on request: three hints a task, and the solution after an honest try.

Chapter: index
Source: course

Asking is recorded nowhere.
"""

import textwrap
from pathlib import Path

from tiny_lm.course.checks.task import TASKS, Task, last_checked

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
KINDS = ("a nudge", "the idea", "almost the line")


def hint(number: int = 1, task: str | None = None) -> None:
    """Print hint 1, 2 or 3 of a task: by default, of the one checked last.

    Raises:
        ValueError: no such hint or task, or nothing has been checked yet.
    """
    if number not in (1, 2, 3):
        raise ValueError(f"there are hints 1, 2 and 3, not {number!r}")
    chosen = _find(task, f'hint({number}, "1.1")')
    print(f"Task {chosen.id}, hint {number} of 3: {KINDS[number - 1]}")
    print(textwrap.indent(textwrap.dedent(chosen.hints[number - 1]).strip(), "  "))
    if number < 3:
        print(f"hint({number + 1}) says more.")


def show_solution(task: str | None = None) -> None:
    """Print our solution of a task, once you have tried one of your own.

    A try is a check of anything but the stub.

    Raises:
        ValueError: no such task, or nothing has been checked yet.
    """
    chosen = _find(task, 'show_solution("1.1")')
    if not chosen.attempts:
        print(
            f"Task {chosen.id}: try first. Write what you have, however rough, and run "
            f"its check once.\nUntil then there are hints: "
            f'hint(1, "{chosen.id}"), hint(2, "{chosen.id}"), hint(3, "{chosen.id}").'
        )
        return
    print(f"Task {chosen.id}: one way to write it. Yours may differ and be as good.\n")
    print(textwrap.indent(_solution(chosen), "    "))


def _find(task: str | None, example: str) -> Task:
    chosen = last_checked() if task is None else TASKS.get(str(task))
    if chosen:
        return chosen
    if task is None:
        raise ValueError(f"no check has run yet; name the task: {example}")
    raise ValueError(f"no task {task!r}; there are: {', '.join(sorted(TASKS))}")


def _solution(task: Task) -> str:
    """The function, cut from the lab's one source."""
    source = solutions_folder() / f"{task.lab}.py"
    if not source.is_file():
        return f"(not here: it is in solutions/{task.lab}.py of the course)"
    for cell in source.read_text(encoding="utf-8").split("# %%"):
        if BEGIN in cell and f"def {task.name}(" in cell:
            lines = cell.splitlines()[1:]
            return "\n".join(x for x in lines if x.strip() not in (BEGIN, END)).strip()
    raise LookupError(f"{source} has no solution of task {task.id}")


def solutions_folder() -> Path:
    """The folder `solutions` of the checkout that this package was installed from."""
    return Path(__file__).resolve().parents[3] / "solutions"
