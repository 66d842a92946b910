"""What the runs and the recorded steps say together: the price of the baseline's loss.

Chapter: 06_together/cost_ladder
Source: course

The *level* is the mean loss at which the baseline's schedules of the compared length
end. For each model, steps to that level are read off the line through the ends of its
own whole schedules, and multiplied by what a token costs. Where the line does not come
there, there is no number.

Seeds are paired: all models read the same batches. So the error of a number is found by
leaving out one seed after the other *everywhere*, baseline included. It covers seeds
and nothing else.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import NamedTuple

from tiny_lm import ladder
from tiny_lm.course.experiments.ladder_plan import (
    BASELINE,
    FP8_NAME,
    LENGTHS_NAME,
    PRICES_NAME,
    twin_of,
)
from tiny_lm.course.experiments.records import Record, read

# Student's t: a mean of n numbers is off by more than so many errors in 1 of 20 cases.
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}
Losses = Mapping[str, Mapping[int, Mapping[int, float]]]  # by label, steps and seed


class Estimate(NamedTuple):
    """A number and its standard error over so many seeds."""

    value: float
    error: float
    num_seeds: int

    def differs_from(self, other: float) -> bool:
        """Whether chance alone would do that in 1 of 20 cases at most."""
        return abs(self.value - other) > T_95[self.num_seeds] * self.error


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What an answer hangs on; the default is that of the table.

    Args:
        baseline: as large as what a token reads, or as what a mixture stores.
        micro_batches: between two sums of gradients, by `ladder.MICRO_BATCHES`.
        links: times as slow as the twin's, or `h800` for the real machine.
        hops: as of `replay`.
        routing: of trained or of fresh weights.
        in_turn: a way to overlap, of `ladder_prices.WAYS`.
        fp8: its loss `as measured`, or `equal` to that of its twin.
    """

    baseline: str = BASELINE
    micro_batches: str = "as V3"
    links: str = "1"
    hops: str = "pipelined"
    routing: str = "trained"
    in_turn: str = " overlap"
    fp8: str = "as measured"


def label_of(techniques: Iterable[str]) -> str:
    """The model's label: overlap changes no model."""
    return ladder.combination(tuple(techniques)).name


def losses(*records: Record) -> Losses:
    """Last losses of all runs of some records."""
    found: dict[str, dict[int, dict[int, float]]] = {}
    for run in (run for record in records for run in record["runs"]):
        of_label = found.setdefault(run["label"], {})
        of_steps = of_label.setdefault(run["training"]["steps"], {})
        of_steps[run["seed"]] = run["val_loss"][-1]
    return found


