"""Both libraries for FP32 products, by shape and in a whole step: which is faster here?

Chapter: 06_together/full_model
Source: course; onednn

    python -m tiny_lm.course.bench.libraries

`matmul.faster_library` chooses by a rule; this is how its evidence is measured on
another processor. The shapes are those of `tiny`, forward and backward.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from tiny_lm import matmul, memory
from tiny_lm.config import tiny
from tiny_lm.course.bench import experts, training
from tiny_lm.course.bench.turns import Step, in_turns
from tiny_lm.layers import Linear, Products
from tiny_lm.model import LanguageModel
from tiny_lm.processor import this_processor

ROUNDS = 30
REPEATS = 5  # a product takes less than a timer's noise
NUM_EXPERTS = (16, 64)


@dataclass(frozen=True)
class Line:
    """One product: how often a step of `tiny` makes it, and how long each takes."""

    name: str
    count: int
    flops: int
    seconds: dict[str, float]

    def __str__(self) -> str:
        rates = [
            f"{1e6 * s:8.0f} us {self.flops / s / 1e9:5.0f} GFLOP/s"
            for s in self.seconds.values()
        ]
        return f"{self.name:34} {self.count:3} x  " + "  ".join(rates)


def by(library: str, step: Step) -> Step:
    """The step with its products made by one library."""

    def run() -> object:
        with matmul.multiplying_by(library):
            return step()

    return run


def _repeat(step: Step) -> Step:
    def run() -> None:
        for _ in range(REPEATS):
            step()

    return run


def _timed(step: Step) -> dict[str, float]:
    turns = {name: _repeat(by(name, step)) for name in matmul.LIBRARIES}
    seconds = in_turns(turns, ROUNDS)
    return {name: total / REPEATS for name, total in seconds.items()}


def layer_shapes() -> Counter[tuple[int, int]]:
    """Widths out and in of every linear layer of `tiny`, and how many have them."""
    model = LanguageModel(replace(tiny(), fp8=None))
    layers = (m for m in model.modules() if isinstance(m, Linear))
    return Counter(tuple(layer.weight.shape) for layer in layers)


def layers(num_rows: int = training.TOKENS) -> Iterator[Line]:
    """Each linear layer's three products."""
    for (d_out, d_in), count in sorted(layer_shapes().items()):
        x, grad = torch.randn(num_rows, d_in), torch.randn(num_rows, d_out)
        weight = torch.randn(d_out, d_in)
        products: dict[str, Callable[[], Tensor]] = {
            "forward": partial(matmul.times, x, weight),
            "input": partial(matmul.times, grad, weight.T),
            "weight": partial(matmul.outer, grad, x),
        }
        for name, product in products.items():
            about = f"{num_rows} x {d_in} -> {d_out}, {name}"
            flops = 2 * num_rows * d_in * d_out
            yield Line(about, count, flops, _timed(product))


def groups(num_experts: int) -> Iterator[Line]:
    """The experts' products, with loads as chance has them."""
    shape = experts.Shape(num_experts)
    layer, given = experts.our_layer(shape).weights, experts.inputs(shape)
    dispatcher = experts.LocalDispatcher(num_experts, matmul.ROW_MULTIPLE)
    x, ends, _ = dispatcher.dispatch(given.x, given.experts)
    num_layers = tiny().num_moe_layers if num_experts == tiny().moe.num_experts else 0
    for weight in (layer.gate_up.detach(), layer.down.detach()):
        rows = torch.randn(len(x), weight.shape[2])
        grad = torch.randn(len(x), weight.shape[1])
        for name, product in {
            "forward": partial(matmul.grouped_times, rows, weight, ends),
            "input": partial(matmul.grouped_times, grad, weight.mT, ends),
            "weight": partial(matmul.grouped_outer, grad, rows, ends),
        }.items():
            about = f"{num_experts} experts, {weight.shape[2]} -> {weight.shape[1]}"
            flops = 2 * len(x) * weight[0].numel()
            yield Line(f"{about}, {name}", num_layers, flops, _timed(product))


def steps() -> dict[str, float]:
    """Tokens per second of `tiny` by each library, and of `transformers`."""
    plain = replace(tiny(), fp8=None)
    padded = Products(matmul.linear, matmul.grouped_linear, matmul.ROW_MULTIPLE)
    turns = {"as chosen": training.our_step(plain)}
    for name in matmul.LIBRARIES:
        turns[name] = by(name, training.our_step(plain, products=padded))
        turns[f"{name}, fp8"] = by(name, training.our_step(tiny()))
    turns["transformers"] = training.transformers_step(plain, "grouped_mm")
    return {n: training.TOKENS / s for n, s in in_turns(turns, rounds=9).items()}


def main() -> None:
    """Print the tables."""
    print(f"{this_processor()}, {torch.get_num_threads()} threads")
    print(f"FP32 products go to: {matmul.library()}")
    print(f"{'product':34} in a step  {'; '.join(matmul.LIBRARIES)}")
    memory.settle()
    lines = list(layers())
    for num_experts in NUM_EXPERTS:
        lines += groups(num_experts)
    for line in lines:
        print(line)
    for name in matmul.LIBRARIES:
        total = sum(line.count * line.seconds[name] for line in lines)
        print(f"all products of a step, {name}: {1e3 * total:.1f} ms")
    rates = steps()
    for name, rate in rates.items():
        over = rate / rates["transformers"]
        print(f"step of tiny, {name:16} {rate:8,.0f} tokens/s  {over:.2f}x")


if __name__ == "__main__":
    main()
