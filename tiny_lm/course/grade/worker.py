"""Runs learners' functions, and answers in data: the other end of `distant`.

Chapter: appendix/teaching
Source: course

All of this runs beside a learner's code and can be changed by it. So nothing here is
believed: the judge compares what comes back with what it worked out itself.
"""

import contextlib
import io
import linecache
import pickle
import signal
import traceback
from typing import Any

import torch
from torch import Tensor

from tiny_lm.course.checks.guard import restore, settings
from tiny_lm.course.checks.work import Work
from tiny_lm.course.grade import after, remote, there
from tiny_lm.course.grade.channel import Channel
from tiny_lm.course.grade.values import Receiver, Sender

PRINTED = 20_000  # characters of what a call prints that are kept
GRAPHS = 16  # results whose gradients may still be asked for
ENDLESS = "still at work, and no end to be seen"


class Abandoned(BaseException):
    """The judge has no use for this call any more."""


class Printed(io.TextIOBase):
    """Keeps the beginning of what is printed."""

    def __init__(self) -> None:
        self.text = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text[: PRINTED - len(self.text)]
        return len(text)


class Results(Sender):
    """Sends results: what is an argument, or a view of one, as such.

    Args:
        arguments: of the call.
    """

    def __init__(self, special: Any, arguments: tuple[Any, ...]) -> None:
        super().__init__(special)
        self.arguments = arguments
        self.outputs: list[Tensor] = []  # those that want a gradient

    def tensor(self, x: Tensor) -> list:
        for place, other in enumerate(self.arguments):
            if x is other:
                return ["v", place]
            if not x.requires_grad and isinstance(other, Tensor) and _shares(x, other):
                start = x.storage_offset() - other.storage_offset()
                return ["v", place, start, list(x.shape), list(x.stride())]
        node = super().tensor(x)
        if x.requires_grad and node[0] == "x":
            self.outputs.append(x)
        return node


def _shares(x: Tensor, other: Tensor) -> bool:
    if torch.strided not in (x.layout, other.layout) or x.dtype != other.dtype:
        return False
    mine, theirs = (z.untyped_storage().data_ptr() for z in (x, other))
    return bool(x.numel()) and mine == theirs


