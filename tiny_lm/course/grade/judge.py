"""Judges a learner's answers: pristine checks, fresh inputs, and none of their code.

Chapter: appendix/teaching
Source: course
"""

import contextlib
import io
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from tiny_lm.course.checks.answer import NotDone
from tiny_lm.course.checks.comm.patience import ENDLESS
from tiny_lm.course.checks.expect import Mismatch
from tiny_lm.course.checks.guard import restore, settings
from tiny_lm.course.checks.report import Outcome
from tiny_lm.course.checks.spec import Property
from tiny_lm.course.checks.task import Task
from tiny_lm.course.grade.channel import Gone
from tiny_lm.course.grade.compare import Submission, syntax_error
from tiny_lm.course.grade.distant import Distant
from tiny_lm.course.grade.sandbox import Limits, Order
from tiny_lm.course.grade.session import Session
from tiny_lm.course.grade.slices import LAST
from tiny_lm.course.grade.spaces import Measures
from tiny_lm.course.grade.there import ABSENT
from tiny_lm.course.grade.zygote import Zygote
from tiny_lm.course.labs.generator import ROOT

HIDDEN = ("solutions", "labs", "tests", "chapters", ".git")
EXPLAIN_S = 20.0  # to find out why an answer is wrong, which earns nobody anything
WORDS = {
    "timeout": "Time ran out: it was still at work after {seconds:.0f} seconds.",
    "ended": "Its process ended: by an exit, by too much memory, or killed.",
    "malformed": "Its process sent something else than it was asked for.",
}


@dataclass
class Court:
    """What all submissions of a lab are judged with.

    Args:
        seed: of the inputs that are drawn.
        timeout_s: for one task.
        hidden: folders that no learner's code sees.
    """

    lab: str
    tasks: list[Task]
    zygote: Zygote
    measures: Measures
    seed: int = 0
    timeout_s: float = 30.0
    reference: bool = False
    hidden: list[str] = field(default_factory=list)
    lab_run: str = "none"  # or "short", "full"

    def order(self, slot: int, folder: str) -> Order:
        """A worker for one task."""
        course = ROOT / "tiny_lm"
        hidden = [
            str(ROOT / x) for x in ("solutions", "labs", "tests", "chapters", ".git")
        ]
        hidden += (
            [str(course / "course" / "checks")] if self.reference else [str(course)]
        )
        limits = Limits(cpu_s=int(self.timeout_s) + 2)
        return Order(
            slot=slot,
            hidden=[*hidden, *self.hidden],
            keep=[str(course)] * self.reference,
            folder=folder,
            limits=asdict(limits),
            measures=asdict(self.measures),
        )


@dataclass
class Verdict:
    """What became of one task."""

    task: Task
    status: str
    outcome: Outcome
    says: str = ""
    seconds: float = 0.0
    noted: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every property holds."""
        return self.status == "passed"


def judge(court: Court, submission: Submission, slot: int = 0) -> list[Verdict]:
    """Judge every task, in order: a later one may use an earlier one's answer."""
    verdicts: list[Verdict] = []
    for task in court.tasks:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(
            prefix="grade-", ignore_cleanup_errors=True
        ) as folder:
            verdict = _judge(
                court, submission, task, verdicts, court.order(slot, folder)
            )
        verdict.seconds = time.monotonic() - start
        verdicts.append(verdict)
    return verdicts


