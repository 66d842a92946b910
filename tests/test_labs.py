"""Labs are written from one source: stubs, ids, metadata, and no answer inside."""

import ast
import os
import re
import sys

import jupytext
import nbformat
import pytest

from tiny_lm.course.__main__ import main
from tiny_lm.course.checks.aid import BEGIN, END
from tiny_lm.course.checks.task import TASKS, tasks_of
from tiny_lm.course.labs import generator as labs
from tiny_lm.course.labs.steps import training_steps

SOURCES = sorted(labs.SOLUTIONS.glob("[0-9][0-9]_*.py"))
ALLOWED = {"torch", "numpy", "matplotlib", "ipywidgets", "einops", "jaxtyping"}
KEYS = {"nbgrader", "tags", "deletable", "editable", "cellView", "jupyter"}

each_lab = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def read(folder, source):
    return nbformat.read(folder / f"{source.stem}.ipynb", as_version=4)


def grading(cell):
    return cell.metadata.get("nbgrader", {})


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def write_source(tmp_path):
    """Write a small source of a lab; its tasks are those of lab 01."""

    def write(*cells):
        path = tmp_path / "01_baseline.py"
        path.write_text("\n\n".join(f"# %%\n{cell}" for cell in cells))
        return path

    return write


ANSWER = f"def f(x: int) -> int:\n    {BEGIN}\n    return 2 * x\n    {END}"


@each_lab
def test_regenerating_changes_nothing(source):
    """Checks' texts are taken as kept: `test_lab_runs` compares them with a run."""
    texts = labs.check_texts(read(labs.SOLUTIONS, source))
    assert len(texts) == len(tasks_of(source.stem)) and all(texts.values())
    solved = labs.with_texts(labs.build(source), texts)
    for folder, made in (
        (labs.SOLUTIONS, solved),
        (labs.LABS, labs.without_answers(solved)),
    ):
        kept = (folder / f"{source.stem}.ipynb").read_text(encoding="utf-8")
        assert labs.text_of(made) == kept, "run `make labs` and commit what it writes"


def test_a_run_keeps_what_checks_print_and_nothing_else():
    cells = [nbformat.v4.new_code_cell(f"print({n})") for n in range(3)]
    cells[1].metadata["nbgrader"] = {"grade": True}
    made = labs.with_outputs(nbformat.v4.new_notebook(cells=cells))
    assert [c.execution_count for c in made.cells] == [None, 2, None]
    assert [len(c.outputs) for c in made.cells] == [0, 1, 0]
    assert made.cells[1].outputs[0].text == "1\n"


@each_lab
def test_lab_holds_no_answer(source):
    lab = " ".join(cell.source for cell in read(labs.LABS, source).cells)
    answers = re.findall(f"{BEGIN}\n(.*?){END}", source.read_text(), re.DOTALL)
    lines = {line.strip() for answer in answers for line in answer.splitlines()}
    assert len(answers) == len(tasks_of(source.stem))
    assert not [line for line in lines if len(line) > 30 and line in lab]
    assert BEGIN not in lab and END not in lab


@each_lab
def test_stub_keeps_the_signature_and_says_how_long_ours_is(source):
    solved, lab = read(labs.SOLUTIONS, source), read(labs.LABS, source)
    for whole, cut in zip(solved.cells, lab.cells, strict=True):
        if not grading(cut).get("solution"):
            assert whole.source == cut.source
            continue
        head = whole.source[: whole.source.index(BEGIN)].rstrip()
        assert cut.source.startswith(head)
        assert re.search(r"# \(about \d+ lines?\)\n    raise NotImpl", cut.source)
        assert "->" in cut.source


