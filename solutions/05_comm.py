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
# # Lab 5 · One model on several GPUs
#
# A large model does not fit on one chip, so its parts live on many, and what one of them computes another one needs.
# How data moves, and what is computed meanwhile, decides how much of the machine is used.
# In this lab you move it yourself, over four processes that stand for GPUs.
# First you make a collective out of messages, and count the bytes that a router asks for.
# Then tokens travel to their experts and back, in eight bits, and hide behind other work.
# Then you put down a pipeline's schedule as data, and find out what it wastes.
#
# You need no other lab for it.
# The chapters [Collectives and what they cost](../chapters/05_comm/collectives.md) and [Emulated GPUs](../chapters/05_comm/emulated_gpus.md) go with its first tasks.
#
# **How a task works.** Replace the last line of the stub, run it, run the check below it.
# `hint(1)`, `hint(2)` and `hint(3)` go from a nudge to almost the line; `show_solution()` shows ours once you have tried.
# Below each check, `pieces.use` hands on your function if it passed and tiny_lm's own if not, so you can skip a task and come back.
# (*Run all* stops at the first task that is not solved: go on below it by hand.)

# %%
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import accumulate

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from tiny_lm import model
from tiny_lm.config import TrainConfig
from tiny_lm.course.checks import comm as check
from tiny_lm.course.checks import hint, show_solution  # noqa: F401
from tiny_lm.course.figures import collectives as pictures
from tiny_lm.course.figures import dispatch_lab as dispatching
from tiny_lm.course.figures import overlap_lab as overlaps
from tiny_lm.course.figures import schedule_lab as pipelines
from tiny_lm.course.figures.tables import table
from tiny_lm.course.labs import hidden, mixture_layers, pieces
from tiny_lm.course.labs.steps import training_steps
from tiny_lm.course.labs.two_batches import Batch, Layer
from tiny_lm.gpus import comm
from tiny_lm.gpus.mesh import Group, world
from tiny_lm.parallel import bubbles, wire
from tiny_lm.parallel.dispatch import ExpertParallelDispatcher
from tiny_lm.parallel.whole_schedules import Schedule, build
from tiny_lm.quantize import dequantize_tiles, quantize_tiles
from tiny_lm.replay.simulation import replay
from tiny_lm.router import route
from tiny_lm.step import build_optimizer, train_step

torch.set_num_threads(1)  # four ranks share the cores of this machine

# %% [markdown]
# ## Four ranks, and notes from one to another
#
# `gpus` are four processes that wait for work.
# Each of them is a *rank*, with a number and a memory of its own.
# `gpus.attempt` calls a function on all of them and brings back what each returned, in order.
#
# Here every rank sends its number to the next one, and the last one to the first.
# `comm.send(x, to, group)` gives a tensor to one other rank; `comm.receive(like, source, group)` waits for one, and `like` says what shape and dtype will come.
# `world()` is the group of all ranks; a group knows its `size`, and as which `rank` you are in it.

# %%
gpus = check.gpus()


def pass_to_the_right(rank: int) -> int:
    """What came from the left neighbour."""
    group, mine = world(), torch.tensor([10 * rank])
    right, left = (rank + 1) % group.size, (rank - 1) % group.size
    if rank == 0:
        comm.send(mine, right, group)
        return comm.receive(mine, left, group).item()
    came = comm.receive(mine, left, group)
    comm.send(mine, right, group)
    return came.item()


gpus.attempt(pass_to_the_right)

# %% [markdown]
# Why does rank 0 do it the other way round?
#
# > **Predict.** Let all four send first and receive afterwards. What happens?


# %%
def everybody_sends_first(rank: int) -> None:
    """Like that, but with one order for all."""
    group, mine = world(), torch.tensor([10 * rank])
    comm.send(mine, (rank + 1) % group.size, group)
    comm.receive(mine, (rank - 1) % group.size, group)


try:
    gpus.attempt(everybody_sends_first)
except RuntimeError as error:
    print(error)

# %% [markdown]
# A message is a meeting: a send ends when the other side receives.
# Where all send, nobody comes to receive, and they would stand there for ever; here they are told so, and a table says at which line each of them stands.
# (On real GPUs nobody tells. And with small messages it often *works*, because the network keeps them for a while: until one day they are larger.)
#
# With rank 0 turned round one pair can meet, and then the next.
# But then they meet one after the other.
#
# ## A sum that goes round
#
# Each rank has a tensor, all of one size, and all ranks want the sum: an *all-reduce*.
# Gradients need it after every step.
#
# The obvious way is to send everything to rank 0, add up there, and send the sum to all.
# Rank 0 then receives and sends three tensors while the others stand idle, and of 64 ranks it would be 63.
# A *ring* does better: cut the tensor into as many parts as there are ranks, and let every rank pass one part to its right neighbour at each step.

# %%
pictures.ring_rounds().captioned(
    "Four ranks, four parts each. The number says how many ranks' numbers are in a "
    "part; a frame marks what has just come. Steps 1 to 3 add what comes, steps 4 to 6 "
    "replace. (What rank 3 sends to rank 0 has no arrow.)",
    alt="A table of seven rows, before and after each of six steps, and four columns, "
    "one a rank, of four boxes each. All boxes say 1 before. After step 3 one box of "
    "each rank says 4: the box after its own number. After step 6 all boxes say 4.",
)

# %% [markdown]
# > **Predict.** How many bytes does each rank send in all, if a tensor has n bytes and there are p ranks? Does a rank send more if there are more ranks?

# %% [markdown]
# ## Task 5.1
#
# Write the all-reduce of the picture, out of `comm.send` and `comm.receive`, for any number of ranks.
# Return the sum, in the shape and dtype of `x`, and leave `x` as it is.
#
# * Sizes need not divide: `x.flatten().tensor_split(p)` makes p parts of any tensor, and some may be empty.
# * Each rank sends 2(p − 1) parts and no more.
# * In every step neighbours must meet: when one sends, the other must receive.


# %%
def ring_all_reduce(
    x: Shaped[Tensor, "*shape"], group: Group
) -> Shaped[Tensor, "*shape"]:
    """The sum of all ranks' `x`, on every rank, by messages round a ring."""
    ### BEGIN SOLUTION
    p, me = group.size, group.rank
    right, left = (me + 1) % p, (me - 1) % p

    def pass_on(part, like):
        if me % 2:
            came = comm.receive(like, left, group)
            comm.send(part, right, group)
            return came
        comm.send(part, right, group)
        return comm.receive(like, left, group)

    parts = list(x.flatten().tensor_split(p))
    for step in range(p - 1):
        out, into = (me - step) % p, (me - step - 1) % p
        parts[into] = parts[into] + pass_on(parts[out], parts[into])
    for step in range(p - 1):
        out, into = (me + 1 - step) % p, (me - step) % p
        parts[into] = pass_on(parts[out], parts[into])
    return torch.cat(parts).view(x.shape)
    ### END SOLUTION


