"""A function's source, with what it needs to run in a namespace of its own."""

import math
import textwrap

import pytest
from IPython.core.interactiveshell import InteractiveShell

from tiny_lm.course.labs.source import NotSelfContained, run_alone, self_contained


def floor_of(x: float) -> int:
    return math.floor(x)


@pytest.fixture
def cell():
    """Run code as a notebook's cells do; returns their namespace."""
    shell = InteractiveShell.instance()
    shell.reset()

    def run(code):
        shell.run_cell(textwrap.dedent(code)).raise_error()
        return shell.user_ns

    yield run
    InteractiveShell.clear_instance()


def test_a_function_with_its_imports_runs_alone():
    text, carried = self_contained(floor_of)
    assert text.startswith("import math\n")
    assert carried == []
    assert run_alone(text, "floor_of")(2.7) == 2


def test_what_runs_alone_is_what_was_written():
    assert run_alone("def double(x):\n    return 2 * x\n", "double")(4) == 8


def test_a_source_that_lacks_a_name_fails_when_it_runs_alone():
    with pytest.raises(NameError):
        run_alone("def f(x):\n    return x + elsewhere\n", "f")(1)


def test_a_local_name_is_not_taken_for_one_of_another_cell(cell):
    cell("import torch\nrows = torch.ones(3)")
    names = cell("def f(x):\n    rows = [r + 1 for r in x]\n    return rows")
    source, carried = self_contained(names["f"])
    assert carried == []
    assert run_alone(source, "f")([1]) == [2]


def test_a_decorator_and_a_recursive_function_go_with_their_names(cell):
    cell("import functools")
    names = cell(
        "def f(n):\n    return 1 if n == 0 else n * f(n - 1)\n\n"
        "@functools.lru_cache\ndef g(n):\n    return f(n)"
    )
    source, _ = self_contained(names["g"].__wrapped__)
    assert "import functools" in source and "@functools.lru_cache" in source
    assert run_alone(source, "g")(4) == 24


def test_a_name_that_no_cell_defines_is_named(cell):
    names = cell("def f(x):\n    return x + somewhere")
    with pytest.raises(NotSelfContained, match="f uses somewhere, which no cell def"):
        self_contained(names["f"])


def test_what_cannot_be_written_down_is_refused():
    outer = 3

    def closure(x):
        return x + outer

    with pytest.raises(NotSelfContained, match="inside another function and uses its"):
        self_contained(closure)
    with pytest.raises(NotSelfContained, match="only a function can be kept"):
        self_contained(math.log)
    made = eval("lambda x: x")
    with pytest.raises(NotSelfContained, match="does not know the text"):
        self_contained(made)
