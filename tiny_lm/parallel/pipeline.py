"""A pipeline that really runs: a model cut into stages, experts shared inside each.

Chapter: 05_comm/pipelines
Source: torch_pipelining; deepseek_v3, section 3.2.1

Ranks form a grid: along one axis, `pp`, they hold different layers, and along the
other, `ep`, the same layers for different sequences, and different experts. With four
ranks and two stages, ranks 0 and 1 are stage 0, ranks 2 and 3 stage 1; 0 talks to 2,
and 1 to 3. `torch.distributed.pipelining` does the actions of a schedule one by one and
sends what comes out; we cut the model, and see to what must be the same as in one
process.

- *The balance loss* arises in every stage, and the last one has the total. So each
  stage adds its own to what it was given and passes the sum on beside the hidden
  states, and its gradient, a one, comes back beside theirs.
- *The load of the experts* is counted over all micro-batches, and the biases move once,
  after the step: a micro-batch more must not be a step more.
- *Exchanges inside a stage* are collectives, so the ranks of a stage must come to them
  in the same order. They do, for they follow the same list of actions. Where a
  schedule splits a backward, all exchanges are in B. W has none, with one exception:
  torch puts the whole backward of the very first stage into W, since nobody waits for
  the gradient of its input.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.pipelining.schedules import (
    ScheduleDualPipeV,
    ScheduleZBVZeroBubble,
)

from tiny_lm.gpus import comm
from tiny_lm.gpus.mesh import Group, Mesh
from tiny_lm.gpus.meter import count
from tiny_lm.layers import at_least_fp32
from tiny_lm.model import LanguageModel
from tiny_lm.parallel.stages import Share, Stage
from tiny_lm.parts import require
from tiny_lm.replay.recorder import active


@dataclass(frozen=True)
class Kind:
    """A schedule that torch can run.

    Args:
        stages_per_rank: one, or two that lie like a V.
        least_micro: fewest micro-batches for so many ranks.
    """

    torchs: type
    stages_per_rank: int
    least_micro: Callable[[int], int]


KINDS = {
    "1f1b": Kind(Schedule1F1B, 1, lambda ranks: ranks),
    "zbv": Kind(ScheduleZBVZeroBubble, 2, lambda ranks: 2 * ranks - 1),
    "dualpipev": Kind(ScheduleDualPipeV, 2, lambda ranks: 2 * ranks),
}


@dataclass(frozen=True)
class Grid:
    """Where a rank stands: along the pipeline, and among those of its stage."""

    pp: Group
    ep: Group
    everyone: Group


def grid(pp: int, everyone: Group) -> Grid:
    """Ranks of a stage are neighbours; every rank must call it.

    Raises:
        ValueError: `pp` does not divide the number of ranks.
    """
    require(
        pp >= 1 and everyone.size % pp == 0,
        f"a pipeline of {pp} does not fit {everyone.size} ranks",
    )
    mesh = Mesh({"pp": pp, "ep": everyone.size // pp})
    return Grid(mesh["pp"], mesh["ep"], everyone)


def stages_of(name: str, num_ranks: int, rank: int) -> list[int]:
    """The stages of a rank, first one first."""
    last = KINDS[name].stages_per_rank * num_ranks - 1
    return [rank] if last < num_ranks else [rank, last - rank]


class _Stage(PipelineStage):
    """torch's stage, which also tells the meter and the tape what it sends."""

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        ops = super().get_fwd_send_ops(fwd_chunk_id)
        return self._sent("forward", ops, self.stage_index + 1, fwd_chunk_id)

    def get_bwd_send_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        ops = super().get_bwd_send_ops(bwd_chunk_id)
        return self._sent("backward", ops, self.stage_index - 1, bwd_chunk_id)

    def _retrieve_recv_activations(self, fwd_chunk_id: int) -> tuple[Tensor, ...]:
        received = super()._retrieve_recv_activations(fwd_chunk_id)
        self._received("forward", received, self.stage_index - 1, fwd_chunk_id)
        return received

    def _retrieve_recv_grads(self, bwd_chunk_id: int) -> tuple[Tensor, ...]:
        received = super()._retrieve_recv_grads(bwd_chunk_id)
        self._received("backward", received, self.stage_index + 1, bwd_chunk_id)
        return received

    def _sent(self, way: str, ops: list, stage: int, micro: int) -> list:
        if ops:
            num_bytes = sum(op.tensor.nbytes for op in ops)
            count("send", num_bytes)
            if recorder := active():
                peer = self._global_rank(stage)
                number = self._number(way, stage, micro)
                recorder.send(way, peer, num_bytes, number)
        return ops

    def _received(self, way: str, received: tuple, stage: int, micro: int) -> None:
        here = self._global_rank(self.stage_index)
        peer = self._global_rank(stage)
        if peer != here and (recorder := active()):
            num_bytes = sum(tensor.nbytes for tensor in received)
            number = self._number(way, self.stage_index, micro)
            recorder.receive(way, peer, num_bytes, number)

    def _global_rank(self, stage: int) -> int:
        """The rank that has a stage, as torch's stages find it from 2.10 on."""
        ranks = self.group or dist.group.WORLD
        return dist.get_global_rank(ranks, self.stage_index_to_group_rank[stage])

    def _number(self, way: str, target: int, micro: int) -> int:
        """One for each message between two ranks, and the same at both ends."""
        return 2 * (micro * self.num_stages + target) + (way == "backward")


