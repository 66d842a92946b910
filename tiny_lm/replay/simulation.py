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

from collections.abc import Callable, Iterable
from heapq import heappop, heappush

from tiny_lm.hardware import Machine
from tiny_lm.replay.links import ALL_REDUCES, HOPS, Links
from tiny_lm.replay.match import check
from tiny_lm.replay.prices import Prices
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
from tiny_lm.replay.timeline import COMM, KERNEL, WAIT, Span, Timeline


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
    if all_reduce not in ALL_REDUCES:
        raise ValueError(f"all_reduce must be ring or tree, got {all_reduce!r}")
    if hops not in HOPS:
        raise ValueError(f"hops must be pipelined or series, got {hops!r}")
    tapes = list(tapes)
    check(tapes, mirror)
    prices = Prices(machine)
    links = Links(prices, (tape.rank for tape in tapes), all_reduce, hops)
    streams = _Replay(tapes, prices, links).run()
    spans = tuple(span for stream in streams for span in stream.spans)
    step_ps = max((stream.now_ps for stream in streams), default=0)
    return Timeline(machine.name, spans, step_ps)


class _Stream:
    """One FIFO of one rank: what is to do, how far it is, and what it did."""

    __slots__ = ("name", "now_ps", "place", "rank", "records", "spans")

    def __init__(self, rank: int, name: str) -> None:
        self.rank, self.name = rank, name
        self.records: list[Record] = []
        self.spans: list[Span] = []
        self.place = self.now_ps = 0

    def add(self, name: str, end_ps: int, kind: str) -> None:
        """A span from now to the end; one of no length is not drawn."""
        if end_ps > self.now_ps:
            start_ps, self.now_ps = self.now_ps, end_ps
            self.spans.append(Span(self.rank, self.name, name, start_ps, end_ps, kind))


