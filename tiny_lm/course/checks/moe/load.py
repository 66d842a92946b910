"""Task 2.5: how much each expert has to do, and how uneven that is.

Chapter: 02_moe/balance
Source: aux_free_balancing, MaxVio
"""

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Generator, Tensor

from tiny_lm.course.checks.case import case, family
from tiny_lm.course.checks.task import Task


def load_and_violation(
    experts: Int[Tensor, "N k"], num_experts: int
) -> tuple[Int[Tensor, " E"], float]:
    """How often each expert was chosen, and how far the busiest exceeds the mean."""
    load = torch.bincount(experts.flatten(), minlength=num_experts)
    mean = load.double().mean()
    excess = load.max() - mean
    return load, float(excess / mean) if mean > 0 else 0.0


task_2_5 = Task(
    id="2.5",
    lab="02_moe",
    title="Load and violation",
    name="load_and_violation",
    piece="moe.load_and_violation",
    difficulty=1,
    minutes=10,
    points=2,
    reference=load_and_violation,
    returns=("load", "violation"),
    any_width=True,
    errors={
        "1-d non-negative": "bincount counts one row of ids: flatten the choices of "
        "all tokens first.",
        "could not infer output dtype": "The mean of whole numbers need not be whole, "
        "so torch refuses it for an integer tensor: turn the load into floats for the "
        "mean.",
        "division by zero": "No token, no load, so the mean is 0. Say what the "
        "violation is then: nobody exceeds anything.",
    },
    hints=(
        """
        Every choice of every token is one unit of work. Count how often each id from 0
        to num_experts - 1 stands in `experts`, ids that never come included.
        """,
        """
        torch.bincount counts ids in a flat tensor; its `minlength` sees to the experts
        that nobody chose. The violation is (largest load - mean load) / mean load, the
        mean taken over all experts. With no tokens the mean is 0: return 0.0.
        """,
        """
        load = torch.bincount(experts.flatten(), minlength=num_experts)
        mean = load.double().mean()
        The violation is float((load.max() - mean) / mean) if mean > 0, else 0.0.
        """,
    ),
)

COUNT = "torch.bincount(experts.flatten(), minlength=num_experts)"
SHARE = "over several machines, counts can be added up and {} cannot."
AS_FLOATS = (
    "A float32 count stands still at 16,777,216: adding 1 more changes nothing. Counts "
    "are integers."
)

task_2_5.asks(
    "the load counts every choice of every token",
    case([[0, 1], [0, 1], [0, 2], [3, 0]], 4),
    only=("load",),
    otherwise="Entry e counts how often e stands in `experts`, in all rows and "
    "columns.",
    mistakes={
        "experts.flatten() => experts[:, 0]": "Only the best choice of each token was "
        "counted. All k of them are work.",
        "return load, => return load / load.sum(),": "These are shares. The load is a "
        "count: " + SHARE.format("shares"),
        "return load, => return load / len(experts),": "These are choices per token. "
        "The load is a count: " + SHARE.format("means"),
        f"{COUNT} => {COUNT} // experts.shape[1]": "This was divided by k. Every "
        "choice of a token is a unit of work.",
        f"{COUNT} => {COUNT}.clamp(max=1)": "Each expert was counted once at most. "
        "`load[ids] += 1` and scatter read all before they write any; bincount, or "
        "scatter_add, adds up.",
        "return load, => return load.float(),": AS_FLOATS,
    },
)

NOBODY = (
    "The experts that nobody chose are missing, and they are the ones to find. "
    "`bincount` stops at the largest id unless it is given a `minlength`."
)

task_2_5.asks(
    "an expert that nobody chose has load 0, the last one too",
    case([[1, 2], [2, 1]], 5),
    only=("load",),
    mistakes={
        "return load, => return load.sort(descending=True).values,": "The load was "
        "sorted, so nobody knows whose it is. It stands in the order of the experts.",
        ", minlength=num_experts => ": NOBODY,
        f"{COUNT} => experts.unique(return_counts=True)[1]": "unique lists what "
        "occurs. The experts that nobody chose are missing, and they are the ones to "
        "find.",
    },
)

LEAST = "The least busy expert plays no part: everybody waits for the busiest."
DEVIATION = (
    "This is a standard deviation. A step takes as long as the busiest expert does, so "
    "only that one counts."
)