@dataclass(frozen=True)
class Sums:
    """Losses of this rank's sequences; zero on ranks without the last stage."""

    next_token: float
    balance: float


class Pipeline:
    """One rank's part in the pipeline of a model.

    Args:
        model: the whole one; what is not of this rank may go afterwards.
        num_micro: micro-batches that each rank's sequences are cut into.
        shape: sequences and positions of a micro-batch.

    Raises:
        ValueError: unknown schedule, too few micro-batches for it, or a model that
            cannot be cut.
    """

    def __init__(
        self,
        model: LanguageModel,
        places: Grid,
        schedule: str,
        num_micro: int,
        shape: tuple[int, int],
    ) -> None:
        require(
            schedule in KINDS,
            f"no pipeline runs by {schedule!r}; there are: {', '.join(KINDS)}",
        )
        kind, ranks = KINDS[schedule], places.pp.size
        least = kind.least_micro(ranks)
        require(
            num_micro >= least,
            f"{schedule} on {ranks} ranks wants at least {least} micro-batches, "
            f"got {num_micro}",
        )
        self.places, self.num_micro = places, num_micro
        self.num_stages = kind.stages_per_rank * ranks
        self.owners = {
            stage: rank
            for rank in range(ranks)
            for stage in stages_of(schedule, ranks, rank)
        }
        mine = stages_of(schedule, ranks, places.pp.rank)
        self.share = Share(model, mine, self.num_stages)
        self._losses: list[tuple[Tensor, Tensor]] = []
        stages = [self._stage(part, shape) for part in self.share.parts]
        run = stages if kind.stages_per_rank > 1 else stages[0]
        self.schedule = kind.torchs(run, num_micro, self._loss, scale_grads=False)

    def step(self, tokens: Int[Tensor, "B T1"]) -> Sums:
        """Forward and backward of all micro-batches; gradients are those of a mean.

        The mean is over the ranks of a stage, too, so that sums over them are gradients
        of the whole batch's loss.

        Args:
            tokens: this rank's share of the batch, the same on all of its stages.
        """
        self._losses = []
        numbers = [part.number for part in self.share.parts]
        inputs = (tokens[:, :-1].contiguous(),) if 0 in numbers else ()
        last = {}
        if self.num_stages - 1 in numbers:
            last = {"target": tokens[:, 1:], "losses": []}
        self.schedule.step(*inputs, **last, return_outputs=False)
        means = torch.tensor(self._losses).view(-1, 2).sum(0) / self.num_micro
        return Sums(*means.tolist())

    @torch.no_grad()
    def evaluate(self, tokens: Int[Tensor, "B T1"]) -> Float[Tensor, ""]:
        """Mean loss of the next token, on every rank of the pipeline.

        Nothing is in a hurry here: what a stage makes goes to all, in one broadcast.
        """
        parts = {part.number: part for part in self.share.parts}
        config, (num, length) = self.share.config, tokens[:, 1:].shape
        x = tokens[:, :-1]
        for stage in range(self.num_stages):
            width = config.d_model
            if stage == self.num_stages - 1:
                width = config.vocab_size
            y = torch.empty(num, length, width, device=tokens.device)
            if stage in parts:
                y = parts[stage](x, y.new_zeros(1))[0]
            x = comm.broadcast(y, self.owners[stage], self.places.pp)
        return _cross_entropy(x, tokens[:, 1:])

    def _stage(self, part: Stage, shape: tuple[int, int]) -> PipelineStage:
        """What comes in and goes out is told beforehand, so that nothing runs twice."""
        config, device = self.share.config, next(part.parameters()).device
        empty = partial(torch.empty, device=device)
        hidden = (empty(*shape, config.d_model), empty(1))
        inputs, outputs = hidden, hidden
        if part.number == 0:
            inputs = (empty(shape, dtype=torch.int64),)
        if part.number == self.num_stages - 1:
            outputs = (empty(*shape, config.vocab_size), empty(1))
        for tensor in (*inputs, *outputs):
            tensor.requires_grad_(tensor.is_floating_point())
        return _Stage(
            part,
            part.number,
            self.num_stages,
            device,
            input_args=inputs,
            output_args=outputs,
            group=self.places.pp.process_group,
        )

    def _loss(self, output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        logits, balance = output
        next_token, balance = _cross_entropy(logits, target), balance.squeeze(0)
        self._losses.append((next_token.detach(), balance.detach()))
        return (next_token + balance) / (self.num_micro * self.places.ep.size)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Float[Tensor, ""]:
    return F.cross_entropy(at_least_fp32(logits).flatten(0, 1), targets.flatten())
