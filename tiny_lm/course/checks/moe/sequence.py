"""Task 2.7: the loss that wants every sequence spread over the experts.

Chapter: 02_moe/balance
Source: deepseek_v3, eqs. 17-20
"""

import torch
import torch.nn.functional as F
from einops import einsum, reduce
from jaxtyping import Float, Int
from torch import Generator, Tensor

from tiny_lm.course.checks.case import Case, case, family
from tiny_lm.course.checks.task import Task


def sequence_loss(
    scores: Float[Tensor, "B T E"], experts: Int[Tensor, "B T k"]
) -> Float[Tensor, ""]:
    """How uneven each sequence's routing is; 1 where it is spread evenly."""
    T, E, k = *scores.shape[1:], experts.shape[-1]
    counts = F.one_hot(experts, E).sum((1, 2))
    f = counts * E / (k * T)
    shares = scores / scores.sum(-1, keepdim=True)
    P = shares.mean(1)
    losses = (f * P).sum(-1)
    return losses.mean()


CLASSES = (
    "The ids reach only as far as the largest that was chosen: `one_hot` needs "
    "`num_classes`, `bincount` its `minlength`. E stands in the shape of the scores."
)
KEEPDIM = (
    "The sum over the experts lost its dim, so that shares are of another token's sum: "
    "sum(-1, keepdim=True) stands in each token's own row."
)
CUT = (
    "The loss has lost its way back to the scores: no .detach(), .item() or "
    "torch.no_grad() around the shares."
)

task_2_7 = Task(
    id="2.7",
    lab="02_moe",
    title="The sequence-wise loss",
    name="sequence_loss",
    piece="moe.sequence_loss",
    difficulty=3,
    minutes=25,
    points=3,
    reference=sequence_loss,
    returns=("loss",),
    errors={
        "must match the size": f"Two shapes do not fit. {KEEPDIM} Or: {CLASSES}",
        "subscript": CLASSES,
        "1-d non-negative": "bincount counts one row of ids, and here each sequence "
        "has a count of its own. one_hot(experts, E) summed over T and k gives them "
        "all at once.",
        "does not require grad": CUT,
    },
    hints=(
        """
        Solve it for one sequence first. Two rows of E numbers: how often each expert
        was chosen, and what share of the scores it has on average. Multiply, add up.
        """,
        """
        f: counts of the chosen experts over the T tokens and their k choices, times
        E / (k T), so that even choices give 1 everywhere. P: divide each token's scores
        by their sum over the experts, then take the mean over T. The loss of a sequence
        is the sum of f P over experts; the result is the mean over sequences.
        """,
        """
        chosen = F.one_hot(experts, E).sum((1, 2)) is "B E".
        f = chosen * E / (k * T)
        P = (scores / scores.sum(-1, keepdim=True)).mean(1)
        (f * P).sum(-1) is a loss for each sequence; return its .mean().
        """,
    ),
)

# Rows whose shares are (4, 2, 1, 1) / 8 and (2, 4, 1, 1) / 8. The second adds up to
# half of the first, so that shares and scores have different means.
SCORES = [
    [[0.8, 0.4, 0.2, 0.2], [0.4, 0.2, 0.1, 0.1], [0.4, 0.8, 0.2, 0.2],
     [0.4, 0.8, 0.2, 0.2]]
]  # fmt: skip
EXPERTS = [[[0, 1], [0, 1], [1, 0], [1, 3]]]
ON_HAND = "f = [1.5, 2, 0, 0.5], P = [0.375, 0.375, 0.125, 0.125]"
EVEN = (
    "The factor in front of the counts is off. Chosen evenly, each of the E experts is "
    "counted k T / E times, and f has to be 1 then."
)

NOT_BY_T = (
    "T tokens were added up where their mean is wanted: the counts were not divided by "
    "T, or the shares were summed."
)
OF_CHOSEN = (
    "P holds the chosen alone. It is the mean of all shares, chosen or not: an expert "
    "that was nearly chosen is to be pushed as well."
)
WHETHER = (
    "It was noted whether an expert was chosen, not how often. (scatter writes a 1 "
    "where others have written theirs; scatter_add adds them up.)"
)

