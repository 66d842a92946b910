"""Tell a learner which ranks do not agree: one sentence, and a table of their calls.

Chapter: 05_comm/emulated_gpus
Source: course
"""

import math
from collections.abc import Callable, Sequence

from tiny_lm.gpus.board import (
    AWAITING,
    BUSY,
    CALLING,
    MESSAGE,
    RETURNED,
    Board,
    Call,
)
from tiny_lm.gpus.lines import show_line

RULE = "Every rank of a group must make the same calls in the same order."


def explain(board: Board, run: int, members: Sequence[int], number: int) -> str:
    """What differs in a group's call of this number, then what each rank does."""
    members = tuple(members)
    calls = {rank: board.find(run, rank, members, number) for rank in members}
    made = {rank: call for rank, call in calls.items() if call}
    chain = _chain(board, next(iter(made)))
    if chain[0] == chain[-1] and len(chain) > 1:
        table = _table([_latest(board, rank) for rank in sorted(chain[1:])])
        return f"{_tell_circle(board, chain[1:])}\n\n{table}"
    if len(chain) > 2:  # the first waits for one that waits itself: that is the cause
        last = board.latest(chain[-2])
        return explain(board, run, last.members, last.number)
    whole = len(members) == board.world_size
    of_two = any(call.kind == MESSAGE for call in made.values())
    group = "" if whole or of_two else f" In the group of {_ranks(members)}:"
    absent = [r for r in members if not calls[r] and board.state(r)[2] == RETURNED]
    if absent:
        sentence = _tell_absence(made, absent, number)
    else:
        sentence = _tell_difference(made, number)
    table = _table([_row(board, r, members, calls[r]) for r in members])
    return f"the calls of the ranks do not fit together.{group}\n{sentence}\n\n{table}"


def doing(board: Board, rank: int) -> str:
    """What a rank was last seen to do, for a message about time."""
    latest, state = board.latest(rank), board.state(rank)[2]
    if state in (CALLING, AWAITING):
        waits = f"waits in {_what(latest, rank)}, call {latest.number} of its group"
        return f"{waits} ({_line(latest)})"
    return ""


def standstill(board: Board) -> str | None:
    """Who waits for whom, where every rank waits for one that does not come."""
    run = max(board.state(rank)[0] for rank in range(board.world_size))
    waiting = {}
    for rank in range(board.world_size):
        theirs, _, state = board.state(rank)
        if theirs != run or state == BUSY:
            return None
        if state in (CALLING, AWAITING):
            missing = board.missing(rank)
            if not missing:
                return None  # all are there: the data is on its way
            waiting[rank] = board.latest(rank), missing
    if not waiting:
        return None
    each = (
        f"rank {rank} waits in {_what(call, rank)} for {_ranks(missing)}"
        for rank, (call, missing) in waiting.items()
    )
    everyone = tuple(range(board.world_size))
    table = _table([_row(board, r, everyone, None) for r in everyone])
    return (
        f"every rank waits for another, so none can go on: {', '.join(each)}. Ranks "
        f"that share several groups must use them in the same order.\n\n{table}"
    )


def _chain(board: Board, rank: int) -> list[int]:
    """Ranks of which each waits for the next; in a circle the last is the first."""
    chain: list[int] = []
    while rank not in chain:
        chain.append(rank)
        missing = board.missing(rank) if board.latest(rank) else []
        if not missing:
            return chain
        rank = missing[0]
    return [*chain[chain.index(rank) :], rank]


def _tell_circle(board: Board, circle: list[int]) -> str:
    first = circle.index(min(circle))
    calls = {rank: board.latest(rank) for rank in circle[first:] + circle[:first]}
    each = [f"rank {r} waits in {_what(call, r)}" for r, call in calls.items()]
    ends = {r == call.members[0] for r, call in calls.items()}
    lesson = ""
    if all(call.kind == MESSAGE for call in calls.values()):
        lesson = "A send ends when the other side receives it. "
        if ends == {True}:
            lesson += "Here everybody sends first, and so nobody comes to receive."
        elif ends == {False}:
            lesson = "Everybody receives first, and so nobody comes to send."
    waiting = _ranks(sorted(circle)).capitalize()
    return (
        f"{waiting} wait for one another in a circle, so none of them can go on.\n"
        f"{', '.join(each).capitalize()}.\n{lesson}".strip()
    )


def _what(call: Call, rank: int) -> str:
    """A call as the rank made it."""
    if call.kind != MESSAGE:
        return call.kind
    source, target = call.members
    return f"send to {target}" if rank == source else f"receive from {source}"


def _ranks(ranks: Sequence[int]) -> str:
    """`rank 2`, `ranks 0 and 1`, `ranks 0, 1 and 3`."""
    names = [str(rank) for rank in ranks]
    if len(names) == 1:
        return f"rank {names[0]}"
    return f"ranks {', '.join(names[:-1])} and {names[-1]}"


def _tell_absence(made: dict[int, Call], absent: list[int], number: int) -> str:
    kind = next(iter(made.values())).kind
    returned = f"{_ranks(absent)} returned without it"
    if kind == MESSAGE:
        ((rank, call),) = made.items()
        return f"Rank {rank} waits in {_what(call, rank)}: {returned}."
    if len(made) == 1:
        (alone,) = made
        return (
            f"Only rank {alone} makes call {number}, {kind}: {returned}. A collective "
            "needs every rank of its group: call it on all of them, not inside an `if` "
            "that only one enters."
        )
    waiting = _ranks(list(made)).capitalize()
    return f"{waiting} wait in {kind}, call {number}: {returned}. {RULE}"


