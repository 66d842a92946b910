"""Write the labs: one source, a notebook with the answers and one without.

Chapter: index
Source: course

`solutions/NN_slug.py` is a jupytext percent script. What stands in it between
`### BEGIN SOLUTION` and `### END SOLUTION` is cut for the learner. Cells keep their
ids and all metadata is either made here or dropped, so that two runs give the same
bytes. Metadata of tasks follows nbgrader's schema 3.
"""

import hashlib
import itertools
import os
import re
import tempfile
import textwrap
import tomllib
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from tiny_lm.course.checks.aid import BEGIN, END
from tiny_lm.course.checks.task import TASKS, Task, tasks_of
from tiny_lm.files import write_whole

ROOT = Path(__file__).resolve().parents[3]
SOLUTIONS, LABS = ROOT / "solutions", ROOT / "labs"

CHECK = re.compile(r"^check\.task_(\d+)_(\d+)\(", re.MULTILINE)
HEADING = re.compile(r"^## Task (\d+\.\d+)$", re.MULTILINE)
CUT = re.compile(
    rf"^(?P<indent> *){BEGIN}\n(?P<lines>.*?)^ *{END}$", re.MULTILINE | re.DOTALL
)
KERNEL = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python"},
}


def write_all() -> list[Path]:
    """Write both notebooks of every lab; returns what was written."""
    written = []
    for source in sorted(SOLUTIONS.glob("[0-9][0-9]_*.py")):
        solved = build(source)
        print(f"{source.stem}: running it once", flush=True)
        solved = with_outputs(solved)
        keep_answers(LABS / f"{source.stem}.ipynb")
        for folder, notebook in ((SOLUTIONS, solved), (LABS, without_answers(solved))):
            path = folder / f"{source.stem}.ipynb"
            path.parent.mkdir(exist_ok=True)
            write_whole(path, text_of(notebook))
            written.append(path)
    return written


def build(source: Path) -> NotebookNode:
    """The solved notebook, not yet run."""
    tasks_of(source.stem)
    notebook = jupytext.read(source, fmt="py:percent")
    cells = [_clean(cell) for cell in notebook.cells]
    first_code = next(i for i, cell in enumerate(cells) if cell.cell_type == "code")
    cells.insert(first_code, bootstrap_cell())
    _mark_tasks(cells)
    _name_cells(cells)
    return nbformat.v4.new_notebook(
        cells=cells, metadata=nbformat.from_dict(KERNEL), nbformat_minor=5
    )


def _clean(cell: NotebookNode) -> NotebookNode:
    """The cell's text, with nothing that a tool put beside it."""
    if cell.cell_type == "code":
        return nbformat.v4.new_code_cell(cell.source)
    return nbformat.v4.new_markdown_cell(HEADING.sub(_full_heading, cell.source))


def _full_heading(found: re.Match[str]) -> str:
    task = TASKS[found[1]]
    return f"## Task {task.id} · {task.title}\n\n{task.label}"


def bootstrap_cell() -> NotebookNode:
    """The cell that makes the course importable, folded away."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    repository = project.get("urls", {}).get("Repository", "")
    text = (Path(__file__).parent / "bootstrap.py").read_text(encoding="utf-8")
    body = text[text.index("\nimport ") + 1 :]
    call = f"set_up(repository={repository!r}, tag={'v' + project['version']!r})"
    title = "#@title Run this cell first: it finds or installs the course"
    cell = nbformat.v4.new_code_cell(f"{title}\n{body}\n\n{call}")
    cell.metadata = nbformat.from_dict(
        {
            "cellView": "form",
            "jupyter": {"source_hidden": True},
            "tags": ["set-up", "hide-input"],
        }
    )
    return cell


def _mark_tasks(cells: list[NotebookNode]) -> None:
    """Metadata for each check cell and for the answer before it."""
    waiting: list[NotebookNode] = []
    for cell in cells:
        if cell.cell_type != "code":
            continue
        if BEGIN in cell.source:
            waiting.append(cell)
        if found := CHECK.search(cell.source):
            if len(waiting) != 1:
                raise ValueError(f"{found[0]} must follow one cell with {BEGIN!r}")
            task = TASKS[f"{found[1]}.{found[2]}"]
            _mark(waiting.pop(), task, graded=False)
            _mark(cell, task, graded=True)
    if waiting:
        raise ValueError(f"an answer without a check:\n{waiting[0].source}")


def _mark(cell: NotebookNode, task: Task, graded: bool) -> None:
    kind = "check" if graded else "answer"
    grading = {
        "schema_version": 3,
        "grade_id": f"{kind}_{task.id.replace('.', '_')}",
        "grade": graded,
        "locked": graded,
        "solution": not graded,
        "task": False,
    }
    cell.metadata = NotebookNode(nbgrader=NotebookNode(grading), deletable=False)
    if graded:
        cell.metadata.nbgrader.points = task.points
        cell.metadata.editable = False
        cell.metadata.tags = ["nbval-check-output"]


def _name_cells(cells: list[NotebookNode]) -> None:
    """An id from the grade id, or from the text; it survives changes elsewhere."""
    seen: set[str] = set()
    for cell in cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:12]
        name = name or f"cell-{digest}"
        while name in seen:
            name += "-again"
        seen.add(name)
        cell.id = name


def with_outputs(notebook: NotebookNode) -> NotebookNode:
    """Run it top to bottom; what the checks print is kept, all else is dropped.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    ran = nbformat.from_dict(notebook)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TINY_LM_PIECES": folder}
        client = NotebookClient(
            ran, timeout=600, resources={"metadata": {"path": str(SOLUTIONS)}}
        )
        client.execute(env=environment)
    return with_texts(ran, check_texts(ran))


