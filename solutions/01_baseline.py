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
# # Lab 1 · A language model, and what it costs
#
# A language model reads bytes and says how likely each next byte is.
# That is all it does.
# In this lab you write the six functions that turn this sentence into a program.
# One scores it, one feeds it, one lets it look back, one prices it, one teaches it, one lets it speak.
# At the end a model made of *your* functions trains in this notebook for 400 steps, about half a minute, and writes Python of its own.
#
# You need Python and a little PyTorch.
# The chapters [Why cost decides](../chapters/01_baseline/cost.md) and [A language model is a probability machine](../chapters/01_baseline/probability_machine.md) tell the story behind each task.
#
# **How a task works.** Replace the last line of the stub, run it, run the check below it.
# The check says which property fails, on which input, and often which mistake does just that.
# `hint(1)`, `hint(2)` and `hint(3)` go from a nudge to almost the line; nobody counts them.
# `show_solution()` shows ours once you have tried.
# Below each check, `pieces.use` hands on your function if it passed and tiny_lm's own if not, so you can skip a task and come back.
# (*Run all* stops at the first task that is not solved: go on below it by hand.)

# %%
import lzma
import math
import time
import zlib

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from tiny_lm import costs, data
from tiny_lm.course.checks import baseline as check
from tiny_lm.course.checks import hint, show_solution  # noqa: F401
from tiny_lm.course.figures import lab_pictures
from tiny_lm.course.labs import pieces
from tiny_lm.course.labs.steps import training_steps
from tiny_lm.layers import RMSNorm, SwiGLU, rotary_table, rotate

torch.set_num_threads(1)  # matrices as small as ours gain nothing from a second

# %% [markdown]
# The text to learn from is on your machine already: the source of Python's standard library, and the texts behind `help()`.
# A twentieth of it is kept apart, whole files that the model never trains on.

# %%
corpus = data.default_corpus()
train, validation = data.split(corpus)
print(f"{len(train):,} bytes to train on, {len(validation):,} kept apart")
print(data.decode(validation[20_000:20_400]))

# %% [markdown]
# > **Predict.** A model that knows nothing needs 8 bits for each byte of this text.
# > How many are needed by a table of how often each byte occurs? How many by `zlib`, the program behind every `.zip` file?
# > And how many by the model that you will train here for 400 steps: will it beat `zlib`?
# > Write three numbers down.

# %% [markdown]
# ## Task 1.1
#
# A byte that the model gave the probability 1/8 costs 3 bits: that is how long its code would be in a perfect compressor.
# Given the model's logits, one row a position, and the bytes that came, return the mean cost of a byte, in bits.
# A model can be sure and wrong: a logit of 1000 on the wrong byte must cost much, not infinity.


