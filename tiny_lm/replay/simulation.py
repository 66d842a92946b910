"""Play the tapes of all ranks on a machine: who does what when, to the picosecond.

Chapter: 05_comm/emulated_time
Source: course

Every stream runs its records in order. A kernel takes what `prices` says; a collective
starts when the last rank of its group is there and ends for all at once; a receive ends
when its message is there. What can go on goes on at once, however far ahead of the rest
it gets, because nothing but ports is shared: only transfers have to be taken in the
order in which they become ready, and a heap keeps them. So the result does not depend
on the order of the tapes, and equal tapes give equal timelines everywhere.

What replay leaves out, all of which makes a real step slower or less even:

- contention inside switches, incast, and links that fail or are shared with others;
- stragglers: equal work takes equal time, on every GPU and every time;
- interference: a transfer takes no processors (V3 gives 20 of 132 to it) and no memory
  bandwidth from the kernels beside it, and two kernels side by side do not slow down;
- clocks that fall under load, and the CPU: a launch costs what the machine says, never
  more because Python was late;
- a send never waits for its receiver, where a real one does once buffers are full.

It was checked against closed forms and by hand, not against a profile of real GPUs.
"""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from tiny_lm.hardware import Machine
from tiny_lm.replay.links import ALL_REDUCES, HOPS, Links, Plan
from tiny_lm.replay.prices import Prices
from tiny_lm.replay.program import (
    CALL,
    MARK,
    RUN,
    SEND,
    WAIT,
    Program,
    Step,
    uncollected,
)
from tiny_lm.replay.tape import Collective, Receive, Tape, Wait
from tiny_lm.replay.timeline import COMM, KERNEL, Span, Timeline
from tiny_lm.replay.timeline import WAIT as WAITING


def replay(
    tapes: Iterable[Tape],
    machine: Machine,
    *,
    all_reduce: str = "ring",
    hops: str = "pipelined",
    mirror: bool = False,
) -> Timeline:
    """The timeline of a step in which each rank does what its tape says.

    Args:
        tapes: one a rank, in any order.
        all_reduce: `ring` or `tree`, for all of them.
        hops: `pipelined` or `series`, of an exchange that passes the network and then
            NVLink (`links`): no tape says which, so an answer needs both.
        mirror: a rank that has no tape, but is in a group, arrives with the others and
            sends them what they send it. So one tape can stand for many equal ranks.

    Raises:
        ValueError: tapes that do not fit together (`match.check`) or that wait for each
            other in a circle; a figure that the machine lacks; an unknown algorithm.
    """
    _check_ways(all_reduce, hops)
    program = Program(tapes, mirror=mirror)
    return play(program, machine, all_reduce=all_reduce, hops=hops)


@uncollected()
def play(
    program: Program,
    machine: Machine,
    *,
    all_reduce: str = "ring",
    hops: str = "pipelined",
) -> Timeline:
    """The timeline of tapes that were checked and sorted before, for many machines.

    Args and raises: as of `replay`.
    """
    played = _Replay(program, machine, all_reduce, hops)
    step_ps = played.run()
    return Timeline(machine.name, tuple(played.spans()), step_ps)


@uncollected()
def play_ps(
    program: Program,
    machine: Machine,
    *,
    all_reduce: str = "ring",
    hops: str = "pipelined",
) -> int:
    """Picoseconds of the step alone: the timeline's `step_ps`, with no span made.

    Args and raises: as of `replay`.
    """
    return _Replay(program, machine, all_reduce, hops).run()


class _Stream:
    """One FIFO of one rank: what is to do, how far it is, and what it did."""

    __slots__ = ("did", "name", "now_ps", "place", "rank", "steps")

    def __init__(self, rank: int, name: str, steps: list[Step]) -> None:
        self.rank, self.name, self.steps = rank, name, steps
        self.place = self.now_ps = 0
        # What took time: the step, when it began, was let in, and ended. A run's end
        # follows from its kernels.
        self.did: list[tuple] = []

    def passed(self, let_in_ps: int, end_ps: int) -> None:
        """The transfer at this place is through: the stream waited, and then it ran."""
        self.did.append((self.steps[self.place], self.now_ps, let_in_ps, end_ps))
        self.now_ps = max(self.now_ps, let_in_ps, end_ps)
        self.place += 1