class Worker:
    """One learner's functions, and what they are asked.

    Args:
        channel: to the judge.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.space: dict[str, Any] = {"__name__": "lab"}
        self.functions: list[Any] = []
        self.graphs: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        remote.ask_by(self.ask)

    def serve(self) -> None:
        """Answer until the judge hangs up."""
        signal.signal(signal.SIGVTALRM, _enough)
        while True:
            head, blobs = self.channel.receive()
            does = {"load": self.load, "call": self.call, "back": self.back}
            reply, sent = does[head["kind"]](head, blobs)
            reply["noted"] = there.noted[:20]
            self.channel.send(reply, sent)

    def load(self, head: dict[str, Any], blobs: list[bytes]) -> tuple[dict, list]:
        """Run the learner's cells, and take the function that is asked for."""
        stand_ins = pickle.loads(blobs[0])
        self.space.update(stand_ins)
        failed = []
        for name, source in head["cells"]:
            linecache.cache[name] = (len(source), None, source.splitlines(True), name)
            try:
                with contextlib.redirect_stdout(Printed()), _limited(head["cpu"]):
                    exec(compile(source, name, "exec"), self.space)
            except BaseException as error:  # whatever a learner wrote
                failed.append([name, type(error).__name__, *_told(error)])
            self.space.update(stand_ins)
        self.functions = [self.space.get(head["function"])]
        there = callable(self.functions[0])
        return {"kind": "loaded", "there": there, "failed": failed}, []

    def call(self, head: dict[str, Any], blobs: list[bytes]) -> tuple[dict, list]:
        """Call a function, and tell what came of it and what it left behind."""
        arguments = pickle.loads(blobs[0])
        torch.default_generator.set_state(torch.frombuffer(blobs[1], dtype=torch.uint8))
        before, kept = settings(), [after.snapshot(x) for x in arguments]
        printed, counted = Printed(), Work() if head["work"] else None
        reply: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(printed))
            stack.enter_context(torch.set_grad_enabled(head["grad"]))
            before["gradients switched on"] = torch.is_grad_enabled()
            try:
                with _limited(head["cpu"]), counted or contextlib.nullcontext():
                    value = self.functions[head["function"]](*arguments)
            except BaseException as error:  # whatever a learner's function raises
                reply = _refusal(error)
            now = settings()
            restore(before)
        sender = Results(self._special, arguments)
        if not reply:
            reply = _told_value(sender, value)
            if sender.outputs:
                inputs = list(remote.wanting(list(arguments)))
                self.graphs[head["graph"]] = sender.outputs, inputs
                self.graphs.pop(head["graph"] - GRAPHS, None)
        reply["after"] = after.changes(sender, kept, arguments)
        reply["settings"] = [
            name for name, value in before.items() if now[name] != value
        ]
        reply["printed"] = printed.text
        reply["work"] = (
            [counted.calls, counted.flops, counted.largest] if counted else []
        )
        state = torch.default_generator.get_state().numpy().tobytes()
        return reply, [*sender.blobs, state]

    def back(self, head: dict[str, Any], blobs: list[bytes]) -> tuple[dict, list]:
        """Gradients by the arguments of an earlier call, for those of its results."""
        outputs, inputs = self.graphs[head["graph"]]
        grads = Receiver(blobs).value(head["grads"])
        pairs = [(y, g) for y, g in zip(outputs, grads, strict=True) if g is not None]
        sender = Sender(self._special)
        try:
            with contextlib.redirect_stdout(Printed()), _limited(head["cpu"]):
                found = torch.autograd.grad(
                    [y for y, _ in pairs],
                    inputs,
                    [g for _, g in pairs],
                    retain_graph=True,
                    allow_unused=True,
                )
        except BaseException as error:  # a learner's own backward
            return _refusal(error), []
        return {"kind": "grads", "value": sender.tree(list(found))}, sender.blobs

    def ask(self, number: int, name: str, given: tuple, named: dict) -> Any:
        """Ask the judge to do something with a thing of its own.

        Raises:
            Abandoned: it has no use for this call any more.
        """
        sender = Sender(self._special)
        question = {"kind": "ask", "of": number, "name": name}
        question["given"] = sender.tree(given)
        question["named"] = sender.tree(named)
        with _unlimited():
            self.channel.send(question, sender.blobs)
            head, blobs = self.channel.receive()
        if head["kind"] == "abandon":
            raise Abandoned
        if head["kind"] == "raise":
            raise _error(head["name"])(head["text"])
        return pickle.loads(blobs[0])

    def _special(self, x: Any) -> list | None:
        """A thing of the judge's, or a function of the learner's."""
        if isinstance(x, remote.Remote):
            return ["o", x._number]
        if callable(x) and not isinstance(x, type | Tensor):
            if x not in self.functions:
                self.functions.append(x)
            return ["f", self.functions.index(x), getattr(x, "__name__", "function")]
        return None


def _told_value(sender: Results, value: Any) -> dict[str, Any]:
    try:
        return {"kind": "result", "value": sender.tree(value)}
    except Exception as error:  # a learner's own class, iterator, __repr__ …
        sender.outputs.clear()
        return _refusal(error)


def _refusal(error: BaseException) -> dict[str, Any]:
    if isinstance(error, Abandoned):
        return {"kind": "abandoned"}
    text, where = _told(error)
    return {"kind": "error", "name": type(error).__name__, "text": text, "where": where}


def _told(error: BaseException) -> tuple[str, str]:
    """What an error says, and the line of the learner's that raised it."""
    try:
        text = str(error)[:PRINTED]
    except Exception:  # a learner's own class of errors
        text = ""
    if isinstance(error, SyntaxError) and error.lineno:
        return text, f"line {error.lineno} of its cell:\n  {(error.text or '').strip()}"
    where = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if file.startswith("<cell "):
            line = linecache.getline(file, number).strip()
            where = f"in {frame.f_code.co_name}, line {number} of its cell:\n  {line}"
    return text, where


def _error(name: str) -> type[BaseException]:
    import builtins

    found = getattr(builtins, name, None)
    if isinstance(found, type) and issubclass(found, Exception):
        return found
    return type(name, (Exception,), {})


@contextlib.contextmanager
def _limited(seconds: float) -> Any:
    """Interrupt what has worked for so long: the learner is told, and goes on."""
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


@contextlib.contextmanager
def _unlimited() -> Any:
    left = signal.setitimer(signal.ITIMER_VIRTUAL, 0)[0]
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, left)


def _enough(number: int, frame: Any) -> None:
    raise TimeoutError(ENDLESS)
