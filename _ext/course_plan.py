"""`course-plan`: what a class does when, and how long reading and tasks take.

Each line is `when | pages | tasks`: pages by their folder and name, tasks by the slug
of their lab and numbers, as in `5.1-5.4`; a slug alone is the whole lab. Minutes are
counted.
"""

import re
from pathlib import Path

from course_map import ABSENT, chapter_minutes, hours
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

TASK = re.compile(r"## Task (\d+\.\d+) ·.*?[●○]{3} · (\d+) min", re.DOTALL)
RANGE = re.compile(r"(\d+)\.(\d+)(?:-\d+\.(\d+))?")


def task_minutes(root: Path, slug: str) -> dict[str, int]:
    """The time box of each task of a lab; none where the lab is not there."""
    path = root / "labs" / f"{slug}.ipynb"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return {task: int(minutes) for task, minutes in TASK.findall(text)}


def chosen(words: str) -> list[str]:
    """The tasks that `5.1-5.3 5.6` names."""
    found = []
    for lab, first, last in RANGE.findall(words):
        numbers = range(int(first), int(last or first) + 1)
        found += [f"{lab}.{number}" for number in numbers]
    return found


def reading_of(root: Path, pages: list[str]) -> tuple[str, int]:
    """Links to pages, as Markdown, and the minutes that they take."""
    links = [f"{{doc}}`/chapters/{page}`" for page in pages]
    return ", ".join(links), sum(chapter_minutes(root, f"chapters/{p}") for p in pages)


def tasks_of(root: Path, words: str) -> tuple[str, int]:
    """What is solved, as Markdown, and the minutes of its time boxes.

    Raises:
        ValueError: the lab has no such task.
    """
    slug, _, wanted = words.strip().partition(" ")
    if not slug:
        return "", 0
    boxes = task_minutes(root, slug)
    if not boxes:
        return f"Lab {int(slug[:2])}: {ABSENT}", 0
    tasks = chosen(wanted) or list(boxes)
    if unknown := sorted(set(tasks) - set(boxes)):
        raise ValueError(f"{slug} has no task {', '.join(unknown)}")
    which = f"tasks {wanted.strip()}" if wanted.strip() else "all of it"
    link = f"{{doc}}`Lab {int(slug[:2])} </labs/{slug}>`, {which}"
    return link, sum(boxes[task] for task in tasks)


def rows(root: Path, lines: list[str]) -> list[tuple[str, ...]]:
    """When, what is read and solved, and the time of both; the sum comes last."""
    found: list[tuple[str, ...]] = []
    total = [0, 0]
    for line in lines:
        when, pages, tasks = (part.strip() for part in f"{line}||".split("|")[:3])
        links, read = reading_of(root, pages.split())
        solved, solve = tasks_of(root, tasks)
        total = [total[0] + read, total[1] + solve]
        found.append((when, links, time(read), solved, time(solve)))
    return [*found, ("*in all*", "", time(total[0]), "", time(total[1]))]


def time(minutes: int) -> str:
    """Minutes or hours in one piece; nothing for none."""
    return hours(minutes).replace(" ", "\N{NO-BREAK SPACE}") if minutes else ""


class CoursePlan(SphinxDirective):
    """The table, and a note to build it anew when a page or a lab changes."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        lines = ["| when | to read | time | to solve | time |", "|---|---|---|---|---|"]
        try:
            told = rows(root, [line for line in self.content if line.strip()])
        except (ValueError, OSError) as error:
            raise self.error(str(error)) from error
        lines += [f"| {' | '.join(row)} |" for row in told]
        for path in [*root.glob("chapters/*/*.md"), *root.glob("labs/*.ipynb")]:
            self.env.note_dependency(str(path))
        parsed = nodes.Element()
        text = StringList(lines, source=self.env.docname)
        self.state.nested_parse(text, self.content_offset, parsed)
        return parsed.children


def setup(app: Sphinx) -> None:
    app.add_directive("course-plan", CoursePlan)