task_2_7.asks(
    "by hand: the sum over experts of f times P",
    case(SCORES, EXPERTS, note=ON_HAND),
    otherwise="f is a count times E / (k T); P is a plain mean over the tokens of "
    "score / sum of scores; the two are multiplied and added up. Which "
    "step is another here?",
    mistakes={
        "counts * E / (k * T) => counts / (k * T)": f"{EVEN} (Or the experts' terms "
        "were averaged, not added.)",
        "(f * P).sum(-1) => (f * P).mean(-1)": f"{EVEN} (Or the experts' terms were "
        "averaged, not added.)",
        "counts * E / (k * T) => counts * E / T": f"{EVEN} Each token makes k choices.",
        "counts * E / (k * T) => counts * E / k": NOT_BY_T,
        "counts * E / (k * T) => counts * E": f"{EVEN} These counts were not divided "
        "at all.",
        "counts * E / (k * T) => counts": EVEN,
        "counts * E / (k * T) => counts / T": EVEN,
        "counts * E / (k * T) => counts * k * T / E": f"{EVEN} It is upside down.",
        "shares = scores / scores.sum(-1, keepdim=True) => shares = scores": "P was "
        "taken from the scores as they are. Sigmoid scores do not add up to 1: divide "
        "each token's by their sum, or the loss falls when all scores shrink.",
        "shares = scores / scores.sum(-1, keepdim=True) => shares = scores ;; "
        "P = shares.mean(1) => P = shares.sum(1) / shares.sum((1, 2)).unsqueeze(-1)": (
            "The scores were averaged first and divided by their sum afterwards, so "
            "tokens with large scores count more. Each token's own sum comes first."
        ),
        "scores.sum(-1, keepdim=True) => scores.sum(-1)": KEEPDIM,
        "scores.sum(-1, keepdim=True) => scores.sum(1, keepdim=True)": "The scores "
        "were divided by sums over the tokens. A share is of the token's own sum, over "
        "the experts.",
        "F.one_hot(experts, E) => F.one_hot(scores.topk(k).indices, E)": "f counts the "
        "experts with the best scores. Those handed over count: bias and groups had a "
        "say in them.",
        "shares = scores / scores.sum(-1, keepdim=True) => shares = scores.softmax(-1)"
        "": "The scores went through a softmax. They are sigmoids already: a share is "
        "score / sum of scores.",
        "(f * P) => (f * f / E)": "This is f times f: nothing can be learnt from it, "
        "for a count has no gradient. The second factor is P.",
        "(f * P) => (P * P * E)": "This is P times P. f counts what was chosen.",
        "F.one_hot(experts, E).sum((1, 2)) => F.one_hot(experts, E).amax((1, 2))": (
            WHETHER
        ),
        "F.one_hot(experts, E).sum((1, 2)) => F.one_hot(experts[..., 0], E).sum(1)": (
            "Only the first choice of each token was counted. All k are."
        ),
        "F.one_hot(experts, E).sum((1, 2)) => torch.zeros_like(scores[:, 0])"
        ".scatter(1, experts.flatten(1), 1.0)": WHETHER,
        "counts * E / (k * T) => counts * len(experts.unique()) / (k * T)": "E is the "
        "number of experts that exist, not of those that were chosen.",
        "losses = (f * P).sum(-1) => losses = (f * P).sum(-1) / (f > 0).sum(-1) * E": (
            "The sum was divided by the number of experts in use. It is a plain sum."
        ),
        "P = shares.mean(1) => P = shares.sum(1)": NOT_BY_T,
        "P = shares.mean(1) => P = (shares * F.one_hot(experts, E).sum(2)).mean(1)": (
            OF_CHOSEN
        ),
        "shares = scores / scores.sum(-1, keepdim=True) => shares = F.normalize("
        "scores * F.one_hot(experts, E).sum(2), p=1, dim=-1)": OF_CHOSEN,
        "F.one_hot(experts, E).sum((1, 2)) => F.one_hot(experts, E).sum(1) ;; "
        "(f * P).sum(-1) => (f * P[:, None]).sum(-1)": "The counts were added up over "
        "the tokens and not over their k choices.",
    },
)


def _in_turns(E: int, k: int) -> Case:
    ids = torch.arange(3 * E).view(1, -1, k) % E
    return case(
        torch.full((1, ids.shape[1], E), 0.5),
        ids,
        note=f"all scores 0.5, {E} experts chosen in turn, k = {k}",
    )


task_2_7.asks(
    "1 where choices and scores are spread evenly",
    _in_turns(4, 1),
    _in_turns(6, 3),
    otherwise="E, k and T come from the shapes.",
    mistakes={
        "counts * E / (k * T) => counts * 4 / (2 * 4)": "Sizes stand in it as numbers. "
        "They differ from batch to batch: take them from the shapes.",
    },
)