class _Replay:
    """The state of one replay; every handler says whether its stream goes on."""

    def __init__(self, tapes: list[Tape], prices: Prices, links: Links) -> None:
        self._prices, self._links = prices, links
        self._with_tape = {tape.rank for tape in tapes}
        self._wanted: dict[tuple[int, ...], int] = {}  # group: how many have to come
        self._streams = _split(tapes)
        self._events: dict[tuple[int, int], int] = {}  # (rank, event): when
        self._sleepers: dict[tuple, list[_Stream]] = {}  # what is waited for: who
        self._arrived: dict[tuple, list[_Stream]] = {}  # (group, number): who is there
        self._sent: dict[tuple, tuple[int, int]] = {}  # message: starts, is there
        self._ready: list[tuple] = []  # transfers by the time at which they may start
        self._do: dict[type, Callable[[_Stream, Record], bool]] = {
            Kernel: self._kernel,
            Mark: self._mark,
            Wait: self._wait,
            Collective: self._collective,
            Send: self._send,
            Receive: self._receive,
        }

    def run(self) -> list[_Stream]:
        """Go on until all streams are through."""
        for stream in self._streams:
            self._go_on(stream)
        while self._ready:
            _, key, streams = heappop(self._ready)
            (self._pass_message if key[0] else self._pass_collective)(key, streams)
        stuck = [s for s in self._streams if s.place < len(s.records)]
        if stuck:
            raise ValueError(_circle(stuck, self._arrived))
        return self._streams

    def _go_on(self, stream: _Stream) -> None:
        """Run one stream as far as it gets, and then those that it woke."""
        awake = [stream]
        do = self._do
        while awake:
            stream = awake.pop()
            records = stream.records
            while stream.place < len(records):
                record = records[stream.place]
                if not do[type(record)](stream, record):
                    break
                stream.place += 1
                if type(record) is Mark and self._sleepers:
                    key = stream.rank, record.event
                    awake.extend(self._sleepers.pop(key, ()))

    def _kernel(self, stream: _Stream, kernel: Kernel) -> bool:
        _, flops, num_bytes, precision, _ = kernel
        price = self._prices.kernel_ps(flops, num_bytes, precision)
        stream.add(kernel.name, stream.now_ps + price, KERNEL)
        return True

    def _mark(self, stream: _Stream, mark: Mark) -> bool:
        self._events[stream.rank, mark.event] = stream.now_ps
        return True

    def _wait(self, stream: _Stream, wait: Wait) -> bool:
        key = stream.rank, wait.event
        happened_ps = self._events.get(key)
        if happened_ps is None:
            self._sleepers.setdefault(key, []).append(stream)
            return False
        stream.now_ps = max(stream.now_ps, happened_ps)
        return True

    def _collective(self, stream: _Stream, call: Collective) -> bool:
        key = call.group, call.sequence
        here = self._arrived.setdefault(key, [])
        here.append(stream)
        if call.group not in self._wanted:
            self._wanted[call.group] = len(self._with_tape.intersection(call.group))
        if len(here) == self._wanted[call.group]:
            del self._arrived[key]
            ready_ps = max(stream.now_ps for stream in here)
            heappush(self._ready, (ready_ps, (0, *key), here))
        return False

    def _pass_collective(self, key: tuple, here: list[_Stream]) -> None:
        ready_ps = max(stream.now_ps for stream in here)
        calls = {stream.rank: stream.records[stream.place] for stream in here}
        end_ps = self._links.collective(calls, ready_ps)
        for stream in here:
            name = calls[stream.rank].name
            stream.add(name, ready_ps, WAIT)
            stream.add(name, end_ps, COMM)
            stream.place += 1
        for stream in here:
            self._go_on(stream)

    def _send(self, stream: _Stream, send: Send) -> bool:
        key = 1, (stream.rank, send.peer), send.sequence
        heappush(self._ready, (stream.now_ps, key, [stream]))
        return False

    def _pass_message(self, key: tuple, sender: list[_Stream]) -> None:
        (stream,) = sender
        send = stream.records[stream.place]
        _, ends, sequence = key
        start_ps, left_ps, there_ps = self._links.message(
            *ends, send.num_bytes, stream.now_ps
        )
        stream.add(send.name, left_ps, COMM)
        stream.place += 1
        self._sent[ends, sequence] = start_ps, there_ps
        self._go_on(stream)
        for receiver in self._sleepers.pop((ends, sequence), ()):
            self._go_on(receiver)

    def _receive(self, stream: _Stream, receive: Receive) -> bool:
        key = (receive.peer, stream.rank), receive.sequence
        if key not in self._sent:
            self._sleepers.setdefault(key, []).append(stream)
            return False
        start_ps, there_ps = self._sent.pop(key)
        stream.add(receive.name, start_ps, WAIT)
        stream.add(receive.name, there_ps, COMM)
        return True


def _split(tapes: list[Tape]) -> list[_Stream]:
    """One FIFO for each stream of each rank, by rank and name."""
    streams: dict[tuple[int, str], _Stream] = {}
    for tape in tapes:
        for record in tape.records:
            key = tape.rank, record.stream
            if key not in streams:
                streams[key] = _Stream(*key)
            streams[key].records.append(record)
    return [streams[key] for key in sorted(streams)]


def _circle(stuck: list[_Stream], arrived: dict[tuple, list[_Stream]]) -> str:
    """Who waits for what, at most eight of them."""
    lines = [f"  {_who_waits(stream, arrived)}" for stream in stuck[:8]]
    if len(stuck) > 8:
        lines.append(f"  … and {len(stuck) - 8} more streams")
    return "\n".join(["the tapes wait for each other in a circle:", *lines])


def _who_waits(stream: _Stream, arrived: dict[tuple, list[_Stream]]) -> str:
    record = stream.records[stream.place]
    who = f"rank {stream.rank}, stream {stream.name!r} waits "
    if isinstance(record, Wait):
        return f"{who}for event {record.event}"
    if isinstance(record, Receive):
        return f"{who}for message {record.sequence} from rank {record.peer}"
    assert isinstance(record, Collective)
    here = {other.rank for other in arrived[record.group, record.sequence]}
    absent = ", ".join(str(rank) for rank in record.group if rank not in here)
    call = f"{record.kind} {record.name!r}, call {record.sequence}"
    return f"{who}in {call} of group {record.group}, for rank {absent}"
