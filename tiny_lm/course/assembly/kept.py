"""The assembly: a language model, and all that trains it, from kept pieces.

Chapter: 06_together/full_model
Source: course

    mine = gather(Path("my_pieces"))
    job = Job(config=tiny(), training=TrainConfig(steps=20), maker=mine)
    summary = run(job)

Where the learner has no piece, the check's reference stands in; and where none of a
part's pieces is the learner's, that part is the package's own. Nothing is patched: a
learner's functions are handed in as kinds of layers, products, a dispatcher, a worker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import torch

from tiny_lm.config import MLAConfig, ModelConfig
from tiny_lm.course.assembly import (
    attentions,
    mixture,
    places,
    products,
    steps,
    travel,
    turns,
    writing,
)
from tiny_lm.course.assembly.chosen import Chosen
from tiny_lm.course.assembly.verify import USUAL, Limits, verify
from tiny_lm.course.labs import pieces
from tiny_lm.files import read_text
from tiny_lm.gpus import comm
from tiny_lm.gpus.mesh import Group, solo
from tiny_lm.job import Job
from tiny_lm.kinds import OURS, Kinds
from tiny_lm.layout import Layout
from tiny_lm.model import LanguageModel
from tiny_lm.parallel.dispatch import build_dispatcher
from tiny_lm.rope import in_force
from tiny_lm.step import Worker, build_worker

CACHE = ".checked.json"
FP8 = (*products.TRAINED, *products.CODED)
DRIVES = (*steps.STEP, *steps.SUMS, *steps.CUT, *steps.BITS)


@dataclass(frozen=True)
class Assembly(Chosen):
    """The learner's pieces and the places they take; a `job.Maker`.

    wrong: pieces that did not pass, and why; others stand in for them
    """

    wrong: Mapping[str, str] = field(default_factory=dict)

    @property
    def yours(self) -> list[str]:
        """Names of the learner's pieces, in the order of the labs."""
        return [task.piece for task in places.tasks() if task.piece in self.sources]

    def without(self, *names: str) -> Self:
        """The same, where others stand in for these pieces."""
        kept = {n: s for n, s in self.sources.items() if n not in names}
        return replace(self, sources=kept)

    def describe(
        self,
        config: ModelConfig,
        ranks: int = 1,
        overlap: bool = False,
        layout: Layout | None = None,
    ) -> list[places.Row]:
        """Where every piece stands in a run, and whose it is."""
        setting = self._setting(config, ranks, layout or Layout(overlap=overlap))
        return places.rows(setting, set(self.sources))

    def told(
        self,
        config: ModelConfig,
        ranks: int = 1,
        overlap: bool = False,
        layout: Layout | None = None,
    ) -> str:
        """The same in words, a line a piece; those without a place last."""
        rows = self.describe(config, ranks, overlap, layout)
        held = [row for row in rows if row.place and not row.why_not]
        yours = sum(row.whose == places.YOURS for row in held)
        lines = [f"{yours} of the {len(held)} pieces of this run are yours:"]
        lines += [f"  {r.whose:9}  {r.task}  {r.piece:33}  {r.place}" for r in held]
        lines.append("No place in it:")
        others = (row for row in rows if row not in held)
        lines += [f"             {r.task}  {r.piece:33}  {r.why_not}" for r in others]
        return "\n".join(lines)

    # ---- what a run is made of

    def model(
        self,
        config: ModelConfig,
        group: Group | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        overlap: bool = False,
    ) -> LanguageModel:
        """The model of this rank, from weights that tiny_lm's would start with."""
        group = group or solo()
        self._check_model(config)
        travels = self.has(*travel.TRAVEL) and not overlap
        if travels and config.moe and group.size > 1:
            dispatcher = travel.YourDispatcher(self, config, group)
        else:
            travels, dispatcher = False, build_dispatcher(config, group)
        given = None
        if config.fp8 and config.fp8.multiplies and (travels or self.has(*FP8)):
            given = products.products(self, config.fp8)
        in_turn = overlap and self.has(*turns.ORDER)
        kind = turns.TakesTurns if in_turn else LanguageModel
        model = kind(config, dispatcher, seed, given, self._kinds())
        if in_turn:
            model.mine = self
        return model.to(device)

    def worker(self, job: Job, group: Group, device: torch.device | str) -> Worker:
        """What one rank does of a run; all ranks make theirs."""
        return self._agreed(group)._worker(job, group, device)

    def check(self, job: Job) -> None:
        """Refuse what does not go together.

        Raises:
            ValueError: what was wanted, and what came.
        """
        if job.device != "cpu":
            raise ValueError(
                "pieces are checked on a CPU and may make tensors there: --device cpu"
            )
        self._check_model(job.config)

    def notes(self, job: Job) -> dict[str, Any]:
        """Whose pieces were where, for a run's summary."""
        rows = self.describe(job.config, job.ranks, layout=job.layout)
        whose = (places.YOURS, places.OURS, places.NOWHERE)
        return {"pieces": {w: [r.piece for r in rows if r.whose == w] for w in whose}}

    def identity(self) -> dict[str, Any]:
        """A hash of each source: weights that other pieces made are another run's."""
        return {"pieces": {n: _hash(s).hex() for n, s in sorted(self.sources.items())}}

    def write(self, model: LanguageModel, prompt: str, num_bytes: int) -> str:
        """What a trained model writes, with its weights in the learner's layers.

        Drawn, and below it the likeliest, a quarter as long: it soon repeats itself.
        """
        ours = self.model(model.config)
        ours.load_state_dict(model.state_dict())
        drawn = writing.write(self, ours, prompt, num_bytes)
        few = max(num_bytes // 4, 1)
        likeliest = writing.likeliest(self, ours, prompt, few)
        return f"{drawn}\n\nThe likeliest after it:\n\n{prompt}{likeliest}"

    def _worker(self, job: Job, group: Group, device: torch.device | str) -> Worker:
        setting, training = (
            self._setting(job.config, job.ranks, job.layout),
            job.training,
        )
        turns_are_ours = job.layout.overlap and not setting.order_is_yours
        make_model = partial(self.model, overlap=job.layout.overlap)
        plain = job.layout.zero or job.layout.pp > 1 or turns_are_ours
        if plain or not self.has(*DRIVES):
            layout = job.layout
            if setting.order_is_yours:  # the model itself takes turns
                layout = replace(layout, overlap=False)
            return build_worker(replace(job, layout=layout), group, device, make_model)
        model = make_model(job.config, group, training.seed, device)
        own_step = places.stands(*steps.STEP, setting)
        return steps.YourWorker(self, model, training, group, own_step)

    def _setting(self, config: ModelConfig, ranks: int, layout: Layout):
        yours = layout.overlap and self.has(*turns.ORDER)
        return places.Setting(config, ranks, layout, order_is_yours=yours)

    def _kinds(self) -> Kinds:
        found = {}
        if self.has(*attentions.HEADS):
            found["heads"] = partial(attentions.YourHeads, self)
        if self.has(*attentions.EXPANDED, *attentions.CACHED):
            found["latent"] = partial(attentions.YourLatentAttention, self)
        if self.has(*mixture.ROUTING, *mixture.EXPERTS):
            found["mixture"] = partial(mixture.YourMixture, self)
        return replace(OURS, **found)

    def _check_model(self, config: ModelConfig) -> None:
        c, fp8 = config.attention, config.fp8
        if fp8 and self.has(*FP8):
            if not fp8.is_published or fp8.tile != fp8.block or fp8.gate:
                raise ValueError(
                    "pieces multiply in FP8 as DeepSeek-V3 does, with tiles as wide "
                    "as blocks: take that config, or leave out the pieces of fp8"
                )
        if isinstance(c, MLAConfig) and in_force(c.yarn, config.max_len):
            raise ValueError("pieces know no stretched angles: take a config without")

    def _agreed(self, group: Group) -> Self:
        """The pieces that the first rank has, on all ranks.

        Under torchrun every rank reads the folder, and only the first checks it.

        Raises:
            RuntimeError: ranks hold different sources of one.
        """
        if group.size == 1:
            return self
        names = [task.piece for task in places.tasks()]
        mine = torch.tensor([name in self.sources for name in names], dtype=torch.int64)
        first = comm.broadcast(mine, 0, group).tolist()
        taken = [name for name, has in zip(names, first, strict=True) if has]
        marks = torch.tensor([[_fingerprint(self.sources.get(n, "")) for n in taken]])
        everyone = comm.all_gather(marks.long(), group)
        alike = (everyone == everyone[:1]).all(0).tolist()
        if others := [n for n, same in zip(taken, alike, strict=True) if not same]:
            raise RuntimeError(f"ranks read different files of {', '.join(others)}")
        return replace(self, sources={name: self.sources[name] for name in taken})


def _hash(source: str) -> bytes:
    return blake2b(source.encode(), digest_size=8).digest()


def _fingerprint(source: str) -> int:
    return int.from_bytes(_hash(source), "big", signed=True)


def gather(
    folder: Path | None = None, limits: Limits = USUAL, check: bool = True
) -> Assembly:
    """All kept pieces that pass, and why the others do not.

    Args:
        folder: of pieces; by default the one that labs use, and what is in memory.
        check: whether to check them; without it they are taken as they are.

    Raises:
        ValueError: there is no such folder.
    """
    if folder is not None and not folder.is_dir():
        raise ValueError(f"no such folder of pieces: {folder}")
    sources, wrong = {}, {}
    for name, file in pieces.files(folder).items():
        try:
            sources[name] = read_text(file)
        except ValueError as error:
            wrong[name] = str(error)
    if folder is None:
        sources |= pieces.in_memory()
    if check:
        where = (folder or pieces.folder()) / CACHE
        wrong |= verify(sources, limits, where if where.parent.is_dir() else None)
    return Assembly({n: s for n, s in sources.items() if n not in wrong}, wrong)