# %%
check.task_5_1(ring_all_reduce)

# %%
ring_all_reduce = pieces.use("comm.ring_all_reduce", ring_all_reduce)

# %% [markdown]
# A meter counts what leaves a rank.
# Here is your ring beside the obvious way, for a million numbers in FP32.


# %%
def through_rank_0(x: Tensor, group: Group) -> Tensor:
    """The same sum, by way of one rank."""
    others = range(1, group.size)
    if group.rank:
        comm.send(x, 0, group)
        return comm.receive(x, 0, group)
    total = x + sum(comm.receive(x, other, group) for other in others)
    for other in others:
        comm.send(total, other, group)
    return total


def sent_by(rank: int, all_reduce) -> float:
    """Megabytes that this rank sends, if the sum is right."""
    x = torch.full((1_000_000,), float(rank))
    with comm.metering() as meter:
        total = all_reduce(x, world())
    assert (total == 6).all()
    return meter.total_bytes / 1e6


# %%
ways = {"ring": ring_all_reduce, "through rank 0": through_rank_0}
table(
    [(name, *gpus.attempt(sent_by, way)) for name, way in ways.items()],
    {"": "", **{f"rank {rank}": ".0f" for rank in range(4)}},
    caption="Megabytes sent by each rank; the tensor has 4.",
)

# %% [markdown]
# Every rank sends 6 MB: 2(p − 1)/p of its four, which stays below twice the tensor however many ranks there are.
# Through rank 0 there are as many bytes in all, but half of them leave by one door.
#
# But the ring takes 2(p − 1) steps, and every message has a price of its own.
# With small tensors that decides: [Collectives and what they cost](../chapters/05_comm/collectives.md) says how small.

# %% [markdown]
# ## Who sends how much to whom
#
# An all-reduce moves as much wherever the data points.
# Experts are different: what moves is decided by the *router*, anew in every layer and for every batch.
# Each token goes to the GPUs of the experts that it chose, and each of these copies costs its bytes.
#
# In DeepSeek-V3 a token is 7,168 numbers wide.
#
# * On its way to the experts it travels in FP8: 7,168 codes of one byte, and a scale of 4 bytes for each 128 of them, 7,392 bytes.
# * On its way back it travels in BF16: 14,336 bytes.
#
# And a copy goes to a *place* once, even if several of the token's experts live there.
# A place is a GPU, where each copy goes straight to its GPU; or a node, where one copy crosses the network and is handed on inside, over the faster NVLink.

# %% [markdown]
# ## Task 5.2
#
# The choices of all ranks are given: `experts[r, n]` are the k experts that token n of rank r chose.
# Experts live in order, the same number at each place: with 8 experts and 4 places, experts 0 and 1 at place 0.
# A place is `ranks_per_place` ranks, in order.
#
# Return how many bytes each rank sends to each place, a row for each rank.
# What a rank has for its own place is not sent: 0.
# A copy has `width` numbers, in FP8 with its scales (`width` is a multiple of 128), or else in BF16.


