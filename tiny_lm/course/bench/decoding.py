"""How fast tokens are written, against others and against what memory allows.

Chapter: 03_mla
Source: course; transformers

A step of decoding reads every weight and the whole cache, and does little with them. So
its limit is a copy: the bytes that must be read over the rate at which this machine
reads and writes them. `transformers` keeps latents as we do and expands them at every
step. Its time is that of its own `generate`, behind a prompt that its cache holds.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tiny_lm import costs
from tiny_lm.attention import attend
from tiny_lm.cache import Context
from tiny_lm.config import ModelConfig, tiny
from tiny_lm.course.bench.cores import cores, plain_heads
from tiny_lm.course.bench.experts import EXPERTS_IMPLEMENTATIONS
from tiny_lm.course.bench.oracle import transformers_twin
from tiny_lm.course.bench.turns import ROUNDS, Result, Step, in_turns
from tiny_lm.decoder import next_step
from tiny_lm.generate import CHUNK, read
from tiny_lm.model import LanguageModel
from tiny_lm.processor import this_processor

CONTEXTS, BATCHES = (128, 1024, 4096), (1, 8)
STEPS = 8  # tokens written in one measurement
MAX_LEN = 4096 + 1024
AIMS = {1024: "≥ 3"}


def plain_tiny(**changes: Any) -> ModelConfig:
    """`tiny` in FP32, with room for long contexts."""
    return replace(tiny(), fp8=None, max_len=MAX_LEN, **changes)


def prompts(batch_size: int, context: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch_size, context), generator=generator)


@torch.inference_mode()
def our_writing(model: LanguageModel, tokens: Tensor) -> tuple[Step, Context]:
    """Write `STEPS` tokens behind the same prompt, each time into the same places."""
    context = model.new_context(len(tokens), tokens.shape[1] + STEPS)
    first = read(model, context, tokens).argmax(-1)
    step = next_step(model, context)

    @torch.inference_mode()
    def write() -> Tensor:
        rewind(context, tokens.shape[1])
        token = first
        for _ in range(STEPS):
            token = step(token).argmax(-1)
        return token

    return write, context


def rewind(context: Context, num: int) -> None:
    """Forget what was read after the first `num` columns, where nothing is padding."""
    context.num_columns = context.longest = num
    context.num_read.fill_(num)
    for cache in context.layers:
        cache.length = num


@torch.inference_mode()
def their_writing(twin: Any, tokens: Tensor) -> Step:
    """The same by `generate`, greedily; all but the last token of the prompt is cached.

    So they pass the model as often as they write, and so do we.
    """
    from transformers import DynamicCache

    cache, num_cached = DynamicCache(config=twin.config), tokens.shape[1] - 1
    for part in tokens[:, :-1].split(CHUNK, dim=1):
        twin(part, past_key_values=cache, use_cache=True, logits_to_keep=1)

    def write() -> Tensor:
        written = cache.get_seq_length() - num_cached
        if written:
            cache.crop(-written)  # negative: how many to forget
        return twin.generate(
            tokens,
            past_key_values=cache,
            max_new_tokens=STEPS,
            min_new_tokens=STEPS,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
            eos_token_id=None,
        )

    return write


def copy_bytes_per_s(num_bytes: int = 2**27) -> float:
    """Bytes read and written a second, in a copy that no cache holds."""
    source = torch.ones(num_bytes // 4)
    target = torch.empty_like(source)
    return 2 * num_bytes / in_turns({"copy": lambda: target.copy_(source)})["copy"]


def bytes_read(model: LanguageModel, context: Context) -> int:
    """What one step must read: the cache that is filled, and the weights it needs.

    Of the experts only those that are chosen, if every token chooses others.
    """
    filled = context.num_columns / context.hidden.shape[1]
    weights = sum(p.nbytes for p in model.parameters()) - model.embedding.weight.nbytes
    moe, batch = model.config.moe, context.hidden.shape[0]
    if moe is not None:
        idle = max(0, moe.num_experts - moe.top_k * batch) / moe.num_experts
        experts = [p for n, p in model.named_parameters() if ".experts." in n]
        weights -= round(idle * sum(p.nbytes for p in experts))
    return weights + round(filled * context.num_bytes)


def against_transformers(
    contexts: tuple[int, ...] = CONTEXTS,
    batches: tuple[int, ...] = BATCHES,
    rounds: int = 5,
) -> list[Result]:
    """A token of `tiny` in FP32: theirs over ours, and ours over a copy's time."""
    model = LanguageModel(plain_tiny()).eval()
    twins = {
        name: transformers_twin(model, experts_implementation=name).eval()
        for name in EXPERTS_IMPLEMENTATIONS
    }
    rate, results = copy_bytes_per_s(), []
    results.append(
        Result("a large copy", rate / 1e9, "GB/s", limit=f"on {this_processor()}")
    )
    for batch_size in batches:
        ratios = []
        for context in contexts:
            tokens = prompts(batch_size, context)
            ours, memory = our_writing(model, tokens)
            theirs_s, ours_s = _seconds_per_token(ours, twins, tokens, rounds)
            ratios.append(theirs_s / ours_s)
            limit = bytes_read(model, memory) / rate
            results += _lines(batch_size, context, ours_s, theirs_s, limit)
        results.append(_growth(batch_size, contexts, ratios))
    return results


