# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab 3 · What a model remembers
#
# A model that writes keeps something of every token that it has read, in each of its layers.
# For long texts this *cache* fills the memory of a chip, and each new token reads all of it.
# In this lab you build it: first as everybody had it, then with heads that share, then as DeepSeek did, with one short vector in place of all heads.
# At the end your own latent attention writes a text from a cache of 80 numbers a layer, and you compare its memory and its time on a large GPU with those of the others.
#
# You need the attention of lab 1.
# The chapters [The memory of the context](../chapters/03_mla/memory_of_the_context.md), [Latent attention](../chapters/03_mla/latent_attention.md) and [Absorption and decoding](../chapters/03_mla/absorption.md) tell the story behind the tasks.
#
# **How a task works.** Replace the last line of the stub, run it, run the check below it.
# `hint(1)`, `hint(2)` and `hint(3)` go from a nudge to almost the line; `show_solution()` shows ours once you have tried.
# Below each check, `pieces.use` hands on your function if it passed and tiny_lm's own if not, so you can skip a task and come back.
# (*Run all* stops at the first task that is not solved: go on below it by hand.)

# %%
import time
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from tiny_lm import config, data, model
from tiny_lm.config import MHAConfig, MLAConfig
from tiny_lm.course.checks import hint, show_solution  # noqa: F401
from tiny_lm.course.checks import mla as check
from tiny_lm.course.figures import attention as sharing
from tiny_lm.course.figures import latent_lab as pictures
from tiny_lm.course.figures.tables import table
from tiny_lm.course.labs import pieces

torch.set_num_threads(1)  # matrices as small as ours gain nothing from a second

# %% [markdown]
# ## What is looked at again
#
# Attention makes three vectors of a token, in each layer and for each head.
# The query asks, once, when the token itself is read.
# Its key and its value are used again by every later token: the key is compared with the new query, the value is what a match brings home.
# These two have to be kept, and nothing else.
#
# Not every head needs keys and values of its own.
# What several query heads share is called a *key-value head*.

# %%
sharing.who_shares().captioned(
    "Four heads that ask, and what is kept for them of every token, in every layer.",
    alt="Three drawings. In the first each of four queries has its own key and value, "
    "eight vectors. In the second two queries share a key and a value, four vectors. "
    "In the third all four share one, two vectors.",
)

# %% [markdown]
# ## Task 3.1
#
# How many bytes does one token of a text leave in the caches of all `num_layers` layers?
#
# Attention with heads comes as an `MHAConfig`, with `num_heads`, `num_kv_heads` and `d_head`.
# MHA, GQA and MQA are all of this kind: they differ in `num_kv_heads`.
# In each layer it keeps a key and a value for each key-value head, both `d_head` numbers wide.
#
# Latent attention comes as an `MLAConfig`, with `num_heads`, `d_latent_kv`, `d_latent_q`, `d_nope`, `d_rope` and `d_value`.
# In each layer it keeps one latent, `d_latent_kv` numbers wide, and one rotary key, `d_rope` wide, and all heads use the two.
# (What they are is the subject of the tasks 3.4 to 3.6.)
#
# Each number takes `bytes_per_number` bytes.
# Not all of the fields play a part.


# %%
def cache_bytes(
    attention: MHAConfig | MLAConfig, num_layers: int, bytes_per_number: int
) -> int:
    """Bytes that one token of one sequence takes in the caches of all layers."""
    ### BEGIN SOLUTION
    if isinstance(attention, MLAConfig):
        numbers = attention.d_latent_kv + attention.d_rope
    else:
        numbers = 2 * attention.num_kv_heads * attention.d_head
    return num_layers * numbers * bytes_per_number
    ### END SOLUTION


# %%
check.task_3_1(cache_bytes)

# %%
cache_bytes = pieces.use("mla.cache_bytes", cache_bytes)

# %% [markdown]
# > **Predict.** DeepSeek-V3 has 128 heads in 61 layers, with a latent of 512 numbers and a rotary key of 64. Qwen2.5-72B has 80 layers and 8 key-value heads of 128. Which of the two keeps more of a token, and how many times as much?

