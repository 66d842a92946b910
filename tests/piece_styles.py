"""Pieces as learners might have them: right ones in other styles, and small models."""

from dataclasses import replace
from pathlib import Path

from tiny_lm import model
from tiny_lm.config import FP8Config, MHAConfig, ModelConfig, TrainConfig, tiny
from tiny_lm.course.assembly import places
from tiny_lm.course.labs.source import self_contained

TEXT = Path(model.__file__).read_bytes()  # of many kinds of bytes, none too often


def sources(style: int = 0, leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    """A right answer to every task: 0 is the reference, others are honest answers."""
    found = {}
    for task in places.tasks():
        answers = [task.reference, *task.honest]
        answer = answers[style % len(answers)]
        found[task.piece] = (
            f"from {answer.__module__} import {answer.__name__} as {task.name}\n"
        )
    return {name: text for name, text in found.items() if name not in leave_out}


def as_written(name: str) -> str:
    """The reference of a task as text that stands on its own, as a lab keeps it."""
    (task,) = (task for task in places.tasks() if task.piece == name)
    return self_contained(task.reference)[0]


def put(folder: Path, texts: dict[str, str]) -> Path:
    """Write pieces where a lab would keep them."""
    for name, text in texts.items():
        part, function = name.split(".")
        file = folder / part / f"{function}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def small(kind: str) -> ModelConfig:
    """Two layers: "dense"; "fp32", a latent and sparse one; "fp8", the same in FP8."""
    base = tiny()
    config = replace(base, d_model=32, num_layers=2, d_ffn=48, fp8=None, init_std=0.1)
    if kind == "dense":
        heads = MHAConfig(num_heads=2, num_kv_heads=2, d_head=16)
        return replace(config, num_dense_layers=2, attention=heads, moe=None)
    latent = replace(
        base.attention,
        num_heads=2,
        d_latent_kv=32,
        d_latent_q=16,
        d_nope=16,
        d_rope=8,
        d_value=16,
    )
    moe = replace(base.moe, num_experts=8, d_expert=16, top_k=2, balance_loss=0.1)
    fp8 = FP8Config(tile=16, block=16) if kind == "fp8" else None
    return replace(config, attention=latent, moe=moe, fp8=fp8)


def short(**options) -> TrainConfig:
    """A few steps."""
    given = {"steps": 4, "batch_size": 8, "seq_len": 16, "lr": 4e-3}
    given |= {"warmup_steps": 1, "eval_batches": 2}
    return TrainConfig(**(given | options))
