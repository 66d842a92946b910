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
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tiny_lm import config, data, generate, mla, model
from tiny_lm.config import MHAConfig, MLAConfig
from tiny_lm.course.checks import hint, show_solution  # noqa: F401
from tiny_lm.course.checks import mla as check
from tiny_lm.course.figures import attention as sharing
from tiny_lm.course.figures import decoding as orders
from tiny_lm.course.figures import latent_lab as pictures
from tiny_lm.course.figures import rotary_key as rotary_pictures
from tiny_lm.course.figures.tables import table
from tiny_lm.course.labs import pieces
from tiny_lm.course.labs.steps import training_steps
from tiny_lm.layers import rotary_table, rotate
from tiny_lm.parallel import decode_tape

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
# ## Position travels apart
#
# Keys made from a latent know what was said, and not where.
# tiny_lm's models tell places by turning.
# `rotate(x, cos, sin)` takes the numbers of a query or a key in pairs of neighbours: (0, 1), (2, 3) and so on.
# It turns each pair by an angle that grows with the position.
# The tables `cos` and `sin` have a row for each position and a column for each pair; every pair has a speed of its own.
#
# > **Predict.** A query stands at position 5 and a key at position 3. Both move on by 100 positions. Does their product change? And if only the query moves on, by 1?

# %%
cos, sin = (table.float() for table in rotary_table(d_rope=8, max_len=512))
query, key = torch.randn(2, 1, 8, generator=generator)
for at, other in ((5, 3), (105, 103), (6, 3)):
    turned_query = rotate(query, cos[[at]], sin[[at]])
    turned_key = rotate(key, cos[[other]], sin[[other]])
    product = (turned_query * turned_key).sum()
    print(f"query at {at:3}, key at {other:3}: {product:.4f}")

# %% [markdown]
# The product depends on the distance alone.
# What the two positions have in common turns both alike and cancels.
#
# But a rotation between a query and a latent would forbid the shortcut of task 3.8: the latent of a place would have to be met by another query for every distance.
# (The chapter [Latent attention](../chapters/03_mla/latent_attention.md) shows it with four numbers.)
# So the content part is never turned, and position gets a narrow key of its own.
# A query has a rotary part for each head; the rotary key is *one for all heads*.

# %%
rotary_pictures.two_parts(num_heads=3).captioned(
    "A score compares content with content, head by head, and each head's rotary query "
    "with the one rotary key.",
    alt="On the left three rows, a head each: a grey box for the content query and a "
    "small green one for the rotary query. On the right one tall green box, the rotary "
    "key, to which the green queries of all heads lead, and behind it three grey boxes "
    "for the content keys.",
)

# %% [markdown]
# ## Task 3.6
#
# Return the scores of the newest T positions with all S, for every head.
# A score is the product of the content parts plus that of the rotary parts, and the sum is divided once: by the square root of the width of both parts together.
#
# The parts come as their matrices made them, so you turn the rotary ones, each by its own position, with tiny_lm's `rotate`.
# The keys stand at positions 0 to S − 1.
# The queries are the newest T of them: where a prefix of S − T tokens is there already, the first query stands at S − T.
# `cos` and `sin` begin at position 0 and may reach further than the text.
# No mask and no softmax yet.


# %%
def decoupled_scores(
    q_nope: Float[Tensor, "B H T nope"],
    q_rope: Float[Tensor, "B H T rope"],
    k_nope: Float[Tensor, "B H S nope"],
    k_rope: Float[Tensor, "B S rope"],
    cos: Float[Tensor, "places half"],
    sin: Float[Tensor, "places half"],
) -> Float[Tensor, "B H T S"]:
    """What the newest T of S positions have to do with all of them, before a mask."""
    ### BEGIN SOLUTION
    T, S = q_nope.shape[2], k_nope.shape[2]
    q_rope = rotate(q_rope, cos[S - T : S], sin[S - T : S])
    k_rope = rotate(k_rope, cos[:S], sin[:S])
    content = q_nope @ k_nope.transpose(-1, -2)
    position = q_rope @ k_rope.unsqueeze(1).transpose(-1, -2)
    return (content + position) / (q_nope.shape[-1] + q_rope.shape[-1]) ** 0.5
    ### END SOLUTION


# %%
check.task_3_6(decoupled_scores)

