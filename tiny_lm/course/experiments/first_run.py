"""The run that the front page shows, and what another learning rate makes of it.

Chapter: index
Source: course

    python -m tiny_lm.course.experiments.first_run

does what `python -m tiny_lm train` does, on 4 emulated GPUs (a few minutes), and then
trains both tiny models at each rate on one process (a few more).
"""

import platform
import tempfile
from dataclasses import replace
from pathlib import Path

from tiny_lm import runs
from tiny_lm.config import ModelConfig, TrainConfig, tiny, tiny_dense
from tiny_lm.course.experiments.records import (
    RESULTS,
    Record,
    read_json,
    today,
    write_json,
)
from tiny_lm.course.experiments.training import versions
from tiny_lm.generate import generate
from tiny_lm.job import Job
from tiny_lm.train import run

NAME, RATES_NAME = "first_run", "first_run_rates"
RATES = (1.5e-3, 3e-3)
PROMPT, LENGTH, TEMPERATURE = "def ", 240, 0.7


def read_first_run(folder: Path = RESULTS) -> Record:
    """The record that the front page shows.

    Raises:
        ValueError: there is none.
    """
    return read_json(folder / f"{NAME}.json")


def record(
    out: Path = RESULTS,
    training: TrainConfig | None = None,
    ranks: int = 4,
    length: int = LENGTH,
) -> Record:
    """Train, let the model write so many bytes, and keep what the command says."""
    training = training or TrainConfig()
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            config=tiny(), training=training, out=Path(folder, "run"), ranks=ranks
        )
        summary = run(job)
        losses = [metrics["loss"] for metrics in runs.read_metrics(job.out)]
        model = runs.load_model(job.out)
    del summary["run"]
    written = generate(model, PROMPT, length, temperature=TEMPERATURE)
    result = {
        "name": NAME,
        "created": today(),
        "versions": versions(),
        "device": platform.machine(),
        "seed": training.seed,
        "summary": summary,
        "losses": [round(loss, 4) for loss in losses],
        "prompt": PROMPT,
        "temperature": TEMPERATURE,
        "written": written,
    }
    write_json(out / f"{NAME}.json", result)
    return result


def read_rates(folder: Path = RESULTS) -> Record:
    """Both tiny models at each learning rate.

    Raises:
        ValueError: it has not been recorded.
    """
    return read_json(folder / f"{RATES_NAME}.json")


def record_rates(out: Path = RESULTS, training: TrainConfig | None = None) -> Record:
    """Train `tiny` and `tiny_dense` at each rate; runs that are there are kept."""
    training = training or TrainConfig()
    path = out / f"{RATES_NAME}.json"
    runs_there = read_json(path)["runs"] if path.is_file() else []
    done = {(run["preset"], run["lr"]) for run in runs_there}
    result = {
        "name": RATES_NAME,
        "created": today(),
        "versions": versions(),
        "device": platform.machine(),
        "seed": training.seed,
        "runs": runs_there,
    }
    for config in (tiny(), tiny_dense()):
        for lr in RATES:
            if (config.name, lr) not in done:
                loss = _final_loss(config, replace(training, lr=lr))
                of = {"preset": config.name, "lr": lr, "ranks": 1}
                result["runs"].append(of | {"val_loss": loss})
                write_json(path, result)
    return result


def _final_loss(config: ModelConfig, training: TrainConfig) -> float:
    with tempfile.TemporaryDirectory() as folder:
        job = Job(config=config, training=training, out=Path(folder, "run"), ranks=1)
        return run(job)["val_loss"]


if __name__ == "__main__":
    record()
    record_rates()
