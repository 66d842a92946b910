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
# # Lab 2 · A layer of experts
#
# Most of a language model's parameters stand in its feed-forward layers, and every token pays for all of them.
# In this lab you cut such a layer into experts and build what sends each token to a few of them.
# Then you watch it fail: left alone, a few experts take all the work and the others learn nothing.
# You write what keeps them busy, plug your layer into a language model, train it, and look at what its experts read.
#
# You need lab 1, or PyTorch and the idea of a transformer.
# The chapters [Conditional computation](../chapters/02_moe/conditional_computation.md) and [How to balance](../chapters/02_moe/balance.md) tell the story behind each task.
#
# **How a task works.** Replace the last line of the stub, run it, run the check below it.
# `hint(1)`, `hint(2)` and `hint(3)` go from a nudge to almost the line; `show_solution()` shows ours once you have tried.
# In a signature, `Float[Tensor, "N D"]` is a tensor of real numbers with N rows of width D, and `Int` one of whole numbers.
# N counts tokens, E experts, k a token's choices; B sequences have T tokens each.
# Below each check, `pieces.use` hands on your function if it passed and tiny_lm's own if not, so you can skip a task and come back.
# (*Run all* stops at the first task that is not solved: go on below it by hand.)

# %%
import re
import time
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from tiny_lm import config, costs, data, generate, model, moe
from tiny_lm.course.checks import hint, show_solution  # noqa: F401
from tiny_lm.course.checks import moe as check
from tiny_lm.course.figures import baseline as figures
from tiny_lm.course.figures import experts as drawings
from tiny_lm.course.labs import pieces
from tiny_lm.course.labs.steps import training_steps
from tiny_lm.layers import swiglu

torch.set_num_threads(1)  # matrices as small as ours gain nothing from a second

# %% [markdown]
# ## A feed-forward layer is experts already
#
# A SwiGLU widens a token to F numbers and narrows it again.
# Each of the F has its own two rows on the way in and its own column on the way out, and the results are added up.
# So the layer can be cut into groups of neighbours, each a small SwiGLU of its own, an *expert*.
#
# > **Predict.** You cut a layer of width 64 into 4 experts of width 16, let all of them read a token, and add up what they say. Is that the layer again: exactly, roughly, or not at all?

# %%
D, WIDTH, PARTS = 8, 64, 4
generator = torch.Generator().manual_seed(0)
wide_in = torch.randn(2 * WIDTH, D, generator=generator)  # gate and up, one matrix
wide_out = torch.randn(D, WIDTH, generator=generator)
token = torch.randn(D, generator=generator)

part_in = rearrange(wide_in, "(two E F) D -> E (two F) D", two=2, E=PARTS)
part_out = rearrange(wide_out, "D (E F) -> E D F", E=PARTS)
said = [part_out[e] @ swiglu(part_in[e] @ token) for e in range(PARTS)]
whole = wide_out @ swiglu(wide_in @ token)
print("the layer and the sum differ by", f"{(whole - sum(said)).abs().max():.0e}")
print("length of each expert's part:", [f"{part.norm():.0f}" for part in said])

# %% [markdown]
# It is the layer, up to rounding.
# The parts differ in length, though none is so short that it could go: these weights are random.
# If some were far shorter than the others, and you knew beforehand which, you could leave those out.
# That is the whole idea, and it needs somebody who knows beforehand: a *router*, small enough to ask for every token.

# %% [markdown]
# ## Task 2.1
#
# The router keeps one vector for each expert, its *centroid*.
# An expert's score for a token is the sigmoid of the dot product of the two, so it lies between 0 and 1, whatever the other experts' scores are.
# Return the scores of all experts for all tokens, and for each token the ids of its `top_k` best experts, best first.


# %%
def score_and_choose(
    x: Float[Tensor, "N D"], centroids: Float[Tensor, "E D"], top_k: int
) -> tuple[Float[Tensor, "N E"], Int[Tensor, "N k"]]:
    """A score in (0, 1) for each token and expert, and the best experts, best first."""
    ### BEGIN SOLUTION
    scores = torch.sigmoid(x @ centroids.T)
    return scores, scores.topk(top_k, dim=-1).indices
    ### END SOLUTION


