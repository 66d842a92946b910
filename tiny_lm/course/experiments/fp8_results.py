"""What the runs in FP8 say: how far each recipe is from FP32, and how far noise is.

Chapter: 04_fp8
Source: deepseek_v3, appendix B.1

A *gap* is a loss over the loss of the FP32 run of the same seed, less one. The null
twin's gaps are noise by construction, so their root mean square is the noise floor of
the measure: gaps of that size say nothing. Where a unit in the last place has no time
to grow, in short branches, the noisy twins' are.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from statistics import fmean, stdev

from tiny_lm.course.experiments.fp8_plan import NOISY, NULL, PLAIN
from tiny_lm.course.experiments.plan import Experiment
from tiny_lm.course.experiments.records import RESULTS, Record, Store, assemble, read

EMA = 0.9  # of the losses that are compared, as published

BRANCHES = ("fp8_branches", "fp8_branches_cpu")  # of one question, the better first

Gaps = dict[str, dict[str, list[float]]]  # by label and measure, one for each seed


def result(experiment: Experiment, store: Store) -> Record:
    """The experiment's record, with the gaps of what has been trained so far.

    Raises:
        ValueError: no run is done yet.
    """
    done = tuple(run for run in experiment.runs if store.has_record(run))
    if not done:
        raise ValueError(f"{experiment.name}: no run is done")
    record = assemble(replace(experiment, runs=done), store)
    missing = [run for run in experiment.runs if run not in done]
    found = gaps(record["runs"])
    stopped = [run for run in record["runs"] if "stopped" in run]
    return record | {
        "precision": "fp32 sums; inputs as each run's config says",
        "missing": [[run.label, run.training.seed] for run in missing],
        "stopped": [[run["label"], run["seed"], run["stopped"]] for run in stopped],
        "gaps": {
            label: {measure: _summary(each) for measure, each in of_label.items()}
            for label, of_label in found.items()
        },
        "noise_floor": noise_floor(found),
    }


def branches(folder: Path = RESULTS) -> Record:
    """The ladder as a GPU climbed it, or a CPU where no GPU has.

    Raises:
        ValueError: neither has been recorded.
    """
    name = next((n for n in BRANCHES if (folder / f"{n}.json").is_file()), BRANCHES[0])
    return read(name, folder)


def floor_of(record: Record, measure: str) -> float:
    """What noise does to a gap: root mean square over twins, draws and seeds.

    Noisy twins count where there are any, null twins otherwise.
    """
    found = record["gaps"]
    twins = [label for label in NOISY if label in found] or [NULL]
    each = [gap for label in twins for gap in found[label][measure]["each"]]
    return math.sqrt(fmean(gap * gap for gap in each))


def gaps(runs: Sequence[Record]) -> Gaps:
    """Of every run that came to its end and whose seed has an FP32 run."""
    whole = [run for run in runs if "stopped" not in run]
    plain = {run["seed"]: run for run in whole if run["label"] == PLAIN}
    found: Gaps = {}
    for run in whole:
        if run["label"] == PLAIN or run["seed"] not in plain:
            continue
        theirs = measures(plain[run["seed"]])
        of_label = found.setdefault(run["label"], {})
        for name, losses in measures(run).items():
            relative = [
                one / other - 1 for one, other in zip(losses, theirs[name], strict=True)
            ]
            of_label.setdefault(name, []).append(fmean(relative))
    return found


def measures(run: Record) -> dict[str, list[float]]:
    """The losses that are compared: last ones, and smoothed ones of the second half."""
    smoothed = smooth(run["train_loss"])
    last = {name: [loss] for name, loss in run["final"].items()}
    return last | {"training": smoothed[len(smoothed) // 2 :]}


def smooth(losses: Sequence[float]) -> list[float]:
    """Each loss mixed into the mean of those before it."""
    return list(accumulate(losses, lambda mean, x: EMA * mean + (1 - EMA) * x))


def noise_floor(found: Gaps) -> dict[str, float]:
    """Root mean square of the null twin's gaps, by measure."""
    return {
        measure: math.sqrt(fmean(gap * gap for gap in each))
        for measure, each in found.get(NULL, {}).items()
    }


def _summary(each: list[float]) -> Record:
    spread = stdev(each) if len(each) > 1 else None
    return {"mean": fmean(each), "spread": spread, "each": each}
