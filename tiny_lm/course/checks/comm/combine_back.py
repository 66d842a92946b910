"""Task 5.4, backward: gradients travel to the experts, once, and are added up there.

Chapter: 05_comm/emulated_gpus
Source: deepseek_v3, section 3.2.2; deep_ep
"""

import torch

from tiny_lm.course.checks.comm import rehearsal as comm
from tiny_lm.course.checks.comm.combine import (
    EMPTY_RANK,
    ONE_CHOICE,
    TWO_CHOICES,
    combine,
    task_5_4,
)
from tiny_lm.course.checks.comm.homecoming import random, small

BY_ROWS = tuple(f"gradient by rows, rank {rank}:" for rank in range(4))
BY_WEIGHTS = tuple(f"gradient by weights, rank {rank}:" for rank in range(4))
EVEN = [[[0, 1], [2, 3]], [[1, 2], [3, 0]], [[2, 3], [0, 1]], [[3, 0], [1, 2]]], 4
BACK_ORDER = (
    "The gradients were left in the order of the tokens, or of the senders. They take "
    "the same way as the rows did in dispatch, with both of its sorts."
)
TWICE = (
    "Each gradient is too large by the number of ranks, or was added up over them. "
    "A row's gradient comes from one token alone; the sum over all ranks' tokens is "
    "made by the expert, to whom they all travel. AdamW divides a factor out, so the "
    "loss would look right."
)
by_rows = task_5_4.asks(
    "a row's gradient is its token's, times its weight: backward is a dispatch",
    *[small(*chosen) for chosen in (ONE_CHOICE, TWO_CHOICES, EVEN, EMPTY_RANK)],
    only=BY_ROWS,
    otherwise="To a choice's row goes the gradient of its token's y times its weight, "
    "along the way of dispatch.",
    mistakes={
        "(weights[..., None] * grad[:, None]).flatten => "
        "grad[:, None].expand_as(copies).flatten": "The weight is missing in the "
        "gradient by rows. Forward it is a factor of the row, so backward too.",
        "(weights[..., None] * grad[:, None]) => (weights[..., None] ** 2 * grad[:, "
        "None])": "The weight was applied twice on the way back.",
        "(weights[..., None] * grad[:, None]) => (copies * weights[..., None] * "
        "grad[:, None])": "The rows themselves are a factor in their own gradient. Of "
        "w · row the slope by row is w.",
        "of_copies[leaving] => of_copies": BACK_ORDER,
        "return sent[arriving], => return sent,": BACK_ORDER,
        "of_copies[leaving] => of_copies ;; return sent[arriving], => return sent,": (
            BACK_ORDER
        ),
        "of_copies[leaving] => of_copies[leaving.argsort()]": "leaving was undone on "
        "the way back, where it is to be applied: gradients leave as the tokens did.",
        "return sent[arriving], => return sent[arriving.argsort()],": "arriving was "
        "undone on the way back, where it is to be applied.",
        "sent = there(of_copies[leaving], sends, receives) => "
        "sent = there(of_copies[leaving], receives, sends)": "The counts are those of "
        "the way home. Backward goes there: send_counts first.",
        "return sent[arriving], => return there.group.size * sent[arriving],": TWICE,
        "return sent[arriving], => return 2 * sent[arriving],": "Each gradient came "
        "twice. AdamW divides a factor out, so the loss would look right; clipping by "
        "norm and weight decay would not.",
        "return sent[arriving], => return sent[arriving] / there.group.size,": "The "
        "gradient was divided by the number of ranks. That mean belongs to weights "
        "that every rank has; these rows are on one rank alone.",
    },
)


@by_rows.mistake(
    "No gradient comes to the rows: what comes over a road is new to autograd. Write "
    "forward and backward of a torch.autograd.Function; backward goes there."
)
def by_autograd(rows, weights, way, there, home):
    leaving, arriving, sends, receives = way
    came = torch.empty_like(rows).index_copy(0, arriving, rows)
    back = home(came, receives, sends)
    copies = torch.empty_like(back).index_copy(0, leaving, back)
    return (weights[..., None] * copies.unflatten(0, weights.shape)).sum(1)


@by_rows.mistake(TWICE)
def summed_over_ranks(rows, weights, way, there, home):
    class Summed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.view_as(y)

        @staticmethod
        def backward(ctx, grad):
            longest = int(comm.all_gather(torch.tensor([len(grad)]), there.group).max())
            padded = grad.new_zeros(longest, grad.shape[1])
            padded[: len(grad)] = grad
            return comm.all_reduce(padded, there.group)[: len(grad)]

    return Summed.apply(combine(rows, weights, way, there, home))


