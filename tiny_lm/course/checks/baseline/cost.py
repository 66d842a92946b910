"""Task 1.4: parameters of a dense transformer, and FLOPs to train it on one token.

Chapter: 01_baseline/cost
Source: kaplan_scaling, section 2.1
"""

from torch import Generator, randint

from tiny_lm.course.checks.case import case, drawn
from tiny_lm.course.checks.task import Task


def dense_cost(
    vocab_size: int, d_model: int, num_layers: int, d_ffn: int, seq_len: int
) -> tuple[int, float]:
    """Parameters of a dense transformer, and FLOPs to train it on one token."""
    embedding = vocab_size * d_model
    layer = 4 * d_model**2 + 3 * d_model * d_ffn + 2 * d_model
    parameters = 2 * embedding + num_layers * layer + d_model
    met = parameters - embedding
    seen = seq_len / 2
    scores = 2 * d_model * seen * num_layers
    mixing = 2 * d_model * seen * num_layers
    return parameters, 3.0 * (2 * met + scores + mixing)


def _norms_or_not(result: tuple, *shape: int) -> tuple:
    """Norm weights are no products: a count without them is right as well."""
    parameters, flops = result
    wanted = dense_cost(*shape)[1]
    _, d_model, num_layers, _, _ = shape
    norms = 6 * (2 * num_layers + 1) * d_model
    return parameters, wanted if abs(flops + norms - wanted) <= 1e-9 * wanted else flops


task_1_4 = Task(
    id="1.4",
    lab="01_baseline",
    title="Parameters and FLOPs",
    name="dense_cost",
    piece="baseline.dense_cost",
    difficulty=2,
    minutes=20,
    points=3,
    reference=dense_cost,
    returns=("parameters", "FLOPs per token"),
    view=_norms_or_not,
    tolerance=1e-9,
    hints=(
        """
        List the matrices of one layer with their shapes: four in the attention, three
        in the feed-forward. Then say what stands once, outside the layers.
        """,
        """
        A layer: 4 D D + 3 D F, and two norms of D. Once: the embedding V D, the head
        V D, a last norm of D. A weight costs 2 FLOPs a token forward, and twice that
        backward; the embedding is looked up and costs none. The attention has products
        without a weight: scores and mixing, each 2 D FLOPs for every key that is seen.
        """,
        """
        parameters = 2 * V * D + L * (4 * D * D + 3 * D * F + 2 * D) + D
        A token sees seq_len / 2 keys on average, so its scores and its mixing cost
        2 * (2 * D) * (seq_len / 2) * L forward, and the backward makes three of it:
        flops = 6 * (parameters - V * D) + 3 * 2 * (2 * D) * (seq_len / 2) * L
        """,
    ),
)

PARAMETERS = "parameters"
HAND = case(
    *(10, 4, 1, 8, 2),
    note="embedding 40, attention 64, feed-forward 96, norms 12, head 40",
)
MATRICES = "The attention has four matrices: queries, keys, values and the output."
SWIGLU = "A SwiGLU has three matrices, gate, up and down."
HALVES = "Each layer has two norms, one before each half."
NORMS = (
    "There are three norms of D weights here: two in the layer, one before the head."
)

task_1_4.asks(
    "the parameters of one layer, counted by hand",
    HAND,
    only=(PARAMETERS,),
    mistakes={
        "= 2 * embedding + => = embedding +": "The head is missing, a second matrix of "
        "V D.",
        "= 2 * embedding + => =": "The embedding and the head are missing: they stand "
        "outside the layers.",
        "3 * d_model * d_ffn => 2 * d_model * d_ffn": SWIGLU,
        "3 * d_model * d_ffn => 4 * d_model * d_ffn": SWIGLU,
        "3 * d_model * d_ffn => d_model * d_ffn": SWIGLU,
        "3 * d_model * d_ffn => 3 * d_ffn * d_ffn": "A matrix between D and d_ffn has "
        "D · d_ffn weights.",
        "4 * d_model**2 => 3 * d_model**2": MATRICES,
        "4 * d_model**2 => d_model**2": MATRICES,
        "4 * d_model**2 => 4 * d_model": "A matrix D × D has D · D weights.",
        " + 2 * d_model\n => \n ;; layer + d_model => layer": NORMS,
        " + 2 * d_model\n => \n": HALVES,
        " + 2 * d_model\n => + d_model\n": HALVES,
        "layer + d_model => layer": "The norm before the head is missing.",
        "return parameters, 3.0 * (2 * met + scores + mixing) => "
        "return 3.0 * (2 * met + scores + mixing), parameters": "This is the number of "
        "FLOPs. Parameters come first.",
        "return parameters, 3.0 * (2 * met + scores + mixing) => return parameters": (
            "Two numbers are wanted: parameters, and FLOPs per token."
        ),
        "vocab_size * d_model => vocab_size + d_model": "A matrix V × D has V · D "
        "weights.",
    },
)

