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
# # Lab 4 · Training in eight bits
#
# A byte can be one of 256 numbers.
# With numbers as coarse as that DeepSeek trained a model of 671 billion parameters, for half the bytes and twice the products in a second.
# In this lab you find out how it can be enough.
# First you read such a byte and round to it; then scales move whatever a tensor holds to where bytes have numbers.
#
# You need no other lab for it, only what a matrix product is.
# The chapters [Numbers in eight bits](../chapters/04_fp8/eight_bits.md) and [Scaling](../chapters/04_fp8/scaling.md) tell the story behind the tasks.
#
# **How a task works.** Replace the last line of the stub, run it, run the check below it.
# `hint(1)`, `hint(2)` and `hint(3)` go from a nudge to almost the line; `show_solution()` shows ours once you have tried.
# Below each check, `pieces.use` hands on your function if it passed and tiny_lm's own if not, so you can skip a task and come back.
# (*Run all* stops at the first task that is not solved: go on below it by hand.)

# %%
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float8e4m3fn, UInt8
from torch import Tensor

from tiny_lm import config, data, model
from tiny_lm.course.checks import fp8 as check
from tiny_lm.course.checks import hint, show_solution  # noqa: F401
from tiny_lm.course.figures import fp8_lab as pictures
from tiny_lm.course.figures.tables import table
from tiny_lm.course.labs import pieces

torch.set_num_threads(1)  # matrices as small as ours gain nothing from a second

# %% [markdown]
# ## Bytes that are numbers
#
# A whole number in a byte ends at 255, and there is nothing between 0 and 1.
# A *floating-point* number says two things instead: some digits, and how far the point has moved.
# It has three fields, and two formats are in use, which share out the bits differently.

# %%
pictures.fields().captioned(
    "Two ways to use eight bits. The names count the bits of exponent and of fraction.",
    alt="Two rows of eight boxes. E4M3 has a bit of sign, four of exponent and three of "
    "fraction. E5M2 has a bit of sign, five of exponent and two of fraction.",
)

# %% [markdown]
# By hand, with the byte `0 1001 101` of E4M3.
#
# * Sign 0 is plus.
# * Exponent field 1001 is 9. From it the *bias* is taken off, 7, so that small powers can be written too: 2.
# * Fraction field 101 is 5, of 8 that three bits can count: 5/8. A leading 1 is always there, so nobody writes it down: 1 + 5/8.
#
# Together: (1 + 5/8) · 2² = 6.5.
#
# > **Predict.** Read `1 0111 100` and `0 1010 001` with a pencil before you go on.

# %% [markdown]
# ## Task 4.1
#
# In code, for any bytes, and for both formats: `exponent_bits` and `fraction_bits` are 4 and 3 for E4M3, 5 and 2 for E5M2.
# The bias is 7 for E4M3 and 15 for E5M2, in general 2^(exponent_bits − 1) − 1.
#
# Two ends of the exponent field mean something else.
#
# * **All zeros.** Here the leading 1 is *not* there, and the power is that of field 1. So the numbers reach zero in equal steps; `0 0000 001` of E4M3 is 1/8 · 2^−6.
# * **All ones.** In E5M2 this is no number: infinity where the fraction is 0 (with its sign), NaN elsewhere. E4M3 has no infinity, and only the byte whose exponent *and* fraction are all ones is NaN. The others are ordinary numbers.
#
# Bytes come as whole numbers of eight bits, in which 3 − 7 is 252, for there is nothing below 0.
# So begin with `codes.int()`.
# `>>` shifts bits to the right, and `&` keeps those that are 1 on both sides.


# %%
def decode_byte(
    codes: UInt8[Tensor, " n"], exponent_bits: int, fraction_bits: int
) -> Float[Tensor, " n"]:
    """The number that each byte stands for."""
    ### BEGIN SOLUTION
    bits = codes.int()
    sign = 1 - 2 * (bits >> 7)
    e = (bits >> fraction_bits) & (2**exponent_bits - 1)
    f = bits & (2**fraction_bits - 1)
    bias = 2 ** (exponent_bits - 1) - 1
    leading = (e > 0).float()
    values = (leading + f / 2**fraction_bits) * 2.0 ** (e.clamp(min=1) - bias)
    highest = e == 2**exponent_bits - 1
    if exponent_bits == 4:
        return sign * values.masked_fill(highest & (f == 7), torch.nan)
    values = values.masked_fill(highest & (f > 0), torch.nan)
    return sign * values.masked_fill(highest & (f == 0), torch.inf)
    ### END SOLUTION


# %%
check.task_4_1(decode_byte)

# %%
decode_byte = pieces.use("fp8.decode_byte", decode_byte)

# %%
pencil = torch.tensor([0b1_0111_100, 0b0_1010_001], dtype=torch.uint8)
print(*decode_byte(pencil, 4, 3).tolist())

