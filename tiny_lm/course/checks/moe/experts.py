"""Task 2.4: every expert reads the tokens that chose it, all of them at once.

Chapter: 02_moe/conditional_computation
Source: deepseek_v3, eq. 12; swiglu
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.case import Case, case, drawn, family, probe
from tiny_lm.course.checks.moe import stacks
from tiny_lm.course.checks.moe.work import told
from tiny_lm.course.checks.task import Task
from tiny_lm.course.checks.work import Work


def run_experts(
    x: Float[Tensor, "N D"],
    experts: Int[Tensor, "N k"],
    weights: Float[Tensor, "N k"],
    gate_up: Float[Tensor, "E F2 D"],
    down: Float[Tensor, "E D F"],
) -> Float[Tensor, "N D"]:
    """At each token, the weighted sum of what its experts make of it."""
    y = torch.zeros_like(x)
    for e in range(len(gate_up)):
        token, choice = (experts == e).nonzero(as_tuple=True)
        rows = x[token]
        gate, up = (rows @ gate_up[e].T).chunk(2, dim=-1)
        out = (F.silu(gate) * up) @ down[e].T
        out = out * weights[token, choice].unsqueeze(-1)
        y = y.index_add(0, token, out)
    return y


COUNTS = (
    "Counts and experts do not match. An expert that nobody chose counts 0, and is "
    "left out of counts that are made of what occurs: bincount has a minlength."
)

task_2_4 = Task(
    id="2.4",
    lab="02_moe",
    title="Run the experts",
    name="run_experts",
    piece="moe.run_experts",
    difficulty=3,
    minutes=47,
    points=4,
    reference=run_experts,
    returns=("y",),
    errors={
        "cannot be multiplied": "Two shapes do not fit. gate_up[e] has a row for each "
        "of its 2 F outputs, down[e] one for each of its D: a row of tokens is "
        "multiplied with the transposed matrix. Between the two, gate and up become "
        "one of width F.",
        "is shorter than argument": COUNTS,
        "is longer than argument": COUNTS,
        "is out of bounds for dimension 0": COUNTS,
        "Offsets have to be int32": "The ends of the groups are .to(torch.int32).",
        "is invalid for input of size": "view wants groups of equal size. How many "
        "tokens an expert gets differs from expert to expert, and may be none.",
        "is out of bounds for dimension 1": "weights has a column for each choice of a "
        "token, not for each expert: weights[token, choice].",
        "must match the size": "Two shapes do not fit. One weight belongs to a whole "
        "row of results: shape (rows, 1), as weights[token, choice, None] has.",
    },
    hints=(
        """
        Turn the question round. Not: which experts does this token visit? But: which
        tokens visit this expert? An expert can read all of them in one product.
        """,
        """
        For each expert, find where its id stands in `experts`: the row says which
        token, the column which weight. Gather these tokens, run the SwiGLU on all of
        them, multiply each result by its weight, and add it at its token. Or sort all
        (token, choice) pairs by expert once, and give each expert its slice.
        """,
        """
        token, choice = (experts == e).nonzero(as_tuple=True) finds them.
        (x[token] @ gate_up[e].T).chunk(2, dim=-1) are gate and up, and the result is
        (F.silu(gate) * up) @ down[e].T, times weights[token, choice, None].
        y = y.index_add(0, token, …) adds; an empty `token` does no harm.
        """,
    ),
)


def _one(gate: list[float], up: list[float], down: float, weight: float, note: str):
    stack = stacks.one_expert(gate, up, down)
    x, experts = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0]])
    return case(x, experts, torch.tensor([[weight]]), *stack, note=note)


WEIGH = "out * weights[token, choice].unsqueeze(-1)"
INPUT_WEIGHED = (
    "The weight went in with the token, before the silu, which bends it. It belongs to "
    "what comes out."
)

task_2_4.asks(
    "a token's result is its expert's SwiGLU, times the weight",
    _one(
        [20.0, -20.0],
        [3.0, 1.0],
        0.5,
        0.1,
        "x = 1; gate [20, -20], up [3, 1], "
        "down [0.5, 0.5];\nsilu(20) = 20, silu(-20) = 0: (20·3 + 0·1) · 0.5 = 30",
    ),
    _one(
        [1.0, 0.0],
        [2.0, 0.0],
        1.0,
        1.0,
        "x = 1; gate 1, up 2, down 1;\nsilu(1) = 1 / (1 + exp(-1))",
    ),
    otherwise="An expert is down @ (silu(gate) · up), gate and up being the first "
    "and the second half; the weight is multiplied in at the end.",
    mistakes={
        f"{WEIGH} => out": "The weight is missing: each result counts as much as it "
        "says.",
        f"rows = x[token] => rows = x[token] * weights[token, choice].unsqueeze(-1) ;; "
        f"{WEIGH} => out": INPUT_WEIGHED,
        "rows = x[token] => rows = x[token] * weights[token, choice].unsqueeze(-1)": (
            INPUT_WEIGHED
        ),
        "gate, up = (rows => up, gate = (rows": "Gate and up are swapped. The first "
        "half of the rows of gate_up is the gate, and silu acts on the gate alone.",
        "gate, up = (rows @ gate_up[e].T).chunk(2, dim=-1) => "
        "gate, up = (rows @ gate_up[e].T).unflatten(-1, (-1, 2)).unbind(-1)": "Gate "
        "and up were taken in turns, row by row. The first half is the gate, the "
        "second is up.",
        "F.silu(gate) * up => F.silu(gate * up)": "silu acts on the gate alone, before "
        "it meets up.",
        "F.silu(gate) * up => F.silu(gate) * F.silu(up)": "silu acts on the gate "
        "alone, and here up went through it, too.",
        "rows = x[token] => rows = x[token] * (len(token) > 1)": "An expert with a "
        "single token does nothing. Does a squeeze(), or a comparison with 1, skip it?",
        "return y => return y / weights.sum(-1, keepdim=True)": "The weights were "
        "divided by their sum once more. They come ready: the gate has seen to it, "
        "route_scale included.",
        "F.silu(gate) => F.gelu(gate)": "This is gelu. A SwiGLU has silu.",
    },
)

OVERWRITTEN = (
    "One result overwrote the other: a second `y[token] = …` wipes out the first. "
    "`y[token] += …` adds, but where a token comes twice within one call it too keeps "
    "one, for it reads all before it writes any. index_add adds them all."
)
OTHER_COLUMN = (
    "A result was weighed with the weight of another choice: the same column of "
    "`weights` for all. Its own stands where its expert stands in `experts`."
)

own = task_2_4.asks(
    "each token gets the sum from its own experts, by its own weights",
    case(
        stacks.tokens(1.0, 2.0, 3.0),
        [[1, 0], [2, 0], [1, 2]],
        [[1.5, 2.0], [1.5, 2.0], [1.5, 2.0]],
        *stacks.factors(1.0, 10.0, 100.0),
        note="tokens 1, 2, 3; experts 0, 1, 2 multiply by 1, 10, 100",
    ),
    otherwise="What expert e makes of token t goes to row t, times the weight "
    "that stands where e stands in row t of `experts`. Whose row, or "
    "whose weight, is it here?",
    mistakes={
        "y = y.index_add(0, token, out) => y = y.index_copy(0, token, out)": (
            OVERWRITTEN
        ),
        "weights[token, choice] => weights[token, 0]": OTHER_COLUMN,
        "weights[token, choice] => weights[token, -1]": OTHER_COLUMN,
        "weights[token, choice] => weights.flip(-1)[token, choice]": "Each result was "
        "weighed with the weight of the token's other choice.",
        "weights[token, choice] => weights[token, e]": "weights has a column for each "
        "choice of a token, not for each expert: weights[token, choice].",
        "rows = x[token] => at = (token * experts.shape[1] + choice) % len(x); "
        "rows = x[at] ;; index_add(0, token => index_add(0, at": "Number i of the "
        "flattened choices belongs to token i // k: `%` finds another token.",
        "return y => return y / experts.shape[1]": "This is the mean of a token's "
        "results. Wanted is the sum.",
        "(experts == e) => (experts[:, :1] == e)": "Only the first choice of each "
        "token was run.",
    },
)


def _choices(rows: list[list[int]], note: str) -> Case:
    return drawn(lambda g: tuple(stacks.random(g, torch.tensor(rows), 4)), note)


uneven = task_2_4.asks(
    "an expert may get no token, or all of them",
    _choices([[1], [1], [3], [1], [1]], "experts 0 and 2 of 4 get none"),
    _choices([[0], [1], [0], [1]], "experts 2 and 3 of 4, the last ones, get none"),
    _choices([[2, 3], [2, 0], [2, 1], [2, 3]], "expert 2 gets all four"),
    _choices([[3]], "a single token"),
    otherwise="An expert without tokens is passed over, and those after it still "
    "read their own.",
    mistakes={
        "zeros_like(x) => zeros_like(x) + x.mean() * 0 / (experts == 0).sum()": (
            "Something is divided by the number of tokens of an expert, which may be 0."
        )
    },
)


def even(generator: Generator, num_tokens: int) -> list[Tensor]:
    return stacks.random(generator, stacks.even_choices(num_tokens), 4)


@probe("64 tokens, then 128, two choices each; 4 experts, each with its fair share")
def work(answer: Answer, generator: Generator) -> dict[str, str]:
    seen = []
    for num_tokens in (64, 128):
        arguments = even(generator, num_tokens)
        with Work() as counted:
            answer(*arguments)
        seen.append(counted)
    return told(*seen, fair_flops=256 * 6 * 8 * 12, row=24)


grouped = task_2_4.asks(
    "each expert reads its tokens at once, and reads no others", work
)


def _slopes(generator: Generator) -> tuple:
    rows = torch.tensor([[0, 2], [2, 1], [1, 0], [2, 0]])
    return tuple(stacks.random(generator, rows, 3))


CUT = (
    "Without a gradient, what stands here never learns. Did .detach(), .data, "
    "torch.no_grad() or torch.tensor(…) cut it off?"
)

task_2_4.asks(
    "gradients reach the tokens, the weights and both stacks",
    Case(_slopes, slopes=("x", "weights", "gate_up", "down")),
    mistakes={
        "weights[token, choice] => weights.detach()[token, choice]": CUT,
    },
)


def _draw(generator: Generator, N: int, E: int, k: int) -> tuple:
    score = torch.rand(N, E, generator=generator)
    return tuple(stacks.random(generator, score.topk(k).indices, E, 16, 20))


task_2_4.asks(
    "equals the definition on 500 random tokens",
    family(_draw, {"N": 500, "E": 16, "k": 4}, ones=["N", "k"]),
    family(_draw, {"N": 40, "E": 4, "k": 4}),
)