# %%
check.task_2_1(score_and_choose)

# %%
score_and_choose = pieces.use("moe.score_and_choose", score_and_choose)

# %% [markdown]
# Four tokens and four experts in the plane.
# Each expert's centroid is a compass direction; a token's two best experts are those it points at most.

# %%
compass = {"east": [2.0, 0.0], "north": [0.0, 2.0], "west": [-2.0, 0.0]}
compass["south"] = [0.0, -2.0]
names, centroids = list(compass), torch.tensor(list(compass.values()))
tokens = torch.tensor([[1.0, 0.2], [0.7, 0.8], [-0.3, 1.0], [-0.9, -0.6]])
scores, experts = score_and_choose(tokens, centroids, top_k=2)
plt.figure(figsize=(6, 4))
for name, at in compass.items():
    plt.annotate("", at, (0, 0), arrowprops={"arrowstyle": "->"})
    plt.text(1.2 * at[0], 1.2 * at[1], name, ha="center", va="center")
for t, (x, y) in enumerate(tokens.tolist()):
    plt.plot(x, y, "o", color="#0072B2")
    told = f"{t}: " + ", ".join(names[e] for e in experts[t])
    plt.text(x, y + 0.1, told, va="bottom", ha="left" if x > 0 else "right")
plt.axis([-4, 4, -2.7, 2.7])
plt.show()

# %%
for t, row in enumerate(scores):
    told = "  ".join(f"{n} {s:.2f}" for n, s in zip(names, row.tolist(), strict=True))
    print(f"token {t}   {told}   sum {row.sum():.1f}")

# %% [markdown]
# The sums are not 1: a sigmoid asks each expert by itself.
# (That all four are 2 is the compass's doing: what *east* scores above one half, its opposite *west* scores below.)
# (Earlier models, DeepSeek-V2 among them, used a softmax, where one expert's gain is another's loss.)

# %% [markdown]
# ## Task 2.2
#
# Now two things that look like one.
# *Who* reads a token is decided by score + bias; the bias is one number for each expert, and you will soon use it to send more tokens to an expert that has none.
# *How much* each of the chosen counts is decided by the scores alone: each one's score divided by the sum over the chosen, times `route_scale`.
# The bias must not reach the weights: an expert that gets more work should not speak louder for it.
# Most often the bias is `(E,)`, the same for all tokens; let it be `(N, E)` too, one for each token and expert, which task 2.8 will need.
# (The signature says both as `*N E`; `scores + bias` fits either way.)
# Return the weights and the ids of the chosen, both `(N, k)`.


# %%
def gate(
    scores: Float[Tensor, "N E"],
    bias: Float[Tensor, "*N E"],
    top_k: int,
    route_scale: float,
) -> tuple[Float[Tensor, "N k"], Int[Tensor, "N k"]]:
    """Experts chosen by biased score, weights from the raw scores of the chosen."""
    ### BEGIN SOLUTION
    experts = (scores + bias).topk(top_k, dim=-1).indices
    chosen = scores.gather(-1, experts)
    return route_scale * chosen / chosen.sum(dim=-1, keepdim=True), experts
    ### END SOLUTION


# %%
check.task_2_2(gate)

# %%
gate = pieces.use("moe.gate", gate)

# %% [markdown]
# > **Predict.** No token of the four points south with its first choice. You raise the bias of *south* step by step. Does *south*'s weight at token 3 grow with it?

# %%
for south in (-1.0, 0.0, 0.5, 1.0):
    weights, experts = gate(scores, torch.tensor([0.0, 0.0, 0.0, south]), 2, 1.0)
    print(f"bias of south {south:4}", end="")
    for t in (1, 3):
        pairs = sorted(zip(weights[t].tolist(), experts[t].tolist(), strict=True))
        told = " + ".join(f"{w:.2f} {names[e]}" for w, e in reversed(pairs))
        print(f"   token {t}: {told}", end="")
    print()

# %% [markdown]
# With more bias, more tokens are sent south; token 3, once it has chosen *south*, listens to it exactly as before.
# A token that is sent there against its taste gives it a small weight: it costs the token little, and *south* gets something to learn from.

