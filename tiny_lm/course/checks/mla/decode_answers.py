"""Task 3.9, continued: room, two texts, any length, and right answers in other styles.

Chapter: 03_mla/memory_of_the_context
Source: course
"""

from typing import Any

import torch
from torch import Generator

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.case import Case, probe
from tiny_lm.course.checks.mla.decode import PAIR, ROOM, SHORT, decode, of, task_3_9
from tiny_lm.course.checks.mla.reader import TOKENS, NewCaches, Read


def _random(generator: Generator, T: int, num_new: int) -> tuple:
    prompt = torch.randint(TOKENS, (T,), generator=generator)
    return Read(), NewCaches(), prompt, num_new


task_3_9.asks(
    "the caches have room for prompt and new tokens, from the beginning",
    of(SHORT, 4),
    Case(lambda g: _random(g, 30, 40)),
    only=(ROOM,),
    otherwise="Whoever makes a cache longer copies it: ask once, for the whole text.",
    mistakes={
        "new_caches(len(prompt) + num_new) => new_caches(len(prompt))": "There is room "
        "for the prompt alone. The new tokens are read into the same caches.",
        "new_caches(len(prompt) + num_new) => new_caches(num_new)": "There is room for "
        "the new tokens alone. The prompt goes into the same caches.",
        "new_caches(len(prompt) + num_new) => new_caches(64)": "The caches have a "
        "fixed size. A longer text does not fit: ask for as much room as it takes.",
    },
)


@probe("two texts, one after the other, by the same model")
def two_texts(answer: Answer, generator: Generator) -> dict[str, Any]:
    read, new_caches = Read(), NewCaches()
    answer(read, new_caches, torch.tensor(SHORT), 3)
    before = len(read.asked)
    found = answer(read, new_caches, torch.tensor(PAIR), 3)
    held = read.found[before] if len(read.found) > before else 0
    return {
        "tokens in the caches of the second text at its start:": held,
        "tokens of the second text:": found,
    }


apart = task_3_9.asks("each text has caches of its own", two_texts)


@apart.mistake(
    "The second text found the first one in its caches. Make new ones inside the "
    "function, for each text."
)
def caches_kept(read, new_caches, prompt, num_new):
    if not new_caches.made:
        new_caches(200)
    return decode(read, lambda room: new_caches.made[0], prompt, num_new)


task_3_9.asks(
    "holds for prompts and texts of any length",
    *(Case(lambda g, n=n: _random(g, *n)) for n in ((1, 1), (1, 8), (20, 1), (30, 40))),
    otherwise="A text goes on until num_new tokens are written, whatever they are.",
)


@task_3_9.accepts
def token_by_token_with_one_read(read, new_caches, prompt, num_new):
    """What is read next is the prompt at first, and later the newest token."""
    caches, position, unread, text = new_caches(prompt.numel() + num_new), 0, prompt, []
    while len(text) < num_new:
        logits = read(unread, position, caches)
        position += unread.numel()
        unread = logits[-1:].softmax(-1).argmax(-1)
        text += unread.tolist()
    return torch.tensor(text)


@task_3_9.accepts
def reads_the_last_one_too(read, new_caches, prompt, num_new):
    caches = new_caches(len(prompt) + num_new)
    out = torch.zeros(num_new, dtype=torch.int64)
    logits = read(prompt, 0, caches)
    for n in range(num_new):
        out[n] = torch.topk(logits[-1], 1).indices[0]
        logits = read(out[n : n + 1], len(prompt) + n, caches)
    return out