def _seconds_per_token(
    ours: Step, twins: dict[str, Any], tokens: Tensor, rounds: int
) -> tuple[float, float]:
    """The faster of theirs, and ours."""
    theirs = {name: their_writing(twin, tokens) for name, twin in twins.items()}
    seconds = in_turns({"ours": ours, **theirs}, rounds)
    best = min(seconds[name] for name in theirs)
    return best / STEPS, seconds["ours"] / STEPS


def _lines(
    batch_size: int, context: int, ours: float, theirs: float, limit: float
) -> list[Result]:
    where = f"{batch_size} x {context:,}"
    return [
        Result(f"a token of {where}", 1000 * ours, "ms", limit=_bound(ours, limit)),
        Result(
            "  transformers / ours",
            theirs / ours,
            "x",
            AIMS.get(context, ""),
            f"{1000 * theirs:.2f} ms for theirs",
        ),
    ]


def _bound(seconds: float, limit: float) -> str:
    """How near a step comes to the time in which its bytes can be read."""
    return f"{1000 * limit:.2f} ms to read its bytes, {seconds / limit:.1f} times that"


def _growth(batch_size: int, contexts: tuple[int, ...], ratios: list[float]) -> Result:
    """Whether the lead over `transformers` grows from the shortest context on."""
    name = f"  {batch_size} x {contexts[-1]:,} over {batch_size} x {contexts[0]:,}"
    growth = ratios[-1] / ratios[0]
    return Result(name, growth, "x", "> 1", "growth of transformers / ours")


def against_multi_head(context: int = 4096, rounds: int = ROUNDS) -> list[Result]:
    """MLA and multi-head attention of the same shape: time, and bytes of cache."""
    models = {
        "mla": LanguageModel(plain_tiny()).eval(),
        "mha": LanguageModel(plain_tiny(attention=plain_heads())).eval(),
    }
    rate, results = copy_bytes_per_s(), []
    for batch_size in BATCHES:
        tokens = prompts(batch_size, context)
        made = {name: our_writing(model, tokens) for name, model in models.items()}
        seconds = in_turns({name: write for name, (write, _) in made.items()}, rounds)
        for name, (_, memory) in made.items():
            per_token = costs.kv_bytes_per_token(models[name].config, 4)
            formula = per_token * batch_size * (context + STEPS)
            agrees = "as the formula" if memory.num_bytes == formula else "WRONG"
            token_s = seconds[name] / STEPS
            bound = _bound(token_s, bytes_read(models[name], memory) / rate)
            text = f"{agrees}; {1000 * token_s:.2f} ms a token; {bound}"
            label = f"cache of {name}, {batch_size} x {context:,}"
            results.append(Result(label, memory.num_bytes / 1e6, "MB", limit=text))
        results.append(
            Result("  time of mha / mla", seconds["mha"] / seconds["mla"], "x")
        )
        results += _attention_alone(context, batch_size, rounds)
    return results


def _attention_alone(context: int, batch_size: int, rounds: int) -> list[Result]:
    """Why: attention over both caches, with nothing around it."""
    found, results = cores(context, batch_size, rounds), []
    for core in found.values():
        text = (
            f"{core.flops / 1e6:.0f} MFLOP at {core.flops_per_s / 1e9:.0f} GFLOP/s, "
            f"{core.cache_bytes / 1e6:.0f} MB at {core.bytes_per_s / 1e9:.0f} GB/s, "
            "one core"
        )
        alone = f"  attention alone, {core.name}"
        name = "  latents added up" if core.name == "sum" else alone
        results.append(Result(name, 1000 * core.seconds, "ms", limit=text))
    return results


def training_attention(rounds: int = ROUNDS) -> list[Result]:
    """`attend`, forward and backward, over PyTorch's fused one with the same FLOPs."""
    results = []
    for name, (d_qk, d_value) in {"heads": (32, 32), "latent": (48, 32)}.items():
        generator = torch.Generator().manual_seed(0)
        shapes = ((16, 4, 128, d) for d in (d_qk, d_qk, d_value))
        q, k, v = (torch.randn(s, generator=generator).requires_grad_() for s in shapes)
        scale, grad = d_qk**-0.5, torch.ones(16, 4, 128, d_value)
        torchs = partial(F.scaled_dot_product_attention, is_causal=True, scale=scale)
        ways = {"ours": lambda *x, s=scale: attend(*x, s), "torch": torchs}
        steps = {
            way: partial(_forward_backward, function, (q, k, v), grad)
            for way, function in ways.items()
        }
        seconds = in_turns(steps, rounds)
        ratio = seconds["ours"] / seconds["torch"]
        text = f"{1000 * seconds['torch']:.2f} ms for torch's"
        label = f"attention over torch's, {name} {d_qk}/{d_value}"
        results.append(Result(label, ratio, "x", "≤ 1.2", text))
    return results


def _forward_backward(function: Callable, inputs: tuple, grad: Tensor) -> None:
    for x in inputs:
        x.grad = None
    function(*inputs).backward(grad)
