"""What a context costs: bytes, users of one card and time, for nine ways to keep it.

Chapter: 03_mla/what_93_percent_means
Source: deepseek_v2, section 2.1; deepseek_isca; deepseek_v32; deepseek_v4_config

Four kinds of attention at a shape that the reader chooses, and five published models in
the format that they are served in. A step of decoding writes one token for each user.
It reads the weights on the card once and every user's cache, and multiplies; the longer
of both is its time, first for the weights and then for the caches. That is a floor: it
leaves out launches, queries on their way, and everything on other cards.

The reader says how much of the card weights take. They count as BF16, all of them used
by every user's token: two FLOPs for two bytes. Caches of one byte a number are brought
to BF16 before they are multiplied, so arithmetic runs at the rate of BF16 throughout;
scales beside such numbers are left out.

`context_model.js` repeats this. Contexts and users are powers of two, so products of
whole numbers are exact in a browser too, and every quotient is the same.
"""

from dataclasses import asdict, dataclass
from typing import Any

from tiny_lm.config import (
    MHAConfig,
    MLAConfig,
    ModelConfig,
    deepseek_v3,
    llama_405b,
    qwen_72b,
)
from tiny_lm.context_costs import (
    Kept,
    cache_of,
    cache_of_v32,
    context_cost,
    deepseek_v4_flash,
    growth_bytes_per_token,
)
from tiny_lm.course.figures.style import COLORS, INK, Drawing, finish, new_figure
from tiny_lm.hardware import H100_MEASURED, H800
from tiny_lm.parts import require

