"""Which statements of a notebook a function needs, and whose they are."""

from pathlib import Path

import nbformat
import pytest

from tiny_lm.course.checks.task import tasks_of
from tiny_lm.course.grade import command, compare, notebook, samples, submissions
from tiny_lm.course.grade.notebook import Cell, Unreadable
from tiny_lm.course.grade.slices import LAST, Slicer, statements

LAB = "02_moe"


def sliced(*sources, name="f", tasks=("f",), passed=(), earlier=(), until=LAST):
    own = [
        s
        for place, source in enumerate(sources)
        for s in statements(Cell(f"c{place}", "code", source), (place, 0))
    ]
    slicer = Slicer(own, [], tasks)
    return slicer.of(name, until, passed.__contains__, earlier)


def code(found):
    return "\n".join(text.strip() for _, text in found.cells)


def test_what_a_function_needs_is_found_wherever_it_stands():
    found = sliced(
        "import math\nimport os",
        "K = 3\nunused = 1 / 0",
        "def helper(x):\n    return math.sqrt(x) * K",
        "def f(x):\n    return helper(x)",
    )
    kept = code(found)
    assert "import math" in kept and "K = 3" in kept and "def helper" in kept
    assert "import os" not in kept and "1 / 0" not in kept


def test_lines_keep_their_numbers():
    found = sliced("import math\n\nprint(1)\n\n@math.f\ndef f(x):\n    return 1")
    text = dict(found.cells)["<cell c0>"].split("\n")
    assert text[0] == "import math" and text[4] == "@math.f" and text[2] == ""


def test_a_name_has_its_value_at_the_check():
    sources = "K = 1", "def f():\n    return K", "K = 2"
    assert "K = 2" not in code(sliced(*sources, until=(2, 0)))
    assert "K = 2" in code(sliced(*sources))


def test_a_helper_below_the_check_counts_where_there_is_no_other():
    found = sliced("def f():\n    return g()", "def g():\n    return 1", until=(1, 0))
    assert "def g" in code(found)


def test_a_table_comes_with_what_is_put_into_it():
    found = sliced(
        "T = {}", "T['a'] = 1", "T.update(b=2)", "def f():\n    return T", "T2 = 1"
    )
    kept = code(found)
    assert "T['a'] = 1" in kept and "T.update" in kept and "T2" not in kept


def test_an_earlier_tasks_answer_counts_if_it_passed_and_else_ours_stands_in():
    sources = "def g():\n    return 1", "def f():\n    return g()"
    names = {"tasks": ("f", "g"), "earlier": ("g",)}
    own = sliced(*sources, passed=("g",), **names)
    ours = sliced(*sources, **names)
    assert "def g" in code(own) and own.stand_ins == []
    assert "def g" not in code(ours) and ours.stand_ins == ["g"]


def test_ours_never_stands_in_for_a_later_task():
    found = sliced("def f():\n    return later()", tasks=("f", "later"), earlier=())
    assert found.stand_ins == []


def test_a_stub_is_one_only_where_nothing_else_defines_the_function():
    stub = 'def f():\n    raise NotImplementedError("Task 2.1: f")'
    assert sliced(stub).stub
    assert not sliced(stub, "def f():\n    return 1").stub
    assert not sliced("g = 1").found


def test_lines_for_ipython_are_passed_over():
    found = sliced("%matplotlib inline\n!pip list\nK = 1", "def f():\n    return K")
    assert "K = 1" in code(found) and "pip" not in code(found)


@pytest.mark.parametrize(
    "source", ["x = " + "-" * 5000 + "1", "y = a" + ".z" * 50_000, "def f(:"]
)
def test_what_cannot_be_made_sense_of_is_passed_over(source):
    assert sliced(source, "def f():\n    return 1").found


def cells(*changes):
    """Our solution, with some cells changed by name, as it would be read."""
    changes = dict(changes)
    made = samples.solved(LAB)
    for cell in made.cells:
        cell.source = changes.get(cell.id, cell.source)
    return made


def compared(made):
    read = notebook.parse(nbformat.writes(made).encode())
    return compare.compare(read, notebook.pristine(LAB), tasks_of(LAB))


def kinds(found):
    return [note["kind"] for note in found.notes]


def test_a_solved_lab_is_without_a_note():
    assert kinds(compared(samples.solved(LAB))) == []
    assert kinds(compared(samples.blank(LAB))) == []