# %%
v3, qwen, llama = config.deepseek_v3(), config.qwen_72b(), config.llama_405b()
plain = replace(v3, attention=MHAConfig(num_heads=128, num_kv_heads=128, d_head=128))
models = {"DeepSeek-V3": v3, "Qwen2.5-72B": qwen, "LLaMA-3.1-405B": llama}
models["V3, were its heads plain"] = plain
sizes = {
    name: cache_bytes(c.attention, c.num_layers, bytes_per_number=2)
    for name, c in models.items()
}
own = sizes["DeepSeek-V3"]
table(
    [(name, size, size / own, 80e9 / size) for name, size in sizes.items()],
    {"": "", "bytes a token": ",d", "times V3's": ".2f", "tokens in 80 GB": ",.0f"},
    caption="What a token leaves in the cache, two bytes a number.",
)

# %% [markdown]
# The first three numbers are published, and yours agree with them.
# (The paper prints 7.28 for LLaMA's factor; its own bytes give what stands here.)
# LLaMA keeps half a million bytes of each token, which is about four letters of text.
# With plain heads, a card that holds nothing but the cache would be full after twenty thousand tokens.

# %% [markdown]
# ## Task 3.2
#
# Now the memory itself.
# It is a tensor with room for S positions that somebody allocated beforehand, and its first `length` rows are filled.
# What lies in the others is whatever lay there before.
# Write the T positions of `new` behind those that are filled, *into* this tensor.
# Return the filled part, as a view (a slice is one: it shares the tensor's memory), and the new length.
#
# Positions are the dim before the last; any dims may stand in front of them, such as sequences and heads.
# Where there is no room for all of `new`, raise a `ValueError` and write nothing.

# %%
pictures.buffer(room=8, length=3, new=2).captioned(
    "A memory with room for eight positions: three were there, two are written now.",
    alt="A row of eight boxes. Boxes 0 to 2 were there before, 3 and 4 are new, 5 to 7 "
    "are free. A bracket marks the first three as the length of before, another the "
    "first five as what comes back.",
)


# %%
def remember(
    memory: Float[Tensor, "... S d"], length: int, new: Float[Tensor, "... T d"]
) -> tuple[Float[Tensor, "... filled d"], int]:
    """Write the newest positions behind the others; all of them, and how many."""
    ### BEGIN SOLUTION
    end = length + new.shape[-2]
    if end > memory.shape[-2]:
        raise ValueError(f"room for {memory.shape[-2]} positions, asked {end}")
    memory[..., length:end, :] = new
    return memory[..., :end, :], end
    ### END SOLUTION


# %%
check.task_3_2(remember)

# %%
remember = pieces.use("mla.remember", remember)

# %% [markdown]
# The proof: read a text once as a whole, and once token by token with your memory.
# Four heads of torch's own attention do the rest.

# %%
D, HEADS, WIDTH, LENGTH = 32, 4, 16, 60
generator = torch.Generator().manual_seed(0)
w_q, w_k, w_v = torch.randn(3, HEADS * WIDTH, D, generator=generator) / D**0.5
states = torch.randn(1, LENGTH, D, generator=generator)


def split(x: Float[Tensor, "B T D"], w: Float[Tensor, "M D"]) -> Tensor:
    """One product, and the heads apart: "B H T d"."""
    return rearrange(x @ w.T, "B T (H d) -> B H T d", d=WIDTH)


q, k, v = (split(states, w) for w in (w_q, w_k, w_v))
at_once = F.scaled_dot_product_attention(q, k, v, is_causal=True)

# %%
keys, values = torch.empty(2, 1, HEADS, LENGTH, WIDTH)
length, answers = 0, []
for t in range(LENGTH):
    token = states[:, t : t + 1]
    past_keys, _ = remember(keys, length, split(token, w_k))
    past_values, length = remember(values, length, split(token, w_v))
    answers.append(
        F.scaled_dot_product_attention(split(token, w_q), past_keys, past_values)
    )