# %%
decoupled_scores = pieces.use("mla.decoupled_scores", decoupled_scores)

# %% [markdown]
# Let one token be repeated 96 times, and ask from the last of them.
# All latents are equal, so the content scores are equal too; the rest is position.

# %%
parts = [torch.randn(1, 1, 1, d, generator=generator) for d in (16, 8, 16, 8)]
q_nope, q_rope, k_nope, k_rope = parts
k_nope, k_rope = k_nope.expand(1, 1, 96, 16), k_rope[:, 0].expand(1, 96, 8)
joint = decoupled_scores(q_nope, q_rope, k_nope, k_rope, cos, sin)
content = decoupled_scores(q_nope, 0 * q_rope, k_nope, k_rope, cos, sin)
plt.figure(figsize=(6, 3))
for scores, color, name in (
    (content, "#6E6E6E", "content"),
    (joint, "#009E73", "both"),
):
    plt.plot(range(95, -1, -1), scores.flatten(), color=color)
    plt.text(96, scores.flatten()[0], name, color=color, va="center")
plt.xlabel("distance from the query")
plt.ylabel("score")
plt.xlim(0, 110)
plt.show()

# %% [markdown]
# Grey knows nothing of distance.
# Green is grey plus four waves, one for each pair of the eight rotary numbers, the slowest of which hardly moves within this text.
# Out of such waves a head can put together *the token before this one*, or *not far from here*.

# %% [markdown]
# ## What has to be kept
#
# A token will be read by all later ones.
# They need its latent, from which its keys and values can be made, and its rotary key.
# Nothing else is kept, and nothing of it is counted by heads.
#
# > **Predict.** DeepSeek-V3 keeps a latent of 512 numbers and a rotary key of 64 in each layer. If each of its 128 heads had a rotary key of its own, how many times as large would the cache be?

# %%
large = v3.attention
kept = large.d_latent_kv + large.d_rope
by_heads = large.d_latent_kv + large.num_heads * large.d_rope
print(f"{kept} numbers a token and layer, or {by_heads:,}: {by_heads / kept:.0f} times")

# %%
rotary_pictures.rows(prefix=4, new=2).captioned(
    "A cache of six positions. The hand of each rotary key has turned by its position.",
    alt="Six columns, one a position. Each holds a tall box, the latent, and below it "
    "a small one with a white hand, the rotary key. From column to column the hand has "
    "turned further. The first four columns are grey and were there before, the last "
    "two are green and new.",
)

# %% [markdown]
# ## Task 3.7
#
# Return what T new tokens leave in the cache: for each of them one row, its normalised latent and behind it its rotary key, turned.
#
# One matrix makes both: the first rows of `down` give the latent, as many as `gain` is long, and the rest give the rotary key.
# The latent is normalised as in task 3.4, and the key is not.
# The key is turned and the latent is not.
# `start` tokens are in the cache already, so the first of the new ones stands at position `start`.


# %%
def latent_memory(
    x: Float[Tensor, "B T D"],
    down: Float[Tensor, "latent_rope D"],
    gain: Float[Tensor, " latent"],
    eps: float,
    cos: Float[Tensor, "places half"],
    sin: Float[Tensor, "places half"],
    start: int,
) -> Float[Tensor, "B T latent_rope"]:
    """What T tokens from `start` on leave behind: latents beside rotated keys."""
    ### BEGIN SOLUTION
    width, here = len(gain), slice(start, start + x.shape[1])
    latent = compress(x, down[:width], gain, eps)
    key = rotate(x @ down[width:].T, cos[here], sin[here])
    return torch.cat([latent, key], dim=-1)
    ### END SOLUTION


# %%
check.task_3_7(latent_memory)

# %%
latent_memory = pieces.use("mla.latent_memory", latent_memory)

# %% [markdown]
# Your memory from task 3.2 takes such rows without knowing what they mean.
# Fill one at once, and another in three calls.

# %%
x = torch.randn(1, 10, 64, generator=generator)
down = torch.randn(32 + 8, 64, generator=generator)
memories = [torch.empty(1, 10, 32 + 8) for _ in range(2)]
for memory, cuts in zip(memories, ([10], [4, 5, 1]), strict=True):
    length = 0
    for part in x.split(cuts, dim=1):
        rows = latent_memory(part, down, torch.ones(32), 1e-6, cos, sin, length)
        filled, length = remember(memory, length, rows)