def test_what_is_not_a_learners_to_change_is_noted():
    edited = compared(cells(("check_2_2", "print('passed: 3 points')")))
    assert kinds(edited) == ["edited check"]
    made = samples.solved(LAB)
    made.cells = [c for c in made.cells if c.id != "check_2_1"]
    assert kinds(compared(made)) == ["deleted cell"]
    twice = nbformat.from_dict(next(c for c in made.cells if c.id == "answer_2_3"))
    twice.id = "another"  # a copied cell gets an id of its own and keeps its grade id
    made.cells.append(twice)
    assert kinds(compared(made)) == ["duplicated cell", "deleted cell"]
    made = samples.solved(LAB)
    made.cells.reverse()
    assert kinds(compared(made)) == ["reordered cell"]


@pytest.mark.parametrize(
    "odd",
    [
        "import sys\nsys.modules['x'] = 1",
        "from tiny_lm.course.checks.work import Work",
        "from tiny_lm.course.checks import work",
        "Work.__torch_dispatch__ = lambda self, f, t, a=(), k=None: f(*a, **(k or {}))",
        "from tiny_lm.course.grade import worker",
    ],
)
def test_what_is_odd_is_noted_for_a_person(odd):
    odd += "\ndef gate(): pass"
    assert kinds(compared(cells(("answer_2_2", odd)))) == ["suspicious"]


def test_what_the_lab_defines_is_taken_from_the_lab():
    theirs = Cell("c", "code", "def helper():\n    return 1\nimport re")
    mine = Cell("c", "code", "def helper():\n    return 2\nimport math")
    found = [s.source for s in compare._whose(mine, theirs, (0, 0))]
    assert found == ["def helper():\n    return 1", "import math"]


def test_another_lab_is_refused():
    with pytest.raises(Unreadable, match="lab 1"):
        compared(samples.blank("01_baseline"))


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "empty"),
        (b"{", "no JSON"),
        (b"[1]", "no notebook"),
        (b"{}", "no cells"),
        ("ü".encode("latin-1"), "UTF-8"),
        (b"[" * 200_000, "nested"),
    ],
)
def test_what_is_no_notebook_is_refused(raw, why):
    with pytest.raises(Unreadable, match=why):
        notebook.parse(raw)


def test_only_ordinary_files_of_bearable_size_are_read(tmp_path, monkeypatch):
    (tmp_path / "real").write_text("{}")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(Unreadable, match="link"):
        notebook.read_bytes(tmp_path / "link")
    monkeypatch.setattr(notebook, "LARGEST", 1)
    with pytest.raises(Unreadable, match="MB"):
        notebook.read_bytes(tmp_path / "real")


def test_submissions_lie_as_files_or_in_folders(tmp_path):
    for name in (
        "ada.ipynb",
        "bob/02_moe.ipynb",
        "cy/02_moe/02_moe.ipynb",
        "dan/x.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "list.csv").touch()
    (tmp_path / "eve").symlink_to("bob")
    found, other = submissions.find(tmp_path, LAB)
    paths = {one.learner: one.path and one.path.name for one in found}
    assert paths == {
        "ada": "ada.ipynb",
        "bob": "02_moe.ipynb",
        "cy": "02_moe.ipynb",
        "dan": None,
        "eve": None,
    }
    assert other == ["list.csv"]


def test_a_learners_name_becomes_a_file_of_its_own():
    odd = [
        submissions.Found(n, None).file for n in ("../a", "a/b", "..", "ü" * 90, "a")
    ]
    assert len({*odd}) == 5 and odd[-1] == "a"
    assert all("/" not in name and len(name.encode()) < 160 for name in odd)


@pytest.mark.parametrize(
    "wrong", [["--shard", "3/2"], ["--timeout", "0"], ["--jobs", "x"], ["--lab", "9"]]
)
def test_wrong_use_is_told_in_one_line(wrong, tmp_path, capsys):
    from tiny_lm import console
    from tiny_lm.course import __main__ as course

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.ipynb").write_text("{}")
    told = ["grade", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    told += [] if "--lab" in wrong else ["--lab", LAB]
    with pytest.raises(SystemExit) as end:
        raise SystemExit(console.run(lambda: course.main([*told, *wrong])))
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path(tmp_path / "out").exists()


def test_the_command_takes_what_grade_folder_takes():
    import inspect

    from tiny_lm.course.grade.run import grade_folder

    parser = __import__("argparse").ArgumentParser()
    command.add(parser.add_subparsers())
    taken = vars(parser.parse_args(["grade", "x", "--lab", LAB, "--out", "y"]))
    taken.pop("run")
    assert {*taken} <= {*inspect.signature(grade_folder).parameters}
