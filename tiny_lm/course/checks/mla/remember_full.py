"""What else task 3.2 asks: where there is no room; and its right answers.

Chapter: 03_mla/memory_of_the_context
Source: course
"""

import torch
from torch import Generator, Tensor

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.case import case, drawn, family, probe
from tiny_lm.course.checks.expect import Mismatch
from tiny_lm.course.checks.mla.remember import draw, remember, task_3_2


def _asked(answer: Answer, memory: Tensor, length: int, new: Tensor) -> dict:
    """What a call did that has no room: the kind of error, and what it left."""
    before, returned = memory.clone(), None
    try:
        returned = answer(memory, length, new)[1]
    except Mismatch:
        raised, answer.error = answer.error.partition(":")[0], ""
        if not raised:
            raise
    else:
        raised = "nothing"
    kept = torch.equal(memory, before)
    return {
        "it raises": raised,
        "the memory is": "as before" if kept else "changed",
        "_memory": memory.clone(),
        "_length": str(returned),
    }


def _rows() -> Tensor:
    return torch.arange(1.0, 5.0)[:, None].repeat(2, 1, 3)


@probe("ask for a fifth position where there is room for four")
def one_too_many(answer: Answer, generator: Generator) -> dict:
    return _asked(answer, _rows(), 4, torch.zeros(2, 1, 3))


@probe("three of four positions are filled: ask for two more")
def half_of_it_fits(answer: Answer, generator: Generator) -> dict:
    return _asked(answer, _rows(), 3, torch.zeros(2, 2, 3))


OLDEST = (
    "There was no room, and the oldest position gave way. Nobody who asks for a text "
    "of a certain length wants to lose its beginning without a word: raise ValueError."
)
full = task_3_2.asks(
    "the last row can be used; beyond it there is a ValueError, and nothing is written",
    case([[1.0], [2.0], [3.0], [0.0]], 3, [[4.0]], note="the last free row"),
    one_too_many,
    half_of_it_fits,
    otherwise="What fits exactly is written. What does not fit as a whole raises a "
    "ValueError before anything is written.",
    mistakes={
        "if end > memory.shape[-2]: => if False:": "Nothing stops it. A slice that "
        "reaches beyond the end only becomes shorter: one row too many is written "
        "nowhere, without a word, and the length goes on counting.",
        "if end > => if length >=": "It was asked whether the memory is full already. "
        "Will it hold what is new as well?",
        "if end > => if end >=": "The last row was refused, and it is free: `end` may "
        "be as large as the memory.",
        "raise ValueError( => raise IndexError(": "An error came, of another kind. "
        "ValueError is agreed on.",
        "if end > memory.shape[-2]:\n        raise ValueError( => "
        "assert end <= memory.shape[-2], str(": "`assert` is for our own slips, and "
        "`python -O` leaves it out. What a caller can do wrong gets a ValueError.",
        'raise ValueError(f"room for {memory.shape[-2]} positions, asked {end}") => '
        "return memory, length": "The full memory came back as if all were well, and "
        "the new token is lost.",
        "    if end > memory.shape[-2]:\n => "
        "    if end > memory.shape[-2]:\n        fits = memory.shape[-2] - length\n"
        "        memory[..., length:, :] = new[..., :fits, :]\n": "What fits was "
        "written before the error came. Look first: whoever catches the error goes on "
        "with the memory as it was.",
    },
)


@full.mistake(OLDEST)
def goes_round(memory, length, new):
    end, room = length + new.shape[-2], memory.shape[-2]
    memory[..., torch.arange(length, end) % room, :] = new
    return memory[..., :end, :], end


@full.mistake(OLDEST)
def pushes_out(memory, length, new):
    extra = max(length + new.shape[-2] - memory.shape[-2], 0)
    if extra:
        memory.copy_(memory.roll(-extra, dims=-2))
    return remember(memory, length - extra, new)


@full.mistake(
    "There was no room, so the last position was written over. Raise ValueError: a "
    "token that is gone is missed later, far from here."
)
def over_the_last(memory, length, new):
    extra = max(length + new.shape[-2] - memory.shape[-2], 0)
    return remember(memory, length - extra, new)


@full.mistake(
    "A longer memory was made when this one was full. It was to be refused: who "
    "allocates decides how long a text may be."
)
def grows_when_full(memory, length, new):
    if length + new.shape[-2] > memory.shape[-2]:
        grown = torch.cat([memory[..., :length, :], new], dim=-2)
        return grown, grown.shape[-2]
    return remember(memory, length, new)


def _flat(generator: Generator) -> tuple:
    memory, new = torch.randn(2, 6, 3, generator=generator)
    return memory, 0, new


task_3_2.asks(
    "equals the definition for any sizes",
    family(draw, {"B": 2, "G": 3, "T": 4, "d": 5}, ["B", "G", "T", "d"], True, True),
    drawn(_flat, note="no dim in front, and room for just these"),
)


@task_3_2.accepts
def narrow_and_copy(store, filled, rows):
    total = filled + rows.size(-2)
    if total > store.size(-2):
        raise ValueError("full")
    store.narrow(-2, filled, rows.size(-2)).copy_(rows)
    return store.narrow(-2, 0, total), total


@task_3_2.accepts
def row_by_row(memory, length, new):
    if memory.shape[-2] - length < new.shape[-2]:
        raise ValueError
    for i in range(new.shape[-2]):
        memory[..., length + i, :] = new[..., i, :]
    return memory[..., : length + new.shape[-2], :], length + new.shape[-2]


@task_3_2.accepts
def by_index(memory, length, new):
    places = torch.arange(length, length + new.shape[-2])
    if len(places) and places[-1] >= memory.shape[-2]:
        raise ValueError(f"no room for {len(places)}")
    memory.index_copy_(-2, places, new)
    return memory[..., : length + len(places), :], length + len(places)
