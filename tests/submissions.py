"""Submissions of lab 02, good and hostile ones, as files in a folder.

Everybody who is hostile has solved task 2.5 by honest work, and nothing else: its two
points are the most that may come of it.
"""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tiny_lm.course.checks.aid import BEGIN, END
from tiny_lm.course.labs import generator

LAB, HONEST = "02_moe", "2.5"
Edit = Callable[[NotebookNode], object]


def blank(lab: str = LAB) -> NotebookNode:
    """A lab as a learner gets it."""
    return nbformat.read(generator.LABS / f"{lab}.ipynb", as_version=4)


def solved(lab: str = LAB, *tasks: str) -> NotebookNode:
    """A learner's notebook with our answers to these tasks; without names, to all."""
    ours = nbformat.read(generator.SOLUTIONS / f"{lab}.ipynb", as_version=4)
    answers = {cell.id: cell.source for cell in ours.cells}
    notebook = blank(lab)
    for cell in notebook.cells:
        wanted = not tasks or cell.id.removeprefix("answer_").replace("_", ".") in tasks
        if cell.id.startswith("answer_") and wanted:
            lines = answers[cell.id].splitlines()
            kept = [line for line in lines if line.strip() not in (BEGIN, END)]
            cell.source = "\n".join(kept)
    return notebook


def cell(notebook: NotebookNode, name: str) -> NotebookNode:
    """The cell of that id."""
    return next(one for one in notebook.cells if one.id == name)


def answer(notebook: NotebookNode, task: str, source: str) -> NotebookNode:
    """The notebook, with this source as the answer."""
    cell(notebook, f"answer_{task.replace('.', '_')}").source = (
        source.strip("\n") + "\n"
    )
    return notebook


def put(notebook: NotebookNode, task: str, *sources: str, note: str = "") -> None:
    """Cells of the learner's own before an answer."""
    name = f"answer_{task.replace('.', '_')}"
    at = next(i for i, one in enumerate(notebook.cells) if one.id == name)
    new = [nbformat.v4.new_code_cell(source) for source in sources]
    new += [nbformat.v4.new_markdown_cell(note)] * bool(note)
    notebook.cells[at:at] = new


def write(notebook: NotebookNode, file: Path) -> None:
    """As it is, valid or not."""
    file.write_text(json.dumps(notebook), encoding="utf-8")


def edited(edit: Edit) -> Callable[[Path], None]:
    """A file of the notebook that solves one task, after an edit."""

    def make(file: Path) -> None:
        notebook = solved(LAB, HONEST)
        made = edit(notebook)
        write(made if isinstance(made, dict) else notebook, file)

    return make


def _checks(notebook: NotebookNode) -> list[NotebookNode]:
    return [one for one in notebook.cells if one.id.startswith("check_")]


def _edit_checks(notebook: NotebookNode) -> None:
    for one in _checks(notebook):
        one.source = "print('passed: 2 points')"
        one.metadata.nbgrader.points = 1000


def _edit_outputs(notebook: NotebookNode) -> None:
    ours = nbformat.read(generator.SOLUTIONS / f"{LAB}.ipynb", as_version=4)
    for one in _checks(notebook):
        one.outputs = copy.deepcopy(cell(ours, one.id).outputs)
        one.execution_count = 7


def _only(kept: Callable[[NotebookNode], bool]) -> Edit:
    def edit(notebook: NotebookNode) -> None:
        notebook.cells = [one for one in notebook.cells if kept(one)]

    return edit


def _duplicate(notebook: NotebookNode) -> None:
    """The honest answer again, broken, below the first."""
    again = copy.deepcopy(cell(notebook, "answer_2_5"))
    again.source = "def load_and_violation(experts, num_experts):\n    return None"
    notebook.cells.append(again)


def _swap_ids(notebook: NotebookNode) -> None:
    """The solved function under other tasks' names."""
    source = cell(notebook, "answer_2_5").source
    for name, task in (("gate", "2.2"), ("update_bias", "2.6")):
        answer(notebook, task, f"{source}\n{name} = load_and_violation")


def _reorder(notebook: NotebookNode) -> None:
    notebook.cells.reverse()


def _retype(notebook: NotebookNode) -> None:
    for one in notebook.cells:
        if one.id.startswith(("check_", "answer_2_1")):
            one.cell_type = "raw" if one.id == "answer_2_1" else "markdown"
            del one["outputs"], one["execution_count"]


def _older(notebook: NotebookNode) -> None:
    """Two tasks fewer, other texts, and the ids of those days."""
    gone = ("answer_2_7", "check_2_7", "answer_2_8", "check_2_8")
    notebook.cells = [one for one in notebook.cells if one.id not in gone]
    for number, one in enumerate(notebook.cells):
        if not one.id.startswith(("answer_", "check_")):
            one.id, one.source = f"old-{number}", one.source[:40].partition("\n")[0]
    _checks(notebook)[0].source = "check.task_2_1(score_and_choose, strict=True)"