# %% [markdown]
# Were these your numbers?
# With all 256 codes the formats can be weighed against each other.
#
# > **Predict.** 256 codes: how many *different* finite numbers does E4M3 have? And how many of the positive ones lie below 1: few, half, or most?

# %%
every_code = torch.arange(256, dtype=torch.uint8)
rows = []
for name, e_bits, f_bits in (("E4M3", 4, 3), ("E5M2", 5, 2)):
    values = decode_byte(every_code, e_bits, f_bits)
    finite = values[values.isfinite()].unique()
    positive = finite[finite > 0]
    below_1 = (positive < 1).float().mean().item()
    smallest, largest = positive.min().item(), positive.max().item()
    rows.append((name, len(finite), below_1, f"{smallest:.2g}", largest))
columns = {"": "", "different numbers": "d", "of the positive, below 1": ".0%"}
columns |= {"smallest": "", "largest": ",.0f"}
table(rows, columns, caption="What your function reads from all 256 codes.")

# %% [markdown]
# Three codes are not new numbers: a second zero, and two NaN.
# About half of all numbers are smaller than 1, because the bias puts 1 into the middle of the powers.

# %% [markdown]
# ## Task 4.2
#
# Now the other way: which number of the format is nearest to x?
# PyTorch has a cast for it; here you do without, and then know what it does.
#
# 1. What lies beyond ±`largest` becomes ±`largest`, infinity too. NaN stays NaN.
# 2. From one power of two to the next there are 2^fraction_bits steps, all of one width. So the width of a step follows from the power p with 2^p ≤ |x| < 2^(p+1).
# 3. Near zero steps stop shrinking: p is at least 1 − bias, the power of the smallest number with a leading 1. With `exponent_bits` this is 2 − 2^(exponent_bits − 1).
# 4. Of two numbers that are equally near, take the one with an even count of steps. `torch.round` does just this to whole numbers.
#
# `torch.frexp(x).exponent` is p + 1.
# (It writes x as a number from 1/2 up to 1, times a power of two; the result consists of whole numbers.)

# %%
pictures.steps(12, 22, [12.6, 14.3, 17, 19], [13, 14, 16, 20]).captioned(
    "Numbers of E4M3 from 12 to 22. At 16 the steps double, and 17 and 19 are middles.",
    alt="A line with strokes at 12, 13, 14, 15, 16, 18, 20 and 22. Arrows lead from 12.6 "
    "to 13, from 14.3 to 14, from 17 to 16 and from 19 to 20.",
)


# %%
def round_to(
    x: Float[Tensor, "..."], exponent_bits: int, fraction_bits: int, largest: float
) -> Float[Tensor, "..."]:
    """The nearest numbers of the format; what is too large becomes the largest."""
    ### BEGIN SOLUTION
    x = x.clamp(-largest, largest)
    lowest = 2 - 2 ** (exponent_bits - 1)
    power = (torch.frexp(x).exponent - 1).clamp(min=lowest)
    step = 2.0 ** (power - fraction_bits)
    return (x / step).round() * step
    ### END SOLUTION


# %%
check.task_4_2(round_to)

# %%
round_to = pieces.use("fp8.round_to", round_to)

# %% [markdown]
# Is it the cast's own rounding?
# A million numbers of all sizes tell.

# %%
generator = torch.Generator().manual_seed(0)
sizes = torch.exp2(12 * torch.rand(1_000_000, generator=generator) - 8)
x = sizes * torch.randn(1_000_000, generator=generator)
ours, cast = round_to(x, 4, 3, 448.0), x.clamp(-448, 448).to(torch.float8_e4m3fn)
error = ((ours - x) / x).abs()
ordinary = (x.abs() > 2**-6) & (x.abs() < 448)
print(f"other than the cast: {(ours != cast.float()).sum()} of {len(x):,}")
print(f"relative error, mean {error[ordinary].mean():.1%}", end=", ")
print(f"largest {error[ordinary].max():.2%}; 1/16 is {1 / 16:.2%}")

# %% [markdown]
# A single number is off by two per cent on average, and never by more than a sixteenth.
# For a product of thousands of such numbers that is no disaster: some are too large, some too small.
# But there is something that these numbers cannot do.
#
# > **Predict.** A weight of 1 is trained for a hundred steps, and each adds 0.05. In FP32 it ends at 6. Where does it end if it is rounded to E4M3 after each step?

# %%
weight = torch.ones(1)
for _ in range(100):
    weight = round_to(weight + 0.05, 4, 3, 448.0)
print(f"after a hundred steps in E4M3: {weight.item():g}")

# %% [markdown]
# It has not moved.
# From 1 to the next number it is 1/8, and a step of 0.05 is less than half of that, so every step is rounded away.
# That is why training keeps a *master weight* in FP32: the optimizer adds to it, and its rounded copy goes into the products.

