"""Functions on their way to ranks: the same code, at the same line of the same file."""

import pickle
import types

import cloudpickle
import pytest

from tiny_lm.gpus.team import pack_call
from tiny_lm.gpus.travel import pack

CELL = """
def outer(rank):
    def inner():
        return 1 / rank
    return [inner() for _ in range(2)]

class Box:
    def value(self):
        return (lambda: 3)()
"""


def _cell() -> dict:
    scope = {"__name__": "__main__"}
    exec(compile(CELL, "<cell 7>", "exec"), scope)
    return scope


@pytest.fixture
def forgetful(monkeypatch):
    """A cloudpickle that loses names of files, as 3.1.3 does."""
    table = cloudpickle.Pickler._dispatch_table
    reduce = table[types.CodeType]
    forget = lambda code: reduce(code.replace(co_filename="<dynamic-code>"))  # noqa: E731
    monkeypatch.setitem(table, types.CodeType, forget)


def _files(code: types.CodeType) -> set[str]:
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return {code.co_filename}.union(*map(_files, inner))


def test_a_line_of_a_cell_does_not_depend_on_the_pickler(forgetful):
    scope = _cell()
    lost = pickle.loads(cloudpickle.dumps(scope["outer"]))
    assert "<dynamic-code>" in _files(lost.__code__)  # so this test can fail
    outer, args = pickle.loads(pack_call(scope["outer"], (1,)))
    assert _files(outer.__code__) == {"<cell 7>"}
    assert (outer(2), args) == ([0.5, 0.5], (1,))
    with pytest.raises(ZeroDivisionError) as caught:
        outer(0)
    assert (caught.tb.tb_next.tb_frame.f_code.co_filename) == "<cell 7>"


def test_classes_of_a_cell_keep_their_lines_too(forgetful):
    box = pickle.loads(pack(_cell()["Box"]()))
    assert box.value() == 3
    assert _files(type(box).value.__code__) == {"<cell 7>"}


def test_what_cannot_travel_says_so():
    with pytest.raises(TypeError, match="cannot pickle|cannot travel"):
        pack(i for i in ())
