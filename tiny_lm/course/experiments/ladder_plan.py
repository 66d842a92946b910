"""Which models are trained for the cost ladder, for how long, and at which rates.

Chapter: 06_together/cost_ladder
Source: deepseek_v3, section 4; course

Eight models: `tiny_dense` with any of three techniques. A ninth is the other baseline:
dense too, but as large as what a mixture *stores*, where `tiny_dense` is as large as
what a token *reads* of it.

Every model without FP8 is trained over whole schedules of several lengths, which is
what "as cheap as" is read from. The rate of each is chosen among the same ones, over
whole schedules of the length that is compared, with equally many seeds. A model with
FP8 takes the rate of its twin without, and is trained at one length: by as much as the
two differ there, the twin's line is moved.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from tiny_lm import costs
from tiny_lm.config import ModelConfig, TrainConfig
from tiny_lm.course.experiments.plan import Experiment, Run
from tiny_lm.course.experiments.records import LADDER_NAMES, Record
from tiny_lm.ladder import combination

RATES_NAME, LENGTHS_NAME, FP8_NAME, PRICES_NAME, NAME = LADDER_NAMES
BASELINE, LARGE = "dense", "dense_large"
PLAIN = ((), ("moe",), ("mla",), ("moe", "mla"))  # techniques of those without FP8
TOLERANCE = 0.005  # of what counts as equally many parameters


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How long runs are, and of how many seeds.

    Args:
        training: of the length that is compared, but for rate and seed.
        lengths: steps of all whole schedules, that one included.
    """

    training: TrainConfig = TrainConfig(
        steps=1000,
        batch_size=64,
        seq_len=128,
        eval_batches=64,  # 524 288 tokens
    )
    lengths: tuple[int, ...] = (400, 600, 800, 1000, 1400)
    rates: tuple[float, ...] = (2e-3, 4e-3, 8e-3)
    rate_seeds: tuple[int, ...] = (0, 1, 2)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    @classmethod
    def toy(cls) -> "Scale":
        """Toy lengths, to see that it runs."""
        training = TrainConfig(steps=3, batch_size=4, seq_len=32, eval_batches=1)
        return cls(
            training=training,
            lengths=(2, 3),
            rates=(2e-3, 4e-3),
            rate_seeds=(0,),
            seeds=(0, 1),
        )


def plain_arms() -> dict[str, ModelConfig]:
    """The five models without FP8, by label."""
    found = [combination(techniques) for techniques in PLAIN]
    return {config.name: config for config in (found[0], dense_large(), *found[1:])}


def fp8_arms() -> dict[str, ModelConfig]:
    """The four models with FP8, by label."""
    found = (combination((*techniques, "fp8")) for techniques in PLAIN)
    return {config.name: config for config in found}


def twin_of(label: str) -> str:
    """The same model without FP8."""
    return label.removesuffix("fp8").removesuffix("_") or BASELINE


def dense_large() -> ModelConfig:
    """`tiny_dense` with feed-forwards so wide that it stores what a mixture does."""
    sparse, dense = (combination(techniques) for techniques in (("moe",), ()))
    stored = costs.count_parameters(sparse).by_part
    parts = ("dense_ffn", "shared_experts", "routed_experts", "router")
    width = sum(stored[part] for part in parts) / (3 * dense.d_model * dense.num_layers)
    large = replace(dense, name=LARGE, d_ffn=round(width))
    totals = [costs.count_parameters(config).total for config in (sparse, large)]
    assert abs(totals[1] / totals[0] - 1) < TOLERANCE, totals
    return large


def _run(config: ModelConfig, scale: Scale, lr: float, seed: int, steps: int) -> Run:
    """A run with a schedule of its own, which is measured at its end alone.

    A tenth of it is the way up to the largest rate. Weights are kept of what a step is
    to be recorded of: the first mixtures of the longest schedule.
    """
    training = replace(
        scale.training,
        steps=steps,
        eval_every=steps,
        warmup_steps=steps // 10,
        lr=lr,
        final_lr=lr / 10,
        seed=seed,
    )
    longest = steps == max(scale.lengths) and seed == scale.seeds[0]
    t = training
    return Run(
        label=config.name,
        config=config,
        training=training,
        keep_weights=longest and config.moe is not None,
        exact=config.fp8 is not None,
        validation_tokens=(
            t.eval_batches * t.batch_size * t.seq_len if config.fp8 else 0
        ),
    )


def rates(scale: Scale) -> Experiment:
    """Every model without FP8 at every rate, over the whole schedule."""
    return Experiment(
        name=RATES_NAME,
        question="Which peak learning rate suits each model?",
        runs=tuple(
            _run(config, scale, lr, seed, scale.training.steps)
            for seed in scale.rate_seeds
            for config in plain_arms().values()
            for lr in scale.rates
        ),
    )


def best_rates(records: Sequence[Record]) -> dict[str, float]:
    """For each model, the rate at which its runs end lowest on average."""
    losses: dict[str, dict[float, list[float]]] = {}
    for record in records:
        of_rate = losses.setdefault(record["label"], {})
        lr = record["training"]["lr"]
        of_rate.setdefault(lr, []).append(record["val_loss"][-1])
    return {
        label: min(of_rate, key=lambda lr: fmean(of_rate[lr]))
        for label, of_rate in losses.items()
    }


def lengths(scale: Scale, lr: dict[str, float]) -> Experiment:
    """Every model without FP8 over schedules of every length, whole seeds first."""
    return Experiment(
        name=LENGTHS_NAME,
        question="After how many steps of a whole schedule is each model how good?",
        runs=tuple(
            _run(config, scale, lr[label], seed, steps)
            for seed in scale.seeds
            for steps in sorted(scale.lengths, reverse=True)
            for label, config in plain_arms().items()
        ),
    )


def with_fp8(scale: Scale, lr: dict[str, float]) -> Experiment:
    """Every model with FP8 over the length that is compared, whole seeds first."""
    return Experiment(
        name=FP8_NAME,
        question="How far is each model with FP8 from its twin without?",
        runs=tuple(
            _run(config, scale, lr[twin_of(label)], seed, scale.training.steps)
            for seed in scale.seeds
            for label, config in fp8_arms().items()
        ),
    )


def experiments(scale: Scale, lr: dict[str, float]) -> Iterator[Experiment]:
    """What comes after the rates are chosen."""
    yield lengths(scale, lr)
    yield with_fp8(scale, lr)