# %% [markdown]
# ## Task 4.3
#
# Numbers of a tensor need not lie where E4M3 has its own.
# They can be moved there: divide them by a *scale*, round, and multiply by the scale to come back.
# The best scale takes the largest magnitude, the *amax*, to the largest number, so it is amax / 448.
# Then the *code* is what is stored, x / scale rounded to E4M3.
#
# Whoever shares a scale has to live with it, so it should not be too many.
# DeepSeek-V3 cuts each row of an activation into *tiles* of 128 neighbours.
#
# Cut the rows of x, (N, K), into tiles of `width` neighbours, and return the codes, (N, K), and the scales, (N, tiles).
#
# * K need not be a multiple of `width`: then the last tile of a row is shorter. (`F.pad(x, (0, 3))` puts three zeros behind each row.)
# * A tile of zeros has no amax to divide by. Let its scale be 1, so that it stays zeros.
# * Gradients may be as small as 1e-10, and must be scaled like other numbers: no floor for the amax.
# * NaN and infinity must still be found in what comes back. If you do nothing about them, they are.
# * Codes take one byte each. Clamp to ±448, then `.to(torch.float8_e4m3fn)`, which rounds as yours does.

# %%
pictures.groups(3, 10, (1, 4)).captioned(
    "Three rows of ten numbers in tiles of four, and their scales. The last tile of each "
    "row holds two.",
    alt="Left a table of three rows and ten columns. In the first row four boxes are "
    "dark, four pale, two dark; the next row is the other way round. Right three rows "
    "of three boxes, the scales, shaded in the same way.",
)


# %%
def quantize_tiles(
    x: Float[Tensor, "N K"], width: int
) -> tuple[Float8e4m3fn[Tensor, "N K"], Float[Tensor, "N tiles"]]:
    """Codes, and one scale for each `width` neighbours of a row."""
    ### BEGIN SOLUTION
    N, K = x.shape
    tiles = F.pad(x, (0, -K % width)).reshape(N, -1, width)
    amax = tiles.abs().amax(dim=-1)
    scales = torch.where(amax == 0, 1.0, amax / 448)
    values = (tiles / scales[..., None]).clamp(-448, 448)
    codes = values.to(torch.float8_e4m3fn).reshape(N, -1)
    return codes[:, :K], scales
    ### END SOLUTION


# %%
check.task_4_3(quantize_tiles)

# %%
quantize_tiles = pieces.use("fp8.quantize_tiles", quantize_tiles)

# %% [markdown]
# The way back is given.
# Codes are multiplied by their scale, so each scale is first repeated for all whom it serves.


# %%
def dequantize(
    codes: Float8e4m3fn[Tensor, "M K"],
    scales: Float[Tensor, "m k"],
    rows: int,
    columns: int,
) -> Float[Tensor, "M K"]:
    """What codes stand for, where a scale serves `rows` x `columns` of them."""
    M, K = codes.shape
    each = scales.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return codes.float() * each[:M, :K]


# %% [markdown]
# Now real numbers.
# tiny_lm's `tiny`, untrained, reads 16 texts of 128 bytes each.
# On the way back from the loss we catch the gradient of what the first layer's attention hands on: a row for each byte of text.

# %%
train_text, _ = data.split(data.default_corpus())
tiny = model.LanguageModel(replace(config.tiny(), fp8=None))
caught = []


def listen(layer, inputs, output):
    """Ask for the gradient of what a layer gives."""
    output.register_hook(caught.append)


hook = tiny.blocks[0].attention.out.register_forward_hook(listen)
tiny.loss(data.Batches(train_text, batch_size=16, seq_len=128).at(0)).total.backward()
hook.remove()
gradient = caught[0].flatten(0, -2)
print(f"{len(gradient)} rows of {gradient.shape[1]};", end=" ")
print(
    f"magnitudes: median {gradient.abs().median():.1e}, largest {gradient.abs().max():.1e}"
)

# %% [markdown]
# > **Predict.** The smallest number of E4M3 is 1/512, about 0.002. What share of these gradients is zero if they are cast as they are? And if each tile of 32 has its scale?


# %%
def lost(again: Float[Tensor, "N K"]) -> tuple[float, float]:
    """What share became zero, and how far off the whole is."""
    vanished = ((again == 0) & (gradient != 0)).float().mean().item()
    return vanished, ((again - gradient).norm() / gradient.norm()).item()


codes = gradient.to(torch.float8_e4m3fn)
rows = [("cast as they are", *lost(codes.float()), codes.nbytes / codes.numel())]
for width in (128, 32):
    codes, scales = quantize_tiles(gradient, width)
    per_number = (codes.nbytes + scales.nbytes) / codes.numel()
    again = dequantize(codes, scales, 1, width)
    rows.append((f"tiles of {width}", *lost(again), per_number))
