"""How fast the layer of experts is, against others and against its limit.

Chapter: 02_moe/conditional_computation
Source: course; transformers

All of them do the same arithmetic for the same tokens, forward and backward, without
router and shared expert: our dispatch, experts and combine; the experts of
`transformers`; a loop over tokens; and a dense feed-forward as wide as the experts that
a token visits. The dense layer is the limit. It needs no sorting, multiplies in a few
large products, and reads only the weights that one token uses.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tiny_lm import memory
from tiny_lm.config import ModelConfig, tiny
from tiny_lm.course.bench.oracle import transformers_config
from tiny_lm.course.bench.turns import ROUNDS, Result, Step, in_turns
from tiny_lm.layers import PLAIN, SwiGLU, swiglu
from tiny_lm.moe import Experts, LocalDispatcher

NUM_TOKENS = 2048
LOOP_TOKENS = 64  # enough for a loop over tokens, whose time is in proportion
NUM_EXPERTS = (8, 16, 64)
# "batched_mm" copies an expert's weights for every row: many times slower on a CPU.
EXPERTS_IMPLEMENTATIONS = ("eager", "grouped_mm")
AIMS = {(16, 128): "≤ 1.3", (16, 512): "≤ 1.15"}


@dataclass(frozen=True)
class Shape:
    """A layer of experts; `tiny`'s but for the number and the widths."""

    num_experts: int = 16
    d_model: int = 128
    d_expert: int = 64
    top_k: int = 4

    @property
    def config(self) -> ModelConfig:
        moe = replace(
            tiny().moe,
            num_experts=self.num_experts,
            d_expert=self.d_expert,
            top_k=self.top_k,
        )
        return replace(tiny(), d_model=self.d_model, moe=moe)


@dataclass(frozen=True)
class Inputs:
    """Tokens, the experts each of them chose, and the weights of the choices."""

    x: Float[Tensor, "N D"]
    experts: Int[Tensor, "N k"]
    weights: Float[Tensor, "N k"]

    def first(self, num_tokens: int) -> "Inputs":
        """The same for the first tokens only."""
        parts = (self.x, self.experts, self.weights)
        return Inputs(*(part[:num_tokens] for part in parts))


def inputs(shape: Shape, num_tokens: int = NUM_TOKENS) -> Inputs:
    """Random tokens and random choices, so that loads differ as chance has it."""
    draw = torch.Generator().manual_seed(0)
    scores = torch.rand(num_tokens, shape.num_experts, generator=draw)
    weights, experts = scores.topk(shape.top_k)
    x = torch.randn(num_tokens, shape.d_model, generator=draw)
    return Inputs(x, experts, weights / weights.sum(-1, keepdim=True))


def our_layer(shape: Shape) -> nn.Module:
    """The experts as `MoE` calls them, between dispatch and combine."""
    experts = Experts(shape.num_experts, shape.d_model, shape.d_expert, PLAIN.grouped)
    dispatcher = LocalDispatcher(shape.num_experts, PLAIN.row_multiple)

    def mix(given: Inputs) -> Tensor:
        rows, ends, way_back = dispatcher.dispatch(given.x, given.experts)
        return dispatcher.combine(experts(rows, ends), given.weights, way_back)

    return _Layer(experts, mix)


def token_loop(shape: Shape) -> nn.Module:
    """The same experts, one token and one expert at a time."""
    experts = Experts(shape.num_experts, shape.d_model, shape.d_expert, PLAIN.grouped)

    def mix(given: Inputs) -> Tensor:
        # Once, or each choice would make a gradient of the size of all experts.
        up, down = experts.gate_up.unbind(), experts.down.unbind()
        tokens = zip(given.x, given.experts.tolist(), given.weights, strict=True)
        return torch.stack(
            [
                sum(
                    weight * (down[e] @ swiglu(up[e] @ x))
                    for e, weight in zip(chosen, weights, strict=True)
                )
                for x, chosen, weights in tokens
            ]
        )

    return _Layer(experts, mix)


def transformers_layer(shape: Shape, implementation: str) -> nn.Module:
    """The experts of `DeepseekV3ForCausalLM`: "eager" or "grouped_mm"."""
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Experts

    config = transformers_config(shape.config)
    config._experts_implementation = implementation
    experts = DeepseekV3Experts(config)
    return _Layer(experts, lambda given: experts(given.x, given.experts, given.weights))


def dense_layer(shape: Shape) -> nn.Module:
    """One feed-forward, as wide as the experts that a token visits."""
    dense = SwiGLU(shape.d_model, shape.top_k * shape.d_expert)
    return _Layer(dense, lambda given: dense(given.x))


class _Layer(nn.Module):
    """Weights, and how they make an output of the inputs."""

    def __init__(self, weights: nn.Module, mix: Callable[[Inputs], Tensor]) -> None:
        super().__init__()
        self.weights = weights
        self.mix = mix
        draw = torch.Generator().manual_seed(0)
        for weight in weights.parameters():
            weight.data.normal_(std=0.02, generator=draw)

    def forward(self, given: Inputs) -> Tensor:
        return self.mix(given)


def step(layer: nn.Module, given: Inputs) -> Step:
    """Forward, and backward to the weights, the tokens and their choices' weights."""
    x, weights = (part.clone().requires_grad_() for part in (given.x, given.weights))
    given = Inputs(x, given.experts, weights)
    out_grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    leaves = [*layer.parameters(), x, weights]

    def run() -> Tensor:
        for leaf in leaves:
            leaf.grad = None
        y = layer(given)
        y.backward(out_grad)
        return y.detach()

    return run


def compare(
    shape: Shape, num_tokens: int = NUM_TOKENS, rounds: int = ROUNDS
) -> list[Result]:
    """Ours over the dense layer, and the others over ours, each timed beside ours."""
    given = inputs(shape, num_tokens)
    few = given.first(min(LOOP_TOKENS, num_tokens))
    ours, dense = step(our_layer(shape), given), step(dense_layer(shape), given)
    loop = step(token_loop(shape), few)
    theirs = {
        f"transformers, {name}": step(transformers_layer(shape, name), given)
        for name in EXPERTS_IMPLEMENTATIONS
    }
    memory.settle()
    limit = in_turns({"ours": ours, "dense": dense}, rounds)
    others = in_turns({"ours": ours, **theirs}, rounds)
    best = min(theirs, key=others.__getitem__)
    slow = in_turns({"ours": ours, "loop": loop}, 3)
    by_token = slow["loop"] * num_tokens / len(few.x)
    return [
        Result(
            f"{shape.num_experts} experts, width {shape.d_model}",
            1000 * limit["ours"],
            "ms",
            limit=f"{1000 * limit['dense']:.2f} ms for the dense layer",
        ),
        Result(
            "  over the dense layer",
            limit["ours"] / limit["dense"],
            "x",
            AIMS.get((shape.num_experts, shape.d_model), ""),
        ),
        Result(f"  {best} / ours", others[best] / others["ours"], "x"),
        Result(
            "  a loop over tokens / ours",
            by_token / slow["ours"],
            "x",
            limit=f"from {len(few.x)} tokens, times {num_tokens / len(few.x):.0f}",
        ),
    ]


def experts_against_others() -> list[Result]:
    """The layer at the widths of `tiny` and of the benchmark's wide model."""
    shapes = [Shape(n, d, d // 2) for d in (128, 512) for n in NUM_EXPERTS]
    return [result for shape in shapes for result in compare(shape)]