def _judge(
    court: Court,
    submission: Submission,
    task: Task,
    before: list[Verdict],
    order: Order,
) -> Verdict:
    passed = {v.task.name for v in before if v.passed}
    until = submission.places.get(task.id, LAST)
    earlier = [v.task.name for v in before]
    slicer = submission.slicer
    needed = slicer.of(task.name, until, passed.__contains__, earlier)
    texts = tuple(one.text for one in task.properties)
    nothing = Outcome(texts, 0, done=False)
    if not needed.found:
        return _not_found(submission, task, nothing)
    if needed.stub:
        return Verdict(task, "not done", nothing)
    references = {t.name: t.reference for t in court.tasks}
    stand_ins = {name: references[name] for name in needed.stand_ins}
    end = time.monotonic() + court.timeout_s
    session: Session | None = None
    try:
        with patient(court.timeout_s + 5), court.zygote.start(order) as channel:
            session = Session(channel, end, Distant)
            loaded = session.load(needed.cells, task.name, stand_ins)
            if loaded.get("there") is not True:
                return Verdict(task, "error", nothing, _unloaded(loaded))
            verdict = _tried(court, task, Distant(session, 0, task.name))
    except Gone as gone:  # while the cells ran
        says = WORDS[gone.why].format(seconds=court.timeout_s)
        return Verdict(task, _status(gone), nothing, says)
    verdict.noted = session.noted
    return verdict


def _not_found(submission: Submission, task: Task, nothing: Outcome) -> Verdict:
    cell = submission.answers.get(task.id)
    error = syntax_error(cell.source) if cell else ""
    if error:
        return Verdict(task, "error", nothing, f"Its cell is no Python: {error}")
    return Verdict(task, "missing", nothing, f"No cell defines `{task.name}`.")


def _unloaded(loaded: dict[str, Any]) -> str:
    failed = loaded.get("failed")
    if isinstance(failed, list) and failed and isinstance(failed[-1], list):
        _, kind, text, where = ([str(x)[:500] for x in failed[-1]] + [""] * 4)[:4]
        return f"A cell that it needs does not run: {kind}: {text}\n{where}".strip()
    return "Its cell ran, but there is no function of its name."


def _status(gone: Gone) -> str:
    return "timeout" if gone.why == "timeout" else "stopped"


def _tried(court: Court, task: Task, function: Distant) -> Verdict:
    """The check's properties, one after another, as the lab asks for them."""
    texts = tuple(one.text for one in task.properties)
    with torch.random.fork_rng(devices=[]), _as_before():
        for passed, one in enumerate(task.properties):
            start = time.monotonic()
            status, says = "failed", ""
            try:
                found = task.refusal(one, function, court.seed, explain=False)
            except NotDone:
                return Verdict(task, "not done", Outcome(texts, passed, done=False))
            except Gone as gone:
                status = _status(gone)
                says = WORDS[gone.why].format(seconds=time.monotonic() - start)
                if gone.why == "timeout":
                    says = task.errors.get(ENDLESS, says)
                found = Mismatch("", "a result", "none", says), ""
            except Exception as error:  # what came back was too odd to be looked at
                status = "stopped"
                says = f"What came back cannot be compared ({type(error).__name__})."
                found = Mismatch("", "a result", "something else", says), ""
            if found is None:
                continue
            if status == "failed":
                found = _explained(court, task, one, function) or found
            return Verdict(task, status, Outcome(texts, passed, one.text, *found), says)
    return Verdict(task, "passed", Outcome(texts, len(texts)))


def _explained(
    court: Court, task: Task, one: Property, function: Distant
) -> tuple[Mismatch, str] | None:
    """The same refusal, with its cause; nothing where that cannot be found in time."""
    function.session.until = time.monotonic() + EXPLAIN_S
    try:
        with patient(EXPLAIN_S):
            found = task.refusal(one, function, court.seed, explain=True)
    except (Gone, NotDone, Exception):
        return None
    if found and ABSENT in found[0].got:
        found[0].because = (
            "tiny_lm's own code is not there while answers are graded. Write it "
            "yourself, or take what the lab's cells define."
        )
    return found


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Settings that hold for all are put back, whatever a call changed."""
    before = settings()
    try:
        yield
    finally:
        restore(before)


@contextlib.contextmanager
def patient(seconds: float) -> Iterator[None]:
    """An end to this process's own work, too: it answers what a learner asks."""

    def enough(*_: Any) -> None:
        raise Gone("timeout")

    before = signal.signal(signal.SIGALRM, enough)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing that a learner's function prints comes out here."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
