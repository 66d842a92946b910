"""Answers to task 1.6 that are wrong, and some that are right in another style.

Chapter: 01_baseline/probability_machine
Source: nucleus_sampling
"""

import torch

from tiny_lm.course.checks.baseline.sampling import task_1_6
from tiny_lm.course.checks.before.mutants import honest, wrong


def _cut(p, top_p, keep=lambda before, ordered, top_p: before < top_p):
    """Right with its default; `keep` is a place to go wrong."""
    ordered, order = p.sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.zeros_like(p)
    kept[order] = ordered * keep(before, ordered, top_p)
    return kept


def _normal(p):
    return p / p.sum()


@wrong(task_1_6, "own_probabilities", "These are logits")
def logits_returned(logits, temperature, top_p):
    return logits / temperature


@wrong(task_1_6, "own_probabilities", "Do not draw yet")
def drawn(logits, temperature, top_p):
    return torch.multinomial((logits / temperature).softmax(-1), 1)


@wrong(task_1_6, "own_probabilities", "An operation in place")
def changes_its_input(logits, temperature, top_p):
    logits /= temperature
    return _normal(_cut(logits.softmax(-1), top_p))


@wrong(task_1_6, "own_probabilities", "keeps every byte")
def drops_the_last(logits, temperature, top_p):
    def keep(before, ordered, top_p):
        return before + ordered < top_p - 1e-6

    return _normal(_cut((logits / temperature).softmax(-1), top_p, keep))


@wrong(task_1_6, "temperature", "This is the opposite")
def multiplied(logits, temperature, top_p):
    return _normal(_cut((logits * temperature).softmax(-1), top_p))


@wrong(task_1_6, "temperature", "undoes itself")
def probabilities_divided(logits, temperature, top_p):
    return _normal(_cut(_normal(logits.softmax(-1) / temperature), top_p))


@wrong(task_1_6, "temperature", "no longer add up")
def divided_and_left(logits, temperature, top_p):
    return _cut(logits.softmax(-1), top_p) / temperature


@wrong(task_1_6, "temperature", "changes nothing here")
def temperature_forgotten(logits, temperature, top_p):
    return _normal(_cut(logits.softmax(-1), top_p))


@wrong(task_1_6, "keeps_the_nucleus", "crosses the threshold")
def without_the_crossing_one(logits, temperature, top_p):
    def keep(before, ordered, top_p):
        return (before + ordered < top_p) | (before == 0) | (top_p == 1)

    return _normal(_cut((logits / temperature).softmax(-1), top_p, keep))


@wrong(task_1_6, "keeps_the_nucleus", "add up to 1 again")
def not_normalised(logits, temperature, top_p):
    return _cut((logits / temperature).softmax(-1), top_p)


@wrong(task_1_6, "keeps_the_nucleus", "One byte too many")
def one_too_many(logits, temperature, top_p):
    def keep(before, ordered, top_p):
        return before.roll(1).masked_fill(torch.arange(len(before)) == 0, 0) < top_p

    return _normal(_cut((logits / temperature).softmax(-1), top_p, keep))


@wrong(task_1_6, "keeps_the_nucleus", "Nothing was cut")
def top_p_forgotten(logits, temperature, top_p):
    return (logits / temperature).softmax(-1)


@wrong(task_1_6, "keeps_the_nucleus", "not compared with single")
def threshold_for_each(logits, temperature, top_p):
    p = (logits / temperature).softmax(-1)
    return p if top_p == 1 else p * (p >= top_p)


@wrong(task_1_6, "keeps_the_nucleus", "A softmax over probabilities")
def softmax_again(logits, temperature, top_p):
    p = (logits / temperature).softmax(-1)
    return p if top_p == 1 else _cut(p, top_p).softmax(-1)


@wrong(task_1_6, "any_order", "in sorted order")
def left_sorted(logits, temperature, top_p):
    p = (logits / temperature).softmax(-1)
    ordered = _cut(p, top_p).sort(descending=True).values
    return _normal(p if top_p == 1 else ordered)


@wrong(task_1_6, "any_order", "sorts once more")
def read_at_the_indices(logits, temperature, top_p):
    p = (logits / temperature).softmax(-1)
    ordered, order = p.sort(descending=True)
    return _normal((ordered * (ordered.cumsum(-1) - ordered < top_p))[order])


@wrong(task_1_6, "any_order", "sort first")
def never_sorted(logits, temperature, top_p):
    p = (logits / temperature).softmax(-1)
    return _normal(p * (p.cumsum(-1) - p < top_p))


@wrong(task_1_6, "temperature_first", "First flatten, then cut")
def cut_before_temperature(logits, temperature, top_p):
    kept = _cut(logits.softmax(-1), top_p) > 0
    return (logits / temperature).masked_fill(~kept, -torch.inf).softmax(-1)


@wrong(task_1_6, "likeliest_stays", "Nothing was kept")
def may_keep_nothing(logits, temperature, top_p):
    def keep(before, ordered, top_p):
        return before < top_p - 1e-3  # a margin, for fear of rounding

    return _normal(_cut((logits / temperature).softmax(-1), top_p, keep))


@wrong(task_1_6, "equals_reference", "")
def top_ten_at_most(logits, temperature, top_p):
    def keep(before, ordered, top_p):
        return (before < top_p) & (torch.arange(len(before)) < 10)

    return _normal(_cut((logits / temperature).softmax(-1), top_p, keep))


@honest(task_1_6)
def loop(scores, heat, share):
    p = torch.softmax(scores / heat, 0).tolist()
    kept, total = [0.0] * len(p), 0.0
    for at in sorted(range(len(p)), key=lambda i: -p[i]):
        kept[at] = p[at]
        total += p[at]
        if total >= share:
            break
    return torch.tensor(kept) / total


@honest(task_1_6)
def minus_infinity(logits, temperature, top_p):
    logits = logits.double() / temperature
    ordered, order = logits.sort(descending=True)
    p = ordered.softmax(-1)
    gone = p.cumsum(-1) - p >= top_p
    back = order.argsort()
    return ordered.masked_fill(gone, -torch.inf)[back].softmax(-1)