@each_lab
def test_metadata_is_nbgraders_and_points_are_the_tasks(source):
    for folder in (labs.SOLUTIONS, labs.LABS):
        cells = [cell for cell in read(folder, source).cells if grading(cell)]
        answers, checks = cells[::2], cells[1::2]
        tasks = tasks_of(source.stem)
        assert len(answers) == len(checks) == len(tasks)
        for task, answer, check in zip(tasks, answers, checks, strict=True):
            number = task.id.replace(".", "_")
            shared = {"schema_version": 3, "task": False}
            assert grading(answer) == shared | {
                "grade_id": f"answer_{number}",
                "grade": False,
                "locked": False,
                "solution": True,
            }
            assert grading(check) == shared | {
                "grade_id": f"check_{number}",
                "grade": True,
                "locked": True,
                "solution": False,
                "points": task.points,
            }
            assert check.metadata.editable is check.metadata.deletable is False
            assert check.metadata.tags == ["nbval-check-output"]
            assert f"def {task.name}(" in answer.source
            assert check.source == f"check.task_{number}({task.name})"


@each_lab
def test_answer_goes_on_as_a_piece_after_its_check(source):
    cells = code_of(read(labs.LABS, source))
    for i, cell in enumerate(cells):
        if grading(cell).get("grade"):
            task = TASKS[grading(cell).grade_id[6:].replace("_", ".")]
            use = " ".join(cells[i + 1].source.replace(",", ", ").split())
            assert use.startswith(f"{task.name} = pieces.use(")
            assert f'"{task.piece}", {task.name}' in use


@each_lab
def test_heading_of_a_task_carries_its_card(source):
    text = "\n".join(cell.source for cell in read(labs.LABS, source).cells)
    for task in tasks_of(source.stem):
        assert f"## Task {task.id} · {task.title}\n\n{task.label}\n" in text


@each_lab
def test_notebook_holds_only_metadata_that_we_wrote(source):
    for folder in (labs.SOLUTIONS, labs.LABS):
        notebook = read(folder, source)
        assert notebook.metadata == labs.KERNEL
        assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
        for cell in notebook.cells:
            assert set(cell.metadata) <= KEYS
        ids = [cell.id for cell in notebook.cells]
        assert len(set(ids)) == len(ids)


@each_lab
def test_only_checks_of_the_solved_notebook_keep_outputs(source):
    for cell in code_of(read(labs.SOLUTIONS, source)):
        if grading(cell).get("grade"):
            task = TASKS[grading(cell).grade_id[6:].replace("_", ".")]
            (output,) = cell.outputs
            passed = task.report(task.outcome(task.reference))
            assert output.text == f"{passed}\n"
            assert cell.execution_count
        else:
            assert not cell.outputs and cell.execution_count is None
    for cell in code_of(read(labs.LABS, source)):
        assert not cell.outputs and cell.execution_count is None


@each_lab
def test_lab_needs_few_packages(source):
    for cell in code_of(read(labs.LABS, source)):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            else:
                continue
            roots = {name.split(".")[0] for name in names}
            assert roots <= ALLOWED | {"tiny_lm"} | set(sys.stdlib_module_names)


@each_lab
def test_lab_asks_for_predictions(source):
    cells = read(labs.LABS, source).cells
    assert sum("> **Predict.**" in cell.source for cell in cells) >= 3


@each_lab
def test_first_code_cell_is_the_set_up(source):
    first = code_of(read(labs.LABS, source))[0]
    assert first.metadata.tags == ["set-up", "hide-input"]
    assert first.source.splitlines()[-1].startswith("set_up(repository=")
    assert "tiny_lm.course" not in first.source.replace("`", "")


def test_id_of_a_cell_survives_changes_elsewhere(write_source):
    before = labs.build(write_source("import torch", "x = 1", "y = 2", "x = 1"))
    after = labs.build(write_source("import torch", "z = 3", "y = 2", "x = 1"))
    ids = [{c.source: c.id for c in notebook.cells} for notebook in (before, after)]
    assert ids[0]["y = 2"] == ids[1]["y = 2"]
    assert ids[0]["import torch"] == ids[1]["import torch"]
    assert len({cell.id for cell in before.cells}) == len(before.cells)