by_weights = task_5_4.asks(
    "a weight's gradient is its row times the gradient of y, added up over the width",
    small(*TWO_CHOICES),
    random((2, 2, 1, 3), 4, 2, 3),
    only=BY_WEIGHTS,
    otherwise="Of w · row the slope by w is row: multiply by the gradient of y, and "
    "add up over the width.",
    mistakes={
        "return sent[arriving], by_weights => return sent[arriving], None": "The "
        "weights get no gradient, so the router would never learn whom to choose.",
        "(grad[:, None] * copies).sum(-1) => (grad[:, None] * copies).mean(-1)": "The "
        "mean over the width was taken. The weight scales every number of its row: "
        "their shares are added up.",
        "(grad[:, None] * copies).sum(-1) => "
        "(grad[:, None] * copies * weights[..., None]).sum(-1)": "The weight is a "
        "factor of its own gradient. Of w · row the slope by w is row.",
        "(grad[:, None] * copies).sum(-1) => grad.sum(-1, keepdim=True).expand_as("
        "weights)": "The rows are missing in the gradient by weights: keep them in "
        "forward.",
        "(grad[:, None] * copies).sum(-1) => (grad[:, None] * (weights[..., None] * "
        "copies).sum(1, keepdim=True)).sum(-1).expand_as(weights)": "The sum y was "
        "taken for the row. Each weight has the row of its own choice.",
        "(grad[:, None] * copies).sum(-1) => (grad[:, None] * copies).sum(-1).flatten()"
        "[leaving].view_as(weights)": "The gradients by weights stand in the order in "
        "which rows leave. They belong to tokens and choices.",
        "save_for_backward(copies, weights) => save_for_backward(torch.empty_like("
        "copies).flatten(0, 1).index_copy(0, torch.arange(len(leaving)), back).view_as("
        "copies), weights)": "The kept rows stand as they came home, sorted by expert. "
        "Keep them in the order of tokens and choices.",
    },
)

ROADS = tuple(
    f"{way}, rank {rank} goes" for rank in range(4) for way in ("forward", "backward")
)
roads = task_5_4.asks(
    "forward goes home once, backward there once",
    small(*TWO_CHOICES),
    only=ROADS,
    mistakes={
        "home(came, => there(came,": "Forward took the road there. Results go home.",
        "sent = there( => sent = home(": "Backward took the road home. Gradients of "
        "rows go to the experts, as tokens do: there.",
    },
)


@roads.mistake(
    "Backward fetched the rows a second time. Forward had them: save_for_backward "
    "keeps them, and spares the trip."
)
def fetched_again(rows, weights, way, there, home):
    leaving, arriving, sends, receives = way

    def fetch(rows):
        came = torch.empty_like(rows).index_copy(0, arriving, rows)
        back = home(came, receives, sends)
        return torch.empty_like(back).index_copy(0, leaving, back)

    class Combined(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rows, weights):
            ctx.save_for_backward(rows, weights)
            copies = fetch(rows).view(*weights.shape, rows.shape[1])
            return (weights[..., None] * copies).sum(1)

        @staticmethod
        def backward(ctx, grad):
            rows, weights = ctx.saved_tensors
            copies = fetch(rows).view(*weights.shape, rows.shape[1])
            of_copies = (weights[..., None] * grad[:, None]).flatten(0, 1)
            sent = there(of_copies[leaving], sends, receives)
            return sent[arriving], (grad[:, None] * copies).sum(-1)

    return Combined.apply(rows, weights)


task_5_4.asks(
    "equals the definition on random choices, however uneven",
    random((5, 0, 9, 3), 8, 3, 4),
    random((1, 1, 1, 1), 4, 1, 1),
    random((0, 0, 0, 7), 16, 4, 2),
    random((3, 2, 4, 1), 4, 2, 3, torch.float64),
)


@task_5_4.accepts
def a_road_with_a_gradient(rows, weights, way, there, home):
    leaving, arriving, send_counts, receive_counts = way

    class Travel(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return home(x, receive_counts, send_counts)

        @staticmethod
        def backward(ctx, grad):
            return there(grad, send_counts, receive_counts)

    back = Travel.apply(rows[arriving.argsort()])[leaving.argsort()]
    copies = back.unflatten(0, weights.shape)
    return torch.einsum("nk,nkd->nd", weights, copies)


@task_5_4.accepts
def token_after_token(rows, weights, way, there, home):
    leaving, arriving, send_counts, receive_counts = way

    class Combined(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rows, weights):
            came = [None] * len(rows)
            for j, place in enumerate(arriving.tolist()):
                came[place] = rows[j]
            came = torch.stack(came) if came else rows
            home_rows = home(came, receive_counts, send_counts)
            order = {choice: i for i, choice in enumerate(leaving.tolist())}
            ctx.weights, ctx.rows, ctx.order = weights, home_rows, order
            y = rows.new_zeros(len(weights), rows.shape[1])
            for n, of_token in enumerate(weights):
                for slot, weight in enumerate(of_token):
                    y[n] += weight * home_rows[order[n * len(of_token) + slot]]
            return y

        @staticmethod
        def backward(ctx, grad):
            k = ctx.weights.shape[1]
            by_rows, by_weights = torch.zeros_like(ctx.rows), ctx.weights.clone()
            for choice, i in ctx.order.items():
                n, slot = divmod(choice, k)
                by_rows[i] = ctx.weights[n, slot] * grad[n]
                by_weights[n, slot] = ctx.rows[i].dot(grad[n])
            return there(by_rows, send_counts, receive_counts)[arriving], by_weights

    return Combined.apply(rows, weights)
