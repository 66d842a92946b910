"""Train the models of the cost ladder, record their steps, put both together.

Chapter: 06_together/cost_ladder
Source: course
"""

from collections.abc import Iterator

from tiny_lm.course.experiments import ladder_plan, ladder_prices, ladder_results
from tiny_lm.course.experiments.ladder_plan import Scale
from tiny_lm.course.experiments.plan import Experiment
from tiny_lm.course.experiments.pool import Pool
from tiny_lm.course.experiments.records import Record, Store, assemble, trained


def results(names: set[str], scale: Scale, pool: Pool) -> Iterator[Record]:
    """Train what is missing for these of `LADDER_NAMES`, and give each result.

    Nothing is compared before every rate was tried: rates come first, whatever is asked
    for, and where they are not done the rest has to wait for the next call. The ladder
    itself needs all the others.
    """
    whole = ladder_plan.NAME in names
    sweep = ladder_plan.rates(scale)
    pool.train(list(sweep.runs))
    yield from _of(sweep, pool.store)
    if not all(map(pool.store.has_record, sweep.runs)):
        return
    lr = ladder_plan.best_rates([pool.store.load(run) for run in sweep.runs])
    found: list[Record] = []
    for experiment in ladder_plan.experiments(scale, lr):
        if whole or experiment.name in names:
            pool.train(list(experiment.runs))
            found += _of(experiment, pool.store)
    if whole or ladder_plan.PRICES_NAME in names:
        found.append(ladder_prices.result(scale, pool.store, pool.parts))
    yield from found
    if whole:
        yield ladder_results.result(*found)


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