gap = (torch.cat(answers, dim=2) - at_once).abs().max()
print(f"token by token and as a whole differ by {gap:.0e}")
print(f"keys made: {LENGTH}; without a memory: {LENGTH * (LENGTH + 1) // 2:,}")

# %% [markdown]
# They agree up to rounding, and no mask was needed: when a token is read alone, everything in the memory lies before it.
#
# Could the memory not begin empty, and grow with `torch.cat`?
# It would be right as well.
#
# > **Predict.** A thousand tokens are written. How many times as many bytes does a cache that grows by `torch.cat` move, compared with yours: 2, 50 or 500?

# %%
TOKENS = 1000
new = torch.randn(1, 8, 1, 64, generator=generator)
start, grown = time.perf_counter(), new[:, :, :0]
for _ in range(TOKENS):
    grown = torch.cat([grown, new], dim=2)
by_cat = time.perf_counter() - start

memory, length = torch.empty(1, 8, TOKENS, 64), 0
start = time.perf_counter()
for _ in range(TOKENS):
    filled, length = remember(memory, length, new)
written = time.perf_counter() - start
moved = sum(range(1, TOKENS + 1)) * new.nbytes
megabytes = [f"{size / 1e6:,.0f} MB" for size in (moved, memory.nbytes)]
print(f"written by torch.cat: {megabytes[0]}, by you: {megabytes[1]}")
print(f"torch.cat takes {by_cat / written:.0f} times as long")

# %% [markdown]
# Five hundred times: on average it is half full, and all of that is copied for one more row.
# (The time differs less, because to start an operation takes a while, however small it is.)
# And for a moment the old and the new stand side by side, which takes twice the memory.

# %% [markdown]
# ## Task 3.3
#
# The attention of lab 1, for a model that goes on writing.
# Three things are new.
#
# 1. **Sharing.** There are H query heads and G key-value heads. The first H / G query heads read key-value head 0, the next H / G read head 1, and so on.
# 2. **A past.** There are S keys, but only the newest T positions ask, so query t stands at position S − T + t. It sees the keys up to its own position.
# 3. **Padding.** Texts of unequal length stand in one table, the shorter ones filled up at their beginning. `hidden` is True where a position is such padding, and no query of that text may see it.
#
# Scores are divided by the square root of a query's width.
# A value may have another width than a key.
# A query that stands at padding may see nothing at all; nobody will read what comes out there, but let it be finite numbers, not NaN.

# %%
pictures.who_sees(num_keys=7, num_queries=3, padding=2).captioned(
    "Three new queries and seven keys of one text, of which the first two are padding. "
    "Green is seen.",
    alt="A table of three rows, one a query, and seven columns, one a key. The first "
    "two columns are padding. Query 0 sees keys 2 to 4, query 1 keys 2 to 5, query 2 "
    "keys 2 to 6.",
)


# %%
def grouped_attention(
    q: Float[Tensor, "B H T qk"],
    k: Float[Tensor, "B G S qk"],
    v: Float[Tensor, "B G S v"],
    hidden: Bool[Tensor, "B S"],
) -> Float[Tensor, "B H T v"]:
    """The newest T positions attend to all S; H / G query heads share a key head."""
    ### BEGIN SOLUTION
    sharers = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(sharers, dim=1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    T, S = scores.shape[-2:]
    future = torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)
    closed = future | hidden[:, None, None, :]
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(closed, lowest).softmax(dim=-1) @ v
    ### END SOLUTION


# %%
check.task_3_3(grouped_attention)

# %%
grouped_attention = pieces.use("mla.grouped_attention", grouped_attention)

# %% [markdown]
# First the past.
# A server reads a prompt in pieces, then writes token by token: here forty positions, then seventeen, then one, one and one.
# Two key-value heads serve the four query heads.

