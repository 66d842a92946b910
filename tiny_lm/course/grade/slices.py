"""What of a notebook a function needs: statement by statement, from whatever cells.

Chapter: appendix/teaching
Source: course

A notebook trains models between its tasks. To check a function, only the statements
that bind the names it reads are run: its helpers, imports and numbers, and theirs.
"""

import ast
import builtins
import symtable
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tiny_lm.course.grade.notebook import STUB, Cell, tree_of

Place = tuple[int, int]  # of a cell: the lab's before it, and the how-manieth since
LAST: Place = (10**9, 0)
DEFINES = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(eq=False)
class Statement:
    """One statement of a cell, at the cell's top level."""

    place: Place  # of its cell
    cell: str
    text: str  # of the whole cell
    node: ast.stmt

    @cached_property
    def binds(self) -> set[str]:
        """Names that it makes, or changes."""
        return set(_bound(self.node))

    @cached_property
    def touches(self) -> set[str]:
        """Names of things that it calls a method of, and nothing more."""
        call = getattr(self.node, "value", None)
        if isinstance(self.node, ast.Expr) and isinstance(call, ast.Call):
            if isinstance(call.func, ast.Attribute):
                return {_base(call.func)} - {""}
        return set()

    @cached_property
    def reads(self) -> set[str]:
        """Names that it takes from outside, at once or when it is called."""
        table = symtable.symtable(ast.unparse(self.node), "<cell>", "exec")
        found = {s.get_name() for s in table.get_symbols() if s.is_referenced()}
        for inner in _tables(table):
            found |= {
                s.get_name()
                for s in inner.get_symbols()
                if s.is_global() and s.is_referenced()
            }
        return found

    @property
    def stub(self) -> bool:
        """Whether it is a function that still waits for its answer."""
        return isinstance(self.node, DEFINES) and STUB in self.source

    @property
    def source(self) -> str:
        """Its own text."""
        return ast.get_source_segment(self.text, self.node) or ""

    @property
    def lines(self) -> range:
        """Numbers of its lines, decorators included, from 0."""
        first = [self.node.lineno]
        first += [d.lineno for d in getattr(self.node, "decorator_list", [])]
        return range(min(first) - 1, self.node.end_lineno or self.node.lineno)


def statements(cell: Cell, place: Place) -> list[Statement]:
    """Those of a cell that can be made sense of; none where it is no Python."""
    tree, text = tree_of(cell.source)
    found = []
    for node in tree.body if tree else []:
        one = Statement(place, cell.name, text, node)
        try:
            found += [one] * bool(one.binds | one.touches | one.reads | {""})
        except (RecursionError, SyntaxError, ValueError, MemoryError):
            continue  # nested beyond all measure
    return found


def _bound(node: ast.AST) -> Iterator[str]:
    if isinstance(node, DEFINES):
        yield node.name
        return
    if isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name.split(".")[0]
        return
    if isinstance(node, ast.Lambda):
        return
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
        yield node.id
    if isinstance(node, ast.Subscript | ast.Attribute):
        if isinstance(node.ctx, ast.Store) and _base(node):
            yield _base(node)
    for child in ast.iter_child_nodes(node):
        yield from _bound(child)


def _base(node: ast.AST) -> str:
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in table.get_children():
        yield child
        yield from _tables(child)


@dataclass
class Slice:
    """What to run for one function.

    Args:
        cells: names and texts of cells, of which only what is needed is left.
        stand_ins: names of other tasks' functions that are the judge's to bring.
        found: whether the function is bound at all.
        stub: whether it is bound by the lab's own stub alone.
    """

    cells: list[tuple[str, str]] = field(default_factory=list)
    stand_ins: list[str] = field(default_factory=list)
    found: bool = False
    stub: bool = False


class Slicer:
    """Finds what functions need.

    Args:
        own: statements of the learner's notebook, in order.
        lab: statements of the lab as it is handed out: for what the learner deleted.
        tasks: names of the lab's functions.
    """

    def __init__(
        self, own: Sequence[Statement], lab: Sequence[Statement], tasks: Sequence[str]
    ) -> None:
        self.own, self.lab, self.tasks = own, lab, {*tasks}

    def of(
        self,
        name: str,
        until: Place,
        passed: Callable[[str], bool],
        earlier: Sequence[str],
    ) -> Slice:
        """What the function of a task needs.

        Args:
            until: place of the check: what is bound later counts only where nothing
                is bound before.
            passed: whether another task's own answer may be used.
            earlier: names of the tasks for which ours may stand in.
        """
        found, taken = Slice(), dict[Statement, None]()
        waiting, seen = [name], {name}
        while waiting:
            now = waiting.pop()
            if now in earlier and not passed(now):
                found.stand_ins.append(now)
                continue
            some = self._binding(now, until)
            if now == name:
                found.found = bool(some)
                found.stub = bool(some) and all(x.stub for x in some)
            for statement in some:
                taken[statement] = None
                new = statement.reads - seen - {*dir(builtins)}
                waiting += sorted(new)
                seen |= new
        found.cells = _cut(taken)
        return found

    def _binding(self, name: str, until: Place) -> list[Statement]:
        """The statements that make a name what it is at its check."""
        for some in (self.own, self.lab):
            every = [x for x in some if name in x.binds and not _kept(x, self.tasks)]
            if name in self.tasks:
                every = [x for x in every if not x.stub] or every
            before = [x for x in every if x.place < until] or every
            if before:
                plain = not isinstance(before[-1].node, ast.Import | ast.ImportFrom)
                if plain and not isinstance(before[-1].node, DEFINES):
                    last = max(x.place for x in before)
                    before += [
                        x
                        for x in some
                        if name in x.touches and x.place <= max(last, until)
                    ]
                return before
        return [
            x
            for x in (*self.lab, *self.own)
            if isinstance(x.node, ast.ImportFrom) and x.node.names[0].name == "*"
        ]


def _kept(x: Statement, tasks: set[str]) -> bool:
    """Whether it is the lab's own `gate = pieces.use("moe.gate", gate)`."""
    value = getattr(x.node, "value", None)
    if not isinstance(x.node, ast.Assign) or not isinstance(value, ast.Call):
        return False
    return ast.unparse(value.func) == "pieces.use" and bool(x.binds & tasks)


def _cut(taken: dict[Statement, None]) -> list[tuple[str, str]]:
    """The cells with these statements alone, each on the lines where it stood."""
    by_cell: dict[tuple[Place, str, str], set[int]] = {}
    order = sorted(taken, key=lambda x: (x.place, x.lines.start))
    for x in order:
        by_cell.setdefault((x.place, x.cell, x.text), set()).update(x.lines)
    cells = []
    for (_, name, text), kept in by_cell.items():
        lines = enumerate(text.split("\n")[: max(kept) + 1])
        cells.append(
            (
                f"<cell {name}>",
                "\n".join(x if n in kept else "" for n, x in lines) + "\n",
            )
        )
    return cells
