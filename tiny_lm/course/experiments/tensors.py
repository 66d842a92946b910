"""The tensors that a trained `tiny` multiplies, and what quantising them loses.

Chapter: 04_fp8/scaling
Source: course

How a model multiplies is handed to it from outside. So a product that keeps its inputs
is enough to see all that FP8 would round: activations, weights, and the gradients that
come back. The model was trained in FP32, so that what is seen has not been rounded yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm.accumulator import tensor_core_matmul
from tiny_lm.formats import E2M1, E4M3, E5M2
from tiny_lm.layers import Products
from tiny_lm.matmul import grouped_linear, linear
from tiny_lm.model import LanguageModel
from tiny_lm.quantize import Group, Quantizer, mxfp8, nvfp4
from tiny_lm.scales import ROUND_UP

SEQUENCES = 32  # that are read when a model is observed
KINDS = ("activations", "gradients", "weights")
TOO_FAR = 0.1  # of a row's length
CHANNELS = 32  # whose sums are compared
GROUPS: dict[str, Group] = {  # rows of `tiny` are 64 to 320 wide
    "tensor": (None, None),
    "row": (1, None),
    "1 × 128": (1, 128),
    "1 × 32": (1, 32),
    "1 × 16": (1, 16),
    "128 × 128": (128, 128),
    "32 × 32": (32, 32),
}
WAYS = {
    f"{to.name} {name}": Quantizer(to, group)
    for to in (E4M3, E2M1)
    for name, group in GROUPS.items()
} | {
    "e5m2 tensor": Quantizer(E5M2, GROUPS["tensor"]),
    "mxfp8": mxfp8(),
    "mxfp8, up": mxfp8(ROUND_UP),
    "nvfp4": nvfp4(),
}
BY_CHANNEL = Quantizer(E4M3, GROUPS["row"])  # of a matrix with a row a channel


@dataclass
class Product:
    """One product of a model: `activations` times `weights`, and what came back.

    Gradients are those of the product's result, a row a token as activations are.
    """

    name: str
    activations: Float[Tensor, "R K"]
    weights: Float[Tensor, "... M K"]
    gradients: Float[Tensor, "R M"] | None = None


@dataclass
class Watch:
    """Products as ever, with notes of what they multiply."""

    names: dict[int, str]  # of each weight
    seen: list[Product] = field(default_factory=list)

    def linear(
        self, x: Float[Tensor, "... K"], weight: Float[Tensor, "M K"]
    ) -> Float[Tensor, "... M"]:
        return self._note(x, weight, linear(x, weight))

    def grouped(
        self,
        rows: Float[Tensor, "R K"],
        weight: Float[Tensor, "E M K"],
        ends: Int[Tensor, " E"],
    ) -> Float[Tensor, "R M"]:
        return self._note(rows, weight, grouped_linear(rows, weight, ends))

    def _note(self, x: Tensor, weight: Tensor, y: Tensor) -> Tensor:
        product = Product(self.names[id(weight)], _rows(x), weight.detach())
        self.seen.append(product)

        def keep(gradient: Tensor) -> None:
            product.gradients = _rows(gradient)

        y.register_hook(keep)
        return y


def _rows(x: Tensor) -> Tensor:
    return x.detach().reshape(-1, x.shape[-1])


def observe(model: LanguageModel, tokens: Int[Tensor, "B T1"]) -> list[Product]:
    """All products of one forward and backward pass that FP8 would take over."""
    watch = Watch({})
    twin = LanguageModel(model.config, products=Products(watch.linear, watch.grouped))
    twin.load_state_dict(model.state_dict())
    watch.names |= {id(weight): name for name, weight in twin.named_parameters()}
    twin.loss(tokens).total.backward()
    return watch.seen


@dataclass(frozen=True)
class Lost:
    """What quantising a tensor loses, as shares.

    Args:
        error: the length of what it changes, of the tensor's length.
        vanished: numbers that have become zero, of those that were not.
        rows_off: rows, such as tokens, that are wrong by more than a tenth.
    """

    error: float
    vanished: float
    rows_off: float


def lost(x: Float[Tensor, "... M K"], how: Quantizer) -> Lost:
    """Compare a tensor with what is left of it."""
    kept = how(x)
    off, length = (kept - x).norm(dim=-1), x.norm(dim=-1)
    there, numbers = length > 0, x != 0
    return Lost(
        float(off.norm() / length.norm()),
        _share(numbers & (kept == 0), numbers),
        _share(there & (off > TOO_FAR * length), there),
    )


def _share(some: Tensor, of: Tensor) -> float:
    return float(some.sum() / of.sum().clamp(min=1))


def measure(
    products: Sequence[Product], ways: Mapping[str, Quantizer]
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """By way of quantising, kind and measure: one number for each product's tensor."""
    return {
        way: {
            kind: _measure([getattr(p, kind) for p in products], how) for kind in KINDS
        }
        for way, how in ways.items()
    }


def _measure(tensors: Sequence[Tensor], how: Quantizer) -> dict[str, list[float]]:
    found = [asdict(lost(x, how)) for x in tensors]
    return {name: [round(one[name], 6) for one in found] for name in found[0]}


def sum_errors(
    products: Sequence[Product], promote_every: int | None
) -> dict[str, float]:
    """Errors of weight gradients that a tensor core would add up, by product.

    Activations and gradients are quantised with a scale for each channel, and the sums
    run over all tokens. Experts, whose tokens are fewer, are left out, and so are
    channels after the first 32.
    """
    found = {}
    for product in products:
        if product.weights.dim() == 2:
            a, b = (
                BY_CHANNEL.quantize(x[:, :CHANNELS].T.contiguous())[0]
                for x in (product.gradients, product.activations)
            )
            exact = a.double() @ b.double().T
            off = tensor_core_matmul(a, b, promote_every).double() - exact
            found[product.name] = round(float(off.norm() / exact.norm()), 7)
    return found
