"""The run that the front page shows: `python -m tiny_lm train`, kept with its figures.

Chapter: index
Source: course

    python -m tiny_lm.course.experiments.first_run

trains the full model on 4 emulated GPUs (a few minutes) and writes the record.
"""

import platform
import tempfile
from pathlib import Path

from tiny_lm import runs
from tiny_lm.config import TrainConfig, tiny
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

NAME = "first_run"
PROMPT, LENGTH, TEMPERATURE = "def ", 240, 0.7


def read_first_run(folder: Path = RESULTS) -> Record:
    """The record that the front page shows.

    Raises:
        ValueError: there is none.
    """
    return read_json(folder / f"{NAME}.json")


def record(
    out: Path = RESULTS, training: TrainConfig | None = None, ranks: int = 4
) -> Record:
    """Train, let the model write, and keep what the command says of it."""
    training = training or TrainConfig()
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            config=tiny(), training=training, out=Path(folder, "run"), ranks=ranks
        )
        summary = run(job)
        losses = [metrics["loss"] for metrics in runs.read_metrics(job.out)]
        model = runs.load_model(job.out)
    del summary["run"]
    written = generate(model, PROMPT, LENGTH, temperature=TEMPERATURE)
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


if __name__ == "__main__":
    record()