TOGETHER = (
    "The counts, or the shares, of both sequences were thrown together, and together "
    "they are even. Each sequence is looked at by itself."
)

task_2_7.asks(
    "each sequence is counted by itself, and the mean is taken",
    case(
        [[[0.9, 0.3]] * 2, [[0.3, 0.9]] * 2],
        [[[0]] * 2, [[1]] * 2],
        note="together both experts are chosen equally often",
    ),
    case([[[0.9, 0.3]] * 2, [[0.6, 0.6]] * 2], [[[0]] * 2, [[0], [1]]]),
    otherwise="A loss for each sequence, of its own counts and shares; then the "
    "plain mean over sequences.",
    mistakes={
        "(f * P).sum(-1) => (f.mean(0) * P.mean(0)).sum(-1)": TOGETHER,
        "(f * P).sum(-1) => (f.mean(0) * P).sum(-1)": TOGETHER,
        "losses.mean() => losses.sum()": "The sequences were added up: then a larger "
        "batch is a larger loss.",
        "counts * E / (k * T) => counts * E / (k * T * len(scores))": "The counts were "
        "divided by the tokens of the whole batch.",
        "losses = (f * P).sum(-1) => losses = torch.stack(["
        "(n[: int(ids.max()) + 1] * p).sum() "
        "for n, p, ids in zip(f, P, experts, strict=True)])": CLASSES,
        "losses.mean() => losses[0]": "This is the loss of the first sequence alone.",
    },
)

task_2_7.asks(
    "an expert that nobody chose is in the sum, and adds nothing",
    case([[[0.4, 0.2, 0.2]]], [[[0]]], note="f = [3, 0, 0]"),
    mistakes={
        "F.one_hot(experts, E) => F.one_hot(experts)": CLASSES,
        "counts * E / (k * T) => counts * (int(experts.max()) + 1) / (k * T)": "E is "
        "the number of experts that exist, not of those that were chosen.",
    },
)


def _hand(generator: Generator) -> tuple:
    return torch.tensor(SCORES), torch.tensor(EXPERTS)


task_2_7.asks(
    "the gradient comes through P alone, whole",
    Case(_hand, slopes=("scores",)),
    mistakes={
        "return losses.mean() => return losses.mean().detach()": CUT,
        "return losses.mean() => return losses.mean().item()": CUT,
        "shares = scores / => shares = scores.detach() /": CUT,
        "scores.sum(-1, keepdim=True) => scores.sum(-1, keepdim=True).detach()": "The "
        "sum of the scores was detached, so that raising every score looks like a way "
        "to change the loss. Shares have to stay shares.",
    },
)


def _draw(generator: Generator, B: int, T: int, E: int, k: int) -> tuple:
    scores = torch.rand(B, T, E, generator=generator)
    noise = torch.rand(B, T, E, generator=generator)
    return scores, (scores + noise).topk(k).indices


task_2_7.asks(
    "equals the definition on random sequences",
    family(_draw, {"B": 3, "T": 5, "E": 8, "k": 2}, ones=["B", "T", "k"], double=True),
    family(_draw, {"B": 2, "T": 16, "E": 4, "k": 3}),
)


@task_2_7.accepts
def one_sequence_after_the_other(scores, experts):
    T, E = scores.shape[1:]
    losses = []
    for s, chosen in zip(scores, experts, strict=True):
        f = torch.bincount(chosen.flatten(), minlength=E) * E / (chosen.shape[-1] * T)
        losses.append(f.to(s) @ (s / s.sum(-1, keepdim=True)).mean(0))
    return torch.stack(losses).mean()


@task_2_7.accepts
def einsum_and_scatter(scores, experts):
    B, T, E = scores.shape
    chosen = torch.zeros_like(scores).scatter(-1, experts, 1.0).mean(1)
    shares = F.normalize(scores, p=1, dim=-1)
    f = chosen * E / experts.shape[-1]
    return einsum(f, reduce(shares, "b t e -> b e", "mean"), "b e, b e ->") / B


@task_2_7.accepts
def looks_up_what_was_chosen(scores, experts):
    """P is read at each choice, so no counting is needed."""
    p = (scores / scores.sum(-1, keepdim=True)).mean(1)
    return p.gather(1, experts.flatten(1)).mean() * scores.shape[-1]