# %%
def byte_table(
    experts: Int[Tensor, "ranks N k"],
    num_experts: int,
    width: int,
    fp8: bool,
    ranks_per_place: int,
) -> Int[Tensor, "ranks places"]:
    """Bytes that each rank's tokens send to each place."""
    ### BEGIN SOLUTION
    num_ranks = len(experts)
    num_places = num_ranks // ranks_per_place
    place = experts // (num_experts // num_places)
    copies = F.one_hot(place, num_places).amax(dim=2)
    rows = copies.sum(dim=1)
    own = torch.arange(num_ranks) // ranks_per_place
    rows[torch.arange(num_ranks), own] = 0
    row_bytes = width + 4 * (width // 128) if fp8 else 2 * width
    return rows * row_bytes
    ### END SOLUTION


# %%
check.task_5_2(byte_table)

# %%
byte_table = pieces.use("comm.byte_table", byte_table)

# %% [markdown]
# Now at the size of DeepSeek-V3: 256 experts on 64 GPUs in 8 nodes, 8 experts a token.
# The scores are drawn by lot here, with experts that differ in how much they are liked.
# V3's router has one more rule: a token may use experts of at most *four* nodes.
# (It looks for the four best nodes first, and then for experts in them.)
#
# > **Predict.** By how much do these three cut what crosses the network: a copy a node and not a copy a GPU, the limit of four nodes, and FP8?

# %%
g = torch.Generator().manual_seed(5)
liked = 0.6 * torch.randn(256, generator=g)
scores = torch.sigmoid(torch.randn(64 * 64, 256, generator=g) + liked)
bias = torch.zeros(256)
free = route(scores, bias, 8)[1].view(64, 64, 8)
limited = route(scores, bias, 8, num_groups=8, top_groups=4)[1].view(64, 64, 8)


def between_nodes(experts: Tensor, fp8: bool, ranks_per_place: int) -> Tensor:
    """Bytes that each GPU sends to other nodes, one copy for each place."""
    to_places = byte_table(experts, 256, 7168, fp8, ranks_per_place)
    to_nodes = to_places.view(64, 8, -1).sum(2)
    return to_nodes.masked_fill(F.one_hot(torch.arange(64) // 8, 8).bool(), 0).sum(1)


# %%
steps = {
    "a copy a GPU, BF16": (free, False, 1),
    "a copy a node": (free, False, 8),
    "at most 4 nodes": (limited, False, 8),
    "in FP8": (limited, True, 8),
}
rows = []
for name, how in steps.items():
    per_token = between_nodes(*how) / 64
    copies = per_token.mean() / (7392 if how[1] else 14336)
    busiest = per_token.max() / per_token.mean()
    rows.append((name, copies.item(), per_token.mean().item() / 1e3, busiest.item()))
table(
    rows,
    {
        "": "",
        "copies a token": ".2f",
        "KB a token": ".1f",
        "busiest GPU / mean": ".2f",
    },
    caption="What crosses the network on the way to the experts, step by step.",
)

# %% [markdown]
# Together they leave about a quarter of the bytes.
# None of it changes what is computed, but for two things: the limit forbids some choices, and FP8 rounds.
# So both are decisions about the *model*, made for the sake of a wire.
#
# Look at the last column before you believe a plot of anybody's: it is what a GPU sends.
# What it *receives* is less even, and it decides when an exchange is over.

# %%
received = byte_table(limited, 256, 7168, True, 1).sum(0)
print(f"busiest GPU receives {received.max() / received.float().mean():.2f} x the mean")
token, choice = torch.arange(64 * 64).unsqueeze(1), torch.arange(8)
even = (4 * (token + 8 * choice) % 256).view(64, 64, 8)
received = byte_table(even, 256, 7168, True, 1).sum(0)
print(f"with choices dealt out in turn: {received.max() / received.float().mean():.2f}")

# %% [markdown]
# Choices that are dealt out in turn look as a perfect router would.
# Timing plots are often made with such choices, because they need no model, and they show an exchange that never waits for anybody.

# %% [markdown]
# ## Rows that travel
#
# A table of bytes moves nothing.
# Now the rows themselves go to their experts.
#
# Here are two ranks with two experts each: 0 and 1 on rank 0, 2 and 3 on rank 1.
# Each token chose two experts, and each choice becomes a row.

# %%
dispatching.stages(
    ["ab", "cd"], {"a": [3, 0], "b": [1, 2], "c": [0, 1], "d": [0, 3]}, 4
).captioned(
    "What dispatch does. “a for 3” is a copy of token a for expert 3; its shade says on "
    "which rank the token lives. Between the third line and the fourth it travels.",
    alt="Five lines for two ranks. Rank 0 has tokens a and b, then the choices a for 3, a "
    "for 0, b for 1, b for 2. They leave as a for 0, b for 1, b for 2, a for 3. On "
    "rank 0 come a for 0, b for 1, c for 0, d for 0, c for 1, which are sorted by expert.",
)

# %% [markdown]
# An all-to-all sends the *first* rows to rank 0, the next ones to rank 1, and so on.
# So rows have to be sorted before they leave: by expert, and thereby by rank.
# What comes is sorted by sender, and the experts want it by expert, so it is sorted again.
#
# Sizes are the hard part.
# Rank 0 gets five rows and rank 1 three, and neither can know that beforehand.
# So before rows travel the *counts* do: how many rows each rank has for each expert.
# They are a few numbers, and everybody may know them all.
#
# > **Predict.** In the picture, how many rows does each rank send to itself, and how many to the other?

# %% [markdown]
# ## Task 5.3
#
# `dispatch` runs on every rank, with this rank's tokens `x` and what they chose.
# Experts live in order, as many on each rank: with 8 experts and 4 ranks, 0 and 1 on rank 0.
#
# `there(rows, send_counts, receive_counts)` moves rows.
# It is an all-to-all: its arguments are rows in the order of the ranks that they go to, how many go to each rank, and how many come from each, as two lists.
# It returns the rows that came, in the order of the ranks that they came from.
#
# Return three things.
#
# 1. `rows` for the experts of this rank, those of its first expert first.
# 2. `load`, how many rows each of *all* experts gets from *all* ranks. Balance is counted on it.
# 3. The `way`, from which later steps find back: `(leaving, arriving, send_counts, receive_counts)`.
#     * Choices are numbered token after token, so choice `i` belongs to token `i // k`. `leaving[i]` is the number of the choice that leaves as row i.
#     * `arriving[j]` says at which place, among the rows as they came, row j stood.
#
# Nothing is dropped: an expert may get every row, or none, and so may a rank, and a rank may have no tokens.
# Which of an expert's rows comes first does not matter.
#
# `comm.all_gather(counts[None], group)` gives every rank a table of all ranks' counts; `tensor.bincount(minlength=n)` counts; `.argsort(stable=True)` sorts, and says where each came from.


# %%
def dispatch(
    x: Float[Tensor, "N D"],
    experts: Int[Tensor, "N k"],
    num_experts: int,
    group: Group,
    there: Callable,
) -> tuple[Float[Tensor, "R D"], Int[Tensor, " E"], tuple]:
    """Rows for the experts of this rank, the load of all experts, and the way."""
    ### BEGIN SOLUTION
    size, k = group.size, experts.shape[1]
    leaving = experts.flatten().argsort(stable=True)
    counts = experts.flatten().bincount(minlength=num_experts)
    every = comm.all_gather(counts[None], group)  # a line for each rank
    by_rank = every.view(size, size, -1)  # from, to, expert there
    send_counts = by_rank[group.rank].sum(1).tolist()
    coming = by_rank[:, group.rank]
    receive_counts = coming.sum(1).tolist()
    came = there(x[leaving // k], send_counts, receive_counts)
    numbers = torch.arange(coming.shape[1]).repeat(size)
    arriving = numbers.repeat_interleave(coming.flatten()).argsort(stable=True)
    way = leaving, arriving, send_counts, receive_counts
    return came[arriving], every.sum(0), way
    ### END SOLUTION


# %%
check.task_5_3(dispatch)

# %%
dispatch = pieces.use("comm.dispatch", dispatch)

# %% [markdown]
# Now with 64 tokens on each rank, and a router that has not learned to balance: some experts are liked better.
# The road is the real one.

# %%
g = torch.Generator().manual_seed(6)
liked = torch.tensor([1.3, 0.3, 0.1, 0.1, 0.0, -0.1, -0.2, -0.5])
scores = torch.sigmoid(torch.randn(256, 8, generator=g) + liked)
weights, experts = (z.view(4, 64, 2) for z in route(scores, torch.zeros(8), 2))
tokens = torch.randn(4, 64, 128, generator=g)


def road(
    rows: Shaped[Tensor, "n D"], send_counts: list[int], receive_counts: list[int]
) -> Shaped[Tensor, "R D"]:
    """Rows travel as they are. Like the calls that do it on GPUs, without gradients."""
    return comm.all_to_all(rows.detach(), send_counts, receive_counts, world())


def bring(rank: int) -> tuple:
    """One dispatch: how many rows this rank sent to each, its own counts, the load."""
    _, load, way = dispatch(tokens[rank], experts[rank], 8, world(), road)
    return way[2], experts[rank].flatten().bincount(minlength=8), load


# %%
brought = gpus.attempt(bring)
dispatching.traffic([sent for sent, _, _ in brought]).captioned(
    "Rows from each rank to each rank, in your dispatch.",
    alt="A table of four lines and four columns of numbers. The first column, rank 0, is "
    "by far the darkest; the last one is the palest.",
)

# %% [markdown]
# Rank 0 has an expert that many like, so it gets far more than its share, and the others will be done early and wait.
#
# To balance that, DeepSeek-V3 moves a *bias* for each expert after every step: down where the load is above the mean, up where it is below.
# Every rank has a copy of the router and moves the bias itself.
#
# > **Predict.** Why did `dispatch` have to return the load of *all* ranks' tokens? What happens to the copies if each rank looks at its own tokens only?

# %%
load = brought[0][2]
rows = []
for rank, (_, own, _) in enumerate(brought):
    otherwise = (own > own.float().mean()) != (load > load.float().mean())
    rows.append((f"rank {rank}", *own.tolist(), int(otherwise.sum())))
rows.append(("all", *load.tolist(), None))
columns = {"counted on": "", **{f"{expert}": "d" for expert in range(8)}}
table(
    rows,
    columns | {"biases moved the other way": "d"},
    caption="Rows for each expert, as each rank would count them, and as they are.",
)

# %% [markdown]
# With counts of their own some ranks move some biases the other way.
# Step after step the copies would drift apart, until there are four routers.
# No error tells of it; it shows in a loss that is a bit worse than it should be.

# %% [markdown]
# ## And back
#
# Experts have done their work, and each row has become a result of the same width.
# Now it goes home the way it came, and each token adds up its own results, with the weights that the router gave them.
# This is *combine*.
#
# Training then goes the other way.
# The gradient of a token's sum, times the weight of a choice, is the gradient of that choice's row, and the row is at its expert.
# So the backward of a combine is a dispatch.
#
# PyTorch cannot find that out, for a road knows no gradients: what comes over it is a new tensor, made of nothing.
# A `torch.autograd.Function` tells it.
# `forward` gets a `ctx` to keep tensors in; `backward` gets the gradient of what forward returned, and returns one for each argument of `apply`.


# %%
class Product(torch.autograd.Function):
    """a * b, with gradients of its own."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        return grad * b, grad * a


a, b = torch.tensor(3.0, requires_grad=True), torch.tensor(5.0, requires_grad=True)
Product.apply(a, b).backward()
print("by a:", a.grad.item(), " by b:", b.grad.item())

# %% [markdown]
# ## Task 5.4
#
# `combine` gets the results, `rows`, in the order in which dispatch returned rows; the `weights`, (N, k); and dispatch's `way`.
# Return y, (N, D): at each token, the sum of the weight of each choice times its row.
#
# There are two roads, `there` and `home`, each used like `there` in 5.3, and neither knows gradients.
# Forward goes `home`, once.
# Backward goes `there`, once, and gives the gradient by `rows`; that by `weights` needs no road, if forward has kept what came home.
#
# * On the way home a rank sends as many rows as it had received, and receives as many as it had sent.
# * `rows = came[arriving]` is undone by `came[arriving] = rows`.
# * The class can be written inside of the function, as `Product` above; `combine` returns its `apply(rows, weights)`.


# %%
def combine(
    rows: Float[Tensor, "R D"],
    weights: Float[Tensor, "N k"],
    way: tuple,
    there: Callable,
    home: Callable,
) -> Float[Tensor, "N D"]:
    """At each token, the weighted sum of its rows; backward is a dispatch."""
    ### BEGIN SOLUTION
    leaving, arriving, send_counts, receive_counts = way

    class Combined(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rows, weights):
            came = torch.empty_like(rows)
            came[arriving] = rows
            back = home(came, receive_counts, send_counts)
            copies = torch.empty_like(back)
            copies[leaving] = back
            copies = copies.view(*weights.shape, rows.shape[1])
            ctx.save_for_backward(copies, weights)
            return (weights[..., None] * copies).sum(1)

        @staticmethod
        def backward(ctx, grad):
            copies, weights = ctx.saved_tensors
            of_copies = (weights[..., None] * grad[:, None]).flatten(0, 1)
            sent = there(of_copies[leaving], send_counts, receive_counts)
            return sent[arriving], (grad[:, None] * copies).sum(-1)

    return Combined.apply(rows, weights)
    ### END SOLUTION


# %%
check.task_5_4(combine)

# %%
combine = pieces.use("comm.combine", combine)

# %% [markdown]
# Dispatch copies a token for each of its choices.
# Backward, the gradients of the copies come home and are added up, each with weight 1.
# That is a combine, so you have written it already.


# %%
class Sent(torch.autograd.Function):
    """Dispatch, whose way back is a combine with weights of 1."""

    @staticmethod
    def forward(ctx, x, experts, num_experts, there, home):
        rows, load, way = dispatch(x, experts, num_experts, world(), there)
        ctx.way, ctx.roads, ctx.choices = way, (there, home), experts.shape
        ctx.mark_non_differentiable(load)
        return rows, load, way

    @staticmethod
    def backward(ctx, grad, *_):
        ones = grad.new_ones(ctx.choices)
        return combine(grad, ones, ctx.way, *ctx.roads), None, None, None, None


def mixture(
    x: Float[Tensor, "N D"],
    weights: Float[Tensor, "N k"],
    experts: Int[Tensor, "N k"],
    mine: Float[Tensor, "local D D"],
    roads: tuple,
) -> Float[Tensor, "N D"]:
    """A layer of experts over all ranks; `mine` are this rank's, a matrix each."""
    num_experts = world().size * len(mine)
    rows, load, way = Sent.apply(x, experts, num_experts, *roads)
    counts = load.view(-1, len(mine))[world().rank].tolist()
    parts = zip(rows.split(counts), mine, strict=True)
    results = torch.cat([part @ matrix for part, matrix in parts])
    return combine(results, weights, way, *roads)


# %% [markdown]
# Four ranks share 8 experts, and one process has them all.
# The gradients have to be the same: of tokens, of weights, and of the experts.

# %%
matrices = torch.randn(8, 128, 128, generator=g) / 128**0.5


def slopes(rank: int, roads: tuple) -> list[Tensor]:
    """y on this rank, and the gradients of a loss that all ranks add up to."""
    mine = matrices.view(world().size, -1, 128, 128)[rank]
    given = [z.clone().requires_grad_() for z in (tokens[rank], weights[rank], mine)]
    y = mixture(*given[:2], experts[rank], given[2], roads)
    return [y.detach(), *torch.autograd.grad(y.square().sum() / 2, given)]


def alone() -> list[Tensor]:
    """The same in one process."""
    given = [z.clone().requires_grad_() for z in (tokens, weights, matrices)]
    x, w, m = given
    every = torch.einsum("rnd,edf->rnef", x, m)
    chosen = every.gather(2, experts[..., None].expand(-1, -1, -1, 128))
    y = (w[..., None] * chosen).sum(2)
    return [y.detach(), *torch.autograd.grad(y.square().sum() / 2, given)]


def apart(mine: Tensor, theirs: Tensor) -> float:
    """The length of the difference, over that of what is wanted."""
    return ((mine.flatten() - theirs.flatten()).norm() / theirs.norm()).item()


def joined(ranks: list[list[Tensor]]) -> list[Tensor]:
    """What the ranks have, one after the other."""
    return [torch.cat(parts) for parts in zip(*ranks, strict=True)]


names = ("y", "gradient by tokens", "gradient by weights", "gradient by experts")
whole = joined(gpus.attempt(slopes, (road, road)))
for name, mine, theirs in zip(names, whole, alone(), strict=True):
    print(f"{name:20} {apart(mine, theirs):.0e} apart")

# %% [markdown]
# An expert's gradient is a sum over the tokens of all ranks, and nobody added it up over ranks.
# It was added up where the expert lives, because all its rows came there.
#
# Weights that *every* rank has, as those of attention, are different: each rank has a gradient of its own tokens, and an all-reduce adds them up.
# Who does this with all weights, the experts' included, counts them twice.
# It has happened in frameworks that train large models, and it is hard to see.
#
# > **Predict.** Here the experts learn to do what eight other matrices do. In one run their gradients are as they should be, in the other four times as large. How do the losses differ: with plain gradient descent, and with AdamW?


# %%
goal = torch.einsum(
    "rnk,rnkd->rnd",
    weights,
    torch.einsum("rnd,edf->rnef", tokens, matrices.flip(0)).gather(
        2, experts[..., None].expand(-1, -1, -1, 128)
    ),
)


def learn(rank: int, factor: float, rule: type, lr: float) -> list[float]:
    """Losses over all ranks, of experts whose gradients are `factor` times too large."""
    mine = nn.Parameter(matrices.view(world().size, -1, 128, 128)[rank].clone())
    optimizer, losses = rule([mine], lr=lr), []
    for _ in range(31):
        y = mixture(tokens[rank], weights[rank], experts[rank], mine, (road, road))
        loss = (y - goal[rank]).square().sum() / goal.numel()
        losses.append(comm.all_reduce(loss.detach(), world()).item())
        loss.backward()
        mine.grad *= factor
        optimizer.step()
        optimizer.zero_grad()
    return losses


# %%
rows = []
for rule, lr in ((torch.optim.SGD, 20.0), (torch.optim.AdamW, 0.003)):
    for factor in (1, 4):
        losses = gpus.run(learn, factor, rule, lr)[0]
        rows.append((rule.__name__, factor, *losses[::10]))
columns = {"optimizer": "", "gradients times": "d"}
columns |= {f"step {step}": ".3f" for step in (0, 10, 20, 30)}
table(rows, columns, caption="Losses with right and with too large gradients.")

# %% [markdown]
# With plain gradient descent a factor is another learning rate, and another curve.
# With AdamW the two runs are the same to the last digit shown: it divides each gradient by its own recent size, and a factor cancels.
# So the loss curve looks right.
# What is wrong shows elsewhere: in the length of the gradient, and so in whatever is clipped by it.
# The comparison with one process, above, finds it at once, and that is why every piece of this course has one.

# %% [markdown]
# ## Fewer bytes
#
# Each of your rows travelled as 4 bytes a number.
# DeepSeek-V3 sends rows to the experts in FP8: a code of one byte for each number, and an FP32 scale for each *tile* of 128 neighbours.
# The scale lets the largest of them land on the largest code.
# The way home is in BF16, two bytes, because what comes home is added up, and errors would add up with it.
#
# `quantize_tiles(rows, tile)` gives codes (n, D) of one byte and scales (n, tiles); `dequantize_tiles(codes, scales, tile)` makes numbers of them.
# (Lab 4 is about how they do it.)
# What is left is to send them: as *one* message, because every message waits for the network once.

# %%
few = torch.tensor([[448.0, 17.0, 1.1, 0.0]])
codes, scales = quantize_tiles(few, tile=4)
print("codes", codes.float().tolist(), "scales", scales.tolist())
print("as bytes", codes.view(torch.uint8).tolist(), scales.view(torch.uint8).tolist())

# %% [markdown]
# `.view(torch.uint8)` does not touch a bit: it only says that they are to be read as bytes.
# Of a code it makes one byte, of a scale four.
# The other way, `.view(torch.float32)` makes one number of four bytes; they have to lie side by side, so `.contiguous()` comes before it.

# %% [markdown]
# ## Task 5.5
#
# `fp8_wire` makes two roads for a group, each used like `there` and `home` above: return `there, home`.
#
# * `there` quantises rows, sends codes and scales side by side as one message of bytes, and returns FP32 rows. A row costs D + 4 · tiles bytes.
# * `home` sends BF16 and returns rows of the dtype that it was given.
#
# `comm.all_to_all(x, send_counts, receive_counts, group)` sends bytes as it sends anything else.
# The last tile of a row may be shorter, which `quantize_tiles` knows.


# %%
def fp8_wire(group: Group, tile: int) -> tuple[Callable, Callable]:
    """Roads to the experts, in FP8 with a scale a tile, and home, in BF16."""
    ### BEGIN SOLUTION

    def there(rows, send_counts, receive_counts):
        width = rows.shape[1]
        parts = [z.view(torch.uint8) for z in quantize_tiles(rows, tile)]
        message = torch.cat(parts, dim=1)
        came = comm.all_to_all(message, send_counts, receive_counts, group)
        codes = came[:, :width].view(torch.float8_e4m3fn)
        scales = came[:, width:].contiguous().view(torch.float32)
        return dequantize_tiles(codes, scales, tile)

    def home(rows, send_counts, receive_counts):
        half = rows.to(torch.bfloat16)
        came = comm.all_to_all(half, send_counts, receive_counts, group)
        return came.to(rows.dtype)

    return there, home
    ### END SOLUTION


# %%
check.task_5_5(fp8_wire)

# %%
fp8_wire = pieces.use("comm.fp8_wire", fp8_wire)

# %% [markdown]
# > **Predict.** How many bytes of 512 a row are left on the way there, and how many on the way home? And which is off more if the way home is rounded to FP8 as well: y, or the gradient of a token?


# %%
def tried(rank: int, kind: str) -> tuple[int, list[Tensor]]:
    """Bytes of rows that this rank sent in a step, and what came out."""
    roads = road, road
    if kind != "FP32":
        roads = fp8_wire(world(), 128)
    if kind == "FP8 both ways":
        roads = roads[0], roads[0]
    with comm.metering() as meter:
        found = slopes(rank, roads)
    return meter.num_bytes["all_to_all"], found


# %%
rows = []
for kind in ("FP32", "FP8, home in BF16", "FP8 both ways"):
    ranks = gpus.attempt(tried, kind)
    found = joined([found for _, found in ranks])
    errors = [apart(*pair) for pair in zip(found, whole, strict=True)]
    rows.append((kind, sum(sent for sent, _ in ranks) / 1e3, *errors))
table(
    rows,
    {"rows travel as": "", "KB": ".0f", **{name: ".1%" for name in names}},
    caption="What a step sends, forward and backward, and how far off it is.",
)

# %% [markdown]
# FP8 there and BF16 home cost well under half of the bytes, and what is left of the numbers is good to a few per cent: each row was rounded once.
# With FP8 both ways fewer bytes travel, and y is rounded a second time, after the experts.
# Nobody can say from such errors what a training would make of them; DeepSeek kept the way home in BF16.

# %% [markdown]
# ## While bytes travel
#
# While your rows travel, nobody computes, and on a large cluster that is about half of the time.
#
# Take **two micro-batches**, a and b.
# While rows of a travel, b can compute, and the other way round.
#
# A layer of experts is cut where rows leave and arrive:
#
# | part | what happens | the processors |
# |---|---|---|
# | `attend` | attention and the router | compute |
# | `start_dispatch` | rows leave for their experts | are free at once |
# | `experts` | the experts of this rank, and the shared one | compute |
# | `start_combine` | results leave for their tokens | are free at once |
#
# `start_dispatch` and `start_combine` return what is *under way*, and its `wait()` gives what has arrived.
# `dispatch` and `combine` are a start and its wait in one.
# With these, here is the plain order:


# %%
def in_turn(layers: list[Layer], a: Batch, b: Batch) -> tuple[Batch, Batch]:
    """Each micro-batch waits for all that it sends."""
    for layer in layers:
        a = layer.combine(layer.experts(layer.dispatch(layer.attend(a))))
        b = layer.combine(layer.experts(layer.dispatch(layer.attend(b))))
    return a, b


# %% [markdown]
# It runs on your four ranks, with real rows, and each rank's tape is recorded.
# Then the tapes are replayed on the *scaled twin* of the H800, of which the chapter [Emulated time](../chapters/05_comm/emulated_time.md) tells.
# Its links are set so that computing and sending take equally long.
# This 1 : 1 is what DeepSeek-V3 met, and it is the hard case: there is nothing to spare.

# %%
LAYERS = 8
plain = gpus.attempt(mixture_layers.run, in_turn, LAYERS, 0)
twin = hidden.one_to_one(hidden.tapes(plain))
turns = replay(hidden.tapes(plain), twin)
overlaps.compared({"in turn": turns}, ms=14).captioned(
    "A layer in the plain order, on rank 0. What computes never sends.",
    alt="A row of what rank 0 computes and one of what it sends. Attend of a, then its "
    "dispatch, experts of a, then its combine, and the same for b. Wherever one row has "
    "a bar, the other is empty.",
)

# %% [markdown]
# > **Predict.** With the best order, how much shorter can the step get? And why can the very last `combine` never be hidden?

# %% [markdown]
# ## Task 5.6
#
# Write an order in which at least 90 % of the all-to-all time is hidden.
# Both micro-batches go through all layers, `layers[0]` first.
#
# * A micro-batch passes `attend`, dispatch, `experts`, combine, and then the next layer. Hand on what came back from one part to the next.
# * What is under way cannot be used before its `wait()`, and all that was started has to be waited for.
# * The processors do your calls one after the other. So does the wire, with what was started.
#
# The check draws your timeline under ours where it hides too little, and names the longest gap.


# %%
def overlapped(layers: list[Layer], a: Batch, b: Batch) -> tuple[Batch, Batch]:
    """Both micro-batches through all layers: one computes while the other travels."""
    ### BEGIN SOLUTION
    back_b = None
    for layer in layers:
        a = layer.attend(a)
        there_a = layer.start_dispatch(a)
        if back_b is not None:
            b = back_b.wait()
        b = layer.attend(b)
        there_b = layer.start_dispatch(b)
        a = layer.experts(there_a.wait())
        back_a = layer.start_combine(a)
        b = layer.experts(there_b.wait())
        back_b = layer.start_combine(b)
        a = back_a.wait()
    return a, back_b.wait()
    ### END SOLUTION


# %%
check.task_5_6(overlapped)

# %%
overlapped = pieces.use("comm.overlapped", overlapped)

# %%
mine = gpus.attempt(mixture_layers.run, overlapped, LAYERS, 0)
yours = replay(hidden.tapes(mine), twin)
overlaps.compared({"in turn": turns, "overlapped": yours}, ms=14).captioned(
    "The plain order and yours, both as they ran on rank 0.",
    alt="Two pairs of rows. In the plain order computing and sending take turns. In the "
    "other the row of what is computed has hardly a gap, a and b in turn, and so has "
    "the row of what is sent.",
)

# %%
table(
    [
        (name, timeline.step_ps / 1e9, hidden.share_hidden(timeline))
        for name, timeline in (("in turn", turns), ("overlapped", yours))
    ],
    {"order": "", "step, ms": ".0f", "of the all-to-all time, hidden": ".0%"},
    caption=f"{LAYERS} layers, two micro-batches, four ranks; emulated, 1 : 1.",
)

# %% [markdown]
# Nearly half of the step is gone.
# The last `combine` has nothing beside it, because nothing is left to compute, and with 8 layers it is one of 32 trips.
# What else is not hidden comes of parts that are not equally long, and of a router that is not even.
#
# > **Predict.** Now let links be twice as fast, or half as fast, with the same order. How much is hidden then?

# %%
rows = []
for times in (4, 2, 1, 0.5, 0.25):
    machine = hidden.with_links(twin, times)
    one, other = (replay(hidden.tapes(run), machine) for run in (plain, mine))
    least = hidden.least_ps(one)
    ms = (ps / 1e9 for ps in (one.step_ps, other.step_ps, least))
    rows.append((f"{max(times, 1):g} : {max(1 / times, 1):g}", *ms))
table(
    rows,
    {
        "compute : communication": "",
        "in turn, ms": ".0f",
        "overlapped, ms": ".0f",
        "no order is below, ms": ".0f",
    },
    caption="The same orders on links of other speeds.",
)

# %% [markdown]
# Where sending takes less than computing, all of it finds a place.
# Where it takes more, the wire is the bottleneck, and no order helps: fewer bytes would.
#
# **The way back** works by the same idea, for the backward pass of a dispatch is a combine, and that of a combine a dispatch.
# `python -m tiny_lm train --overlap` lets two micro-batches alternate through whole training steps.

# %% [markdown]
# ## In a line
#
# Experts lie side by side; layers can also lie one behind the other.
# In a **pipeline** each rank holds one *stage*, a few layers, and passes on what it computed; the chapter [Pipelines](../chapters/05_comm/pipelines.md) has eight kinds.
# A batch is cut into micro-batches, so that the stages have something to do at the same time.
#
# What a stage does can be written down as data: a list of actions, `("F", 3)` for the forward of micro-batch 3 and `("B", 3)` for its backward.
# A stage does its list in order.
# F waits for F of the stage before, B for B of the stage behind.
#
# The first idea is *GPipe*: all forwards, and then all backwards.


# %%
def gpipe(num_stages: int, stage: int, num_micro: int) -> list[tuple[str, int]]:
    """All forwards, then all backwards."""
    return [(kind, micro) for kind in "FB" for micro in range(num_micro)]


def whole(order, num_stages: int, num_micro: int) -> Schedule:
    """The lists of all stages; a backward in one piece is called BW from here on."""
    names = {"F": "F", "B": "BW"}
    ranks = tuple(
        tuple((names[kind], stage, micro) for kind, micro in actions)
        for stage in range(num_stages)
        for actions in [order(num_stages, stage, num_micro)]
    )
    return Schedule(order.__name__, num_stages, num_micro, ranks)


pipelines.boxes(bubbles.play(whole(gpipe, 4, 6))).captioned(
    "GPipe with 4 stages and 6 micro-batches. F is grey and takes 1 unit, B takes 2.",
    alt="Four rows. Grey boxes 0 to 5 step down from rank 0 to rank 3, one unit later "
    "on each; then coloured boxes, twice as long, climb up from rank 3 to rank 0.",
)

# %% [markdown]
# A stage has to keep what it computed for a micro-batch from F to B.
# Here rank 0 keeps all six.
# With a hundred micro-batches it would keep a hundred, and memory is what a large model has least of.
#
# But the last stage could begin with B of micro-batch 0 at once.
#
# > **Predict.** If each stage goes back as soon as it can, does the step get shorter? How many micro-batches does rank 0 have to keep?

# %% [markdown]
# ## Task 5.7
#
# Write *1F1B*: one forward, one backward.
#
# 1. A stage runs ahead with as many forwards as there are stages behind it. Each of those needs one before the first backward can come back.
# 2. Then it alternates, one F and one B, until no forward is left.
# 3. The backwards that are left come last. Backwards are done in the order of forwards.
#
# Stages are numbered from 0; `stage` is the one whose list is wanted.
# There may be fewer micro-batches than stages.


# %%
def one_f_one_b(num_stages: int, stage: int, num_micro: int) -> list[tuple[str, int]]:
    """What one stage does, in order: ("F", micro-batch) and ("B", micro-batch)."""
    ### BEGIN SOLUTION
    ahead = min(num_stages - stage - 1, num_micro)
    actions = [("F", micro) for micro in range(ahead)]
    for micro in range(num_micro):
        if micro + ahead < num_micro:
            actions.append(("F", micro + ahead))
        actions.append(("B", micro))
    return actions
    ### END SOLUTION


# %%
check.task_5_7(one_f_one_b)

# %%
one_f_one_b = pieces.use("comm.one_f_one_b", one_f_one_b)

# %%
pipelines.boxes(bubbles.play(whole(one_f_one_b, 4, 6))).captioned(
    "Your schedule, 4 stages and 6 micro-batches.",
    alt="Four rows. After a start in steps, grey boxes of one unit and coloured ones of "
    "two alternate on every rank; the end mirrors the start.",
)

# %% [markdown]
# The step is as long as before: the pipeline still has to fill and to drain, and the white boxes, the *bubble*, are as many.
# What 1F1B saves is memory: rank 0 keeps 4, as many as there are stages, however many micro-batches there are.
#
# The bubble can be filled, too.
# A backward is two products: the gradient by the *input*, for which the stage before waits, and that by the *weights*, for which nobody waits.
# Cut in two they are B and W, and W may come when there is nothing better to do.

# %%
pipelines.boxes(bubbles.play(build("zb1p", 4, 6))).captioned(
    "ZB1P, a schedule with halves. W is pale, and F, B and W take 1 unit each.",
    alt="Four rows of boxes of one unit. Pale ones stand in the places where 1F1B waits, "
    "most of them at the end of the lower rows.",
)

# %% [markdown]
# ## Task 5.8
#
# Each schedule comes with formulas for what it wastes and what it keeps.
# You need none of them: a schedule is data, so play it.
#
# `schedule` has a list for each rank, of actions `(kind, stage, micro)`, and `units` says how long each kind takes.
# Kinds are F, B, W, and BW for a whole backward in one piece.
# A rank may hold several stages.
#
# * A rank does its list in order. An action begins as soon as the rank is free and what it waits for is over.
# * F waits for F of stage − 1; B and BW wait for the backward of stage + 1, be it B or BW; of the same micro-batch, on whatever rank. W waits for nobody, and nobody for W. (`kind[0]` is the same for B and BW.)
# * The first stage's F and the last stage's backward wait for nobody.
#
# Return two lists, with a number for each rank: how many units of the whole step it is *idle*, and how many micro-batches it holds at once at its *peak*.
# A micro-batch is held from its F to its W or BW; a rank with two stages holds it twice.


# %%
def bubble_and_memory(
    schedule: list[list[tuple[str, int, int]]], units: dict[str, int]
) -> tuple[list[int], list[int]]:
    """Idle units of each rank, and how many micro-batches it holds at once, at most."""
    ### BEGIN SOLUTION
    every = {(kind[0], *rest) for actions in schedule for kind, *rest in actions}
    end, clock = {}, [0] * len(schedule)
    while len(end) < len(every):
        for rank, actions in enumerate(schedule):
            for kind, stage, micro in actions:
                if (kind[0], stage, micro) in end:
                    continue
                neighbour = {"F": stage - 1, "B": stage + 1, "W": None}[kind[0]]
                before = (kind[0], neighbour, micro)
                if before in every and before not in end:
                    break
                clock[rank] = max(clock[rank], end.get(before, 0)) + units[kind]
                end[kind[0], stage, micro] = clock[rank]
    idle, peak = [], []
    for actions in schedule:
        idle.append(max(clock) - sum(units[kind] for kind, _, _ in actions))
        steps = ((kind == "F") - (kind in ("W", "BW")) for kind, _, _ in actions)
        peak.append(max(accumulate(steps)))
    return idle, peak
    ### END SOLUTION


# %%
check.task_5_8(bubble_and_memory)

# %%
bubble_and_memory = pieces.use("comm.bubble_and_memory", bubble_and_memory)

# %% [markdown]
# > **Predict.** 4 ranks, 8 micro-batches. Which schedule wastes least, and which keeps least?

# %%
UNITS = {"F": 1, "B": 1, "W": 1, "BW": 2}
rows = []
for name in ("gpipe", "1f1b", "interleaved", "zb1p", "zbv"):
    found = build(name, 4, 8)
    idle, peak = bubble_and_memory([list(row) for row in found.ranks], UNITS)
    of_rank = [[x * found.share for x in numbers] for numbers in (idle, peak)]
    rows.append((name, found.num_stages, max(of_rank[0]), max(of_rank[1])))
table(
    rows,
    {"schedule": "", "stages": "d", "idle units": "g", "held at most": "g"},
    caption="What the worst rank wastes and keeps. Where a rank holds two stages, each "
    "is half as long and keeps half as much, and is counted as a half.",
)

# %% [markdown]
# What a schedule saves in time it often pays for in memory, or in messages.
# DeepSeek-V3 wrote one of its own, *DualPipe*: pairs of a forward and a backward hide each other's all-to-alls, as a and b did above.

# %% [markdown]
# ## A model that learns over your pieces
#
# A model of `tiny_lm` does not know where its experts are: it asks a *dispatcher* to bring rows there and results back.
# This one is made of your pieces.


# %%
class YourDispatcher:
    """Brings rows to experts on any rank, and their results back, by your pieces."""

    def __init__(self, num_experts, group, wire):
        self.num_experts, self.group, self.wire = num_experts, group, wire
        share = num_experts // group.size
        self.local_experts = range(group.rank * share, (group.rank + 1) * share)

    def dispatch(self, x, experts):
        rows, load, way = Sent.apply(x, experts, self.num_experts, *self.wire)
        here = slice(self.local_experts.start, self.local_experts.stop)
        return rows, load[here].cumsum(0).int(), way

    def combine(self, rows, weights, way):
        return combine(rows, weights, way, *self.wire)


# %% [markdown]
# Every rank reads its share of the same 8 sequences, so that the batch is the same for any number of ranks.
# A *wire* is how rows travel, there and home: as they are, or as you packed them in FP8.

# %%
small = mixture_layers.config(num_layers=2)
small = replace(small, moe=replace(small.moe, balance_loss=0.0), num_mtp=0)


def plain_wire(group):
    road = partial(comm.all_to_all, group=group)
    return road, road


def train(rank, make, steps):
    """Losses of the small model, trained by all ranks of the cluster."""
    group = world()
    lm = make(small, group)
    optimizer = build_optimizer(lm, TrainConfig(lr=4e-3))
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(97, 123, (64,), generator=generator)  # letters to learn
    losses = []
    for _ in range(steps):
        starts = torch.randint(32, (8, 1), generator=generator)
        tokens = text[starts + torch.arange(33)].chunk(group.size)[rank]
        losses.append(train_step(lm, optimizer, tokens, group, 1.0)["loss"])
    return losses


def with_yours(roads, c, group):
    dispatcher = YourDispatcher(c.moe.num_experts, group, roads(group))
    return model.LanguageModel(c, dispatcher)


def with_theirs(form, c, group):
    parts = c.moe.num_experts, group
    return model.LanguageModel(c, ExpertParallelDispatcher(*parts, wire=form))


def alternating(order, c, group):
    """tiny_lm's dispatcher; forward, the micro-batches take turns in your order."""
    parts = c.moe.num_experts, group
    lm = mixture_layers.TakesTurns(c, ExpertParallelDispatcher(*parts))
    lm.order = order
    return lm


# %% [markdown]
# > **Predict.** Which of these runs give the *same* losses: yours on 4 ranks and on 2, yours and tiny_lm's, one with your order of two micro-batches, one with FP8 on the wire?

# %%
STEPS = len(list(training_steps(6)))
packed = partial(fp8_wire, tile=32)
runs = {
    "tiny_lm's, 4 ranks": (gpus, partial(with_theirs, wire.WireFormat())),
    "yours, 4 ranks": (gpus, partial(with_yours, plain_wire)),
    "yours, 2 ranks": (check.gpus(2), partial(with_yours, plain_wire)),
    "your order of a and b": (gpus, partial(alternating, overlapped)),
    "tiny_lm's, FP8 on the wire": (gpus, partial(with_theirs, wire.fp8_wire(32))),
    "yours, FP8 on the wire": (gpus, partial(with_yours, packed)),
}
losses = {
    name: ranks.run(train, make, STEPS)[0] for name, (ranks, make) in runs.items()
}
first, *_ = losses.values()
table(
    [
        (name, of[0], of[-1], max(abs(x - y) for x, y in zip(of, first, strict=True)))
        for name, of in losses.items()
    ],
    {"": "", "first loss": ".4f", "last loss": ".4f", "off the first row by": ".0e"},
    caption=f"{STEPS} steps of the same model on the same text, nats per byte.",
)

# %%
of_runs = torch.tensor([*losses.values()])
print("the same losses:", torch.allclose(of_runs[:4], of_runs[:1], atol=1e-4))
print("in FP8, the first ones:", torch.allclose(*of_runs[4:, 0], atol=1e-4))

# %% [markdown]
# Where rows are sent does not change what is learned, and neither does the number of ranks or the order of micro-batches: only the order of sums differs, in the last digits.
# FP8 on the wire does change the numbers.
# Yours and tiny_lm's begin alike; then a last digit rounds to another code here and there, and the two drift apart as twins do.
#
# ## What this exercise does not show
#
# It does not show speed: the milliseconds were emulated, computed from what your order did, for a machine that was scaled down as the model was.
# A real transfer takes processors from the kernels beside it. DeepSeek-V3 gave 20 of 132 to it, and the replay gives none.
#
# Nor does it show the way back: where your order trained the model, the backward pass waited for each of its trips.

# %% [markdown]
# ## What you have now
#
# Eight pieces: a ring, a byte table, a way to the experts and one back, and FP8 on the wire.
# Then an order that hides what travels, a pipeline's schedule, and what any schedule costs.
# `dispatch`, `combine` and `fp8_wire` are those that the model of the last part is built with.

# %%
print(pieces.progress("05_comm"))
