"""What a learner's capstone came to: the numbers and words of the one-page report.

Chapter: 06_together/full_model
Source: course
"""

import datetime
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tiny_lm.processor import this_processor

LN2 = math.log(2)


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One model of the ladder: what it learnt, and what it costs.

    Args:
        technique: that was switched on last, a name in `COLORS`.
        losses: of every step, nats per byte.
        val_loss: on new files, after the last step, nats per byte.
        stored: parameters; `active`: those that a token uses.
        flops: to train on one token.
        cache_bytes: of one token, in BF16.
        memory_bytes: of weights, gradients and optimizer, on one rank.
        wire_bytes: that leave a rank for each token of a step, over all ranks.
        parts_us: emulated microseconds a token of computing, of waiting for bytes and
            of waiting for others.
        cost: emulated, to the first rung's loss; the first rung is 1, and infinity
            says that it was not reached.
    """

    name: str
    technique: str
    losses: Sequence[float]
    val_loss: float
    stored: int
    active: int
    flops: float
    cache_bytes: float
    memory_bytes: float
    wire_bytes: float
    parts_us: tuple[float, float, float]
    cost: float

    @property
    def bits(self) -> float:
        """Bits per byte of new files."""
        return self.val_loss / LN2

    @property
    def token_us(self) -> float:
        """Emulated microseconds a token."""
        return sum(self.parts_us)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that the page shows.

    Args:
        by: whose it is; any text, or none.
        rungs: from the baseline up; the last is the model that writes.
        credits: factor of each technique, in no order, by its name in `COLORS`.
        pieces: names of all pieces of the model, and whether they are the learner's.
        load: [layers, experts], shares of the last steps; 1 is an even share.
        prompt: that the model was given, and `text`, what it wrote then.
        setting: how it was trained, in words.
    """

    by: str
    rungs: Sequence[Rung]
    credits: dict[str, float]
    pieces: Sequence[tuple[str, bool]]
    load: Sequence[Sequence[float]]
    prompt: str
    text: str
    setting: str

    @property
    def mine(self) -> int:
        """How many of the pieces are the learner's."""
        return sum(own for _, own in self.pieces)

    @property
    def title(self) -> str:
        """What it is, in a line."""
        whose = f"{self.mine} of its {len(self.pieces)} pieces are {owner(self.by)}"
        return "A language model, " + (whose if self.mine else "of reference pieces")

    def tiles(self) -> list[tuple[str, str, str]]:
        """What stands on top: a name, a number, and beside what it is to be seen."""
        first, last = self.rungs[0], self.rungs[-1]
        return [
            ("new files", f"{last.bits:.2f}", f"bits per byte; dense {first.bits:.2f}"),
            (
                "parameters",
                f"{last.active / 1e6:.2f} M",
                f"used by a token, of {last.stored / 1e6:.2f} M",
            ),
            (
                "memory of a token",
                f"{last.cache_bytes:,.0f} B",
                f"of cache; dense {first.cache_bytes:,.0f} B",
            ),
            (
                "on the wire",
                f"{last.wire_bytes / 1e3:.1f} KB",
                f"a token; dense {first.wire_bytes / 1e3:.1f} KB",
            ),
            (
                "emulated time",
                f"{last.token_us:.0f} µs",
                f"a token; dense {first.token_us:.0f} µs",
            ),
            ("cost", percent(last.cost), "of what the dense model's loss cost it"),
        ]

    def columns(self) -> tuple[list[str], list[list[str]]]:
        """The ladder as text: headings, and a row for each rung."""
        head = [
            "",
            "nats",
            "bits per byte",
            "used by a token",
            "MFLOP a token",
            "cache, bytes",
            "MB a GPU",
            "KB on the wire",
            "µs a token",
            "cost",
        ]
        rows = [
            [
                rung.name,
                f"{rung.val_loss:.3f}",
                f"{rung.bits:.2f}",
                f"{rung.active / 1e6:.2f} M",
                f"{rung.flops / 1e6:.1f}",
                f"{rung.cache_bytes:,.0f}",
                f"{rung.memory_bytes / 1e6:.0f}",
                f"{rung.wire_bytes / 1e3:.1f}",
                f"{rung.token_us:.0f}",
                percent(rung.cost),
            ]
            for rung in self.rungs
        ]
        return head, rows


def owner(by: str) -> str:
    """“mine”, or whose."""
    name = " ".join(by.split())[:60]
    return f"{name}'s" if name else "mine"


def percent(cost: float) -> str:
    """A cost as a share of the baseline's, or that it was not reached."""
    return f"{cost:.0%}" if math.isfinite(cost) else "not reached"


def machine() -> str:
    """The machine and the versions, in a line."""
    return (
        f"{this_processor()}, {os.cpu_count()} cores · torch {torch.__version__} · "
        f"Python {platform.python_version()} · {datetime.date.today():%d %B %Y}"
    )


NOTES = (
    "Losses are real, of short runs with one seed: they show that the parts fit, not "
    "which technique is best. Times and costs are emulated: a recorded step, replayed "
    "on a machine that is as much weaker than nodes of H800s as this model is smaller "
    "than DeepSeek-V3. Seconds of the machine that trained it say nothing about GPUs."
)
