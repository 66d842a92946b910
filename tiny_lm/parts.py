"""The parts of a model's config: attention, experts, number format.

Chapter: 06_together/full_model
Source: deepseek_v3, section 4.2; deepseek_v2, section 3.1

The comment behind a field is the symbol of the paper.
"""

import math
from dataclasses import asdict, dataclass, fields
from types import UnionType
from typing import get_args


def require(holds: bool, message: str) -> None:
    """Refuse a config that does not hold.

    Raises:
        ValueError: with that message.
    """
    if not holds:
        raise ValueError(message)


def require_positive(owner: object, *names: str) -> None:
    """Refuse a config one of whose named fields is zero or less.

    Raises:
        ValueError: names the field and its value.
    """
    for name in names:
        value = getattr(owner, name)
        what = f"{type(owner).__name__}.{name}"
        require(value > 0, f"{what} must be positive, got {value}")


def require_numbers(owner: object) -> None:
    """Refuse a config with 2.5 layers, a rate of NaN, or a text for a number.

    Raises:
        ValueError: names the field and its value.
    """
    for field in fields(owner):
        value = getattr(owner, field.name)
        optional = isinstance(field.type, UnionType)
        kinds = get_args(field.type) if optional else (field.type,)
        if value is None and type(None) in kinds:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        what = f"{type(owner).__name__}.{field.name}"
        if int in kinds:
            whole = number and isinstance(value, int)
            require(whole, f"{what} must be a whole number, got {value!r}")
        elif float in kinds:
            finite = number and math.isfinite(value)
            require(finite, f"{what} must be a finite number, got {value!r}")
        elif bool in kinds:
            require(isinstance(value, bool), f"{what} must be a bool, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class MHAConfig:
    """Multi-head attention; fewer key-value heads than heads make it grouped-query.

    Raises:
        ValueError: a width is not positive, or the heads do not divide into groups.
    """

    num_heads: int
    num_kv_heads: int
    d_head: int
    rope_theta: float = 10_000.0
    qkv_bias: bool = False  # Qwen adds a bias to queries, keys and values

    def __post_init__(self) -> None:
        require_numbers(self)
        require_positive(self, "num_heads", "num_kv_heads", "d_head", "rope_theta")
        require(
            self.num_heads % self.num_kv_heads == 0,
            f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}",
        )
        require(self.d_head % 2 == 0, f"d_head must be even, got {self.d_head}")


@dataclass(frozen=True, kw_only=True)
class YarnConfig:
    """How rotary angles are stretched beyond the length that a model was trained at.

    Source: yarn; deepseek_v3, section 4.3

    Raises:
        ValueError: a number is not positive, or the betas are in the wrong order.
    """

    factor: float  # s: how many times longer
    original_len: int  # of the sequences in pre-training
    beta_fast: float = 32.0  # pairs that turn more often keep their angle
    beta_slow: float = 1.0  # pairs that turn less often are slowed by `factor`

    def __post_init__(self) -> None:
        require_numbers(self)
        require_positive(self, "factor", "original_len", "beta_fast", "beta_slow")
        require(
            self.beta_fast > self.beta_slow,
            f"beta_fast={self.beta_fast} must exceed beta_slow={self.beta_slow}",
        )