task_1_4.asks(
    "every layer counts, what stands outside counts once",
    case(10, 4, 3, 8, 2, note="the same with three layers: 168 for each"),
    only=(PARAMETERS,),
    mistakes={
        "num_layers * layer => layer": "The number of layers changes nothing yet.",
        "2 * embedding + num_layers * layer + d_model => "
        "num_layers * (2 * embedding + layer + d_model)": "The whole is multiplied by "
        "the layers, embedding and head included.",
        "2 * embedding + num_layers * layer => embedding + num_layers * "
        "(embedding + layer)": "The embedding or the head is counted again in every "
        "layer.",
        "layer + d_model => layer + num_layers * d_model": "The last norm is counted "
        "again in every layer.",
    },
)
task_1_4.asks(
    "counts what torch counts in a model that exists",
    case(256, 32, 3, 80, 64),
    only=(PARAMETERS,),
    mistakes={
        "3 * d_model * d_ffn => 3 * d_model * 2 * d_model": "The inner width was taken "
        "to be 2 D. It is `d_ffn`.",
    },
)

LOOKED_UP = "The embedding is looked up, not multiplied: it costs no FLOPs."
HALF = "A token sees the keys up to its own: on average half of seq_len, not all of it."

task_1_4.asks(
    "training FLOPs of one token, counted by hand",
    case(
        *(10, 4, 1, 8, 2),
        note="212 parameters without the embedding: 6 FLOPs for each, and 48 for\n"
        "scores and mixing: 1,320",
    ),
    case(10, 4, 1, 8, 3),
    otherwise="Each weight that meets a token costs 2 FLOPs forward; scores and mixing "
    "each 2 D a key that is seen, in each layer; the backward twice all that.",
    mistakes={
        " + scores + mixing => ": "The attention's own products are missing: scores "
        "and mixing.",
        "3.0 * (2 * met + scores + mixing) => 2.0 * met + scores + mixing": "This is "
        "the forward pass. The backward costs twice as much again.",
        "3.0 * (2 * met + scores + mixing) => 2.0 * (2 * met + scores + mixing)": (
            "This counts a backward pass as long as the forward one. It costs twice as "
            "much."
        ),
        "met = parameters - embedding => met = parameters": LOOKED_UP,
        "parameters - embedding => parameters - 2 * embedding": "The head is "
        "multiplied, the embedding is not: only one of the two costs no FLOPs.",
        "seen = seq_len / 2 => seen = seq_len": HALF,
        "seen = seq_len / 2 => seen = seq_len // 2": "`//` drops the fraction: of 3 "
        "keys a token sees 1.5 on average.",
        "3.0 * (2 * met + scores + mixing) => 6.0 * met + scores + mixing": "Scores "
        "and mixing have a backward pass too.",
        "scores + mixing => scores": "Scores are one product, mixing the values a "
        "second.",
        "3.0 * (2 * met + scores + mixing) => "
        "3.0 * (met + scores / 2 + mixing / 2)": "A multiply and an add are two FLOPs.",
        "2 * met + scores => met + scores": "A multiply and an add are two FLOPs, in "
        "the products with weights too.",
        "(2 * met + scores + mixing) => (2 * met + scores + mixing) * seq_len": "This "
        "is the cost of a whole sequence. Wanted is that of one token.",
        "seen = seq_len / 2 => seen = seq_len**2 / 2": "This is what all tokens of the "
        "sequence see. Wanted is one token.",
        "2 * d_model * seen * num_layers\n    mixing = 2 * d_model => "
        "2 * seen * num_layers\n    mixing = 2": "Each key costs a product over all D "
        "columns.",
    },
)


def _random(generator: Generator) -> tuple:
    V, D, L, F, T = randint(2, 60, (5,), generator=generator).tolist()
    return V, 2 * D, L, F, 2 * T


ONE_LAYER = "Scores and mixing are computed in every layer, not in one."

task_1_4.asks(
    "agrees with tiny_lm.costs on models from small to 405B, any length",
    case(256, 128, 4, 320, 128),
    case(32_000, 4096, 32, 11_008, 4096),
    case(128_256, 16_384, 126, 53_248, 131_072),
    case(32_000, 4096, 32, 11_008, 0),
    drawn(_random),
    mistakes={
        "scores = 2 * d_model * seen * num_layers => scores = 2 * d_model * seen ;; "
        "mixing = 2 * d_model * seen * num_layers => mixing = 2 * d_model * seen": (
            ONE_LAYER
        ),
        "scores = 2 * d_model * seen * num_layers => scores = 2 * d_model * seen": (
            "The scores are computed in every layer, not in one."
        ),
    },
)


@task_1_4.accepts
def without_norms_in_the_flops(V, D, L, F, s):
    matrices = L * (4 * D**2 + 3 * D * F) + V * D
    norms = (2 * L + 1) * D
    return matrices + V * D + norms, 3 * (2 * matrices + L * 2 * s * D)


@task_1_4.accepts
def added_up_in_a_loop(vocab, width, layers, inner, length):
    parameters, flops = vocab * width, 0.0

    def matrix(rows, columns):
        nonlocal parameters, flops
        parameters += rows * columns
        flops += 6.0 * rows * columns

    for _ in range(layers):
        for _ in range(4):
            matrix(width, width)
        for _ in range(3):
            matrix(width, inner)
        matrix(2, width)
        flops += 3 * 2 * 2 * width * length / 2
    matrix(1, width)
    matrix(width, vocab)
    return [parameters, flops]
