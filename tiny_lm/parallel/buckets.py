"""Gradients that set out while the backward pass still runs, in buckets.

Chapter: 05_comm/sharding
Source: torch_ddp

The backward pass ends with the first layer and begins with the last. So the gradients
of the last layer are ready long before the rest, and need not wait for it. They are
collected in *buckets*: a bucket sets out once all of its gradients are there, and the
backward pass goes on meanwhile. Parameters fill buckets in the reverse of the order in
which a model lists them, since that is about the order in which gradients come.

All ranks send their buckets in one order, whatever came first on each: a bucket waits
for those before it. What never came, since no token of this rank used the parameter,
counts as zero and sets out at the end, so that nobody waits for ever. Buckets travel on
wires of their own (`mesh.apart`), lest they hold up the exchanges between experts.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.comm import Pending
from tiny_lm.gpus.mesh import Group
from tiny_lm.parallel import shard
from tiny_lm.parallel.shard import IsExpert

BUCKET_BYTES = 2**17  # of the sizes tried on `tiny`'s twin, the one that exposes least


def fill(
    parameters: Iterable[nn.Parameter], bucket_bytes: int
) -> list[list[nn.Parameter]]:
    """Put parameters into buckets, in their order.

    A bucket is closed when the next parameter would exceed its size; a parameter that
    is larger gets a bucket of its own.

    Raises:
        ValueError: `bucket_bytes` is not positive.
    """
    if bucket_bytes < 1:
        raise ValueError(f"bucket_bytes must be positive, got {bucket_bytes}")
    buckets: list[list[nn.Parameter]] = []
    room = 0
    for parameter in parameters:
        if not buckets or parameter.nbytes > room:
            buckets.append([])
            room = bucket_bytes
        buckets[-1].append(parameter)
        room -= parameter.nbytes
    return buckets


def flatten(
    tensors: Iterable[Tensor], length: int, like: Tensor
) -> Float[Tensor, " n"]:
    """All numbers in one vector of that length, with zeros behind them.

    Args:
        like: gives dtype and device where there may be no tensor.
    """
    parts = [tensor.flatten() for tensor in tensors]
    rest = length - sum(part.numel() for part in parts)
    return torch.cat([*parts, like.new_zeros(rest)] if rest else parts)


def slice_length(bucket: Iterable[Tensor], num_slices: int) -> int:
    """Numbers in each of so many equal slices; the last ones may end in zeros."""
    return -(-sum(tensor.numel() for tensor in bucket) // num_slices)


class Buckets:
    """Sends the gradients of some parameters, bucket by bucket.

    Args:
        named: the parameters in the order in which a model lists them.
        bucket_bytes: size that a bucket does not exceed.
        num_slices: into which a bucket has to divide; it is filled up with zeros.
        send: starts the transfer of a full bucket.
        times: how often a gradient is added to in a step, once for each backward pass.
    """

    def __init__(
        self,
        named: Mapping[str, nn.Parameter],
        bucket_bytes: int,
        num_slices: int,
        send: Callable[[Tensor], Pending],
        times: int = 1,
    ) -> None:
        self.buckets = fill(reversed(list(named.values())), bucket_bytes)
        self._num_slices, self._start, self._times = num_slices, send, times
        place = {
            id(parameter): number
            for number, bucket in enumerate(self.buckets)
            for parameter in bucket
        }
        for name, parameter in named.items():
            parameter.register_post_accumulate_grad_hook(
                self._hook(name, place[id(parameter)])
            )
        self._begin()

    def finish(self) -> list[Float[Tensor, " n"]]:
        """What came for each bucket, when all have come; the next step may begin.

        The parameters have no gradients any more: they went into their buckets.
        """
        while self._next < len(self.buckets):
            self._send()
        arrived = [pending.wait() for pending in self._pending]
        self._begin()
        return arrived

    @property
    def num_sent(self) -> int:
        """Buckets that have set out in this step."""
        return self._next

    def _begin(self) -> None:
        self._pending: list[Pending] = []
        self._next = 0
        self._missing = [self._times * len(bucket) for bucket in self.buckets]

    def _hook(self, name: str, number: int) -> Callable[[Tensor], None]:
        def ready(_: Tensor) -> None:
            if number < self._next:
                raise RuntimeError(
                    f"a gradient of {name} came after its bucket had left: a step has "
                    f"{self._times} backward pass(es), then finish()"
                )
            self._missing[number] -= 1
            while self._next < len(self.buckets) and not self._missing[self._next]:
                self._send()

        return ready

    @torch.no_grad()
    def _send(self) -> None:
        """The next bucket sets out."""
        bucket = self.buckets[self._next]
        gradients = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in bucket]
        length = self._num_slices * slice_length(bucket, self._num_slices)
        self._pending.append(self._start(flatten(gradients, length, bucket[0])))
        for parameter in bucket:
            parameter.grad = None
        self._next += 1


class BucketedSums:
    """Sums of the shared gradients on every rank, as `shard.sum_gradients` has them.

    Only sooner: they travel while the backward pass goes on. Takes the place of
    `shard.WholeSums` in a step.

    Args:
        bucket_bytes, times: as of `Buckets`.
    """

    def __init__(
        self,
        model: nn.Module,
        group: Group,
        is_expert: IsExpert,
        bucket_bytes: int = BUCKET_BYTES,
        times: int = 1,
    ) -> None:
        self._model, self._is_expert = model, is_expert
        wires = mesh.apart(group)
        self.buckets = Buckets(
            shard.shared_parameters(model, is_expert),
            bucket_bytes,
            1,
            lambda bucket: comm.start_all_reduce(bucket, wires),
            times,
        )

    def agree(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """As `shard.WholeSums.agree`."""
        arrived = self.buckets.finish()
        for bucket, sums in zip(self.buckets.buckets, arrived, strict=True):
            parts = sums.split([parameter.numel() for parameter in bucket])
            for parameter, part in zip(bucket, parts, strict=True):
                parameter.grad = part.view_as(parameter)
        return shard.squared_lengths(self._model, self._is_expert)

    def clip_to(self, max_norm: float, norm: Float[Tensor, ""]) -> None:
        """As `shard.clip_to`."""
        shard.clip_to(self._model, max_norm, norm)