# %% [markdown]
# ## Task 2.3
#
# In a large model the experts live on many machines, and a token that chose 8 experts may have to travel to 8 of them.
# So experts form groups, in order: with 8 experts and 2 groups, experts 0 to 3 are the first group and 4 to 7 the second.
# A group stands for a machine, and a token may visit `top_groups` of them.
#
# `choice` holds the biased scores, and a group is as good as the sum of its `per_group` best.
# Return what has to be *added* to each biased score: 0 in a token's `top_groups` best groups, −inf in the others.
# Whatever −inf is added to is never chosen, however bad the rest may be.

# %%
drawings.group_limit(
    [0.9, 0.1, 0.6, 0.5, 0.8, 0.7, 0.2, 0.3], num_groups=4, top_groups=2, top_k=4
).captioned(
    "Four groups of two experts, two groups allowed; a group counts by the sum of its "
    "two best. The four that are chosen are filled.",
    alt="Eight boxes with biased scores in four frames of two. The sums are 1.0, 1.1, "
    "1.5 and 0.5; the second and third frame are kept, their experts are filled.",
)


# %%
def limit_groups(
    choice: Float[Tensor, "N E"], num_groups: int, top_groups: int, per_group: int
) -> Float[Tensor, "N E"]:
    """What to add to each biased score: 0 in a token's best groups, −inf outside."""
    ### BEGIN SOLUTION
    groups = choice.unflatten(-1, (num_groups, -1))
    strength = groups.topk(per_group, dim=-1).values.sum(-1)
    kept = strength.topk(top_groups, dim=-1).indices
    closed = torch.ones_like(strength, dtype=torch.bool).scatter(-1, kept, False)
    ban = torch.zeros_like(groups).masked_fill(closed[..., None], float("-inf"))
    return ban.flatten(-2)
    ### END SOLUTION


# %%
check.task_2_3(limit_groups)

# %%
limit_groups = pieces.use("moe.limit_groups", limit_groups)

# %% [markdown]
# > **Predict.** DeepSeek-V3 chooses 8 of 256 experts, in 8 groups. Without a limit, how many groups would 8 choices touch on average, if they fell anywhere?

# %%
v3 = config.deepseek_v3().moe
anywhere = torch.rand(2000, v3.num_experts, generator=generator)
in_group = v3.num_experts // v3.num_groups
per_group = v3.top_k // v3.top_groups
ban = limit_groups(anywhere, v3.num_groups, v3.top_groups, per_group)
for name, choice in (("no limit", anywhere), ("limit", anywhere + ban)):
    groups = choice.topk(v3.top_k).indices // in_group
    touched = F.one_hot(groups, v3.num_groups).amax(1).sum(-1)
    print(
        f"{name:>8}: {touched.float().mean():.1f} groups a token, "
        f"{touched.max()} at most"
    )

# %% [markdown]
# The limit is a promise about the worst token, and the network is built for that one.
# What it costs is choice: here every token gives up some of its favourites.

# %% [markdown]
# ## Task 2.4
#
# The router has spoken; now the experts have to work.
# Expert e is a SwiGLU: `gate_up[e]` widens (`gate, up = (x @ gate_up[e].T).chunk(2, -1)`), `F.silu(gate) * up` stands in the middle, `down[e]` narrows.
# (This `gate` is a part of a SwiGLU and not your function of task 2.2: keep the name inside `run_experts`. `F2` in the signature is twice F.)
# Return for each token the sum of what its k experts say, each times its weight.
#
# A Python loop over tokens would take N·k tiny products.
# Turn it round: let each expert read all of its tokens in one product.
# A loop over experts is fine.
# What may not be spent: products with tokens that did not choose the expert, products that only move tokens about (a one-hot matrix is one), and copies of an expert's matrices.

# %%
drawings.sorted_rows(["a", "b", "c"], [[0, 2], [2, 1], [0, 1]]).captioned(
    "Three tokens with two experts each. In the middle their six rows, sorted by expert: "
    "each expert's rows lie together, and each result goes back to its token.",
    alt="Lines lead from three tokens to six rows that are sorted by their expert, two "
    "rows for each of three experts, and from the rows back to the tokens.",
)


