"""Task 1.4: parameters of a dense transformer, and FLOPs to train it on one token.

Chapter: 01_baseline/cost
Source: kaplan_scaling, section 2.1
"""

import torch

from tiny_lm import costs
from tiny_lm.config import MHAConfig, ModelConfig
from tiny_lm.course.checks.before.answer import Answer
from tiny_lm.course.checks.before.expect import Mismatch, close, recognise, show
from tiny_lm.course.checks.before.task import Task
from tiny_lm.model import LanguageModel

Shape = tuple[int, int, int, int, int]  # vocabulary, width, layers, inner width, length


def _config(shape: Shape) -> ModelConfig:
    vocab_size, d_model, num_layers, d_ffn, seq_len = shape
    return ModelConfig(
        name="dense",
        vocab_size=vocab_size,
        d_model=d_model,
        num_layers=num_layers,
        num_dense_layers=num_layers,
        d_ffn=d_ffn,
        attention=MHAConfig(num_heads=1, num_kv_heads=1, d_head=d_model),
        max_len=max(seq_len, 1),  # a length of 0 asks for the weights alone
    )


def dense_cost(
    vocab_size: int, d_model: int, num_layers: int, d_ffn: int, seq_len: int
) -> tuple[int, float]:
    """Parameters of a dense transformer, and FLOPs to train it on one token."""
    config = _config((vocab_size, d_model, num_layers, d_ffn, seq_len))
    parameters = costs.count_parameters(config).total
    return parameters, costs.flops_per_token(config, seq_len)


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


def _two(answer: Answer, shape: Shape) -> tuple[float, float]:
    """Parameters and FLOPs as numbers, or a message about what came instead."""
    got = answer(*shape)
    try:
        parameters, flops = (float(one) for one in got)
    except (TypeError, ValueError):
        raise Mismatch(
            on=answer.call(shape),
            wanted="two numbers: parameters, FLOPs per token",
            got=show(got),
        ) from None
    return parameters, flops


HAND = (10, 4, 1, 8, 2)
ON_HAND = "vocab_size 10, d_model 4, one layer, d_ffn 8, seq_len 2"


@task_1_4.property("the parameters of one layer, counted by hand")
def parameters_by_hand(answer: Answer) -> None:
    got, _ = _two(answer, HAND)
    known = [
        (212, "40 are missing: the head, a second matrix of V D."),
        (172, "80 are missing: the embedding and the head stand outside the layers."),
        (220, "32 are missing: a SwiGLU has three matrices, gate, up and down."),
        (
            236,
            "16 are missing: queries, keys, values and the output make four matrices.",
        ),
        (240, "12 are missing: three norms of D weights each."),
        (248, "4 are missing: the norm before the head."),
        (244, "8 are missing: two norms in each layer, one before each half."),
        (204, "48 are missing: of the four attention matrices only one is counted."),
        (284, "32 too many: a SwiGLU has three matrices, not four."),
        (1320, "This is the number of FLOPs. Parameters come first."),
    ]
    if not close(got, 252):
        raise Mismatch(
            on=f"{ON_HAND}\n{_parts_by_hand()}",
            wanted="252 parameters, the sum of these",
            got=f"{got:,.0f}",
            because=recognise(got, known),
        )


def _parts_by_hand() -> str:
    return "40 embedding, 64 attention, 96 feed-forward, 12 norms, 40 head"


@task_1_4.property("every layer counts, what stands outside counts once")
def parameters_by_layer(answer: Answer) -> None:
    got = _two(answer, (10, 4, 3, 8, 2))[0] - _two(answer, HAND)[0]
    known = [
        (0, "The number of layers changes nothing yet."),
        (504, "The whole is multiplied by the layers, embedding and head included."),
        (336 + 80, "The embedding or the head is counted again in every layer."),
        (336 + 8, "The last norm is counted again in every layer."),
    ]
    if not close(got, 336):
        raise Mismatch(
            on=f"{ON_HAND}: two layers more",
            wanted="336 parameters more, 2 × 168",
            got=f"{got:,.0f} more",
            because=recognise(got, known),
        )


