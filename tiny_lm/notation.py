"""The letters that name tensor axes, in signatures, in einsums and in the book.

Chapter: appendix/notation

One letter has one meaning in the whole course.
A signature `Float[Tensor, "N E"]` reads: one row per token, one column per expert.
"""

AXES: dict[str, str] = {
    "B": "sequences in a batch",
    "T": "positions of a sequence that ask (queries)",
    "T1": "T + 1: a sequence and the byte after it, its last target",
    "S": "positions of a sequence that are looked at (keys)",
    "N": "tokens: the sequences of a batch laid end to end, N = B T",
    "D": "width of the residual stream",
    "V": "vocabulary: 256 byte values in the tiny models",
    "H": "attention heads",
    "G": "key-value heads shared by groups of query heads",
    "E": "routed experts, over all ranks",
    "k": "experts chosen by one token",
    "R": "rows: one per (token, chosen expert) pair, sorted by expert",
    "P": "rows of zeros that fill an expert's last tile",
    "W": "width of a row as it travels, packed for the wire",
    "F": "inner width of a feed-forward layer or of one expert",
    "F2": "2 F: the gate and the up projection side by side",
    "M": "output width of a linear layer",
    "K": "input width of a linear layer: the dim that is summed over",
    "latent": "width of a compressed latent vector",
    "latent_rope": "latent and rope side by side, as the cache keeps them",
    "nope": "head width without position",
    "rope": "head width that carries the rotary position",
    "qk": "head width of queries and keys: nope + rope",
    "v": "head width of values",
    "tiles": "tiles along one row, each with a scale of its own",
}