# %%
def run_experts(
    x: Float[Tensor, "N D"],
    experts: Int[Tensor, "N k"],
    weights: Float[Tensor, "N k"],
    gate_up: Float[Tensor, "E F2 D"],
    down: Float[Tensor, "E D F"],
) -> Float[Tensor, "N D"]:
    """At each token, the weighted sum of what its experts make of it."""
    ### BEGIN SOLUTION
    y = torch.zeros_like(x)
    for e in range(len(down)):
        token, choice = (experts == e).nonzero(as_tuple=True)
        gate, up = (x[token] @ gate_up[e].T).chunk(2, dim=-1)
        out = (F.silu(gate) * up) @ down[e].T
        y = y.index_add(0, token, out * weights[token, choice, None])
    return y
    ### END SOLUTION


# %%
check.task_2_4(run_experts)

# %%
run_experts = pieces.use("moe.run_experts", run_experts)

# %% [markdown]
# First the layer from the beginning: if every token chooses all four parts with weight 1, your mixture is the dense layer again.
# Then the price of the naive way.

# %%
x = torch.randn(1024, D, generator=generator)
everybody = torch.arange(PARTS).expand(len(x), PARTS)
ones = torch.ones(len(x), PARTS)
dense = swiglu(x @ wide_in.T) @ wide_out.T
gap = (run_experts(x, everybody, ones, part_in, part_out) - dense).abs().max()
print(f"all four experts against the dense layer: they differ by {gap:.0e}")

_, two = score_and_choose(x, torch.randn(PARTS, D, generator=generator), 2)
start = time.perf_counter()
run_experts(x, two, ones[:, :2], part_in, part_out)
together = time.perf_counter() - start
start = time.perf_counter()
for t in range(len(x)):
    sum(part_out[e] @ swiglu(part_in[e] @ x[t]) for e in two[t])
alone = time.perf_counter() - start
print(f"token by token takes {alone / together:.0f} times as long")

# %% [markdown]
# ## Task 2.5
#
# You have a mixture that runs.
# Before it trains, build the instrument that shows what goes wrong.
# The *load* of an expert is the number of (token, choice) pairs that fell to it; experts that nobody chose have load 0, and they are the ones to look for.
# The *violation* says how far the busiest expert lies above the mean, in means: `(largest - mean) / mean`.
# It is 0 where all are equal; at 1 the busiest has twice the mean, and if each expert sits on a chip of its own, all others wait for it.
# No tokens: no load, and a violation of 0.


# %%
def load_and_violation(
    experts: Int[Tensor, "N k"], num_experts: int
) -> tuple[Int[Tensor, " E"], float]:
    """How often each expert was chosen, and how far the busiest exceeds the mean."""
    ### BEGIN SOLUTION
    load = experts.flatten().bincount(minlength=num_experts)
    mean = load.double().mean()
    return load, float((load.max() - mean) / mean) if mean > 0 else 0.0
    ### END SOLUTION


# %%
check.task_2_5(load_and_violation)

# %%
load_and_violation = pieces.use("moe.load_and_violation", load_and_violation)

# %% [markdown]
# Now let it train.
# The text is that of lab 1, the source of Python's standard library, and so is the batch, with your function if you kept it.
# The model is tiny_lm's, one block of attention and experts; but its feed-forward is replaced by your functions, working with the same parameters.
# (A *shared* expert that reads every token stands beside the routed ones; the model adds it.)

# %%
train_text, validation_text = data.split(data.default_corpus())
next_byte_batch = pieces.use("baseline.next_byte_batch")
SEQ_LEN, BATCH_SIZE = 64, 16


def lab_config(num_layers: int, **routing: float) -> config.ModelConfig:
    """A small model: 16 experts, of which a token visits 2."""
    sizes = {"vocab_size": 256, "d_model": 96, "d_ffn": 192, "max_len": 512}
    return config.ModelConfig(
        name="lab",
        num_layers=num_layers,
        num_dense_layers=0,
        attention=config.MHAConfig(num_heads=4, num_kv_heads=4, d_head=24),
        moe=config.MoEConfig(
            num_experts=16, num_shared=1, top_k=2, d_expert=64, **routing
        ),
        init_std=0.05,
        **sizes,
    )


