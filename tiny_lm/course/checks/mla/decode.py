"""Task 3.9: write a text token by token, each of which is read once.

Chapter: 03_mla/memory_of_the_context
Source: course
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm.course.checks.case import Case
from tiny_lm.course.checks.mla.reader import RULE, NewCaches, Read, room_in
from tiny_lm.course.checks.task import Task


def decode(
    read: Callable[[Int[Tensor, " n"], int, Any], Float[Tensor, "n V"]],
    new_caches: Callable[[int], Any],
    prompt: Int[Tensor, " T"],
    num_new: int,
) -> Int[Tensor, " num_new"]:
    """The likeliest continuation of a prompt, token by token."""
    caches = new_caches(len(prompt) + num_new)
    logits = read(prompt, 0, caches)
    written = []
    for n in range(num_new):
        token = logits[-1].argmax()
        written.append(token)
        if n < num_new - 1:
            start = len(prompt) + n
            logits = read(token.unsqueeze(0), start, caches)
    return torch.stack(written)


READS, ROOM, WRITTEN = "positions that were read:", "room in the caches:", "tokens:"


def _view(result: Tensor, read: Read, new_caches: NewCaches, prompt: Tensor, n: int):
    """What was written, and what was read for it."""
    calls = read.calls(last=len(prompt) + n - 1)
    return {READS: calls, ROOM: room_in(new_caches.made), WRITTEN: result}


ROW = (
    "read takes a row of tokens, of shape (n,), even for one: token.unsqueeze(0), or "
    "token.view(1)."
)

task_3_9 = Task(
    id="3.9",
    lab="03_mla",
    title="Write a text",
    name="decode",
    piece="mla.decode",
    difficulty=2,
    minutes=25,
    points=4,
    reference=decode,
    returns=("tokens",),
    view=_view,
    errors={
        "read takes a row": ROW,
        "read takes the caches": "These are not caches of this model: "
        "new_caches(room) makes them, and read takes the whole list.",
        "expects a non-empty TensorList": "Nothing was written.",
        "zero-dimensional tensor": "torch.cat joins rows, torch.stack single numbers.",
    },
    hints=(
        """
        The prompt is read once, and the logits of its last token say what comes first.
        After that, what is the only token that the model does not remember yet?
        """,
        """
        Before the loop: caches with room for prompt and new tokens, and the prompt read
        into them from position 0 on. In the loop: take the likeliest token after the
        last that was read, note it, and read it alone, at the next free position, into
        the same caches.
        """,
        """
        caches = new_caches(len(prompt) + num_new); logits = read(prompt, 0, caches).
        Then, for n from 0 on: token = logits[-1].argmax(), and
        logits = read(token.view(1), len(prompt) + n, caches).
        torch.stack(tokens) makes one tensor of the list.
        """,
    ),
)


def of(prompt: list[int], num_new: int, note: str = "") -> Case:
    note = f"{RULE}{note}"
    return Case(lambda g: (Read(), NewCaches(), torch.tensor(prompt), num_new), note)


ALL_OF_IT = (
    "read(token.unsqueeze(0), start, caches) => "
    "read(torch.cat([prompt, torch.stack(written)]), 0, "
)
SHORT, PAIR = [3, 1, 4], [2, 9]

task_3_9.asks(
    "num_new tokens come back, without the prompt",
    of(SHORT, 4),
    only=(),
    mistakes={
        "return torch.stack(written) => "
        "return torch.cat([prompt, torch.stack(written)])": "The prompt stands in "
        "front of the result. Return the new tokens alone.",
        "range(num_new): => range(num_new - 1):": "One token too few: the first new "
        "one comes from the logits of the prompt.",
        "range(num_new): => range(num_new + 1): ;; n < num_new - 1 => n < num_new": (
            "One token too many."
        ),
        "written.append(token) => written = [token]": "Only the last token came back. "
        "All of them were wanted.",
        "range(num_new): => range(num_new - len(prompt)):": "num_new counts the new "
        "tokens, not those of the whole text.",
    },
)

AGAIN = (
    "The whole text was read again for each token. The caches hold what was read: only "
    "the newest token is new to them."
)
LATE = (
    "A token was read one position too far. The prompt fills 0 to T - 1, so the first "
    "new one stands at T."
)
EARLY = (
    "A token was read one position too low, where the last one stands already. The "
    "prompt fills 0 to T - 1, so the first new one stands at T."
)

task_3_9.asks(
    "the prompt is read in one call, then each new token alone, at its place",
    of(SHORT, 4),
    only=(READS,),
    otherwise="The caches remember what was read. After the prompt, which single token "
    "do they lack, and at which position does it stand?",
    mistakes={
        f"{ALL_OF_IT}caches)": "The cache holds the text already, and it was read into "
        "it once more. Only the newest token is new to it.",
        "read(token.unsqueeze(0), start, caches) => "
        "read(torch.stack(written), len(prompt), caches)": "All new tokens were read "
        "again for each token. The caches have them already, but for the newest.",
        f"{ALL_OF_IT}new_caches(len(prompt) + num_new))": AGAIN,
        "start = len(prompt) + n => start = len(prompt) + n + 1": LATE,
        "start = len(prompt) + n => start = len(prompt) + n - 1": EARLY,
        "start = len(prompt) + n => start = n": "The positions of the new tokens began "
        "at 0. They stand behind the prompt.",
        "start = len(prompt) + n => start = n + 1": "The positions of the new tokens "
        "count the calls. They stand behind the prompt, which took T positions.",
        "start = len(prompt) + n => start = 0": "Every new token was read at position "
        "0. They stand behind the prompt, one after another.",
        "start = len(prompt) + n => start = len(prompt)": "All new tokens were read at "
        "the position of the first.",
        "read(prompt, 0, caches) => read(prompt, 1, caches)": "The prompt begins at "
        "position 0.",
        "read(prompt, 0, caches) => "
        "[read(one.view(1), n, caches) for n, one in enumerate(prompt)][-1]": "The "
        "prompt was read token by token. At once it takes one call, in which the "
        "weights are read once instead of T times.",
        "read(prompt, 0, caches) => read(prompt[-1:], len(prompt) - 1, caches)": "Only "
        "the last token of the prompt was read. The model has seen none of the others.",
        "logits = read(prompt, 0, caches) => read(prompt, 0, caches)\n"
        "    logits = read(prompt[-1:], len(prompt) - 1, caches)": "The last token of "
        "the prompt was read twice. Its logits came with those of the prompt.",
        "logits = read(prompt, 0, caches) => read(prompt, 0, caches)\n"
        "    logits = read(prompt, 0, caches)": "The prompt was read twice.",
        "logits = read(prompt, 0, caches) => "
        "read(prompt[:-1], 0, caches)\n"
        "    logits = read(prompt[-1:], len(prompt) - 1, caches)": "The last token of "
        "the prompt was read by itself. One call reads the whole prompt, and gives "
        "logits for each of its tokens.",
        "logits = read(token.unsqueeze(0), start, caches) => pass": "Nothing was read "
        "after the prompt, so that every token comes from the same logits.",
    },
)

OWN_CACHE = (
    "The new tokens went into caches of their own, which know nothing of the prompt. "
    "One set of caches serves the whole text."
)

task_3_9.asks(
    "each is the likeliest after all that was read before it",
    of(SHORT, 4, ":\nafter 3, 1, 4 it is 4 + 2·2 + 3·5 = 23, so 1 comes first"),
    of(PAIR, 3),
    only=(WRITTEN,),
    otherwise="The next token is the likeliest by the logits of the last token that "
    "was read, and that token is read next.",
    mistakes={
        "logits[-1].argmax() => logits[0].argmax()": "The first row of logits was "
        "used: what follows the first token of the prompt. The last row says what "
        "follows all of it.",
        "logits[-1].argmax() => logits.argmax()": "This is the largest entry of all "
        "rows, by its number in the whole table. Take the last row first.",
        "logits[-1].argmax() => logits[-1].argmin()": "This is the least likely token.",
        "logits[-1].argmax() => logits[-1].topk(2).indices[1]": "This is the second "
        "best token.",
        "logits[-1].argmax() => "
        "torch.multinomial(logits[-1].softmax(-1), 1).squeeze(0)": "The token was "
        "drawn. Greedy decoding takes the likeliest.",
        "start, caches) => start, new_caches(len(prompt) + num_new))": OWN_CACHE,
        "read(token.unsqueeze(0), => read(prompt[-1:],": "The last token of the prompt "
        "was read again and again. The newest token is to be read.",
        "logits = read(token.unsqueeze(0), start, caches) => "
        "read(token.unsqueeze(0), start, caches)": "The new logits were thrown away, "
        "so that every token comes from those of the prompt.",
    },
)