print("the two differ by", f"{(memories[0] - memories[1]).abs().max():.0e}")

# %% [markdown]
# A token's row depends on the token and its position, and not on how the text was cut.
# So a cached prefix can serve many texts, as long as each goes on counting from its end.

# %% [markdown]
# ## Two orders
#
# The cache is small now.
# But who wants to attend needs keys, and you would make those of the whole context again for every token that you write.
# It can be avoided, because $q \cdot (W c) = (W^\top q) \cdot c$: instead of bringing every latent up to a key, bring the query down, once.
# The values have the same choice: bring every latent up and mix, or mix the latents and bring the mixture up.

# %%
orders.two_orders(latents=6).captioned(
    "One query and six latents. Every arrow with a W is a product with a matrix.",
    alt="Two drawings. On the left each of six green latents has an arrow up to a wide "
    "grey key, and the query meets the six keys. On the right the query has one arrow "
    "down to a narrow vector, which meets the six latents; one arrow leads up from the "
    "answer.",
)

# %% [markdown]
# ## Task 3.8
#
# Attend to the latents themselves.
# For head h, `w_uk[h]`, of shape `(nope, latent)`, would make the content key from a latent, and `w_uv[h]`, `(v, latent)`, the value; you may make neither.
# Carry the content queries down, put the rotary queries beside them, and they fit the rows of the memory.
# (The rotary queries are turned already, as the keys in the memory are.)
# Everything else is as it was: the root of nope + rope, the newest T of S positions, each of which sees the keys up to its own.
# `hidden` is True where a row of the memory is padding, which nobody may see; it never hides one of the newest T.
#
# What may not be spent: a product with `w_uk` or `w_uv` for each latent and head.


# %%
def absorbed_attention(
    q_nope: Float[Tensor, "B H T nope"],
    q_rope: Float[Tensor, "B H T rope"],
    memory: Float[Tensor, "B S latent_rope"],
    w_uk: Float[Tensor, "H nope latent"],
    w_uv: Float[Tensor, "H v latent"],
    hidden: Bool[Tensor, "B S"],
) -> Float[Tensor, "B H T v"]:
    """Attention of the newest T positions to all S, without a head's keys or values."""
    ### BEGIN SOLUTION
    T, S, latent = q_nope.shape[2], memory.shape[1], w_uk.shape[-1]
    query = torch.cat([q_nope @ w_uk, q_rope], dim=-1)
    scores = einsum(query, memory, "B H T d, B S d -> B H T S")
    scores = scores / (q_nope.shape[-1] + q_rope.shape[-1]) ** 0.5
    banned = torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)
    banned = banned | hidden[:, None, None]
    weights = scores.masked_fill(banned, -torch.inf).softmax(dim=-1)
    mixed = einsum(weights, memory[..., :latent], "B H T S, B S c -> B H T c")
    return mixed @ w_uv.transpose(-1, -2)
    ### END SOLUTION


# %%
check.task_3_8(absorbed_attention)

# %%
absorbed_attention = pieces.use("mla.absorbed_attention", absorbed_attention)

# %% [markdown]
# Both orders give the same numbers.
# What they take is another matter.
#
# > **Predict.** 8 heads, and a context of 2,048 latents. Which order is faster for one new token, and by how much? And for a prompt of 512 tokens, all of which ask at once?

# %%
H, LATENT, NOPE, ROPE = 8, 256, 64, 32
up = 0.1 * torch.randn(H * 2 * NOPE, LATENT, generator=generator)
w_uk, w_uv = rearrange(up, "(H d) c -> H d c", H=H).split(NOPE, dim=1)


def one_way(q_nope, q_rope, memory):
    """Absorbed: the queries go down."""
    nobody = torch.zeros(memory.shape[:2], dtype=torch.bool)
    return absorbed_attention(q_nope, q_rope, memory, w_uk, w_uv, nobody)


def other_way(q_nope, q_rope, memory):
    """Expanded: every latent is brought up to keys and values, for every head."""
    keys, values = expand(memory[..., :LATENT], up, H, NOPE)
    rotary = memory[:, None, :, LATENT:].expand(-1, H, -1, -1)
    query, keys = torch.cat([q_nope, q_rope], -1), torch.cat([keys, rotary], -1)
    nobody = torch.zeros(memory.shape[:2], dtype=torch.bool)
    return grouped_attention(query, keys, values, nobody)