# %%
GROUPS = 2
w_k, w_v = w_k[: GROUPS * WIDTH], w_v[: GROUPS * WIDTH]
nobody = torch.zeros(1, LENGTH, dtype=torch.bool)
whole = grouped_attention(*(split(states, w) for w in (w_q, w_k, w_v)), nobody)
keys, values = torch.empty(2, 1, GROUPS, LENGTH, WIDTH)
length, answers = 0, []
for part in states.split([40, 17, 1, 1, 1], dim=1):
    past_keys, _ = remember(keys, length, split(part, w_k))
    past_values, length = remember(values, length, split(part, w_v))
    q = split(part, w_q)
    answers.append(grouped_attention(q, past_keys, past_values, nobody[:, :length]))
gap = (torch.cat(answers, dim=2) - whole).abs().max()
print(f"in five parts and as a whole differ by {gap:.0e}")
print(f"bytes of keys and values: {keys.nbytes + values.nbytes:,}")

# %% [markdown]
# Then the padding.
# The text of sixty positions and the last nine of another share one table, so fifty-one places before the nine must be filled with something.
#
# > **Predict.** Fill them with numbers that are a million times too large. By how much does that change the nine results, compared with reading the nine alone?

# %%
short = torch.randn(1, 9, D, generator=generator)
rubbish = 1e6 * torch.randn(1, LENGTH - 9, D, generator=generator)
both = torch.cat([states, torch.cat([rubbish, short], dim=1)])
hidden = torch.zeros(2, LENGTH, dtype=torch.bool)
hidden[1, :-9] = True
q, k, v = (split(both, w) for w in (w_q, w_k, w_v))
q_alone, k_alone, v_alone = (split(short, w) for w in (w_q, w_k, w_v))
alone = grouped_attention(q_alone, k_alone, v_alone, hidden[:1, :9])
for name, mask in (("hidden", hidden), ("not hidden", torch.zeros_like(hidden))):
    together = grouped_attention(q, k, v, mask)[1:, :, -9:]
    print(f"padding {name}: off by {(together - alone).abs().max():.0e}")

# %% [markdown]
# A weight of exactly 0 makes no difference between rubbish and nothing, as long as the rubbish is a number: 0 · NaN would still be NaN.
#
# Sharing halves the cache here, and costs something: two heads that once knew different things now read the same keys.
# Can all heads have their own and the cache still be small?

# %% [markdown]
# ## Task 3.4
#
# All keys and values of a token are made from one vector, its state.
# So they cannot know more than the state does, and most of that is not about keys and values.
# Latent attention squeezes it through a narrow place: a few numbers, the *latent*, from which every head makes what it needs.
# The latent is what the cache keeps.
#
# Make it: a product with `down`, which has a row for each number of the latent, then a norm.
# The norm divides a token's latent by the square root of its mean square (the mean over the latent's own numbers, plus `eps`), and multiplies each number by its `gain`.


# %%
def compress(
    x: Float[Tensor, "B T D"],
    down: Float[Tensor, "latent D"],
    gain: Float[Tensor, " latent"],
    eps: float,
) -> Float[Tensor, "B T latent"]:
    """What the cache keeps of each token: few numbers, of mean square 1 times gain."""
    ### BEGIN SOLUTION
    latent = x @ down.T
    mean_square = latent.square().mean(dim=-1, keepdim=True)
    return gain * latent / (mean_square + eps).sqrt()
    ### END SOLUTION


# %%
check.task_3_4(compress)

# %%
compress = pieces.use("mla.compress", compress)

# %% [markdown]
# The first layer of tiny_lm's `tiny`, untrained, reads a line of Python.
# A state has 128 numbers there, a latent 64.
#
# > **Predict.** Make every state a thousand times as large. What becomes of the latents?

# %%
tiny = model.LanguageModel(replace(config.tiny(), fp8=None))
layer, sizes = tiny.blocks[0], config.tiny().attention
text = data.encode("for name, value in sorted(table.items()):")
with torch.no_grad():
    states = layer.attention_norm(tiny.embedding(text[None]))
    down = layer.attention.kv_down.weight[: sizes.d_latent_kv]
    gain = layer.attention.kv_norm.weight
    latent = compress(states, down, gain, eps=1e-6)
    large = compress(1000 * states, down, gain, eps=1e-6)
