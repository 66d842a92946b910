"""Task 5.4, forward: what experts made of a token comes home and is added up.

Chapter: 05_comm/emulated_gpus
Source: deepseek_v3, section 3.2.2; deep_ep
"""

import torch

from tiny_lm.course.checks.comm.homecoming import small
from tiny_lm.course.checks.task import Task


def combine(rows, weights, way, there, home):
    leaving, arriving, sends, receives = way

    class Combined(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rows, weights):
            came = torch.empty_like(rows)
            came[arriving] = rows
            back = home(came, receives, sends)
            copies = torch.empty_like(back)
            copies[leaving] = back
            copies = copies.view(*weights.shape, rows.shape[1])
            ctx.save_for_backward(copies, weights)
            return (weights[..., None] * copies).sum(1)

        @staticmethod
        def backward(ctx, grad):
            copies, weights = ctx.saved_tensors
            by_weights = (grad[:, None] * copies).sum(-1)
            of_copies = (weights[..., None] * grad[:, None]).flatten(0, 1)
            sent = there(of_copies[leaving], sends, receives)
            return sent[arriving], by_weights

    return Combined.apply(rows, weights)


task_5_4 = Task(
    id="5.4",
    lab="05_comm",
    title="Combine, and its gradient",
    name="combine",
    piece="comm.combine",
    difficulty=3,
    minutes=30,
    points=4,
    reference=combine,
    returns=("y",),
    errors={
        "calls of the ranks do not fit": "On the way home counts change their roles: "
        "a rank now sends as many rows as it received, and receives what it had sent. "
        "And every rank makes every call, backward too.",
        "add up to": "The counts do not fit the rows that are sent. On the way home a "
        "rank sends as many rows as it had received; on the way there, as many as its "
        "tokens have choices.",
        "sends itself": "What a rank sends to itself is what it gets from itself. Are "
        "both counts there, and the right way round?",
        "of 0 elements": "This rank has no tokens, and -1 could be any size then: "
        "write the width down, rows.shape[1].",
        "incorrect number of gradients": "backward returns a gradient for each "
        "argument of apply, in their order.",
        "invalid gradient": "backward returned a gradient of another shape than its "
        "argument: first that of rows, then that of weights.",
    },
    hints=(
        "Undo dispatch, last step first: the second sort, the road, the first sort. "
        "Then there is a row for each choice of each token, to be weighted and added.",
        "rows = came[arriving] is undone by came[arriving] = rows, into an empty "
        "tensor of the same shape. Home goes home(came, receive_counts, send_counts). "
        "backward gets the gradient of y: a choice's row has that of its token times "
        "its weight, and goes there by the way of dispatch.",
        "forward: copies.view(N, k, D), keep it and the weights, return "
        "(weights[..., None] * copies).sum(1). backward: by_weights = (grad[:, None] * "
        "copies).sum(-1); by_rows = there((weights[..., None] * grad[:, None])"
        ".flatten(0, 1)[leaving], send_counts, receive_counts)[arriving].",
    ),
)

Y = tuple(f"y on rank {rank}:" for rank in range(4))
ONE_CHOICE = [[[1], [0]], [[3], [1]], [[2], [3]], [[3], [0]]], 4
TWO_CHOICES = [[[1, 2], [3, 0]], [[3, 1]], [[0, 2], [1, 3]], [[3, 2]]], 4
EMPTY_RANK = [[[2, 3], [2, 5]], [], [[3, 2], [2, 3], [5, 3]], [[2, 5]]], 8
BY_EXPERT = (
    "At home rows stand as they had left, sorted by expert, and were given to the "
    "tokens in that order. leaving says whose they are."
)
AS_SENT = (
    "Rows were sent home as the experts had them, expert after expert. First they are "
    "put back as they had come, sender after sender: arriving says where."
)
INVERSE = (
    "An order was applied once more, and it is to be undone: a = b[order] is undone by "
    "b[order] = a."
)
SWAPPED = (
    "The counts are those of the way there. Home, a rank sends as many rows as it had "
    "received from each, and gets as many as it had sent."
)
task_5_4.asks(
    "each token has the weighted sum of what its experts made of it",
    *[small(*chosen, back=False) for chosen in (ONE_CHOICE, TWO_CHOICES, EMPTY_RANK)],
    only=Y,
    otherwise="y[n] is the sum over slots j of weights[n, j] times the row of choice "
    "n * k + j, which came home as the row i with leaving[i] = n * k + j.",
    mistakes={
        "return (weights[..., None] * copies).sum(1) => "
        "return weights[:, :1] * copies[:, 0]": "Only the first choice of each token "
        "counts in this. All k are added up.",
        "return (weights[..., None] * copies).sum(1) => "
        "return weights.sum(1, keepdim=True) * copies.sum(1)": "Weights and rows were "
        "added up apart. Each row is multiplied by its own weight first.",
        "copies[leaving] = back => copies[leaving] = "
        "back * weights.flatten()[:, None] ;; return (weights[..., None] * copies) => "
        "return (copies)": "Rows stood in the order in which they had left when they "
        "met the weights, which stand token after token.",
        "copies[leaving] = back => copies = back": BY_EXPERT,
        "copies[leaving] = back => copies = back[leaving]": INVERSE,
        "came[arriving] = rows => came = rows": AS_SENT,
        "came[arriving] = rows => came = rows[arriving]": INVERSE,
        "came[arriving] = rows => came = rows ;; copies[leaving] = back => copies = "
        "back": "Neither of the two orders was undone: that of the experts before the "
        "rows leave, and that of the tokens when they are home.",
        "home(came, receives, sends) => home(came, sends, receives)": SWAPPED,
        "return (weights[..., None] * copies).sum(1) => return copies.sum(1)": "The "
        "weights are missing in the sum.",
        "return (weights[..., None] * copies).sum(1) => "
        "return (weights[..., None] * copies).mean(1)": "The mean was taken. The "
        "weights say all: add up.",
        "return (weights[..., None] * => return (weights[..., None] ** 2 *": "The "
        "weight was applied twice.",
        "return (weights[..., None] * copies).sum(1) => return (weights[..., None] * "
        "copies).sum(1) / weights.sum(1, keepdim=True)": "The weights were divided by "
        "their sum. The router has settled them: they are used as they come.",
        "return (weights[..., None] * => return (weights.flatten()[leaving].view_as("
        "weights)[..., None] *": "The weights were put in the order in which rows "
        "leave, and the rows stand token after token again.",
        "return (weights[..., None] * => return (weights.flip(1)[..., None] *": "The "
        "weights of a token's choices have changed places.",
    },
)
