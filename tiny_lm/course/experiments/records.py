"""What is kept of every run, and the results that the chapters read.

Chapter: 02_moe/conditional_computation
Source: course

A run's record is a file of its own, named after all that decides its outcome: model,
training, text and precision. Change one and it is another run; change none and the
record is reused, also by another experiment. An experiment's result is put together
from the records of its runs.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from tiny_lm import files
from tiny_lm.course.experiments.corpus import Sources
from tiny_lm.course.experiments.plan import Experiment, Run
from tiny_lm.files import to_json, write_whole

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "chapters" / "_results"
MOE_NAMES = (
    "moe_learning_rate",
    "moe_equal_flops",
    "moe_other_rate",
    "moe_fewer_flops",
    "moe_balance",
    "moe_num_experts",
    "moe_readers",
)
FP8_NAMES = (
    "fp8_pairs",
    "fp8_tensors",
    "fp8_gradients",
    "fp8_branches",
    "fp8_branches_cpu",
    "fp8_pairs_wide",
    "fp8_branches_wide",
)
MLA_NAMES = (
    "mla_text_learning_rate",
    "mla_text",
    "mla_recall_learning_rate",
    "mla_recall",
    "mla_rank",
)
LADDER_NAMES = (
    "cost_ladder_rates",
    "cost_ladder_lengths",
    "cost_ladder_fp8",
    "cost_ladder_prices",
    "cost_ladder",
)
NAMES = MOE_NAMES + MLA_NAMES + FP8_NAMES + LADDER_NAMES
# Settings of attention that came after the first exact runs, which went without them.
LATER = ("cache_tile", "yarn")
# Written by `tiny_lm.course.bench.hardware` on a GPU.
MEASURED = ("hardware_bits",)

Record = dict[str, Any]


def read(name: str, folder: Path = RESULTS) -> Record:
    """The recorded result of an experiment.

    Raises:
        ValueError: no such experiment, or it has not been recorded.
    """
    known = NAMES + MEASURED
    if name not in known:
        raise ValueError(f"unknown experiment {name!r}; there are: {', '.join(known)}")
    return read_json(folder / f"{name}.json")


def read_json(path: Path) -> Record:
    """A record.

    Raises:
        ValueError: it has not been written.
    """
    if not path.is_file():
        raise ValueError(f"no record of {path.stem}: run `make experiments`")
    return files.read_json(path)


@dataclass(frozen=True)
class Text:
    """What the records say of the text."""

    name: str
    bytes: int
    train_bytes: int
    validation_bytes: int
    sha256: str
    versions: dict[str, str]

    @classmethod
    def of(cls, sources: Sources, train_bytes: int, validation_bytes: int) -> "Text":
        corpus = sources.corpus
        return cls(
            corpus.name,
            corpus.num_bytes,
            train_bytes,
            validation_bytes,
            corpus.sha256,
            sources.versions,
        )


@dataclass(frozen=True)
class Store:
    """The folder of all runs on one text in one precision."""

    folder: Path
    text: Text
    precision: str

    def path(self, run: Run) -> Path:
        """Where the run's record is, or will be."""
        name = f"{run.config.name}-{run.training.seed}-{self._key(run)}.json"
        return self.folder / name

    def weights_path(self, run: Run) -> Path:
        """Where the run's weights are, if they are kept."""
        return self.path(run).with_suffix(".safetensors")

    def _key(self, run: Run) -> str:
        config = run.config.to_dict()
        del config["name"]
        decides = [config, asdict(run.training), self.text.sha256, self.precision]
        if run.exact:  # else as it always was, so that old records are found
            for name in LATER:
                if config["attention"].get(name, 0) is None:
                    del config["attention"][name]
            start = self._key(run.start) if run.start else None
            decides[3:] = ["exact", run.moved, start, run.validation_tokens]
            decides += [asdict(run.noise)] if run.noise else []
        text = json.dumps(decides, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def is_done(self, run: Run) -> bool:
        """Whether nothing is left to do for this run."""
        weights = not run.keep_weights or self.weights_path(run).is_file()
        return weights and self.has_record(run)

    def has_record(self, run: Run) -> bool:
        """Whether the run was trained, wherever its weights are."""
        return self.path(run).is_file()

    def load(self, run: Run) -> Record:
        """The run's record, under the label of this experiment."""
        return {"label": run.label} | read_json(self.path(run))

    def save(self, run: Run, record: Record) -> None:
        """Write the run's record whole or not at all."""
        write_json(self.path(run), record)

    def take_over(self, runs: Iterable[Run], result: Record) -> None:
        """Keep the records of a result whose runs are these, unchanged.

        Same model, training, text and precision; all others are left to be trained.
        """
        same_text = result["corpus"]["sha256"] == self.text.sha256
        if not same_text or result["precision"] != self.precision:
            return
        for run in runs:
            training = json.loads(to_json(asdict(run.training)))
            found = [
                record
                for record in result["runs"]
                if (record["config"], record["training"])
                == (run.config.to_dict(), training)
            ]
            if found and not self.has_record(run):
                self.save(run, {k: v for k, v in found[0].items() if k != "label"})


def write_json(path: Path, record: Record) -> None:
    """Write a record whole or not at all; NaN is none that JSON knows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, to_json(record) + "\n")


def assemble(experiment: Experiment, store: Store) -> Record:
    """An experiment's result, from the records of its runs.

    `training` holds the settings that all runs share; each run has its own in full.
    """
    runs = [store.load(run) for run in experiment.runs]
    newest = max(runs, key=lambda run: run["created"])
    return {
        "name": experiment.name,
        "question": experiment.question,
        "created": newest["created"],
        "commit": ", ".join(dict.fromkeys(run["commit"] for run in runs)),
        "versions": newest["versions"],
        "device": newest["device"],
        "precision": store.precision,
        "seconds": round(sum(run["seconds"] for run in runs), 1),
        "corpus": asdict(store.text),
        "training": _shared([run["training"] for run in runs]),
        "validation_tokens": newest["validation_tokens"],
        "runs": runs,
    }


def trained(experiment: Experiment, store: Store) -> Experiment:
    """The experiment with those of its runs that are done: time may have run out."""
    done = tuple(run for run in experiment.runs if store.has_record(run))
    return replace(experiment, runs=done)


def _shared(settings: list[Record]) -> Record:
    first = settings[0]
    return {k: v for k, v in first.items() if all(s[k] == v for s in settings)}


def today() -> str:
    """The date as records have it."""
    return date.today().isoformat()
