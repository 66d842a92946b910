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
# The chapter [Emulated GPUs](../chapters/05_comm/emulated_gpus.md) says what these processes are.
#
# **How a task works.** Replace the last line of the stub, run it, run the check below it.
# `hint(1)`, `hint(2)` and `hint(3)` go from a nudge to almost the line; `show_solution()` shows ours once you have tried.
# Below each check, `pieces.use` hands on your function if it passed and tiny_lm's own if not, so you can skip a task and come back.
# (*Run all* stops at the first task that is not solved: go on below it by hand.)

# %%
import torch
import torch.nn.functional as F
from jaxtyping import Int, Shaped
from torch import Tensor

from tiny_lm.course.checks import comm as check
from tiny_lm.course.checks import hint, show_solution  # noqa: F401
from tiny_lm.course.figures import collectives as pictures
from tiny_lm.course.figures.tables import table
from tiny_lm.course.labs import pieces
from tiny_lm.gpus import comm
from tiny_lm.gpus.mesh import Group, world
from tiny_lm.router import route

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
# Bytes are not all that counts.
# The ring takes 2(p − 1) steps, and every message has a price of its own, however small it is.
# With small tensors that decides.

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
# ## What you have now

# %%
print(pieces.progress("05_comm"))