@task_1_4.property("counts what torch counts in a model that exists")
def parameters_of_a_model(answer: Answer) -> None:
    shape = (256, 32, 3, 80, 64)
    wanted = sum(p.numel() for p in LanguageModel(_config(shape)).parameters())
    got, _ = _two(answer, shape)
    if got != wanted:
        raise Mismatch(
            on="vocab_size 256, d_model 32, 3 layers, d_ffn 80",
            wanted=f"{wanted:,} parameters, as many as model.parameters() has",
            got=f"{got:,.0f}",
        )


# 212 parameters meet a token, the embedding does not; its 12 norm weights are no
# products, so a count without them is right as well.
SCORES = 6 * 4 * 2 * 1  # 6 D s L: scores and mixing, causal


@task_1_4.property("training FLOPs of one token, counted by hand")
def flops_by_hand(answer: Answer) -> None:
    _, got = _two(answer, HAND)
    if got in (6 * 212 + SCORES, 6 * 200 + SCORES):
        return
    known = [(value, say) for n in (212, 200) for value, say in _slips(n)]
    raise Mismatch(
        on=f"{ON_HAND}\n212 parameters without the embedding",
        wanted="6 FLOPs for each, and 48 for scores and mixing: 1,320",
        got=f"{got:,.0f}",
        because=recognise(got, known, tolerance=1e-9),
    )


def _slips(met: int) -> list[tuple[float, str]]:
    """Usual results where `met` parameters meet a token."""
    return [
        (6 * met, "The attention's own products are missing: scores and mixing."),
        (
            2 * met + SCORES / 3,
            "This is the forward pass. The backward costs twice as much again.",
        ),
        (2 * met, "This is the forward pass, without scores and mixing."),
        (
            6 * (met + 40),
            "The embedding is looked up, not multiplied; and the "
            "attention's own products are missing.",
        ),
        (
            6 * (met + 40) + SCORES,
            "The embedding is looked up, not multiplied: it costs no FLOPs.",
        ),
        (
            6 * met + 2 * SCORES,
            "A token sees the keys up to its own: on average half "
            "of seq_len, not all of it.",
        ),
        (6 * met + SCORES / 3, "Scores and mixing have a backward pass too."),
        (6 * met + SCORES / 2, "Scores are one product, mixing the values a second."),
        (3 * met + SCORES / 2, "A multiply and an add are two FLOPs."),
        (3 * met, "A multiply and an add are two FLOPs."),
        (2 * (6 * met + SCORES), "This is the cost of both tokens. Wanted is one."),
    ]


@task_1_4.property("agrees with tiny_lm.costs on models from small to 405B, any length")
def flops_of_models(answer: Answer) -> None:
    shapes = [
        (256, 128, 4, 320, 128),
        (32_000, 4096, 32, 11_008, 4096),
        (128_256, 16_384, 126, 53_248, 131_072),
    ]
    draw = torch.randint(2, 60, (5,), generator=answer.generator).tolist()
    shapes.append((draw[0], 2 * draw[1], draw[2], draw[3], 2 * draw[4]))
    for shape in shapes:
        got, wanted = _two(answer, shape), dense_cost(*shape)
        met = wanted[0] - shape[0] * shape[1]
        norms = 6 * (2 * shape[2] + 1) * shape[1] / (6 * met)
        if got[0] != wanted[0] or not close(got[1] / wanted[1], 1.0, 1e-6 + norms):
            raise Mismatch(
                on=answer.call(shape),
                wanted=f"{wanted[0]:,} parameters, {wanted[1]:.4g} FLOPs",
                got=f"{got[0]:,.0f} parameters, {got[1]:.4g} FLOPs",
            )
