"""Task 2.3: a token may travel to a few groups of experts, and to no others.

Chapter: 02_moe/balance
Source: deepseek_v3, section 2.1.2
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tiny_lm.course.checks.before.answer import Answer
from tiny_lm.course.checks.before.expect import (
    Mismatch,
    close,
    expect,
    recognise,
    shape,
    show,
)
from tiny_lm.course.checks.before.task import Task


def limit_groups(
    choice: Float[Tensor, "N E"], num_groups: int, top_groups: int, per_group: int
) -> Float[Tensor, "N E"]:
    """Biased scores outside each token's best groups become minus infinity."""
    groups = choice.view(len(choice), num_groups, -1)
    strength = groups.topk(per_group, dim=-1).values.sum(dim=-1)
    kept = strength.topk(top_groups, dim=-1).indices
    open_groups = torch.zeros_like(strength, dtype=torch.bool).scatter(-1, kept, True)
    closed = ~open_groups.repeat_interleave(groups.shape[-1], dim=-1)
    return choice.masked_fill(closed, -torch.inf)


UNFIT = (
    "Two shapes do not fit. A mask of groups has shape (N, num_groups); the scores "
    "have (N, E), or (N, num_groups, E / num_groups) once they are split. Give the "
    "mask a last dim, or repeat each of its entries."
)

