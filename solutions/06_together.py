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
# # Lab 6 · All four together
#
# In five labs you wrote the parts of a language model.
# Now they become one: experts, latents, eight bits and all that travels, trained on four emulated GPUs.
# Then you ask what it was for.
# The four techniques are switched on one by one, and you find out what each costs, what it saves, and who gets the credit.
# At the end there is a page to show around.
#
# You need no other lab for it: where a piece of yours is missing, tiny_lm's own stands in.
# The chapters [The full model](../chapters/06_together/full_model.md) and [The cost ladder](../chapters/06_together/cost_ladder.md) go with it.
#
# **How a task works.** Replace the last line of the stub, run it, run the check below it.
# `hint(1)`, `hint(2)` and `hint(3)` go from a nudge to almost the line; `show_solution()` shows ours once you have tried.
# Below each check, `pieces.use` hands on your function if it passed and tiny_lm's own if not, so you can skip a task and come back.
# (*Run all* stops at the first task that is not solved: go on below it by hand.)

# %%
import math
import tempfile
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tiny_lm import job, ladder, runs
from tiny_lm.config import TrainConfig
from tiny_lm.costs import V3_RUN
from tiny_lm.course.assembly import running, writing
from tiny_lm.course.assembly.kept import gather
from tiny_lm.course.checks import hint, show_solution  # noqa: F401
from tiny_lm.course.checks import together as check
from tiny_lm.course.figures import baseline as pictures
from tiny_lm.course.figures import timelines
from tiny_lm.course.figures.captions import Sample
from tiny_lm.course.figures.tables import table
from tiny_lm.course.labs import pieces, rungs
from tiny_lm.course.labs.steps import training_steps
from tiny_lm.course.report import page
from tiny_lm.course.report.facts import Report, percent
from tiny_lm.gpus.launch import Cluster
from tiny_lm.gpus.mesh import world
from tiny_lm.layout import Layout

torch.set_num_threads(1)  # four ranks share the cores of this machine

# %% [markdown]
# ## Whose pieces
#
# Functions that passed a check lie in `my_pieces/`, each in a file of its own.
# Before anything is made of them, each is checked once more, in a process that may be lost: a file can be edited, and what passed last week may loop for ever today.
# The first time takes some seconds.

# %%
mine = gather()
MODEL = ("moe", "mla", "fp8")
whose = mine.describe(ladder.combination(MODEL), ranks=4)
used = [row for row in whose if row.place and not row.why_not]
table(
    [(f"`{row.piece}`", row.place, row.whose) for row in used],
    {"piece": "", "where it stands in the model": "", "whose": ""},
    caption="What this model is made of. Where none of a part's pieces is yours, that "
    "part is tiny_lm's as a whole.",
)

# %%
own = sum(row.piece in mine.yours for row in used)
print(f"{own} of these {len(used)} pieces are yours.")
for name, why in mine.wrong.items():
    print(f"NOT used: {name}. {why}")
if not mine.yours:
    print("Nothing of yours is kept here: the model is made of reference pieces.")

# %% [markdown]
# A piece that does not pass is named here, before anything is trained, and tiny_lm's own stands in.
# Mend its file, or pass its check again, and run from here on.
# (`mine = mine.without("moe.gate")` leaves one out on purpose.)
#
# ## One model on four GPUs
#
# Each step reads 16 texts of 128 bytes, four on each rank.
# The learning rate rises at first and is constant then.
# So every point of a curve is the end of a shorter run, and curves may be compared at any of their points.
#
# > **Predict.** Whoever knows nothing needs 8 bits for a byte. A few dozen steps later, how many does this model need?

# %%
STEPS = len(list(training_steps(60)))
TRAINING = TrainConfig(
    steps=STEPS, lr=3e-3, final_lr=3e-3, warmup_steps=STEPS // 10, eval_batches=4
)
gpus = Cluster(4)
folder = Path(tempfile.mkdtemp())


def a_job(techniques, training):
    """What four ranks are asked to do, with your pieces."""
    return job.Job(
        config=ladder.combination(techniques),
        training=training,
        layout=Layout(overlap="overlap" in techniques),
        maker=mine,
        out=folder / "_".join(("run", *techniques)),
        progress=False,
    )


