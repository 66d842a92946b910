"""The command that records: `python -m tiny_lm.course.experiments`.

Chapter: 02_moe/conditional_computation
Source: course
"""

import argparse
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from tiny_lm import console, data
from tiny_lm.course.experiments import (
    attentions,
    fp8_plan,
    fp8_results,
    gradients,
    ladder_plan,
    ladder_runs,
    plan,
    readers,
    tensors,
)
from tiny_lm.course.experiments.corpus import (
    DISTRIBUTIONS,
    SHORT,
    Sources,
    gather,
    pack,
    unpack,
)
from tiny_lm.course.experiments.plan import Experiment, Run, Scale
from tiny_lm.course.experiments.pool import Pool
from tiny_lm.course.experiments.products import (
    precision,
    products_for,
)
from tiny_lm.course.experiments.records import (
    LADDER_NAMES,
    MLA_NAMES,
    MOE_NAMES,
    NAMES,
    RESULTS,
    ROOT,
    Record,
    Store,
    Text,
    assemble,
    today,
    trained,
    write_json,
)
from tiny_lm.course.experiments.together import Together
from tiny_lm.files import prepare, read_json
from tiny_lm.model import LanguageModel
from tiny_lm.runs import load_weights

READERS, TENSORS, GRADIENTS = "moe_readers", "fp8_tensors", "fp8_gradients"


@dataclass(frozen=True)
class Session:
    """One call of the command: what it trains with, and where results go."""

    scale: Scale
    sources: Sources
    pool: Pool
    out: Path
    fp8: dict[str, Experiment]
    mla: attentions.Scale
    recorded: Path | None = None  # results whose runs are taken over, if unchanged
    ladder: ladder_plan.Scale = ladder_plan.Scale()

    def record(self, names: Iterable[str]) -> None:
        """Train what is missing for these experiments, and write their results."""
        names = set(names)
        if names & set(MOE_NAMES):
            self._record_moe(names)
        if names & set(MLA_NAMES):
            self._record_mla(names)
        if TENSORS in names:
            self._record_tensors()
        if GRADIENTS in names:
            self._record_gradients()
        for name in sorted(names & self.fp8.keys(), key=list(self.fp8).index):
            self._record_fp8(self.fp8[name])
        if names & set(LADDER_NAMES):
            for result in ladder_runs.results(names, self.ladder, self.pool):
                self._write(result)

    def _record_mla(self, names: set[str]) -> None:
        pool = self.pool
        runs = Together(pool.store, pool.parts, pool.device, pool.commit)
        for result in attentions.results(names, self.mla, runs):
            self._write(result)

    def _record_fp8(self, experiment: Experiment) -> None:
        """Train what there is time for, after the checkpoint that it starts from."""
        store, runs = self.pool.store, list(experiment.runs)
        starts = [run.start for run in runs[:1] if run.start]
        self.pool.train(starts)
        if all(store.is_done(run) for run in starts):
            self.pool.train(runs)
        if any(store.has_record(run) for run in runs):
            self._write(fp8_results.result(experiment, store))

    def _checkpoint(self, name: str, question: str) -> tuple[LanguageModel, Record]:
        """The model that the branches start from, and a record that names it."""
        store, run = self.pool.store, self.fp8["fp8_pairs"].runs[0]
        self.pool.train([run])
        model = LanguageModel(run.config)
        model.load_state_dict(load_weights(store.weights_path(run)))
        alone = Experiment(name=name, question=question, runs=(run,))
        return model, assemble(alone, store)

    def _record_tensors(self) -> None:
        question = "What does quantising lose of a trained model's tensors?"
        model, record = self._checkpoint(TENSORS, question)
        seq_len = record["training"]["seq_len"]
        batches = data.Batches(self.pool.parts[1], tensors.SEQUENCES, seq_len)
        products = tensors.observe(model, batches.at(0))
        self._write(
            record
            | {
                "products": [product.name for product in products],
                "losses": tensors.measure(products, tensors.WAYS),
                "sum_errors": {
                    "no promotion": tensors.sum_errors(products, None),
                    "every 128": tensors.sum_errors(products, 128),
                },
            }
        )

    def _record_gradients(self) -> None:
        question = "What does each recipe make of one gradient?"
        model, record = self._checkpoint(GRADIENTS, question)
        seq_len = record["training"]["seq_len"]
        batches = data.Batches(self.pool.parts[0], gradients.SEQUENCES, seq_len)
        some = (batches.at(number) for number in range(gradients.BATCHES))
        recipes = gradients.recipes(fp8_plan.arms("tiny"))
        found, chance = gradients.measure(recipes, model.state_dict(), some)
        asked = {"batches": gradients.BATCHES, "batch_size": gradients.SEQUENCES}
        measured = {"measured_by": self.pool.commit, "measured": today()}
        self._write(
            record | asked | measured | {"gradients": found, "next_batch": chance}
        )

    def _record_moe(self, names: set[str]) -> None:
        sweep = plan.learning_rates(self.scale)
        self._take_over(sweep)
        self.pool.train(list(sweep.runs))
        self._write(assemble(sweep, self.pool.store))
        others = plan.comparisons(self.scale, self.best_rates(sweep))
        wanted = [e for e in others if e.name in names]
        watched = _watched(others) if READERS in names else []
        for experiment in wanted:
            self._take_over(experiment)
        self.pool.train([run for e in wanted for run in e.runs] + watched)
        for experiment in (trained(e, self.pool.store) for e in wanted):
            if experiment.runs:
                self._write(assemble(experiment, self.pool.store))
        for run in watched:
            self._write(self.watch(run))

    def _take_over(self, experiment: Experiment) -> None:
        path = self.recorded / f"{experiment.name}.json" if self.recorded else None
        if path and path.is_file():
            result = read_json(path)
            self.pool.store.take_over(experiment.runs, result)

    def best_rates(self, sweep: Experiment) -> dict[str, float]:
        """For each model, the learning rate of its best short run."""
        records = sorted(
            (self.pool.store.load(run) for run in sweep.runs),
            key=lambda record: -record["final_val_loss"],
        )
        return {record["label"]: record["training"]["lr"] for record in records}

    def watch(self, run: Run) -> Record:
        """What each expert of a trained model reads, on files it never saw."""
        store, device = self.pool.store, self.pool.device
        model = LanguageModel(run.config, products=products_for(device))
        model.load_state_dict(load_weights(store.weights_path(run)))
        tokens, classes = readers.windows(
            self._validation_documents(),
            run.training.seq_len,
            self.scale.reader_bytes,
        )
        counts = readers.choices_by_class(model.to(device), tokens, classes)
        question = "What does each expert of each layer read?"
        alone = Experiment(name=READERS, question=question, runs=(run,))
        share = counts / counts.sum(-1, keepdim=True).clamp(min=1)
        of_text = classes.flatten().bincount(minlength=len(readers.CLASSES))
        return assemble(alone, store) | {
            "classes": list(readers.CLASSES),
            "bytes_read": tokens.numel(),
            "layers": list(range(run.config.num_dense_layers, run.config.num_layers)),
            "counts": counts.tolist(),  # [layer][expert][class]
            "shares": share.tolist(),  # [layer][expert][class]; each expert's sum to 1
            "corpus_shares": (of_text / of_text.sum()).tolist(),
        }

    def _validation_documents(self) -> list[data.Document]:
        corpus = self.sources.corpus
        room = int(data.VALIDATION_SHARE * corpus.num_bytes)
        names = data.validation_names(corpus, room)
        return [document for document in corpus.documents if document.name in names]

    def _write(self, result: Record) -> None:
        path = self.out / f"{result['name']}.json"
        write_json(path, result)
        print(f"wrote {path}")