# %%
def seconds(attend, *arguments):
    """The shortest of five runs."""
    runs = []
    for _ in range(5):
        start = time.perf_counter()
        attend(*arguments)
        runs.append(time.perf_counter() - start)
    return min(runs)


rows = []
for T, S in ((1, 2048), (512, 512)):
    q_nope = torch.randn(1, H, T, NOPE, generator=generator)
    q_rope = torch.randn(1, H, T, ROPE, generator=generator)
    memory = torch.randn(1, S, LATENT + ROPE, generator=generator)
    given = q_nope, q_rope, memory
    gap = (one_way(*given) - other_way(*given)).abs().max()
    print(f"{T:3} queries, {S:5,} latents: the two orders differ by {gap:.0e}")
    taken = [1e3 * seconds(order, *given) for order in (other_way, one_way)]
    rows.append((T, S, *taken, taken[0] / taken[1]))
columns = {
    "queries": "d",
    "latents": ",d",
    "expanded, ms": ".1f",
    "absorbed, ms": ".1f",
}
table(rows, columns | {"ratio": ".1f"}, caption="The same attention in two orders.")

# %% [markdown]
# One query goes down once, where thousands of latents would have to go up.
# With many queries it turns round: each of them compares vectors as wide as a latent, and the latents are brought up once for all.
# So a model trains expanded and writes absorbed, with the same weights.
# (By how much differs from machine to machine.)

# %% [markdown]
# ## Your attention
#
# You have all that attention needs.
# Here your functions take their seats in a layer of tiny_lm: the parameters are its own, and the work is yours.
# Without a cache it is the expanded form, for training; with one it is the absorbed form, for writing.
# `place` says where the tokens of a call stand: it holds their rows of cos and sin.
# (Queries go through a narrow place of their own, as in DeepSeek-V3. It saves nothing in the cache, and your `compress` serves it as well.)


# %%
class YourAttention(nn.Module):
    """The parameters of tiny_lm's latent attention, run by your functions."""

    def __init__(self, layer: mla.LatentAttention) -> None:
        super().__init__()
        self.layer, self.config = layer, layer.config
        self.new_cache, self.place = layer.new_cache, layer.place

    def forward(self, x, cache=None, place=None):
        a, c = self.layer, self.config
        q = compress(x, a.q_down.weight, a.q_norm.weight, a.q_norm.eps)
        q = rearrange(a.q_up(q), "B T (H d) -> B H T d", H=c.num_heads)
        q_nope, q_rope = q.split([c.d_nope, c.d_rope], dim=-1)
        if cache is None:
            y = self.expanded(x, q_nope, q_rope)
        else:
            y = self.absorbed(x, q_nope, q_rope, cache, place)
        return a.out(rearrange(y, "B H T v -> B T (H v)"))

    def expanded(self, x, q_nope, q_rope):
        a, c = self.layer, self.config
        down, gain = a.kv_down.weight, a.kv_norm.weight
        latent = compress(x, down[: len(gain)], gain, a.kv_norm.eps)
        k_nope, v = expand(latent, a.kv_up.weight, c.num_heads, c.d_nope)
        k_rope = x @ down[len(gain) :].T
        scores = decoupled_scores(q_nope, q_rope, k_nope, k_rope, a.cos, a.sin)
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        return scores.masked_fill(future, -torch.inf).softmax(dim=-1) @ v

    def absorbed(self, x, q_nope, q_rope, cache, place):
        a, norm = self.layer, self.layer.kv_norm
        angles = place.cos, place.sin  # their first row is the first new token's
        rows = latent_memory(x, a.kv_down.weight, norm.weight, norm.eps, *angles, 0)
        (store,) = cache.stores
        memory, cache.length = remember(store, cache.length, rows)
        q_rope = rotate(q_rope, *angles)
        nobody = torch.zeros(memory.shape[:2], dtype=torch.bool)
        return absorbed_attention(q_nope, q_rope, memory, *a.up_projections(), nobody)


# %% [markdown]
# Is it the same attention? Hold it against tiny_lm's, with the same weights, in double precision: a whole text at once, and the same text token by token through the cache.

# %%
theirs = mla.LatentAttention(sizes, d_model=128, max_len=512).double()
for weight in theirs.parameters():
    nn.init.normal_(weight, std=0.2, generator=generator)