task_2_3 = Task(
    id="2.3",
    lab="02_moe",
    title="At most a few groups",
    name="limit_groups",
    piece="moe.limit_groups",
    difficulty=2,
    minutes=20,
    points=3,
    reference=limit_groups,
    errors=(
        ("must match the size", UNFIT),
        ("not broadcastable", UNFIT),
        (
            "index k out of range",
            "topk looked along a dim that holds too few numbers: the experts of a "
            "group are the last dim of (N, num_groups, E / num_groups).",
        ),
        (
            "is out of bounds for dimension 0",
            "groups[kept] takes numbers of groups for numbers of rows, that is, of "
            "tokens. scatter writes inside each row.",
        ),
    ),
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
        experts of each group, and put -inf where it says closed.
        """,
        """
        groups = choice.unflatten(-1, (num_groups, -1))
        strength = groups.topk(per_group, dim=-1).values.sum(-1) has shape (N, groups).
        torch.ones_like(strength, dtype=torch.bool).scatter(-1, kept, False) is True
        where a group is closed; with [..., None] behind it, it fits
        groups.masked_fill(…, float("-inf")), and .flatten(1) undoes the splitting.
        """,
    ),
)

BAN = -1e30  # a score as low as this is as good as -inf


def _limited(answer: Answer, choice: Tensor, *numbers: int) -> Tensor:
    """What came back, of the right shape, with all that is hopeless as -inf."""
    got = torch.as_tensor(answer(choice, *numbers))
    rows, num_experts = choice.shape
    known = {
        (rows, numbers[0]): "This is one number for each group. Wanted is one for "
        "each expert, as in `choice`.",
        (rows, numbers[0], num_experts // numbers[0]): "The groups are still apart: "
        "flatten the last two dims.",
        (rows, numbers[1] * num_experts // numbers[0]): "The other groups are gone. "
        "They have to stay, as -inf, so that each expert keeps its number.",
    }
    if shape(got) != shape(choice):
        raise Mismatch(
            answer.call((choice, *numbers)),
            f"the shape of the choice, {shape(choice)}",
            f"shape {shape(got)}",
            known.get(shape(got), ""),
        )
    if not got.is_floating_point():
        raise Mismatch(
            answer.call((choice, *numbers)),
            "scores, and -inf where a group is closed",
            show(got),
            "This is a mask. The result is the choice with the mask laid over it.",
        )
    return got.masked_fill(got <= BAN, -torch.inf)


@task_2_3.property("where every group may be chosen, nothing changes")
def nothing_closed(answer: Answer) -> None:
    choice = torch.tensor([[0.5, -0.2, 0.3, 0.1]])
    expect(
        _limited(answer, choice, 2, 2, 1),
        choice,
        on="choice = [[0.5, -0.2, 0.3, 0.1]], num_groups 2, top_groups 2, per_group 1",
        known=[
            (
                torch.full((1, 4), -torch.inf),
                "Everything is closed: is the mask upside down?",
            ),
            (torch.ones(1, 4), "This is a mask. Lay it over the choice."),
            (
                torch.zeros(1, 4),
                "Every score is 0 now. Times 1 or plus 0 leaves a number.",
            ),
            (torch.tensor([[0.5, -torch.inf, 0.3, -torch.inf]]), ONLY_THE_BEST),
        ],
    )


ONLY_THE_BEST = (
    "Inside an open group, all scores stay; per_group only says how many of them speak "
    "for the group."
)

# Four groups of three, and each usual slip opens another one. By the two best: 1.0,
# 1.1, 0.8, 1.05; by the best: the first; by all three, or their mean: the third; by
# the two that come first: the last.
FOUR = torch.tensor(
    [[0.1, 0.1, 0.9], [0.6, 0.05, 0.5], [0.4, 0.4, 0.4], [0.7, 0.35, 0.05]]
)
OF_FOUR = "choice, split into its four groups, top_groups 1, per_group {}:\n{}"


def _opened(got: Tensor, choice: Tensor) -> Tensor:
    """Which scores are still as they were."""
    return (got - choice).abs() < 1e-6


def _expect_open(
    answer: Answer, per_group: int, wanted: int, known: dict[int, str]
) -> None:
    got = _limited(answer, FOUR.view(1, 12), 4, 1, per_group).view(4, 3)
    groups = {g: torch.zeros(4, 3, dtype=torch.bool) for g in range(4)}
    for g, mask in groups.items():
        mask[g] = True
    still = _opened(got, FOUR)
    if close(still, groups[wanted]):
        return
    mistakes = [(groups[g], say) for g, say in known.items()]
    strided = torch.zeros(3, 4, dtype=torch.bool)
    mistakes += [
        (~groups[wanted], "The best group was closed and the others left open.")
    ]
    mistakes += [(_column(strided, c), STRIDED) for c in range(4)]
    raise Mismatch(
        on=OF_FOUR.format(per_group, show(FOUR)),
        wanted=f"group {wanted} as it was, the others -inf",
        got=show(got),
        because=recognise(still, mistakes) or (NAN if got.isnan().any() else ""),
    )


def _column(mask: Tensor, column: int) -> Tensor:
    mask = mask.clone()
    mask[:, column] = True
    return mask.view(4, 3)


STRIDED = (
    "These experts are no neighbours. The first E / num_groups experts are group 0, "
    "the next are group 1: which of the two new dims comes first?"
)
NAN = "There are NaNs: 0 times infinity is one. Do not multiply a mask by infinity."


@task_2_3.property("a group is as strong as the sum of its `per_group` best")
def strongest_group(answer: Answer) -> None:
    _expect_open(
        answer,
        2,
        1,
        {
            0: "Group 0 has the best single expert. With per_group 2, a group is "
            "judged by its two best, together.",
            2: "Group 2 has the largest sum, and mean, of all its scores. Judged are "
            "groups by their per_group best alone: 0.8 here, 1.1 for group 1.",
            3: "Group 3 has the largest first two scores. Best are not those that come "
            "first.",
        },
    )
    _expect_open(answer, 1, 0, {1: "This is right for per_group 2. Is per_group used?"})


@task_2_3.property("an expert of a closed group loses, however bad the others are")
def banned(answer: Answer) -> None:
    low = torch.tensor([[-0.3, -0.2, -0.9, -0.8]])
    _expect_ban(answer, low, "choice = [[-0.3, -0.2, -0.9, -0.8]]")
    _expect_ban(answer, 1e6 * low, "choice = 1e6 * [[-0.3, -0.2, -0.9, -0.8]]")


def _expect_ban(answer: Answer, choice: Tensor, on: str) -> None:
    got = _limited(answer, choice, 2, 1, 2)
    wanted = choice.clone()
    wanted[:, 2:] = -torch.inf
    ban = got[0, 2]
    known = [
        (
            torch.tensor([[-0.3, -0.2, 0.0, 0.0]]) * choice.abs().max() / 0.9,
            "The next topk would pick experts 2 and 3, the closed ones: biased scores "
            "can be negative, and 0 is larger. What is lower than every number?",
        )
    ]
    because = recognise(got, known, 1e-6)
    if not close(got, wanted) and not because and ban.isfinite():
        because = (
            f"{show(ban)} is only a low score, and others may be lower still. "
            "What is lower than every number?"
        )
    if not close(got, wanted):
        raise Mismatch(
            f"{on}, num_groups 2, top_groups 1, per_group 2", wanted, got, because
        )


@task_2_3.property("each token has `top_groups` groups of its own, even among equals")
def own_groups(answer: Answer) -> None:
    choice = torch.tensor([[0.9, 0.5, 0.1, 0.3], [0.3, 0.1, 0.5, 0.7]])
    wanted = choice.clone()
    wanted[[0, 0, 1, 1], [2, 3, 0, 1]] = -torch.inf
    alike = choice.clone()
    alike[:, 2:] = -torch.inf
    best = choice.clone()
    best[[0, 0, 0, 1, 1, 1], [1, 2, 3, 0, 1, 2]] = -torch.inf
    expect(
        _limited(answer, choice, 4, 2, 1),
        wanted,
        on=f"choice = {show(choice)},\nnum_groups 4 (each of one expert), top_groups 2",
        known=[
            (alike, "Both tokens got the same groups. Each chooses its own."),
            (best, "Only the best group is open. Is top_groups used?"),
        ],
    )
    got = _limited(answer, torch.zeros(1, 6), 3, 2, 2)
    kept = int(got.isfinite().sum()) // 2
    if kept != 2:
        raise Mismatch(
            on="choice = zeros(1, 6), num_groups 3, top_groups 2, per_group 2",
            wanted="2 groups open, whichever of the three",
            got=f"{kept} open: {show(got)}",
            because="All three are equally strong. A comparison with the weakest that "
            "may stay lets too many pass: choose by number, not by strength.",
        )


@task_2_3.property("equals the definition on 500 random tokens")
def equals_definition(answer: Answer) -> None:
    for num_groups, top_groups, per_group in ((8, 4, 2), (4, 1, 3), (2, 1, 8)):
        choice = torch.randn(500, 32, generator=answer.generator)
        numbers = (num_groups, top_groups, per_group)
        for dtype in (torch.float32, torch.float64):
            case = choice.to(dtype)
            got, wanted = _limited(answer, case, *numbers), limit_groups(case, *numbers)
            same = torch.isclose(got, wanted.to(got)).all(-1)
            if not same.all():
                at = int((~same).nonzero()[0])
                raise Mismatch(
                    f"random choice (500, 32), num_groups {num_groups}, top_groups "
                    f"{top_groups},\nper_group {per_group}, {dtype}; token {at}",
                    *(_told(x[at], num_groups) for x in (wanted, got)),
                )


def _told(row: Tensor, num_groups: int) -> str:
    """Which groups of a token are open, and how its scores start there."""
    groups = row.view(num_groups, -1)
    kept = groups.isfinite().any(-1).nonzero().flatten().tolist()
    first = f", the first of them {show(groups[kept[0]])}" if kept else ""
    return f"groups {kept} open{first}"