def check_texts(notebook: NotebookNode) -> dict[str, str]:
    """What each check printed, by its cell.

    A kernel may send the same text in one piece or in several.
    """
    return {
        cell.id: "".join(o.text for o in cell.outputs if o.get("name") == "stdout")
        for cell in notebook.cells
        if cell.cell_type == "code" and _is_check(cell)
    }


def with_texts(notebook: NotebookNode, texts: dict[str, str]) -> NotebookNode:
    """The notebook with these texts as outputs of its checks, and no others."""
    ran = nbformat.from_dict(notebook)
    cells = (cell for cell in ran.cells if cell.cell_type == "code")
    for number, cell in enumerate(cells, 1):
        cell.metadata.pop("execution", None)
        cell.outputs, cell.execution_count = [], None
        if _is_check(cell):
            text = texts[cell.id]
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
            cell.execution_count = number
    ran.metadata = nbformat.from_dict(KERNEL)
    return ran


def _is_check(cell: NotebookNode) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("grade"))


def without_answers(solved: NotebookNode) -> NotebookNode:
    """The learner's copy: stubs in place of answers, and no outputs."""
    lab = nbformat.from_dict(solved)
    for cell in lab.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if cell.metadata.get("nbgrader", {}).get("solution"):
                cell.source = stub(cell.source, cell.metadata.nbgrader.grade_id)
    return lab


def stub(source: str, grade_id: str) -> str:
    """An answer without its body: how long ours is, and an error that says which task.

    Raises:
        ValueError: the markers do not form exactly one pair.
    """
    task = TASKS[grade_id.removeprefix("answer_").replace("_", ".")]
    if source.count(BEGIN) != 1 or not CUT.search(source):
        raise ValueError(f"task {task.id} needs one {BEGIN!r} and one {END!r}")

    def cut(found: re.Match[str]) -> str:
        lines = [x for x in found["lines"].splitlines() if x.strip()]
        body = (
            f"# (about {len(lines)} line{'s' * (len(lines) > 1)})\n"
            f'raise NotImplementedError("Task {task.id}: {task.name}")'
        )
        return textwrap.indent(body, found["indent"])

    return CUT.sub(cut, source)


def keep_answers(path: Path) -> None:
    """Put a lab that somebody worked in aside, before it is written anew."""
    if not path.is_file():
        return
    try:
        lab = nbformat.read(path, as_version=4)
    except Exception as error:  # whatever nbformat says of what is no notebook
        raise ValueError(f"{path} is no notebook, so it stays: {error}") from error
    answers = [c for c in lab.cells if c.metadata.get("nbgrader", {}).get("solution")]
    if all('raise NotImplementedError("Task ' in cell.source for cell in answers):
        return
    for number in itertools.count(1):
        aside = path.with_name(f"{path.stem}.yours-{number}.ipynb")
        try:
            with aside.open("xb") as file:  # nobody's other notebook is overwritten
                file.write(path.read_bytes())
        except FileExistsError:
            continue
        path.unlink()
        print(f"{path.name} holds answers: kept as {aside.name}")
        return


def text_of(notebook: NotebookNode) -> str:
    """The bytes of the file: valid, keys sorted, one line feed at the end."""
    nbformat.validate(notebook)
    return nbformat.writes(notebook).rstrip("\n") + "\n"