# %%
def bits_per_byte(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Mean bits that the model spends on the byte that came."""
    ### BEGIN SOLUTION
    nats = F.cross_entropy(logits, targets)
    return nats / math.log(2)
    ### END SOLUTION


# %%
check.task_1_1(bits_per_byte)

# %%
bits_per_byte = pieces.use("baseline.bits_per_byte", bits_per_byte)

# %% [markdown]
# With a way to score, we can rank some very simple models: their "logits" are logarithms of counts.
# `bigrams` knows for each byte which bytes follow it, and nothing else.

# %%
counts = torch.bincount(train.long(), minlength=256) + 1.0
bytes_after = train[:-1].long() * 256 + train[1:].long()
pairs = torch.bincount(bytes_after, minlength=256 * 256).view(256, 256) + 0.1
before, after = validation[:-1].long(), validation[1:].long()
text = data.decode(validation).encode()
ladder = {
    "knows nothing": 8.0,
    "frequencies": float(bits_per_byte(counts.log().expand(len(after), -1), after)),
    "bigrams": float(bits_per_byte(pairs.log()[before], after)),
    "zlib": 8 * len(zlib.compress(text, 9)) / len(text),
    "lzma": 8 * len(lzma.compress(text)) / len(text),
}
for name, bits in ladder.items():
    print(f"{name:>14} {bits:5.2f}  {'█' * round(8 * bits)}")

# %% [markdown]
# Compressors are good language models.
# They see nothing of the training text, and still need less than half of what a table of frequencies needs, because they look back: *this word came before, a hundred bytes ago*.
# To get below the bigrams your model must look back too.

# %% [markdown]
# ## Task 1.2
#
# A model learns from windows of the text: it reads T bytes and is asked, at each of them, for the byte that comes next.
# Draw `batch_size` windows that start anywhere in the text where they fit, and return the bytes and their successors, both `(B, T)` and int64.
# The draw comes from `generator` alone, so that a run can be repeated.

# %%
lab_pictures.windows().captioned(
    "Two windows of four bytes: `inputs` and, one byte further, `targets`.",
    alt="The letters of a text in a row. Below, two windows of four letters each, and "
    "under each window its targets, which start one letter further right.",
)


# %%
def next_byte_batch(
    tokens: UInt8[Tensor, " N"],
    batch_size: int,
    seq_len: int,
    generator: torch.Generator,
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Windows of the text, and the byte after each of their bytes."""
    ### BEGIN SOLUTION
    num_starts = len(tokens) - seq_len
    starts = torch.randint(num_starts, (batch_size,), generator=generator)
    both = tokens[starts[:, None] + torch.arange(seq_len + 1)].long()
    return both[:, :-1], both[:, 1:]
    ### END SOLUTION


# %%
check.task_1_2(next_byte_batch)

# %%
next_byte_batch = pieces.use("baseline.next_byte_batch", next_byte_batch)

# %% [markdown]
# One row of a batch, as the model meets it.
# Each line is a question of its own, and all of them are answered in one pass.
# This is why training a language model uses a chip so well, and why generating, one byte after the other, uses it so badly.

# %%
inputs, targets = next_byte_batch(train, 4, 12, torch.Generator().manual_seed(1))
row = max(range(4), key=lambda b: len(inputs[b].unique()))
for t in range(inputs.shape[1]):
    read = data.decode(inputs[row, : t + 1])
    print(f"{read!r:>20} → {data.decode(targets[row, t : t + 1])!r}")

# %% [markdown]
# ## Task 1.3
#
# Attention is how a position looks back.
# Its query is compared with the keys of all positions up to its own; a softmax turns the scores into weights; the result is the weighted mean of the values.
# `num_heads` of these run side by side, each on its own `d = D / num_heads` neighbouring columns, with scores divided by `sqrt(d)`.
# Write it from matrix products, a mask and a softmax; nothing from the future may get through, however large a score is.
#
# > **Predict.** You double the number of heads and keep D. How many more multiplications do the scores take?

# %%
lab_pictures.heads().captioned(
    "Six columns shared by two heads: three neighbouring columns and a table of scores "
    "each.",
    alt="A matrix of four positions and six columns, three columns dark and three light. "
    "Beside it a four by four table for each head, filled on and below its diagonal.",
)


# %%
def attention(
    q: Float[Tensor, "B T D"],
    k: Float[Tensor, "B T D"],
    v: Float[Tensor, "B T D"],
    num_heads: int,
) -> Float[Tensor, "B T D"]:
    """Each position mixes the values of the positions up to its own, head by head."""
    ### BEGIN SOLUTION
    q, k, v = (rearrange(x, "B T (H d) -> B H T d", H=num_heads) for x in (q, k, v))
    T, d = q.shape[-2:]
    scores = q @ k.transpose(-1, -2) / math.sqrt(d)
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
    return rearrange(weights @ v, "B H T d -> B T (H d)")
    ### END SOLUTION


# %%
check.task_1_3(attention)

# %%
attention = pieces.use("baseline.attention", attention)

# %% [markdown]
# Twice the heads take no more multiplications: there are twice as many scores, and each is a sum over half as many columns.
#
# To *see* the weights, hand attention the identity as values: the weighted mean of unit vectors is the row of weights.
# Here every letter is its own query and its own key, so attention becomes a search: each letter finds its earlier copies.

# %%
letters = "tiny models, tiny costs"
T = len(letters)
first_seen = torch.tensor([letters.index(letter) for letter in letters])
one_hot = 6 * F.one_hot(first_seen, T).float()[None]
weights = attention(one_hot, one_hot, torch.eye(T)[None], num_heads=1)[0]
plt.figure(figsize=(6, 5))
plt.imshow(weights, cmap="Greys", vmin=0)
plt.colorbar(label="weight", shrink=0.8)
plt.xticks(range(T), letters)
plt.yticks(range(T), letters)
plt.xlabel("looks at")
plt.ylabel("letter")
plt.show()

# %% [markdown]
# ## Task 1.4
#
# Before anything is trained, somebody has to pay for it.
# Return the number of parameters of a dense transformer, and the FLOPs that training spends on one token, forward and backward; a multiply and an add are two FLOPs.
#
# - Once: an embedding `V × D`, a head `D × V` of its own, a norm of D weights before the head.
# - In each of the L layers: attention with four matrices `D × D`; a SwiGLU feed-forward with three matrices between D and `d_ffn`; two norms of D weights.
# - A product with a weight costs 2 FLOPs a token, and its backward pass twice that.
# - Attention has two more products, without a weight: queries with keys, weights with values. A token sees `seq_len / 2` keys on average, its own head widths adding up to D.
# - Norms and softmax are small change: leave them out of the FLOPs, or count 6 for each norm weight, as you like.
#
# > **Predict.** "Attention is quadratic, so it eats the budget." Take a model with 7 billion parameters and sequences of 4,096 tokens: what share of its training FLOPs are those two products? 8 %, 40 % or 90 %?


# %%
def dense_cost(
    vocab_size: int, d_model: int, num_layers: int, d_ffn: int, seq_len: int
) -> tuple[int, float]:
    """Parameters of a dense transformer, and FLOPs to train it on one token."""
    ### BEGIN SOLUTION
    embedding = vocab_size * d_model
    layer = 4 * d_model * d_model + 3 * d_model * d_ffn + 2 * d_model
    parameters = 2 * embedding + num_layers * layer + d_model
    seen = seq_len / 2
    core = num_layers * 2 * (2 * d_model) * seen
    return parameters, 6 * (parameters - embedding) + 3 * core
    ### END SOLUTION


# %%
check.task_1_4(dense_cost)

# %%
dense_cost = pieces.use("baseline.dense_cost", dense_cost)

# %%
seven_b = {"vocab_size": 32_000, "d_model": 4096, "num_layers": 32, "d_ffn": 11_008}
parameters, _ = dense_cost(**seven_b, seq_len=0)
print(f"{parameters / 1e9:.1f} billion parameters")
for seq_len in (1024, 4096, 16_384, 65_536, 262_144):
    (_, without), (_, flops) = (dense_cost(**seven_b, seq_len=s) for s in (0, seq_len))
    print(f"{seq_len:8,} tokens: {1 - without / flops:4.0%} in scores and mixing")

# %% [markdown]
# At 4,096 tokens the weights cost about twelve times as much as looking back.
# That is why the course spends more pages on the feed-forward, where two thirds of those weights are, than on the quadratic term; and why long contexts are another business.
#
# Your formula can tell how long the end of this lab will take on *your* machine, too.
# The model to come has two layers of width 96.
# First, how fast is this machine?

# %%
SHAPE = {"vocab_size": 256, "d_model": 96, "num_layers": 2, "d_ffn": 256}
NUM_HEADS, SEQ_LEN, BATCH_SIZE = 4, 64, 16
a = torch.randn(1024, 1024)
times = []
for _ in range(8):
    start = time.perf_counter()
    a @ a
    times.append(time.perf_counter() - start)
peak = 2 * 1024**3 / min(times)
parameters, flops = dense_cost(**SHAPE, seq_len=SEQ_LEN)
least_s = flops * BATCH_SIZE * SEQ_LEN / peak
print(f"{parameters:,} parameters, {flops / 1e6:.1f} million FLOPs a token")
print(f"this machine: {peak / 1e9:.0f} billion FLOP/s in a large matrix product")
print(
    f"so a step over {BATCH_SIZE} × {SEQ_LEN} tokens takes {1e3 * least_s:.1f} ms at least"
)

# %% [markdown]
# ## Task 1.5
#
# A training step forgets the old gradients, measures the loss on a batch, gets the new gradients, shortens them if they are longer than `max_norm` together, and moves the weights.
# `model(inputs)` gives logits `(B, T, V)`.
# Return the loss in nats per byte, as it was before the step.
#
# > **Predict.** You forget `optimizer.zero_grad()`. What happens: an error, a loss that grows, or a loss that falls?


# %%
def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Int[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
    max_norm: float,
) -> float:
    """Lower the loss on one batch; return what it was before, in nats per byte."""
    ### BEGIN SOLUTION
    optimizer.zero_grad()
    loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return loss.item()
    ### END SOLUTION


# %%
check.task_1_5(training_step)

# %%
training_step = pieces.use("baseline.training_step", training_step)

# %% [markdown]
# The smallest model to try your step on is a table: 256 logits for each byte, all zero at first.
# Here it is trained twice, the second time with the erasing switched off.


# %%
def train_table(erase: bool) -> list[float]:
    """Losses of a table of bigrams over 60 steps."""
    table = nn.Embedding(256, 256)
    nn.init.zeros_(table.weight)
    optimizer = torch.optim.AdamW(table.parameters(), lr=0.3)
    if not erase:
        optimizer.zero_grad = table.zero_grad = lambda *_, **__: None
    generator = torch.Generator().manual_seed(0)
    batches = (next_byte_batch(train, 32, 64, generator) for _ in range(60))
    return [training_step(table, optimizer, *batch, max_norm=1.0) for batch in batches]


plt.figure(figsize=(6, 3))
plt.plot(train_table(erase=True), "k-", label="your step")
plt.plot(train_table(erase=False), "k--", label="gradients never erased")
plt.axhline(ladder["bigrams"] * math.log(2), color="#6E6E6E", linestyle=":")
plt.text(59, ladder["bigrams"] * math.log(2), "counting", ha="right", va="top")
plt.xlabel("step")
plt.ylabel("loss, nats per byte")
plt.legend()
plt.show()

# %% [markdown]
# No error, and for ten steps nobody could tell the two apart: a sum of old gradients still points roughly downhill.
# Then the old ones outvote the new one and the loss climbs.
# The dotted line is the table of counts from above, which your step finds again without ever counting.
#
# Remember the first ten steps: *mathematics that is wrong often trains*, for a while or a little worse, and nothing tells you.
# That is why every piece of this course has a check of its own.

# %% [markdown]
# ## Task 1.6
#
# To write, a model draws the next byte from its probabilities.
# Two knobs shape them first.
# *Temperature* divides the logits: below 1 the likely bytes gain, above 1 they lose.
# *Top-p* then keeps the likeliest bytes, as few as hold `top_p` of the probability together, the one that crosses the line included, and drops the tail.
# Return what is left, adding up to 1 again, each byte in its own place.


# %%
def next_byte_probabilities(
    logits: Float[Tensor, " V"], temperature: float, top_p: float
) -> Float[Tensor, " V"]:
    """What the next byte is drawn from."""
    ### BEGIN SOLUTION
    p = (logits / temperature).softmax(dim=-1)
    ordered, order = p.sort(descending=True)
    gone = ordered.cumsum(-1) - ordered >= top_p
    gone[0] = False  # the likeliest stays, even where top_p is 0
    kept = torch.zeros_like(p)
    kept[order] = ordered.masked_fill(gone, 0.0)
    return kept / kept.sum()
    ### END SOLUTION


# %%
check.task_1_6(next_byte_probabilities)

# %%
next_byte_probabilities = pieces.use(
    "baseline.next_byte_probabilities", next_byte_probabilities
)

# %% [markdown]
# ## All together
#
# Now the model.
# Only the wiring is new: a residual stream that every block reads and adds to, and a rotation that tells queries and keys where they stand.
# Everything that thinks is yours.


# %%
class Block(nn.Module):
    """Attention, then a feed-forward; each reads a normed copy and adds its result."""

    def __init__(self, d_model: int, d_ffn: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(RMSNorm(d_model, eps=1e-6) for _ in range(2))
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.ffn = SwiGLU(d_model, d_ffn)
        self.angles = [x.float() for x in rotary_table(d_model // NUM_HEADS, SEQ_LEN)]

    def turned(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        cos, sin = (angle[: x.shape[1]] for angle in self.angles)
        heads = rearrange(x, "B T (H d) -> B H T d", H=NUM_HEADS)
        return rearrange(rotate(heads, cos, sin), "B H T d -> B T (H d)")

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        q, k, v = self.qkv(self.norms[0](x)).chunk(3, dim=-1)
        x = x + self.out(attention(self.turned(q), self.turned(k), v, NUM_HEADS))
        return x + self.ffn(self.norms[1](x))


# %%
def make_model(vocab_size: int, d_model: int, num_layers: int, d_ffn: int) -> nn.Module:
    """Bytes to vectors, blocks, vectors to logits."""
    blocks = (Block(d_model, d_ffn) for _ in range(num_layers))
    model = nn.Sequential(
        nn.Embedding(vocab_size, d_model),
        *blocks,
        RMSNorm(d_model, eps=1e-6),
        nn.Linear(d_model, vocab_size, bias=False),
    )
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.dim() == 2:
            nn.init.normal_(weight, std=0.08, generator=generator)
    return model


model = make_model(**SHAPE)
exist = sum(p.numel() for p in model.parameters())
print(f"{exist:,} parameters exist, your formula said {parameters:,}")


# %%
@torch.no_grad()
def write(prompt: str, num_bytes: int, temperature: float, top_p: float) -> str:
    """Continue a prompt, byte by byte."""
    tokens = data.encode(prompt)[None]
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_bytes):
        logits = model(tokens[:, -SEQ_LEN:])[0, -1]
        p = next_byte_probabilities(logits, temperature, top_p)
        byte = torch.multinomial(p, 1, generator=generator)
        tokens = torch.cat([tokens, byte[None]], dim=1)
    return data.decode(tokens[0])


@torch.no_grad()
def validation_bits() -> float:
    """Bits per byte on the text kept apart: the same windows every time."""
    batch = next_byte_batch(validation, 512, SEQ_LEN, torch.Generator().manual_seed(0))
    return float(bits_per_byte(model(batch[0]).flatten(0, 1), batch[1].flatten()))


# %% [markdown]
# Four hundred steps: about twenty seconds on two idle cores, longer on a busy machine, and the same model on both.
# Watch the samples: first the frequencies come right, then the spaces at the start of a line, then words, then the look of Python.

# %%
optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, betas=(0.9, 0.95))
generator = torch.Generator().manual_seed(0)
losses, shown = [], 0
start = time.perf_counter()
for step, gone in training_steps(400):
    for group in optimizer.param_groups:
        group["lr"] = 8e-3 * min(1, (step + 1) / 20, 1.05 - gone)
    batch = next_byte_batch(train, BATCH_SIZE, SEQ_LEN, generator)
    losses.append(training_step(model, optimizer, *batch, max_norm=1.0))
    if gone >= shown / 4:
        print(f"step {step + 1:4}: {write('def ', 60, 0.8, 0.95)!r}")
        shown += 1
step_s = (time.perf_counter() - start) / len(losses)
print(
    f"{len(losses)} steps, {1e3 * step_s:.0f} ms each, instead of {1e3 * least_s:.1f}"
)
print(
    f"utilisation: {least_s / step_s:.0%} here, "
    f"{costs.v3_utilization():.0%} when DeepSeek-V3 was trained on 2,048 GPUs"
)

# %% [markdown]
# *Utilisation* is how much of what the machine can do went into the products that you counted.
# Small matrices leave it low here.
# On thousands of chips it decides the bill.

# %%
ladder["your model"] = validation_bits()
for name, bits in sorted(ladder.items(), key=lambda rung: -rung[1]):
    print(f"{name:>14} {bits:5.2f}  {'█' * round(8 * bits)}")

# %% [markdown]
# Compare with what you wrote down.
# 400 steps beat every table, and most likely not `zlib`: the compressor searches the last 32,768 bytes, your model sees 64 and has read a small part of the text.
# Take 2,000 steps above, or `SEQ_LEN = 128`, and see how far down the ladder you get.
#
# > **Predict.** With top-p 0.9, how many of the 256 bytes are left to draw from, at a typical position? Fewer than 10, about 40 or more than 100?

# %%
with torch.no_grad():
    logits = model(next_byte_batch(validation, 16, SEQ_LEN, generator)[0]).flatten(0, 1)
left = torch.stack([(next_byte_probabilities(x, 1.0, 0.9) > 0).sum() for x in logits])
print(f"median {int(left.median())}, largest {int(left.max())}")
for name, p in (("only one", left == 1), ("more than 20", left > 20)):
    print(f"{name}: {p.float().mean():.0%} of the positions")

# %%
for temperature, top_p in ((0.3, 1.0), (0.8, 0.95), (1.5, 1.0)):
    print(f"--- temperature {temperature}, top_p {top_p}")
    print(write("    def __init__(self", 240, temperature, top_p))

# %% [markdown]
# Cold, it repeats what is safest; hot, it invents bytes that no programmer typed.
#
# ## What you have now
#
# Six pieces, kept in the folder `my_pieces` beside this notebook; later labs build on them.
# On Colab that folder is gone when the machine is: `pieces.pack()` makes one small text file of it, and `pieces.load("my_pieces.txt")` brings it back.
#
# And you have a price list.
# Each of the next four parts makes one line of it smaller.
# With experts a token pays for a few of the parameters; with latent attention looking back fits into memory.
# With eight bits each product is cheaper; and communication hides behind the work.

# %%
print(pieces.progress("01_baseline"))
