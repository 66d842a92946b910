"""What each stream of each rank does, sorted out of tapes once and played many times.

Chapter: 05_comm/emulated_time
Source: course

Replay asks the same questions of a step again and again: which ranks are in a group,
what do the next kernels of a stream cost together. The answers hang on the tapes, or on
the tapes and a machine, never on when something happens. So everything gets a number
here that replay can look up:

    run     kernels that follow each other on a stream, so that nothing comes between
    event   of one rank; what marks it and what waits for it have the same number
    group   in the order of its ranks, which decides between calls that tie
    shape   what a collective's cost hangs on: its kind, its bytes, its group, its root
"""

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tiny_lm.replay.match import check
from tiny_lm.replay.tape import (
    Collective,
    Kernel,
    Mark,
    Receive,
    Record,
    Send,
    Tape,
    Wait,
)

RUN, WAIT, MARK, CALL, SEND, RECEIVE = range(6)
Run = tuple[Kernel, ...]


# What a stream does next, a plain tuple because there are so many:
#   kind     one of the above
#   what     number of the run or the event; (group, number of the call) of a call; the
#            sender, the receiver and the message's number of a message
#   record   as it stands on the tape, and None for a run
#   shape    of a call, else None
Step = tuple[int, int | tuple, Record | None, int | None]


@contextmanager
def uncollected() -> Iterator[None]:
    """No collections inside, for what makes very many objects and no cycles of them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Program:
    """Tapes that fit together, as a list of steps for each stream of each rank."""

    @uncollected()
    def __init__(self, tapes: Iterable[Tape], *, mirror: bool = False) -> None:
        """Check the tapes and sort them out.

        Args:
            tapes: one a rank, in any order.
            mirror: ranks without a tape take part, as `simulation.replay` has it.

        Raises:
            ValueError: tapes that do not fit together (`match.check`).
        """
        tapes = sorted(tapes, key=lambda tape: tape.rank)
        check(tapes, mirror)
        self.ranks = frozenset(tape.rank for tape in tapes)
        called = {r.group for t in tapes for r in t.records if type(r) is Collective}
        groups = sorted(called)
        # How many ranks have to come before a call of the group can begin.
        self.wanted = [len(self.ranks.intersection(group)) for group in groups]
        self._groups = {group: number for number, group in enumerate(groups)}
        self._runs: dict[Run, int] = {}
        self._shapes: dict[tuple, int] = {}
        self.streams: dict[tuple[int, str], list[Step]] = {}
        self.num_events = 0
        for tape in tapes:
            self._add(tape)
        self.streams = dict(sorted(self.streams.items()))
        self.runs = list(self._runs)

    def _add(self, tape: Tape) -> None:
        """The steps of one tape, each on its stream."""
        steps: dict[str, list[Step]] = {}
        runs: dict[str, list[Kernel]] = {}  # by stream: kernels of the run so far
        events: dict[int, int] = {}
        for record in tape.records:
            stream, kind = record.stream, type(record)
            if stream not in steps:
                steps[stream], runs[stream] = [], []
            run = runs[stream]
            if kind is Kernel:
                run.append(record)
                continue
            if run:
                steps[stream].append(self._run(run))
                run.clear()
            if kind is Wait or kind is Mark:
                event = events.setdefault(record.event, self.num_events + len(events))
                step = (WAIT if kind is Wait else MARK), event, record, None
            else:
                step = self._transfer(tape.rank, record)
            steps[stream].append(step)
        self.num_events += len(events)
        for stream, run in runs.items():
            if run:
                steps[stream].append(self._run(run))
            self.streams[tape.rank, stream] = steps[stream]

    def _run(self, kernels: list[Kernel]) -> Step:
        run = tuple(kernels)
        return RUN, self._runs.setdefault(run, len(self._runs)), None, None

    def _transfer(self, rank: int, record: Collective | Send | Receive) -> Step:
        number = record.sequence
        if type(record) is Send:
            return SEND, (rank, record.peer, number), record, None
        if type(record) is Receive:
            return RECEIVE, (record.peer, rank, number), record, None
        group = self._groups[record.group]
        meaning = record.kind, group, record.root, record.num_bytes
        shape = self._shapes.setdefault(meaning, len(self._shapes))
        return CALL, (group, number), record, shape