def train(techniques, training=TRAINING):
    """Train it; what it came to, and the metrics of every step."""
    summary = running.on(gpus, a_job(techniques, training))
    return summary, runs.read_metrics(Path(summary["run"]))


trained = {MODEL: train(MODEL)}

# %%
summary, metrics = trained[MODEL]
losses = [m["loss"] for m in metrics]
bits = [loss / math.log(2) for loss in losses]
pictures.learning_curves({"your model": bits}, colors={"your model": "moe"}).captioned(
    f"{STEPS} steps; means of ten. On new files it ends at "
    f"{summary['val_loss'] / math.log(2):.2f} bits per byte.",
    alt="Training loss in bits per byte over the steps. It starts at eight, falls "
    "steeply at first and then more slowly.",
)

# %% [markdown]
# The first bits are cheap: which bytes occur at all, and how often.
# Words, indentation and the order of things come later, one after another.
#
# > **Predict.** Sixteen experts a layer, and four work for each token. After so few steps, is there one that gets nothing?

# %%
LAST = min(10, STEPS)
load = rungs.even_shares(metrics, LAST)
table(
    [
        (f"layer {n + 1}", max(row), min(row), sum(x < 0.1 for x in row))
        for n, row in enumerate(load)
    ],
    {"": "", "busiest": ".1f", "idlest": ".1f", "below a tenth": "d"},
    caption=f"Load of the experts in the last {LAST} steps, in even shares.",
)

# %% [markdown]
# The bias moves by 0.01 a step, so in a run as short as this it is still on its way.
#
# ## What a step is made of
#
# A step can be recorded: which kernel ran on which rank, which bytes left it.
# Then it is replayed on a machine that is as much weaker than nodes of H800s as this model is smaller than DeepSeek-V3.
# This is *your* step, by your pieces, on that machine.

# %%
TOGETHER = (*MODEL, "overlap")


def recorded(rank, of):
    """This rank's tape of a step; the one before warms up."""
    worker = of.maker.worker(of, world(), "cpu")
    batches, _ = job.batches(of, *job.read_corpus(of)[1:])
    worker.step(batches.at(0, rank, 4))
    return worker.record(batches.at(1, rank, 4))[1]


steps = {
    name: rungs.on_twin(gpus.run(recorded, a_job(techniques, TRAINING)))
    for name, techniques in {"one by one": MODEL, "in turn": TOGETHER}.items()
}

# %%
timelines.where_time_goes(steps).captioned(
    "A step of your model, emulated; means over the ranks. *In turn*: two micro-batches, "
    "one computes while the other's rows travel.",
    alt="Two bars, each cut into compute, communication that nothing hides, and bubble. "
    "In the lower one the part of communication is shorter.",
)

# %% [markdown]
# In turn, each micro-batch is half as large, so there are twice as many kernels to launch.
# What is hidden has to be worth more than that.
# How the functions are written counts as well: a loop over experts launches more kernels than one call for all.
#
# ## Task 6.1
#
# Who rents GPUs pays for all of them, all the time.
# Given are, for each GPU, the milliseconds of a step in which it computes, and those in which it does nothing while bytes are under way (*exposed*).
# A GPU is through when both are over; then it waits for the slowest, and all begin the next step together.
#
# Return the price of `steps` such steps in dollars, and the share of the rented time in which GPUs compute.
# `steps` may be infinite: so it is for a run that never gets where it should.


# %%
def bill(
    compute_ms: Float[Tensor, " gpus"],
    exposed_ms: Float[Tensor, " gpus"],
    steps: float,
    usd_per_gpu_hour: float,
) -> tuple[float, float]:
    """Dollars for the run, and the share of the rented time in which GPUs compute."""
    ### BEGIN SOLUTION
    step_ms = (compute_ms + exposed_ms).max()
    rented_ms = len(compute_ms) * step_ms
    hours = steps * rented_ms / 1000 / 3600
    at_work = compute_ms.sum() / rented_ms
    return float(hours * usd_per_gpu_hour), float(at_work)
    ### END SOLUTION


# %%
check.task_6_1(bill)

# %%
bill = pieces.use("together.bill", bill)