before = (states @ down.T).square().mean(-1)[0]
print("mean squares before the norm:", [f"{m:.3f}" for m in before[:6].tolist()])
after = latent.square().mean(-1)[0]
print("after it:                    ", [f"{m:.3f}" for m in after[:6].tolist()])
print(f"a thousand times the state: latents move by {(large - latent).abs().max():.0e}")

# %% [markdown]
# Next to nothing: the norm takes the size away and keeps the direction.
# So the maps that read the latent meet numbers of one size, whatever the token.
# They are trained on these, so the *normalised* latent is what has to be kept.

# %% [markdown]
# ## Task 3.5
#
# Back up.
# One product with `up` makes all keys and values of all heads from a latent.
# The rows of `up` stand head by head: `d_nope` rows for the key of head 0, then the rows for its value, then those of head 1, and so on.
# Return the keys, `(B, H, S, nope)`, and the values, `(B, H, S, v)`.
#
# (*nope* is for *no position*: these keys do not know where their token stands. That comes by another way, in the next task.)

# %%
pictures.rows_of_up(num_heads=2, d_nope=3, d_value=2).captioned(
    "The numbers that one latent is brought up to, for two heads with keys of three "
    "numbers and values of two.",
    alt="Two groups of five boxes, one a head. In each group the first three boxes are "
    "the key, the last two the value.",
)


# %%
def expand(
    latent: Float[Tensor, "B S latent"],
    up: Float[Tensor, "M latent"],
    num_heads: int,
    d_nope: int,
) -> tuple[Float[Tensor, "B H S nope"], Float[Tensor, "B H S v"]]:
    """Each head's keys and values, all made from the one latent of a token."""
    ### BEGIN SOLUTION
    per_head = (latent @ up.T).unflatten(-1, (num_heads, -1)).transpose(1, 2)
    return per_head[..., :d_nope], per_head[..., d_nope:]
    ### END SOLUTION


# %%
check.task_3_5(expand)

# %%
expand = pieces.use("mla.expand", expand)

# %% [markdown]
# Keys and values of the four heads of `tiny` are 256 numbers a token.
#
# > **Predict.** Lay those of a thousand tokens below each other, a table of 1,000 × 256. How many directions does it have, that is, how many of its singular values are not zero?

# %%
states = torch.randn(1, 1000, 128, generator=generator)  # nothing in them is alike
with torch.no_grad():
    latent = compress(states, down, gain, eps=1e-6)
    up = layer.attention.kv_up.weight
    keys, values = expand(latent, up, sizes.num_heads, sizes.d_nope)
made = rearrange(torch.cat([keys, values], dim=-1), "B H S d -> (B S) (H d)")
for name, rows in (("states", states[0]), ("keys and values", made)):
    singular = torch.linalg.svdvals(rows)
    directions = (singular > 1e-4 * singular[0]).sum()
    print(f"{name}: {rows.shape[1]} numbers, {directions} directions")

# %%
rows = []
for name, c in (
    ("tiny_dense, four plain heads", config.tiny_dense()),
    ("tiny", tiny.config),
):
    rows.append((name, cache_bytes(c.attention, c.num_layers, bytes_per_number=4)))
table(rows, {"": "", "bytes a token": ",d"}, caption="Four layers, 32-bit numbers.")

# %% [markdown]
# Sixty-four, as many as the latent has numbers: what is made from it cannot have more.
# A trained model does not miss the others; the chapter [Latent attention](../chapters/03_mla/latent_attention.md) measures how many its keys and values need.
# So much for the memory.
# But now every latent of the text has to be brought up again for each new token, and none of the keys knows where it stands.
# The next tasks settle both.

# %% [markdown]
# ## What you have now

# %%
print(pieces.progress("03_mla"))