ours = YourAttention(theirs)
x = torch.randn(2, 40, 128, generator=generator, dtype=torch.float64)
with torch.no_grad():
    whole, cache = theirs(x), ours.new_cache(2, 40)
    steps = [ours(x[:, t : t + 1], cache, ours.place(t, 1)) for t in range(40)]
    gaps = [(y - whole).abs().max() for y in (ours(x), torch.cat(steps, dim=1))]
print(f"at once: they differ by {gaps[0]:.0e}; token by token: by {gaps[1]:.0e}")

# %% [markdown]
# Now a model around it: two blocks, trained on the same text as in the other labs.

# %%
train_text, validation_text = data.split(data.default_corpus())
next_byte_batch = pieces.use("baseline.next_byte_batch")
SEQ_LEN, BATCH_SIZE = 64, 16
small = replace(
    config.tiny_dense(),
    num_layers=2,
    num_dense_layers=2,
    attention=sizes,
    init_std=0.08,
)
lm = model.LanguageModel(small)
for block in lm.blocks:
    block.attention = YourAttention(block.attention)

# %%
optimizer = torch.optim.AdamW(lm.parameters(), lr=4e-3, betas=(0.9, 0.95))
losses, generator = [], torch.Generator().manual_seed(0)
for step, gone in training_steps(250):
    for group in optimizer.param_groups:
        group["lr"] = 4e-3 * min(1, (step + 1) / 20, 1.05 - gone)
    inputs, targets = next_byte_batch(train_text, BATCH_SIZE, SEQ_LEN, generator)
    loss = lm.loss(torch.cat([inputs, targets[:, -1:]], dim=1)).total
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
    optimizer.step()
    losses.append(loss.item())
print(f"{len(losses)} steps, loss of the last ten: {sum(losses[-10:]) / 10:.2f} nats")

# %% [markdown]
# To write, the model reads tokens into its caches, one for each layer, and says what it would bet on next.
# `read` says so for a row of tokens of one text, of which the first stands at position `start`; `new_caches(room)` makes empty caches for `room` tokens.


# %%
@torch.no_grad()
def read(tokens, start, caches):
    """Logits after each of these tokens, which from now on are in the caches."""
    x = lm.embedding(tokens)[None]
    for block, cache in zip(lm.blocks, caches, strict=True):
        x, _ = block(x, cache, block.attention.place(start, len(tokens)))
    return lm.head(lm.norm(x))[0]


def new_caches(room):
    """An empty cache for each layer."""
    return [block.attention.new_cache(1, room) for block in lm.blocks]


# %% [markdown]
# ## Task 3.9
#
# Write the continuation of a prompt: `num_new` tokens, each the likeliest after all that stands before it.
#
# The caches are taken once, with room for the whole text.
# The prompt is read in one call, and the last row of its logits says which token comes first.
# From then on the model lacks one token only, the newest: read it, alone, at its own position.
# No token is read twice.
# (To read the very last one as well is needless, and allowed.)
#
# `read` takes a *row* of tokens, of shape `(n,)`, even if it is one; its logits are `(n, vocabulary)`.
# Return the new tokens, without the prompt.


# %%
def decode(
    read: Callable[[Int[Tensor, " n"], int, Any], Float[Tensor, "n V"]],
    new_caches: Callable[[int], Any],
    prompt: Int[Tensor, " T"],
    num_new: int,
) -> Int[Tensor, " num_new"]:
    """The likeliest continuation of a prompt, token by token."""
    ### BEGIN SOLUTION
    caches = new_caches(len(prompt) + num_new)
    logits = read(prompt, 0, caches)
    tokens = [logits[-1].argmax()]
    while len(tokens) < num_new:
        start = len(prompt) + len(tokens) - 1
        logits = read(tokens[-1].view(1), start, caches)
        tokens.append(logits[-1].argmax())
    return torch.stack(tokens)
    ### END SOLUTION


# %%
check.task_3_9(decode)

# %%
decode = pieces.use("mla.decode", decode)

# %% [markdown]
# Your model, your attention, your loop.
#
# > **Predict.** It writes 200 bytes after a prompt of 24. How many tokens pass through it? How many would it be if the whole text were read again for each?

# %%
passed = []


def counting(tokens, start, caches):
    """As `read`, and notes how many tokens it was given."""
    passed.append(len(tokens))
    return read(tokens, start, caches)