# %%
RENT = V3_RUN.usd_per_gpu_hour
rows = []
for name, timeline in steps.items():
    parts = torch.tensor([(r.compute_ps, r.exposed_ps) for r in timeline.summary()])
    compute_ms, exposed_ms = parts.double().T / 1e9
    usd, at_work = bill(compute_ms, exposed_ms, STEPS, RENT)
    rows.append((name, timeline.step_ps / 1e9, usd, at_work))
table(
    rows,
    {"": "", "a step, ms": ".0f", f"{STEPS} steps, $": ".4f", "at work": ".0%"},
    caption=f"The bill for your run on 4 GPUs of that machine, at ${RENT:g} an hour each.",
)

# %% [markdown]
# ## One by one
#
# What did the techniques do to that bill?
# You start from `dense`, which has none of them and does nearly the same arithmetic for a token, and switch them on in the order of the course.
#
# First the price of a token, without any training: it needs one recorded step.
# For this, tiny_lm's own layers are recorded, so that it is the price of a technique and not of how somebody wrote it.
# And gradients are summed once in 120 micro-batches, as DeepSeek-V3 did, and not after each.
#
# > **Predict.** Four steps lead from `dense` to everything. Which of them makes a token cheaper, which dearer, and which does hardly anything?

# %%
price = {techniques: rungs.price(techniques, gpus) for techniques in rungs.variants()}

# %%
table(
    [
        (rungs.NAMES[some], *price[some].parts_us, price[some].token_us)
        for some in ladder.ORDER
    ],
    {
        "": "",
        "computes": ".1f",
        "waits for bytes": ".1f",
        "waits for others": ".1f",
        "µs a token": ".1f",
    },
    caption="Emulated microseconds for each token of a step, on four GPUs.",
)

# %% [markdown]
# Experts make a token *dearer*: rows travel, and travelling takes as long as computing.
# Overlap hides most of it again, and FP8 makes shorter what is left.
# Latents do nothing here, for training keeps no cache: what they are for is seen when text is written.
#
# So the price of a token cannot be what experts are for.
# It must be that fewer tokens are needed.
#
# > **Predict.** All models read the same text in the same order. Which of them is the first to reach the loss at which `dense` ends?

# %%
for techniques in ladder.ORDER[:3]:
    trained[techniques] = train(techniques)
few = replace(TRAINING, steps=max(3, TRAINING.warmup), eval_batches=1)
of_few = [m["loss"] for m in train(TOGETHER, few)[1]]
apart = max(abs(a - b) for a, b in zip(of_few, losses, strict=False))
print(f"With overlap, the first losses are the same within {apart:.0e}.")

# %%
trained[TOGETHER] = trained[MODEL]
curves = {some: [m["loss"] for m in trained[some][1]] for some in ladder.ORDER}
pictures.learning_curves(
    {
        rungs.NAMES[some]: [loss / math.log(2) for loss in curves[some]]
        for some in ladder.ORDER[:4]
    },
    colors={rungs.NAMES[some]: rungs.COLORS[some[-1]] for some in ladder.ORDER[1:4]},
).captioned(
    "The same text, seed and rate for all; means of ten steps.",
    alt="Four curves of bits per byte over the steps. They begin at eight, fall together "
    "and end near each other.",
)

# %% [markdown]
# Overlap changes when things are computed, not what, so its curve is that of `+ FP8`; the first steps were enough to see it.
#
# ## Task 6.2
#
# How many steps does a run take to a loss?
# Batches differ, so a curve is noisy, and one low loss is luck.
# So ask for the mean of the newest `window` losses.
#
# Return the first step after which this mean is at most `target`, and infinity where that never happens (`math.inf`).
# Steps are counted from 1, and before there are `window` losses there is no mean.


# %%
def steps_to_loss(losses: Float[Tensor, " steps"], target: float, window: int) -> float:
    """Steps after which the mean of the newest losses is at most the target."""
    ### BEGIN SOLUTION
    for step in range(window, len(losses) + 1):
        newest = losses[step - window : step]
        if newest.mean() <= target:
            return float(step)
    return math.inf
    ### END SOLUTION


# %%
check.task_6_2(steps_to_loss)

# %%
steps_to_loss = pieces.use("together.steps_to_loss", steps_to_loss)

# %% [markdown]
# Cost = steps × the price of a step.
# Here is your ladder, and `dense` is 100 %.

