"""What each expert reads: the lexical class of the bytes it is chosen for.

Chapter: 02_moe/conditional_computation
Source: course

Python's own tokenizer says what each byte of a file is. Then the trained model reads
the files, and every choice of an expert counts for the class of the byte it read.
"""

import io
import keyword
import tokenize
from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from tiny_lm.data import Document
from tiny_lm.model import LanguageModel

CLASSES = (
    "indentation",
    "identifiers",
    "keywords",
    "digits",
    "strings",
    "comments",
    "operators",
    "other",
)
NUMBER = {name: number for number, name in enumerate(CLASSES)}
KINDS = {
    tokenize.NUMBER: "digits",
    tokenize.STRING: "strings",
    tokenize.COMMENT: "comments",
    tokenize.OP: "operators",
}
Place = tuple[int, int]  # line, from 1; characters before it on that line


def lexical_classes(text: bytes) -> Int[Tensor, " N"]:
    """The class of each byte, as its place in `CLASSES`.

    Spaces inside a line and line feeds are `other`. A formatted string is one string,
    with all that stands in its braces: so it is in every version of Python.

    Raises:
        ValueError: not a Python file.
    """
    classes = torch.full((len(text),), NUMBER["other"])
    lines = text.decode().split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()) + 1)

    def offset(place: Place) -> int:
        row, column = place
        if row > len(lines):
            return len(text)
        return starts[row - 1] + len(lines[row - 1][:column].encode())

    try:
        for kind, begin, end in _pieces(text.decode()):
            classes[offset(begin) : offset(end)] = NUMBER[kind]
    except (tokenize.TokenError, SyntaxError) as error:
        raise ValueError(f"not a Python file: {error}") from error
    for start, line in zip(starts, lines, strict=False):
        width = len(line) - len(line.lstrip(" \t"))
        margin = classes[start : start + width]
        margin[margin == NUMBER["other"]] = NUMBER["indentation"]
    return classes


def _pieces(text: str) -> Iterator[tuple[str, Place, Place]]:
    """Every token that has a class, with where it begins and ends."""
    depth, opened = 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        name = tokenize.tok_name[token.type]
        if name in ("FSTRING_START", "TSTRING_START"):
            opened = opened if depth else token.start
            depth += 1
        elif name in ("FSTRING_END", "TSTRING_END"):
            depth -= 1
            if not depth:
                yield "strings", opened, token.end
        elif token.type == tokenize.NAME and not depth:
            known = keyword.iskeyword(token.string)
            yield ("keywords" if known else "identifiers"), token.start, token.end
        elif token.type in KINDS and not depth:
            yield KINDS[token.type], token.start, token.end


def windows(
    documents: list[Document], seq_len: int, max_bytes: int
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Whole windows of Python files, and the class of each of their bytes.

    Raises:
        ValueError: no file holds a whole window.
    """
    tokens, classes, room = [], [], max_bytes
    for document in documents:
        try:
            of_bytes = lexical_classes(document.text)
        except ValueError:
            continue  # libraries carry templates and old syntax too
        count = min(len(of_bytes), room) // seq_len
        raw = torch.tensor(list(document.text[: count * seq_len]), dtype=torch.int64)
        tokens.append(raw.view(count, seq_len))
        classes.append(of_bytes[: count * seq_len].view(count, seq_len))
        room -= count * seq_len
    if room == max_bytes:
        raise ValueError(f"no Python file holds {seq_len} bytes")
    return torch.cat(tokens), torch.cat(classes)


@torch.no_grad()
def choices_by_class(
    model: LanguageModel,
    tokens: Int[Tensor, "B T"],
    classes: Int[Tensor, "B T"],
    batch_size: int = 64,
) -> Int[Tensor, "layers E C"]:
    """How often each expert of each MoE layer was chosen for bytes of each class.

    Args:
        batch_size: sequences that are read at once.
    """
    model.eval()
    routers = model.routers
    chosen: list[Tensor] = []
    hooks = [
        router.register_forward_hook(lambda module, args, out: chosen.append(out[1]))
        for router in routers
    ]
    num_experts, num_classes = model.config.moe.num_experts, len(CLASSES)
    counts = torch.zeros(len(routers), num_experts * num_classes, dtype=torch.int64)
    device = model.head.weight.device
    for some, kinds in zip(
        tokens.split(batch_size), classes.split(batch_size), strict=True
    ):
        chosen.clear()
        model(some.to(device))
        for layer, experts in enumerate(chosen):
            pairs = experts.cpu() * num_classes + kinds.unsqueeze(-1)
            counts[layer] += pairs.flatten().bincount(minlength=counts.shape[1])
    for hook in hooks:
        hook.remove()
    return counts.view(len(routers), num_experts, num_classes)