# %%
class Mixture(nn.Module):
    """The parameters of tiny_lm's layer, run by your functions."""

    def __init__(self, layer: moe.MoE) -> None:
        super().__init__()
        self.router, self.experts = layer.router, layer.experts
        self.shared = layer.shared

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        rows, r = x.flatten(0, 1), self.router
        scores, _ = score_and_choose(rows, r.weight, r.config.top_k)
        weights, experts = gate(scores, r.bias, r.config.top_k, r.config.route_scale)
        y = run_experts(rows, experts, weights, self.experts.gate_up, self.experts.down)
        self.scores, self.chosen = (
            z.unflatten(0, x.shape[:2]) for z in (scores, experts)
        )
        return y.view_as(x) + self.shared(x)


# %%
def train(
    lm: model.LanguageModel, steps: int, balance: Callable[[Tensor, Tensor], Tensor]
) -> list[list[list[int]]]:
    """Train; `balance` moves the biases. Returns each layer's loads."""
    optimizer = torch.optim.AdamW(lm.parameters(), lr=6e-3, betas=(0.9, 0.95))
    generator, loads = torch.Generator().manual_seed(0), []
    for step, gone in training_steps(steps):
        for group in optimizer.param_groups:
            group["lr"] = 6e-3 * min(1, (step + 1) / 20, 1.05 - gone)
        inputs, targets = next_byte_batch(train_text, BATCH_SIZE, SEQ_LEN, generator)
        loss = lm.loss(torch.cat([inputs, targets[:, -1:]], dim=1)).total
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        now = [load_and_violation(b.ffn.chosen.flatten(0, 1), 16)[0] for b in lm.blocks]
        for block, load in zip(lm.blocks, now, strict=True):
            block.ffn.router.bias = balance(block.ffn.router.bias, load)
        loads.append([load.tolist() for load in now])
    return loads


def violations(loads: list[list[list[int]]]) -> list[float]:
    """The violation of the first layer at each step."""
    return [16 * max(layers[0]) / sum(layers[0]) - 1 for layers in loads]


# %% [markdown]
# > **Predict.** At the start the 16 experts are random, so none is better than another. After two hundred steps of training, with nothing that balances: what share of all choices does the busiest get? An even share is 1/16, and nobody can get more than 1/2.

# %%
alone = model.LanguageModel(lab_config(1))
alone.blocks[0].ffn = Mixture(alone.blocks[0].ffn)
loads_alone = train(alone, steps=200, balance=lambda bias, load: bias)
figures.expert_load(loads_alone)

# %%
last = torch.tensor(loads_alone[-30:]).sum(0)[0]
print("share of each expert in the last steps:")
print("  ".join(f"{share:.1%}" for share in (last / last.sum()).tolist()))

# %% [markdown]
# The routing has *collapsed*; in the picture, the line at 1 is an even share.
# At first all tokens look alike to the router, so all go one way; and an expert that is not chosen gets no gradient: it stays as it was made.
# (The usual story is another, that the rich get richer. The chapter [Why routers collapse](../chapters/02_moe/collapse.md) puts it to the test.)
# You paid the memory of 16 experts and got the use of a handful.

# %% [markdown]
# ## Task 2.6
#
# The cure has no gradient.
# After each step look at the load: where it lies below the mean, raise the expert's bias by `rate`; where it lies above, lower it by as much; where it equals the mean, leave it.
# How far it lies off plays no part.
# Return the new bias as a new tensor.
#
# The load is that of the *whole batch*: where several machines share a batch, their counts are added up first.
# One machine's share may well be uneven while the batch is even, and nobody should be punished for that.


# %%
def update_bias(
    bias: Float[Tensor, " E"], load: Int[Tensor, " E"], rate: float
) -> Float[Tensor, " E"]:
    """The next step's bias: up for idle experts, down for busy ones."""
    ### BEGIN SOLUTION
    load = load.to(bias.dtype)
    return bias + rate * torch.sign(load.mean() - load)
    ### END SOLUTION


# %%
check.task_2_6(update_bias)

# %%
update_bias = pieces.use("moe.update_bias", update_bias)

