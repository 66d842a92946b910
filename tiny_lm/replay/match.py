"""Do the tapes of all ranks fit together? Said before a replay, rank and call named.

Chapter: 05_comm/emulated_time
Source: course

What fails here would hang or corrupt a real run: a collective that ranks of a group
call differently, one that a rank never calls, a message that nobody sends, an event
that nobody marks. What replay still has to find is a circle: everything is called, but
in an order in which everybody waits.
"""

from collections import Counter
from collections.abc import Sequence

from tiny_lm.replay.tape import KINDS, Collective, Mark, Receive, Send, Tape, Wait

Calls = dict[tuple[tuple[int, ...], int], dict[int, Collective]]
Messages = dict[tuple[int, int, int], Send | Receive]
# Bytes in a call: one entry, but for these; an all-to-all has one for each rank.
_ENTRIES = {kind: 1 for kind in KINDS if kind != "all_to_all"} | {"barrier": 0}


def check(tapes: Sequence[Tape], mirror: bool) -> None:
    """Refuse tapes that do not fit together.

    Args:
        mirror: ranks without a tape take part in collectives, as `replay` has it.

    Raises:
        ValueError: two tapes of a rank; an event waited for and never marked, or marked
            twice; a collective of an unknown kind, with the wrong number of entries, by
            a rank outside its group, made twice under one number, made differently by
            two ranks, or never made by one; a message without its other end.
    """
    ranks = [tape.rank for tape in tapes]
    twice = sorted({rank for rank in ranks if ranks.count(rank) > 1})
    if twice:
        raise ValueError(f"rank {twice[0]} has more than one tape")
    calls: Calls = {}
    sends: Messages = {}
    receives: Messages = {}
    for tape in sorted(tapes, key=lambda tape: tape.rank):
        _check_events(tape)
        for record in tape.records:
            kind = type(record)
            if kind is Collective:
                _add_call(calls, tape.rank, record)
            elif kind is Send:
                _add_message(sends, (tape.rank, record.peer), record)
            elif kind is Receive:
                _add_message(receives, (record.peer, tape.rank), record)
    known = set(ranks)
    wanted = {
        group: known.intersection(group) if mirror else set(group)
        for group in {group for group, _ in calls}
    }
    for (group, _), by_rank in calls.items():
        _check_call(by_rank, known, wanted[group])
    _check_messages(sends, receives)


def _check_events(tape: Tape) -> None:
    marks = [record.event for record in tape.records if type(record) is Mark]
    marked = set(marks)
    if len(marked) < len(marks):
        twice = next(event for event, count in Counter(marks).items() if count > 1)
        raise ValueError(f"rank {tape.rank} marks event {twice} twice")
    for record in tape.records:
        if type(record) is Wait and record.event not in marked:
            raise ValueError(
                f"rank {tape.rank}, stream {record.stream!r} waits for event "
                f"{record.event}, which nothing on this rank marks"
            )


def _add_call(calls: Calls, rank: int, call: Collective) -> None:
    by_rank = calls.setdefault((call.group, call.sequence), {})
    wanted = _ENTRIES.get(call.kind, len(call.group))
    found = len(call.num_bytes)
    if call.kind not in KINDS:
        wrong = f": {call.kind!r} is not one of {', '.join(KINDS)}"
    elif rank not in call.group:
        wrong = ": the rank is not in the group"
    elif rank in by_rank:
        wrong = " is on the tape twice"
    elif found != wanted:
        wrong = f": {call.kind} wants {wanted} entries of bytes, got {found}"
    else:
        by_rank[rank] = call
        return
    raise ValueError(f"rank {rank}, call {call.sequence} of group {call.group}{wrong}")


def _check_call(
    by_rank: dict[int, Collective], ranks: set[int], wanted: set[int]
) -> None:
    first, call = next(iter(by_rank.items()))
    for rank, other in by_rank.items():
        if other is not call and _meaning(other) != _meaning(call):
            raise ValueError(
                f"call {call.sequence} of group {call.group} differs: rank {first} "
                f"makes {_describe(call)}, rank {rank} makes {_describe(other)}"
            )
    if len(by_rank) < len(wanted):
        rank = next(r for r in call.group if r in wanted and r not in by_rank)
        lacks = "never makes it" if rank in ranks else "has no tape"
        raise ValueError(
            f"rank {first} waits in call {call.sequence} of group {call.group}, "
            f"{_describe(call)}, for rank {rank}, which {lacks}"
        )


def _meaning(call: Collective) -> tuple:
    """What all ranks have to agree on; rows of an all-to-all are a rank's own."""
    sizes = () if call.kind == "all_to_all" else call.num_bytes
    return call.kind, sizes, call.root


def _describe(call: Collective) -> str:
    root = "" if call.root is None else f" with root {call.root}"
    sizes = "" if call.kind == "all_to_all" else f" of {sum(call.num_bytes)} bytes"
    return f"{call.kind} {call.name!r}{sizes}{root}"


def _add_message(found: Messages, ends: tuple[int, int], message: Send | Receive):
    key = (*ends, message.sequence)
    if ends[0] == ends[1]:
        wrong = ": a rank sends itself nothing"
    elif key in found:
        wrong = " is on the tape twice"
    else:
        found[key] = message
        return
    kind = type(message).__name__.lower()
    raise ValueError(
        f"{kind} {message.sequence} from rank {ends[0]} to rank {ends[1]}{wrong}"
    )


def _check_messages(sends: Messages, receives: Messages) -> None:
    for key in sorted(sends.keys() | receives.keys()):
        source, target, sequence = key
        send, receive = sends.get(key), receives.get(key)
        if send is None:
            raise ValueError(
                f"rank {target} waits for message {sequence} from rank {source} "
                f"({receive.name!r}), which never sends it"
            )
        if receive is None:
            raise ValueError(
                f"rank {source} sends message {sequence} ({send.name!r}) to rank "
                f"{target}, which never receives it"
            )
        if send.num_bytes != receive.num_bytes:
            raise ValueError(
                f"message {sequence} from rank {source} to rank {target}: "
                f"{send.num_bytes} bytes sent, {receive.num_bytes} expected"
            )
