"""Task 2.3: a token may travel to a few groups of experts, and to no others.

Chapter: 02_moe/balance
Source: deepseek_v3, section 2.1.2
"""

import math

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Generator, Tensor

from tiny_lm.course.checks.case import case, drawn, family
from tiny_lm.course.checks.task import Task


def limit_groups(
    choice: Float[Tensor, "N E"], num_groups: int, top_groups: int, per_group: int
) -> Float[Tensor, "N E"]:
    """What to add to each biased score: 0 in a token's best groups, −inf outside."""
    groups = choice.unflatten(-1, (num_groups, -1))
    strength = groups.topk(per_group, dim=-1).values.sum(dim=-1)
    kept = strength.topk(top_groups, dim=-1).indices
    closed = torch.ones_like(strength, dtype=torch.bool).scatter(-1, kept, False)
    ban = torch.zeros_like(groups).masked_fill(closed.unsqueeze(-1), -torch.inf)
    return ban.flatten(-2)


OPEN = "groups that are open:"


def _view(
    ban: Tensor, choice: Tensor, num_groups: int, top_groups: int, per_group: int
) -> dict:
    """The ban itself; but of groups that are equally strong, how many are open."""
    groups = choice.unflatten(-1, (num_groups, -1)).double()
    strength = groups.topk(per_group, dim=-1).values.sum(-1)
    weakest = strength.sort(descending=True).values[:, top_groups - 1 : top_groups + 1]
    if top_groups < num_groups and (weakest.diff(dim=-1).abs() < 1e-9).any():
        ban = ban.unflatten(-1, (num_groups, -1)).sort(dim=1, descending=True).values
    return {OPEN: ban.exp(), "added": ban}


task_2_3 = Task(
    id="2.3",
    lab="02_moe",
    title="At most a few groups",
    name="limit_groups",
    piece="moe.limit_groups",
    difficulty=2,
    minutes=27,
    points=3,
    reference=limit_groups,
    returns=("ban",),
    view=_view,
    errors={
        "must match the size": "Two shapes do not fit. A mask of groups has shape "
        "(N, num_groups); the scores have (N, E), or (N, num_groups, E / num_groups) "
        "once they are split. Give the mask a last dim, or repeat each of its entries.",
        "not broadcastable": "Two shapes do not fit. A mask of groups has shape (N, "
        "num_groups); give it a last dim, or repeat each of its entries.",
        "index k out of range": "topk looked along a dim that holds too few numbers: "
        "the experts of a group are the last dim of (N, num_groups, E / num_groups).",
        "is out of bounds for dimension 0": "groups[kept] takes numbers of groups for "
        "numbers of rows, that is, of tokens. scatter writes inside each row.",
    },
    hints=(
        """
        First give each token one number for each group. Then choose groups as you
        chose experts. Last, close what lies in the others, so firmly that no score
        that is still allowed can lose against it.
        """,
        """
        Split E into (num_groups, E / num_groups). The sum of the per_group largest in
        the last dim is a group's strength; topk over the strengths gives the groups
        that stay open. Make a mask of shape (N, num_groups), spread it over the
        experts of each group, and put -inf where it says closed, 0 elsewhere.
        """,
        """
        groups = choice.unflatten(-1, (num_groups, -1))
        strength = groups.topk(per_group, dim=-1).values.sum(-1) has shape (N, groups).
        torch.ones_like(strength, dtype=torch.bool).scatter(-1, kept, False) is True
        where a group is closed; with [..., None] behind it, it fits
        torch.zeros_like(groups).masked_fill(…, float("-inf")), and .flatten(1) undoes
        the splitting.
        """,
    ),
)

MASK = "This is a mask. Wanted are numbers to be added: 0 for open, -inf for closed."
INSIDE = (
    "Inside an open group, all experts stay; per_group only says how many of them "
    "speak for the group."
)
ONE_EACH = "This is one number for each group. Wanted is one for each expert."
KEPT_SCORES = (
    "The scores are still in it. Wanted is what is *added* to them: 0 where an expert "
    "is allowed, so that it keeps its score, and -inf where it is not."
)

