"""Do the tapes of all ranks fit together? Said before a replay, rank and call named.

Chapter: 05_comm/emulated_time
Source: course

What fails here would hang or corrupt a real run: a collective that ranks of a group
call differently, one that a rank never calls, a message that nobody sends, an event
that nobody marks. What replay still has to find is a circle: everything is called, but
in an order in which everybody waits.
"""

from collections.abc import Sequence

from tiny_lm.replay.tape import KINDS, Collective, Mark, Receive, Send, Tape, Wait

Calls = dict[tuple[tuple[int, ...], int], dict[int, Collective]]
Messages = dict[tuple[int, int, int], Send | Receive]


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
            if isinstance(record, Collective):
                _add_call(calls, tape.rank, record)
            elif isinstance(record, Send):
                _add_message(sends, (tape.rank, record.peer), record)
            elif isinstance(record, Receive):
                _add_message(receives, (record.peer, tape.rank), record)
    for by_rank in calls.values():
        _check_call(by_rank, set(ranks), mirror)
    _check_messages(sends, receives)


def _check_events(tape: Tape) -> None:
    marked: set[int] = set()
    for record in tape.records:
        if isinstance(record, Mark):
            if record.event in marked:
                raise ValueError(f"rank {tape.rank} marks event {record.event} twice")
            marked.add(record.event)
    for record in tape.records:
        if isinstance(record, Wait) and record.event not in marked:
            raise ValueError(
                f"rank {tape.rank}, stream {record.stream!r} waits for event "
                f"{record.event}, which nothing on this rank marks"
            )


def _add_call(calls: Calls, rank: int, call: Collective) -> None:
    by_rank = calls.setdefault((call.group, call.sequence), {})
    where = f"rank {rank}, call {call.sequence} of group {call.group}"
    if call.kind not in KINDS:
        raise ValueError(f"{where}: {call.kind!r} is not one of {', '.join(KINDS)}")
    if rank not in call.group:
        raise ValueError(f"{where}: the rank is not in the group")
    if rank in by_rank:
        raise ValueError(f"{where} is on the tape twice")
    wanted = {"all_to_all": len(call.group), "barrier": 0}.get(call.kind, 1)
    if len(call.num_bytes) != wanted:
        raise ValueError(
            f"{where}: {call.kind} wants {wanted} entries of bytes, "
            f"got {len(call.num_bytes)}"
        )
    by_rank[rank] = call


def _check_call(by_rank: dict[int, Collective], ranks: set[int], mirror: bool) -> None:
    first, call = next(iter(by_rank.items()))
    for rank, other in by_rank.items():
        if _meaning(other) != _meaning(call):
            raise ValueError(
                f"call {call.sequence} of group {call.group} differs: rank {first} "
                f"makes {_describe(call)}, rank {rank} makes {_describe(other)}"
            )
    for rank in call.group:
        if rank not in by_rank and (rank in ranks or not mirror):
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
    kind = type(message).__name__.lower()
    where = f"{kind} {message.sequence} from rank {ends[0]} to rank {ends[1]}"
    if ends[0] == ends[1]:
        raise ValueError(f"{where}: a rank sends itself nothing")
    if (*ends, message.sequence) in found:
        raise ValueError(f"{where} is on the tape twice")
    found[(*ends, message.sequence)] = message


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
