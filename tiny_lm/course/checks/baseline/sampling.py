"""Task 1.6: what the next byte is drawn from: temperature and top-p.

Chapter: 01_baseline/probability_machine
Source: nucleus_sampling
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tiny_lm.course.checks.case import Case, case, drawn
from tiny_lm.course.checks.task import Task


def next_byte_probabilities(
    logits: Float[Tensor, " V"], temperature: float, top_p: float
) -> Float[Tensor, " V"]:
    """Probabilities at this temperature, of the likeliest bytes alone."""
    p = (logits / temperature).softmax(-1)
    ordered, order = p.sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    gone = before >= top_p
    gone[0] = False
    ordered = ordered.masked_fill(gone, 0.0)
    kept = torch.zeros_like(p).scatter(-1, order, ordered)
    return kept / kept.sum()


task_1_6 = Task(
    id="1.6",
    lab="01_baseline",
    title="Temperature and top-p",
    name="next_byte_probabilities",
    piece="baseline.next_byte_probabilities",
    difficulty=2,
    minutes=15,
    points=3,
    reference=next_byte_probabilities,
    hints=(
        """
        Temperature is one division. For top-p, sort the probabilities and look at how
        much the likelier ones hold together, before the one you are looking at.
        """,
        """
        Divide the logits, then softmax. Sort downwards; cumsum gives the share up to
        and including each; minus the probability itself it is the share before it.
        Keep the likeliest and those whose share before is less than top_p, put them
        back in their places, and divide by their sum.
        """,
        """
        p = (logits / temperature).softmax(-1)
        sorted_p, order = p.sort(descending=True)
        before = sorted_p.cumsum(-1) - sorted_p
        Set sorted_p to 0 where before >= top_p, the first excepted. With
        kept = torch.zeros_like(p), kept[order] = sorted_p undoes the sorting.
        Return kept / kept.sum().
        """,
    ),
)


def _case(weights: list[float], temperature: float, top_p: float, more: str) -> Case:
    """Logits whose softmax is in the proportion of these weights."""
    note = f"logits = log {[int(w) for w in weights]}: {more}"
    return case(torch.tensor(weights).log(), temperature, top_p, note=note)


DRAWN = "Do not draw yet: the lab does. Return the probabilities."

task_1_6.asks(
    "a probability for each byte, at temperature 1 the model's own",
    _case([5.0, 3.0, 2.0], 1.0, 1.0, "probabilities 0.5, 0.3, 0.2"),
    otherwise="At temperature 1 and top_p 1 this is the softmax of the logits, nothing "
    "done to it before or after.",
    mistakes={
        "return kept / kept.sum() => return torch.multinomial(kept, 1)": DRAWN,
        "return kept / kept.sum() => return kept.argmax()": "This is the likeliest "
        "byte. Return the probabilities of all.",
        "return kept / kept.sum() => return logits / temperature": "These are logits: "
        "a softmax is missing.",
        "return kept / kept.sum() => return (logits / temperature).masked_fill("
        "kept == 0, -torch.inf)": "These are logits: a softmax is missing at the end.",
        "logits / temperature => logits.softmax(-1) / temperature": "The softmax came "
        "twice: over the logits, and over the probabilities.",
        ".softmax(-1) => .sigmoid()": "A sigmoid looks at each logit by itself. The "
        "probabilities of all bytes come from a softmax.",
        "gone = before >= top_p => gone = before + ordered > top_p - 1e-6": "top_p = 1 "
        "keeps every byte.",
    },
)

UNDONE = (
    "The temperature changes nothing here. Dividing probabilities and adding them up "
    "to 1 again undoes itself: divide the logits."
)
OVERFLOW = (
    "exp of a logit beyond 88 is infinite, and inf / inf is NaN. softmax takes the "
    "largest logit off first."
)

task_1_6.asks(
    "a low temperature sharpens, a high one flattens",
    _case([4.0, 1.0], 0.5, 1.0, "16 : 1 where it is sharpened"),
    _case([4.0, 1.0], 2.0, 1.0, "2 : 1 where it is flattened"),
    case([60.0, 59.0, -60.0], 0.5, 1.0),
    otherwise="The logits are divided by the temperature as it comes, once.",
    mistakes={
        "logits / temperature => logits * temperature": "This is the opposite: logits "
        "times the temperature.",
        "logits / temperature => logits": UNDONE,
        "logits / temperature => logits ;; kept / kept.sum() => kept / temperature": (
            "The probabilities were divided, so they no longer add up to 1. Divide the "
            "logits, before the softmax."
        ),
        "return kept / kept.sum() => return kept[kept > 0]": "The bytes that were cut "
        "are missing. They stay in their places, with probability 0.",
        "(logits / temperature).softmax(-1) => (logits / temperature).exp()\n"
        "    p = p / p.sum()": OVERFLOW,
    },
)

CROSSING = (
    "The byte that crosses the threshold belongs to the kept ones: without it they "
    "hold less than top_p."
)
KEEP = "gone = before >= top_p => gone = "
SUMS = (
    "top_p is not compared with single probabilities, but with their sum from the "
    "likeliest on."
)

task_1_6.asks(
    "top-p keeps the fewest bytes that hold top_p together",
    _case([10.0, 6.0, 3.0, 1.0], 1.0, 0.7, "probabilities 0.5, 0.3, 0.15, 0.05"),
    otherwise="Kept are the likeliest, up to and with the one at which their sum "
    "reaches top_p; they keep their proportions.",
    mistakes={
        f"{KEEP}(before + ordered >= top_p) & (top_p < 1)": CROSSING,
        "kept / kept.sum() => kept": "The right bytes are kept. They must add up to 1 "
        "again.",
        f"{KEEP}(before >= top_p).roll(1)": "One byte too many: two hold 0.8 already.",
        f"{KEEP}(before + ordered >= top_p) & (before > 0) & (top_p < 1)": CROSSING,
        f"{KEEP}before > 2.0": "Nothing was cut: where is `top_p` compared with the "
        "share of the likelier ones?",
        "descending=True => descending=False": "The sorting goes upwards, so the tail "
        "was kept. Start from the likeliest.",
        f"{KEEP}(ordered < top_p) & (top_p < 1) ;; gone[0] = False => pass": SUMS,
        f"{KEEP}(before < top_p) & (top_p < 1)": "The tail was kept, the head cut: "
        "turn the comparison.",
        "return kept / kept.sum() => return kept.softmax(-1) if top_p < 1 else kept": (
            "A softmax over probabilities does not give them back. To make them add up "
            "to 1, divide by their sum."
        ),
        "return kept / kept.sum() => return (logits / temperature).masked_fill("
        "kept == 0, 0.0).softmax(-1)": "A logit of 0 is not a ban: it may be the "
        "largest of all. Only -inf has the probability 0.",
        f"{KEEP}torch.arange(len(p)) >= top_p * len(p)": "This keeps a share of the "
        "bytes. top_p is a share of the probability.",
        f"{KEEP}(before >= 1 - top_p) & (top_p < 1)": "The tail holds 1 - top_p, the "
        "head top_p.",
    },
)

task_1_6.asks(
    "each byte gets its own probability, in whatever order they come",
    _case([6.0, 1.0, 10.0, 3.0], 1.0, 0.7, "probabilities 0.3, 0.05, 0.5, 0.15"),
    mistakes={
        "torch.zeros_like(p).scatter(-1, order, ordered) => ordered": "These are in "
        "sorted order: put each back in the place it came from.",
        "torch.zeros_like(p).scatter(-1, order, ordered) => ordered[order]": "The "
        "sorting was applied a second time, not undone. To undo it, write at its "
        "indices; reading at them sorts once more.",
        "return kept / kept.sum() => p = p * ~gone[order]\n    return p / p.sum()": (
            "The mask stands in sorted order, and was read at the indices of the "
            "sorting. Write it at them instead."
        ),
        "p.sort(descending=True) => p, torch.arange(len(p))": "The bytes were added up "
        "as they stand. Start from the likeliest: sort first.",
    },
)

task_1_6.asks(
    "the temperature acts before the cut",
    _case([16.0, 9.0, 4.0, 1.0], 2.0, 0.8, "at temperature 2 it is 4 : 3 : 2 : 1"),
    mistakes={
        "logits / temperature => logits ;; return kept / kept.sum() => return (logits "
        "/ temperature).masked_fill(kept == 0, -torch.inf).softmax(-1)": "The cut was "
        "made at temperature 1, where two bytes hold 0.83. First flatten, then cut.",
    },
)

NAN = "Nothing was kept, and 0 / 0 is NaN. The likeliest byte stays, whatever top_p is."

task_1_6.asks(
    "however small top_p is, the likeliest byte stays",
    *(_case([3.0, 5.0, 2.0], 1.0, p, "0.3, 0.5, 0.2") for p in (0.3, 1e-6)),
    mistakes={
        f"{KEEP}before >= top_p - 1e-3 ;; gone[0] = False => pass": NAN,
    },
)


def _draw(generator: Generator) -> tuple[Tensor, float, float]:
    logits = 3 * torch.randn(64, generator=generator)
    temperature, top_p = (0.2 + torch.rand(2, generator=generator)).tolist()
    return logits, temperature, min(top_p, 1.0)


task_1_6.asks(
    "equals the definition on random cases",
    [drawn(_draw) for _ in range(20)],
    case([0.7], 1.0, 0.5),
    case([0.0, 0.0, 0.0, 0.0], 1.0, 0.5),
    mistakes={
        f"{KEEP}(before >= top_p) | (torch.arange(len(p)) >= 10)": "At most ten bytes "
        "are kept. There is no such limit in top-p.",
    },
)


@task_1_6.accepts
def loop(scores, heat, share):
    p = torch.softmax(scores / heat, 0).tolist()
    kept, total = [0.0] * len(p), 0.0
    for at in sorted(range(len(p)), key=lambda i: -p[i]):
        kept[at] = p[at]
        total += p[at]
        if total >= share:
            break
    return torch.tensor(kept) / total


@task_1_6.accepts
def minus_infinity(logits, temperature, top_p):
    logits = logits.double() / temperature
    ordered, order = logits.sort(descending=True)
    p = ordered.softmax(-1)
    gone = (p.cumsum(-1) - p >= top_p) & (torch.arange(len(p)) > 0)
    back = order.argsort()
    return ordered.masked_fill(gone, -torch.inf)[back].softmax(-1)