@dataclass(frozen=True, kw_only=True)
class MLAConfig:
    """Multi-head Latent Attention: what is cached is `d_latent_kv + d_rope` wide.

    Raises:
        ValueError: a width is not positive, or `d_rope` is odd.
    """

    num_heads: int  # n_h
    d_latent_kv: int  # d_c
    d_latent_q: int | None  # d_c'; None: queries are not compressed
    d_nope: int  # d_h
    d_rope: int  # d_h^R
    d_value: int  # d_h
    rope_theta: float = 10_000.0
    yarn: YarnConfig | None = None  # in force where `max_len` exceeds `original_len`
    cache_tile: int | None = None  # latents cached as FP8, a scale a tile (V3.2: 128)

    def __post_init__(self) -> None:
        require_numbers(self)
        widths = ["num_heads", "d_latent_kv", "d_nope", "d_rope", "d_value"]
        for name in ("d_latent_q", "cache_tile"):
            if getattr(self, name) is not None:
                widths.append(name)
        require_positive(self, *widths, "rope_theta")
        require(self.d_rope % 2 == 0, f"d_rope must be even, got {self.d_rope}")

    @property
    def d_qk(self) -> int:
        """Width of one head's query and key."""
        return self.d_nope + self.d_rope


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """Routed and shared experts, and how the router keeps them busy.

    Raises:
        ValueError: the counts contradict each other.
    """

    num_experts: int  # routed experts, over all ranks (paper: N_r)
    num_shared: int  # N_s; they form one feed-forward layer, N_s times as wide
    top_k: int  # K_r
    d_expert: int  # inner width of one expert
    num_groups: int = 1  # D: groups of experts, one group a node
    top_groups: int = 1  # M: groups a token may be sent to
    route_scale: float = 1.0  # 2.5 in V3's code; not in its equations
    bias_rate: float = 0.001  # gamma; 0 turns balancing by bias off
    balance_loss: float = 0.0001  # alpha of the sequence-wise loss; 0 turns it off

    def __post_init__(self) -> None:
        require_numbers(self)
        require_positive(
            self, "num_experts", "top_k", "d_expert", "num_groups", "top_groups"
        )
        require_positive(self, "route_scale")
        for name in ("num_shared", "bias_rate", "balance_loss"):
            value = getattr(self, name)
            require(value >= 0, f"MoEConfig.{name} must not be negative, got {value}")
        require(
            self.num_experts % self.num_groups == 0,
            f"num_groups={self.num_groups} must divide num_experts={self.num_experts}",
        )
        require(
            self.top_groups <= self.num_groups,
            f"cannot keep top_groups={self.top_groups} of num_groups={self.num_groups}",
        )
        reachable = self.top_groups * self.num_experts // self.num_groups
        require(
            self.top_k <= reachable,
            f"cannot choose top_k={self.top_k} of the {reachable} experts "
            f"that top_groups={self.top_groups} groups hold",
        )
        require(
            self.top_k > 1 or self.num_experts == 1,
            "top_k=1: weights are shares among a token's choices, so the only one "
            "would always be 1 and the router would learn nothing; take 2 or more",
        )


SHARES = ("tiles", "blocks", "tensor")  # whose largest magnitude makes a scale


@dataclass(frozen=True, kw_only=True)
class FP8Config:
    """Which numbers are FP8, and who shares their scales; by default as DeepSeek-V3.

    Tiles lie along the dim that a product sums over.

    Raises:
        ValueError: a size is not positive, a choice is unknown, or nothing is FP8.
    """

    tile: int = 128  # activations and their gradients: 1 x tile
    block: int = 128  # weights: block x block
    wire: bool = True  # rows travel to their experts as FP8, and come back as BF16
    forward: bool = True  # Y = X W^T of FP8 inputs
    input_gradient: bool = True  # dX = dY W
    weight_gradient: bool = True  # dW = dY^T X
    activations: str = "tiles"
    gradients: str = "tiles"
    weights: str = "blocks"
    gradient_format: str = "e4m3"
    scales: str = "fp32"  # "round_up", "ocp_floor": powers of two, one byte
    round_twice: bool = True  # Wgrad rounds what Fprop kept of X, not X itself
    gate: bool = False  # the router's scores too
    head: bool = False  # the logits too
    masters: str = "fp32"  # "bf16", "fp8": what the optimizer keeps of a weight

    def __post_init__(self) -> None:
        require_numbers(self)
        require_positive(self, "tile", "block")
        choices = {
            "activations": SHARES,
            "gradients": SHARES,
            "weights": SHARES,
            "gradient_format": ("e4m3", "e5m2"),
            "scales": ("fp32", "round_up", "ocp_floor"),
            "masters": ("fp32", "bf16", "fp8"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            require(
                value in known,
                f"FP8Config.{name} is one of {', '.join(known)}, got {value!r}",
            )
        require(
            self.multiplies or self.wire or self.masters != "fp32",
            "nothing is FP8: no product, no wire and no weight; fp8=None says that",
        )
        require(
            self.multiplies or not (self.gate or self.head),
            "gate and head are FP8 in the products that are; none is",
        )

    @property
    def multiplies(self) -> bool:
        """Whether any of the three products has FP8 inputs."""
        return self.forward or self.input_gradient or self.weight_gradient

    @property
    def is_published(self) -> bool:
        """Whether products are those of DeepSeek-V3, sizes apart."""
        ours = asdict(self) | {"wire": True, "gate": False, "head": False}
        published = FP8Config(tile=self.tile, block=self.block, masters=self.masters)
        return ours == asdict(published)