# %% [markdown]
# The same model from the same start, on the same batches, with your rule after each step.
# DeepSeek-V3 had hundreds of thousands of steps for it; here there are two hundred, so the rate is larger.
#
# > **Predict.** Does the balanced model end with a better loss, a worse one, or the same?

# %%
RATE = 0.01
print(f"rate: {v3.bias_rate} in DeepSeek-V3, {RATE} here")
even = model.LanguageModel(lab_config(1))
even.blocks[0].ffn = Mixture(even.blocks[0].ffn)
loads_even = train(even, steps=200, balance=lambda b, load: update_bias(b, load, RATE))
plt.figure(figsize=(6, 3))
plt.plot(violations(loads_alone), color="#6E6E6E", label="left alone")
plt.plot(violations(loads_even), color="#0072B2", label="your bias")
plt.xlabel("step")
plt.ylabel("violation")
plt.ylim(0, 7)
plt.legend()
plt.show()


# %%
@torch.no_grad()
def validation_loss(lm: model.LanguageModel) -> float:
    """Nats per byte on text kept apart: the same windows every time."""
    batches = data.EvalBatches(validation_text, 64, SEQ_LEN, 8)
    losses = [lm.loss(batches.at(i)).next_token for i in range(len(batches))]
    return float(torch.stack(losses).mean())


for name, lm, run in (
    ("left alone", alone, loads_alone),
    ("your bias", even, loads_even),
):
    print(f"{name:>10}: {validation_loss(lm):.2f} nats per byte, {len(run)} steps")
print("your biases:", [round(b, 2) for b in sorted(even.routers[0].bias.tolist())])

# %% [markdown]
# The violation falls within a hundred steps and stays low.
# The loss moves by little: these models have read too little for sixteen experts to be worth much more than a handful.
# A second seed may move it as far.
# What balance buys here is that all experts learn at all.
# The chapter [How to balance](../chapters/02_moe/balance.md) shows longer runs, three seeds each, with the spread beside the difference.

# %% [markdown]
# ## Task 2.7
#
# A batch can be balanced while every sequence in it is lopsided: one sequence all numbers, for the number expert, another all prose.
# Add up enough sequences and nobody sees it; but a model that *serves* reads one sequence at a time.
# So DeepSeek-V3 adds a very small loss for each sequence.
# Over the T tokens of one sequence, for each expert i of E,
#
# $$\begin{aligned} f_i &= \frac{E}{k\,T}\,\big(\text{how often } i \text{ was chosen}\big), \\ P_i &= \text{mean over tokens of } \frac{s_i}{\sum_j s_j}, \end{aligned}$$
#
# and the loss is $\sum_i f_i P_i$, then the mean over sequences.
# It is 1 when everything is even.
# A count has no slope, so the gradient comes through P alone: it lowers the scores of the experts that f says are busy.


# %%
def sequence_loss(
    scores: Float[Tensor, "B T E"], experts: Int[Tensor, "B T k"]
) -> Float[Tensor, ""]:
    """How uneven each sequence's routing is; 1 where it is spread evenly."""
    ### BEGIN SOLUTION
    T, E = scores.shape[1:]
    chosen = F.one_hot(experts, E).sum((1, 2))
    f = chosen * E / (experts.shape[-1] * T)
    P = (scores / scores.sum(-1, keepdim=True)).mean(1)
    return (f * P).sum(-1).mean()
    ### END SOLUTION


# %%
check.task_2_7(sequence_loss)

# %%
sequence_loss = pieces.use("moe.sequence_loss", sequence_loss)

# %% [markdown]
# Look for the lopsided in your balanced model: the loss of 256 sequences, one by one.

# %%
windows, _ = next_byte_batch(validation_text, 256, SEQ_LEN, generator)
with torch.no_grad():
    even(windows)
