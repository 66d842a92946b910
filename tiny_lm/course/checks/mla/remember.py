"""Task 3.2: a memory that is allocated once and written into.

Chapter: 03_mla/memory_of_the_context
Source: course
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.case import case, drawn, probe
from tiny_lm.course.checks.task import Task


def remember(
    memory: Float[Tensor, "... S d"], length: int, new: Float[Tensor, "... T d"]
) -> tuple[Float[Tensor, "... filled d"], int]:
    """Write the newest positions behind the others; all of them, and how many."""
    end = length + new.shape[-2]
    if end > memory.shape[-2]:
        raise ValueError(f"room for {memory.shape[-2]} positions, asked {end}")
    memory[..., length:end, :] = new
    return memory[..., :end, :], end


FITS = (
    "Two shapes do not fit. Positions are the dim before the last: `memory[..., a:b, "
    ":]` reads or writes those from a to b, however many dims stand before them."
)

task_3_2 = Task(
    id="3.2",
    lab="03_mla",
    title="A memory",
    name="remember",
    piece="mla.remember",
    difficulty=2,
    minutes=18,
    points=3,
    reference=remember,
    returns=("filled", "length"),
    writes=("memory",),
    errors={
        "must match the existing size": FITS,
        "must match the size": FITS,
        "shape mismatch": FITS,
        "expanded size": FITS,
    },
    hints=(
        """
        The memory is there already, larger than needed. Which rows of it are filled,
        which come next, and what does a reader want to see afterwards?
        """,
        """
        new holds T = new.shape[-2] positions, and they go to rows length to
        length + T of the dim before the last. A slice of a tensor is a view: assigning
        to it writes into the memory, and returning one copies nothing. Compare the end
        with memory.shape[-2] before you write: a slice that reaches too far only
        becomes shorter, without a word.
        """,
        """
        end = length + new.shape[-2]; if it exceeds memory.shape[-2], raise ValueError.
        memory[..., length:end, :] = new writes. What is filled is the slice that
        begins at 0 and ends at the same end; return it together with end.
        """,
    ),
)

JUNK = [[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0], [9.0, 9.0], [9.0, 9.0]]]

task_3_2.asks(
    "what is new follows what is there, and the rest stays out of sight",
    case(JUNK, 2, [[[5.0, 6.0]]], note="the nines are what lay in memory before"),
    case(JUNK, 1, [[[5.0, 6.0], [7.0, 8.0]]]),
    otherwise="Rows up to `length` are kept, the new ones follow, and what comes "
    "back ends with them.",
    mistakes={
        "return memory[..., :end, :], end => return memory, end": "The whole memory "
        "came back. Behind the new rows stands what nobody has written, and attention "
        "would read it.",
        "memory[..., length:end, :] = new => memory[..., : new.shape[-2], :] = new": (
            "The new rows were written to the front, over the oldest ones."
        ),
        "memory[..., length:end, :] = new => memory[..., -new.shape[-2] :, :] = new": (
            "The new rows went to the end of the memory. They follow the row that was "
            "written last."
        ),
        "memory[..., length:end, :] = new => "
        "memory[..., length - 1 : end - 1, :] = new": "The new rows were written one "
        "row too early, over the last that was there. `length` rows are filled, and "
        "the next has just that number.",
        "memory[..., length:end, :] = new => pass": "Nothing was written: the rows "
        "behind the old ones still hold what lay there.",
        "memory[..., length:end, :] = new => memory[..., length:end, :] += new": "The "
        "new rows were added to what lay there. They replace it.",
        "return memory[..., :end, :], end => return memory[..., :end, :], length": (
            "The length is that of before. The next call would write over these rows."
        ),
        "return memory[..., :end, :], end => "
        "return memory[..., :end, :], new.shape[-2]": "This is how many are new. The "
        "next call needs the number of all.",
        "return memory[..., :end, :], end => return memory[..., :end, :], length + 1": (
            "The length grew by 1. There may be several new positions."
        ),
        "memory[..., length:end, :] = new => "
        "memory[..., length:end, :] = new[..., :1, :]": "The first of the new "
        "positions was written to all their places.",
        "new.shape[-2] => len(new)": "`len` counts the first dim, and that one holds "
        "sequences here. Positions are the dim before the last.",
        "return memory[..., :end, :], end => return memory[..., :length, :], end": (
            "The new rows are missing from what came back: a token has to see itself."
        ),
        "return memory[..., :end, :], end => return new, end": "Only the new rows came "
        "back. The reader wants all that are filled.",
        "return memory[..., :end, :], end => return memory[..., length:end, :], end": (
            "Only the new rows came back. The reader wants all that are filled."
        ),
    },
)


def draw(generator: Generator, B: int, G: int, T: int, d: int) -> tuple:
    memory = torch.randn(B, G, 8, d, generator=generator)
    return memory, 3, torch.randn(B, G, T, d, generator=generator)


task_3_2.asks(
    "whatever dims stand before them, positions are the dim before the last",
    drawn(lambda generator: draw(generator, B=2, G=3, T=2, d=4)),
    drawn(lambda generator: draw(generator, B=1, G=2, T=2, d=2)),
    otherwise=FITS,
    mistakes={
        "memory[..., length:end, :] = new => memory[:, length:end] = new": FITS,
        "memory[..., length:end, :] = new => memory[0, ..., length:end, :] = new[0]": (
            "Only the first sequence was written."
        ),
    },
)


@probe("write one position into a memory, then look where it lies")
def where(answer: Answer, generator: Generator) -> dict:
    memory, length, new = draw(generator, B=2, G=3, T=1, d=4)
    filled, _ = answer(memory, length, new)
    store, own = filled.untyped_storage(), memory.untyped_storage()
    inside = store.data_ptr() == own.data_ptr()
    return {
        "the memory, row 3:": memory[0, 0, 3].clone(),
        "the memory, all rows:": memory.clone(),
        "what came back": "lies in the memory" if inside else "is a copy",
        "_room": store.nbytes(),
    }


GROWN = (
    "A longer tensor was made, and all that was there was copied into it, for every "
    "new token once more. The memory has room: write the new rows into it."
)
COPIED = (
    "The new rows are in the memory, but what came back is a copy of all that is "
    "filled, made anew for every token. A slice of the memory would be a view."
)

task_3_2.asks(
    "it is written into the memory, and what comes back is a view of it",
    where,
    mistakes={
        "memory[..., length:end, :] = new\n    return memory[..., :end, :], end => "
        "return torch.cat([memory[..., :length, :], new], dim=-2), end": GROWN,
        "memory[..., length:end, :] = new => memory = memory.clone()\n"
        "    memory[..., length:end, :] = new": "A copy of the memory was written "
        "into. The caller's own, which the next call will get, is as it was.",
        "memory[..., length:end, :] = new => memory = memory.index_copy("
        "-2, torch.arange(length, end), new)": "A copy of the memory was written "
        "into. The caller's own, which the next call will get, is as it was.",
        "return memory[..., :end, :], end => "
        "return memory[..., :end, :].clone(), end": COPIED,
        "return memory[..., :end, :], end => "
        "return torch.cat([memory[..., :length, :], new], dim=-2), end": COPIED,
        "return memory[..., :end, :], end => "
        "memory[..., end:, :] = 0\n    return memory[..., :end, :], end": "The rows "
        "that are free were written too. Leave them: to fill a memory with zeros is "
        "as much work as to read it.",
    },
)