def _without_ids(notebook: NotebookNode) -> None:
    notebook.nbformat_minor = 4
    for one in notebook.cells:
        del one["id"]


def _without_metadata(notebook: NotebookNode) -> None:
    for one in notebook.cells:
        one.metadata = {}


def _widgets(notebook: NotebookNode) -> None:
    state = {
        f"{n:032x}": {"model_name": "Image", "state": {"v": "x" * 40}}
        for n in range(20_000)
    }
    kind = "application/vnd.jupyter.widget-state+json"
    notebook.metadata["widgets"] = {kind: {"state": state, "version_major": 2}}
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "0" * 32}}
    cell(notebook, "answer_2_5").outputs = [
        {"output_type": "display_data", "data": view, "metadata": {}}
    ] * 2000


def _from_the_model(notebook: NotebookNode) -> None:
    """Task 2.7 is a function of `tiny_lm`, and here it is."""
    answer(notebook, "2.7", "from tiny_lm.router import sequence_loss\n")


def _source(text: object) -> Edit:
    """This as the answer of task 2.1."""

    def edit(notebook: NotebookNode) -> None:
        cell(notebook, "answer_2_1").source = text

    return edit


EDITED = {
    "checks_edited": _edit_checks,
    "outputs_edited": _edit_outputs,
    "checks_deleted": _only(lambda one: not one.id.startswith("check_")),
    "answer_deleted": _only(lambda one: one.id != "answer_2_1"),
    "only_its_answer": _only(lambda one: one.id == "answer_2_5"),
    "answer_twice": _duplicate,
    "answers_swapped": _swap_ids,
    "cells_reversed": _reorder,
    "cells_retyped": _retype,
    "older_version": _older,
    "no_ids": _without_ids,
    "no_metadata": _without_metadata,
    "widget_bomb": _widgets,
    "from_the_model": _from_the_model,
    "source_deep": _source("x = " + "-" * 200_000 + "1"),
    "source_brackets": _source("x = " + "(" * 50_000),
    "source_long_sum": _source("x = " + "+".join("1" * 60_000)),
    "source_long_chain": _source("x = y" + ".z" * 60_000),
    "source_zero_byte": _source("def score_and_choose():\n    \0"),
    "source_surrogate": _source("x = '\ud800'"),
    "source_cookie": _source("# -*- coding: rot13 -*-\ncevag('uv')"),
    "source_giant_number": _source("x = " + "9" * 100_000),
    "source_no_text": _source(17),
    "source_nested": _source([["x"], {"y": 1}]),
    "source_no_python": _source("Dear grader, please give me the points."),
    "cell_no_cell": lambda notebook: notebook.cells.append("a cell"),
    "cells_no_list": lambda notebook: notebook | {"cells": {"0": notebook.cells[0]}},
    "metadata_no_dict": lambda notebook: notebook | {"metadata": "none"},
    "format_3": lambda notebook: notebook | {"nbformat": 3, "worksheets": []},
    "format_99": lambda notebook: notebook | {"nbformat": 99},
}


def _text(content: str | bytes) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda file: file.write_bytes(data)


def _latin(file: Path) -> None:
    notebook = solved(LAB, HONEST)
    cell(notebook, "answer_2_5").source += "# façade"
    text = json.dumps(notebook, ensure_ascii=False)
    file.write_bytes(text.encode("latin-1", "replace"))


def _wide(file: Path) -> None:
    file.write_text(json.dumps(solved(LAB, HONEST)), encoding="utf-16")


def _huge(file: Path) -> None:
    write(solved(), file)
    os.truncate(file, 100 * 2**20)


def _short(file: Path) -> None:
    write(solved(), file)
    os.truncate(file, file.stat().st_size // 2)


FILES: dict[str, Callable[[Path], object]] = {
    "empty": _text(""),
    "no_json": _text("PK\x03\x04 this was a spreadsheet"),
    "cut_short": _short,
    "a_list": _text("[]"),
    "a_number": _text("NaN"),
    "bare": _text("{}"),
    "deep_json": _text("[" * 200_000),
    "deep_metadata": _text('{"cells": [], "metadata": ' + '{"a":' * 90_000),
    "giant_number": _text('{"nbformat": ' + "9" * 100_000 + "}"),
    "zero_bytes": _text(b"\0" * 10_000),
    "latin_1": _latin,
    "utf_16": _wide,
    "100_mb": _huge,
    "other_lab": lambda file: write(solved("01_baseline"), file),
    "a_link": lambda file: file.symlink_to("neighbour.ipynb"),
    "a_link_out": lambda file: file.symlink_to("/etc/passwd"),
    "a_dead_link": lambda file: file.symlink_to("nowhere.ipynb"),
    "a_pipe": lambda file: os.mkfifo(file),
    "a_folder": lambda file: file.mkdir(),
    "a_device": lambda file: file.symlink_to("/dev/zero"),
}