task_2_3.asks(
    "where every group may be chosen, nothing is changed: 0 for every expert",
    case([[0.5, -0.2, 0.3, 0.1]], 2, 2, 1),
    otherwise="All groups may be chosen, and some are closed: top_groups of them "
    "stay open, whatever their strength.",
    mistakes={
        "scatter(-1, kept, False) => scatter(-1, kept, True)": "Everything is closed. "
        "Which groups is the mask True for, before and after `scatter`?",
        "torch.ones_like(strength, dtype=torch.bool).scatter(-1, kept, False) => "
        "torch.zeros_like(strength, dtype=torch.bool).scatter(-1, kept, True)": "Open "
        "and closed have changed places: is the mask upside down?",
        "return ban.flatten(-2) => return ban": "The groups are still apart: flatten "
        "the last two dims.",
        "torch.zeros_like(groups).masked_fill(closed.unsqueeze(-1), -torch.inf) => "
        "torch.zeros_like(strength).masked_fill(closed, -torch.inf) ;; "
        "return ban.flatten(-2) => return ban": ONE_EACH,
        "torch.zeros_like(groups) => groups": KEPT_SCORES,
        "-torch.inf => torch.inf ;; torch.zeros_like(groups) => -groups": KEPT_SCORES,
        "ban = torch.zeros_like(groups).masked_fill(closed.unsqueeze(-1), -torch.inf) "
        "=> ban = (~closed).unsqueeze(-1).expand_as(groups)": MASK,
        "ban = torch.zeros_like(groups).masked_fill(closed.unsqueeze(-1), -torch.inf) "
        "=> ban = (closed.unsqueeze(-1) * -torch.inf).expand_as(groups)": "There are "
        "NaNs: 0 times infinity is one. Do not multiply a mask by infinity.",
        "torch.zeros_like(groups) => torch.ones_like(groups)": "An open expert's score "
        "would grow by 1. Adding 0 leaves it.",
        "torch.zeros_like(groups).masked_fill(closed.unsqueeze(-1), -torch.inf) => "
        "torch.zeros_like(groups).masked_fill("
        "groups < groups.topk(per_group, dim=-1).values[..., -1:], -torch.inf)": INSIDE,
        "closed.unsqueeze(-1), -torch.inf) => closed.unsqueeze(-1) | ("
        "groups < groups.topk(per_group, dim=-1).values[..., -1:]), -torch.inf)": (
            INSIDE
        ),
        "return ban.flatten(-2) => return ban.flatten(-2).exp()": MASK,
        "closed = torch.ones_like(strength, dtype=torch.bool).scatter(-1, kept, False) "
        "=> closed = strength <= strength.topk(top_groups, dim=-1).values[:, -1:]": (
            "The weakest group that may stay was closed: `<=`, or `>`, shuts out what "
            "it is compared with."
        ),
    },
)

# Four groups of three, and each usual slip opens another one. By the two best: 1.0,
# 1.1, 0.8, 1.05; by the best: the first; by all three, or their mean: the third; by
# the two that come first: the last.
FOUR = [0.1, 0.1, 0.9, 0.6, 0.05, 0.5, 0.4, 0.4, 0.4, 0.7, 0.35, 0.05]
LOW = (
    "This is only a low number, and a task further on asks which experts are ruled "
    "out. What is lower than every number?"
)

SUM = (
    "A group was judged by the sum, or mean, of all its scores. It is judged by its "
    "per_group best alone."
)
STRIDED = (
    "These experts are no neighbours. The first E / num_groups experts are group 0, "
    "the next are group 1: which of the two new dims comes first?"
)

task_2_3.asks(
    "a group is as strong as the sum of its `per_group` best",
    case([FOUR], 4, 1, 2, note="sums of the two best: 1.0, 1.1, 0.8, 1.05"),
    case([FOUR], 4, 1, 1, note="the best of each: 0.9, 0.6, 0.4, 0.7"),
    only=(OPEN,),
    otherwise="A group is judged by the sum of its per_group best scores, "
    "top_groups of them stay open, and its experts are E / num_groups "
    "neighbours. Which of the three is another here?",
    mistakes={
        "-torch.inf => 0.0": "Nothing is ruled out: every expert keeps its score.",
        "-torch.inf => -1.0": LOW,
        "groups.topk(per_group, dim=-1).values.sum(dim=-1) => groups.amax(-1)": "A "
        "group was judged by its best single expert. With per_group 2 its two best "
        "count, together.",
        "groups.topk(per_group, dim=-1).values.sum(dim=-1) => groups.sum(-1)": SUM,
        "groups.topk(per_group, dim=-1).values.sum(dim=-1) => groups.mean(-1)": SUM,
        "groups.topk(per_group, dim=-1).values => groups[..., :per_group]": "The first "
        "scores of a group were added up. Best are not those that come first.",
        "choice.unflatten(-1, (num_groups, -1)) => "
        "rearrange(choice, 'n (e g) -> n g e', g=num_groups) ;; ban.flatten(-2) => "
        "rearrange(ban, 'n g e -> n (e g)')": STRIDED,
        "choice.unflatten(-1, (num_groups, -1)) => "
        "choice.unflatten(-1, (-1, num_groups)).transpose(1, 2)": STRIDED,
        "choice.unflatten(-1, (num_groups, -1)) => "
        "choice.unflatten(-1, (-1, num_groups))": "num_groups is how many groups there "
        "are, not how many experts are in one.",
        "ban.flatten(-2) => ban.transpose(1, 2).flatten(-2)": "The groups' numbers "
        "were laid out in turns, as `repeat` and `tile` do: 0, 1, 0, 1. Neighbours "
        "belong to one group: 0, 0, 1, 1, as repeat_interleave has it.",
        "strength.topk(top_groups, dim=-1) => "
        "strength.topk(top_groups, dim=-1, largest=False)": "The weakest groups were "
        "opened.",
        "ban.flatten(-2) => ban[~closed].view(len(choice), -1)": "The other groups are "
        "gone. They have to stay, as -inf, so that each expert keeps its number.",
    },
)

