"""What the check of task 2.8 says: of errors, of usual mistakes, and as hints.

Chapter: 02_moe/balance
Source: course
"""

ADDED_X = (
    "x itself is in the result. The block adds x, and the shared expert too; the layer "
    "returns what its routed experts found, and nothing else."
)
WORDS = {
    "raw": "These are the scores as weights. The gate divides them by their sum over "
    "the chosen.",
    "all": "The weights were divided by the sum over all four scores, not over the "
    "chosen two.",
    "softmax": "Here a softmax made the weights. The scores are sigmoids, divided by "
    "their sum over the chosen.",
    "no bias": "Experts 0 and 1 answered: the bias had no say. `score_and_choose` does "
    "not know it; `gate` does.",
    "bias weighs": "The right experts, but the bias got into the weights: an expert "
    "that is raised to get more work must not shout louder for it.",
    "no groups": "Experts of both groups answered. Whom `limit_groups` forbids must "
    "look forbidden to the gate.",
    "group max": "The group with the best single score stayed. A group is as good as "
    "the sum of its top_k / top_groups best.",
    "raw groups": "The groups were compared by the raw scores. It is the biased ones "
    "that choose, groups as well.",
    "zero mask": "A forbidden expert answered. Biased scores can be negative, so a "
    "forbidden one needs -inf; 0 would be the best of them.",
    "nan": "-inf got where numbers are multiplied or subtracted: 0 * -inf and "
    "inf - inf are NaN. It may be compared, nothing else.",
    "masked balance": "The balance loss was given scores with -inf in them, and "
    "divides by their sum. It wants the scores as they are.",
    "whole batch": "All sequences were counted as one. Each is counted by itself: "
    "sequence_loss wants (B, T, E) and (B, T, k).",
    "best scores": "The loss counted the experts with the best scores. Hand it those "
    "that the gate chose.",
    "biased balance": "The biased scores went into the loss. Its shares are of the "
    "raw ones.",
    "cut": "Nothing comes through: a .detach(), .data or torch.no_grad() lies in "
    "between.",
    "rule": "The bias may decide who is chosen and stand in nothing else: a loss would "
    "move it, and update_bias alone does that.",
    "per group": "Groups were judged by another number of scores: it is "
    "top_k // top_groups, the share of the choices that falls to each kept group.",
}

ERRORS = (
    (
        "not enough values to unpack",
        "A piece got a tensor with too few dims. sequence_loss wants (B, T, E) and "
        "(B, T, k): .unflatten(0, x.shape[:2]) cuts the tokens into sequences again.",
    ),
    (
        "too many values to unpack",
        "A piece got a tensor with too many dims. All but sequence_loss take the "
        "tokens of all sequences end to end: x.flatten(0, 1).",
    ),
    (
        "must match the size",
        "Two pieces do not fit together. All but sequence_loss take the tokens of all "
        "sequences end to end, (N, …): x.flatten(0, 1).",
    ),
    (
        "Dimension out of range",
        "sequence_loss wants (B, T, E) and (B, T, k): .unflatten(0, x.shape[:2]) cuts "
        "the tokens into sequences again.",
    ),
)

HINTS = (
    """
    You have all of it. Lay the tokens of all sequences end to end, score, forbid,
    gate, run, and cut them into sequences again. Who of your functions does which?
    """,
    """
    limit_groups(scores + bias, …) says by -inf who is forbidden. Give the gate scores
    that are -inf at the same places (masked_fill) and the bias: whatever the bias, -inf
    is not chosen, and the others weigh by what they are. sequence_loss gets the scores
    without -inf, and scores and experts as (B, T, …).
    """,
    """
    limited = limit_groups(scores + bias, num_groups, top_groups, top_k // top_groups)
    allowed = scores.masked_fill(limited == float("-inf"), float("-inf"))
    gate(allowed, bias, top_k, route_scale) gives weights and experts; then
    run_experts(tokens, experts, weights, gate_up, down).view_as(x), and
    scores.unflatten(0, x.shape[:2]) for the loss, the experts likewise.
    """,
)
