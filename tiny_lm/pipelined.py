"""What one rank does of a run whose layers are spread over a pipeline.

Chapter: 06_together/full_model

It is asked for the same as a plain worker (`step`), and answers the same: a run cannot
tell, except by its speed and by what a rank has to keep.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tiny_lm import data
from tiny_lm.config import TrainConfig
from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.mesh import Group
from tiny_lm.model import LanguageModel, is_expert
from tiny_lm.parallel import shard
from tiny_lm.parallel.pipeline import Grid, Pipeline
from tiny_lm.parallel.stages import Share
from tiny_lm.replay.recorder import recording
from tiny_lm.replay.tape import Tape


class PipelinedWorker:
    """What one rank does: the layers of its stages, with its share of their experts.

    Args:
        model: the whole one, with this rank's share of the experts.
        optimizer: makes one for the layers that this rank keeps.
        num_micro: micro-batches of each rank's sequences.
    """

    def __init__(
        self,
        model: LanguageModel,
        training: TrainConfig,
        places: Grid,
        schedule: str,
        num_micro: int,
        optimizer: Callable[[Share], torch.optim.Optimizer],
    ) -> None:
        self._whole = {name: x.shape for name, x in model.state_dict().items()}
        self._num_layers = model.config.num_layers
        sequences = training.batch_size // places.ep.size // num_micro
        shape = (sequences, training.seq_len)
        self.pipeline = Pipeline(model, places, schedule, num_micro, shape)
        self.model = self.pipeline.share
        self.places = places
        self.clip = training.clip
        self.optimizer = optimizer(self.model)

    @property
    def group(self) -> Group:
        """The ranks that share a batch: those of a stage."""
        return self.places.ep

    @property
    def device(self) -> torch.device:
        """Where its tokens are wanted."""
        return next(self.model.parameters()).device

    def set_rate(self, lr: float) -> None:
        """The learning rate of the next step."""
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr

    def step(self, tokens: Int[Tensor, "B T1"]) -> dict[str, Any]:
        """All micro-batches through the pipeline, then agree, step, balance.

        Args:
            tokens: this rank's share of the batch, the same on all of its stages.
        """
        sums = self.pipeline.step(tokens)
        shard.sum_gradients(self.model, self.group, is_expert)
        squares, losses, loads = self._agree(sums.next_token, sums.balance)
        norm = squares.sqrt()
        shard.clip_to(self.model, self.clip, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for layer, router in self.model.routers.items():
            router.update_bias(loads[layer])
        next_token, balance = losses.tolist()
        return {
            "loss": next_token,
            "mtp_loss": 0.0,
            "balance_loss": balance,
            "grad_norm": float(norm),
            "load": [load.tolist() for load in loads if load.any()],
        }

    def record(self, tokens: Int[Tensor, "B T1"]) -> tuple[dict[str, Any], Tape]:
        """A step, and the tape of what this rank did."""
        with recording(mesh.world().rank, self.model) as recorder:
            metrics = self.step(tokens)
        return metrics, recorder.tape()

    def evaluate(self, validation: data.EvalBatches) -> float:
        """Mean loss on the validation batches, over all ranks; nats per byte."""
        self.model.eval()
        total = torch.zeros((), device=self.device)
        for number in range(len(validation)):
            tokens = validation.at(number, self.group.rank, self.group.size)
            total += self.pipeline.evaluate(tokens.to(self.device))
        self.model.train()
        mean = comm.all_reduce(total / self.group.size, self.group)
        return float(mean) / len(validation)

    def check(self) -> None:
        """Make sure that all ranks of a stage start from the same weights.

        Raises:
            RuntimeError: they differ; names what does.
        """
        shard.check_shared(self.model, self.group, is_expert)

    @torch.no_grad()
    def gather_state(self) -> dict[str, Tensor]:
        """The state of the whole model; all ranks must call it."""
        mine = shard.gather_state(self.model, self.group, is_expert)
        pp, state = self.places.pp, {}
        held = torch.tensor([[int(name in mine) for name in self._whole]])
        owners = comm.all_gather(held.to(self.device), pp).argmax(0).tolist()
        for (name, shape), owner in zip(self._whole.items(), owners, strict=True):
            if is_expert(name):
                shape = (shape[0] * self.group.size, *shape[1:])
            value = mine.get(name)
            if value is None:
                value = torch.empty(shape, device=self.device)
            state[name] = comm.broadcast(value, owner, pp)
        return state

    @torch.no_grad()
    def _agree(self, *losses: float) -> tuple[Tensor, Tensor, Tensor]:
        """Over all ranks, in one message: squared length, losses, loads by layer."""
        shared, experts = shard.squared_lengths(self.model, is_expert)
        square = shared / self.group.size + experts  # shared ones are on all of a stage
        means = torch.tensor(losses, device=self.device) / self.group.size
        config = self.model.config
        num_experts = config.moe.num_experts if config.moe else 0
        shape = self._num_layers, num_experts
        loads = torch.zeros(shape, dtype=torch.int64, device=self.device)
        for layer, router in self.model.routers.items():
            loads[layer] = router.load
        return tuple(shard.add_up([square, means, loads], self.places.everyone))
