"""What the tasks on choosing share: two results, and expert ids that are ids.

Chapter: 02_moe/conditional_computation
Source: course
"""

from typing import Any

import torch
from torch import Tensor

from tiny_lm.course.checks.before.answer import Answer
from tiny_lm.course.checks.before.expect import Mismatch, close, show


def two_tensors(answer: Answer, wanted: str, *arguments: Any) -> tuple[Tensor, Tensor]:
    """The two tensors, or a message about what came in their place."""
    got = answer(*arguments)
    if isinstance(got, tuple | list) and len(got) == 2:
        if any(isinstance(one, tuple) for one in got):
            raise Mismatch(
                on=answer.call(arguments),
                wanted=f"two tensors: {wanted}",
                got="a pair of tensors in place of one",
                because=WHOLE_TOPK,
            )
        first, second = (torch.as_tensor(one) for one in got)
        if not first.is_floating_point() and second.is_floating_point():
            raise Mismatch(
                on=answer.call(arguments),
                wanted=f"two tensors: {wanted}",
                got=show(tuple(got)),
                because="The two results are there, in the other order.",
            )
        return first, second
    raise Mismatch(
        on=answer.call(arguments),
        wanted=f"two tensors: {wanted}",
        got=show(got),
        because="Two results are returned with a comma between them."
        if isinstance(got, Tensor)
        else "",
    )


def expert_ids(experts: Tensor, num_experts: int, on: str) -> Tensor:
    """The ids of each token's experts, or a message where they can be none."""
    wanted, got = f"expert ids, from 0 to {num_experts - 1}", show(experts)
    if experts.is_floating_point() or experts.dtype == torch.bool:
        raise Mismatch(on, wanted, got, NO_IDS)
    outside = experts[(experts < 0) | (experts >= num_experts)].tolist()
    if outside:
        because = f"Experts are counted from 0, so none is number {outside[0]}."
        raise Mismatch(on, wanted, got, because)
    if (experts.sort(-1).values.diff(dim=-1) == 0).any():
        raise Mismatch(on, "different experts for one token", got, TWICE)
    return experts.long()


WHOLE_TOPK = (
    "topk gives values and indices; only the indices are asked for: `.indices`, or "
    "the second of the two."
)
NO_IDS = (
    "These are no whole numbers. topk gives back two things, the values and the "
    "places where they stood: which of the two are experts?"
)
TWICE = "A token has chosen the same expert more than once."


Shares = list[dict[int, float]]  # for each token, the weight of each chosen expert


def shares_of(weights: Tensor, experts: Tensor) -> Shares:
    """Who is chosen by each token and how much they count, whatever the order."""
    rows = zip(experts.tolist(), weights.tolist(), strict=True)
    return [dict(sorted(zip(*row, strict=True))) for row in rows]


def alike(some: Shares, others: Shares) -> bool:
    """The same experts for each token, with weights near enough."""
    return all(
        one.keys() == other.keys()
        and close(list(one.values()), [other[e] for e in one])
        for one, other in zip(some, others, strict=True)
    )


def told(shares: Shares) -> str:
    """A line a token, as in "expert 0: 0.4, expert 2: 0.6"."""
    rows = (sorted(one.items()) for one in shares)
    return "\n".join(", ".join(f"expert {e}: {show(w)}" for e, w in r) for r in rows)


def same_rows(on: str, wanted: Tensor, got: Tensor) -> None:
    """Refuse `got`, by the row that is farthest off."""
    if not close(got, wanted):
        at = int((got - wanted).abs().amax(-1).argmax())
        because = TIES if (wanted[at].diff() == 0).any() else ""
        raise Mismatch(f"{on} of token {at}", wanted[at], got[at], because)


TIES = (
    "Several experts are equally good here. Choose by number, one after the other: "
    "comparing values strikes out all the equals at once."
)
