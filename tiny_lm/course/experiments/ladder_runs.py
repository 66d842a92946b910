"""Train the models of the cost ladder, record their steps, put both together.

Chapter: 06_together/cost_ladder
Source: course

Plain dense models are trained side by side, each step captured (`captured`). Experts
and FP8 read numbers back, so those are trained in processes (`pool`). The arithmetic is
the same.
"""

import time
from collections.abc import Iterator

from tiny_lm.course.experiments import ladder_plan, ladder_prices, ladder_results
from tiny_lm.course.experiments.ladder_plan import Scale
from tiny_lm.course.experiments.plan import Experiment, Run
from tiny_lm.course.experiments.pool import Pool
from tiny_lm.course.experiments.records import Record, Store, assemble, trained
from tiny_lm.course.experiments.together import Together


def results(names: set[str], scale: Scale, pool: Pool) -> Iterator[Record]:
    """Train what is missing for these of `LADDER_NAMES`, and give each result.

    Nothing is compared before every rate was tried: rates come first, whatever is asked
    for, and where they are not done the rest has to wait for the next call. The ladder
    itself needs all the others.
    """
    whole = ladder_plan.NAME in names
    sweep = ladder_plan.rates(scale)
    train(sweep, pool)
    yield from _of(sweep, pool.store)
    if not all(map(pool.store.has_record, sweep.runs)):
        return
    lr = ladder_plan.best_rates([pool.store.load(run) for run in sweep.runs])
    found: list[Record] = []
    for experiment in ladder_plan.experiments(scale, lr):
        if whole or experiment.name in names:
            train(experiment, pool)
            found += _of(experiment, pool.store)
    if whole or ladder_plan.PRICES_NAME in names:
        found.append(ladder_prices.result(scale, pool.store, pool.parts))
    yield from found
    if whole:
        yield ladder_results.result(*found)


def train(experiment: Experiment, pool: Pool) -> None:
    """Train what is not done, before the pool's deadline: plain dense models first."""
    together = Together(pool.store, pool.parts, pool.device, pool.commit)
    plain = [run for run in experiment.runs if _is_plain(run)]
    for seed in dict.fromkeys(run.training.seed for run in plain):
        if time.monotonic() < pool.deadline:
            together.train([run for run in plain if run.training.seed == seed])
    pool.train([run for run in experiment.runs if not _is_plain(run)])


def _is_plain(run: Run) -> bool:
    return run.config.moe is None and run.config.fp8 is None


def _of(experiment: Experiment, store: Store) -> Iterator[Record]:
    """The experiment's result as far as it got, and what is missing."""
    done = trained(experiment, store)
    if done.runs:
        missing = [run for run in experiment.runs if run not in done.runs]
        yield assemble(done, store) | {
            "missing": [
                [run.label, run.training.steps, run.training.lr, run.training.seed]
                for run in missing
            ]
        }
