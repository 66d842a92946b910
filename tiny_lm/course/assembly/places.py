"""Where each piece of the labs stands in a training run, or why it has no place there.

Chapter: 06_together/full_model
Source: course
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tiny_lm.config import MHAConfig, ModelConfig
from tiny_lm.course.checks.task import TASKS, Task
from tiny_lm.course.labs import pieces
from tiny_lm.layout import Layout

YOURS, OURS, NOWHERE = "yours", "tiny_lm's", "not held"
PARTS = ("baseline", "moe", "mla", "fp8", "comm")


@dataclass(frozen=True)
class Setting:
    """What is trained, and on what."""

    config: ModelConfig
    ranks: int = 1
    layout: Layout = Layout()
    order_is_yours: bool = False  # of the micro-batches, where there is overlap


class Row(NamedTuple):
    """A piece, the number of its task, where it stands, whose it is, or why not."""

    piece: str
    task: str
    place: str
    whose: str
    why_not: str = ""


Reason = Callable[[Setting], str]


def _never(why: str) -> Reason:
    return lambda setting: why


def _always(setting: Setting) -> str:
    return ""


def _unpiped(setting: Setting) -> str:
    return "a pipeline drives its own steps" * (setting.layout.pp > 1)


def _step(setting: Setting) -> str:
    layout = setting.layout
    if why := _unpiped(setting):
        return why
    if layout.zero:
        return "with --zero, ranks share the optimizer, and tiny_lm's step drives it"
    if setting.config.num_mtp:
        return "it knows one target a byte, and --mtp wants more"
    if layout.overlap and not setting.order_is_yours:
        return "tiny_lm's overlap goes back in pieces, with steps of its own"
    return ""


def _experts(setting: Setting) -> str:
    return "" if setting.config.moe else "this model has no experts"


def _groups(setting: Setting) -> str:
    moe = setting.config.moe
    if moe and moe.top_groups == moe.num_groups:
        return "every group is open in this model"
    return _experts(setting)


def _heads(setting: Setting) -> str:
    attention = setting.config.attention
    if not isinstance(attention, MHAConfig):
        return "this model's attention is latent"
    shared = attention.num_kv_heads < attention.num_heads
    return "heads share keys here" * shared


def _latent(setting: Setting) -> str:
    plain = isinstance(setting.config.attention, MHAConfig)
    return "this model's attention has plain heads" * plain


def _fp8(setting: Setting) -> str:
    fp8 = setting.config.fp8
    return "" if fp8 and fp8.multiplies else "this model multiplies in FP32"


def _ranks(setting: Setting) -> str:
    return "there is one rank" * (setting.ranks == setting.layout.pp)


def _sums(setting: Setting) -> str:
    if setting.layout.zero:
        return "with --zero, gradients are summed in parts"
    return _ranks(setting) or _unpiped(setting)


def _travel(setting: Setting) -> str:
    waits = "it waits for what it sends: with --overlap, tiny_lm's starts and goes on"
    return _experts(setting) or _ranks(setting) or waits * setting.layout.overlap


def _wire(setting: Setting) -> str:
    fp8 = setting.config.fp8
    return _travel(setting) or "" if fp8 and fp8.wire else "rows travel as they are"


def _overlap(setting: Setting) -> str:
    return "" if setting.layout.overlap else "without --overlap nothing is hidden"


COUNTS = _never("it counts; nothing runs by it")
MEASURES = _never("it measures; no model holds it")

PLACES: dict[str, tuple[str, Reason]] = {
    "baseline.bits_per_byte": ("the validation loss", _unpiped),
    "baseline.next_byte_batch": ("cuts windows into inputs and targets", _unpiped),
    "baseline.attention": ("attention of every layer", _heads),
    "baseline.dense_cost": ("", COUNTS),
    "baseline.training_step": ("drives every step", _step),
    "baseline.next_byte_probabilities": ("draws the text it writes", _always),
    "moe.score_and_choose": ("scores of the router", _experts),
    "moe.gate": ("who is chosen, and how much each counts", _experts),
    "moe.limit_groups": ("groups a token may choose from", _groups),
    "moe.run_experts": ("every expert's work", _experts),
    "moe.load_and_violation": ("load of every expert", _experts),
    "moe.update_bias": ("balance by bias, after every step", _experts),
    "moe.sequence_loss": ("balance loss of every sequence", _experts),
    "moe.moe_layer": (
        "",
        _never("its parts are used one by one: experts live on several ranks"),
    ),
    "mla.cache_bytes": ("", COUNTS),
    "mla.remember": ("the cache, when text is written", _always),
    "mla.grouped_attention": ("a prompt's attention through the cache", _always),
    "mla.compress": ("latents of queries, keys and values", _latent),
    "mla.expand": ("keys and values of every head", _latent),
    "mla.decoupled_scores": ("scores of every layer", _latent),
    "mla.latent_memory": ("what the cache keeps, when text is written", _latent),
    "mla.absorbed_attention": ("attention to latents, when text is written", _latent),
    "mla.decode": ("the likeliest text", _always),
    "fp8.decode_byte": ("", _never("PyTorch's own type reads codes here")),
    "fp8.round_to": ("", _never("PyTorch's own type rounds to codes here")),
    "fp8.quantize_tiles": ("inputs of validation and of writing", _fp8),
    "fp8.quantize_blocks": ("weights of validation and of writing", _fp8),
    "fp8.scaled_product": ("products of validation and of writing", _fp8),
    "fp8.linear": ("products of every step, there and back", _fp8),
    "fp8.short_sum": ("", _never("it models a chip's sums; a CPU has FP32")),
    "fp8.relative_gap": ("", MEASURES),
    "comm.ring_all_reduce": ("sums of gradients over ranks", _sums),
    "comm.byte_table": ("", COUNTS),
    "comm.dispatch": ("rows to their experts, and gradients home", _travel),
    "comm.combine": ("rows home, and gradients to experts", _travel),
    "comm.fp8_wire": ("what rows look like on their way", _wire),
    "comm.overlapped": ("order of two micro-batches", _overlap),
    "comm.one_f_one_b": ("", _never("the pipeline's own 1F1B runs with --pp")),
    "comm.bubble_and_memory": ("", MEASURES),
}


def tasks() -> list[Task]:
    """All tasks of the labs that make a model's parts, in order."""
    for part in PARTS:
        pieces.import_checks(part)
    found = (t for t in TASKS.values() if t.piece.split(".")[0] in PARTS)
    return sorted(found, key=lambda task: task.id)


def rows(setting: Setting, yours: set[str]) -> list[Row]:
    """Every piece of the labs, in order."""
    found = []
    for task in tasks():
        place, reason = PLACES[task.piece]
        why_not = reason(setting)
        whose = YOURS if task.piece in yours else OURS
        found.append(
            Row(task.piece, task.id, place, NOWHERE if why_not else whose, why_not)
        )
    return found


def stands(piece: str, setting: Setting) -> bool:
    """Whether a piece has a place there."""
    return not PLACES[piece][1](setting)