# %%
target = float(torch.tensor(curves[()][-LAST:]).mean())
to_target = {
    some: steps_to_loss(torch.tensor(curve), target, LAST)
    for some, curve in curves.items()
}
whole = {some: to_target[some] * price[some].token_us for some in ladder.ORDER}
my_ladder = [
    rungs.rung(
        some,
        curves[some],
        trained[some][0]["val_loss"],
        price[some],
        whole[some] / whole[()],
    )
    for some in ladder.ORDER
]

# %%
table(
    [
        (
            one.name,
            one.val_loss,
            f"{one.active / 1e6:.2f} M",
            one.flops / 1e6,
            one.cache_bytes,
            one.wire_bytes / 1e3,
            one.token_us,
            f"{to_target[some]:g}",
            percent(one.cost),
        )
        for some, one in zip(ladder.ORDER, my_ladder, strict=True)
    ],
    {
        "": "",
        "loss on new files": ".3f",
        "active parameters": "",
        "MFLOP a token": ".1f",
        "cache, bytes": ",d",
        "KB on the wire": ".1f",
        "µs a token": ".1f",
        "steps to dense's loss": "",
        "cost": "",
    },
    caption=f"Your cost ladder: {STEPS} steps, one seed; bytes and µs for each token. "
    "`inf`: not reached.",
)

# %% [markdown]
# **What this can show, and what not.**
# Bytes, FLOPs and the emulated price are exact: record the step again, and you get the same.
# The column of steps is not.
# Run it with `seed=1` in `TRAINING`: the last two columns move by a third or more, and rungs may change places.
# Experts are made for runs that are thousands of times as long, in which a dense model has learned all that it has room for.
# A few dozen steps show that the parts fit together and that the arithmetic of a price works, and no more.
#
# ## Who gets the credit?
#
# In the ladder, each technique was measured with those before it switched on.
# Would overlap look as good if it came first?
# There are 24 orders, so it is better to have the price of *all* combinations: a tensor with a dim of 2 for each technique, 0 is off and 1 is on.
# `cost[1, 0, 0, 1]` is the price of a token with experts and overlap alone.

# %%
cost = rungs.as_tensor({some: one.token_us for some, one in price.items()})
print("dims:", ", ".join(ladder.TECHNIQUES), "·", cost.numel(), "prices")

# %% [markdown]
# > **Predict.** Switch overlap on first and experts last. Which of the two factors changes, against the order of the ladder, and which way?

# %% [markdown]
# ## Task 6.3
#
# Begin with nothing switched on, and switch on the techniques in the order given.
# A technique's *factor* is the cost before it, divided by the cost after it: 2 where it halves the cost, and below 1 where it makes things dearer.
#
# Return the factors by technique: number t is that of technique t, wherever in the order it comes.
# `order` names each dim of `cost` once, and there may be any number of them.


# %%
def along(cost: Float[Tensor, "..."], order: tuple[int, ...]) -> Float[Tensor, " n"]:
    """Cost before / cost after, by technique, where they are switched on in order."""
    ### BEGIN SOLUTION
    on = [0] * cost.dim()
    factors = torch.ones(cost.dim())
    for technique in order:
        before = cost[tuple(on)]
        on[technique] = 1
        factors[technique] = before / cost[tuple(on)]
    return factors
    ### END SOLUTION


# %%
check.task_6_3(along)

# %%
along = pieces.use("together.along", along)


# %%
def places(cost):
    """Factors in the ladder's order, alone (first), and with all others on (last)."""
    n = cost.dim()
    others = [[s for s in range(n) if s != t] for t in range(n)]
    first = [along(cost, (t, *others[t]))[t].item() for t in range(n)]
    last = [along(cost, (*others[t], t))[t].item() for t in range(n)]
    return along(cost, tuple(range(n))).tolist(), first, last


table(
    zip(ladder.TECHNIQUES, *places(cost), strict=True),
    {"": "", "in the ladder": ".2f", "as the first": ".2f", "as the last": ".2f"},
    caption="By how many times a token gets cheaper; the same prices, three places.",
)

