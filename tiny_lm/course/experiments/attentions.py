"""Four kinds of attention that differ in what they remember, and in nothing else.

Chapter: 03_mla/latent_attention
Source: deepseek_v2, section 2.1 and appendix D; gqa

Every model has the same width, depth and number of query heads, and `d_ffn` is chosen
so that all have as many parameters. Two sets answer two questions:

    as published   heads as wide as ever; the cache is what the kind makes it
    equal cache    heads narrowed until every kind caches what MLA caches

Learning rates are tried alike for all kinds, over whole schedules.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from tiny_lm import costs
from tiny_lm.config import MHAConfig, MLAConfig, ModelConfig, TrainConfig
from tiny_lm.course.experiments import spectra
from tiny_lm.course.experiments.captured import side_by_side, train_text
from tiny_lm.course.experiments.plan import Experiment, Run
from tiny_lm.course.experiments.products import products_for
from tiny_lm.course.experiments.recall import Haystack
from tiny_lm.course.experiments.records import Record, assemble
from tiny_lm.course.experiments.together import Together, needles_as_text
from tiny_lm.course.experiments.training import describe
from tiny_lm.data import EvalBatches
from tiny_lm.model import LanguageModel

D_MODEL, NUM_HEADS, D_HEAD = 128, 4, 32
LATENT = MLAConfig(
    num_heads=NUM_HEADS,
    d_latent_kv=64,
    d_latent_q=64,
    d_nope=32,
    d_rope=16,
    d_value=32,
)
CACHED = LATENT.d_latent_kv + LATENT.d_rope  # elements a token and layer
PARAMETERS_PER_LAYER = 200_000
TOLERANCE = 0.01  # of what counts as equally many parameters
SEEDS = tuple(range(5))
RANKS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the seven models are asked, how long they train, and at which rates."""

    name: str
    text: str
    num_layers: int
    training: TrainConfig
    rates: tuple[float, ...]
    higher_is_better: bool
    result: str  # field of a run's record


