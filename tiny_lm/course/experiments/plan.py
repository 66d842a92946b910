"""Which models are trained, for how long, and what question each comparison answers.

Chapter: 02_moe/conditional_computation
Source: deepseek_v3, section 4.5; aux_free_balancing

Two models differ in one thing only. Runs of one seed start from the same weights,
wherever both have them, and read the same batches in the same order.
"""

from dataclasses import dataclass, replace

from tiny_lm import costs
from tiny_lm.config import ModelConfig, TrainConfig, tiny

SEEDS = (0, 1, 2)
# One seed's final loss lies 0.04 from another's; differences as small need more seeds.
MANY_SEEDS = tuple(range(10))
LEARNING_RATES = (1.5e-3, 3e-3, 6e-3, 1.2e-2)
NUM_EXPERTS = (4, 8, 16, 32, 64)
SHARES = (0.4, 0.6)  # of the steps, for a model that may learn from fewer FLOPs
# Of the sequence-wise loss where nothing else balances; V3's 0.0001 helps its bias.
# In trials of 200 steps MaxVio fell to 0.6-1.1 with 0.001, to 0.3-0.4 with 0.01 and
# with 0.1 no further.
AUXILIARY_WEIGHT = 0.01
TOLERANCE = 0.005  # of what counts as equal FLOPs


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model trained once; `label` says what it is in its experiment.

    Args:
        exact: products are those of the config, with FP32 sums, on every device.
        moved: the first weights are moved by one unit in the last place.
        noise: of every gradient, in every step.
        start: the run whose weights it starts from; None: the seed's.
        validation_tokens: that an exact run is measured on at its end.
    """

    label: str
    config: ModelConfig
    training: TrainConfig
    keep_weights: bool = False
    exact: bool = False
    moved: bool = False
    noise: "Noise | None" = None
    start: "Run | None" = None
    validation_tokens: int = 0


@dataclass(frozen=True)
class Noise:
    """Random errors without a direction, so large a share of each weight's gradient.

    Each `draw` has other errors.
    """

    share: float
    draw: int = 0


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Runs that answer a question together."""

    name: str
    question: str
    runs: tuple[Run, ...]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How long runs are: `training` but for the learning rate."""

    training: TrainConfig
    sweep_steps: int  # of the runs that choose the learning rate
    reader_bytes: int  # text that experts are watched reading


FULL = Scale(
    training=TrainConfig(
        steps=3000,
        batch_size=64,
        seq_len=256,
        warmup_steps=100,
        eval_every=150,
        eval_batches=64,  # 1 048 576 tokens
    ),
    sweep_steps=750,
    reader_bytes=1_000_000,
)
SHORT = Scale(
    training=TrainConfig(
        steps=6, batch_size=4, seq_len=64, warmup_steps=2, eval_every=3, eval_batches=2
    ),
    sweep_steps=3,
    reader_bytes=20_000,
)


def moe() -> ModelConfig:
    """`tiny` in full precision: one technique at a time."""
    return replace(tiny(), name="moe", fp8=None)


def dense() -> ModelConfig:
    """`moe` with dense feed-forwards that cost a token the same, the router included.

    Every layer gets the same width, the one that `moe` keeps dense included.
    """
    sparse = moe()
    width = _equal_width(sparse)
    equal = replace(
        sparse,
        name="dense",
        num_dense_layers=sparse.num_layers,
        d_ffn=width,
        moe=None,
    )
    flops = [costs.flops_per_token(c, FULL.training.seq_len) for c in (sparse, equal)]
    assert abs(flops[1] / flops[0] - 1) < TOLERANCE, flops
    return equal


def _equal_width(sparse: ModelConfig) -> int:
    active = costs.count_parameters(sparse).active_by_part
    parts = ("dense_ffn", "shared_experts", "routed_experts", "router")
    feed_forward = sum(active[part] for part in parts)
    return round(feed_forward / (3 * sparse.d_model * sparse.num_layers))


def balanced_by(name: str, bias_rate: float, balance_loss: float) -> ModelConfig:
    """`moe` with another balance."""
    config = moe()
    changed = replace(config.moe, bias_rate=bias_rate, balance_loss=balance_loss)
    return replace(config, name=name, moe=changed)


def with_experts(num_experts: int) -> ModelConfig:
    """`moe` with so many experts, of which a token still reads four; no groups."""
    config = moe()
    changed = replace(config.moe, num_experts=num_experts, num_groups=1, top_groups=1)
    return replace(config, name=f"experts_{num_experts}", moe=changed)


def _training(scale: Scale, lr: float, seed: int = 0, steps: int = 0) -> TrainConfig:
    steps = steps or scale.training.steps
    return replace(scale.training, lr=lr, final_lr=lr / 10, seed=seed, steps=steps)


def learning_rates(scale: Scale) -> Experiment:
    """Short runs of both models at every learning rate."""
    return Experiment(
        name="moe_learning_rate",
        question="Which peak learning rate suits each of the two models?",
        runs=tuple(
            Run(
                label=config.name,
                config=config,
                training=_training(scale, lr, steps=scale.sweep_steps),
            )
            for config in (moe(), dense())
            for lr in LEARNING_RATES
        ),
    )


def comparisons(scale: Scale, lr: dict[str, float]) -> list[Experiment]:
    """All other experiments.

    Args:
        lr: peak learning rate of `moe`, which all its variants share, and of `dense`.
    """
    return [
        equal_flops(scale, lr),
        other_rate(scale, lr),
        fewer_flops(scale, lr["moe"]),
        balance(scale, lr["moe"]),
        num_experts(scale, lr["moe"]),
    ]


def equal_flops(scale: Scale, lr: dict[str, float]) -> Experiment:
    """Mixture against dense at equal FLOPs per token."""
    return Experiment(
        name="moe_equal_flops",
        question="At equal FLOPs per token, does the mixture learn more?",
        runs=tuple(
            Run(
                label=config.name,
                config=config,
                training=_training(scale, lr[config.name], seed),
                keep_weights=(config.name, seed) == ("moe", 0),
            )
            for config in (moe(), dense())
            for seed in MANY_SEEDS
        ),
    )


def other_rate(scale: Scale, lr: dict[str, float]) -> Experiment:
    """Each model at the learning rate that suited the other, whole seeds first.

    The rates were chosen by one seed on a part of the schedule: with these runs both
    models have been trained at both, all the way.
    """
    swapped = {"moe": lr["dense"], "dense": lr["moe"]}
    return Experiment(
        name="moe_other_rate",
        question="Does the comparison depend on the rate that each model was given?",
        runs=tuple(
            Run(
                label=config.name,
                config=config,
                training=_training(scale, swapped[config.name], seed),
            )
            for seed in MANY_SEEDS
            for config in (moe(), dense())
        ),
    )


def fewer_flops(scale: Scale, lr: float) -> Experiment:
    """The mixture on a part of the steps, each run with a whole schedule of its own.

    The loss halfway through a long run says little: its learning rate is still high.
    """
    steps = {share: round(share * scale.training.steps) for share in SHARES}
    return Experiment(
        name="moe_fewer_flops",
        question="With how few FLOPs does the mixture reach the dense model's loss?",
        runs=tuple(
            Run(
                label=f"{share:.0%}".replace("%", " %"),
                config=moe(),
                training=_training(scale, lr, seed, steps[share]),
            )
            for share in SHARES
            for seed in MANY_SEEDS
        ),
    )


def balance(scale: Scale, lr: float) -> Experiment:
    """No balance, the loss of eqs. 17-20 alone, and the bias as in `tiny`."""
    variants = {
        "none": balanced_by("unbalanced", 0.0, 0.0),
        "auxiliary loss": balanced_by("auxiliary_loss", 0.0, AUXILIARY_WEIGHT),
        "bias": moe(),
    }
    return Experiment(
        name="moe_balance",
        question="What does each way to balance the experts do to load and loss?",
        runs=tuple(
            Run(label=label, config=config, training=_training(scale, lr, seed))
            for label, config in variants.items()
            for seed in SEEDS
        ),
    )


def num_experts(scale: Scale, lr: float) -> Experiment:
    """From 4 experts, which are all read, to 64."""
    return Experiment(
        name="moe_num_experts",
        question="At a fixed active size, what do more experts bring?",
        runs=tuple(
            Run(label=str(n), config=with_experts(n), training=_training(scale, lr))
            for n in NUM_EXPERTS
        ),
    )
