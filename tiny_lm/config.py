"""What a model is made of, as numbers that refuse to contradict each other.

Chapter: 06_together/full_model
Source: deepseek_v3, section 4.2; deepseek_v2, section 3.1

A config is frozen and takes keywords only.
Presets are functions, so that nobody can change one for everybody else.
The comment behind a field is the symbol of the paper.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from tiny_lm.parts import (
    FP8Config,
    MHAConfig,
    MLAConfig,
    MoEConfig,
    YarnConfig,
    require,
    require_numbers,
    require_positive,
)
from tiny_lm.recipe import TrainConfig as TrainConfig

WIDTH_MULTIPLE = 4  # grouped products read FP32 rows that begin at every 16th byte


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One language model.

    Raises:
        ValueError: a count is not positive, or the parts contradict each other.
    """

    name: str
    vocab_size: int
    d_model: int  # d
    num_layers: int  # L
    num_dense_layers: int  # the first layers keep a dense feed-forward
    d_ffn: int  # inner width of a dense feed-forward
    attention: MHAConfig | MLAConfig
    moe: MoEConfig | None = None
    fp8: FP8Config | None = None  # None: every product in the parameters' own dtype
    num_mtp: int = 0  # D of eq. 21: further tokens predicted at each position
    mtp_weight: float = 0.3  # lambda of eq. 25
    max_len: int = 4096  # longest sequence the rotary tables are made for
    norm_eps: float = 1e-6
    init_std: float = 0.006

    def __post_init__(self) -> None:
        require_numbers(self)
        self._check_parts()
        require_positive(
            self, "vocab_size", "d_model", "num_layers", "d_ffn", "max_len", "init_std"
        )
        require_positive(self, "norm_eps")
        require(self.mtp_weight >= 0, "mtp_weight must not be negative")
        require(
            0 <= self.num_dense_layers <= self.num_layers,
            f"num_dense_layers={self.num_dense_layers} must lie between 0 and "
            f"num_layers={self.num_layers}",
        )
        require(self.num_mtp >= 0, f"num_mtp must not be negative, got {self.num_mtp}")
        require(
            self.moe is not None or self.num_dense_layers == self.num_layers,
            "a model without moe has num_dense_layers equal to num_layers",
        )

    def _check_parts(self) -> None:
        kinds = {"attention": (MHAConfig, MLAConfig)}
        kinds |= {"moe": (MoEConfig, type(None)), "fp8": (FP8Config, type(None))}
        for name, kind in kinds.items():
            part = getattr(self, name)
            require(isinstance(part, kind), f"{name} cannot be {part!r}")
        if self.moe:
            widths = {"d_model": self.d_model, "moe.d_expert": self.moe.d_expert}
            for name, width in widths.items():
                require(
                    width % WIDTH_MULTIPLE == 0,
                    f"{name}={width} must be a multiple of {WIDTH_MULTIPLE}: the "
                    "products of all experts at once take no other widths",
                )

    @property
    def num_moe_layers(self) -> int:
        """Layers whose feed-forward is a mixture of experts."""
        return self.num_layers - self.num_dense_layers

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, ready for JSON; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: an unknown or missing field.
        """
        fields = dict(fields)
        try:
            attention = dict(fields["attention"])
            if attention.get("yarn"):
                attention["yarn"] = YarnConfig(**attention["yarn"])
            latent = "d_latent_kv" in attention
            fields["attention"] = (MLAConfig if latent else MHAConfig)(**attention)
            if fields.get("moe"):
                fields["moe"] = MoEConfig(**fields["moe"])
            if fields.get("fp8"):
                fields["fp8"] = FP8Config(**fields["fp8"])
            return cls(**fields)
        except (TypeError, KeyError) as error:
            fault = " ".join(str(error).split())
            raise ValueError(f"not a model config: {fault}") from error


def tiny() -> ModelConfig:
    """All four techniques in a model that a laptop trains in two minutes."""
    return ModelConfig(
        name="tiny",
        vocab_size=256,
        d_model=128,
        num_layers=4,
        num_dense_layers=1,
        d_ffn=320,
        attention=MLAConfig(
            num_heads=4, d_latent_kv=64, d_latent_q=64, d_nope=32, d_rope=16, d_value=32
        ),
        moe=MoEConfig(
            num_experts=16,
            num_shared=1,
            top_k=4,
            d_expert=64,
            num_groups=4,
            top_groups=2,
            route_scale=2.5,
            bias_rate=0.01,  # V3's 0.001 needs thousands of steps; here there are 300
        ),
        fp8=FP8Config(tile=32, block=32),
        init_std=0.02,
    )


def tiny_dense() -> ModelConfig:
    """The baseline: as many active parameters as `tiny`, none of the techniques."""
    return replace(
        tiny(),
        name="tiny_dense",
        num_dense_layers=4,
        attention=MHAConfig(num_heads=4, num_kv_heads=4, d_head=32),
        moe=None,
        fp8=None,
    )


def deepseek_v3() -> ModelConfig:
    """DeepSeek-V3 as published: 671B parameters, 37B active."""
    return ModelConfig(
        name="deepseek_v3",
        vocab_size=129_280,
        d_model=7168,
        num_layers=61,
        num_dense_layers=3,
        d_ffn=18_432,
        attention=MLAConfig(
            num_heads=128,
            d_latent_kv=512,
            d_latent_q=1536,
            d_nope=128,
            d_rope=64,
            d_value=128,
            yarn=YarnConfig(factor=40.0, original_len=4096),
        ),
        moe=MoEConfig(
            num_experts=256,
            num_shared=1,
            top_k=8,
            d_expert=2048,
            num_groups=8,
            top_groups=4,
            route_scale=2.5,
        ),
        fp8=FP8Config(),
        num_mtp=0,  # published counts leave the prediction module out
        mtp_weight=0.3,
    )


def deepseek_v2() -> ModelConfig:
    """DeepSeek-V2 as published: 236B parameters, 21B active."""
    return replace(
        deepseek_v3(),
        name="deepseek_v2",
        vocab_size=102_400,
        d_model=5120,
        num_layers=60,
        num_dense_layers=1,
        d_ffn=12_288,
        moe=MoEConfig(
            num_experts=160,
            num_shared=2,
            top_k=6,
            d_expert=1536,
            num_groups=8,
            top_groups=3,
            route_scale=16.0,
        ),
        fp8=None,
    )


def _dense(name: str, vocab: int, d: int, layers: int, ffn: int, **attention: Any):
    return ModelConfig(
        name=name,
        vocab_size=vocab,
        d_model=d,
        num_layers=layers,
        num_dense_layers=layers,
        d_ffn=ffn,
        attention=MHAConfig(num_kv_heads=8, d_head=128, **attention),
    )


def llama_405b() -> ModelConfig:
    """LLaMA-3.1-405B: dense, grouped-query attention."""
    return _dense("llama_405b", 128_256, 16_384, 126, 53_248, num_heads=128)


def qwen_72b() -> ModelConfig:
    """Qwen2.5-72B: dense, grouped-query attention, biased projections."""
    return _dense("qwen_72b", 152_064, 8192, 80, 29_568, num_heads=64, qkv_bias=True)


PRESETS: dict[str, Callable[[], ModelConfig]] = {
    preset.__name__: preset
    for preset in (tiny, tiny_dense, deepseek_v2, deepseek_v3, llama_405b, qwen_72b)
}


def preset(name: str) -> ModelConfig:
    """The config of that name.

    Raises:
        ValueError: no such preset; the message lists those that exist.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]()
