"""`course-map`: the parts of the course, what is there of each, and how long it takes.

It reads `_toc.yml`, so a part that has no page yet says so by itself.
"""

import re
from pathlib import Path

import reading
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PARTS = {  # folder: its words, and the technique whose colour it has
    "01_baseline": ("The baseline: what a model costs, what it learns", "baseline"),
    "02_moe": ("Mixture of experts", "moe"),
    "03_mla": ("Latent attention", "mla"),
    "04_fp8": ("FP8", "fp8"),
    "05_comm": ("Communication, on emulated GPUs", "comm"),
    "06_together": ("All four together", "baseline"),
    "07_beyond": ("Beyond: papers, real GPUs, what came after", "baseline"),
}
TASK_MINUTES = re.compile(r"[●○]{3} · (\d+) min")
ABSENT = "not here yet"
NO_LAB = "–"  # a part that is only read
ONLY_READ = ("07_beyond",)


def pages_of(root: Path) -> list[str]:
    """Every page of the table of contents, in its order."""
    return re.findall(r"file: (\S+)", (root / "_toc.yml").read_text(encoding="utf-8"))


def chapter_minutes(root: Path, page: str) -> int:
    """How long one chapter takes to read."""
    return reading.measure(root / f"{page}.md").minutes


def lab_minutes(root: Path, lab: str) -> int:
    """The time boxes of a lab's tasks together."""
    text = (root / f"{lab}.ipynb").read_text(encoding="utf-8")
    return sum(map(int, TASK_MINUTES.findall(text)))


def hours(minutes: int) -> str:
    """Minutes as a reader plans: to the quarter of an hour from an hour on."""
    if minutes < 60:
        return f"{minutes} min"
    quarters = round(minutes / 15)
    return f"{quarters // 4}{['', '¼', '½', '¾'][quarters % 4]} h"


def rows(root: Path) -> list[tuple[str, str, str]]:
    """Part, reading and lab, as Markdown; the sum comes last."""
    pages, found, total = pages_of(root), [], [0, 0]
    for folder, (words, technique) in PARTS.items():
        chapters = [p for p in pages if p.startswith(f"chapters/{folder}/")]
        labs = [p for p in pages if p == f"labs/{folder}"]
        read = sum(chapter_minutes(root, page) for page in chapters)
        solve = sum(lab_minutes(root, lab) for lab in labs)
        total = [total[0] + read, total[1] + solve]
        name = f"{{doc}}`{words} </{chapters[0]}>`" if chapters else words
        lab = f"{{doc}}`Lab {int(folder[:2])} </{labs[0]}>`, " if labs else ""
        without = NO_LAB if folder in ONLY_READ else ABSENT
        pages_read = f"{len(chapters)} page{'s' * (len(chapters) != 1)}, {hours(read)}"
        found.append(
            (
                f"[{name}]{{.technique .{technique}}}",
                pages_read if chapters else ABSENT,
                f"{lab}{hours(solve)}" if labs else without,
            )
        )
    return [*found, ("*all*", hours(total[0]), hours(total[1]))]


class CourseMap(SphinxDirective):
    """The table, and a note to build it anew when a page changes."""

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        lines = ["| part | to read | lab |", "|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in rows(root)]
        self.env.note_dependency(str(root / "_toc.yml"))
        for page in pages_of(root):
            self.env.note_dependency(self.env.doc2path(page))
        parsed = nodes.Element()
        text = StringList(lines, source=self.env.docname)
        self.state.nested_parse(text, self.content_offset, parsed)
        return parsed.children


def setup(app: Sphinx) -> None:
    app.add_directive("course-map", CourseMap)
