"""What the tasks on choosing share: ids that are ids, and an order that is free.

Chapter: 02_moe/conditional_computation
Source: course
"""

from torch import Tensor

from tiny_lm.course.checks.expect import Mismatch, show

EXPERTS, WEIGHTS = "experts, best first:", "weights, best expert first:"
TWICE = "A token has chosen the same expert more than once."
TIES = (
    "Several experts are equally good here. Choose by number, one after the other: "
    "comparing values strikes out all the equals at once."
)
GATHER = {
    "indexing tensors could not be broadcast": "Two indices in one pair of brackets "
    "must fit each other: numbers of rows of shape (N, 1) fit ids of shape (N, k). Or "
    "use gather.",
}


def expert_ids(experts: Tensor, num_experts: int) -> Tensor:
    """The ids of each token's experts.

    Raises:
        Mismatch: they can be none.
    """
    on = f"{num_experts} experts, {experts.shape[-1]} for each token"
    outside = experts[(experts < 0) | (experts >= num_experts)].tolist()
    if outside:
        because = f"Experts are counted from 0, so none is number {outside[0]}."
        wanted = f"expert ids, from 0 to {num_experts - 1}"
        raise Mismatch(on, wanted, show(experts), because)
    if (experts.sort(-1).values.diff(dim=-1) == 0).any():
        raise Mismatch(on, "different experts for one token", show(experts), TWICE)
    return experts


def by_token(weights: Tensor, experts: Tensor, choice: Tensor) -> dict[str, Tensor]:
    """Who was chosen and how much they count, best first, in whatever order they came.

    An expert is named by the lowest id of those that are as good, so that whichever of
    equals was chosen compares equal.

    Args:
        choice: the scores that choose, a column for each expert.
    """
    good = choice.detach().gather(-1, expert_ids(experts, choice.shape[-1]))
    order = good.argsort(dim=-1, descending=True, stable=True)
    equals = choice.unsqueeze(-2) == good.gather(-1, order).unsqueeze(-1)
    first = equals.int().argmax(dim=-1)
    return {EXPERTS: first, WEIGHTS: weights.gather(-1, order)}
