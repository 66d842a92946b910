"""Who waits for which port: messages and collectives on two levels of links.

Chapter: 05_comm/emulated_time
Source: collective_cost; deepseek_v3, section 3.2

Each GPU has four ports: NVLink to its own node and the network to all others, each with
a sending and a receiving side. A port serves one transfer after the other, first come
first served. With α before the first byte, β seconds a byte, p ranks and n bytes,

    message                  α + n β
    all_to_all               α + β · the most bytes that any port has to pass
      two hops in series     as much for the network's ports, and then for NVLink's
    all_reduce, ring         2 (p - 1) (α + ⌈n / p⌉ β)
    all_reduce, tree         2 ⌈log₂ p⌉ (α + n β)
    all_gather, ring         (p - 1) (α + n β), n being one rank's shard
    reduce_scatter, ring     (p - 1) (α + ⌈n / p⌉ β)
    broadcast, reduce, tree  ⌈log₂ p⌉ (α + n β)
    barrier                  as a tree all_reduce of no bytes

An all-to-all sends to all peers at once, limited by ports alone, and so ends for all
ranks when the busiest port is through: a hot expert delays everybody. A ring advances
as fast as its slowest hop, and one network hop slows the ring of a whole node. A tree
advances as fast as the slowest pair of each round. Both keep their ports to the end.

What goes to another node passes the cards of its sender and its receiver. In V3's
dispatch a token goes once to each node, to the GPU with the sender's place in it, which
hands it on over NVLink. On a tape that is one all-to-all of two *hops*: one entry for
each other node, and for the neighbours what is theirs and what is handed on. Whether
the second hop goes on beside the first is the program's doing and no property of the
links, so it is an argument:

    pipelined   a row is handed on while the next ones come in: the busiest port counts.
                V3's kernels are built for this, and take 20 of 132 processors for it
    series      nothing is handed on before all has come in: the two links add up, and
                the exchange keeps its ports to the end, as a ring does

Where rows go straight to their GPU nothing is handed on, and `pipelined` is right.
An all-reduce in which each GPU uses its own card is three calls: a reduce-scatter
in the node, all-reduces between GPUs of the same place, an all-gather in the node.

What is left out: contention inside switches, incast (many senders meeting at one
receiver lose more than their share), several rings at once over all cards of a node,
and the processors of the GPU that move the bytes. A collective pays α and no launch.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tiny_lm.replay.prices import LINKS, Prices
from tiny_lm.replay.tape import Collective

ALL_REDUCES = ("ring", "tree")
HOPS = ("pipelined", "series")
Hop = tuple[int, int]  # a global rank that sends, and the one that receives


class Plan(NamedTuple):
    """How a collective uses its ports.

    Args:
        ports: port and the picoseconds it is busy, for ranks that have a tape.
        lockstep_ps: how long all ports are kept together; 0 where each is on its own.
        alpha_ps: what comes on top once the ports are through.
    """

    ports: tuple[tuple[int, int], ...]
    lockstep_ps: int
    alpha_ps: int


class Links:
    """All ports of all ranks, and until when each of them is taken."""

    def __init__(
        self,
        prices: Prices,
        ranks: Iterable[int],
        all_reduce: str = "ring",
        hops: str = "pipelined",
    ) -> None:
        self._prices = prices
        self._ranks = frozenset(ranks)  # those with a tape: others' ports are not kept
        self._all_reduce, self._hops = all_reduce, hops
        self._free_ps: dict[int, int] = {}

    def message(
        self, source: int, target: int, num_bytes: int, posted_ps: int
    ) -> tuple[int, int, int]:
        """Pass one message: when it starts, has left the sender, and is there."""
        link = self._prices.link(source, target)
        ports = _port(source, link, False), _port(target, link, True)
        free = self._free_ps
        start = max(posted_ps, free.get(ports[0], 0), free.get(ports[1], 0))
        left = start + self._prices.bytes_ps(link, num_bytes)
        free[ports[0]] = free[ports[1]] = left
        return start, left, left + self._prices.alpha_ps(link)

    def take(self, plan: Plan, ready_ps: int) -> int:
        """Pass what all ranks of a group send; returns when it is done for all.

        Args:
            plan: how the call uses its ports.
            ready_ps: when the last rank arrived.
        """
        ports, lockstep_ps, alpha_ps = plan
        free = self._free_ps
        if lockstep_ps:
            end = lockstep_ps + max(
                [ready_ps, *(free.get(port, 0) for port, _ in ports)]
            )
            free.update((port, end) for port, _ in ports)
            return end
        last = ready_ps
        for port, busy_ps in ports:
            free[port] = end = max(ready_ps, free.get(port, 0)) + busy_ps
            last = max(last, end)
        return last + alpha_ps

    def plan(self, calls: Mapping[int, Collective]) -> Plan:
        """How a call uses its ports, which is the same each time that it is made.

        Args:
            calls: by global rank, for each rank of the group that has a tape.
        """
        call = next(iter(calls.values()))
        group, num_bytes = call.group, sum(call.num_bytes)
        if len(group) == 1:
            return Plan((), 0, 0)
        if call.kind == "all_to_all":
            return self._exchange(calls, group)
        part, others = -(-num_bytes // len(group)), len(group) - 1
        if call.kind == "all_reduce" and self._all_reduce == "ring":
            return self._rounds([ring(group)], part, times=2 * others)
        if call.kind == "all_gather":
            return self._rounds([ring(group)], num_bytes, times=others)
        if call.kind == "reduce_scatter":
            return self._rounds([ring(group)], part, times=others)
        down = tree(group, group[0] if call.root is None else call.root)
        up = [[(there, here) for here, there in hops] for hops in reversed(down)]
        rounds = {"broadcast": down, "reduce": up}.get(call.kind, up + down)
        return self._rounds(rounds, num_bytes)

    def _exchange(
        self, calls: Mapping[int, Collective], group: tuple[int, ...]
    ) -> Plan:
        """Each port passes its own bytes; who has no tape sends back what it gets."""
        load: dict[int, int] = {}
        for rank, call in calls.items():
            for peer, num_bytes in zip(group, call.num_bytes, strict=True):
                if peer == rank or not num_bytes:
                    continue
                link = self._prices.link(rank, peer)
                ports = [_port(rank, link, False)]
                ports.append(_port(peer if peer in calls else rank, link, True))
                for port in ports:
                    load[port] = load.get(port, 0) + num_bytes
        bytes_ps = self._prices.bytes_ps
        busy = [(port, bytes_ps(_link(port), n)) for port, n in sorted(load.items())]
        used = {_link(port) for port, _ in busy}
        if self._hops == "pipelined" or len(used) < len(LINKS):
            alpha_ps = self._prices.alpha_ps(self._span(group))
            return Plan(tuple(busy), 0, alpha_ps)
        slowest = (max(ps for p, ps in busy if _link(p) == link) for link in used)
        total = sum(slowest) + sum(self._prices.alpha_ps(link) for link in used)
        return Plan(tuple(busy), total, 0)

    def _rounds(
        self, rounds: Sequence[Sequence[Hop]], num_bytes: int, times: int = 1
    ) -> Plan:
        """Rounds one after the other, each as slow as its slowest hop."""
        link = self._prices.link
        total, price = 0, {}
        for hops in rounds:
            for number in {link(*hop) for hop in hops} - price.keys():
                sent = self._prices.bytes_ps(number, num_bytes)
                price[number] = self._prices.alpha_ps(number) + sent
            total += times * max(price[link(*hop)] for hop in hops)
        ports = {
            _port(rank, link(*hop), receives)
            for hops in rounds
            for hop in hops
            for rank, receives in zip(hop, (False, True), strict=True)
            if rank in self._ranks
        }
        return Plan(tuple((port, total) for port in sorted(ports)), total, 0)

    def _span(self, group: tuple[int, ...]) -> int:
        """The slowest link that joins ranks of the group."""
        return max(self._prices.link(group[0], rank) for rank in group)


def ring(group: tuple[int, ...]) -> list[Hop]:
    """Each rank sends to the next, in the group's order, and the last to the first."""
    return list(zip(group, group[1:] + group[:1], strict=True))


def tree(group: tuple[int, ...], root: int) -> list[list[Hop]]:
    """Rounds of a broadcast from the root: who has it gives it to one that has not.

    Near pairs come last, so that a node gets its copy over the network once.
    """
    first = group.index(root)
    order = group[first:] + group[:first]
    step = 1 << (len(order) - 1).bit_length()
    rounds = []
    while step := step // 2:
        starts = range(0, len(order) - step, 2 * step)
        rounds.append([(order[place], order[place + step]) for place in starts])
    return rounds


def _port(rank: int, link: int, receives: bool) -> int:
    return 4 * rank + 2 * link + receives


def _link(port: int) -> int:
    return port % 4 // 2
