"""A learner's notebook beside the lab it was made from: what is whose, what is odd.

Chapter: appendix/teaching
Source: course
"""

import ast
import re
from dataclasses import dataclass, field

from tiny_lm.course.checks.task import Task
from tiny_lm.course.grade.notebook import (
    Cell,
    Notebook,
    Unreadable,
    check_of,
    task_of,
)
from tiny_lm.course.grade.slices import (
    DEFINES,
    Place,
    Slicer,
    Statement,
    statements,
)

ODD = {  # in a learner's cells: for a person to look at
    "get_ipython": r"\bget_ipython\b|\binput_transformers?\b|\bInteractiveShell\b",
    "builtins": r"\bbuiltins\b|__builtins__",
    "sys.modules": r"\bsys\s*\.\s*modules\b",
    "frames of other code": r"\b_getframe\b|\bsettrace\b|\bf_globals\b|__globals__",
    "objects of other code": r"\bget_objects\b|\bget_referrers\b|\bctypes\b",
    "the checks": r"\bchecks\s*\.\s*\w+\s*\.|\btask_\d+_\d+\s*\.|\bCheckFailed\b",
    "the grader": r"\bcourse\s*\.\s*grade\b|\bcourse\s+import\s.*\bgrade\b",
    "counts of work": r"__torch_(dis|func)|DispatchMode|\bchecks(\.| import )work\b",
    "a reference answer": r"\.reference\b|\bshow_solution\b\s*\(|solutions/",
    "other processes": r"\bsubprocess\b|\bos\s*\.\s*(fork|system|exec|kill|popen)",
    "the network": r"\bsocket\b|\burllib\b|\brequests\b|\bhttp\.client\b",
    "files": r"\bopen\s*\(|\bshutil\b|\bos\s*\.\s*(environ|remove|walk|listdir|rmdir)",
    "code made of text": r"\b(exec|eval|compile|__import__)\s*\(|\bimportlib\b",
    "patched names": r"^\s*(torch|check|pieces|comm|F|nn)\s*(\.\s*\w+\s*)*=(?!=)",
}


@dataclass
class Submission:
    """A learner's notebook, sorted out.

    Args:
        notes: what was changed that is not a learner's to change, or is odd.
        places: of each task's check in the notebook, by task.
        claims: tasks whose stored output says that they passed.
        answers: the answer cell of each task.
        added: cells of code that the lab has not, and where they stand.
    """

    slicer: Slicer
    notes: list[dict[str, str]] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    claims: set[str] = field(default_factory=set)
    answers: dict[str, Cell] = field(default_factory=dict)
    added: list[tuple[Place, Cell]] = field(default_factory=list)

    def note(self, kind: str, cell: str, says: str) -> None:
        """Add a note, once."""
        one = {"kind": kind, "cell": cell, "says": says}
        if one not in self.notes and len(self.notes) < 60:
            self.notes.append(one)


def compare(mine: Notebook, lab: Notebook, tasks: list[Task]) -> Submission:
    """Sort a learner's cells out.

    Raises:
        Unreadable: it is a notebook of something else.
    """
    names = [task.name for task in tasks]
    theirs = {cell.name: cell for cell in lab.cells}
    submission = Submission(Slicer([], [], names))
    _require_lab(mine, {task.id for task in tasks}, names)
    own: list[Statement] = []
    met: set[str] = set()
    order = {cell.name: place for place, cell in enumerate(lab.cells)}
    place = -1, 0
    for cell in mine.cells:
        like = theirs.get(cell.name) if cell.name not in met else None
        place = (place[0], place[1] + 1) if like is None else (order[cell.name], 0)
        if cell.name in met and cell.name in theirs:
            says = "It stands there more than once; the first counts as the lab's."
            submission.note("duplicated cell", cell.name, says)
        met.add(cell.name)
        _look(submission, cell, like)
        if found := check_of(cell) or _checked_in(cell):
            submission.places.setdefault(found, place)
        if cell.kind == "code":
            before = len(own)
            own += _whose(cell, like, place)
            if like is None:
                submission.added.append((place, cell))
            elif task_of(cell):
                submission.answers[task_of(cell)] = cell
            elif new := _imports(own[before:], like, place):
                submission.added.append((place, new))
    _missing(submission, lab, met, mine)
    _order(submission, mine, lab)
    away = [s for c in lab.code() if not task_of(c) for s in statements(c, (-1, 0))]
    own.sort(key=lambda x: x.place)
    submission.slicer = Slicer(own, away, names)
    return submission