task_2_3.asks(
    "an expert of a closed group is ruled out: minus infinity",
    case([[-0.3, -0.2, -0.9, -0.8]], 2, 1, 2),
    case([[-3e5, -2e5, -9e5, -8e5]], 2, 1, 2),
    otherwise="Scores of either sign and size come. Is one compared with a 0, or "
    "taken without its sign?",
    mistakes={
        "topk(per_group, dim=-1).values.sum => topk(per_group, dim=-1).values.prod": (
            "The best of a group were multiplied. They are added up."
        ),
        "-torch.inf => -1e4": LOW,
        "-torch.inf => -1e9": LOW,
        "-torch.inf => torch.finfo(choice.dtype).min": LOW,
    },
)

task_2_3.asks(
    "each token has `top_groups` groups of its own, even among equals",
    case([[0.9, 0.5, 0.1, 0.3], [0.3, 0.1, 0.5, 0.7]], 4, 2, 1),
    case(torch.zeros(1, 6), 3, 2, 2, note="all three groups are equally strong"),
    otherwise="Each token opens exactly top_groups groups, by its own scores.",
    mistakes={
        "strength.topk(top_groups, dim=-1).indices => "
        "strength[:1].topk(top_groups, dim=-1).indices.expand(len(choice), -1)": (
            "All tokens got the groups of the first. Each chooses its own."
        ),
        "choice.unflatten(-1, (num_groups, -1)) => choice.reshape("
        "num_groups, -1, choice.shape[-1] // num_groups).transpose(0, 1)": "Tokens and "
        "groups got mixed: a view or reshape reads row after row, and the groups of "
        "one token lie together.",
        "strength.topk(top_groups, dim=-1).indices => "
        "strength.sum(0, keepdim=True).topk(top_groups).indices"
        ".expand(len(choice), -1)": "The groups were chosen once, for all tokens "
        "together. Each token chooses its own.",
        "closed = torch.ones_like(strength, dtype=torch.bool).scatter(-1, kept, False) "
        "=> closed = strength < strength.topk(top_groups, dim=-1).values[:, -1:]": (
            "All are equally strong here, and a comparison with the weakest that may "
            "stay lets too many pass: choose by number, not by strength."
        ),
    },
)


def _draw(
    generator: Generator, N: int, E: int, groups: int, top: int, per: int
) -> tuple:
    return torch.randn(N, E, generator=generator), groups, top, per


def _three(generator: Generator) -> tuple:
    return _draw(generator, N=500, E=24, groups=4, top=1, per=3)


task_2_3.asks(
    "equals the definition on 500 random tokens",
    family(
        _draw,
        {"N": 500, "E": 32, "groups": 8, "top": 4, "per": 2},
        ones=["N", "top", "per"],
        double=True,
    ),
    drawn(_three, note="4 groups of 6, of which the best by 3 stays open"),
    mistakes={
        "topk(per_group, dim=-1) => topk(min(per_group, 2), dim=-1)": "Never more than "
        "two of a group were counted. per_group may be larger.",
    },
)


@task_2_3.accepts
def loop(choice, num_groups, top_groups, per_group):
    size = choice.shape[1] // num_groups
    ban = torch.full_like(choice, -math.inf)
    for row, out in zip(choice, ban, strict=True):
        strength = [
            sum(sorted(group.tolist())[-per_group:]) for group in row.split(size)
        ]
        ranked = sorted(range(num_groups), key=lambda g, s=strength: -s[g])
        for g in ranked[:top_groups]:
            out[g * size : (g + 1) * size] = 0
    return ban


@task_2_3.accepts
def logarithm_of_the_mask(choice, num_groups, top_groups, per_group):
    groups = rearrange(choice.double(), "n (g e) -> n g e", g=num_groups)
    ordered = groups.sort(dim=-1, descending=True).values
    order = ordered[..., :per_group].sum(-1).argsort(-1, descending=True)
    kept = torch.nn.functional.one_hot(order[:, :top_groups], num_groups).sum(1)
    return repeat(kept.double().log(), "n g -> n (g e)", e=groups.shape[-1])
