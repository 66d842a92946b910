"""Orders of calls, tried on paper and then timed: what the check of task 5.6 looks at.

Chapter: 05_comm/hiding
Source: course

On paper nothing is computed, and a micro-batch that is asked for a part out of turn
says so. Then the order runs on four ranks, and the tapes of that run are replayed. The
mistakes that the check knows are timed from the recorded parts of one run: a part's
records are the same in any order.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Generator

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.case import Probe
from tiny_lm.course.checks.comm.patience import patience
from tiny_lm.course.checks.comm.ranks import gpus
from tiny_lm.course.checks.expect import Mismatch, show
from tiny_lm.course.labs import hidden, mixture_layers
from tiny_lm.course.labs.mixture_layers import Ran
from tiny_lm.course.labs.two_batches import (
    NEXT,
    Batch,
    Call,
    UnderWay,
    in_turn,
    on_paper,
)
from tiny_lm.hardware import Machine
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.timeline import Timeline

LAYERS = 8  # of the run that is timed
SEEDS = 4  # different inputs
ALL = "a and b take every part once"
ENOUGH = 0.9
GOAL = f"at least {100 * ENOUGH:.0f} % of the all-to-all time is hidden"


class Drawn(NamedTuple):
    """What there is to draw of the answer that was timed last."""

    calls: tuple[Call, ...]
    seed: int
    timeline: Timeline


_last: Drawn | None = None


def last_timed(forget: bool = False) -> Drawn | None:
    """The answer that was timed last, if there was one since this was forgotten."""
    global _last
    found, _last = _last, None if forget else _last
    return found


class Tried(NamedTuple):
    """What an order did on paper."""

    result: Any
    calls: list[Call]


def tried(answer: Answer, num_layers: int) -> Tried:
    """Run it on layers without numbers."""
    layers, a, b, calls = on_paper(num_layers)
    with patience():
        result = answer(layers, a, b)
    return Tried(result, calls)


def on_layers(look: Callable[[Tried, int], Any], *layers: int) -> Probe:
    """What there is to see of an order with so many layers."""

    def use(answer: Answer, generator: Generator) -> dict[str, Any]:
        return {f"{_many(n)}:": look(tried(answer, n), n) for n in layers}

    return Probe(use, f"{', '.join(map(_many, layers))}, two micro-batches")


def _many(layers: int) -> str:
    return f"{layers} layer{'s' * (layers > 1)}"


def parts_done(order: Tried, num_layers: int) -> str:
    """Whether each micro-batch took every part of every layer, once."""
    done = Counter(call for call in order.calls if not call.waits)
    wanted = [
        Call(part, name, layer)
        for name in "ab"
        for layer in range(num_layers)
        for part in NEXT
    ]
    odd = [call for call in wanted if done[call] != 1]
    if not odd:
        return ALL
    first = odd[0]
    times = "never" if not done[first] else f"{done[first]} times"
    return f"{first}: {times}"


def come_back(order: Tried, num_layers: int) -> str:
    """What is returned, and what is still under way."""
    result = order.result
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Mismatch(
            "a call", "a and b", _named(result), "Return a and b: two things."
        )
    names = " and ".join(_named(one) for one in result)
    sent = Counter(call[:3] for call in order.calls if not call.waits)
    came = Counter(call[:3] for call in order.calls if call.waits)
    left = [k for k in sent - came if k[0] in ("dispatch", "combine")]
    return names + "".join(f"; nobody waited for the {k[0]} of {k[1]}" for k in left)


def _both(num_layers: int) -> str:
    """What comes back where all is well."""
    return " and ".join(str(Batch(name, None, num_layers)) for name in "ab")


def _named(one: Any) -> str:
    if isinstance(one, UnderWay):
        return f"{one.call.batch}, still under way"
    return str(one) if isinstance(one, Batch) else show(one)


@cache
def plain(seed: int) -> tuple[list[Ran], Machine]:
    """One run of the plain order, and the machine that is 1 : 1 for it."""
    ran = gpus().run(mixture_layers.run, in_turn, LAYERS, seed)
    return ran, hidden.one_to_one(hidden.tapes(ran))


@cache
def reordered(calls: tuple[Call, ...], seed: int) -> Timeline:
    """What an order takes whose tapes are put together from recorded parts."""
    ran, machine = plain(seed)
    return replay(hidden.reordered(ran, calls), machine)


def _ours(function: Callable[..., Any]) -> bool:
    """Whether its calls say all: of the check's own, and of those that are graded."""
    if getattr(function, "distant", False):
        return True
    space = getattr(function, "__globals__", {})
    return str(space.get("__name__")).startswith("tiny_lm.")


@cache
def measured(
    function: Callable[..., Any], calls: tuple[Call, ...], seed: int
) -> tuple[float, Timeline]:
    """An answer on real ranks: how far its numbers are off, and what it would take."""
    ran, machine = plain(seed)
    work = partial(_quietly, function)
    mine = gpus().run(mixture_layers.run, work, LAYERS, seed, timeout_s=60)
    off = max(
        float((x - y).abs().max())
        for one, other in zip(mine, ran, strict=True)
        for x, y in zip(one.results, other.results, strict=True)
    )
    return off, replay(hidden.tapes(mine), machine)


def _quietly(function: Callable[..., Any], *arguments: Any) -> Any:
    """Four ranks would print everything four times; on paper it was printed."""
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)


def on_ranks(answer: Answer, generator: Generator) -> dict[str, str]:
    """The numbers of four ranks, and how much of the all-to-all time is hidden."""
    order = tried(answer, LAYERS)
    found = parts_done(order, LAYERS), come_back(order, LAYERS)
    if found != (ALL, _both(LAYERS)):
        return {"numbers:": "none", "hidden:": "\n".join(found)}
    seed = int(torch.randint(SEEDS, (), generator=generator))
    calls = tuple(order.calls)
    if _ours(answer.function):
        return {"numbers:": _numbers(0.0), "hidden:": _known(calls, seed)}
    off, timeline = measured(answer.function, calls, seed)
    global _last
    _last = Drawn(calls, seed, timeline)
    return {"numbers:": _numbers(off), "hidden:": score(timeline, calls)}


def calls_of(order: Callable[..., Any]) -> tuple[Call, ...]:
    """The calls that an order makes, in as many layers as are timed."""
    layers, a, b, calls = on_paper(LAYERS)
    order(layers, a, b)
    return tuple(calls)


@cache
def _known(calls: tuple[Call, ...], seed: int) -> str:
    return score(reordered(calls, seed), calls)


def _numbers(off: float) -> str:
    return "those of the plain order" if off < 1e-5 else f"off by up to {off:.1g}"


def score(timeline: Timeline, calls: tuple[Call, ...]) -> str:
    """Whether enough is hidden, or how much is, and what the longest gap waits for."""
    share = hidden.share_hidden(timeline)
    if share >= ENOUGH:
        return GOAL
    gap = hidden.longest_gap(timeline, calls)
    return (
        f"{100 * share:.0f} % of the all-to-all time is hidden.\n{gap or ''}".rstrip()
    )