class _Replay:
    """The state of one replay."""

    def __init__(
        self, program: Program, machine: Machine, all_reduce: str, hops: str
    ) -> None:
        _check_ways(all_reduce, hops)
        self._prices = Prices(machine)
        self._links = Links(self._prices, program.ranks, all_reduce, hops)
        self._runs, self._wanted = program.runs, program.wanted
        self._run_ps: list[int | None] = [None] * len(program.runs)
        self._plans: dict[tuple[int, ...], Plan] = {}  # shapes: how they pass
        self._streams = [_Stream(*key, do) for key, do in program.streams.items()]
        self._happened: list[int | None] = [None] * program.num_events  # when
        self._sleepers: dict[int | tuple, list[_Stream]] = {}  # waited for: who
        self._arrived: dict[tuple, list[_Stream]] = {}  # (group, number): who is there
        self._sent: dict[tuple, tuple[int, int]] = {}  # message: starts, is there
        self._ready: list[tuple] = []  # transfers by the time at which they may start

    def run(self) -> int:
        """Go on until all streams are through; when the last of them is."""
        for stream in self._streams:
            self._go_on(stream)
        while self._ready:
            ready_ps, kind, key, streams = heappop(self._ready)
            if kind == CALL:
                self._pass_collective(streams, ready_ps)
            else:
                self._pass_message(key, *streams)
        stuck = [s for s in self._streams if s.place < len(s.steps)]
        if stuck:
            raise ValueError(_circle(stuck, self._arrived))
        return max((stream.now_ps for stream in self._streams), default=0)

    def spans(self) -> Iterator[Span]:
        """What each stream did; what took no time is not drawn."""
        for stream in self._streams:
            rank, name = stream.rank, stream.name
            for (kind, what, record, _), now, *ends in stream.did:
                if kind == RUN:
                    for kernel in self._runs[what]:
                        end = now + self._prices.kernel_ps(*kernel[1:4])
                        if end > now:
                            yield Span(rank, name, kernel.name, now, end, KERNEL)
                        now = end
                    continue
                for end, how in zip(ends, (WAITING, COMM), strict=True):
                    if end > now:
                        yield Span(rank, name, record.name, now, end, how)
                        now = end

    def _go_on(self, stream: _Stream) -> None:
        """Run one stream as far as it gets, and then those that it woke."""
        awake = [stream]
        happened, sleepers, run_ps = self._happened, self._sleepers, self._run_ps
        while awake:
            stream = awake.pop()
            steps, place, now = stream.steps, stream.place, stream.now_ps
            while place < len(steps):
                step = steps[place]
                kind, what, _, _ = step
                if kind == RUN:
                    takes_ps = run_ps[what]
                    if takes_ps is None:
                        takes_ps = self._price(what)
                    stream.did.append((step, now))
                    now += takes_ps
                elif kind == WAIT:
                    then = happened[what]
                    if then is None:
                        sleepers.setdefault(what, []).append(stream)
                        break
                    if then > now:
                        now = then
                elif kind == MARK:
                    happened[what] = now
                    if what in sleepers:
                        awake += sleepers.pop(what)
                else:
                    stream.now_ps, stream.place = now, place
                    if not self._transfer(stream, step):
                        break
                    now = stream.now_ps
                place += 1
            stream.now_ps, stream.place = now, place

    def _price(self, run: int) -> int:
        """What the kernels of a run take together."""
        price = self._prices.kernel_ps
        self._run_ps[run] = sum(price(*kernel[1:4]) for kernel in self._runs[run])
        return self._run_ps[run]

    def _transfer(self, stream: _Stream, step: Step) -> bool:
        """Get ready for a transfer; whether the stream can go on at once."""
        kind, what, _, _ = step
        if kind == CALL:
            here = self._arrived.setdefault(what, [])
            here.append(stream)
            if len(here) == self._wanted[what[0]]:
                del self._arrived[what]
                ready_ps = max([other.now_ps for other in here])
                heappush(self._ready, (ready_ps, CALL, what, here))
        elif kind == SEND:
            heappush(self._ready, (stream.now_ps, SEND, what, [stream]))
        elif what in self._sent:
            stream.passed(*self._sent.pop(what))
            return True
        else:
            self._sleepers.setdefault(what, []).append(stream)
        return False

    def _pass_collective(self, here: list[_Stream], ready_ps: int) -> None:
        here.sort(key=lambda stream: stream.rank)
        steps = [stream.steps[stream.place] for stream in here]
        shapes = tuple([step[3] for step in steps])
        if shapes not in self._plans:
            calls = {s.rank: step[2] for s, step in zip(here, steps, strict=True)}
            self._plans[shapes] = self._links.plan(calls)
        end_ps = self._links.take(self._plans[shapes], ready_ps)
        for stream in here:
            stream.passed(ready_ps, end_ps)
        for stream in here:
            self._go_on(stream)

    def _pass_message(self, key: tuple, stream: _Stream) -> None:
        source, target, _ = key
        send = stream.steps[stream.place][2]
        start_ps, left_ps, there_ps = self._links.message(
            source, target, send.num_bytes, stream.now_ps
        )
        stream.passed(stream.now_ps, left_ps)
        self._sent[key] = start_ps, there_ps
        self._go_on(stream)
        for receiver in self._sleepers.pop(key, ()):
            self._go_on(receiver)


def _check_ways(all_reduce: str, hops: str) -> None:
    if all_reduce not in ALL_REDUCES:
        raise ValueError(f"all_reduce must be ring or tree, got {all_reduce!r}")
    if hops not in HOPS:
        raise ValueError(f"hops must be pipelined or series, got {hops!r}")


def _circle(stuck: list[_Stream], arrived: dict[tuple, list[_Stream]]) -> str:
    """Who waits for what, at most eight of them."""
    lines = [f"  {_who_waits(stream, arrived)}" for stream in stuck[:8]]
    if len(stuck) > 8:
        lines.append(f"  … and {len(stuck) - 8} more streams")
    return "\n".join(["the tapes wait for each other in a circle:", *lines])


def _who_waits(stream: _Stream, arrived: dict[tuple, list[_Stream]]) -> str:
    _, what, record, _ = stream.steps[stream.place]
    who = f"rank {stream.rank}, stream {stream.name!r} waits "
    if isinstance(record, Wait):
        return f"{who}for event {record.event}"
    if isinstance(record, Receive):
        return f"{who}for message {record.sequence} from rank {record.peer}"
    assert isinstance(record, Collective)
    here = {other.rank for other in arrived[what]}
    absent = ", ".join(str(rank) for rank in record.group if rank not in here)
    call = f"{record.kind} {record.name!r}, call {record.sequence}"
    return f"{who}in {call} of group {record.group}, for rank {absent}"