def test_marks_in_the_source_are_dropped(tmp_path):
    path = tmp_path / "01_baseline.py"
    path.write_text('# %% tags=["scratch"]\nx = 1\n')
    assert jupytext.read(path).cells[0].metadata.tags == ["scratch"]
    assert not labs.build(path).cells[-1].metadata


def test_stub_counts_lines_and_keeps_what_stands_around_the_answer():
    source = f"{ANSWER}\n\n\nprint(f(3))"
    assert labs.stub(source, "answer_1_1") == (
        "def f(x: int) -> int:\n"
        "    # (about 1 line)\n"
        '    raise NotImplementedError("Task 1.1: bits_per_byte")\n\n\n'
        "print(f(3))"
    )


def test_stub_refuses_an_answer_without_end():
    with pytest.raises(ValueError, match="task 1.1 needs one"):
        labs.stub(ANSWER.replace(END, ""), "answer_1_1")


def test_answer_without_check_is_refused(write_source):
    with pytest.raises(ValueError, match="an answer without a check"):
        labs.build(write_source(ANSWER))


def test_check_without_answer_is_refused(write_source):
    with pytest.raises(ValueError, match="must follow one cell"):
        labs.build(write_source("x = 1", "check.task_1_1(f)"))
    with pytest.raises(ValueError, match="must follow one cell"):
        labs.build(write_source(ANSWER, ANSWER, "check.task_1_1(f)"))


def test_lab_that_somebody_worked_in_is_put_aside(tmp_path, capsys, write_source):
    solved = labs.build(write_source(ANSWER, "check.task_1_1(f)"))
    path = tmp_path / "01_baseline.ipynb"
    for text in ("2 * x", "x + x"):
        path.write_text(labs.text_of(solved).replace("2 * x", text))
        labs.keep_answers(path)
        assert not path.exists()
    assert "x + x" in (tmp_path / "01_baseline.yours-2.ipynb").read_text()
    assert "kept as 01_baseline.yours-1.ipynb" in capsys.readouterr().out
    path.write_text(labs.text_of(labs.without_answers(solved)))
    labs.keep_answers(path)
    assert path.exists()
    path.write_text("{")
    with pytest.raises(ValueError, match="01_baseline.ipynb is no notebook, so it"):
        labs.keep_answers(path)
    assert path.read_text() == "{"


def test_command_writes_both_notebooks(tmp_path, monkeypatch, write_source, capsys):
    source = write_source("print(1)", "x = 2")
    monkeypatch.setattr(labs, "ROOT", tmp_path)
    monkeypatch.setattr(labs, "SOLUTIONS", tmp_path)
    monkeypatch.setattr(labs, "LABS", tmp_path / "labs")
    monkeypatch.setattr(labs, "bootstrap_cell", lambda: nbformat.v4.new_code_cell("0"))
    main(["labs"])
    assert "wrote labs/01_baseline.ipynb" in capsys.readouterr().out
    assert read(tmp_path, source).cells == read(tmp_path / "labs", source).cells
    assert len(read(tmp_path, source).cells) == 3


def test_a_training_takes_its_steps_whatever_the_clock_says(monkeypatch):
    monkeypatch.delenv("TINY_LM_LAB_STEPS", raising=False)
    assert list(training_steps(4)) == [(0, 0), (1, 0.25), (2, 0.5), (3, 0.75)]
    monkeypatch.setenv("TINY_LM_LAB_STEPS", "2")
    assert list(training_steps(4)) == [(0, 0), (1, 0.5)]
    assert list(training_steps(1)) == [(0, 0)]
    monkeypatch.setenv("TINY_LM_LAB_STEPS", "0")
    assert list(training_steps(4)) == [(0, 0)]
    for wrong in ("soon", "-1", "1.5"):
        monkeypatch.setenv("TINY_LM_LAB_STEPS", wrong)
        with pytest.raises(ValueError, match=f"is a number of steps, got '{wrong}'"):
            next(training_steps(4))


def test_pieces_of_a_run_lie_where_the_environment_says():
    assert "TINY_LM_PIECES" not in os.environ, "tests must not touch a learner's pieces"
