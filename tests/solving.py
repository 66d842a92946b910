"""A lab as a learner meets it: run through once unsolved, then solved where it stands.

Both runs share a kernel, its imports, its ranks, and whatever no answer can change.
"""

import dis
from collections.abc import Iterator
from copy import deepcopy
from types import CodeType

import nbformat
from nbformat import NotebookNode

SHARED = ("pieces", "check")  # what they know changes whenever a task is solved


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _codes(code: CodeType) -> Iterator[CodeType]:
    """This code, and all that is defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def names(source: str) -> tuple[set[str], set[str]]:
    """Global names that a cell binds, and those that it reads."""
    top = compile(source, "cell", "exec")
    binds = {i.argval for i in dis.get_instructions(top) if i.opname == "STORE_NAME"}
    reads = {
        instruction.argval
        for code in _codes(top)
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("LOAD_NAME", "LOAD_GLOBAL")
    }
    return binds, reads


def touched(lab: list[str], solved: list[str]) -> list[int]:
    """Places of the cells that answers can change, once all of the lab has run.

    They are the answers, what reads a name that such a cell binds or what the course
    knows of pieces, and what binds a name for such a cell that others bind too.
    """
    binds, reads = zip(*map(names, solved), strict=True)
    again = {place for place, cell in enumerate(solved) if cell != lab[place]}
    first = min(again)
    again |= {n for n in range(first, len(solved)) if reads[n] & set(SHARED)}
    before = set()
    while again != before:
        before = set(again)
        changed = set().union(*(binds[n] for n in again))
        again |= {n for n in range(first, len(solved)) if reads[n] & changed}
        for reader in before:
            for name in reads[reader]:
                binding = [n for n in range(len(solved)) if name in binds[n]]
                earlier = [n for n in binding if n < reader]
                if earlier and len(binding) > 1:
                    again.add(earlier[-1])
    return sorted(again)


def then_solved(lab: NotebookNode, solved: NotebookNode) -> NotebookNode:
    """The lab, and behind it those cells of the solved one that answers can change."""
    first, second = code_cells(lab), code_cells(solved)
    assert [cell.id for cell in first] == [cell.id for cell in second]
    places = touched([c.source for c in first], [c.source for c in second])
    both = deepcopy(lab)
    for place in places:
        cell = deepcopy(second[place])
        cell.id = f"again-{cell.id}"
        both.cells.append(cell)
    nbformat.validate(both)
    return both