ffn = even.blocks[0].ffn
_, whole_batch = load_and_violation(ffn.chosen.flatten(0, 1), 16)
row_losses = torch.stack(
    [sequence_loss(ffn.scores[b, None], ffn.chosen[b, None]) for b in range(256)]
)
row_violations = [load_and_violation(row, 16)[1] for row in ffn.chosen]
print(f"violation of all 256 sequences together: {whole_batch:.1f}")
print(f"of one sequence, on average: {sum(row_violations) / 256:.1f}")
anyhow = torch.rand(256, SEQ_LEN, 16, generator=generator).topk(2).indices
by_chance = [load_and_violation(row, 16)[1] for row in anyhow]
print(f"of {SEQ_LEN} tokens that choose at random: {sum(by_chance) / 256:.1f}")
print(f"weight of this loss in DeepSeek-V3: {v3.balance_loss}")
for name, b in (("most even", row_losses.argmin()), ("least", row_losses.argmax())):
    print(f"{name:>9}: loss {row_losses[b]:.2f}  {data.decode(windows[b])!r}")

# %% [markdown]
# All sequences together are nearly even, and each alone is not.
# Part of that is chance: so few tokens are uneven even where they choose at random.
# The rest is what the sequence is about.
# (The loss can dip below 1: the bias sends tokens to experts that they scored lower.)
# That need not be bad: experts that know something *should* be chosen by sequences that need it.
# So the loss gets a tiny weight, enough to keep a sequence from the extreme.
# The bias, which looks at the whole batch, does the work; the chapter [How to balance](../chapters/02_moe/balance.md) has the experiment that says so.

# %% [markdown]
# ## Task 2.8
#
# Put it together: scores, group limit, gate, experts, balance loss, from your own functions.
# The tokens of all sequences go through as one long row, and come back as sequences.
# A group is as good as its `top_k // top_groups` best.
# Return `y`, the ids of the chosen experts, and the sequence-wise loss, *not* multiplied by its weight.
#
# How do you tell the gate who is forbidden?
# It adds a bias before it chooses, and `limit_groups` says what else is to be added: hand it the sum of the two.
# The loss wants the plain scores.
#
# Two things the layer does not do: it neither adds `x` (the block does) nor a shared expert (the model does), and nothing may give the bias a gradient.


