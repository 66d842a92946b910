"""Data parallelism: what ranks must agree on when each sees its own part of a batch.

Chapter: 05_comm
Source: torch_ddp; deepseek_v3, section 3.2

Two kinds of parameters live on a rank:

- *shared* ones, a copy on every rank. Each copy gets the gradient of its own tokens,
  so gradients are added up over ranks, in one long vector: one message, not hundreds.
- *experts'*, on one rank only. Their gradients are sums over the tokens of all ranks
  already, because the tokens came to them.

Both are sums. So a trainer divides its loss by the number of ranks before the backward
pass, and all gradients are those of the mean loss.

Which parameters are experts' is for the caller to say: `is_expert(name)`. Their first
dim counts experts.
"""

from collections.abc import Callable
from hashlib import blake2b

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tiny_lm.gpus import comm
from tiny_lm.gpus.mesh import Group

IsExpert = Callable[[str], bool]
AllReduce = Callable[[Tensor, Group], Tensor]


@torch.no_grad()
def check_shared(model: nn.Module, group: Group, is_expert: IsExpert) -> None:
    """Make sure that all ranks hold the same shared state, bit for bit.

    Ranks that start from different weights train without complaint, to a worse loss.

    Raises:
        RuntimeError: they differ; names what does.
    """
    shared = {n: x for n, x in model.state_dict().items() if not is_expert(n)}
    mine = torch.tensor([_fingerprint(x) for x in shared.values()])
    device = next(model.parameters()).device
    everyone = comm.all_gather(mine.unsqueeze(0).to(device), group).cpu()
    equal = (everyone == mine).all(0).tolist()
    if differing := [name for name, e in zip(shared, equal, strict=True) if not e]:
        raise RuntimeError(f"ranks hold different values of {', '.join(differing)}")


@torch.no_grad()
def sum_gradients(
    model: nn.Module,
    group: Group,
    is_expert: IsExpert,
    all_reduce: AllReduce = comm.all_reduce,
) -> None:
    """Add up the gradients of the shared parameters over all ranks.

    A shared parameter that no token of this rank used counts as zero, so that every
    rank sends the same vector.

    Args:
        all_reduce: gives the sum of all ranks' vectors.
    """
    shared = _split(model, is_expert)[0]
    if group.size == 1 or not shared:
        return
    for parameter in shared:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in shared]
    _unflatten(all_reduce(_flatten(gradients), group), gradients)


@torch.no_grad()
def gradient_norm(
    model: nn.Module, group: Group, is_expert: IsExpert
) -> Float[Tensor, ""]:
    """Length of the whole model's gradient: shared once, experts over all ranks.

    The same number on every rank. Call it after `sum_gradients`.
    """
    shared, experts = squared_lengths(model, is_expert)
    return (shared + comm.all_reduce(experts, group)).sqrt()


@torch.no_grad()
def squared_lengths(
    model: nn.Module, is_expert: IsExpert
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Of this rank's gradients: of the shared parameters, and of its own experts."""
    shared, experts = (
        [p.grad for p in part if p.grad is not None]
        for part in _split(model, is_expert)
    )
    length = nn.utils.get_total_norm(shared)
    of_experts = torch.zeros_like(length)  # where there are none
    if experts:
        of_experts = nn.utils.get_total_norm(experts).to(length)
    return length.square(), of_experts.square()


@torch.no_grad()
def clip_gradients(
    model: nn.Module, max_norm: float, group: Group, is_expert: IsExpert
) -> Float[Tensor, ""]:
    """Shorten the whole model's gradient to `max_norm` where it is longer.

    Every rank scales by the same factor, so the direction stays.

    Returns:
        The length it had before.
    """
    norm = gradient_norm(model, group, is_expert)
    clip_to(model, max_norm, norm)
    return norm


@torch.no_grad()
def clip_to(model: nn.Module, max_norm: float, norm: Float[Tensor, ""]) -> None:
    """Shorten a gradient of this length, of the whole model, to `max_norm`."""
    nn.utils.clip_grads_with_norm_(list(model.parameters()), max_norm, norm)


@torch.no_grad()
def gather_state(
    model: nn.Module, group: Group, is_expert: IsExpert
) -> dict[str, Tensor]:
    """The state of the whole model: every expert of every rank, in order.

    All ranks must call it, and all get it; one of them writes it to disk.
    """
    return {
        name: comm.all_gather(value, group) if is_expert(name) else value
        for name, value in model.state_dict().items()
    }


def shared_parameters(model: nn.Module, is_expert: IsExpert) -> dict[str, nn.Parameter]:
    """By name, those of which every rank has a copy, and which are trained."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not is_expert(name)
    }


def expert_parameters(model: nn.Module, is_expert: IsExpert) -> list[nn.Parameter]:
    """Those that this rank alone holds."""
    return _split(model, is_expert)[1]


class WholeSums:
    """How the copies of a step agree: all shared gradients are summed after it.

    `buckets` and `zero` have the same methods, and do it otherwise.
    """

    def __init__(
        self,
        model: nn.Module,
        group: Group,
        is_expert: IsExpert,
        all_reduce: AllReduce = comm.all_reduce,
    ) -> None:
        self._of = model, group, is_expert
        self._all_reduce = all_reduce

    def agree(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Make every rank's gradients those of the whole batch.

        Returns:
            Squared lengths: of gradients that every rank has, and of those that this
            rank alone has.
        """
        model, _, is_expert = self._of
        sum_gradients(*self._of, self._all_reduce)
        return squared_lengths(model, is_expert)

    def clip_to(self, max_norm: float, norm: Float[Tensor, ""]) -> None:
        """As `clip_to` of this module."""
        clip_to(self._of[0], max_norm, norm)


def add_up(parts: list[Tensor], group: Group) -> list[Tensor]:
    """Each of them summed over all ranks, in one message: small ones cost the same."""
    together = torch.cat([part.flatten().double() for part in parts])
    sums = comm.all_reduce(together, group).split([part.numel() for part in parts])
    return [s.view_as(p).to(p.dtype) for s, p in zip(sums, parts, strict=True)]


def _split(
    model: nn.Module, is_expert: IsExpert
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    parts: tuple[list, list] = ([], [])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts[is_expert(name)].append(parameter)
    return parts


def _flatten(tensors: list[Tensor]) -> Float[Tensor, " n"]:
    return torch.cat([tensor.flatten() for tensor in tensors])


def _unflatten(bucket: Float[Tensor, " n"], tensors: list[Tensor]) -> None:
    """Copy each part of the bucket back to its tensor."""
    parts = bucket.split([tensor.numel() for tensor in tensors])
    for part, tensor in zip(parts, tensors, strict=True):
        tensor.copy_(part.view_as(tensor))


def _fingerprint(x: Tensor) -> int:
    raw = x.detach().contiguous().cpu().flatten().view(torch.uint8).numpy()
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "big", signed=True)