prompt = data.encode("    def __init__(self, n").long()
written = decode(counting, new_caches, prompt, 200)
print(data.decode(torch.cat([prompt, written])))
again = sum(len(prompt) + n for n in range(200))
print(f"\n{sum(passed)} tokens were read, in {len(passed)} calls; else {again:,}")

# %% [markdown]
# Always the likeliest byte: so it soon goes round in circles, as small models do when nothing is left to chance.
# Drawn as in lab 1, from the same model with the same attention of yours:

# %%
print(generate.generate(lm, "    def __init__(self, n", 200))

# %% [markdown]
# ## Memory, really taken
#
# Your formula of task 3.1 says what a token leaves behind.
# Here are four models that differ in their attention alone, each with caches for 500 tokens: how many bytes do their tensors hold?

# %%
kinds = {
    name: MHAConfig(num_heads=4, num_kv_heads=n, d_head=32)
    for name, n in (("MHA", 4), ("GQA", 2), ("MQA", 1))
}
rows = []
for name, attention in (kinds | {"MLA": sizes}).items():
    made = model.LanguageModel(replace(small, attention=attention))
    taken = made.new_context(batch_size=1, max_len=500).num_bytes
    rows.append((name, taken, 500 * cache_bytes(attention, small.num_layers, 4)))
table(
    rows,
    {"": "", "bytes taken": ",d", "by your formula": ",d"},
    caption="Caches of two layers for 500 tokens, 32-bit numbers.",
)

# %% [markdown]
# To the byte, for a cache that takes its room at once and keeps nothing beside the numbers.
# (With heads as narrow as these, one key-value head is smaller still than a latent.)
# The shape of DeepSeek-V3 spreads them further: 128 heads, 61 layers, two bytes a number.
#
# > **Predict.** One token is written on an H800, after 128 thousand others. Which takes longest: plain attention with its large cache, the latent cache whose keys and values are made anew for every token, or the latent cache with your task 3.8? Give the factors.

# %%
NAMED = {"mha": "MHA", "gqa": "GQA, 8", "mqa": "MQA"}
NAMED |= {"mla_expanded": "MLA, made anew", "mla_absorbed": "MLA, absorbed"}
contexts = [1024 * 4**n for n in range(3)] + [131_072]
found = {form: decode_tape.sweep(contexts, forms=[form]) for form in NAMED}
times = {name: [cost.step_s * 1e3 for cost in found[f]] for f, name in NAMED.items()}
sharing.growth(contexts, times, "emulated ms a token").captioned(
    "Emulated time of all attention layers for one token, at V3's shape on an H800.",
    alt="Five lines on logarithmic axes from one thousand to 128 thousand tokens. Plain "
    "attention and keys made anew rise steeply; grouped, multi-query and absorbed "
    "latent attention stay far below.",
)

# %%
last = {name: found[form][-1] for form, name in NAMED.items()}
table(
    [(name, cost.cache_bytes / 1e9, cost.step_s * 1e3) for name, cost in last.items()],
    {"attention": "", "cache, GB": ",.1f", "emulated ms a token": ",.1f"},
    caption="A context of 128 thousand tokens.",
)

# %% [markdown]
# The two latent caches are the same, to the byte.
# One of the programs that read it is the slowest of all, and the other is among the fastest: the small cache pays only together with absorption.
# (These times are emulated: work counted kernel by kernel, at rates measured on an H100. A real step is slower, and by how much differs by kind.)
#
# ## What this exercise does not show
#
# It does not show that latent attention predicts as well as plain attention.
# Your model read a quarter of a million bytes, and was compared with nothing.
# The chapter [Latent attention](../chapters/03_mla/latent_attention.md) has recorded runs with several seeds, and they decide less than one would like.
#
# Nor does it show speed on a GPU.
# There, the absorbed form with 128 heads uses each byte of its cache so often that arithmetic becomes the limit: the chapter [Absorption and decoding](../chapters/03_mla/absorption.md) places it on a roofline.
#
# ## What you have now
#
# Nine pieces in the folder `my_pieces`: a memory that never copies, attention that shares its keys, and latent attention in both of its orders.
# The class `YourAttention` shows how they fit a layer of tiny_lm; the model of the last part is made of them.

# %%
print(pieces.progress("03_mla"))
