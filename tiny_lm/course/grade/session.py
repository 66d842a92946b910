"""A judge's talk with one worker: what goes out, and the questions that come back.

Chapter: appendix/teaching
Source: course

What goes out may be pickled, since this side can be trusted; what comes in is data and
nothing else. Things that keep count, such as a road or a layer, never leave.
"""

from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

import cloudpickle
import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

import tiny_lm.course.checks
from tiny_lm.course.grade import remote, wires
from tiny_lm.course.grade.channel import Channel, Gone
from tiny_lm.course.grade.values import Malformed, Receiver

CALL_S = 10.0  # of work in one call, after which the learner's code is interrupted
CONFIGS = ("tiny_lm.config", "tiny_lm.parts", "tiny_lm.recipe")
ASKED = 20_000  # questions in one call
cloudpickle.register_pickle_by_value(tiny_lm.course.checks)


class Sent:
    """A thing of the judge's on its way out."""

    def __init__(self, *told: Any) -> None:
        self.told = told

    def __reduce__(self) -> tuple:
        return remote.remote, self.told


class Drawn:
    """A generator on its way out, as it stands."""

    def __init__(self, state: Tensor) -> None:
        self.state = state

    def __reduce__(self) -> tuple:
        return remote.generator, (self.state,)


class Laid:
    """A tensor on its way out: quicker than torch's own way, which writes files."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __reduce__(self) -> tuple:
        x = self.x
        flat = x.detach().contiguous().reshape(-1)
        raw = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        told = (raw, x.dtype, tuple(x.shape), x.stride(), x.requires_grad)
        return remote.tensor, told


class Session:
    """One worker, from the loading of a learner's cells to the end of a task.

    Args:
        channel: to the worker.
        until: when the task's time is over, by `time.monotonic`.
        function: makes a stand-in for a function there: of this, its number and name.
    """

    def __init__(
        self, channel: Channel, until: float, function: Callable[..., Any]
    ) -> None:
        self.channel, self.until, self.function = channel, until, function
        self.things: list[Any] = []
        self.graphs = 0
        self.noted: list[str] = []
        self.last: BaseException | None = None  # that a question ended in

    def load(
        self, cells: list[tuple[str, str]], name: str, stand_ins: dict[str, Any]
    ) -> dict[str, Any]:
        """Run the learner's cells there; what came of it."""
        head = {"kind": "load", "cells": cells, "function": name, "cpu": CALL_S}
        reply, _ = self.exchange(head, [cloudpickle.dumps(stand_ins)])
        return reply

    def exchange(
        self, head: dict[str, Any], blobs: list[bytes]
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Ask for something, and answer questions until it is there.

        Raises:
            Gone: nothing came that could be an answer.
        """
        self.channel.send(head, blobs, self.until)
        for _ in range(ASKED):
            reply, came = self.channel.receive(self.until)
            if not isinstance(reply, dict):
                raise Gone("malformed")
            if reply.get("kind") != "ask":
                self._note(reply.get("noted"))
                return reply, came
            self._answer(reply, came)
        raise Gone("timeout")

    def _note(self, noted: Any) -> None:
        if isinstance(noted, list):
            new = [str(x)[:200] for x in noted[:20]]
            self.noted += [x for x in new if x not in self.noted][:20]

    def _answer(self, question: dict[str, Any], came: list[bytes]) -> None:
        """Do what is asked of a thing that is here."""
        try:
            receiver = Receiver(came, self.special)
            given = receiver.value(question["given"])
            named = receiver.value(question["named"])
            found = self._done(question["of"], str(question["name"]), given, named)
        except (Malformed, KeyError):
            raise Gone("malformed") from None
        except Exception as error:  # what the thing says to such a question
            self.last = error
            told = {"name": type(error).__name__, "text": str(error)}
            self.channel.send({"kind": "raise", **told}, [], self.until)
        except BaseException:
            self.channel.send({"kind": "abandon"}, [], self.until)
            self.channel.receive(self.until)
            raise
        else:
            sent = cloudpickle.dumps(self.outgoing(found))
            self.channel.send({"kind": "answer"}, [sent], self.until)

    def _done(self, number: int, name: str, given: tuple, named: dict) -> Any:
        if number == wires.NUMBER:
            return wires.call(name, given, named)
        thing = self.special("o", [number])
        asked, fetched = wires.asked_of(thing)
        if name in fetched:
            return getattr(thing, name)
        if name and name not in asked:
            raise AttributeError(
                f"{type(thing).__name__!r} object has no attribute {name!r}"
            )
        return (getattr(thing, name) if name else thing)(*given, **named)

    def special(self, kind: str, rest: list) -> Any:
        """A thing of the judge's, or a stand-in for a function of the learner's."""
        if kind == "o":
            return self.things[rest[0]]
        if kind == "f" and type(rest[0]) is int:
            return self.function(self, rest[0], str(rest[1])[:60])
        raise Malformed(f"no such value: {kind}")

    def outgoing(self, x: Any) -> Any:
        """A value as it can be sent: living things by number."""
        if isinstance(x, Tensor) and type(x) is Tensor and x.layout == torch.strided:
            return Laid(x)
        if isinstance(x, list | tuple) and type(x).__module__ != "builtins":
            x = list(x) if isinstance(x, list) else tuple(x)
        if isinstance(x, list | tuple):
            return type(x)(self.outgoing(one) for one in x)
        if isinstance(x, dict):
            return {k: self.outgoing(v) for k, v in x.items()}
        if isinstance(x, Generator):
            return Drawn(x.get_state())
        plain = str | int | float | complex | bytes | type | torch.dtype | Tensor
        if x is None or isinstance(x, plain | nn.Module | Optimizer | torch.Size):
            return x
        if is_dataclass(x) and type(x).__module__ in CONFIGS:
            return x
        return self._thing(x)

    def _thing(self, x: Any) -> Sent:
        places = [i for i, one in enumerate(self.things) if one is x]
        if not places:
            self.things.append(x)
            places = [len(self.things) - 1]
        asked, fetched = wires.asked_of(x)
        facts = {name: getattr(x, name) for name in wires.facts_of(x)}
        kind = type(x).__name__
        return Sent(places[0], kind, facts, tuple(asked), tuple(fetched), repr(x)[:200])
