"""What a learner's function may ask of the judge's things, and calls between ranks.

Chapter: appendix/teaching
Source: course
"""

from collections.abc import Callable
from typing import Any

import torch

from tiny_lm.course.checks.comm import letters, rehearsal
from tiny_lm.course.checks.comm.letters import Writer
from tiny_lm.course.checks.comm.rehearsal import Played
from tiny_lm.course.labs.two_batches import Batch, Layer, UnderWay

NUMBER = -1  # by which a worker asks for a call between ranks
PARTS = ("attend", "experts", "dispatch", "combine", "start_dispatch", "start_combine")
ASKED = {Layer: PARTS, UnderWay: ("wait",)}
FETCHED = {UnderWay: ("open",)}
FACTS = {
    Layer: ("number",),
    Batch: ("name", "layer", "at"),
    Played: ("rank", "size"),
    Writer: ("rank", "size"),
}
MESSAGES = "this task has collectives", "this task has comm.send and comm.receive alone"


def asked_of(x: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of methods that may be called, and of facts that may change."""
    return ASKED.get(type(x), ()), FETCHED.get(type(x), ())


def facts_of(x: Any) -> tuple[str, ...]:
    """Names of facts that go along, for they do not change."""
    return FACTS.get(type(x), ())


def _broadcast(x: torch.Tensor, root: int, group: Played) -> torch.Tensor:
    kind = ("broadcast", tuple(x.shape), x.dtype, root)
    group.count("broadcast", x.nbytes)
    return group.meet(kind, x.detach())[root].clone()


def _reduce_scatter(x: torch.Tensor, group: Played) -> torch.Tensor:
    group.count("reduce_scatter", (group.size - 1) * x.nbytes // group.size)
    met = group.meet(("reduce_scatter", tuple(x.shape), x.dtype), x.detach())
    return torch.stack(met).sum(0).to(x.dtype).chunk(group.size)[group.rank]


def _barrier(group: Played) -> None:
    group.meet(("barrier",), None)


COLLECTIVES: dict[str, Callable] = {
    "all_gather": rehearsal.all_gather,
    "all_reduce": rehearsal.all_reduce,
    "all_to_all": rehearsal.all_to_all,
    "all_to_all_counts": rehearsal.all_to_all_counts,
    "broadcast": _broadcast,
    "reduce_scatter": _reduce_scatter,
    "barrier": _barrier,
}
LETTERS: dict[str, Callable] = {"send": letters.send, "receive": letters.receive}


def call(name: str, given: tuple, named: dict) -> Any:
    """A call between ranks, as this rank makes it.

    Raises:
        RuntimeError: the task has no such calls.
        TypeError: there is no group among the arguments.
    """
    groups = [x for x in (*given, *named.values()) if isinstance(x, Played)]
    if not groups:
        raise TypeError(f"comm.{name} takes the group that the function was given")
    known = LETTERS if isinstance(groups[0], Writer) else COLLECTIVES
    if name not in known:
        raise RuntimeError(f"comm.{name} is not here: {MESSAGES[known is LETTERS]}")
    x = given[0]
    if name != "barrier" and not isinstance(x, torch.Tensor):
        raise TypeError(f"comm.{name} takes a tensor, got {type(x).__name__}")
    if name != "barrier" and x.is_floating_point() and x.element_size() == 1:
        raise RuntimeError("Invalid scalar type")  # what gloo says to codes
    return known[name](*given, **named)