# %% [markdown]
# The columns disagree.
# Overlap alone is worth nothing, because nothing travels; with experts there it is worth most of all.
# And experts cost least where overlap is there already.
# A ladder is one path, and whoever draws it chooses who looks good.
#
# ## Task 6.4
#
# There is a credit that no order can change: take *all* orders, and each technique's geometric mean over its factors.
# (The geometric mean of m numbers is the m-th root of their product. Factors multiply, so this is the mean that fits.)
#
# In each order the factors multiply to the whole saving, and so do these means.
# Return the credit of each technique, for any number of them.
# `along` is there to be used.


# %%
def credit(cost: Float[Tensor, "..."]) -> Float[Tensor, " n"]:
    """The geometric mean of each technique's factor over all orders."""
    ### BEGIN SOLUTION
    orders = list(permutations(range(cost.dim())))
    logs = [along(cost, order).log() for order in orders]
    return torch.stack(logs).mean(dim=0).exp()
    ### END SOLUTION


# %%
check.task_6_4(credit)

# %%
credit = pieces.use("together.credit", credit)

# %%
shares = credit(cost).tolist()
of_loss = credit(rungs.recorded_costs()).tolist()
whole = math.prod(shares), math.prod(of_loss)
table(
    [*zip(ladder.TECHNIQUES, shares, of_loss, strict=True), ("*multiplied*", *whole)],
    {"": "", "for a token": ".2f", "for dense's loss, recorded": ".2f"},
    caption="Credit over all 24 orders.",
)

# %% [markdown]
# (In the theory of games this is known as the Shapley value, of the logarithm of the cost.)
#
# Even a fair share answers one question only.
# The first column asks who changed the price of a *token*, on this machine.
# The second asks for the price of the loss at which the dense model ends, from long runs on a GPU with several lengths and seeds: [The cost ladder](../chapters/06_together/cost_ladder.md) tells them.
# Compare the experts of both columns: a mixture needs fewer tokens for a loss, and how many fewer hangs on how long one trains.
#
# ## A page to show
#
# All of it goes onto one page.
# It needs no network, and it says itself what is emulated.
# Write your name, if you like; and give the model a beginning.

# %%
BY = ""
PROMPT = "def "

model = mine.model(ladder.combination(MODEL), seed=TRAINING.seed)
model.load_state_dict(runs.load_model(folder / "run_moe_mla_fp8").state_dict())
text = writing.write(mine, model, PROMPT, 160, temperature=0.7)
Sample(PROMPT + pictures.printable(text), f"After {STEPS} steps, temperature 0.7.")

# %%
my_report = Report(
    by=BY,
    rungs=my_ladder,
    credits=dict(zip(rungs.COLORS.values(), shares, strict=True)),
    pieces=[(row.piece, row.piece in mine.yours) for row in used],
    load=load,
    prompt=PROMPT,
    text=text,
    setting=f"{STEPS} steps of 16 x 128 bytes of Python's standard library, on 4 "
    f"emulated GPUs; seed {TRAINING.seed}, rate {TRAINING.lr:g}.",
)
page.write(my_report, pieces.folder())

# %% [markdown]
# ## From here on
#
# The same model, for longer, from the command line, in the folder of the course:
#
# ```bash
# python -m tiny_lm train --pieces labs/my_pieces --steps 300 --out runs/mine
# python -m tiny_lm generate runs/mine --prompt "def "
# ```
#
# A run keeps itself every fifty steps, and goes on where it was, should anything end it in the night:
#
# ```bash
# python -m tiny_lm train --steps 3000 --out runs/long
# python -m tiny_lm train --steps 3000 --out runs/long --resume
# ```
#
# And what was trained here can leave: `export` writes a folder that other libraries load without a line of this course.
#
# ```bash
# python -m tiny_lm export runs/mine my_model
# ```
#
# ## What this exercise does not show
#
# It does not show that experts, latents or eight bits make models better or worse: that takes long runs, rates chosen for each, and several seeds.
# Nor does it show seconds: four processes on this machine are no four GPUs.
# What it does show is that pieces that were written apart, and checked apart, train as one.

# %% [markdown]
# ## What you have now
#
# A language model of your own pieces, a bill for it, a ladder, and a page that says who gets the credit.
#
# If you want to leave something behind for those who come after you: read the report to somebody, and let them ask.

# %%
print(pieces.progress("06_together"))
