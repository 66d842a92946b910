"""Submissions made of our own answers: for tests, benchmarks and a first try.

Chapter: appendix/teaching
Source: course
"""

import nbformat
from nbformat import NotebookNode

from tiny_lm.course.labs.generator import LABS, SOLUTIONS


def blank(lab: str) -> NotebookNode:
    """The lab as a learner gets it."""
    return nbformat.read(LABS / f"{lab}.ipynb", as_version=4)


def solved(lab: str) -> NotebookNode:
    """The lab with our answers, without outputs."""
    found = blank(lab)
    ours = nbformat.read(SOLUTIONS / f"{lab}.ipynb", as_version=4)
    answers = {cell.id: cell.source for cell in ours.cells}
    for cell in found.cells:
        if cell.id.startswith("answer_"):
            cell.source = answers[cell.id]
    return found


def with_answer(notebook: NotebookNode, task: str, source: str) -> NotebookNode:
    """The same with another answer to one task, such as "2.2"."""
    found = nbformat.from_dict(notebook)
    for cell in found.cells:
        if cell.id == f"answer_{task.replace('.', '_')}":
            cell.source = source
    return found