def _watched(experiments: list[Experiment]) -> list[Run]:
    return [run for e in experiments for run in e.runs if run.keep_weights]


def _parser() -> argparse.ArgumentParser:
    parser = console.Parser(prog="python -m tiny_lm.course.experiments")
    add = parser.add_argument
    has_gpu = torch.cuda.is_available()
    add("--device", choices=("cpu", "cuda"), default="cuda" if has_gpu else "cpu")
    add("--jobs", type=int, default=1, help="runs at once (default 1)")
    add("--only", action="append", choices=NAMES, help="one experiment; repeatable")
    add("--short", action="store_true", help="toy length, to see that it runs")
    add("--corpus", type=Path, help="a packed corpus in place of the libraries here")
    add("--pack-corpus", type=Path, help="write the corpus to this file, and stop")
    add("--out", type=Path, help="folder of the results; default chapters/_results")
    add("--recorded", type=Path, help="folder of results; their runs are not repeated")
    add("--seconds", type=float, default=math.inf, help="start no run after so many")
    add("--commit", help="of the code, where git cannot say")
    return parser


def _commit() -> str:
    """The commit of the code, and whether something was changed since."""
    if not shutil.which("git"):
        return "unknown"
    say = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    told = subprocess.run(say, cwd=ROOT, capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"


def _session(args: argparse.Namespace, sources: Sources) -> Session:
    scale = plan.SHORT if args.short else plan.FULL
    parts = data.split(sources.corpus, min_bytes=scale.training.seq_len + 1)
    text = Text.of(sources, *(len(part) for part in parts))
    work = ROOT / "_build" / ("experiments-short" if args.short else "experiments")
    store = Store(work / "runs", text, precision(args.device))
    commit = args.commit or _commit()
    out = args.out or (work / "results" if args.short else RESULTS)
    prepare(out)
    deadline = time.monotonic() + args.seconds
    pool = Pool(store, parts, args.device, commit, args.jobs, deadline=deadline)
    fp8 = fp8_plan.experiments(args.short)
    mla = attentions.Scale.toy() if args.short else attentions.Scale()
    ladder = ladder_plan.Scale.toy() if args.short else ladder_plan.Scale()
    return Session(scale, sources, pool, out, fp8, mla, args.recorded, ladder)


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing, write the results.

    Raises:
        ValueError: `--jobs` is not positive, a library is missing, or `--corpus` is
            not a packed corpus.
    """
    args = _parser().parse_args(arguments)
    if args.jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {args.jobs}")
    if not args.seconds > 0:
        raise ValueError(f"--seconds must be positive, got {args.seconds}")
    libraries = SHORT if args.short else DISTRIBUTIONS
    sources = unpack(args.corpus) if args.corpus else gather(libraries)
    if args.pack_corpus:
        pack(sources, args.pack_corpus)
        return
    session = _session(args, sources)
    print(f"text: {asdict(session.pool.store.text)}", file=sys.stderr)
    session.record(args.only or NAMES)


if __name__ == "__main__":
    sys.exit(console.run(main))
