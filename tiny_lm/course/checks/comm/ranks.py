"""Emulated GPUs that a whole lab shares, and how a check runs a function on them.

Chapter: 05_comm/emulated_gpus
Source: course
"""

import re
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Generator, Tensor

from tiny_lm.course.checks.answer import Answer, NotDone
from tiny_lm.course.checks.comm import rehearsal
from tiny_lm.course.checks.comm.rehearsal import APART, AnyGroup, Apart
from tiny_lm.course.checks.expect import Mismatch
from tiny_lm.course.checks.guard import IN_PLACE
from tiny_lm.gpus import mesh
from tiny_lm.gpus.launch import Cluster

TIMEOUT_S = 12.0  # of a call with a few rows; ranks that wait for each other are told
OURS = "tiny_lm.course.checks"
RAISED = re.compile(r"^((?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt))(?:: |$)", re.M)
FRAME = re.compile(r'^  File "?(.*?)"?, line (\d+), in (\S+)\n((?:    .*\n)?)', re.M)
NO_RETURN = "A function without `return` gives None."
FINE, STUB, CHANGED, NOTHING = "fine", "stub", "changed", "nothing"
Job = Callable[..., Any]


@cache
def gpus(world_size: int = 4) -> Cluster:
    """The lab's ranks, warm from the first call on; they end with this process."""
    return Cluster(world_size)


def on_ranks(
    answer: Answer,
    job: Job,
    given: Sequence[tuple],
    timeout_s: float = TIMEOUT_S,
    play: Callable[..., list] = rehearsal.play,
) -> list[Any]:
    """`job(function, group, *arguments)` on every rank, with the rank's own arguments.

    The learner's function runs on real ranks; the check's own are rehearsed.

    Args:
        job: calls the function and returns what is to be compared; a function of a
            module, so that it can travel.
        given: the arguments of each rank.
        play: rehearses; `letters.play` for functions that send messages.

    Raises:
        NotDone: the function is the stub.
        Mismatch: it raised, returned nothing, or changed what it was given; or the
            calls of the ranks do not fit.
    """
    work = partial(_one, job, answer.function)
    call = f"{answer.name}(…) on {len(given)} ranks"
    if plays_here(answer.function):
        found = _rehearsed(work, given, answer, call, play)
    else:
        found = _on_gpus(work, given, answer, call, timeout_s)
    kinds = [kind for kind, _ in found]
    if STUB in kinds:
        raise NotDone
    if CHANGED in kinds:
        told = "arguments as they were", "a changed argument", IN_PLACE
        raise Mismatch(call, *told)
    if NOTHING in kinds:
        raise Mismatch(call, "a result on every rank", "None", NO_RETURN)
    return [value for _, value in found]


def is_ours(function: Callable) -> bool:
    """Whether it belongs to a check, and not to a learner."""
    return getattr(function, "__module__", "").startswith(OURS)


def plays_here(function: Callable) -> bool:
    """Whether one process can play all ranks: a check's own, and while grading."""
    return is_ours(function) or getattr(function, "distant", False)


def once_each(see: Callable[[Answer, Generator], Any]) -> Callable:
    """Remember what a check's own functions did with an input: it is asked often."""
    known: dict[tuple[Callable, int], Any] = {}

    def look(answer: Answer, generator: Generator) -> Any:
        key = answer.function, generator.initial_seed()
        if key in known:
            return known[key]
        found = see(answer, generator)
        if is_ours(answer.function):
            known[key] = found
        return found

    return look


def _one(job: Job, function: Callable, group: AnyGroup, given: tuple) -> tuple:
    """What one rank does; the stub returns quietly, for all ranks do."""
    before = [x.detach().clone() if isinstance(x, Tensor) else x for x in given]
    try:
        value = job(function, group, *given)
    except NotImplementedError as error:
        if str(error).startswith("Task "):
            return STUB, None
        raise
    for x, was in zip(given, before, strict=True):
        if isinstance(x, Tensor) and not torch.equal(x.detach(), was):
            return CHANGED, None
    return (NOTHING, None) if value is None else (FINE, value)


def _rehearsed(
    work: Callable, given: Sequence[tuple], answer: Answer, call: str, play: Callable
) -> list[tuple]:
    with warnings.catch_warnings():  # wrong answers may make torch grumble
        warnings.simplefilter("ignore")
        found = play(len(given), lambda group: work(group, given[group.rank]))
    errors = [x for x in found if isinstance(x, BaseException)]
    for error in sorted(errors, key=lambda x: isinstance(x, Apart)):
        apart = isinstance(error, Apart)
        answer.error = str(error) if apart else f"{type(error).__name__}: {error}"
        told = f"{answer.error}\n{getattr(error, 'where', '')}".strip()
        raise Mismatch(call, "a result on every rank", told) from error
    return found


def _on_gpus(
    work: Callable,
    given: Sequence[tuple],
    answer: Answer,
    call: str,
    timeout_s: float,
) -> list[tuple]:
    try:
        cluster = gpus(len(given))
        if len(given) not in _READY:  # new ranks start and import, which takes a while
            cluster.run(_nothing, work)
            _READY.add(len(given))
        return cluster.attempt(_real, work, given, timeout_s=timeout_s)
    except RuntimeError as error:
        _READY.discard(len(given))
        answer.error, told = read(str(error))
    except TypeError as error:  # it closes over something that stays here
        told = f"{answer.name} cannot travel to the ranks: {error.__cause__ or error}"
        answer.error = told = f"TypeError: {told}"
    except (OSError, ValueError) as error:  # here, no ranks can start
        answer.error = told = f"{type(error).__name__}: {error}"
    raise Mismatch(call, "a result on every rank", told)


_READY: set[int] = set()  # sizes of the clusters whose ranks have all they need


def _nothing(rank: int, work: Callable) -> None:
    """Be there, with all modules that the work takes."""


def _real(rank: int, work: Callable, given: Sequence[tuple]) -> tuple:
    return work(mesh.world(), given[rank])


# What the board says of ranks that wait for ever; what says most comes first.
CIRCLES = (
    "everybody sends first",
    "Everybody receives first",
    "wait for one another in a circle",
)


def read(message: str) -> tuple[str, str]:
    """The error that a cluster reports: its kind and text, and what to tell of it."""
    for circle in CIRCLES:
        if circle in message:
            return circle, message.strip()
    if APART in message:
        return APART, message.partition("\n")[2].strip() or message
    raised = [*RAISED.finditer(message)]
    if "Traceback" not in message or not raised:
        return f"RuntimeError: {message.splitlines()[0]}", message.strip()
    error = message[raised[-1].start() :].split("\n\n")[0].strip()
    told = f"on {message.partition(' raised')[0]}: {error}"
    for file, number, name, line in reversed(FRAME.findall(message)):
        if "site-packages" not in file and "tiny_lm" not in file:
            told += f"\nin {name}, line {number} of its cell:\n  {line.strip()}"
            break
    return error, told
