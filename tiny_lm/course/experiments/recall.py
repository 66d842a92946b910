"""Needles in a haystack: what a model can read back from its context.

Chapter: 03_mla/latent_attention
Source: course

A sequence is a haystack of random bytes. Needles lie in it at random places: a mark, a
key, a value. No two have the same key. At its end come questions, each a key drawn
anew, and after it the value has to follow. Nothing but its key says which value that
is: in a first version each needle was asked for once, and models learned to answer by
elimination, which gets 31 of 100 right and needs no key.

Only the values at the end are trained on, and counted.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from tiny_lm.course.experiments.captured import Record, Steps, Trainer
from tiny_lm.course.experiments.plan import Run
from tiny_lm.model import LanguageModel

MARK, ASK = 254, 255
KEYS = range(128, 254)  # bytes that stand for keys; values and hay lie below them
NUM_VALUES = 32  # with 128 values nothing was learned within 1,000 steps
EVALUATION = 8  # batches of fresh sequences at each evaluation
AT_ONCE = 50  # batches that are drawn in one go
UNSEEN = 10_000  # seed of these sequences; runs are trained on small ones


@dataclass(frozen=True, kw_only=True)
class Haystack:
    """How long a sequence is and how much it hides.

    Raises:
        ValueError: the needles do not fit, or there are more of them than keys.
    """

    length: int = 256
    needles: int = 24

    def __post_init__(self) -> None:
        if self.needles > len(KEYS):
            raise ValueError(f"needles={self.needles}, but only {len(KEYS)} keys")
        if self.hay < 3 * self.needles:
            raise ValueError(
                f"{self.needles} needles and their questions do not fit into "
                f"length={self.length}"
            )

    @property
    def hay(self) -> int:
        """Bytes before the questions."""
        return self.length - 3 * self.needles


def draw(
    haystack: Haystack, batch_size: int, generator: torch.Generator
) -> Int[Tensor, "B T"]:
    """Sequences with needles in them and the questions at their end."""
    h, n = haystack, haystack.needles
    device = generator.device

    def order(of: int) -> Tensor:
        return torch.rand(batch_size, of, generator=generator, device=device).argsort(1)

    def low_bytes(width: int, of: int = KEYS.start) -> Tensor:
        return torch.randint(
            of, (batch_size, width), generator=generator, device=device
        )

    keys = KEYS.start + order(len(KEYS))[:, :n]
    values = low_bytes(n, NUM_VALUES)
    slots = 3 * order(h.hay // 3)[:, :n]  # needles never overlap
    tokens = torch.cat([low_bytes(h.hay), values.repeat(1, 3)], dim=1)
    for offset, what in enumerate((torch.full_like(keys, MARK), keys, values)):
        tokens.scatter_(1, slots + offset, what)
    asked = torch.randint(n, (batch_size, n), generator=generator, device=device)
    tokens[:, h.hay :: 3] = ASK
    tokens[:, h.hay + 1 :: 3] = keys.gather(1, asked)
    tokens[:, h.hay + 2 :: 3] = values.gather(1, asked)
    return tokens


def answers(
    model: LanguageModel, tokens: Int[Tensor, "B T"], haystack: Haystack
) -> tuple[Tensor, Tensor]:
    """Logits where a value has to follow, and the value."""
    first = haystack.hay + 2
    logits = model(tokens[:, :-1])[:, first - 1 :: 3]
    return logits.flatten(0, 1), tokens[:, first::3].flatten()


@torch.no_grad()
def recalled(
    model: LanguageModel, haystack: Haystack, batch_size: int, seed: int
) -> float:
    """Share of the needles that the model reads back, over fresh sequences."""
    generator = _generator(model, seed)
    right = total = 0
    for _ in range(EVALUATION):
        logits, values = answers(model, draw(haystack, batch_size, generator), haystack)
        right += int((logits.argmax(-1) == values).sum())
        total += len(values)
    return right / total


def train_recall(
    run: Run, model: LanguageModel, haystack: Haystack, curves: Record
) -> Steps:
    """Train on needles alone; `curves` gets an entry an evaluation."""
    t = run.training
    generator = _generator(model, t.seed)

    def loss_of(tokens: Tensor) -> Tensor:
        return F.cross_entropy(*answers(model, tokens, haystack))

    trainer = Trainer(model, t, loss_of)
    curves |= {"steps": [], "train_loss": [], "recalled": []}
    for step in range(1, t.steps + 1):
        with trainer.here():
            if step % AT_ONCE == 1:
                many = draw(haystack, AT_ONCE * t.batch_size, generator)
                drawn = many.view(AT_ONCE, t.batch_size, haystack.length)
            trainer.step(drawn[(step - 1) % AT_ONCE])
            if step % t.eval_every == 0 or step == t.steps:
                share = recalled(model, haystack, t.batch_size, seed=UNSEEN)
                curves["steps"].append(step)
                curves["train_loss"].append(round(float(trainer.loss), 5))
                curves["recalled"].append(round(share, 5))
        yield
    curves["final_recalled"] = curves["recalled"][-1]


def _generator(model: LanguageModel, seed: int) -> torch.Generator:
    device = model.head.weight.device
    return torch.Generator(device=device).manual_seed(seed)