# %%
def moe_layer(
    x: Float[Tensor, "B T D"],
    centroids: Float[Tensor, "E D"],
    bias: Float[Tensor, " E"],
    gate_up: Float[Tensor, "E F2 D"],
    down: Float[Tensor, "E D F"],
    top_k: int,
    num_groups: int,
    top_groups: int,
    route_scale: float,
) -> tuple[Float[Tensor, "B T D"], Int[Tensor, "B T k"], Float[Tensor, ""]]:
    """The routed experts' answer to each token, who they were, and the balance loss."""
    ### BEGIN SOLUTION
    tokens = x.flatten(0, 1)
    scores, _ = score_and_choose(tokens, centroids, top_k)
    ban = limit_groups(scores + bias, num_groups, top_groups, top_k // top_groups)
    weights, experts = gate(scores, bias + ban, top_k, route_scale)
    y = run_experts(tokens, experts, weights, gate_up, down)
    scores, experts = (z.unflatten(0, x.shape[:2]) for z in (scores, experts))
    return y.view_as(x), experts, sequence_loss(scores, experts)
    ### END SOLUTION


# %%
check.task_2_8(moe_layer)

# %%
moe_layer = pieces.use("moe.moe_layer", moe_layer)

# %% [markdown]
# ## Your layer in a language model
#
# Two blocks this time, both with 16 experts in 4 groups, of which a token may use 2.
# The seat is the same as before, and now your one function sits in it.


# %%
class YourLayer(Mixture):
    """tiny_lm's parameters, your layer, and the shared expert beside it."""

    def forward(
        self, x: Float[Tensor, "B T D"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, ""]]:
        c, experts = self.router.config, self.experts
        groups = (c.num_groups, c.top_groups)
        y, self.chosen, balance = moe_layer(
            x,
            self.router.weight,
            self.router.bias,
            experts.gate_up,
            experts.down,
            c.top_k,
            *groups,
            c.route_scale,
        )
        return y + self.shared(x), c.balance_loss * balance


# %%
lm = model.LanguageModel(
    lab_config(2, num_groups=4, top_groups=2, route_scale=v3.route_scale)
)
parameters = costs.count_parameters(lm.config)
print(f"{parameters.total:,} parameters, of which a token uses {parameters.active:,}")
print("before:", figures.printable(generate.generate(lm, "    def __init__(self", 60)))
for block in lm.blocks:
    block.ffn = YourLayer(block.ffn)

# %%
loads = train(lm, steps=250, balance=lambda bias, load: update_bias(bias, load, RATE))
print(f"{len(loads)} steps, {len(loads) * BATCH_SIZE * SEQ_LEN:,} bytes read")
print(f"validation loss: {validation_loss(lm):.2f} nats per byte")
print(figures.printable(generate.generate(lm, "    def __init__(self", 240)))

# %%
figures.expert_load(loads)

# %% [markdown]
# ## What does each expert read?
#
# > **Predict.** Nobody told the experts what to be. Will they share out the text by topic, by kind of character, or in no way that a person can see?
#
# Give the model text it has never seen, and list for each expert of the first layer the bytes that are sent to it most often, with their share.

# %%
windows, _ = next_byte_batch(validation_text, 512, SEQ_LEN, generator)
with torch.no_grad():
    lm(windows)
for expert in range(16):
    reads = windows[(lm.blocks[0].ffn.chosen == expert).any(-1)]
    counts = reads.bincount(minlength=256)
    top = counts.topk(6).indices.tolist()
    told = [
        f"{chr(b)!r} {counts[b] / len(reads):.0%}"
        for b in top
        if counts[b] > 0.01 * len(reads)
    ]
    print(f"expert {expert:2}, {len(reads):5,} bytes:  {'  '.join(told)}")

# %% [markdown]
# Some read almost nothing but spaces, others a handful of letters.
# Which number does what is chance; that they share out the text is not.
# To see it at a glance, sort the bytes into kinds; *indentation* is the space at the start of a line.

# %%
KINDS = {
    "line end": r"\n",
    "indentation": r"(?<=\n) +",
    "other space": r" ",
    "small letter": r"[a-z]",
    "capital": r"[A-Z]",
    "digit": r"[0-9]",
    "quote": r"[\"']",
    "bracket": r"[()\[\]{}]",
    "other sign": r".",
}
any_kind = re.compile("|".join(f"({k})" for k in KINDS.values()), re.DOTALL)
kinds = torch.empty_like(windows)
for row, window in zip(kinds, windows, strict=True):
    for found in any_kind.finditer(bytes(window.tolist()).decode("latin-1")):
        row[found.start() : found.end()] = found.lastindex - 1

# %%
plt.figure(figsize=(7, 6))
for layer, block in enumerate(lm.blocks):
    chosen = F.one_hot(block.ffn.chosen, 16).sum(2).flatten(0, 1).float()
    table = F.one_hot(kinds.flatten(), len(KINDS)).float().T @ chosen
    order = table.argmax(0).argsort()
    plt.subplot(2, 1, layer + 1)
    plt.imshow((table / table.sum(0).clamp(min=1))[:, order], cmap="Blues", vmax=1)
    plt.yticks(range(len(KINDS)), KINDS, fontsize=8)
    plt.xticks(range(16), order.tolist())
    plt.title(f"layer {layer + 1}: shares of what each expert reads", fontsize=10)
plt.xlabel("expert")
plt.tight_layout()
plt.show()

# %% [markdown]
# Compare with what you wrote down.
# The experts share out the text by what the bytes *are*, spaces here and vowels there; nothing looks like a topic.
# The space at the start of a line and the space between words are one and the same byte, and yet some experts take the one and leave the other.
# By the time the router looks, attention has mixed in what came before.
# (The chapters have this picture for a model that trained far longer.)
#
# ## What this exercise does not show
#
# It does not show that experts pay.
# Your model has read less than a million bytes; a dense model with as many active parameters would be about as good, and simpler.
# An expert that sees one byte in eight needs eight times the text to read as much as a dense layer does.
# The gap opens over tens of millions of bytes: the chapter [What it costs, and where it does not pay](../chapters/02_moe/price.md) has the recorded runs, and the price in memory and traffic.
#
# Nor does it show speed: your experts run one after the other on one core.
# On many chips, tokens have to travel to their experts and back, and that is a part of the course by itself.
#
# ## What you have now
#
# Eight pieces in the folder `my_pieces`: a router, its group limit, experts that run together, and three instruments of balance.
# The last one, `moe_layer`, is the layer that the later parts spread over several machines.

# %%
print(pieces.progress("02_moe"))