columns = {"": "", "became zero": ".1%", "error, of the whole": ".1%"}
columns |= {"bytes a number": ".2f"}
table(rows, columns, caption="One gradient of 2,048 rows, in E4M3.")

# %% [markdown]
# Without a scale hardly anything is left of it, and with one hardly anything is lost: a few per cent, as with a single number.
# For this gradient wide tiles do as well as narrow ones, and have fewer scales to keep.
# Where they do not is measured in the chapter [Scaling](../chapters/04_fp8/scaling.md), and it takes numbers that lie four powers of ten apart.

# %% [markdown]
# ## Task 4.4
#
# Weights are cut in another way: into *blocks*, squares of `size` rows and `size` columns, each with one scale.
# In DeepSeek-V3 a block is 128 × 128.
#
# Return the codes, (M, K), and the scales, (m, k), the scale of block row i and block column j at [i, j].
# Neither M nor K need be a multiple of `size`: the last blocks of a row or column then hold what is there.
# All else is as in 4.3.
#
# A hint on shapes: cut both dims in two, and a weight becomes (m, size, k, size).
# `w.unflatten(1, (-1, size))` cuts dim 1, and `flatten(0, 1)` joins dims 0 and 1.

# %%
pictures.groups(5, 7, (2, 2)).captioned(
    "A weight of five rows and seven columns in blocks of 2 × 2, and their scales.",
    alt="Left a table of five rows and seven columns, shaded like a chess board of "
    "squares of two by two; the last row and the last column hold parts of squares. "
    "Right three rows of four boxes, the scales, shaded in the same way.",
)


# %%
def quantize_blocks(
    w: Float[Tensor, "M K"], size: int
) -> tuple[Float8e4m3fn[Tensor, "M K"], Float[Tensor, "m k"]]:
    """Codes, and one scale for each `size` x `size` entries."""
    ### BEGIN SOLUTION
    M, K = w.shape
    padded = F.pad(w, (0, -K % size, 0, -M % size))
    blocks = padded.unflatten(1, (-1, size)).unflatten(0, (-1, size))
    amax = blocks.abs().amax(dim=(1, 3))
    scales = torch.where(amax == 0, 1.0, amax / 448)
    values = (blocks / scales[:, None, :, None]).clamp(-448, 448)
    codes = values.to(torch.float8_e4m3fn).flatten(2).flatten(0, 1)
    return codes[:M, :K], scales
    ### END SOLUTION


# %%
check.task_4_4(quantize_blocks)

# %%
quantize_blocks = pieces.use("fp8.quantize_blocks", quantize_blocks)

# %% [markdown]
# Why squares?
# A weight is used twice in a step of training.
# Forward, each of its rows is multiplied with the input and added up.
# On the way back it is each of its columns, with the gradient: there the weight is needed *turned over*, as `w.T`.
#
# > **Predict.** Quantise a weight and turn it over, or turn it over and quantise it. Is this the same with blocks? And with tiles?

# %%
weight = tiny.blocks[0].attention.out.weight.detach()


def with_blocks(w: Float[Tensor, "M K"]) -> Float[Tensor, "M K"]:
    """What is left of a weight in blocks of 32 x 32."""
    return dequantize(*quantize_blocks(w, 32), 32, 32)


def with_tiles(w: Float[Tensor, "M K"]) -> Float[Tensor, "M K"]:
    """What is left of a weight in tiles of 1 x 32."""
    return dequantize(*quantize_tiles(w, 32), 1, 32)


for name, quantised in (("blocks", with_blocks), ("tiles", with_tiles)):
    other = quantised(weight.T) != quantised(weight).T
    print(f"{name}: {other.float().mean():.0%} of the numbers differ")

# %% [markdown]
# A square turned over is a square of the same numbers, so blocks are quantised once a step and serve both ways.
# With tiles the two products would work with two weights that differ.
# An activation is not so lucky, and has to be quantised twice: this comes back in task 4.6.
#
# The other gain is in bytes.

# %%
M, K = 2048, 7168  # an expert of DeepSeek-V3: one of its three weights
rows = [("BF16", 2 * M * K / 1e6, None)]
for name, scales in (("tiles", M * K // 128), ("blocks", M * K // 128**2)):
    rows.append((f"FP8 in {name} of 128", M * K / 1e6, 4 * scales / 1e6))
table(
    rows,
    {"": "", "numbers, MB": ".2f", "scales, MB": ".3f"},
    caption="One weight of 2,048 × 7,168, and the scales beside it.",
)

# %% [markdown]
# Half the bytes, and scales that hardly count.
# What is still missing is what all this is for: a product.

# %% [markdown]
# ## What you have now

# %%
print(pieces.progress("04_fp8"))