task_2_5.asks(
    "the violation is how far the busiest lies above the mean",
    case(
        [[0, 1], [0, 1], [0, 1], [0, 2], [0, 2], [0, 3]],
        4,
        note="choices that give the load [6, 3, 2, 1] (mean 3)",
    ),
    otherwise="(largest - mean) / mean, of plain counts: something else is done here.",
    mistakes={
        "excess = load.max() - mean => excess = load.max()": "This is largest / mean. "
        "Wanted is the excess over the mean: 0 where all are equal.",
        "excess / mean => excess": "This is largest - mean, in choices. Measure it in "
        "means: divide.",
        "excess / mean => excess / load.max()": "Divide by the mean, not by the "
        "largest.",
        "load.max() - mean => load.max() - load.min()": LEAST,
        "excess / mean => (load.max() - load.min()) / load.max()": LEAST,
        "excess / mean => load.double().std() / mean": DEVIATION,
        "excess / mean => load.double().std(correction=0) / mean": DEVIATION,
        "load.double().mean() => load.double().sum() / (num_experts * "
        "experts.shape[1])": "This is the mean number of *tokens*. Each makes k "
        "choices, and the load counts choices.",
        "load.max() - mean => mean - load.min()": "This is how far the idlest lies "
        "below the mean. Everybody waits for the busiest.",
        "excess / mean => excess / num_experts": "Divide by the mean load, not by the "
        "number of experts.",
        "excess / mean => excess / load.sum()": "Divide by the mean load, not by the "
        "sum.",
    },
)

task_2_5.asks(
    "the mean is over all experts, and only an excess counts",
    case([[0, 1, 2], [2, 1, 0], [2, 0, 1]], 4, note="load [3, 3, 3, 0]"),
    otherwise="The mean is the sum of all loads divided by num_experts, with its "
    "fraction.",
    mistakes={
        "load.double().mean() => load[load > 0].double().mean()": "The mean was taken "
        "over the experts with work. The idle one is what makes this uneven: the mean "
        "is 9 choices / 4 experts.",
        "load.double().mean() => load.double().sum() / max("
        "i * (n > 0) for i, n in enumerate([1, *load.tolist()]))": "The mean was taken "
        "up to the largest id that was chosen. Experts exist beyond it: there are "
        "num_experts of them.",
        "excess = load.max() - mean => excess = (load - mean).abs().max()": "The "
        "largest distance from the mean is that of the idle expert, and nobody waits "
        "for it. Take the busiest, without an absolute value.",
        "load.double().mean() => load.sum() // num_experts": "The mean lost its "
        "fraction: it is 2.25 here, and `//` and `int` make it 2.",
        "load.double().mean() => load.double().mean().round()": "The mean was rounded. "
        "It keeps its fraction: 2.25 here.",
    },
)

task_2_5.asks(
    "no tokens: no load, and no violation",
    case(torch.empty(0, 2, dtype=torch.int64), 3),
    otherwise="Without a token the violation is 0, and nothing is divided.",
    mistakes={
        " if mean > 0 else 0.0 => ": "0 / 0 is NaN. A rank may get an empty share of a "
        "batch, and a NaN would spread: nobody exceeds anything here.",
        "float(excess / mean) if mean > 0 else 0.0 => "
        "load.max().item() / (experts.numel() / num_experts) - 1": "No token, no load, "
        "so the mean is 0, and nothing is divided by it. Nobody exceeds anything.",
        " if mean > 0 else 0.0 => if mean > 0 else -1.0": "Where all loads are 0, the "
        "busiest lies no more above the mean than anybody: 0.",
    },
)


def _draw(generator: Generator, N: int, E: int, k: int) -> tuple[Tensor, int]:
    scores = torch.rand(N, E, generator=generator) * torch.linspace(0.5, 1, E)
    return scores.topk(k).indices, E


task_2_5.asks(
    "equals the definition on random choices",
    family(_draw, {"N": 300, "E": 64, "k": 6}, ones=["N", "k"]),
    family(_draw, {"N": 2000, "E": 8, "k": 2}),
    mistakes={
        "return load, => return load.to(torch.uint8),": "A byte counts to 255 and "
        "starts again at 0.",
    },
)


@task_2_5.accepts
def one_hot_sum(experts, num_experts):
    load = F.one_hot(experts, num_experts).sum((0, 1))
    if len(experts) == 0:
        return load, 0.0
    return load, load.max().item() * num_experts / experts.numel() - 1


@task_2_5.accepts
def plain_loop(experts, num_experts):
    counts = [0] * num_experts
    for row in experts.tolist():
        for expert in row:
            counts[expert] += 1
    mean = sum(counts) / num_experts
    return torch.tensor(counts), (max(counts) - mean) / mean if mean else 0


@task_2_5.accepts
def scatter_in_int32(experts, num_experts):
    ids = experts.reshape(-1)
    load = torch.zeros(num_experts, dtype=torch.int32)
    load = load.scatter_add(0, ids, torch.ones_like(ids, dtype=torch.int32))
    mean = load.float().mean()
    return load, ((load.max() - mean) / mean).nan_to_num().item()