@dataclass(frozen=True)
class Findings:
    """All runs at their chosen rates, and the prices of all steps.

    Args:
        compared: steps of the length whose end is the level.
    """

    losses: Losses
    prices: Record
    compared: int

    @classmethod
    def of(cls, lengths: Record, fp8: Record, prices: Record) -> "Findings":
        """Put the records together; the length of the FP8 runs is what is compared."""
        compared = fp8["runs"][0]["training"]["steps"]
        return cls(losses(lengths, fp8), prices, compared)

    @classmethod
    def kept(cls) -> "Findings":
        """What `make experiments` has recorded.

        Raises:
            ValueError: it has not.
        """
        names = LENGTHS_NAME, FP8_NAME, PRICES_NAME
        return cls.of(*(read(name) for name in names))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Those that every model has at every length."""
        every = [set(s) for lines in self.losses.values() for s in lines.values()]
        return tuple(sorted(set.intersection(*every)))

    @property
    def v3_step_s(self) -> Record:
        """Seconds of V3's step by techniques and hops, replayed."""
        return self.prices["v3_step_s"]

    def loss(self, label: str, seeds: Sequence[int] = (), steps: int = 0) -> float:
        """Mean over seeds, at the compared length by default."""
        of_steps = self.losses[label][steps or self.compared]
        return fmean(of_steps[seed] for seed in seeds or self.seeds)

    def ends(
        self, label: str, seeds: Sequence[int], fp8: str = "as measured"
    ) -> list[tuple[int, float]]:
        """Steps and mean loss of whole schedules; with FP8, its twin's line moved."""
        twin = twin_of(label) if "fp8" in label else label
        moved = 1.0
        if twin != label and fp8 == "as measured":
            moved = self.loss(label, seeds) / self.loss(twin, seeds)
        return [(n, moved * self.loss(twin, seeds, n)) for n in self.losses[twin]]

    def steps(
        self, label: str, seeds: Sequence[int], given: Assumptions = Assumptions()
    ) -> float:
        """Steps of a schedule that ends at the baseline's level.

        Raises:
            ValueError: the level lies beyond what was run.
        """
        level = self.loss(given.baseline, seeds)
        if label == given.baseline:
            return float(self.compared)
        return ladder.steps_to(level, self.ends(label, seeds, given.fp8))

    def per_token_us(
        self, techniques: Iterable[str], given: Assumptions = Assumptions()
    ) -> float:
        """Emulated microseconds that a token costs."""
        techniques = tuple(techniques)
        label = label_of(techniques)
        in_turn = "overlap" in techniques and "moe" in techniques
        return self._price_us(label + given.in_turn * in_turn, given)

    def _price_us(self, name: str, given: Assumptions) -> float:
        routings = self.prices["prices"][name]
        some = routings.get(given.routing) or routings["trained"]  # dense: no router
        price = ladder.Price(*some[given.links][given.hops])
        return price.per_token_us(ladder.MICRO_BATCHES[given.micro_batches])

    def cost(
        self, techniques: Iterable[str], given: Assumptions = Assumptions()
    ) -> Estimate:
        """Cost to the baseline's loss, as a share of the baseline's own.

        Raises:
            ValueError: the level lies beyond what was run.
        """
        techniques = tuple(techniques)
        label = label_of(techniques)
        price = self.per_token_us(techniques, given)
        price /= self._price_us(given.baseline, given)
        share = self.over_seeds(lambda seeds: self.steps(label, seeds, given))
        return Estimate(*(price * x / self.compared for x in share[:2]), share[2])

    def gap(self, label: str, other: str) -> Estimate:
        """Relative difference of two losses at the compared length, seeds paired."""
        return self.over_seeds(
            lambda seeds: self.loss(label, seeds) / self.loss(other, seeds) - 1
        )

    def over_seeds(self, number: Callable[[Sequence[int]], float]) -> Estimate:
        """A number from all seeds, and its error by leaving out each in turn."""
        seeds = self.seeds
        value, n = number(seeds), len(seeds)
        if n < 2:
            return Estimate(value, math.nan, n)
        without = [number([s for s in seeds if s != left]) for left in seeds]
        middle = fmean(without)
        error = math.sqrt((n - 1) / n * sum((x - middle) ** 2 for x in without))
        return Estimate(value, error, n)


def result(lengths: Record, fp8: Record, prices: Record) -> Record:
    """What the ladder says: a cost for each of the sixteen choices, and both ends."""
    found = Findings.of(lengths, fp8, prices)
    cost, errors, why = {}, {}, {}
    for techniques in ladder.subsets():
        name = " ".join(techniques)
        cost[name] = errors[name] = None
        try:
            of = found.cost(techniques)
            cost[name], errors[name] = round(of.value, 4), round(of.error, 4)
        except ValueError as error:
            why[name] = str(error)
    return {
        "name": "cost_ladder",
        "question": "What does the dense model's loss cost with each technique?",
        "created": max(record["created"] for record in (lengths, fp8, prices)),
        "device": lengths["device"],
        "seeds": list(found.seeds),
        "level": round(found.loss(BASELINE), 6),
        "compared_steps": found.compared,
        "cost": cost,
        "error": errors,
        "not_reached": why,
    }
