"""What the work of a layer of experts is like, in words.

Chapter: 02_moe/conditional_computation
Source: course
"""

from tiny_lm.course.checks.work import Work


def told(half: Work, whole: Work, fair_flops: int, row: int) -> dict[str, str]:
    """What the work of a layer of experts is like, in words that can be compared.

    Args:
        half: what 64 tokens took, with two choices each.
        whole: what 128 took.
        fair_flops: of the 256 rows that the experts then have to read.
        row: width of the widest row that is needed.
    """
    calls, flops, largest = "no more for twice the tokens", "fair", "of rows"
    if whole.calls > 1.2 * half.calls + 8:
        calls = "grow with the number of tokens"
    if whole.flops > 1.2 * fair_flops:
        flops = "twice as many" if whole.flops < 2.2 * fair_flops else "many times that"
    if whole.largest > 4 * 256 * row:
        largest = "far larger than all rows together"
    return {
        "calls of torch:": calls,
        "FLOPs in products, beside the chosen experts' own:": flops,
        "largest tensor:": largest,
    }
