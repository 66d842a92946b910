"""Task 1.2: random windows of a text, and the byte that follows each of their bytes.

Chapter: 01_baseline/probability_machine
Source: course
"""

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from tiny_lm.course.checks.before.answer import Answer
from tiny_lm.course.checks.before.expect import Mismatch, close, expect, show
from tiny_lm.course.checks.before.task import Task
from tiny_lm.data import Batches

Pair = tuple[Tensor, Tensor]


def next_byte_batch(
    tokens: UInt8[Tensor, " N"],
    batch_size: int,
    seq_len: int,
    generator: torch.Generator,
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Windows of the text, and the byte after each of their bytes."""
    seed = int(torch.randint(2**31, (), generator=generator))
    both = Batches(tokens, batch_size, seq_len, seed).at(step=0)
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
    errors=(("equal size", TOO_FAR), ("out of bounds", TOO_FAR)),
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


def _pair(answer: Answer, *arguments: object) -> Pair:
    """The two tensors, or a message about what came in their place."""
    got = answer(*arguments)
    if isinstance(got, tuple | list) and len(got) == 2:
        if all(isinstance(one, Tensor) for one in got):
            return tuple(got)
    raise Mismatch(
        on="any tokens", wanted="two tensors: inputs, targets", got=show(got)
    )


def _counting(length: int) -> Tensor:
    """Tokens whose value is their position, so that a window tells where it lay."""
    return torch.arange(length, dtype=torch.uint8)


@task_1_2.property("inputs and targets have the shape (batch_size, seq_len)")
def shapes(answer: Answer) -> None:
    inputs, targets = _pair(answer, _counting(50), 2, 5, answer.generator)
    got = (tuple(inputs.shape), tuple(targets.shape))
    known = {
        ((2, 6), (2, 6)): "A run of T + 1 bytes holds the window and its targets: "
        "each of the two leaves one byte out.",
        ((2, 4), (2, 4)): "One byte is missing: T inputs and T targets need a run of "
        "T + 1 bytes.",
        ((5, 2), (5, 2)): "Rows are sequences, columns are positions.",
        ((2, 5), (2,)): "Every position has a target, not the last alone: a window of "
        "T bytes asks T questions.",
        ((2, 5), (2, 1)): "Every position has a target, not the last alone: a window "
        "of T bytes asks T questions.",
    }
    if got != ((2, 5), (2, 5)):
        raise Mismatch(
            on="50 tokens, batch_size 2, seq_len 5",
            wanted="shapes (2, 5) and (2, 5)",
            got=f"shapes {got[0]} and {got[1]}",
            because=known.get(got, ""),
        )


@task_1_2.property("the target of each byte is the byte that follows it")
def next_byte(answer: Answer) -> None:
    tokens = _counting(60)
    inputs, targets = (x.long() for x in _pair(answer, tokens, 4, 5, answer.generator))
    if inputs.diff(dim=1).ne(1).any():
        raise Mismatch(
            on="tokens = [0, 1, 2, …, 59], seq_len 5",
            wanted="rows of neighbours, such as [7, 8, 9, 10, 11]",
            got=f"inputs {show(inputs)}",
            because="A window is one piece of the text: its bytes are neighbours.",
        )
    for row, after in zip(inputs, targets, strict=True):
        expect(
            after,
            row + 1,
            on=f"tokens = [0, 1, 2, …, 59], seq_len 5; inputs {show(row)}, …",
            known=[
                (row, ITSELF),
                (row - 1, "These are the bytes before. Shift the other way."),
                (row + 2, "This is the byte after the next one."),
                (row.roll(-1), TURNED),
            ],
        )


ITSELF = (
    "Each byte is asked to predict itself: a model learns that in no time, and has "
    "learned nothing."
)
TURNED = (
    "The row was turned round: its last target is its own first byte. One more byte of "
    "the text is needed."
)


@task_1_2.property("every start is drawn, the first and the last included")
def every_start(answer: Answer) -> None:
    length, seq_len = 12, 4
    on = f"{length} tokens, seq_len {seq_len}, 400 windows"
    possible = set(range(length - seq_len))
    drawn: set[int] = set()
    tokens = _counting(length)
    for _ in range(20):
        inputs, targets = _pair(answer, tokens, 20, seq_len, answer.generator)
        if not close(targets, inputs.long() + 1):
            raise Mismatch(
                on=on,
                wanted=f"windows that end at byte {length - 1} at the latest",
                got=f"a window that runs past the end: targets {show(targets)}",
                because="The largest start leaves room for T + 1 bytes.",
            )
        drawn |= set(inputs[:, 0].tolist())
    if drawn != possible:
        raise Mismatch(
            on=on,
            wanted=f"starts {sorted(possible)}",
            got=f"starts {sorted(drawn)}",
            because=_why_starts(drawn, length, seq_len),
        )


def _why_starts(drawn: set[int], length: int, seq_len: int) -> str:
    if len(drawn) == 1:
        return "Every window starts at the same byte."
    if drawn == set(range(length - seq_len - 1)):
        return (
            "The last start is never drawn, so the last byte is never a target. The "
            "upper end of torch.randint is exclusive."
        )
    if drawn <= set(range(0, length, seq_len)):
        return (
            "The text is cut at fixed places, so a model never sees what crosses a "
            "cut. Let a window start anywhere."
        )
    return ""


@task_1_2.property("the generator decides: same seed, same batch; next call, another")
def generator_decides(answer: Answer) -> None:
    def draw(generator: torch.Generator) -> Tensor:
        return _pair(answer, _counting(200), 8, 4, generator)[0]

    first, again = (draw(torch.Generator().manual_seed(7)) for _ in range(2))
    if not close(first, again):
        raise Mismatch(
            on="two generators with the same seed",
            wanted="the same windows",
            got=f"{show(first[:, 0])} and {show(again[:, 0])} as starts",
            because="Hand `generator=generator` to the call that draws, or a run can "
            "never be repeated.",
        )
    generator = torch.Generator().manual_seed(7)
    if close(draw(generator), draw(generator)):
        raise Mismatch(
            on="two calls with one generator",
            wanted="other windows the second time",
            got="the same",
            because="Use the generator as it comes. To seed it again, or to make a new "
            "one, brings the same batch at every step.",
        )


@task_1_2.property("both are int64, the type that an embedding looks up")
def int64(answer: Answer) -> None:
    pair = _pair(answer, _counting(50), 2, 5, answer.generator)
    got = [str(one.dtype).removeprefix("torch.") for one in pair]
    if got != ["int64", "int64"]:
        raise Mismatch(
            on="tokens of dtype uint8",
            wanted="int64 and int64",
            got=" and ".join(got),
            because="The text is stored as uint8, a byte each, but torch reads a uint8 "
            "index as a mask in some places and refuses it in others.",
        )