GB = 10**9
CONTEXTS = tuple(1024 * 2**n for n in range(11))  # 1K to 1M
BATCHES = tuple(2**n for n in range(9))  # users who are written for at once
BYTES_PER_NUMBER = (1, 2)
WEIGHTS_GB = tuple(range(0, 80, 5))
LAYERS = (8, 16, 24, 32, 48, 61, 80, 96, 126)
HEADS = (8, 16, 32, 64, 128)
GROUPS = (1, 2, 4, 8, 16, 32)  # key-value heads of GQA
WIDTHS = (32, 64, 128, 256)  # of a head
LATENTS = (64, 128, 256, 512, 1024)
ROTARY = (16, 32, 64, 128)
RATES = {  # FLOP/s and bytes/s; in both the H800 is as fast as the H100
    "sheet": (H800.bf16_flops_per_s, H800.memory_bytes_per_s),
    "measured": (H100_MEASURED.bf16_flops_per_s, H100_MEASURED.copy_bytes_per_s),
}
RATE_NAMES = {"sheet": "as by data sheet", "measured": "as measured"}
CARD_BYTES = int(H800.memory_bytes)
LATENT_WIDTHS = {"d_latent": 4, "d_rope": 0.5}  # of a head: deepseek_v2, section 2.1
PRESETS = {
    "DeepSeek-V3": deepseek_v3(),
    "Qwen2.5-72B": qwen_72b(),
    "LLaMA-3.1-405B": llama_405b(),
}
# °: how much is read comes from copies of released files, not from their reports
LIT = ("MLA", "DeepSeek-V3", "DeepSeek-V3.2 °")  # they keep latents
NAMES = {"mha": "MHA", "gqa": "GQA", "mqa": "MQA", "mla": "MLA"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where the sliders stand; at first, at V3's shape.

    Raises:
        ValueError: a control has no such place.
    """

    context: int = 32_768
    batch: int = 16
    bytes_per_number: int = 2
    weights_gb: int = 40
    rates: str = "sheet"
    layers: int = 61
    heads: int = 128
    groups: int = 8
    d_head: int = 128
    d_latent: int = 512
    d_rope: int = 64

    def __post_init__(self) -> None:
        for name, allowed in places(self.heads).items():
            value = getattr(self, name)
            wanted = f"{name} must be one of {list(allowed)}, got {value!r}"
            require(value in allowed, wanted)


def places(heads: int = HEADS[-1]) -> dict[str, tuple]:
    """Where each control can stand; no group is without a query head."""
    return {
        "context": CONTEXTS,
        "batch": BATCHES,
        "bytes_per_number": BYTES_PER_NUMBER,
        "weights_gb": WEIGHTS_GB,
        "rates": tuple(RATES),
        "layers": LAYERS,
        "heads": HEADS,
        "groups": tuple(g for g in GROUPS if g <= heads),
        "d_head": WIDTHS,
        "d_latent": LATENTS,
        "d_rope": ROTARY,
    }


def shapes() -> dict[str, dict[str, int]]:
    """Shapes of published models; one without a latent gets V2's widths for it."""
    return {name: _shape(config) for name, config in PRESETS.items()}


def _shape(config: ModelConfig) -> dict[str, int]:
    a = config.attention
    if isinstance(a, MLAConfig):
        return {
            "layers": config.num_layers,
            "heads": a.num_heads,
            "groups": Setting().groups,
            "d_head": a.d_nope,
            "d_latent": a.d_latent_kv,
            "d_rope": a.d_rope,
        }
    return {
        "layers": config.num_layers,
        "heads": a.num_heads,
        "groups": a.num_kv_heads,
        "d_head": a.d_head,
        **{name: int(times * a.d_head) for name, times in LATENT_WIDTHS.items()},
    }


def at_shape(s: Setting) -> dict[str, tuple[Kept, ...]]:
    """The caches of four kinds of attention where the sliders stand."""
    kinds: dict[str, Any] = {
        name: MHAConfig(num_heads=s.heads, num_kv_heads=number, d_head=s.d_head)
        for name, number in (("mha", s.heads), ("gqa", s.groups), ("mqa", 1))
    }
    kinds["mla"] = MLAConfig(
        num_heads=s.heads,
        d_latent_kv=s.d_latent,
        d_latent_q=None,  # no query is kept
        d_nope=s.d_head,
        d_rope=s.d_rope,
        d_value=s.d_head,
    )
    return {
        name: cache_of(kind, s.layers, s.bytes_per_number)
        for name, kind in kinds.items()
    }


def published() -> dict[str, tuple[Kept, ...]]:
    """The caches of five models as they are served: BF16, and FP8 or FP4 later on."""
    in_bf16 = {
        name: cache_of(config.attention, config.num_layers)
        for name, config in PRESETS.items()
    }
    return in_bf16 | {
        "DeepSeek-V3.2 °": cache_of_v32(deepseek_v3()),
        "DeepSeek-V4-Flash °": deepseek_v4_flash().cache,
    }


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one way to keep the context costs.

    users: whose caches fit beside the weights; memory_s, arithmetic_s: of the caches
    """

    name: str
    bytes_per_token: float
    cache_bytes: int
    users: int
    memory_s: float
    arithmetic_s: float
    step_s: float

    @property
    def limit(self) -> str:
        """What the caches wait for."""
        return "memory" if self.memory_s >= self.arithmetic_s else "arithmetic"


def weights_s(s: Setting) -> float:
    """Reading the weights once, or multiplying them with every user's token."""
    flops_per_s, bytes_per_s = RATES[s.rates]
    num_bytes = s.weights_gb * GB
    return max(num_bytes / bytes_per_s, s.batch * num_bytes / flops_per_s)


def row(name: str, cache: tuple[Kept, ...], s: Setting) -> Row:
    """One way to keep the context, where the sliders stand."""
    flops_per_s, bytes_per_s = RATES[s.rates]
    one = context_cost(cache, s.context)
    memory_s = s.batch * one.read_bytes / bytes_per_s
    arithmetic_s = s.batch * one.flops / flops_per_s
    return Row(
        name=name,
        bytes_per_token=growth_bytes_per_token(cache),
        cache_bytes=one.cache_bytes,
        users=(CARD_BYTES - s.weights_gb * GB) // one.cache_bytes,
        memory_s=memory_s,
        arithmetic_s=arithmetic_s,
        step_s=weights_s(s) + max(memory_s, arithmetic_s),
    )


def rows(s: Setting) -> list[Row]:
    """Four kinds at the chosen shape, then the published models."""
    caches = {NAMES[name]: cache for name, cache in at_shape(s).items()} | published()
    return [row(name, cache, s) for name, cache in caches.items()]


def fixed() -> dict[str, Any]:
    """All that the browser needs and must not know by itself."""
    return {
        "places": places(),
        "shapes": shapes(),
        "names": list(NAMES.values()),
        "published": {
            name: [asdict(kept) for kept in cache]
            for name, cache in published().items()
        },
        "rates": RATES,
        "rate_names": RATE_NAMES,
        "card_bytes": CARD_BYTES,
        "gb": GB,
        "lit": LIT,
        "color": COLORS["mla"],
    }


def picture(s: Setting) -> Drawing:
    """Caches of one user against the room beside the weights, without JavaScript."""
    found = rows(s)
    figure, ax = new_figure(0.3 * len(found) + 0.9)
    for place, each in enumerate(found):
        color = COLORS["mla" if each.name in LIT else "baseline"]
        size = each.cache_bytes / GB
        ax.plot(size, place, "o", color=color, ms=7)
        ax.text(size * 1.5, place, f"{each.users:,} users", color=color, va="center")
    ax.axvline((CARD_BYTES - s.weights_gb * GB) / GB, color=INK, lw=0.8, ls=":")
    ax.set_xscale("log")
    sizes = [each.cache_bytes / GB for each in found]
    ax.set(xlabel="cache of one user, GB", xlim=(min(sizes) / 2, max(sizes) * 30))
    ax.set_yticks(range(len(found)), [each.name for each in found])
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    return finish(figure)


def alternative(s: Setting) -> str:
    """What `picture` shows, in words."""
    said = [
        f"{each.name} {each.cache_bytes / GB:,.3g} GB and {each.users:,} users"
        for each in rows(s)
    ]
    return (
        f"Cache of one user at {s.context:,} tokens of context, and how many users fit "
        f"on a card of {CARD_BYTES // GB} GB beside {s.weights_gb} GB of weights: "
        f"{'; '.join(said)}."
    )