TEXT = Question(
    name="mla_text",
    text="At equally many parameters, how well does each kind of attention predict?",
    num_layers=4,
    training=TrainConfig(
        steps=2500,
        batch_size=16,
        seq_len=256,
        warmup_steps=100,
        eval_every=500,
        eval_batches=64,  # 262 144 tokens
    ),
    rates=(2e-3, 4e-3, 8e-3),
    higher_is_better=False,
    result="final_val_loss",
)
RECALL = Question(
    name="mla_recall",
    text="How much can each kind of attention read back from its context?",
    num_layers=2,
    training=TrainConfig(
        steps=6000, batch_size=32, seq_len=128, warmup_steps=200, eval_every=300
    ),
    rates=(5e-4, 1e-3, 2e-3),
    higher_is_better=True,
    result="final_recalled",
)
HAYSTACK = Haystack(length=128, needles=12)
_TOY = {"steps": 2, "batch_size": 2, "seq_len": 16, "eval_every": 1, "warmup_steps": 1}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Both questions, how many seeds answer them, and how full a haystack is."""

    text: Question = TEXT
    recall: Question = RECALL
    seeds: tuple[int, ...] = SEEDS
    haystack: Haystack = HAYSTACK

    @classmethod
    def toy(cls) -> "Scale":
        """Toy lengths, to see that it runs."""
        text, recall = (
            replace(q, training=replace(q.training, eval_batches=2, **_TOY))
            for q in (TEXT, RECALL)
        )
        haystack = Haystack(length=24, needles=2)
        return cls(text=text, recall=recall, seeds=(0, 1), haystack=haystack)


def _heads(num_kv_heads: int, d_head: int) -> MHAConfig:
    return MHAConfig(num_heads=NUM_HEADS, num_kv_heads=num_kv_heads, d_head=d_head)


def kinds(num_layers: int) -> dict[str, ModelConfig]:
    """Seven models by label; `mla` stands for itself in both sets."""
    equal = {"mha": 4, "gqa": 2, "mqa": 1}
    attentions: dict[str, MHAConfig | MLAConfig] = {"mla": LATENT}
    for name, groups in equal.items():
        attentions[name] = _heads(groups, D_HEAD)
        attentions[f"{name}, equal cache"] = _heads(groups, CACHED // (2 * groups))
    return {
        label: equally_large(label, attention, num_layers)
        for label, attention in attentions.items()
    }


def equally_large(
    name: str, attention: MHAConfig | MLAConfig, num_layers: int
) -> ModelConfig:
    """A dense model whose feed-forward takes what its attention leaves."""

    def model(d_ffn: int) -> ModelConfig:
        return ModelConfig(
            name=name.replace(", equal cache", "_narrow"),
            vocab_size=256,
            d_model=D_MODEL,
            num_layers=num_layers,
            num_dense_layers=num_layers,
            d_ffn=d_ffn,
            attention=attention,
            max_len=1024,
            init_std=0.02,
        )

    one = costs.count_parameters(model(1)).total
    per_width = costs.count_parameters(model(2)).total - one
    room = PARAMETERS_PER_LAYER * num_layers + 2 * 256 * D_MODEL
    d_ffn = 8 * round((room - one) / per_width / 8)
    config = model(d_ffn)
    off = costs.count_parameters(config).total / room - 1
    assert abs(off) < TOLERANCE, (name, d_ffn, off)
    return config


def cached_elements(config: ModelConfig) -> int:
    """What one token leaves in the cache of one layer."""
    return costs.kv_bytes_per_token(config, 1) // config.num_layers


def sweep(question: Question) -> Experiment:
    """Every kind at every learning rate, one seed, the whole schedule."""
    q = question
    return Experiment(
        name=f"{q.name}_learning_rate",
        question="Which peak learning rate suits each kind of attention?",
        runs=tuple(
            Run(label=label, config=config, training=_at(q.training, lr, 0))
            for label, config in kinds(q.num_layers).items()
            for lr in q.rates
        ),
    )


def best_rates(question: Question, records: Sequence[Record]) -> dict[str, float]:
    """For each kind, the learning rate of its best run."""
    sign = 1 if question.higher_is_better else -1
    records = sorted(records, key=lambda record: sign * record[question.result])
    return {record["label"]: record["training"]["lr"] for record in records}


def compared(
    question: Question, lr: dict[str, float], seeds: Sequence[int]
) -> Experiment:
    """Every kind at its best learning rate, over the seeds."""
    q = question
    return Experiment(
        name=q.name,
        question=q.text,
        runs=tuple(
            Run(label=label, config=config, training=_at(q.training, lr[label], seed))
            for label, config in kinds(q.num_layers).items()
            for seed in seeds
        ),
    )


def _at(training: TrainConfig, lr: float, seed: int) -> TrainConfig:
    return replace(training, lr=lr, final_lr=lr / 10, seed=seed)


def results(names: set[str], scale: Scale, text_runs: Together) -> Iterator[Record]:
    """Train what is missing for these of `MLA_NAMES`, and give each result.

    Args:
        text_runs: where runs on text are trained; needles get a store beside theirs.
    """
    store = replace(text_runs.store, text=needles_as_text(scale.haystack))
    needle_runs = replace(text_runs, store=store, task=scale.haystack)
    for question, runs in ((scale.text, text_runs), (scale.recall, needle_runs)):
        if {question.name, f"{question.name}_learning_rate"} & names:
            yield from _answers(question, scale.seeds, runs)
    if "mla_rank" in names:
        yield spectra_of(scale.text, text_runs)


def _answers(
    question: Question, seeds: Sequence[int], runs: Together
) -> Iterator[Record]:
    """The result of the rates, then that of the seeds."""
    rates = sweep(question)
    runs.train(list(rates.runs))
    yield assemble(rates, runs.store)
    found = best_rates(question, [runs.store.load(run) for run in rates.runs])
    wanted = compared(question, found, seeds)
    runs.train(list(wanted.runs))
    yield assemble(wanted, runs.store)


def spectra_of(question: Question, runs: Together) -> Record:
    """Train plain attention once, and count the directions of its keys and values."""
    run = Run(
        label="mha",
        config=kinds(question.num_layers)["mha"],
        training=_at(question.training, min(question.rates), 0),
    )
    products, curves = products_for(runs.device), Record()
    trained, untrained = (
        LanguageModel(run.config, products=products).to(runs.device) for _ in range(2)
    )
    side_by_side([train_text(run, trained, runs.task, curves)], 1)
    t = run.training
    few, many = (
        EvalBatches(part, t.batch_size, t.seq_len, count)
        for part, count in zip(
            runs.task, (spectra.BATCHES, t.eval_batches), strict=True
        )
    )
    found = spectra.measure(trained, untrained, few, many, RANKS)
    said = {
        "name": "mla_rank",
        "question": "Along how many directions do keys and values extend?",
        "corpus": asdict(runs.store.text),
        "precision": runs.store.precision,
    }
    return said | describe(run, runs.device, runs.commit) | curves | found
