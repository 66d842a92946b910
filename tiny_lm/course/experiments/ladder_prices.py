"""Steps of the cost ladder, recorded on four emulated GPUs, and what they cost.

Chapter: 06_together/cost_ladder
Source: course

A price hangs on assumptions, so each step is priced at both ends of them: links from a
quarter to four times as slow, hops that pass rows on or wait, a router that has learnt
to be even or one that has not, micro-batches that stay whole in turn or are halved.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tiny_lm import data, ladder
from tiny_lm.course.experiments import ladder_plan
from tiny_lm.course.experiments.ladder_plan import Scale, fp8_arms, plain_arms, twin_of
from tiny_lm.course.experiments.records import Record, Store, today
from tiny_lm.gpus.launch import Cluster
from tiny_lm.hardware import Machine
from tiny_lm.parallel import v3_ladder, v3_step
from tiny_lm.replay.hidden import slower_links
from tiny_lm.replay.links import HOPS
from tiny_lm.replay.specs import machines
from tiny_lm.replay.tape import Tape

SLOWER = (0.25, 0.5, 1.0, 2.0, 4.0)  # times as slow as the twin's links
WAYS = {"": 1, " overlap": 2, " overlap, halved": 1}  # micro-batches in the batch
ROUTINGS = ("trained", "fresh")


class Step(NamedTuple):
    """One recorded step: of which model, how, from which weights."""

    label: str
    way: str
    routing: str
    tapes: list[Tape]
    num_tokens: int


def result(scale: Scale, store: Store, parts: tuple[Tensor, Tensor]) -> Record:
    """Record and price every step.

    Raises:
        ValueError: the weights of a mixture have not been kept.
    """
    prices: Record = {}
    sent: Record = {}
    with Cluster(ladder.NUM_RANKS) as gpus:
        for step in steps(scale, store, parts[0], gpus):
            name = step.label + step.way
            prices.setdefault(name, {})[step.routing] = priced(step)
            count = ladder.sent_bytes(step.tapes)
            sent.setdefault(name, {})[step.routing] = {
                "passes_per_token": count["passes"] / step.num_tokens,
                "once": count["once"],
            }
    return {
        "name": ladder_plan.PRICES_NAME,
        "question": "What does a step of each model cost on the scaled twin?",
        "created": today(),
        "torch": torch.__version__,
        "prices": prices,  # [model, way][routing][links][hops]: pass_us, once_us
        "sent": sent,
        "v3_step_s": v3_steps(),
    }


def steps(scale: Scale, store: Store, text: Tensor, gpus: Cluster) -> Iterator[Step]:
    """Every model at once, and those with experts in turn; both with both routers."""
    weights = trained_weights(scale, store)
    for label, config in (plain_arms() | fp8_arms()).items():
        for way, count in WAYS.items() if config.moe else [("", 1)]:
            for routing in ROUTINGS if config.moe else ROUTINGS[:1]:
                size = ladder.SEQUENCES * count
                batches = data.Batches(text, size, ladder.SEQ_LEN)
                tokens = torch.stack([batches.at(0), batches.at(1)])
                of = weights.get(twin_of(label)) if routing == "trained" else None
                tapes = ladder.record(
                    config, bool(way), tokens=tokens, weights=of, gpus=gpus
                )
                yield Step(label, way, routing, tapes, size * ladder.SEQ_LEN)


def v3_steps(**layout) -> dict[str, dict[str, float]]:
    """Seconds of V3's step with each choice of techniques, by their names and by hops.

    Args:
        layout: fields of `plan.Layout`, as `batch_size`, for a shorter step.
    """
    reached = v3_step.fit(v3_step.deepseek_v3_step(batch_size=4096))
    return {
        " ".join(some): {
            hops: round(v3_ladder.step_s(some, reached, hops, **layout), 4)
            for hops in HOPS
        }
        for some in ladder.subsets()
    }


def trained_weights(scale: Scale, store: Store) -> dict[str, Path]:
    """Where the weights of each mixture are, by label.

    Raises:
        ValueError: they have not been kept.
    """
    sweep = [store.load(run) for run in ladder_plan.rates(scale).runs]
    lr = ladder_plan.best_rates(sweep)
    kept = [run for run in ladder_plan.lengths(scale, lr).runs if run.keep_weights]
    missing = [run.label for run in kept if not store.weights_path(run).is_file()]
    if missing:
        raise ValueError(
            f"no weights of {', '.join(missing)}: record cost_ladder_lengths first"
        )
    return {run.label: store.weights_path(run) for run in kept}


def priced(step: Step) -> Record:
    """By links and hops: microseconds a token, and those that a step takes once."""
    found: Record = {}
    for links, machine in _machines().items():
        found[links] = {}
        for hops in HOPS:
            price = ladder.price(step.tapes, step.num_tokens, machine, hops)
            found[links][hops] = [round(us, 4) for us in price]
    return found


def _machines() -> dict[str, Machine]:
    there = machines()
    twin = {f"{by:g}": slower_links(there["scaled_twin"], by) for by in SLOWER}
    return twin | {"h800": there["h800"]}