def _tell_difference(made: dict[int, Call], number: int) -> str:
    first = next(iter(made.values()))
    for name, value in _PROPERTIES:
        values = {rank: value(call) for rank, call in made.items()}
        if len(set(values.values())) > 1:
            return _DIFFERENCE[name](values, first, number)
    return _tell_splits(made, number)


def _by_value(values: dict[int, str]) -> str:
    """`all_reduce on ranks 0 and 2, barrier on rank 1`."""
    parts = []
    for value in dict.fromkeys(values.values()):
        parts.append(f"{value} on {_ranks([r for r in values if values[r] == value])}")
    return ", ".join(parts)


def _shape(call: Call) -> tuple[int, ...]:
    return call.shape[1:] if call.sends else call.shape


# In this order: the first that differs is the one to tell of.
_PROPERTIES: list[tuple[str, Callable[[Call], object]]] = [
    ("kind", lambda call: call.kind),
    ("group", lambda call: call.group),
    ("dtype", lambda call: call.dtype),
    ("shape", _shape),
]


def _tell_kind(values: dict, first: Call, number: int) -> str:
    return f"Call {number} is {_by_value(values)}. {RULE}"


def _tell_group(values: dict, first: Call, number: int) -> str:
    return (
        f"Call {number}, {first.kind}, goes through two groups of the same ranks that "
        "are not the same group: every rank must take the one that all made together."
    )


def _tell_dtype(values: dict, first: Call, number: int) -> str:
    return (
        f"Call {number}, {first.kind}, has dtype {_by_value(values)}. The bytes of one "
        "would be read as the other."
    )


def _tell_shape(values: dict, first: Call, number: int) -> str:
    shown = _by_value({rank: str(list(shape)) for rank, shape in values.items()})
    what = "rows of shape" if first.sends else "shape"
    sizes = {math.prod(shape) for shape in values.values()}
    harm = "They hold different numbers of values, and cannot be combined."
    if first.kind == MESSAGE:
        harm = "A receive is given something of the shape that comes."
    elif len(sizes) == 1:
        harm = (
            f"Both hold {sizes.pop()} values: there would be no error, but values in "
            "wrong places."
        )
    return f"Call {number}, {first.kind}, has {what} {shown}. {harm}"


_DIFFERENCE = {
    "kind": _tell_kind,
    "group": _tell_group,
    "dtype": _tell_dtype,
    "shape": _tell_shape,
}


def _tell_splits(made: dict[int, Call], number: int) -> str:
    for sender, a in made.items():
        for receiver, b in made.items():
            to, come = a.members.index(receiver), a.members.index(sender)
            if a.sends[to] != b.receives[come]:
                return (
                    f"In call {number}, {a.kind}, rank {sender} sends {a.sends[to]} "
                    f"rows to rank {receiver}, which expects {b.receives[come]} from "
                    f"it: receive_counts[{come}] of rank {receiver} must equal "
                    f"send_counts[{to}] of rank {sender}. "
                    "`comm.all_to_all_counts` tells every rank what it will get."
                )
    return f"Call {number} does not fit."


def _row(board: Board, rank: int, members: tuple[int, ...], call: Call | None) -> list:
    """Rank, number, call, shape, dtype, splits, line."""
    if call:
        splits = f"{list(call.sends)} / {list(call.receives)}" if call.sends else ""
        about = [str(list(call.shape)) if call.dtype else "", call.dtype, splits]
        return [rank, call.number, _what(call, rank), *about, _line(call)]
    _, calls, state = board.state(rank)
    if state == RETURNED:
        return [rank, "-", f"returned after {_calls(calls)}", "", "", "", ""]
    latest = board.latest(rank)
    if state == BUSY or latest is None:
        return [rank, "-", f"not here yet, after {_calls(calls)}", "", "", "", ""]
    where = "in the group of " + _ranks(latest.members)
    if latest.kind == MESSAGE:
        return [rank, "-", _what(latest, rank), "", "", "", _line(latest)]
    return [rank, "-", f"{latest.kind} {where}", "", "", "", _line(latest)]


def _latest(board: Board, rank: int) -> list:
    call = board.latest(rank)
    return _row(board, rank, call.members, call)


def _calls(number: int) -> str:
    return f"{number} call" + "s" * (number != 1)


def _line(call: Call) -> str:
    line = show_line(call.file, call.line)
    return f"in the backward pass of {line}" if call.backward else line


def _table(rows: list[list]) -> str:
    head = ["rank", "call", "what", "shape", "dtype", "sends / receives", "line"]
    cells = [head, *([str(cell) for cell in row] for row in rows)]
    filled = [n for n in range(len(head)) if any(row[n] for row in cells[1:])]
    widths = {n: max(len(row[n]) for row in cells) for n in filled}
    lines = ("  ".join(row[n].ljust(widths[n]) for n in filled) for row in cells)
    return "\n".join("  " + line.rstrip() for line in lines)
