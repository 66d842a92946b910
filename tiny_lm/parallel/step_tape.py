"""Write a plan down as tapes: pipeline, layers, transfers and optimizer of one step.

Chapter: 05_comm/slower_link
Source: deepseek_v3, section 3.2; zero

Every name says which part of the step it belongs to, as published tables have them:

    1F: …      a forward with nothing beside it         1B: …   a backward likewise
    1F1B: …    a forward and a backward side by side    1W: …   weight gradients alone
    optimizer: …                                        pipeline: …   between stages
    1B+1W: …   weight gradients inside a whole backward that has nothing beside it

The last are a part of their own, since the published table can be read in two ways:
with what goes on around them, or with the other weight gradients (`v3_step.READINGS`).

In a 1F1B the pieces of the two chains take turns: attention of the forward, experts of
the backward, experts of the forward, attention of the backward.
While one chain's rows are under way the other chain computes. Weight gradients follow
their piece at once and help to fill the time.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest

from tiny_lm.parallel.chunks import (
    BF16_BYTES,
    COMBINE,
    DISPATCH,
    FP32_BYTES,
    GATHER,
    SCATTER,
    Piece,
)
from tiny_lm.parallel.plan import Plan, block_of
from tiny_lm.parallel.schedules import neighbours, parts
from tiny_lm.replay.program import uncollected
from tiny_lm.replay.tape import (
    COMM,
    COMPUTE,
    Collective,
    Kernel,
    Mark,
    Receive,
    Record,
    Send,
    Tape,
    Wait,
)

PIPELINE = "pipeline"  # the stream that sends to the next stage
PART = {"F": "1F", "B": "1B", "BW": "1B", "W": "1W", "FB": "1F1B"}
WITHIN = "1B+1W"  # weight gradients in a lone BW
OPTIMIZER = "optimizer"
# Each GPU updates its share: reads the FP32 gradient, reads and writes the FP32 master
# and two BF16 moments (deepseek_v3, section 3.3), writes the BF16 weight it gives away.
# That weights travel in BF16 and are quantised where they arrive is an assumption.
UPDATE_BYTES = FP32_BYTES + 2 * FP32_BYTES + 2 * 2 * BF16_BYTES + BF16_BYTES


@uncollected()
def write(plan: Plan, *, every_rank: bool = False) -> list[Tape]:
    """One step's tapes, of the first GPU of each stage: replay them with `mirror=True`.

    Args:
        every_rank: a tape for each GPU, for a replay without `mirror`.
    """
    here = plan.layout
    step = 1 if every_rank else here.gpus_per_stage
    ranks = range(0, here.num_gpus, step)
    return [Tape(rank, tuple(_Writer(plan, rank).step())) for rank in ranks]


def _named(part: str, piece: Piece) -> Piece:
    owed = WITHIN if part == PART["BW"] else part
    kernels, weights = (
        tuple(k._replace(name=f"{name}: {k.name}") for k in some)
        for name, some in ((part, piece.kernels), (owed, piece.weights))
    )
    return piece._replace(kernels=kernels, weights=weights)


class _Chain:
    """Pieces of one chunk, one after the other, and the transfer they wait for."""

    def __init__(self, pieces: tuple[Piece, ...], pays_weights: bool) -> None:
        self.pieces, self.pays_weights = pieces, pays_weights
        self.pending: int | None = None  # event: the last transfer is through


class _Writer:
    """Collects the records of one rank."""

    def __init__(self, plan: Plan, rank: int) -> None:
        self.plan, self.rank = plan, rank
        self.stage, place = divmod(rank, plan.layout.gpus_per_stage)
        self.records: list[Record] = []
        self._events = 0
        self._calls: Counter[tuple[int, ...]] = Counter()
        self._transfers = self._groups(place)
        self._chunks = [
            {
                part: (
                    tuple(_named(part, piece) for piece in chunk.forward),
                    tuple(_named(part, piece) for piece in chunk.backward),
                )
                for part in PART.values()
            }
            for chunk in plan.held(self.stage)
        ]

    def _groups(self, place: int) -> dict[str, tuple]:
        """Kind, bytes and group of each transfer."""
        here, size = self.plan.layout, self._state_bytes
        several = block_of(self.rank, here.tensor_parallel)
        groups = {
            GATHER: ("all_gather", (size,), several),
            SCATTER: ("reduce_scatter", (size * len(several),), several),
        }
        if self.plan.config.moe:
            experts = block_of(self.rank, here.num_expert_ranks)
            for transfer in (DISPATCH, COMBINE):
                rows = self.plan.exchange_bytes(transfer, place % len(experts))
                groups[transfer] = "all_to_all", rows, experts
        return groups

    def step(self) -> list[Record]:
        """All records of the step."""
        for action in self.plan.actions(self.stage):
            self._act(action)
        self._optimize()
        return self.records

    def _act(self, action: tuple) -> None:
        part = PART[action[0]]
        work = parts(action)
        self.records += self._receives(work)
        if action[0] == "W":
            _, backward = self._chunks[action[1]][part]
            for piece in backward:
                self.records += piece.weights
            return
        chains = [
            _Chain(self._chunks[pipeline][part][kind != "F"], kind == "BW")
            for kind, pipeline, _ in work
        ]
        self._starters(chains, part)
        pieces = ([p for p in chain.pieces if p.kernels] for chain in chains)
        for turn in zip_longest(*pieces):
            for chain, piece in zip(chains, turn, strict=True):
                if piece is not None:
                    self._piece(chain, piece, part)
        for chain in chains:
            self._wait(chain)
        self._sends(work)

    def _starters(self, chains: list[_Chain], part: str) -> None:
        """What the first pieces wait for leaves before any of them computes."""
        for chain in chains:
            if not chain.pieces[0].kernels:
                self._piece(chain, chain.pieces[0], part)

    def _piece(self, chain: _Chain, piece: Piece, part: str) -> None:
        self._wait(chain)
        self.records += piece.kernels
        for transfer in piece.after:
            self._transfer(chain, transfer, part)
        if chain.pays_weights:
            self.records += piece.weights

    def _transfer(self, chain: _Chain, transfer: str, part: str) -> None:
        """Start one once all kernels so far are through, and what it follows."""
        call = f"{part}: {transfer}", *self._transfers[transfer]
        if not self.plan.layout.overlap:
            self._collective(*call, COMPUTE)
            return
        self._after(COMPUTE, COMM)
        self._collective(*call, COMM)
        chain.pending = self._mark(COMM)

    def _wait(self, chain: _Chain) -> None:
        if chain.pending is not None:
            self.records.append(Wait(chain.pending, COMPUTE))
            chain.pending = None

    def _mark(self, stream: str) -> int:
        self.records.append(Mark(self._events, stream))
        self._events += 1
        return self._events - 1

    def _after(self, first: str, then: str) -> None:
        self.records.append(Wait(self._mark(first), then))

    def _collective(
        self,
        name: str,
        kind: str,
        num_bytes: tuple[int, ...],
        group: tuple[int, ...],
        stream: str,
    ) -> None:
        number = self._calls[group]
        self._calls[group] += 1
        self.records.append(Collective(name, kind, num_bytes, group, number, stream))

    def _ends(self, part: tuple, end: int) -> Iterator[tuple[int, int]]:
        """The rank at the other end of this work's message, and its number."""
        kind, pipeline, micro = part
        if kind != "W":
            other = neighbours(part, self.stage)[end]
            if 0 <= other < self.plan.layout.num_stages:
                width = self.plan.layout.gpus_per_stage
                turn = 2 * pipeline + (kind != "F")
                number = micro + self.plan.layout.num_micro * turn
                yield self.rank + (other - self.stage) * width, number

    def _receives(self, work: list[tuple]) -> Iterator[Receive]:
        for part in work:
            for source, number in self._ends(part, 0):
                size = self._state_bytes
                yield Receive(f"{PIPELINE}: in", source, size, number, COMPUTE)

    def _sends(self, work: list[tuple]) -> None:
        sends = [
            Send(f"{PIPELINE}: out", target, self._state_bytes, number, PIPELINE)
            for part in work
            for target, number in self._ends(part, 1)
        ]
        if sends:
            self._after(COMPUTE, PIPELINE)
            self.records += sends

    @property
    def _state_bytes(self) -> int:
        """Hidden states of a micro-batch, or their gradient, in BF16."""
        return self.plan.micro_tokens * self.plan.config.d_model * BF16_BYTES

    def _optimize(self) -> None:
        """Sum gradients so that each GPU gets a share, update it, give it back.

        What all GPUs of a stage keep is summed in each node first and then between
        nodes, with an eighth of it on each card. Experts have fewer copies.
        """
        held, here = self.plan.held(self.stage), self.plan.layout
        shared = sum(chunk.shared_parameters for chunk in held)
        experts = sum(chunk.expert_parameters for chunk in held)
        in_node = min(here.gpus_per_node, here.gpus_per_stage)
        node = block_of(self.rank, in_node)
        nodes = self.plan.stage_copies(self.rank, in_node)
        copies = self.plan.stage_copies(self.rank, here.num_expert_ranks)
        ways = [(shared, node), (_share(shared, node), nodes), (experts, copies)]
        ways = [(count, group) for count, group in ways if count and len(group) > 1]
        for count, group in ways:
            size = (FP32_BYTES * count,)
            name = f"{OPTIMIZER}: gradients"
            self._collective(name, "reduce_scatter", size, group, COMPUTE)
        mine = _share(_share(shared, node), nodes) + _share(experts, copies)
        self.records.append(Kernel(f"{OPTIMIZER}: update", 0, UPDATE_BYTES * mine))
        for count, group in reversed(ways):
            size = (BF16_BYTES * _share(count, group),)
            name = f"{OPTIMIZER}: weights"
            self._collective(name, "all_gather", size, group, COMPUTE)


def _share(count: int, group: tuple[int, ...]) -> int:
    return -(-count // len(group))