def _require_lab(mine: Notebook, ids: set[str], names: list[str]) -> None:
    found = {task_of(c) or check_of(c) for c in mine.cells} - {""}
    if found & ids:
        return
    if found:
        other = sorted({one.split(".")[0] for one in found})
        raise Unreadable(f"it is another lab: its tasks are those of lab {other[0]}")
    defined = {
        x.node.name
        for c in mine.code()
        for x in statements(c, (0, 0))
        if isinstance(x.node, DEFINES)
    }
    if not defined & {*names}:
        raise Unreadable("no task of this lab is in it")


def _look(submission: Submission, cell: Cell, like: Cell | None) -> None:
    """Notes on one cell."""
    if like is not None and cell.kind != like.kind:
        says = f"It was {like.kind} and is {cell.kind or 'nothing'} now."
        submission.note("retyped cell", cell.name, says)
    if like is not None and check_of(cell):
        if _bare(cell) != _bare(like):
            says = "Its text was changed. The lab's own check decides."
            submission.note("edited check", cell.name, says)
        if "passed:" in _printed(cell):
            submission.claims.add(check_of(cell))
    elif cell.kind == "code" and (like is None or _bare(cell) != _bare(like)):
        was = "" if like is None else like.source
        for what, pattern in ODD.items():
            hits = re.findall(pattern, cell.source, re.MULTILINE)
            if len(hits) > len(re.findall(pattern, was, re.MULTILINE)):
                says = f"It reaches for {what}: look at it."
                submission.note("suspicious", cell.name, says)


def _bare(cell: Cell) -> str:
    return "\n".join(line.rstrip() for line in cell.source.strip().splitlines())


def _printed(cell: Cell) -> str:
    texts = []
    for output in cell.outputs if isinstance(cell.outputs, list) else []:
        text = output.get("text") if isinstance(output, dict) else None
        text = "".join(map(str, text)) if isinstance(text, list) else text
        texts.append(text[:10_000] if isinstance(text, str) else "")
    return "".join(texts)


def _checked_in(cell: Cell) -> str:
    found = re.search(r"\bcheck\.task_(\d+)_(\d+)\(", cell.source)
    return f"{found[1]}.{found[2]}" if found and cell.kind == "code" else ""


def _whose(cell: Cell, like: Cell | None, place: Place) -> list[Statement]:
    """The cell's statements; what the lab defines in it is taken from the lab."""
    mine = statements(cell, place)
    if like is None or task_of(like) or _bare(cell) == _bare(like):
        return mine
    theirs = [x for x in statements(like, place) if isinstance(x.node, DEFINES)]
    fixed = {x.node.name for x in theirs}
    return [*theirs, *(x for x in mine if not x.binds & fixed)]


def _imports(mine: list[Statement], like: Cell, place: Place) -> Cell | None:
    """What a learner imports in a cell of the lab's, beyond what the lab does."""
    known = {x.source for x in statements(like, place)}
    kinds = ast.Import | ast.ImportFrom
    new = [x for x in mine if isinstance(x.node, kinds) and x.source not in known]
    text = "\n".join(x.source for x in new)
    return Cell(f"{like.name}-imports", "code", text) if new else None


def _missing(
    submission: Submission, lab: Notebook, met: set[str], mine: Notebook
) -> None:
    gone = [c for c in lab.cells if c.name not in met]
    for cell in gone:
        what = "check" if check_of(cell) else "answer" if task_of(cell) else ""
        if what:
            task = check_of(cell) or task_of(cell)
            says = f"The {what} cell of task {task} is not there under its name."
            submission.note("deleted cell", cell.name, says)
    others = [c for c in lab.cells if not (check_of(c) or task_of(c))]
    lost = sum(c.name not in met for c in others)
    if lost > 0.1 * len(others):
        says = (
            f"{lost} of the lab's {len(others)} other cells are not there as they are "
            "now: it was made from another version, or rearranged."
        )
        submission.note("other version", "", says)


def _order(submission: Submission, mine: Notebook, lab: Notebook) -> None:
    def order(notebook: Notebook) -> list[str]:
        return list(dict.fromkeys(t for c in notebook.cells if (t := task_of(c))))

    wanted = [t for t in order(lab) if t in order(mine)]
    if [t for t in order(mine) if t in wanted] != wanted:
        submission.note("reordered cell", "", "Answers stand in another order.")


def syntax_error(source: str) -> str:
    """What Python says of a cell that is no Python; nothing where it is."""
    try:
        ast.parse(source)
    except SyntaxError as error:
        return f"line {error.lineno} of its cell: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return type(error).__name__
    return ""
