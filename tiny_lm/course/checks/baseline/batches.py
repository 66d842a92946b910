"""Task 1.2: random windows of a text, and the byte that follows each of their bytes.

Chapter: 01_baseline/probability_machine
Source: course
"""

import torch
from jaxtyping import Int, UInt8
from torch import Generator, Tensor

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.case import drawn, probe
from tiny_lm.course.checks.expect import show
from tiny_lm.course.checks.task import Task


def next_byte_batch(
    tokens: UInt8[Tensor, " N"],
    batch_size: int,
    seq_len: int,
    generator: torch.Generator,
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Windows of the text, and the byte after each of their bytes."""
    num_starts = len(tokens) - seq_len
    starts = torch.randint(num_starts, (batch_size,), generator=generator)
    at = starts[:, None] + torch.arange(seq_len + 1)
    both = tokens[at].long()
    return both[:, :-1], both[:, 1:]


TOO_FAR = (
    "A window ran past the end of the text. The largest start leaves room for T + 1 "
    "bytes; the upper end of torch.randint is exclusive."
)

task_1_2 = Task(
    id="1.2",
    lab="01_baseline",
    title="Batches of next-byte targets",
    name="next_byte_batch",
    piece="baseline.next_byte_batch",
    difficulty=1,
    minutes=10,
    points=3,
    reference=next_byte_batch,
    returns=("inputs", "targets"),
    errors={"equal size": TOO_FAR, "out of bounds": TOO_FAR},
    hints=(
        """
        A window of T inputs and T targets is one run of T + 1 bytes, read twice.
        """,
        """
        Draw batch_size starts. For each, cut tokens[start : start + seq_len + 1];
        stack the runs to "B T+1"; all but the last column are inputs, all but the
        first are targets. How large may a start be, so that the run still fits?
        """,
        """
        starts = torch.randint(len(tokens) - seq_len, (batch_size,),
                               generator=generator)
        randint's upper end is exclusive: the largest start is N - T - 1, and its run
        ends with the last byte. One index does all rows:
        tokens[starts[:, None] + torch.arange(seq_len + 1)], then .long().
        """,
    ),
)


def _counting(length: int) -> Tensor:
    """Tokens whose value is their position, so that a window tells where it lay."""
    return torch.arange(length, dtype=torch.uint8)


QUESTIONS = (
    "Every position has a target, not the last alone: a window of T bytes asks T "
    "questions."
)

task_1_2.asks(
    "inputs and targets are int64, of shape (batch_size, seq_len)",
    drawn(lambda generator: (_counting(50), 2, 5, generator)),
    only=(),
    mistakes={
        "both[:, 1:] => both[:, -1]": QUESTIONS,
        "both[:, 1:] => both[:, -1:]": QUESTIONS,
        "seq_len + 1 => seq_len": "One byte is missing: T inputs and T targets need a "
        "run of T + 1 bytes.",
        "both[:, :-1], both[:, 1:] => both": "This is the whole run. Wanted are two "
        "tensors: all but its last byte, and all but its first.",
        "both[:, :-1], both[:, 1:] => both, both": "A run of T + 1 bytes holds the "
        "window and its targets: each of the two leaves one byte out.",
        "both[:, :-1], both[:, 1:] => both[:, :-1].T, both[:, 1:].T": "Rows are "
        "sequences, columns are positions.",
        ".long() => ": "The text is stored as uint8, a byte each, but torch reads a "
        "uint8 index as a mask in some places and refuses it in others.",
        "(batch_size,) => (1,)": "One window was drawn. Draw batch_size of them.",
    },
)


@probe("a text of 60 bytes, each of another value; batch_size 4, seq_len 5")
def windows(answer: Answer, generator: Generator) -> dict[str, str]:
    text = (37 * torch.arange(60) % 60).to(torch.uint8)
    inputs, targets = (13 * x % 60 for x in answer(text, 4, 5, generator))
    gaps, steps = (targets - inputs).unique(), inputs.diff(dim=1).unique()
    return {
        "from one byte of a window to the next, in the text:": _few(steps),
        "from an input to its target:": _few(gaps),
    }


def _few(distances: Tensor) -> str:
    return show(distances.tolist()) if len(distances) < 4 else "any distance"


task_1_2.asks(
    "the target of each byte is the byte that follows it",
    windows,
    otherwise="Inputs are T neighbours, in the order of the text, and targets the same "
    "window one byte further on.",
    mistakes={
        "both[:, 1:] => both[:, :-1]": "Each byte is asked to predict itself: a model "
        "learns that in no time, and has learned nothing.",
        "both[:, :-1], both[:, 1:] => both[:, 1:], both[:, :-1]": "These are the bytes "
        "before. Shift the other way.",
        "seq_len + 1 => seq_len + 2 ;; both[:, :-1], both[:, 1:] => "
        "both[:, :-2], both[:, 2:] ;; - seq_len => - seq_len - 1": "This is the byte "
        "after the next one.",
        "both[:, 1:] => both[:, :-1].roll(-1, dims=1)": "The row was turned round: its "
        "last target is its own first byte. One more byte of the text is needed.",
        "at = starts[:, None] + torch.arange(seq_len + 1) => at = torch.randint("
        "len(tokens) - 1, (batch_size, seq_len), generator=generator) ;; "
        "both[:, :-1], both[:, 1:] => both, tokens[at + 1].long()": "A window is one "
        "piece of the text: its bytes are neighbours.",
        "len(tokens) - seq_len => len(tokens)": TOO_FAR,
        "torch.arange(seq_len + 1) => torch.arange(seq_len, -1, -1)": "The windows run "
        "backwards. They keep the order of the text.",
        "tokens[at] => at": "These are places in the text. Wanted are the bytes that "
        "stand there: tokens[…].",
    },
)

LENGTH, SEQ_LEN = 12, 4


@probe(f"tokens = [0, 1, 2, …, {LENGTH - 1}], seq_len {SEQ_LEN}, 4 batches of 500")
def starts_drawn(answer: Answer, generator: Generator) -> dict[str, str]:
    batches = [answer(_counting(LENGTH), 500, SEQ_LEN, generator) for _ in range(4)]
    starts = torch.cat([inputs[:, 0] for inputs, _ in batches])
    count, one = torch.bincount(starts), batches[0][0][:, 0]
    found = count.nonzero().flatten()
    steps = one.diff() % (LENGTH - SEQ_LEN)
    return {
        "windows in a batch:": str(len(one)),
        "starts:": show(found.tolist()),
        "starts in one batch:": show(one.unique().tolist()),
        "windows of a batch lie at equal steps:": str(bool((steps == steps[0]).all())),
        "each start comes about as often:": str(bool(count.max() < 2 * count.min())),
    }


EXCLUSIVE = (
    "The last start is never drawn, so the last byte is never a target. The upper end "
    "of torch.randint is exclusive."
)

task_1_2.asks(
    "every start is drawn, the first and the last included",
    starts_drawn,
    drawn(lambda g: (torch.tensor([7, 3, 200, 9], dtype=torch.uint8), 1, 3, g)),
    otherwise="Draw each start for itself, from 0 up to N - T - 1: each of them as "
    "likely as the others, and as often as chance wants.",
    mistakes={
        "- seq_len => - seq_len - 1": EXCLUSIVE,
        "- seq_len => - seq_len + 1": TOO_FAR,
        "torch.randint(num_starts, => 1 + torch.randint(num_starts - 1,": "The first "
        "start is never drawn: starts are counted from 0.",
        "(num_starts, (batch_size,), generator=generator) => ((len(tokens) - 1) // "
        "seq_len, (batch_size,), generator=generator) * seq_len": "The text is cut at "
        "fixed places, so a model never sees what crosses a cut. Let a window start "
        "anywhere.",
        "torch.randint(num_starts, (batch_size,), generator=generator) => "
        "torch.zeros(batch_size, dtype=torch.long)": "Every window starts at the first "
        "byte. Draw the starts.",
        "torch.randint(num_starts, (batch_size,), generator=generator) => "
        "torch.randint(num_starts, (1,), generator=generator).expand(batch_size)": (
            "One window was drawn, and repeated for the whole batch. Each row has its "
            "own."
        ),
        "torch.randint(num_starts, (batch_size,), generator=generator) => (torch."
        "randint(num_starts, (1,), generator=generator) + torch.arange(batch_size)) "
        "% num_starts": "One start was drawn, and the other windows follow it. Draw "
        "each for itself.",
        "generator=generator) => generator=generator).clamp(max=num_starts - 2)": (
            EXCLUSIVE
        ),
        "(num_starts, (batch_size,), generator=generator) => (len(tokens), "
        "(batch_size,), generator=generator).clamp(max=num_starts - 1)": "Starts that "
        "were too large were all moved to the last: it comes far too often. Draw only "
        "among those that fit.",
    },
)


@probe("200 tokens, batch_size 8, seq_len 4, generators with seed 7")
def two_calls(answer: Answer, generator: Generator) -> dict[str, str]:
    def draw(source: Generator) -> Tensor:
        return answer(_counting(200), 8, 4, source)[0]

    one, again = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    first = draw(one)
    return {
        "two generators, the same windows:": str(bool(torch.equal(first, draw(again)))),
        "the same generator again, the same windows:": str(
            bool(torch.equal(first, draw(one)))
        ),
    }


AS_IT_COMES = (
    "Use the generator as it comes. To seed it again, or to make a new one, brings the "
    "same batch at every step."
)

task_1_2.asks(
    "the generator decides: same seed, same batch; next call, another",
    two_calls,
    mistakes={
        ", generator=generator => ": "Hand `generator=generator` to the call that "
        "draws, or a run can never be repeated.",
        "=generator => =torch.Generator().manual_seed(0)": AS_IT_COMES,
        "generator=generator => generator=generator.manual_seed(0)": AS_IT_COMES,
    },
)


@task_1_2.accepts
def loop(text, rows, length, source):
    first, second = [], []
    for _ in range(rows):
        start = int(torch.randint(0, len(text) - length, (1,), generator=source))
        first.append(text[start : start + length])
        second.append(text[start + 1 : start + length + 1])
    return torch.stack(first).to(torch.int64), torch.stack(second).to(torch.int64)


@task_1_2.accepts
def by_real_numbers(tokens, batch_size, seq_len, generator):
    windows = tokens.to(torch.int64).unfold(0, seq_len + 1, 1)
    share = torch.rand(batch_size, generator=generator, dtype=torch.float64)
    chosen = windows[(share * len(windows)).long()]
    return [chosen[:, :seq_len], chosen[:, 1:].contiguous()]
