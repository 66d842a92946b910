"""The config.json of a released model, read.

Chapter: 06_together/into_the_ecosystem
Source: deepseek_v3_code; transformers

A field decides what is computed. So one that asks for what our model does not do is
refused by name, and so is one that nobody here knows, unless it is off.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_lm.config import MHAConfig, MLAConfig, ModelConfig, MoEConfig, YarnConfig
from tiny_lm.files import read_json
from tiny_lm.hub_config import (
    BEST_OF_A_GROUP,
    CLASSES,
    LATENT_NORM_EPS,
    counted_of_a_group,
)
from tiny_lm.rope import in_force

NEEDED = object()
# They change nothing of what is computed, or repeat what other fields say.
WITHOUT_EFFECT = """
_name_or_path architectures auto_map bos_token_id dtype eos_token_id ep_size head_dim
model_type num_mtp_layers pad_token_id pretraining_tp qk_head_dim seq_aux torch_dtype
transformers_version use_cache
""".split()
# What our model does, and what a file that leaves the field out means.
FIXED = {
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "mlp_bias": False,
    "moe_layer_freq": 1,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_method": "noaux_tc",
    "use_qk_norm": False,
}
UNUSED_EXPERTS = """
aux_loss_alpha moe_intermediate_size n_group n_routed_experts n_shared_experts
num_experts_per_tok routed_scaling_factor topk_group
""".split()  # where every layer is dense
# The tensors themselves say which of them are FP8, and with which scales.
FP8_WITHOUT_EFFECT = ["modules_to_not_convert", "scale_fmt"]


@dataclass(frozen=True)
class Description:
    """What a config.json says.

    halves: rotary pairs of the weights are (i, i + width / 2)
    block: rows and columns that share an FP8 scale; None: no weight is FP8
    """

    config: ModelConfig
    halves: bool
    block: int | None


class Fields:
    """The fields of a JSON object, each read or refused.

    Raises:
        ValueError: from every method; names the file, the field and its value.
    """

    def __init__(self, about: Any, where: str) -> None:
        if not isinstance(about, dict):
            raise ValueError(f"{where} is not a JSON object")
        self.about = about
        self.where = where
        self.seen: set[str] = set()

    def refuse(self, name: str, why: str) -> ValueError:
        """What to raise about a field."""
        return ValueError(f"{self.where}: {name}={self.about.get(name)!r}, {why}")

    def get(self, name: str, default: Any = NEEDED) -> Any:
        """The value of a field; without a default it has to be there."""
        self.seen.add(name)
        value = self.about.get(name, default)
        if value is NEEDED:
            raise ValueError(f"{self.where} has no {name}")
        return value

    def number(self, name: str, kind: type, default: Any = NEEDED) -> Any:
        """A number; a whole one serves where a fraction is wanted."""
        value = self.get(name, default)
        kinds = (int, float) if kind is float else kind
        if isinstance(value, bool) or not isinstance(value, kinds):
            what = "a whole number" if kind is int else "a number"
            raise self.refuse(name, f"and {what} is wanted")
        return kind(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        if not isinstance(value := self.get(name, default), bool):
            raise self.refuse(name, "and true or false is wanted")
        return value

    def must(self, name: str, wanted: Any, default: Any = NEEDED) -> None:
        """A field of one value."""
        if self.get(name, default) != wanted:
            raise self.refuse(name, f"and this model has {wanted!r} alone")

    def inner(self, name: str) -> "Fields":
        """The fields of an object within; none where it is missing or null."""
        return Fields(self.get(name, None) or {}, f"{self.where}: {name}")

    def refuse_the_rest(self, without_effect: list[str]) -> None:
        """Refuse what was not read, unless it has no effect or is off."""
        for name in sorted(set(self.about) - self.seen - set(without_effect)):
            if self.about[name] not in (None, False):
                raise self.refuse(name, "a field that tiny_lm does not know")


def read(folder: Path) -> Description:
    """What the config.json of a folder says.

    Args:
        folder: its name becomes the model's.

    Raises:
        ValueError: it is no config.json of an architecture that is known here, or asks
            for what our model does not do; names the field.
    """
    path = folder / "config.json"
    fields = Fields(read_json(path), str(path))
    if fields.get("model_type") not in CLASSES:
        raise fields.refuse("model_type", f"and tiny_lm reads {', '.join(CLASSES)}")
    try:
        return _read(fields, folder.resolve().name)
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def _read(f: Fields, name: str) -> Description:
    kind, layers = f.get("model_type"), f.number("num_hidden_layers", int)
    for field, wanted in FIXED.items():
        f.must(field, wanted, default=wanted)
    dense = layers if kind == "llama" else f.number("first_k_dense_replace", int)
    max_len, latent = f.number("max_position_embeddings", int), kind == "deepseek_v3"
    config = ModelConfig(
        name=name,
        vocab_size=f.number("vocab_size", int),
        d_model=f.number("hidden_size", int),
        num_layers=layers,
        num_dense_layers=min(dense, layers),
        d_ffn=f.number("intermediate_size", int),
        attention=_latent(f, max_len) if latent else _heads(f, kind),
        moe=_experts(f) if dense < layers else None,
        num_mtp=f.number("num_nextn_predict_layers", int, 0),
        max_len=max_len,
        norm_eps=f.number("rms_norm_eps", float, 1e-6),
        init_std=f.number("initializer_range", float, 0.02),
    )
    if latent and config.norm_eps != LATENT_NORM_EPS:
        why = f"and the norms of latents have {LATENT_NORM_EPS} with any"
        raise f.refuse("rms_norm_eps", why)
    halves = not f.flag("rope_interleave", True) if latent else True
    block = _block(f) if f.get("quantization_config", None) is not None else None
    f.refuse_the_rest(WITHOUT_EFFECT + (UNUSED_EXPERTS if config.moe is None else []))
    return Description(config, halves, block)


def _latent(f: Fields, max_len: int) -> MLAConfig:
    heads = f.number("num_attention_heads", int)
    f.must("num_key_value_heads", heads, default=heads)
    f.must("attention_bias", False, default=False)
    squeezed = f.get("q_lora_rank") is not None
    theta, yarn = _rotation(f, max_len, stretched=True)
    return MLAConfig(
        num_heads=heads,
        d_latent_kv=f.number("kv_lora_rank", int),
        d_latent_q=f.number("q_lora_rank", int) if squeezed else None,
        d_nope=f.number("qk_nope_head_dim", int),
        d_rope=f.number("qk_rope_head_dim", int),
        d_value=f.number("v_head_dim", int),
        rope_theta=theta,
        yarn=yarn,
    )


def _heads(f: Fields, kind: str) -> MHAConfig:
    heads = f.number("num_attention_heads", int)
    bias = f.flag("attention_bias", False)
    if kind == "llama":
        f.must("attention_bias", False, default=False)
    width = f.number("hidden_size", int) // max(heads, 1)
    return MHAConfig(
        num_heads=heads,
        num_kv_heads=f.number("num_key_value_heads", int, heads),
        d_head=f.number("head_dim", int, width),
        rope_theta=_rotation(f, 0, stretched=False)[0],
        qkv_bias=bias,
    )


def _rotation(
    f: Fields, max_len: int, stretched: bool
) -> tuple[float, YarnConfig | None]:
    """Base of the rotary angles, and how they are stretched."""
    old, new = f.get("rope_scaling", None), f.get("rope_parameters", None)
    if old is not None and new is not None:
        raise f.refuse("rope_scaling", "and rope_parameters says it once more")
    r = f.inner("rope_scaling" if new is None else "rope_parameters")
    base = r.number("rope_theta", float, f.number("rope_theta", float, 10_000.0))
    part = 0.5 if f.get("model_type") == "glm4_moe" else 1.0
    holder = r if "partial_rotary_factor" in r.about else f
    holder.must("partial_rotary_factor", 1.0, default=part)
    name = "rope_type" if "rope_type" in r.about else "type"
    kind = r.get(name, "default")
    r.seen |= {"type", "rope_type"}
    if kind not in ("default", "yarn") or kind == "yarn" and not stretched:
        raise r.refuse(name, "which this model does not do to rotary angles")
    yarn = _yarn(r, max_len) if kind == "yarn" else None
    r.refuse_the_rest([])
    return base, yarn


def _yarn(r: Fields, max_len: int) -> YarnConfig:
    for name in ("mscale", "mscale_all_dim"):
        r.must(name, 1.0, default=None)
    r.must("truncate", True, default=True)
    yarn = YarnConfig(
        factor=r.number("factor", float),
        original_len=r.number("original_max_position_embeddings", int),
        beta_fast=r.number("beta_fast", float, 32.0),
        beta_slow=r.number("beta_slow", float, 1.0),
    )
    if in_force(yarn, max_len) is None:
        why = f"and max_position_embeddings={max_len} is not longer: YaRN or not?"
        raise r.refuse("original_max_position_embeddings", why)
    return yarn


def _experts(f: Fields) -> MoEConfig:
    shared = f.get("n_shared_experts") is not None
    moe = MoEConfig(
        num_experts=f.number("n_routed_experts", int),
        num_shared=f.number("n_shared_experts", int) if shared else 0,
        top_k=f.number("num_experts_per_tok", int),
        d_expert=f.number("moe_intermediate_size", int),
        num_groups=f.number("n_group", int),
        top_groups=f.number("topk_group", int),
        route_scale=f.number("routed_scaling_factor", float),
        balance_loss=f.number("aux_loss_alpha", float, MoEConfig.balance_loss),
    )
    if moe.top_groups < moe.num_groups and counted_of_a_group(moe) != BEST_OF_A_GROUP:
        why = f"and this model would rank a group by {counted_of_a_group(moe)} experts"
        raise f.refuse("topk_group", f"{why} instead of {BEST_OF_A_GROUP}")
    return moe


def _block(f: Fields) -> int:
    """Rows and columns of a block of FP8 weights that share a scale."""
    q = f.inner("quantization_config")
    q.must("quant_method", "fp8")
    q.must("fmt", "e4m3", default="e4m3")
    q.must("activation_scheme", "dynamic", default="dynamic")
    sizes = q.get("weight_block_size")
    whole = isinstance(sizes, list) and all(type(size) is int for size in sizes)
    if not whole or sizes != sizes[:1] * 2 or sizes[0] < 1:
        raise q.refuse("weight_block_size", "and square blocks are wanted")
    q.refuse_the_rest(FP8_WITHOUT_EFFECT)
    return sizes[0]
